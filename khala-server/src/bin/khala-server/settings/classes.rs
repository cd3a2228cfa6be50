//! Settings of topic classes: who reads and publishes, and the rules of each kind of topic.
//!
//! # Invariants
//! A class that says nothing of a rule has the library's, and `config` prints that one; "none" is how no limit is said, and 0 is
//! never taken for it.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use khala_core::{
    admission::Rate,
    class::{Classes, Retain, Tier, TopicClass, TopicPattern},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use toml::Value;

use super::{seconds, values::Limit};

/// One topic class.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ClassSettings {
    pub(crate) name: String,
    pub(crate) pattern: String,
    /// Scopes of which one is enough. Empty: nobody.
    #[serde(default)]
    pub(crate) read: Vec<String>,
    #[serde(default)]
    pub(crate) publish: Vec<String>,
    #[serde(default = "tier", deserialize_with = "parse_tier")]
    tier: Tier,
    #[serde(default = "replay_budget")]
    replay_budget: Limit<u64>,
    #[serde(default = "publish_per_second")]
    publish_per_second: Limit<NonZeroU32>,
    #[serde(default = "payload_bytes")]
    payload_bytes: Limit<NonZeroU32>,
    #[serde(default = "inline_bytes")]
    inline_bytes: Limit<u32>,
    /// Whether updates carry the hash of their payload.
    #[serde(default)]
    hashes: bool,
    #[serde(default = "retain_for_seconds")]
    retain_for_seconds: Limit<NonZeroU32>,
    #[serde(default = "retain_updates")]
    retain_updates: Limit<NonZeroU64>,
    #[serde(default = "retain_bytes")]
    retain_bytes: Limit<NonZeroU64>,
    #[serde(default = "retain_tombstones_for_seconds")]
    retain_tombstones_for_seconds: Limit<u32>,
    /// None: `sync.stall_seconds`.
    stall_seconds: Option<NonZeroU32>,
}

/// What a class has that says nothing of itself.
fn usual() -> ClassSettings {
    ClassSettings::of(&TopicClass::new("usual", TopicPattern::parse("**").expect("it is every topic")))
}

fn tier() -> Tier {
    usual().tier
}

fn parse_tier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let tiers = [Tier::Hot, Tier::Warm, Tier::Cold];
    let tier = value.as_str().and_then(|text| tiers.into_iter().find(|tier| tier.as_str() == text));
    tier.ok_or_else(|| {
        let known = tiers.map(|tier| format!("{:?}", tier.as_str())).join(", ");
        de::Error::custom(format!("{value} is no tier; there are {known}"))
    })
}

fn replay_budget() -> Limit<u64> {
    usual().replay_budget
}

fn publish_per_second() -> Limit<NonZeroU32> {
    usual().publish_per_second
}

fn payload_bytes() -> Limit<NonZeroU32> {
    usual().payload_bytes
}

fn inline_bytes() -> Limit<u32> {
    usual().inline_bytes
}

fn retain_for_seconds() -> Limit<NonZeroU32> {
    usual().retain_for_seconds
}

fn retain_updates() -> Limit<NonZeroU64> {
    usual().retain_updates
}

fn retain_bytes() -> Limit<NonZeroU64> {
    usual().retain_bytes
}

fn retain_tombstones_for_seconds() -> Limit<u32> {
    usual().retain_tombstones_for_seconds
}

impl ClassSettings {
    /// The classes of the library.
    pub(super) fn of_library() -> Vec<Self> {
        Classes::default().iter().map(Self::of).collect()
    }

    /// As they would be written out.
    fn of(class: &TopicClass) -> Self {
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let Retain { age, updates, bytes: retained, tombstones, .. } = class.retain;
        Self {
            name: class.name.clone(),
            pattern: class.pattern.to_string(),
            read: class.read.clone(),
            publish: class.publish.clone(),
            tier: class.tier,
            replay_budget: Limit(class.replay_budget),
            publish_per_second: Limit(class.publish_rate.map(Rate::per_second)),
            payload_bytes: Limit(class.payload_bytes.map(bytes).and_then(NonZeroU32::new)),
            inline_bytes: Limit(class.inline_bytes.map(bytes)),
            hashes: class.hashes,
            retain_for_seconds: Limit(age.map(seconds).and_then(NonZeroU32::new)),
            retain_updates: Limit(updates.and_then(NonZeroU64::new)),
            retain_bytes: Limit(retained.and_then(NonZeroU64::new)),
            retain_tombstones_for_seconds: Limit(tombstones.map(seconds)),
            stall_seconds: class.stall_timeout.map(seconds).and_then(NonZeroU32::new),
        }
    }

