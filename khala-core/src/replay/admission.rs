//! Replay admission control: how much old history a node reads in a second for subscribers that come back, by what each replay costs.
//!
//! Pure but for its lock: the moment is an argument. A join that is answered from memory never comes here.
//!
//! # Invariants
//! - Over any time at most twice the burst, and twice what the rate makes of that time, is admitted, plus the last replay that
//!   was admitted owing.
//! - No subject keeps the others out.
//! - Replays that are deferred together are told to come back one after the other.

use std::{
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Waiter;
use crate::{
    admission::{Book, Bucket, Limited, Rate},
    clock::Moment,
    config::{or_none, seconds},
    journal::ReadLimit,
    position::Cursor,
    recent::Recent,
    topic::Topic,
};

/// How long those who come after a replay that was let in share its pages.
const SHARED_WITHIN: Duration = Duration::from_secs(1);
/// Topics of which that is remembered, at least.
const TOPICS: usize = 1_000;

/// Connections of which it is remembered when they were told to come back, at least.
const TOLD: usize = 10_000;

/// How many replays a node takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct ReplayOptions {
    /// The rate at which joins may ask for pages of history behind the tail. None: no limit.
    #[serde(with = "or_none")]
    pub rate: Option<Rate>,
    /// How many reads of the journal behind the tail run at once. More reads wait in a fair queue.
    pub concurrent_reads: NonZeroUsize,
    /// The longest time after which a client that is turned away is told to return.
    #[serde(rename = "max_retry_after_seconds", with = "seconds")]
    pub max_retry_after: Duration,
    /// The rate at which all clients together are sent pages of history (of 200 updates) while updates are
    /// appended on this node, so that publishers have the rest of the machine. While nothing is appended, there
    /// is no such limit. Pages over HTTP wait in the queue, and are not throttled. None: never throttled.
    #[serde(with = "or_none")]
    pub rate_while_appending: Option<Rate>,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        const fn rate(number: u32) -> NonZeroU32 {
            NonZeroU32::new(number).expect("the defaults are not zero")
        }
        Self {
            // A page of 200 updates takes SQLite a tenth of a millisecond, and the server about as much to send.
            rate: Some(const { Rate::new(rate(2_000), rate(4_000)) }),
            concurrent_reads: const { NonZeroUsize::new(4).expect("4 is not zero") },
            max_retry_after: Duration::from_secs(30),
            // 100,000 updates a second, for a tenth of a processor.
            rate_while_appending: Some(const { Rate::new(rate(500), rate(20)) }),
        }
    }
}

/// The replay admission of one node.
pub(crate) struct ReplayAdmission {
    options: ReplayOptions,
    state: Mutex<State>,
}

struct State {
    /// What was let in.
    taken: Bucket,
    /// The same by subject, for clients that were connected recently.
    by_subject: Book<u64, Bucket>,
    /// What was told to come back. It drains at the same rate, so the next connection that is turned away is told a later time.
    put_off: Bucket,
    /// Where replays of a topic start that were let in a moment ago: those after them read the same pages.
    let_in: Recent<Topic, Option<(Moment, Cursor)>>,
    /// When the last connections were told to come back: one that does not wait is told the same again.
    told: Recent<u64, Moment>,
    /// How many were turned away.
    turned_away: u64,
}

