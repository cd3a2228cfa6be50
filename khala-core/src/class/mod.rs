//! Topic classes: which kind of topic a name is, to whom that kind opens, and what rules it has.
//!
//! A class is found by the shape of the topic's name alone, never by who asks.
//!
//! # Invariants
//! Once a class is found it decides, and a segment that it binds opens for that very claim only, compared as text. No claim,
//! whatever it holds, is ever read as a pattern.

mod pattern;
mod rules;

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use self::pattern::{MAX_NAME_BYTES, is_name};
pub use self::{
    pattern::TopicPattern,
    rules::{Retain, Tier},
};
use crate::{
    admission::Rate,
    auth::{Access, Denied, Grant},
    config::{or_none, seconds_or_none},
    topic::Topic,
};

/// A kind of topic: its shape, the scopes that open it, and its rules. A limit that is none limits nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct TopicClass {
    /// The name of the class in metrics and settings: 1 to 64 characters of `a-z 0-9 _`, and not `none`.
    /// Example: `"run_events"`.
    pub name: String,
    /// The pattern of the names of the class's topics. Example: `"run:{run_id}:events"`.
    pub pattern: TopicPattern,
    /// The scopes that open the class's topics for reading. One of them is enough. Empty: nobody reads.
    /// Example: `["khala:read"]`.
    #[serde(default)]
    pub read: Vec<String>,
    /// The scopes that open the class's topics for publishing. One of them is enough. Empty: nobody publishes.
    /// Example: `["khala:publish"]`.
    #[serde(default)]
    pub publish: Vec<String>,
    /// `hot`, `warm` or `cold`: how the topics are used, as clients and operators are told.
    #[serde(default = "default_tier")]
    pub tier: Tier,
    /// How many updates a cursor may be behind the head and still be resumed. None: no limit.
    #[serde(default = "default_replay_budget", with = "or_none")]
    pub replay_budget: Option<u64>,
    /// The rate at which updates may be published to one topic over HTTP, on each node. None: no limit.
    #[serde(default = "default_publish_rate", with = "or_none")]
    pub publish_rate: Option<Rate>,
    /// The most bytes of one update's payload, over HTTP. None: no limit.
    #[serde(default = "default_payload_bytes", with = "or_none")]
    pub payload_bytes: Option<usize>,
    /// The most bytes of a payload that is sent in a batch of updates. Clients fetch a larger payload over
    /// HTTP. None: no limit. Example: `16_384`.
    #[serde(default, with = "or_none")]
    pub inline_bytes: Option<usize>,
    /// Whether an update that is published without a `payload_hash` gets one (RFC 8785 canonical JSON,
    /// SHA-256), and an update with a wrong `payload_hash` is refused.
    #[serde(default)]
    pub hashes: bool,
    /// How much of its history is kept.
    #[serde(default)]
    pub retain: Retain,
    /// How long a connection that follows one of the topics may take nothing of what it is sent. None: as long
    /// as any connection may. Example: `10`.
    #[serde(default, rename = "stall_timeout_seconds", with = "seconds_or_none")]
    pub stall_timeout: Option<Duration>,
}

fn default_tier() -> Tier {
    Tier::Warm
}

fn default_replay_budget() -> Option<u64> {
    Some(100_000)
}

fn default_publish_rate() -> Option<Rate> {
    // So many a second, and as many at once after a second's rest.
    const RATE: NonZeroU32 = NonZeroU32::new(1_000).expect("1,000 is not zero");
    Some(Rate::new(RATE, RATE))
}

fn default_payload_bytes() -> Option<usize> {
    Some(1 << 20)
}

