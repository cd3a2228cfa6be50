//! How much each subject publishes, and how many topics it makes by that.
//!
//! Whether a batch makes its topic is known only once it is stored, so new topics are charged afterwards: what is over is
//! owed, and the subject makes no other topic until that has drained.
//!
//! # Invariants
//! What is refused takes nothing. Memory follows the subjects that have something to drain.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    AdmissionOptions,
    book::Book,
    rate::{Bucket, Rate},
};
use crate::clock::Moment;

/// What has not drained yet, by subject.
pub(crate) struct Publishers {
    publishes: Option<Rate>,
    new_topics: Option<Rate>,
    book: Mutex<Book<Arc<str>, Flow>>,
}

#[derive(Default)]
struct Flow {
    publishes: Bucket,
    new_topics: Bucket,
}

impl fmt::Debug for Publishers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishes, new_topics, .. } = self;
        f.debug_struct("Publishers")
            .field("publishes", publishes)
            .field("new_topics", new_topics)
            .finish_non_exhaustive()
    }
}

impl Publishers {
    pub(crate) fn new(options: AdmissionOptions) -> Self {
        let AdmissionOptions { publishes_per_subject: publishes, new_topics_per_subject: new_topics, .. } =
            options;
        Self { publishes, new_topics, book: Mutex::new(Book::new()) }
    }

    /// How long `subject` has to wait before it may publish, if it has to.
    pub(crate) fn wait_to_publish(&self, subject: &str, now: Moment) -> Option<(Rate, Duration)> {
        self.wait(self.publishes, subject, now, |flow| &mut flow.publishes)
    }

    /// How long `subject` has to wait before it may make another topic, if it has to.
    pub(crate) fn wait_for_new_topic(&self, subject: &str, now: Moment) -> Option<(Rate, Duration)> {
        self.wait(self.new_topics, subject, now, |flow| &mut flow.new_topics)
    }

    /// `subject` publishes that many updates.
    pub(crate) fn published(&self, subject: &str, updates: u64, now: Moment) {
        if let Some(rate) = self.publishes {
            self.charge(rate, subject, updates, now, |flow| &mut flow.publishes);
        }
    }

    /// `subject` has made a topic.
    pub(crate) fn made_topic(&self, subject: &str, now: Moment) {
        if let Some(rate) = self.new_topics {
            self.charge(rate, subject, 1, now, |flow| &mut flow.new_topics);
        }
    }

    fn wait(
        &self,
        rate: Option<Rate>,
        subject: &str,
        now: Moment,
        bucket: fn(&mut Flow) -> &mut Bucket,
    ) -> Option<(Rate, Duration)> {
        let rate = rate?;
        let mut book = self.lock();
        let wait = bucket(book.entries.get_mut(subject)?).wait(rate, now);
        (!wait.is_zero()).then_some((rate, wait))
    }

    fn charge(
        &self,
        rate: Rate,
        subject: &str,
        calls: u64,
        now: Moment,
        bucket: fn(&mut Flow) -> &mut Bucket,
    ) {
        let mut book = self.lock();
        book.forget(|Flow { publishes, new_topics }| {
            [(self.publishes, publishes), (self.new_topics, new_topics)].into_iter().all(|(rate, bucket)| {
                rate.is_none_or(|rate| {
                    bucket.drain(rate, now);
                    bucket.is_empty()
                })
            })
        });
        let flow = match book.entries.get_mut(subject) {
            Some(flow) => flow,
            None => book.entry(&subject.into()),
        };
        let bucket = bucket(flow);
        bucket.drain(rate, now);
        bucket.take_many(calls);
    }

    fn lock(&self) -> MutexGuard<'_, Book<Arc<str>, Flow>> {
        // Each change under the lock is whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rate::tests::{at, rate},
        *,
    };

    fn publishers() -> Publishers {
        let options = AdmissionOptions {
            publishes_per_subject: Some(rate(10, 5)),
            new_topics_per_subject: Some(rate(2, 3)),
            ..AdmissionOptions::unlimited()
        };
        Publishers::new(options)
    }

    #[test]
    fn each_subject_has_its_own_and_what_is_over_is_owed() {
        let publishers = publishers();
        publishers.published("ann", 8, at(0));
        let millis =
            |subject, now| publishers.wait_to_publish(subject, at(now)).map(|(_, wait)| wait.as_millis());
        assert_eq!((millis("ann", 0), millis("bob", 0)), (Some(400), None));
        assert_eq!((millis("ann", 399), millis("ann", 400)), (Some(1), None));
        assert_eq!(publishers.wait_for_new_topic("ann", at(0)), None, "publishing makes no topic");
        (0..5).for_each(|_| publishers.made_topic("ann", at(400)));
        let (of, wait) = publishers.wait_for_new_topic("ann", at(400)).unwrap();
        assert_eq!((of.per_second().get(), wait), (2, Duration::from_millis(1_500)));
        assert_eq!(publishers.wait_for_new_topic("ann", at(1_900)), None);
    }

    #[test]
    fn subjects_that_are_quiet_again_are_forgotten() {
        let publishers = publishers();
        for number in 0..100_000 {
            publishers.published(&format!("s{number}"), 5, at(number * 100));
        }
        let known = publishers.lock().len();
        assert!(known < 64, "{known}");
    }

    #[test]
    fn without_limits_nothing_is_remembered() {
        let publishers = Publishers::new(AdmissionOptions::unlimited());
        publishers.published("ann", 1_000_000, at(0));
        publishers.made_topic("ann", at(0));
        assert_eq!((publishers.lock().len(), publishers.wait_to_publish("ann", at(0))), (0, None));
    }
}
