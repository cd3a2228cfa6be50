//! One run of a sweep: it plans for every topic that is due, asks the guard, and trims what has something to lose.
//!
//! # Invariants
//! - Memory is bounded, however many topics there are.
//! - A run that ends early has done whole trims only, so that the next one goes on from there.
//! - A topic that loses nothing is put off, so that the next run does not look at it.

use std::{future::poll_fn, num::NonZeroUsize, ops::ControlFlow, sync::Arc, task::Poll};

use super::{
    cursors::{Cursors, StaleCursorCount},
    dates::Dates,
    due,
    input::{Retention, RetentionInput},
    order::{SweepOptions, SweepOrder},
    plan::{Planned, SweepPlan, Tally, is_too_much},
};
use crate::{
    class::{Classes, TopicClass},
    clock::Clock,
    error::{Error, ErrorKind},
    journal::{CorruptTopic, DueAfter, Journal as _, Keep, Settled, is_ahead},
    position::{Bounds, Cursor, Watermark},
    tail::TailJournal,
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// Topics that are listed at once.
const PAGE: NonZeroUsize = NonZeroUsize::new(500).expect("500 is not zero");
/// Topics to be trimmed that are remembered between planning and trimming. Those past it are planned for again.
const DUE_MOST: usize = 10_000;
/// A run ends when this many topics in a row fail: the fault is then not one of the topics.
const FAILURES_IN_A_ROW: u32 = 3;

/// A topic that is to be trimmed.
#[derive(Debug)]
struct Due {
    topic: Topic,
    keep: Keep,
    floor: Watermark,
    /// The head that was planned for.
    head: Cursor,
    /// The floor that it gets, at least.
    planned: Cursor,
}

/// What is to be trimmed, in the order in which it was found.
#[derive(Debug, Default)]
struct Dues {
    due: Vec<Due>,
    /// Where the last of them was found.
    last: Option<DueAfter>,
    /// Whether there is more to be trimmed after it.
    more: bool,
}

/// What plans and trims, topic by topic, for as long as it is polled.
#[derive(Debug)]
pub(crate) struct SweepRun {
    pub(crate) retention: Arc<dyn Retention>,
    pub(crate) options: SweepOptions,
    pub(crate) tail: Arc<TailJournal>,
    pub(crate) classes: Classes,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dates: Arc<Dates>,
}

/// How a run ended that nothing went wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    HeldBack,
}

impl SweepRun {
    /// What the next sweep would do. Changes nothing.
    pub(super) async fn plan(&self) -> Result<SweepPlan, Error> {
        let (now, mut tally) = (self.dates.at(self.clock.read()), Tally::new(&self.classes));
        self.look(now, None, |seen| {
            match seen {
                Seen::Topic(planned, ..) => tally.plan(&planned),
                Seen::Corrupt(name, error) => tally.corrupt(name, error),
                Seen::Unread(topic, class, error) => tally.unread(topic, class, error),
            }
            ControlFlow::Continue(None)
        })
        .await?;
        telemetry::sweep_planned(tally.stale.connected + tally.stale.seen);
        Ok(tally.into_plan(now, self.options.max_stale_cursors))
    }

    /// Plans, asks the guard, trims. What was done is in `tally`, however it ends.
    pub(super) async fn run(
        &self,
        order: SweepOrder,
        now: Timestamp,
        tally: &mut Tally,
    ) -> Result<Ended, Error> {
        // Where something is gone, there may be dedup keys of it.
        let loses =
            |planned: &Planned<'_>| planned.plan.updates > 0 || planned.bounds.floor > Watermark::ORIGIN;
        let put_off = |planned: &Planned<'_>, keep: &Keep| {
            self.put_off(planned.topic, planned.bounds.at_head(), keep, planned.plan.oldest, now)
        };
        // What was put off under other rules is due from here on.
        self.settle(&[]).await;

        let (mut dues, mut left) = (Dues::default(), StaleCursorCount::default());
        let (mut ahead, mut ahead_topics) = (None, 0);
        self.look(now, None, |seen| {
            if let Seen::Topic(planned, ..) = &seen
                && let Some(at) = planned.plan.oldest.filter(|at| is_ahead(*at, now))
            {
                ahead_topics += 1;
                ahead.get_or_insert_with(|| (planned.topic.clone(), at));
            }
            match seen {
                Seen::Topic(planned, keep, at) if loses(&planned) => {
                    left.connected += planned.left.connected;
                    left.seen += planned.left.seen;
                    tally.expect(planned.class);
                    dues.take(&planned, keep, at);
                }
                Seen::Topic(planned, keep, _) => {
                    tally.plan(&planned);
                    return ControlFlow::Continue(put_off(&planned, &keep));
                }
                Seen::Corrupt(name, error) => tally.corrupt(name, error),
                Seen::Unread(topic, class, error) => tally.unread(topic, class, error),
            }
            ControlFlow::Continue(None)
        })
        .await?;
        Self::tell_of_clocks(ahead, ahead_topics, now);
        telemetry::sweep_planned(left.connected + left.seen);
        if !order.force && is_too_much(left, self.options.max_stale_cursors) {
            tally.leave_behind(left);
            return Ok(Ended::HeldBack);
        }

