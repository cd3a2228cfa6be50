//! How much of a topic's history is kept. Policy only: the journal trims, the sweeper schedules.
//!
//! A rule is given an input and names what is kept; it reads nothing and changes nothing.
//!
//! # Invariants
//! The same class and input give the same answer, because the dry run and the sweep each ask for it.

use std::fmt;

use crate::{
    class::TopicClass,
    journal::Keep,
    position::{Bounds, Watermark},
    topic::Topic,
    update::Timestamp,
};

/// What is known of a topic when it is asked how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of a rule write its input by field")]
pub struct RetentionInput {
    /// What the topic holds.
    pub bounds: Bounds,
    /// The least watermark of those who follow it on this node now.
    pub slowest_connected: Option<Watermark>,
    /// The least watermark of the clients that recently stopped following it on this node.
    pub slowest_seen: Option<Watermark>,
    /// When that was so.
    pub now: Timestamp,
}

impl RetentionInput {
    /// Of a topic with those bounds, which nobody follows.
    pub fn new(bounds: Bounds, now: Timestamp) -> Self {
        Self { bounds, slowest_connected: None, slowest_seen: None, now }
    }
}

/// Says how much of a topic's history is kept. Pure, and asked often.
///
/// One of one's own, here one that keeps what somebody who is connected has not read yet:
///
/// ```
/// use khala_core::{Topic, class::TopicClass, journal::Keep, retention::{ClassRetention, RetentionInput, Retention}};
///
/// #[derive(Debug)]
/// struct ForReaders;
///
/// impl Retention for ForReaders {
///     fn keep(&self, topic: &Topic, class: &TopicClass, input: &RetentionInput) -> Keep {
///         let keep = ClassRetention.keep(topic, class, input);
///         match input.slowest_connected {
///             Some(slowest) => Keep { never_past: Some(slowest), ..keep },
///             None => keep,
///         }
///     }
/// }
/// ```
pub trait Retention: fmt::Debug + Send + Sync + 'static {
    /// What is kept of `topic`, which is of that class. A topic of no class is not asked about: all of it is kept.
    fn keep(&self, topic: &Topic, class: &TopicClass, input: &RetentionInput) -> Keep;

    /// Whether the answer changes only with the classes, with what is appended, and by a limit of [`never_past`](Keep::never_past) that
    /// it has set: then a topic that has nothing to lose is not looked at again before its oldest update is too old.
    ///
    /// Without, every sweep asks about every topic.
    fn lasts(&self) -> bool {
        false
    }
}

/// Keeps what the class says ([`TopicClass::retain`]), whether or not anybody follows the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to configure")]
pub struct ClassRetention;

impl Retention for ClassRetention {
    fn keep(&self, _: &Topic, class: &TopicClass, _: &RetentionInput) -> Keep {
        let mut keep = Keep::everything();
        (keep.age, keep.updates, keep.bytes) = (class.retain.age, class.retain.updates, class.retain.bytes);
        keep.tombstones = class.retain.tombstones;
        keep
    }

    fn lasts(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        class::{Classes, Retain},
        position::Epoch,
    };

    #[test]
    fn the_class_says_what_is_kept() {
        let topic = Topic::parse("t").unwrap();
        let classes = Classes::default();
        let class = TopicClass::clone(classes.of(&topic).unwrap());
        let input = RetentionInput {
            slowest_connected: Some(Watermark::ORIGIN),
            ..RetentionInput::new(Bounds::untouched(Epoch::from_bits(1)), Timestamp::default())
        };
        let kept = |retain| ClassRetention.keep(&topic, &TopicClass { retain, ..class.clone() }, &input);
        assert_eq!(kept(Retain::everything()), Keep::everything());
        assert_eq!(
            kept(Retain::default()),
            Keep { age: Some(Duration::from_secs(7 * 86_400)), ..Keep::everything() }
        );
        let retain = Retain { updates: Some(0), bytes: Some(9), ..Retain::everything() };
        assert_eq!(kept(retain), Keep { updates: Some(0), bytes: Some(9), ..Keep::everything() });
        let (retain, day) = (Retain::everything(), Duration::from_secs(86_400));
        assert_eq!(
            kept(Retain { tombstones: Some(day), ..retain }),
            Keep { tombstones: Some(day), ..Keep::everything() }
        );
    }
}
