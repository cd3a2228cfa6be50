//! The handle's sweeper: plans for every topic that is due, asks the guard, and trims what has something to lose, topic by topic.
//!
//! It owns the order of things and no rule: [`Retention`] says what is kept, the journal trims in steps of its own. What
//! must stay true: memory is bounded however many topics there are, and a run that ends early, for whatever reason, has
//! done whole trims only, so that the next one goes on from there. What loses nothing is put off, so that the next one does not look
//! at it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use futures::{FutureExt as _, pin_mut, select_biased};

use super::{
    ClassRetention, Facts, FailedTopic, Lead, LeftBehind, Retention, SweepOptions, SweepOrder, SweepOutcome,
    SweepPlan, SweepRecord, SweepTrigger, Sweeps, Swept, due,
    plan::{Planned, Tally, is_too_much},
};
use crate::{
    class::TopicClass,
    clock::Now,
    error::{Error, ErrorKind},
    journal::{CorruptTopic, DueAfter, Journal as _, Keep, Settled, is_ahead},
    khala::{Khala, KhalaBuilder},
    node::NodeId,
    position::{Bounds, Cursor, Watermark},
    telemetry,
    topic::Topic,
    update::Timestamp,
};

/// Topics that are listed at once.
const PAGE: NonZeroUsize = NonZeroUsize::new(500).expect("500 is not zero");
/// Topics to be trimmed that are remembered between planning and trimming. Those past it are planned for again.
const DUE_MOST: usize = 10_000;
/// A run ends when so many topics in a row fail: it is not the topics then.
const FAILURES_IN_A_ROW: u32 = 3;
/// Records that are kept until they can be stored.
const UNRECORDED: usize = 100;
/// Records that are looked through for the last sweep that went to its end.
const LOOKED_THROUGH: NonZeroUsize = NonZeroUsize::new(50).expect("50 is not zero");

/// What the handle sweeps with.
#[derive(Debug)]
pub(crate) struct Sweeper {
    pub(crate) node: NodeId,
    pub(crate) retention: Arc<dyn Retention>,
    pub(crate) sweeps: Arc<dyn Sweeps>,
    pub(crate) options: SweepOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when this node leads, while a sweep of its own is under way.
    leads_until: Option<Timestamp>,
    /// Records that could not be stored yet, as on a full disk; oldest first.
    unrecorded: VecDeque<SweepRecord>,
}

/// What a handle is told of sweeping before it is made.
#[derive(Debug, Default)]
pub(crate) struct SweeperBuilder {
    pub(crate) options: SweepOptions,
    node: Option<NodeId>,
    retention: Option<Arc<dyn Retention>>,
}

impl SweeperBuilder {
    pub(crate) fn build(self, sweeps: Arc<dyn Sweeps>) -> Sweeper {
        Sweeper {
            node: self.node.unwrap_or_else(NodeId::random),
            retention: self.retention.unwrap_or_else(|| Arc::new(ClassRetention)),
            sweeps,
            options: self.options,
            state: Mutex::default(),
        }
    }
}

impl Sweeper {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sweep that is under way leads until then.
    pub(crate) fn leads(&self, until: Timestamp) {
        self.state().leads_until = Some(until);
    }

    /// The turn to sweep; none while a sweep is under way, with the moment until which that one leads.
    fn turn(&self, until: Timestamp) -> Result<Turn<'_>, Timestamp> {
        let mut state = self.state();
        match state.leads_until {
            Some(until) => Err(until),
            None => {
                state.leads_until = Some(until);
                Ok(Turn(self))
            }
        }
    }
}

/// One sweep at a time in this process, however it ends.
struct Turn<'a>(&'a Sweeper);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().leads_until = None;
    }
}

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

/// How a run ended that nothing went wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    HeldBack,
}

impl KhalaBuilder {
    /// Calls this process `node` among those that share the journal; without, by a random name.
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.sweeper.node = Some(node);
        self
    }

    /// Keeps as much history as `retention` says; without one, as much as the classes say.
    #[must_use]
    pub fn with_retention(mut self, retention: Arc<dyn Retention>) -> Self {
        self.sweeper.retention = Some(retention);
        self
    }

    /// Sets the guard of sweeps, how long a lead lasts, and which cursors count as recently seen.
    #[must_use]
    pub fn with_sweep(mut self, options: SweepOptions) -> Self {
        self.sweeper.options = options;
        self
    }
}