        loop {
            let Dues { due, last, more } = std::mem::take(&mut dues);
            self.trim_all(due, now, tally).await?;
            if !more {
                break;
            }
            self.look(now, last, |seen| {
                match seen {
                    Seen::Topic(planned, keep, at) if loses(&planned) => {
                        dues.take(&planned, keep, at);
                        if dues.more {
                            return ControlFlow::Break(());
                        }
                    }
                    Seen::Topic(planned, keep, _) => {
                        tally.trimmed(planned.class, &planned.plan);
                        return ControlFlow::Continue(put_off(&planned, &keep));
                    }
                    // It was counted when all were planned for.
                    Seen::Corrupt(..) => {}
                    Seen::Unread(topic, _, error) => tally.failed(topic.as_str(), error),
                }
                ControlFlow::Continue(None)
            })
            .await?;
        }
        Ok(Ended::Done)
    }

    /// Tells of updates that say that they were published in the future.
    fn tell_of_clocks(ahead: Option<(Topic, Timestamp)>, topics: u64, now: Timestamp) {
        if let Some((topic, at)) = ahead {
            let ahead_seconds = at.since(now).as_secs();
            tracing::warn!(
                %topic,
                ahead_seconds,
                topics,
                "published_at of the oldest update lies in the future: the clock of a node is or was ahead, or this node's is behind; \
                 it is taken to be as old as what follows it"
            );
        }
    }

    /// Trims one after the other. A journal trims in steps, so that appends go in between.
    async fn trim_all(&self, due: Vec<Due>, now: Timestamp, tally: &mut Tally) -> Result<(), Error> {
        let (mut failures, mut settled) = (0, Vec::new());
        for Due { topic, keep, floor, head, planned } in due {
            let class = self.classes.of(&topic).map(|class| &**class);
            // Not past what the guard was asked about, whatever was appended since: that goes with the next sweep.
            let most = keep.never_past.map_or(planned.watermark, |held| held.min(planned.watermark));
            match self.tail.trim(&topic, Keep { never_past: Some(most), ..keep }, now).await {
                Ok(trimmed) => {
                    failures = 0;
                    tally.trimmed(class, &trimmed);
                    let Bounds { epoch, floor: reached, .. } = trimmed.bounds;
                    if trimmed.updates > 0 {
                        tally.leave_behind(self.newly_behind(&topic, floor, trimmed.bounds.at_floor()));
                    }
                    if epoch == planned.epoch && reached < planned.watermark {
                        let to = planned.watermark;
                        let short = format!("its trim ended at {reached}, and not at {to}");
                        tally.failed(topic.as_str(), &short);
                    } else {
                        settled.extend(self.put_off(&topic, head, &keep, trimmed.oldest, now));
                    }
                }
                Err(error) => {
                    failures = failed_in_a_row(failures, &error);
                    tally.failed(topic.as_str(), &error);
                    if failures == FAILURES_IN_A_ROW {
                        self.settle(&settled).await;
                        return Err(error);
                    }
                }
            }
            if settled.len() == due::SETTLED_AT_ONCE {
                self.settle(&std::mem::take(&mut settled)).await;
            }
            breathe().await;
        }
        if !settled.is_empty() {
            self.settle(&settled).await;
        }
        Ok(())
    }

    /// Plans for every topic that is due, from `after` on, and shows each to `see` until that says to stop. What it gives back is
    /// put off.
    async fn look(
        &self,
        now: Timestamp,
        mut after: Option<DueAfter>,
        mut see: impl FnMut(Seen<'_>) -> ControlFlow<(), Option<Settled>> + Send,
    ) -> Result<(), Error> {
        let (rules, ever) = (self.rules(), Timestamp::from_millis(u64::MAX));
        let (mut until, mut failures) = (now, 0);
        loop {
            let page = self.tail.due(rules, after.as_ref(), until, PAGE).await?;
            let mut settled = Vec::new();
            for CorruptTopic { name, error } in &page.corrupt {
                if see(Seen::Corrupt(name, error)).is_break() {
                    return Ok(());
                }
            }
            for (at, topic, bounds) in &page.topics {
                let class = self.classes.of(topic).map(|class| &**class);
                let keep = self.keep(topic, class, *bounds, now);
                let seen = match self.tail.plan_trim(topic, keep, now).await {
                    Ok(plan) => {
                        failures = 0;
                        let left = match plan.updates {
                            0 => StaleCursorCount::default(),
                            _ => self.newly_behind(topic, bounds.floor, plan.bounds.at_floor()),
                        };
                        see(Seen::Topic(Planned { topic, class, bounds: *bounds, plan, left }, keep, *at))
                    }
                    Err(error) => {
                        failures = failed_in_a_row(failures, &error);
                        if failures == FAILURES_IN_A_ROW {
                            return Err(error);
                        }
                        see(Seen::Unread(topic, class, &error))
                    }
                };
                match seen {
                    ControlFlow::Continue(done) => settled.extend(done),
                    ControlFlow::Break(()) => return Ok(()),
                }
                breathe().await;
            }
            if !settled.is_empty() {
                self.settle(&settled).await;
            }
            let last = page.topics.last().map(|(at, topic, _)| place(*at, topic)).or(after);
            after = match page.next {
                Some(next) => Some(next),
                None if until == ever => return Ok(()),
                // What a clock put off that was ahead.
                None => {
                    until = ever;
                    last.max(Some(due::horizon(now)))
                }
            };
        }
    }

    fn keep(&self, topic: &Topic, class: Option<&TopicClass>, bounds: Bounds, now: Timestamp) -> Keep {
        let Some(class) = class else { return Keep::everything() };
        let followers = self.cursors.followers(topic, bounds.epoch, self.clock.moment());
        let input = RetentionInput {
            slowest_connected: followers.slowest_connected,
            slowest_seen: followers.slowest_seen,
            ..RetentionInput::new(bounds, now)
        };
        self.retention.keep(topic, class, &input)
    }

    /// Whom a floor that rises from `before` to `after` leaves behind.
    fn newly_behind(&self, topic: &Topic, before: Watermark, after: Cursor) -> StaleCursorCount {
        let (cursors, now) = (&self.cursors, self.clock.moment());
        let already = cursors.count_stale_below(topic, Cursor::new(after.epoch, before), now);
        let all = cursors.count_stale_below(topic, after, now);
        StaleCursorCount {
            connected: all.connected.saturating_sub(already.connected),
            seen: all.seen.saturating_sub(already.seen),
        }
    }

    /// What names the rules of this handle.
    fn rules(&self) -> u64 {
        due::rules(&self.classes, self.retention.lasts())
    }

    /// A topic that loses nothing by `keep`, put off; none where it must be looked at each time.
    fn put_off(
        &self,
        topic: &Topic,
        head: Cursor,
        keep: &Keep,
        oldest: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Settled> {
        let retire_after = self.options.retire_after;
        self.retention.lasts().then(|| due::settled(topic, head, keep, oldest, now, retire_after)).flatten()
    }

    /// Puts off topics that have nothing to lose. Where that fails, they are looked at once more.
    async fn settle(&self, settled: &[Settled]) {
        match self.tail.settle(self.rules(), settled).await {
            Ok(retired) => telemetry::topics_retired(retired),
            Err(error) => tracing::warn!(
                %error,
                "topics that lose nothing could not be put off; the next sweep looks at them again"
            ),
        }
    }
}

/// What a look at a topic found.
enum Seen<'a> {
    /// What would go of it, under what is to be kept, and since when it is due.
    Topic(Planned<'a>, Keep, Timestamp),
    /// Something that no store has written, under a name that may be none.
    Corrupt(&'a str, &'a Error),
    /// Nothing: it could not be read.
    Unread(&'a Topic, Option<&'a TopicClass>, &'a Error),
}

impl Dues {
    fn take(&mut self, planned: &Planned<'_>, keep: Keep, at: Timestamp) {
        if self.due.len() == DUE_MOST {
            self.more = true;
            return;
        }
        self.last = Some(place(at, planned.topic));
        self.due.push(Due {
            topic: planned.topic.clone(),
            keep,
            floor: planned.bounds.floor,
            head: planned.bounds.at_head(),
            planned: planned.plan.bounds.at_floor(),
        });
    }
}

fn place(at: Timestamp, topic: &Topic) -> DueAfter {
    DueAfter { at, name: topic.as_str().to_owned() }
}

/// How many topics in a row failed, with this one. What is corrupt, or makes the store panic, is one topic's own trouble, however
/// many there are.
fn failed_in_a_row(before: u32, error: &Error) -> u32 {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Internal | ErrorKind::Invalid => before,
        ErrorKind::Full | ErrorKind::ReadOnly | ErrorKind::Schema | ErrorKind::Unavailable => before + 1,
    }
}

/// Lets others run: a journal in memory never waits.
async fn breathe() {
    let mut breathed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut breathed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
