//! The shape of a topic's name. Matching goes over the text as it stands and allocates nothing.

use std::collections::BTreeSet;

use crate::{
    text::{TextError, text},
    topic::Topic,
};

text! {
    /// The shape of a topic's name: segments between `:`, in at most 255 bytes.
    ///
    /// A segment is a literal of `A-Z a-z 0-9 . _ - /`; or `*`, any one segment; or `{name}`, any one segment under
    /// a name of `[a-z0-9_]{1,64}`; or, as the last, `**`, one segment or more. `**` alone is every topic. Mind that
    /// `org:{org}:**` does not hold `org:acme`, which has nothing after the organisation.
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
            Segment::Literal(literal) => {
                if literal.contains(['*', '{', '}']) {
                    return fault(format!("mixes '*' or braces with other text in segment {place}"));
                }
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
                if !literal.bytes().all(allowed) {
                    return fault(format!("may hold A-Z a-z 0-9 . _ - / only in segment {place}"));
                }
            }
            Segment::Named(name) => {
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
    Named(&'a str),
    Rest,
}

impl<'a> Segment<'a> {
    fn of(text: &'a str) -> Self {
        match text {
            "*" => Self::Any,
            "**" => Self::Rest,
            _ => match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) => Self::Named(name),
                None => Self::Literal(text),
            },
        }
    }
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
                (Segment::Literal(literal), Some(text)) if literal != text => return false,
                (Segment::Any | Segment::Literal(_) | Segment::Named(_), Some(_)) => {}
            }
        }
        found.next().is_none()
    }

    /// If `topic` is of this shape, its placeholders in order, each with the text of its segment.
    pub fn bind<'a>(&'a self, topic: &'a Topic) -> Option<impl Iterator<Item = (&'a str, &'a str)>> {
        let bound = |(segment, text)| match segment {
            Segment::Named(name) => Some((name, text)),
            Segment::Any | Segment::Literal(_) | Segment::Rest => None,
        };
        self.matches(topic).then(|| self.segments().zip(topic.as_str().split(':')).filter_map(bound))
    }

    /// The names of its placeholders, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(|segment| match segment {
            Segment::Named(name) => Some(name),
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
                (Segment::Any | Segment::Named(_), Some(Segment::Rest)) | (_, None) => return false,
                (Segment::Any | Segment::Named(_), Some(_)) => {}
                (Segment::Literal(literal), Some(Segment::Literal(text))) if literal == text => {}
                (Segment::Literal(_), Some(_)) => return false,
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
        for good in ["**", "*", "a", "a:*:b", "{a}:{b}", "a/b.c:_-", "*:**", "{org}:**", &long, &name] {
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
            ("a*", "mixes"),
            ("***", "mixes"),
            ("a:{b", "mixes"),
            ("a}:b", "mixes"),
            ("x{a}", "mixes"),
            ("{a}x", "mixes"),
            ("{}", "placeholder in segment 1"),
            ("a:{A}", "placeholder in segment 2"),
            ("{a}{b}", "placeholder in segment 1"),
            ("{{a}}", "placeholder in segment 1"),
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
            one in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*")], 1..4), one_rest: bool,
            two in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*")], 1..4), two_rest: bool,
        ) {
            let shape = |parts: &[&str], rest| pattern(&(parts.join(":") + if rest { ":**" } else { "" }));
            let (one, two) = (shape(&one, one_rest), shape(&two, two_rest));
            // Every topic of up to five segments out of three texts, which is enough to tell these patterns apart.
            let mut names = vec![String::new()];
            let mut covered = true;
            for _ in 0..5 {
                names = names.iter().flat_map(|name| ["a", "b", "c"].map(|text| format!("{name}:{text}"))).collect();
                for name in &names {
                    let name = topic(&name[1..]);
                    covered &= one.matches(&name) || !two.matches(&name);
                }
            }
            prop_assert_eq!(one.covers(&two), covered);
        }
    }
}