impl TopicClass {
    /// A class that is open to nobody yet, with generous limits: warm, a replay of 100,000 updates, 1,000 updates a second,
    /// payloads of 1 MiB, a week of history. A class in a settings file has the same limits unless it sets others.
    ///
    /// ```
    /// use khala_core::class::{Tier, TopicClass, TopicPattern};
    ///
    /// let pattern = TopicPattern::parse("run:{run_id}:events")?;
    /// let class = TopicClass {
    ///     tier: Tier::Hot,
    ///     payload_bytes: Some(64 << 10),
    ///     ..TopicClass::new("runs", pattern).with_read(["runs:read"])
    /// };
    /// # Ok::<(), khala_core::TextError>(())
    /// ```
    pub fn new(name: impl Into<String>, pattern: TopicPattern) -> Self {
        Self {
            name: name.into(),
            pattern,
            read: Vec::new(),
            publish: Vec::new(),
            tier: default_tier(),
            replay_budget: default_replay_budget(),
            publish_rate: default_publish_rate(),
            payload_bytes: default_payload_bytes(),
            inline_bytes: None,
            hashes: false,
            retain: Retain::default(),
            stall_timeout: None,
        }
    }

    /// Opens the class for reading to each grant that has one of `scopes`. Literals are converted, which a field does not do.
    #[must_use]
    pub fn with_read(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.read = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Opens the class for publishing to each grant that has one of `scopes`.
    #[must_use]
    pub fn with_publish(mut self, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.publish = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The scopes of which one is enough for `access`.
    pub fn scopes(&self, access: Access) -> &[String] {
        match access {
            Access::Publish => &self.publish,
            Access::Read => &self.read,
        }
    }
}

/// What stands in metrics and records where a topic is of no class.
pub(crate) const NO_CLASS: &str = "none";

/// Why a list of classes was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassError {
    /// A bound claim's name could not stand in a pattern, so it would bind nothing.
    #[error("the bound claim {claim:?} is not 1 to {MAX_NAME_BYTES} of a-z 0-9 _, as placeholders are")]
    BoundClaim {
        /// The name.
        claim: String,
    },
    /// Two classes have one name.
    #[error("there are two topic classes of the name {name}")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A scope is empty.
    #[error("the topic class {name} has an empty scope")]
    EmptyScope {
        /// The class.
        name: String,
    },
    /// The name is none for a class.
    #[error("the topic class name {name:?} is not 1 to {MAX_NAME_BYTES} of a-z 0-9 _, or it is {NO_CLASS}")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Every topic of the class is one of an earlier class, so what it says would never count.
    #[error("no topic ever reaches the topic class {name}: all that it matches is {behind}'s already")]
    Unreachable {
        /// The class.
        name: String,
        /// The earlier class.
        behind: String,
    },
}

/// The topic classes in their order, and the claims that their placeholders bind.
///
/// The first class whose pattern has the topic's shape is the topic's class. Placeholders named `org`, `sub`, `sid`,
/// or as one of [`with_bound_claims`](Self::with_bound_claims) open only for the grant whose claim of that name is
/// the segment's text. Other placeholders are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    classes: Arc<[Arc<TopicClass>]>,
    bound: Arc<BTreeSet<String>>,
}

impl Classes {
    /// The classes in the order in which they are tried. With none, no topic opens.
    ///
    /// # Errors
    /// A [`ClassError`] that names the class that cannot be.
    pub fn new(classes: Vec<TopicClass>) -> Result<Self, ClassError> {
        for (at, class) in classes.iter().enumerate() {
            let name = || class.name.clone();
            if !is_name(&class.name) || class.name == NO_CLASS {
                return Err(ClassError::InvalidName { name: name() });
            }
            // A verifier that splits a claim at single spaces makes empty scopes out of double ones.
            if class.read.iter().chain(&class.publish).any(String::is_empty) {
                return Err(ClassError::EmptyScope { name: name() });
            }
            let earlier = &classes[..at];
            if earlier.iter().any(|earlier| earlier.name == class.name) {
                return Err(ClassError::DuplicateName { name: name() });
            }
            if let Some(first) = earlier.iter().find(|earlier| earlier.pattern.covers(&class.pattern)) {
                return Err(ClassError::Unreachable { name: name(), behind: first.name.clone() });
            }
        }
        let bound = BTreeSet::from(["org", "sid", "sub"].map(String::from));
        Ok(Self { classes: classes.into_iter().map(Arc::new).collect(), bound: bound.into() })
    }