impl fmt::Debug for ReplayAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayAdmission").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ReplayAdmission {
    pub(crate) fn new(options: ReplayOptions) -> Self {
        let state = State {
            taken: Bucket::default(),
            by_subject: Book::new(),
            put_off: Bucket::default(),
            let_in: Recent::new(TOPICS),
            told: Recent::new(TOLD),
            turned_away: 0,
        };
        Self { options, state: Mutex::new(state) }
    }

    pub(crate) fn options(&self) -> ReplayOptions {
        self.options
    }

    /// Lets somebody in who replays a topic from `from` on, with `lag` updates after it, or says when to come back.
    ///
    /// What somebody else reads who was let in a moment ago costs nothing: the pages are shared.
    pub(crate) fn admit_replay(
        &self,
        waiter: Waiter,
        topic: &Topic,
        from: Cursor,
        lag: u64,
        now: Moment,
    ) -> Result<(), Limited> {
        let page = ReadLimit::PAGE.updates.get() as u64;
        let before = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let young = |at: Moment| now.since(at) <= SHARED_WITHIN;
            let last =
                state.let_in.touch(topic).filter(|(at, start)| young(*at) && start.epoch == from.epoch);
            last.map(|(_, start)| start.watermark)
        };
        // Up to where the others started; to the head, if there are none.
        let updates = before.map_or(lag, |start| from.watermark.distance_to(start).min(lag));
        if updates == 0 {
            return Ok(());
        }
        self.admit_pages(waiter, updates.div_ceil(page), now)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.let_in.touch(topic) = Some((now, from));
        Ok(())
    }

    /// Lets somebody in who asks for that many pages, or says when to come back.
    ///
    /// While there is room, replays are admitted in the order in which they come. When there is none, a subject may still have its equal share
    /// of the rate: otherwise one that asks again and again would have all of it.
    pub(crate) fn admit_pages(&self, waiter: Waiter, pages: u64, now: Moment) -> Result<(), Limited> {
        let Some(rate) = self.options.rate else { return Ok(()) };
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let share = share(rate, state.by_subject.len());
        state.by_subject.forget(|own| {
            own.drain(share, now);
            own.is_empty()
        });
        let wait = state.taken.wait(rate, now);
        let own = state.by_subject.entry(&waiter.subject);
        if wait.is_zero() || own.has_room(share, pages, now) {
            state.taken.take_many(pages);
            own.take_many(pages);
            return Ok(());
        }
        let told = state.told.touch(&waiter.connection);
        if *told > now && told.since(now) <= self.options.max_retry_after {
            return Err(Limited::replay_deferred(told.since(now)));
        }
        let behind = state.put_off.drained_in(rate, now);
        // More than the longest wait holds nobody is told apart any more.
        if behind < self.options.max_retry_after {
            state.put_off.take_many(pages);
        }
        state.turned_away = state.turned_away.wrapping_add(1);
        let retry_after = spread(wait + behind, self.options.max_retry_after, state.turned_away);
        *told = now.plus(retry_after);
        Err(Limited::replay_deferred(retry_after))
    }
}

/// The equal share of each of that many.
fn share(rate: Rate, among: usize) -> Rate {
    let among = u32::try_from(among.max(1)).unwrap_or(u32::MAX);
    let part = |whole: NonZeroU32| NonZeroU32::new(whole.get() / among).unwrap_or(NonZeroU32::MIN);
    Rate::new(part(rate.per_second()), part(rate.burst()))
}

