//! When a topic is looked at next, once it has nothing to lose: so that a sweep costs what is due, and not what was ever
//! created.
//!
//! # Invariants
//! - A topic is never put off past the moment at which its oldest update may be too old by its class's rule, nor for longer
//!   than [`AT_LEAST`], whatever is known of it.
//! - What was put off under other rules counts for nothing: the journal is told the rules each time.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::{
    class::{Classes, Retain},
    journal::{DueAfter, Keep, Settled, is_ahead},
    position::Cursor,
    topic::Topic,
    update::Timestamp,
};

/// A topic is looked at once in so long at least. It bounds what a clock that was ahead, or an older version beside this one,
/// can put off.
pub(crate) const AT_LEAST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Topics that are settled at once: one transaction, and not one each.
pub(crate) const SETTLED_AT_ONCE: usize = 500;

/// The place after all topics that a clock that is right can put off at `now`.
pub(crate) fn horizon(now: Timestamp) -> DueAfter {
    DueAfter { at: now.plus(AT_LEAST), name: char::MAX.to_string() }
}

/// Until when a topic with that head can be put off which keeps what `keep` says and nothing else, from `oldest` on. None: its
/// rule depends on who reads it, so that it may have something to lose at any time.
pub(crate) fn settled(
    topic: &Topic,
    head: Cursor,
    keep: &Keep,
    oldest: Option<Timestamp>,
    now: Timestamp,
    retire_after: Option<Duration>,
) -> Option<Settled> {
    // Also where a clock that was ahead stored the oldest: it goes with what follows it, and is told at each sweep.
    if oldest.is_some_and(|at| keep.never_past.is_some() || is_ahead(at, now)) {
        return None;
    }
    // Not all at once, or they would come back at once.
    let latest = now.plus(AT_LEAST / 2).plus(random_part(AT_LEAST / 2));
    let too_old = oldest.zip(keep.age).map(|(oldest, age)| oldest.plus(age).plus(Duration::from_millis(1)));
    // A topic that keeps nothing is looked at once more to be retired.
    let retires =
        retire_after.filter(|_| oldest.is_none()).map(|after| now.plus(after.max(Duration::from_millis(1))));
    let due = [too_old, retires].into_iter().flatten().fold(latest, Timestamp::min);
    let retire_idle_since = retire_after.map(|after| now.minus(after));
    Some(Settled {
        topic: topic.clone(),
        head,
        due,
        seen_at: now,
        tombstones: keep.tombstones,
        retire_idle_since,
    })
}

/// What names the rules by which history is kept. `lasting` says whether they let topics be put off.
pub(crate) fn rules(classes: &Classes, lasting: bool) -> u64 {
    let mut digest = Sha256::new();
    digest.update([1, u8::from(lasting)]);
    for class in classes.iter() {
        for text in [class.name.as_str(), class.pattern.as_str()] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let Retain { age, updates, bytes, tombstones } = class.retain;
        for limit in [age.map(millis), updates, bytes, tombstones.map(millis)] {
            digest.update([u8::from(limit.is_some())]);
            digest.update(limit.unwrap_or_default().to_be_bytes());
        }
    }
    let digest = digest.finalize();
    // Zero is what a journal has before it is told any.
    digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)).max(1)
}

/// A random part of `whole`.
pub(crate) fn random_part(whole: Duration) -> Duration {
    let mut bits = [0; 4];
    // Without randomness, nodes that were started together stay together.
    if getrandom::fill(&mut bits).is_err() {
        return Duration::ZERO;
    }
    whole.mul_f64(f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        class::{TopicClass, TopicPattern},
        position::{Epoch, Watermark},
    };

    fn moment(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_topic_is_put_off_until_its_oldest_may_go_and_not_for_longer_than_a_week() {
        let topic = Topic::parse("t").unwrap();
        let head = Cursor::new(Epoch::from_bits(1), Watermark::ORIGIN);
        let now = moment(1_000_000);
        let due =
            |keep: &Keep, oldest| settled(&topic, head, keep, oldest, now, None).map(|settled| settled.due);
        let keep = Keep { age: Some(Duration::from_secs(60)), ..Keep::everything() };
        let oldest = moment(999_990);
        let at = due(&keep, Some(oldest)).unwrap();
        assert!(keep.lets_go(crate::position::Seq::FIRST, oldest, 1, 1, at), "it may go then");
        assert!(!keep.lets_go(crate::position::Seq::FIRST, oldest, 1, 1, at.minus(Duration::from_millis(1))));
        for keep in [Keep::everything(), Keep { updates: Some(3), ..Keep::everything() }, keep] {
            let at = due(&keep, None).unwrap();
            assert!((now.plus(AT_LEAST / 2)..=now.plus(AT_LEAST)).contains(&at), "{at:?}");
        }
        let retiring =
            |oldest| settled(&topic, head, &keep, oldest, now, Some(Duration::from_secs(60))).unwrap();
        let empty = retiring(None);
        assert_eq!((empty.due, empty.seen_at), (moment(1_000_060), now));
        assert_eq!(empty.retire_idle_since, Some(moment(999_940)));
        assert_eq!(retiring(Some(oldest)).due, at, "what keeps something is not looked at to be retired");
        let held = Keep { never_past: Some(Watermark::ORIGIN), ..keep };
        assert_eq!(due(&held, Some(oldest)), None, "who reads it may go at any time");
        assert!(due(&held, None).is_some());
        assert_eq!(
            due(&keep, Some(now.plus(Duration::from_secs(3600)))),
            None,
            "a clock that was ahead stored it"
        );
    }

    #[test]
    fn other_rules_have_another_name() {
        let class = |name: &str, pattern: &str, retain| TopicClass {
            retain,
            ..TopicClass::new(name, TopicPattern::parse(pattern).unwrap())
        };
        let named = |classes| rules(&Classes::new(classes).unwrap(), true);
        let week = Retain::default();
        let mut names = vec![
            named(vec![]),
            named(vec![class("a", "a:{n}", week)]),
            named(vec![class("b", "a:{n}", week)]),
            named(vec![class("a", "b:{n}", week)]),
            named(vec![class("a", "a:{n}", week), class("b", "b:{n}", week)]),
            named(vec![class("b", "b:{n}", week), class("a", "a:{n}", week)]),
            named(vec![class("a", "a:{n}", Retain::everything())]),
            named(vec![class("a", "a:{n}", Retain { updates: Some(0), ..Retain::everything() })]),
            named(vec![class("a", "a:{n}", Retain { bytes: Some(0), ..Retain::everything() })]),
            named(vec![class(
                "a",
                "a:{n}",
                Retain { tombstones: Some(Duration::ZERO), ..Retain::everything() },
            )]),
            rules(&Classes::new(vec![]).unwrap(), false),
        ];
        assert_eq!(named(vec![class("a", "a:{n}", week)]), names[1]);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 11);
    }
}