    /// Binds placeholders of these names too, to the grant's claims of the same names.
    ///
    /// # Errors
    /// [`ClassError::BoundClaim`] for a name that no placeholder can have: what should be bound would stay free.
    pub fn with_bound_claims(
        mut self,
        claims: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, ClassError> {
        for claim in claims {
            let claim = claim.into();
            if !is_name(&claim) {
                return Err(ClassError::BoundClaim { claim });
            }
            Arc::make_mut(&mut self.bound).insert(claim);
        }
        Ok(self)
    }

    /// The topic's class: the first of its shape. A topic of none opens to nobody, and has no rules.
    pub fn of(&self, topic: &Topic) -> Option<&Arc<TopicClass>> {
        self.classes.iter().find(|class| class.pattern.matches(topic))
    }

    /// All classes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &TopicClass> {
        self.classes.iter().map(|class| &**class)
    }

    /// The same, shared.
    pub(crate) fn shared(&self) -> &[Arc<TopicClass>] {
        &self.classes
    }

    /// Whether a placeholder of that name binds to the grant's claim; else it is free.
    pub fn binds(&self, placeholder: &str) -> bool {
        self.bound.contains(placeholder)
    }

    /// Whether the grant's scopes give `access` to any class at all, whatever its topics are.
    ///
    /// # Errors
    /// [`Denied::MissingScope`], with every scope that would give it, if they do not; [`Denied::ForbiddenTopic`] if no class
    /// gives it to anybody.
    pub fn check_any(&self, grant: &Grant, access: Access) -> Result<(), Denied> {
        let mut scopes: Vec<String> = self.iter().flat_map(|class| class.scopes(access)).cloned().collect();
        if scopes.iter().any(|scope| grant.allows(scope)) {
            return Ok(());
        }
        scopes.sort_unstable();
        scopes.dedup();
        Err(if scopes.is_empty() { Denied::ForbiddenTopic } else { Denied::MissingScope { scopes } })
    }

    /// Whether the topic's class lets the subject of `grant` have `access`.
    ///
    /// # Errors
    /// [`Denied::ForbiddenTopic`] if the topic is of no class or its class opens to nobody for this;
    /// [`Denied::MissingScope`] if the grant holds none of the class's scopes; [`Denied::OwnerMismatch`] if it lacks a
    /// claim that the class binds or has another.
    pub fn check(&self, grant: &Grant, topic: &Topic, access: Access) -> Result<(), Denied> {
        let class = self.of(topic).ok_or(Denied::ForbiddenTopic)?;
        let scopes = class.scopes(access);
        if scopes.is_empty() {
            return Err(Denied::ForbiddenTopic);
        }
        if !scopes.iter().any(|scope| grant.allows(scope)) {
            return Err(Denied::MissingScope { scopes: scopes.to_vec() });
        }
        // An empty segment is nobody's, not even theirs whose claim is empty.
        let theirs = |name, text: &str| !text.is_empty() && grant.claim(name) == Some(text);
        let foreign = class
            .pattern
            .bind(topic)
            .into_iter()
            .flatten()
            .find(|&(name, text)| self.binds(name) && !theirs(name, text));
        match foreign {
            Some((claim, _)) => Err(Denied::OwnerMismatch { claim: claim.to_owned() }),
            None => Ok(()),
        }
    }
}

