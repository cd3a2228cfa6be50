//! The limits of what others publish to one topic: the size of payloads and the rate of updates, by the topic's class.
//!
//! # Invariants
//! What is refused takes nothing; a batch goes through whole or not at all; memory follows the topics to which something was
//! published a short time ago.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::{
    admission::{Book, Bucket, Rate},
    class::TopicClass,
    clock::Moment,
    journal::Batch,
    refusal::PublishLimited,
    topic::Topic,
};

/// What was recently published to each topic.
pub(super) struct Published(Mutex<Book<Topic, Flow>>);

/// What was published to one topic and has not drained yet.
#[derive(Default)]
struct Flow {
    /// At what rate it drains, as its class said last.
    rate: Option<Rate>,
    bucket: Bucket,
}

impl Flow {
    fn is_spent(&mut self, now: Moment) -> bool {
        self.rate.is_none_or(|rate| {
            self.bucket.drain(rate, now);
            self.bucket.is_empty()
        })
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

impl Published {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Book::new()))
    }

    /// Lets a batch through to `topic`, which is of `class`; counts its updates if it does.
    pub(super) fn take(
        &self,
        class: &TopicClass,
        topic: &Topic,
        batch: &Batch,
        now: Moment,
    ) -> Result<(), PublishLimited> {
        if let Some(limit) = class.payload_bytes {
            let sizes = batch.updates().iter().map(|update| update.payload.as_str().len()).enumerate();
            if let Some((index, bytes)) = sizes.into_iter().find(|(_, bytes)| *bytes > limit) {
                let class = class.name.clone();
                return Err(PublishLimited::PayloadTooLarge { index, bytes, limit, class });
            }
        }
        let Some(rate) = class.publish_rate else { return Ok(()) };
        // Each change under the lock is whole.
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.forget(|flow| flow.is_spent(now));
        let flow = book.entry(topic);
        flow.rate = Some(rate);
        let retry_after = flow.bucket.wait(rate, now);
        if !retry_after.is_zero() {
            let (class, tier) = (class.name.clone(), class.tier);
            return Err(PublishLimited::TooFast { class, tier, rate, retry_after });
        }
        flow.bucket.take_many(batch.updates().len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::{class::Tier, wire::Code};
    use crate::{
        class::TopicPattern,
        update::{Kind, NewUpdate, Payload},
    };

    fn batch(payloads: &[usize]) -> Batch {
        let update = |bytes: &usize| {
            let payload = Payload::parse(&format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
            NewUpdate::new(Kind::parse("k").unwrap(), payload)
        };
        Batch::new(payloads.iter().map(update).collect()).unwrap()
    }

    fn many(updates: usize) -> Batch {
        batch(&vec![2; updates])
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(1_700_000_000_000 + millis)
    }

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        Some(Rate::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap()))
    }

    fn class() -> TopicClass {
        TopicClass::new("c", TopicPattern::parse("**").unwrap())
    }

    /// How long `published` says to wait; zero if it let the batch through.
    fn wait(published: &Published, class: &TopicClass, name: &str, updates: usize, millis: u64) -> u64 {
        match published.take(class, &topic(name), &many(updates), at(millis)) {
            Ok(()) => 0,
            Err(limited) => limited.retry_after().expect("it is too fast").as_millis() as u64,
        }
    }

    #[test]
    fn the_first_payload_that_is_too_large_is_named() {
        let published = Published::new();
        let class = TopicClass { payload_bytes: Some(10), publish_rate: rate(1, 1), ..class() };
        let refused = published.take(&class, &topic("t"), &batch(&[10, 11, 12]), at(0)).unwrap_err();
        let expected =
            PublishLimited::PayloadTooLarge { index: 1, bytes: 11, limit: 10, class: "c".to_owned() };
        assert_eq!(refused, expected);
        assert_eq!((refused.code(), refused.retry_after()), (Code::PayloadTooLarge, None));
        assert_eq!(
            refused.to_string(),
            "the payload of update 1 has 11 bytes; the topic's class c allows 10"
        );
        assert_eq!(published.take(&class, &topic("t"), &batch(&[10]), at(0)), Ok(()), "it had taken nothing");
    }

    #[test]
    fn a_batch_goes_whole_and_the_next_waits_for_it() {
        let published = Published::new();
        let class = TopicClass { publish_rate: rate(10, 5), tier: Tier::Hot, ..class() };
        assert_eq!(wait(&published, &class, "t", 4, 0), 0);
        assert_eq!(wait(&published, &class, "t", 100, 0), 0, "there was room for its first");
        // 104 are owed and the burst is 5: room for one more is 100 tenths of a second away.
        assert_eq!(wait(&published, &class, "t", 1, 0), 10_000);
        assert_eq!(wait(&published, &class, "other", 1, 0), 0, "each topic has its own");
        assert_eq!(wait(&published, &class, "t", 1, 9_999), 1);
        let refused = published.take(&class, &topic("t"), &many(1), at(9_999)).unwrap_err();
        assert_eq!(refused.code(), Code::PublishRateLimited);
        assert!(matches!(refused, PublishLimited::TooFast { tier: Tier::Hot, .. }));
        assert_eq!(
            refused.to_string(),
            "more is published to this topic than the 10 updates a second of its class c: try again in 1 ms"
        );
        assert_eq!(wait(&published, &class, "t", 1, 10_000), 0);
    }

    #[test]
    fn without_limits_nothing_is_refused_or_remembered() {
        let published = Published::new();
        let class = TopicClass { payload_bytes: None, publish_rate: None, ..class() };
        for _ in 0..100 {
            published.take(&class, &topic("t"), &batch(&[1 << 20; 10]), at(0)).unwrap();
        }
        assert_eq!(published.0.lock().unwrap().len(), 0);
    }

    #[test]
    fn topics_that_are_quiet_again_are_forgotten() {
        let published = Published::new();
        let class = TopicClass { publish_rate: rate(1_000, 10), ..class() };
        for number in 0..100_000 {
            assert_eq!(wait(&published, &class, &format!("t{number}"), 5, number), 0);
        }
        let known = published.0.lock().unwrap().len();
        assert!(known < 64, "{known}");
    }

    proptest! {
        /// A publisher that waits as it is told is let through then, and publishes at the rate over time.
        #[test]
        fn over_time_the_rate_holds(
            per_second in 1..2_000_u32, burst in 1..50_u32,
            batches in prop::collection::vec(1..200_usize, 2..30),
        ) {
            let published = Published::new();
            let class = TopicClass { publish_rate: rate(per_second, burst), ..class() };
            let (mut now, mut through) = (0, 0);
            for (count, updates) in batches.iter().enumerate() {
                let told = wait(&published, &class, "t", *updates, now);
                if told > 0 {
                    now += told;
                    prop_assert_eq!(wait(&published, &class, "t", *updates, now), 0);
                }
                if count + 1 < batches.len() {
                    through += *updates as u64;
                }
            }
            // All but the last had drained, less the burst, when the last went through; and no later, but for what is
            // lost where waits are whole milliseconds.
            let needed = ((through + 1).saturating_sub(burst.into()) * 1_000).div_ceil(per_second.into());
            prop_assert!(needed <= now && now <= needed + batches.len() as u64, "{} {}", needed, now);
        }
    }
}