    /// The class.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub(crate) fn class(&self) -> Result<TopicClass, khala_core::TextError> {
        let duration = |seconds: NonZeroU32| Duration::from_secs(seconds.get().into());
        let bytes = |bytes: u32| bytes as usize;
        // After a second's rest, a second's updates at once.
        let rate = |per_second| Rate::new(per_second, per_second);
        let retain = Retain {
            age: self.retain_for_seconds.0.map(duration),
            updates: self.retain_updates.0.map(NonZeroU64::get),
            bytes: self.retain_bytes.0.map(NonZeroU64::get),
            tombstones: self
                .retain_tombstones_for_seconds
                .0
                .map(|seconds| Duration::from_secs(seconds.into())),
        };
        Ok(TopicClass {
            tier: self.tier,
            replay_budget: self.replay_budget.0,
            publish_rate: self.publish_per_second.0.map(rate),
            payload_bytes: self.payload_bytes.0.map(NonZeroU32::get).map(bytes),
            inline_bytes: self.inline_bytes.0.map(bytes),
            hashes: self.hashes,
            retain,
            stall_timeout: self.stall_seconds.map(duration),
            ..TopicClass::new(&self.name, TopicPattern::parse(&self.pattern)?)
                .with_read(&self.read)
                .with_publish(&self.publish)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_classes_are_what_their_settings_say() {
        let written = ClassSettings::of_library();
        let read: Vec<_> = written.iter().map(|class| class.class().unwrap()).collect();
        assert_eq!(Classes::new(read).unwrap(), Classes::default());
    }

    #[test]
    fn what_is_not_said_is_the_librarys() {
        let class: ClassSettings = toml::from_str("name = \"a\"\npattern = \"**\"").unwrap();
        let plain = TopicClass::new("a", TopicPattern::parse("**").unwrap());
        assert_eq!(class.class().unwrap(), plain);
    }

    #[test]
    fn every_limit_can_be_said_and_be_none() {
        let said = "name = \"a\"\npattern = \"a:**\"\nread = [\"r\"]\npublish = [\"p\"]\ntier = \"hot\"\nreplay_budget = 0
            publish_per_second = 1\npayload_bytes = 2\ninline_bytes = 0\nretain_for_seconds = 3\nretain_updates = 4
            retain_bytes = 5\nstall_seconds = 6";
        let class: ClassSettings = toml::from_str(said).unwrap();
        let one = NonZeroU32::MIN;
        let retain = Retain {
            age: Some(Duration::from_secs(3)),
            updates: Some(4),
            bytes: Some(5),
            ..Retain::everything()
        };
        let expected = TopicClass {
            tier: Tier::Hot,
            replay_budget: Some(0),
            publish_rate: Some(Rate::new(one, one)),
            payload_bytes: Some(2),
            inline_bytes: Some(0),
            retain,
            stall_timeout: Some(Duration::from_secs(6)),
            ..TopicClass::new("a", TopicPattern::parse("a:**").unwrap()).with_read(["r"]).with_publish(["p"])
        };
        assert_eq!(class.class().unwrap(), expected);

        let none = "name = \"a\"\npattern = \"**\"\nreplay_budget = \"none\"\npublish_per_second = \"none\"
            payload_bytes = \"none\"\ninline_bytes = \"none\"\nretain_for_seconds = \"none\"\nretain_updates = \"none\"
            retain_bytes = \"none\"";
        let class = toml::from_str::<ClassSettings>(none).unwrap().class().unwrap();
        let limits = (class.replay_budget, class.publish_rate, class.payload_bytes, class.inline_bytes);
        assert_eq!(limits, (None, None, None, None));
        assert_eq!(class.retain, Retain::everything());
    }
}
