//! The shape of a topic's name. Matching goes over the text as it stands and allocates nothing.

use std::collections::BTreeSet;

use crate::{
    text::{TextError, text},
    topic::Topic,
};

text! {
    /// The shape of a topic's name: segments between `:`, in at most 255 bytes.
    ///
    /// A segment is a literal of `A-Z a-z 0-9 . _ - /`; or `*`, any one segment; or `{name}`, any text under a name of
    /// `[a-z0-9_]{1,64}`, once in a segment and perhaps with literal text around it, as in `runtime.{kind}_summaries`; or,
    /// as the last, `**`, one segment or more. `**` alone is every topic. `org:{org}:**` does not match `org:acme`, which
    /// has nothing after the organisation.
    ///
    /// ```
    /// # use khala_core::{Topic, class::TopicPattern};
    /// let pattern = TopicPattern::parse("org:{org}:**")?;
    /// let topic = Topic::parse("org:acme:workers:7")?;
    /// assert!(pattern.bind(&topic).is_some_and(|bound| bound.eq([("org", "acme")])));
    /// assert!(!pattern.matches(&Topic::parse("org:acme")?));
    /// # Ok::<(), khala_core::TextError>(())
    /// ```
    TopicPattern, "pattern", check
}

const MAX_PATTERN_BYTES: usize = 255;

pub(super) const MAX_NAME_BYTES: usize = 64;

fn check(field: &'static str, text: &str) -> Result<(), TextError> {
    let fault = |fault: String| Err(TextError::new(field, fault));
    if text.is_empty() {
        return fault("is empty".into());
    }
    if text.len() > MAX_PATTERN_BYTES {
        return fault(format!("is {} bytes long; at most {MAX_PATTERN_BYTES} are allowed", text.len()));
    }
    let mut names = BTreeSet::new();
    let mut ended = false;
    for (place, segment) in (1..).zip(text.split(':')) {
        if ended {
            return fault("may hold '**' as its last segment only".into());
        }
        match Segment::of(segment) {
            Segment::Any => {}
            Segment::Literal("") => return fault(format!("has nothing in segment {place}")),
            Segment::Literal(literal) => check_literal(field, place, literal)?,
            Segment::Named { before, name, after } => {
                check_literal(field, place, before)?;
                check_literal(field, place, after)?;
                if !is_name(name) {
                    return fault(format!(
                        "has a placeholder in segment {place} that is not 1 to {MAX_NAME_BYTES} of a-z 0-9 _"
                    ));
                }
                if !names.insert(name) {
                    return fault(format!("has the placeholder {{{name}}} twice"));
                }
            }
            Segment::Rest => ended = true,
        }
    }
    Ok(())
}

fn check_literal(field: &'static str, place: usize, literal: &str) -> Result<(), TextError> {
    if literal.contains(['*', '{', '}']) {
        let fault =
            format!("has a '*' or a brace with other text in segment {place}; one {{name}} may be there");
        return Err(TextError::new(field, fault));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if !literal.bytes().all(allowed) {
        return Err(TextError::new(field, format!("may hold A-Z a-z 0-9 . _ - / only in segment {place}")));
    }
    Ok(())
}

/// The rule for the names of classes, placeholders and bound claims.
pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// One segment of a pattern.
#[derive(Clone, Copy)]
enum Segment<'a> {
    Any,
    Literal(&'a str),
    /// A placeholder, and the literal text around it.
    Named {
        before: &'a str,
        name: &'a str,
        after: &'a str,
    },
    Rest,
}

impl<'a> Segment<'a> {
    fn of(text: &'a str) -> Self {
        match text {
            "*" => Self::Any,
            "**" => Self::Rest,
            _ => {
                match text.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
                    Some((before, (name, after))) => Self::Named { before, name, after },
                    None => Self::Literal(text),
                }
            }
        }
    }

    /// Whether this segment, if it is not `**`, matches the segment `text` of a topic.
    fn matches(self, text: &str) -> bool {
        match self {
            Self::Any | Self::Rest => true,
            Self::Literal(literal) => literal == text,
            Self::Named { before, after, .. } => between(text, before, after).is_some(),
        }
    }

    /// Whether every text that `other` matches is matched by this segment too. Neither is `**`.
    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Literal(text)) => self.matches(text),
            (Self::Any, _) | (Self::Named { before: "", after: "", .. }, _) => true,
            (Self::Named { before, after, .. }, Self::Named { before: others, after: theirs, .. }) => {
                others.starts_with(before) && theirs.ends_with(after)
            }
            (Self::Literal(_) | Self::Named { .. } | Self::Rest, _) => false,
        }
    }
}