impl Default for Classes {
    /// One class, `default`, of every topic: open to the scopes of [`Access::scope`], with the limits of
    /// [`TopicClass::new`].
    fn default() -> Self {
        let every = TopicPattern::parse("**").expect("the pattern is written out here");
        let class = TopicClass::new("default", every)
            .with_read([Access::Read.scope()])
            .with_publish([Access::Publish.scope()]);
        Self::new(vec![class]).expect("the class is written out here")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::VerifiedClaims;
    use crate::update::Timestamp;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).unwrap()
    }

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    fn open(name: &str, shape: &str) -> TopicClass {
        TopicClass::new(name, pattern(shape)).with_read(["khala:read"]).with_publish(["khala:publish"])
    }

    fn reader() -> Grant {
        saying(None, None, &[])
    }

    /// The grant of a reader whose token says this too.
    fn saying(org: Option<&str>, sid: Option<&str>, claims: &[(&str, &str)]) -> Grant {
        Grant::from_verified(VerifiedClaims {
            organisation: org.map(str::to_owned),
            session_id: sid.map(str::to_owned),
            claims: claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..VerifiedClaims::new("ada", ["khala:read"], Timestamp::from_millis(u64::MAX))
        })
    }

    /// A tenant's topics, and everything else for everybody.
    fn tenants() -> Classes {
        Classes::new(vec![open("tenant", "org:{org}:**"), open("fallback", "**")]).unwrap()
    }

    /// The claim that differs; none if `grant` reads `name`.
    fn mismatch(classes: &Classes, grant: &Grant, name: &str) -> Option<String> {
        match classes.check(grant, &topic(name), Access::Read) {
            Ok(()) => None,
            Err(Denied::OwnerMismatch { claim }) => Some(claim),
            Err(other) => panic!("{name}: {other}"),
        }
    }

    #[test]
    fn a_class_in_a_settings_file_has_the_usual_limits_unless_it_sets_others() {
        let of = |more: &str| {
            serde_json::from_str::<TopicClass>(&format!(r#"{{"name": "a", "pattern": "a:**"{more}}}"#))
        };
        let usual = TopicClass::new("a", pattern("a:**"));
        assert_eq!(of("").unwrap(), usual);
        let written = serde_json::to_string(&usual).unwrap();
        assert_eq!(serde_json::from_str::<TopicClass>(&written).unwrap(), usual);
        let free =
            of(r#", "publish_rate": "none", "retain": {"age_seconds": "none", "updates": 7}"#).unwrap();
        let retain = Retain { updates: Some(7), ..Retain::everything() };
        assert_eq!(free, TopicClass { publish_rate: None, retain, ..usual });
        for (more, says) in [(r#", "teer": "hot""#, "teer"), (r#", "payload_bytes": "all""#, "none")] {
            assert!(of(more).unwrap_err().to_string().contains(says));
        }
        assert!(serde_json::from_str::<TopicClass>(r#"{"name": "a"}"#).is_err());
    }

    #[test]
    fn what_is_a_list_of_classes() {
        let refused = |classes| Classes::new(classes).unwrap_err();
        for name in ["", "none", "A", "a-b", "a b", "ä", &"n".repeat(65)] {
            assert_eq!(refused(vec![open(name, "**")]), ClassError::InvalidName { name: name.into() });
        }
        assert_eq!(
            refused(vec![open("a", "x"), open("a", "y")]),
            ClassError::DuplicateName { name: "a".into() }
        );
        assert_eq!(
            refused(vec![open("a", "x").with_publish([""])]),
            ClassError::EmptyScope { name: "a".into() }
        );
        for claim in ["", "Team", "{team}", "team:x"] {
            assert_eq!(
                tenants().with_bound_claims(["team", claim]),
                Err(ClassError::BoundClaim { claim: claim.into() })
            );
        }
    }

    #[test]
    fn a_class_that_no_topic_reaches_is_a_mistake() {
        for (first, second) in [
            ("**", "org:{org}:**"),
            ("**", "**"),
            ("*:**", "a:b"),
            ("run:{run_id}:events", "run:7:events"),
            ("{a}:x", "*:x"),
            ("org:{org}:**", "org:acme:*"),
        ] {
            assert_eq!(
                Classes::new(vec![open("first", first), open("second", second)]),
                Err(ClassError::Unreachable { name: "second".into(), behind: "first".into() }),
                "{first} {second}"
            );
        }
        for (first, second) in [
            ("run:7:events", "run:{run_id}:events"),
            ("org:{org}:**", "org:{org}"),
            ("*", "**"),
            ("a:*", "a:**"),
            ("a:*", "*:a"),
            ("a", "a:**"),
        ] {
            assert!(Classes::new(vec![open("first", first), open("second", second)]).is_ok());
        }
    }

    #[test]
    fn the_first_class_of_the_shape_decides() {
        let shapes = [
            ("runs", "run:{run_id}:events"),
            ("workers", "runtime.codex_worker_events"),
            ("summaries", "runtime.{kind}_summaries"),
            ("others", "**"),
        ];
        let classes = Classes::new(shapes.map(|(name, shape)| open(name, shape)).into()).unwrap();
        for (classes, name, class) in [
            (&classes, "run:7:events", "runs"),
            (&classes, "runtime.codex_worker_events", "workers"),
            (&classes, "runtime.codex_summaries", "summaries"),
            (&classes, "run:7:events:more", "others"),
            (&classes, "lobby", "others"),
            (&Classes::default(), "lobby", "default"),
            (&Classes::default(), "run:7:events", "default"),
        ] {
            assert_eq!(classes.of(&topic(name)).unwrap().name, class);
            assert!(classes.check(&reader(), &topic(name), Access::Read).is_ok());
            let Err(Denied::MissingScope { scopes }) =
                classes.check(&reader(), &topic(name), Access::Publish)
            else {
                panic!("a reader published to {name}");
            };
            assert_eq!(scopes, ["khala:publish"]);
        }
    }

    #[test]
    fn one_scope_is_enough_and_no_scope_opens_to_nobody() {
        let classes =
            Classes::new(vec![TopicClass::new("a", pattern("a")).with_read(["x", "khala:read"])]).unwrap();
        assert!(classes.check(&reader(), &topic("a"), Access::Read).is_ok());
        let check = |name, access| classes.check(&reader(), &topic(name), access);
        assert!(matches!(check("a", Access::Publish), Err(Denied::ForbiddenTopic)));
        assert!(matches!(check("b", Access::Read), Err(Denied::ForbiddenTopic)));

        let nobody = Grant::from_verified(VerifiedClaims::new(
            "ada",
            ["", "khala", "khala:read2"],
            Timestamp::from_millis(1),
        ));
        let Err(Denied::MissingScope { scopes }) = classes.check(&nobody, &topic("a"), Access::Read) else {
            panic!("a topic was read without its scope");
        };
        assert_eq!(scopes, ["x", "khala:read"]);
    }

    #[test]
    fn a_bound_topic_opens_to_its_own_organisation_only() {
        let classes = tenants();
        let of = |org: &str| saying(Some(org), None, &[]);
        assert_eq!(mismatch(&classes, &of("acme"), "org:acme:workers:7"), None);
        let claims = [
            "",
            "*",
            "**",
            "{org}",
            "..",
            ".",
            "ACME",
            "Acme",
            "acme ",
            "acm",
            "acme:workers",
            "acme:",
            "acme/",
            "a*",
            "аcme",
            "acme\u{200b}",
            "acme\0",
            "evil",
        ];
        for claim in claims {
            assert_eq!(
                mismatch(&classes, &of(claim), "org:acme:workers").as_deref(),
                Some("org"),
                "{claim:?}"
            );
        }
        assert_eq!(mismatch(&classes, &reader(), "org:acme:workers").as_deref(), Some("org"));
        // A claim cannot stand in for `org`, nor another claim for it.
        let posing = saying(None, Some("acme"), &[("org", "acme")]);
        assert_eq!(mismatch(&classes, &posing, "org:acme:workers").as_deref(), Some("org"));
        // What a segment may hold is compared whole.
        assert_eq!(mismatch(&classes, &of("a/b"), "org:a/b:x"), None);
        assert_eq!(mismatch(&classes, &of("a"), "org:a/b:x").as_deref(), Some("org"));
        assert_eq!(mismatch(&classes, &of("a.b"), "org:a/b:x").as_deref(), Some("org"));
        assert_eq!(mismatch(&classes, &of(".."), "org:..:x"), None);
        assert_eq!(mismatch(&classes, &of("acme"), "org:acme/..:x").as_deref(), Some("org"));
        assert_eq!(mismatch(&classes, &of("acme"), "org:../acme:x").as_deref(), Some("org"));
        // Nobody owns the empty segment.
        assert_eq!(mismatch(&classes, &of(""), "org::workers").as_deref(), Some("org"));
    }

    #[test]
    fn a_claim_with_a_colon_reaches_no_deeper_topic() {
        let classes = Classes::new(vec![open("workers", "org:{org}:workers")]).unwrap();
        let of = |org: &str| saying(Some(org), None, &[]);
        let check = |org: &str, name: &str| classes.check(&of(org), &topic(name), Access::Read);
        assert!(check("acme", "org:acme:workers").is_ok());
        assert!(matches!(check("acme", "org:acme:workers:x"), Err(Denied::ForbiddenTopic)));
        assert!(matches!(check("acme:x", "org:acme:x:workers"), Err(Denied::ForbiddenTopic)));
        assert!(matches!(check("a:workers", "org:a:workers"), Err(Denied::OwnerMismatch { .. })));
    }

    #[test]
    fn each_bound_claim_must_be_right_and_the_others_are_free() {
        let classes = Classes::new(vec![open("inbox", "org:{org}:{sub}:{sid}:{team}:{room}")]).unwrap();
        let bound = classes.clone().with_bound_claims(["team"]).unwrap();
        let grant = saying(Some("o"), Some("s"), &[("team", "t")]);
        assert_eq!(mismatch(&bound, &grant, "org:o:ada:s:t:any"), None);
        for (name, claim) in [
            ("org:x:ada:s:t:r", "org"),
            ("org:o:x:s:t:r", "sub"),
            ("org:o:ada:x:t:r", "sid"),
            ("org:o:ada:s:x:r", "team"),
            // Right texts in one another's places.
            ("org:ada:o:s:t:r", "org"),
        ] {
            assert_eq!(mismatch(&bound, &grant, name).as_deref(), Some(claim), "{name}");
        }
        assert_eq!(mismatch(&classes, &grant, "org:o:ada:s:x:r"), None);
    }

    /// Texts that try to be more than a segment, and some that are one.
    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![Just("org".to_owned()), Just("acme".to_owned()), "[a-zA-Z0-9._/-]{0,3}"]
    }

    fn claim() -> impl Strategy<Value = String> {
        prop_oneof![
            segment(),
            "[a*{}:/.]{0,4}",
            ".{0,6}",
            Just("{org}".to_owned()),
            Just("acme:x".to_owned())
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_claim_a_bound_topic_is_its_owners(
            segments in prop::collection::vec(segment(), 1..5),
            org in prop::option::of(claim()),
            other in claim(),
        ) {
            let Ok(name) = Topic::parse(&segments.join(":")) else { return Ok(()) };
            let grant = saying(org.as_deref(), Some(&other), &[("org", &other)]);
            let found: Vec<_> = name.as_str().split(':').collect();
            let owned = found.len() > 2 && found[0] == "org";
            let own = owned && !found[1].is_empty() && Some(found[1]) == org.as_deref();
            prop_assert_eq!(tenants().check(&grant, &name, Access::Read).is_ok(), own || !owned);
        }
    }
}