/// `wait` and up to a quarter more, at most `longest`. Past it nobody's turn can be told, and they are spread evenly
/// over the last half.
///
/// The fractions of the golden ratio's multiples fill an interval more evenly than chance does, so that of any number
/// of clients that are told in a row hardly two come back together.
fn spread(wait: Duration, longest: Duration, number: u64) -> Duration {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = (number.wrapping_mul(GOLDEN) >> 11) as f64 / (1_u64 << 53) as f64;
    let told = if wait >= longest {
        longest.mul_f64(0.5 + fraction / 2.0)
    } else {
        wait.mul_f64(1.0 + fraction / 4.0)
    };
    // In whole milliseconds, and never none.
    Duration::from_millis(u64::try_from(told.min(longest).as_millis()).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::rate_tests::{at, rate};

    fn admission(per_second: u32, burst: u32, longest: u64) -> ReplayAdmission {
        let longest = Duration::from_millis(longest);
        ReplayAdmission::new(ReplayOptions {
            rate: Some(rate(per_second, burst)),
            max_retry_after: longest,
            ..ReplayOptions::default()
        })
    }

    /// Each connection is somebody else's.
    fn somebody(number: u64) -> Waiter {
        Waiter { subject: number, connection: number }
    }

    #[test]
    fn the_options_can_stand_in_a_settings_file() {
        crate::config::assert_options::<ReplayOptions>();
    }

    #[test]
    fn without_a_rate_everybody_is_let_in() {
        let admission = ReplayAdmission::new(ReplayOptions { rate: None, ..ReplayOptions::default() });
        assert!((0..10_000).all(|n| admission.admit_pages(somebody(n), u64::MAX, at(0)).is_ok()));
    }

    #[test]
    fn a_replay_larger_than_the_burst_is_let_in_and_owed() {
        let admission = admission(1_000, 10, 30_000);
        let one = Waiter { subject: 1, connection: 1 };
        assert!(admission.admit_pages(one, 5_000, at(0)).is_ok());
        let other = Waiter { subject: 1, connection: 2 };
        assert!(admission.admit_pages(other, 1, at(1)).is_err());
        assert!(admission.admit_pages(other, 1, at(4_989)).is_err());
        assert!(admission.admit_pages(other, 1, at(4_991)).is_ok());
    }

    #[test]
    fn a_crowd_is_told_to_come_back_one_after_the_other() {
        // Of one subject, and of as many as there are connections.
        for subjects in [1, 6_000] {
            let admission = admission(1_000, 1_000, 60_000);
            let told: Vec<_> = (0..6_000)
                .map(|n| Waiter { subject: n % subjects, connection: n })
                .filter_map(|one| admission.admit_pages(one, 5, at(0)).err())
                .map(|limited| limited.retry_after.as_millis())
                .collect();
            // 5,800 replays of 5 pages at 1,000 a second: 29 seconds, and a quarter more for the last.
            assert!((5_700..=5_800).contains(&told.len()), "{}", told.len());
            for second in 0..28 {
                let within = second * 1_000..(second + 1) * 1_000;
                let back = told.iter().filter(|told| within.contains(*told)).count();
                assert!((100..=250).contains(&back), "{back} come back in second {second}");
            }
            assert!(told.iter().all(|told| *told <= 29_000 * 5 / 4 + 10));
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_and_those_who_do_are_spread() {
        let admission = admission(10, 1, 10_000);
        let told: Vec<_> = (0..1_000)
            .filter_map(|n| admission.admit_pages(Waiter { subject: 1, connection: n }, 10, at(0)).err())
            .map(|limited| limited.retry_after.as_millis())
            .skip(100)
            .collect();
        assert!(told.iter().all(|told| (5_000..=10_000).contains(told)));
        for tenth in 0..10 {
            let slice = 5_000 + tenth * 500..5_500 + tenth * 500;
            let back = told.iter().filter(|told| slice.contains(*told)).count();
            assert!((80..=100).contains(&back), "{back} of 899 in a tenth");
        }
    }

    #[test]
    fn a_crowd_that_reads_the_same_pays_once() {
        let admission = admission(1, 10, 30_000);
        let topic = Topic::parse("t").unwrap();
        let from = |watermark| {
            Cursor::new(
                crate::position::Epoch::from_bits(1),
                crate::position::Watermark::new(watermark).unwrap(),
            )
        };
        let mut connection = 0;
        let mut come = |watermark, millis| {
            connection += 1;
            let one = Waiter { subject: 1, connection };
            admission.admit_replay(one, &topic, from(watermark), 10_000 - watermark, at(millis)).is_ok()
        };
        assert!(come(6_000, 0), "twenty pages, which is more than there is");
        assert!((0..1_000).all(|n| come(6_000 + n, 500)), "they read the same");
        assert!(!come(5_999, 500), "a page more");
        assert!(!come(6_000, 1_001), "the others are too far ahead");
    }

    #[test]
    fn who_does_not_wait_is_told_the_same_again_and_makes_nobody_wait_longer() {
        let admission = admission(10, 10, 60_000);
        let told = |connection, millis| {
            let limited =
                admission.admit_pages(Waiter { subject: 1, connection }, 10, at(millis)).unwrap_err();
            limited.retry_after.as_millis() as u64
        };
        admission.admit_pages(somebody(1), 20, at(0)).unwrap();
        let first = told(2, 0);
        for millis in 1..1_000 {
            assert_eq!(told(2, millis), first - millis);
        }
        assert!(told(3, 1_000) < 3_000, "only one stands before it");
    }

    #[test]
    fn one_subject_that_asks_for_everything_leaves_the_others_their_share() {
        let admission = admission(100, 100, 30_000);
        let (mut others, mut greedy) = (0, 0);
        for millis in 0..60_000 {
            greedy += u32::from(
                admission.admit_pages(Waiter { subject: 1, connection: millis }, 50, at(millis)).is_ok(),
            );
            if millis % 1_000 == 500 {
                others += u32::from(admission.admit_pages(somebody(2), 20, at(millis)).is_ok());
            }
        }
        assert!(others >= 59, "{others} of 60, at 20 pages of its 50 a second");
        assert!((40..=130).contains(&greedy), "{greedy} of 120 that the whole rate is good for");
    }

    proptest! {
        #[test]
        fn no_more_is_let_in_than_twice_the_rate_allows(
            per_second in 1..500_u32,
            burst in 1..50_u32,
            calls in prop::collection::vec((0..50_u64, 1..20_u64, 0..5_u64), 1..200),
        ) {
            let admission = admission(per_second, burst, 30_000);
            let (mut now, mut through, mut largest) = (0, 0, 0);
            for (passed, pages, who) in calls {
                now += passed;
                if admission.admit_pages(somebody(who), pages, at(now)).is_ok() {
                    through += pages;
                    largest = largest.max(pages);
                }
                // A share is at least one page, and one a second.
                let own = 5 + 5 * now / 1_000;
                let allowed = 2 * (u64::from(burst) + now * u64::from(per_second) / 1_000) + own + largest;
                prop_assert!(through <= allowed, "{through} of {allowed}");
            }
        }
    }
}