/// What is in `text` between the two, if it begins and ends with them.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

impl TopicPattern {
    /// Whether `topic` is of this shape.
    ///
    /// A topic may have an empty segment inside (`run::events`), which `*` and `{name}` match as any other.
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut found = topic.as_str().split(':');
        for segment in self.segments() {
            match (segment, found.next()) {
                (_, None) => return false,
                (Segment::Rest, Some(_)) => return true,
                (segment, Some(text)) if segment.matches(text) => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }

    /// If `topic` is of this shape, its placeholders in order, each with the text that it matches.
    pub fn bind<'a>(&'a self, topic: &'a Topic) -> Option<impl Iterator<Item = (&'a str, &'a str)>> {
        let bound = |(segment, text)| match segment {
            Segment::Named { before, name, after } => Some((name, between(text, before, after)?)),
            Segment::Any | Segment::Literal(_) | Segment::Rest => None,
        };
        self.matches(topic).then(|| self.segments().zip(topic.as_str().split(':')).filter_map(bound))
    }

    /// The names of its placeholders, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(|segment| match segment {
            Segment::Named { name, .. } => Some(name),
            Segment::Any | Segment::Literal(_) | Segment::Rest => None,
        })
    }

    fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.as_str().split(':').map(Segment::of)
    }

    /// Whether every topic of the other's shape is of this shape too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let mut others = other.segments();
        for segment in self.segments() {
            match (segment, others.next()) {
                (Segment::Rest, Some(_)) => return true,
                (_, Some(Segment::Rest) | None) => return false,
                (segment, Some(other)) if segment.covers(other) => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).unwrap()
    }

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    #[test]
    fn what_is_a_pattern() {
        let long = "x".repeat(255);
        let name = format!("{{{}}}", "n".repeat(64));
        for good in [
            "**",
            "*",
            "a",
            "a:*:b",
            "{a}:{b}",
            "a/b.c:_-",
            "*:**",
            "{org}:**",
            "x{a}",
            "{a}x:y.{b}_z",
            &long,
            &name,
        ] {
            assert_eq!(pattern(good).to_string(), good);
            assert_eq!(format!("{:?}", pattern(good)), format!("{good:?}"));
        }
        for (bad, fault) in [
            ("", "is empty"),
            (":a", "nothing in segment 1"),
            ("a::b", "nothing in segment 2"),
            ("a:", "nothing in segment 2"),
            ("**:a", "last segment only"),
            ("a:**:**", "last segment only"),
            ("a*", "brace"),
            ("***", "brace"),
            ("a:{b", "brace"),
            ("a}:b", "brace"),
            ("x{A}", "placeholder in segment 1"),
            ("x{a}*", "brace"),
            ("ä{a}", "only in segment 1"),
            ("{}", "placeholder in segment 1"),
            ("a:{A}", "placeholder in segment 2"),
            ("{a}{b}", "brace"),
            ("{{a}}", "brace"),
            ("{*}", "placeholder in segment 1"),
            ("{a}:{a}", "{a} twice"),
            ("a b", "only in segment 1"),
            ("ä", "only in segment 1"),
            (&"x".repeat(256), "256 bytes"),
            (&format!("{{{}}}", "n".repeat(65)), "placeholder in segment 1"),
        ] {
            let refused = TopicPattern::parse(bad).unwrap_err();
            assert_eq!(refused.field(), "pattern");
            assert!(refused.to_string().contains(fault), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_pattern_is_its_text_in_json() {
        let json = r#""org:{org}:**""#;
        let read: TopicPattern = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert!(serde_json::from_str::<TopicPattern>(r#""**:a""#).is_err());
    }

    #[test]
    fn which_topic_is_of_which_shape() {
        let of = |shape, name, bound: Option<&[(&str, &str)]>| {
            let (shape, name) = (pattern(shape), topic(name));
            let found: Option<Vec<_>> = shape.bind(&name).map(Iterator::collect);
            assert_eq!(found.as_deref(), bound, "{shape} {name}");
            assert_eq!(shape.matches(&name), bound.is_some(), "{shape} {name}");
        };
        of("run:{run_id}:events", "run:7:events", Some(&[("run_id", "7")]));
        of("run:{run_id}:events", "run:7:events:x", None);
        of("run:{run_id}:events", "run:7", None);
        of("run:{run_id}:events", "run:7:Events", None);
        of("run:{run_id}:events", "run:a/b.c:events", Some(&[("run_id", "a/b.c")]));
        of("run:{run_id}:events", "run::events", Some(&[("run_id", "")]));
        of("org:{org}:workers", "org:acme:workers:x", None);
        of("org:{org}:{team}", "org:acme:red", Some(&[("org", "acme"), ("team", "red")]));
        of("runtime.{kind}_summaries", "runtime.codex_summaries", Some(&[("kind", "codex")]));
        of("runtime.{kind}_summaries", "runtime._summaries", Some(&[("kind", "")]));
        of("runtime.{kind}_summaries", "runtime.codex_worker_events", None);
        of("runtime.{kind}_summaries", "runtime.codex_summaries:x", None);
        of("ab{x}ba", "aba", None);
        of("ab{x}ba", "abba", Some(&[("x", "")]));
        of("a.b", "a.b", Some(&[]));
        of("a.b", "axb", None);
        of("*", "a/b", Some(&[]));
        of("*", "a:b", None);
        of("**", "a", Some(&[]));
        of("**", "a::b:c", Some(&[]));
        of("a:**", "a", None);
        of("a:**", "a:b", Some(&[]));
        of("{a}:**", "x:y:z", Some(&[("a", "x")]));
    }

    /// A segment of a pattern, of which [`TEXTS`] tell each apart from the others.
    fn part() -> impl Strategy<Value = &'static str> {
        prop::sample::select(&["a", "b", "*", "a*", "*b", "ab*", "a*b"][..])
    }

    const TEXTS: [&str; 8] = ["a", "b", "c", "ab", "acb", "abc", "aba", "cb"];

    proptest! {
        #[test]
        fn a_topic_matches_itself_and_is_found_again_in_what_it_binds(
            segments in prop::collection::vec("[a-z./]{1,3}", 1..6),
            places in prop::collection::vec(0..3, 6),
        ) {
            let Ok(name) = Topic::parse(&segments.join(":")) else { return Ok(()) };
            let shape: Vec<_> = segments.iter().zip(&places).enumerate().map(|(at, (text, place))| match place {
                0 => text.clone(),
                1 => "*".to_owned(),
                _ => format!("{{n{at}}}"),
            }).collect();
            let shape = pattern(&shape.join(":"));
            let bound: Vec<_> = shape.bind(&name).expect("it was made from the topic").collect();
            let named: Vec<_> = (0..segments.len()).filter(|&at| places[at] == 2).collect();
            prop_assert_eq!(bound.len(), named.len());
            for ((key, text), at) in bound.into_iter().zip(named) {
                prop_assert_eq!(key, format!("n{at}"));
                prop_assert_eq!(text, &segments[at]);
            }
            let longer = topic(&format!("{name}:x"));
            prop_assert!(!shape.matches(&longer));
        }

        #[test]
        fn what_covers_a_pattern_matches_its_topics(
            one in prop::collection::vec(part(), 1..4), one_rest: bool,
            two in prop::collection::vec(part(), 1..4), two_rest: bool,
        ) {
            let shape = |parts: &[&str], rest| {
                let parts = parts.iter().enumerate().map(|(at, part)| match *part {
                    "*" => "*".to_owned(),
                    part => part.replace('*', &format!("{{n{at}}}")),
                });
                pattern(&(parts.collect::<Vec<_>>().join(":") + if rest { ":**" } else { "" }))
            };
            let (one, two) = (shape(&one, one_rest), shape(&two, two_rest));
            // Every topic of up to four segments out of those texts, which is enough to tell these patterns apart.
            let mut names = vec![String::new()];
            let mut covered = true;
            for _ in 0..4 {
                names = names.iter().flat_map(|name| TEXTS.map(|text| format!("{name}:{text}"))).collect();
                for name in &names {
                    let name = topic(&name[1..]);
                    covered &= one.matches(&name) || !two.matches(&name);
                }
            }
            prop_assert_eq!(one.covers(&two), covered);
        }
    }
}