impl Khala {
    /// The name of this process among those that share the journal.
    pub fn node(&self) -> &NodeId {
        &self.0.sweeper.node
    }

    /// How this handle sweeps.
    pub fn sweep_options(&self) -> SweepOptions {
        self.0.sweeper.options
    }

    /// Until when this node leads, while a sweep of its own is under way; it is renewed as that goes on.
    pub fn leads_sweep_until(&self) -> Option<Timestamp> {
        self.0.sweeper.state().leads_until
    }

    /// The records of the last sweeps of the journal, newest first, at most `limit`.
    ///
    /// # Errors
    /// The store's [`Error`].
    pub async fn sweep_records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        let stored = self.0.sweeper.sweeps.records(limit).await?;
        // Those of this node that could not be stored yet are newer than what it stored.
        let unrecorded: Vec<_> = self.0.sweeper.state().unrecorded.iter().rev().cloned().collect();
        Ok(unrecorded.into_iter().chain(stored).take(limit.get()).collect())
    }

    /// What the next sweep would do, and whom of those who follow by this node it would leave behind. Changes nothing.
    ///
    /// It reads what would go, in steps that hold nobody up. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// An [`Error`] when the topics cannot be listed, or several in a row cannot be read. One that cannot is counted in the
    /// plan.
    pub async fn plan_sweep(&self) -> Result<SweepPlan, Error> {
        let (now, mut tally) = (self.0.dates.at(self.clock().read()), Tally::new(&self.0.classes));
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
        Ok(tally.into_plan(now, self.0.sweeper.options.guard))
    }

    /// Trims every topic that is due to what is kept of it, and records the run.
    ///
    /// Due is what may have something to lose: what was appended to since it was last looked at, what has updates that became too
    /// old, what nobody has looked at for a week, and everything where the rules have changed. First all of them are planned for.
    /// If that leaves more cursors behind than the guard allows, and the order is not forced, nothing goes. A topic that cannot be
    /// trimmed fails the run and does not end it; several in a row do.
    ///
    /// How old an update is, is judged by the wall clock; where that was set forward, by the clock of before, for a day.
    ///
    /// A dropped future ends the run where it is, without a record. Another node can sweep then when the lead has ended;
    /// this one, at once.
    ///
    /// # Errors
    /// An [`Error`] when it is not known who leads, so that nothing was begun.
    pub async fn sweep(&self, order: SweepOrder) -> Result<Swept, Error> {
        let (sweeper, Now { wall: began_at, steady: began }) = (&self.0.sweeper, self.clock().read());
        let until = began_at.plus(sweeper.options.lead_for);
        let _turn = match sweeper.turn(until) {
            Ok(turn) => turn,
            Err(until) => return Ok(Swept::Busy { node: sweeper.node.clone(), until }),
        };
        match self.take_lead(began_at, until).await {
            Ok(Lead::Mine) => {}
            Ok(Lead::Theirs { node, until }) => return Ok(Swept::Busy { node, until }),
            Err(error) => {
                let mut record =
                    SweepRecord::new(sweeper.node.clone(), began_at, order.trigger, SweepOutcome::Failed);
                record.error = Some(error.to_string());
                telemetry::swept(&record, self.now());
                self.record(record).await;
                return Err(error);
            }
        }

        let mut tally = Tally::new(&self.0.classes);
        let ended = {
            let (run, lost) = (
                self.run(order, self.0.dates.at(Now { wall: began_at, steady: began }), &mut tally).fuse(),
                self.keep_lead(began.plus(sweeper.options.lead_for)).fuse(),
            );
            pin_mut!(run, lost);
            select_biased! {
                ended = run => ended,
                error = lost => Err(error),
            }
        };
        let outcome = match ended {
            Ok(Ended::Done) if tally.error.is_none() => SweepOutcome::Swept,
            Ok(Ended::HeldBack) => SweepOutcome::HeldBack,
            Ok(Ended::Done) => SweepOutcome::Failed,
            Err(error) => {
                tally.note(&error);
                SweepOutcome::Failed
            }
        };
        let mut record = SweepRecord::new(sweeper.node.clone(), began_at, order.trigger, outcome);
        tally.write_into(&mut record);
        for FailedTopic { topic, error } in &record.failed {
            tracing::error!(
                topic = topic.as_str(),
                error = error.as_str(),
                "a topic cannot be swept; the others are"
            );
        }
        let now = self.now();
        record.took_ms = u64::try_from(self.moment().since(began).as_millis()).unwrap_or(u64::MAX);
        telemetry::swept(&record, now);
        self.record(record.clone()).await;
        // Until long ago, by whatever clock somebody else goes.
        if let Err(error) = sweeper.sweeps.lead(&sweeper.node, now, Timestamp::default()).await {
            tracing::debug!(%error, "the lead of a sweep was not given up; it ends by itself");
        }
        Ok(match outcome {
            SweepOutcome::Failed => Swept::Failed(record),
            SweepOutcome::HeldBack => Swept::HeldBack(record),
            SweepOutcome::Swept => Swept::Done(record),
        })
    }

    /// Sweeps about every `every`, unless another node of the journal has just done so. Never ready.
    ///
    /// The first sweep comes after `every`. What fails is tried again at the next turn. Dropping the future ends the
    /// sweep that is under way, as with [`sweep`](Self::sweep).
    ///
    /// The caller must supervise it, as with [`supervise`](crate::health::supervise): a panic ends it, and nothing is swept any
    /// more. `khala-server` does so.
    pub async fn keep_sweeping(&self, every: Duration) {
        let mut before = None;
        loop {
            // A little later each time, so that nodes that were started together do not stay together.
            self.clock().sleep(every + random_part(every / 10)).await;
            let state = match self.scheduled(every).await {
                Ok(None) => continue,
                Ok(Some(record)) => {
                    if record.updates > 0 {
                        let SweepRecord { topics_trimmed: topics, updates, bytes, took_ms, .. } = &record;
                        tracing::info!(topics, updates, bytes, took_ms, "swept");
                    }
                    Turned { outcome: record.outcome, why: record.error.clone(), left: left_behind(&record) }
                }
                Err(error) => Turned {
                    outcome: SweepOutcome::Failed,
                    why: Some(error.to_string()),
                    left: LeftBehind::default(),
                },
            };
            if before.replace(state.outcome) != Some(state.outcome) {
                state.tell();
            }
        }
    }

    /// A turn of the schedule: the record of the sweep, if there was one.
    async fn scheduled(&self, every: Duration) -> Result<Option<SweepRecord>, Error> {
        let records = self.sweep_records(LOOKED_THROUGH).await?;
        if let Some(last) = records.iter().find(|record| record.outcome == SweepOutcome::Swept) {
            telemetry::last_sweep(last.ended_at());
        }
        let now = self.now();
        // One that is of the future was begun by a clock that was ahead, and says nothing.
        let recently = now.minus(every / 2)..=now;
        let newest = records.first().filter(|newest| newest.outcome != SweepOutcome::Failed);
        if newest.is_some_and(|newest| recently.contains(&newest.began_at)) {
            return Ok(None);
        }
        Ok(match self.sweep(SweepOrder::new(SweepTrigger::Schedule)).await? {
            Swept::Busy { .. } => None,
            Swept::Done(record) | Swept::Failed(record) | Swept::HeldBack(record) => Some(record),
        })
    }

    /// Plans, asks the guard, trims. What was done is in `tally`, however it ends.
    async fn run(&self, order: SweepOrder, now: Timestamp, tally: &mut Tally) -> Result<Ended, Error> {
        let sweeper = &self.0.sweeper;
        // Where something is gone, there may be dedup keys of it.
        let loses =
            |planned: &Planned<'_>| planned.plan.updates > 0 || planned.bounds.floor > Watermark::ORIGIN;
        let put_off = |planned: &Planned<'_>, keep: &Keep| {
            self.put_off(planned.topic, planned.bounds.at_head(), keep, planned.plan.oldest, now)
        };
        // What was put off under other rules is due from here on.
        self.settle(&[]).await;

        let (mut dues, mut left) = (Dues::default(), LeftBehind::default());
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
        if !order.force && is_too_much(left, sweeper.options.guard) {
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
            let class = self.0.classes.of(&topic).map(|class| &**class);
            // Not past what the guard was asked about, whatever was appended since: that goes with the next sweep.
            let most = keep.not_past.map_or(planned.watermark, |held| held.min(planned.watermark));
            match self.0.tail.trim(&topic, keep.with_not_past(most), now).await {
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
            let page = self.0.tail.due(rules, after.as_ref(), until, PAGE).await?;
            let mut settled = Vec::new();
            for CorruptTopic { name, error } in &page.corrupt {
                if see(Seen::Corrupt(name, error)).is_break() {
                    return Ok(());
                }
            }
            for (at, topic, bounds) in &page.topics {
                let class = self.0.classes.of(topic).map(|class| &**class);
                let keep = self.keep(topic, class, *bounds, now);
                let seen = match self.0.tail.plan_trim(topic, keep, now).await {
                    Ok(plan) => {
                        failures = 0;
                        let left = match plan.updates {
                            0 => LeftBehind::default(),
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
        let followers = self.0.cursors.followers(topic, bounds.epoch, self.moment());
        let facts = Facts::new(bounds, now)
            .with_slowest_connected(followers.slowest_connected)
            .with_slowest_seen(followers.slowest_seen);
        self.0.sweeper.retention.keep(topic, class, &facts)
    }

    /// Whom a floor that rises from `before` to `after` leaves behind.
    fn newly_behind(&self, topic: &Topic, before: Watermark, after: Cursor) -> LeftBehind {
        let (cursors, now) = (&self.0.cursors, self.moment());
        let already = cursors.left_behind(topic, Cursor::new(after.epoch, before), now);
        let all = cursors.left_behind(topic, after, now);
        LeftBehind {
            connected: all.connected.saturating_sub(already.connected),
            seen: all.seen.saturating_sub(already.seen),
        }
    }

    /// Stores a record, and those before it that could not be stored. Those that cannot be now stay for the next time,
    /// also when the future is dropped.
    async fn record(&self, record: SweepRecord) {
        let sweeper = &self.0.sweeper;
        {
            let mut state = sweeper.state();
            state.unrecorded.push_back(record);
            while state.unrecorded.len() > UNRECORDED {
                state.unrecorded.pop_front();
            }
        }
        loop {
            let Some(oldest) = sweeper.state().unrecorded.front().cloned() else { return };
            if let Err(error) = sweeper.sweeps.record(&oldest).await {
                tracing::warn!(%error, "a sweep could not be recorded yet");
                return;
            }
            sweeper.state().unrecorded.pop_front();
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

/// How a turn of the schedule ended.
struct Turned {
    outcome: SweepOutcome,
    why: Option<String>,
    left: LeftBehind,
}

impl Turned {
    /// Says so in the log: once, when it is not as it was.
    fn tell(&self) {
        let why = self.why.as_deref().unwrap_or_default();
        match self.outcome {
            SweepOutcome::Failed => {
                tracing::warn!(why, "history cannot be swept; it is tried again at every turn");
            }
            SweepOutcome::HeldBack => {
                let LeftBehind { connected, seen } = self.left;
                tracing::warn!(connected, seen, "the guard holds sweeps back: they would make cursors stale");
            }
            SweepOutcome::Swept => tracing::info!("history is swept"),
        }
    }
}

fn left_behind(record: &SweepRecord) -> LeftBehind {
    LeftBehind { connected: record.stale_connected, seen: record.stale_seen }
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

/// A random part of `whole`.
pub(crate) fn random_part(whole: Duration) -> Duration {
    let mut bits = [0; 4];
    // Without randomness, nodes that were started together stay together.
    if getrandom::fill(&mut bits).is_err() {
        return Duration::ZERO;
    }
    whole.mul_f64(f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX))
}
