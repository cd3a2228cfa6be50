//! Following a topic within the process: what drives a [`Follower`] where there is no connection.
//!
//! It watches, asks, hands out what was delivered, and sleeps until a head is announced or it is time to poll. The promises are the
//! follower's, as for a channel of a connection; the journal is read as for one too, with the same admission and permits. An
//! application that is put off waits here; a client would be told when to come back.
//!
//! # Invariants
//! - The watch comes before the first question, so every append after its answer is announced to the watch.
//! - After an error it stands where it stood, and waits before it asks again, so that a loop that notes the error and goes
//!   on does not spin.

use std::hash::BuildHasher as _;

use futures::{Stream, future::Either, stream};

use super::Khala;
use crate::{
    clock::Moment,
    error::Error,
    event::{DocumentPage, EventPage, Start, Subscription, UpdatePage},
    fanout::Watch,
    follower::{Answer, Context, Delivery, Evidence, Follower, Next, Step},
    position::Cursor,
    replay::Waiter,
    retention::CursorHandle,
    stats::Counts,
    tail::FollowResult,
    topic::Topic,
    wire::JoinRequest,
};

/// The subject of all subscriptions of the process at replay admission: one among those of the connections.
const SUBJECT: &str = "";

/// A topic that is followed within the process.
#[derive(Debug)]
struct Following {
    khala: Khala,
    follower: Follower,
    watch: Watch,
    evidence: Evidence,
    waiter: Waiter,
    /// Tells this subscription from others: two that bring the same stale cursor are no client in a loop.
    name: String,
    counts: Counts,
    /// Counts among the cursors that a trim would make stale, once the subscriber has one.
    cursor_handle: Option<CursorHandle>,
    state: State,
    poll_at: Moment,
    /// What was read as it was opened.
    ready: Option<EventPage>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Asks,
    /// A read failed: until that moment.
    Rests(Moment),
    /// Until a head is announced or it is time to poll, or until that moment.
    Sleeps(Option<Moment>),
    /// The log cannot be continued, and the subscriber was told.
    Over,
}

impl Khala {
    /// Follows a topic in this process, with the promises of the wire: first what was missed, then what comes.
    pub(super) async fn follow(&self, topic: &Topic, start: Start) -> Result<Subscription, Error> {
        let watch = self.fanout().watch(topic).await?;
        let mut following = Following::new(self.clone(), topic.clone(), &start.into(), watch);
        let at = following.open().await?;
        Ok(Subscription::new(following.into_stream(), at))
    }
}

impl Following {
    fn new(khala: Khala, topic: Topic, request: &JoinRequest, watch: Watch) -> Self {
        let (now, class) = (khala.moment(), khala.class_of(&topic).cloned());
        let mut follower = Follower::new(topic, class, request, now, now);
        if let Some(head) = watch.head() {
            follower.on_head(head);
        }
        let number = khala.connections().number();
        Self {
            waiter: Waiter { subject: khala.0.hasher.hash_one(SUBJECT), connection: number },
            name: format!("subscription {number}"),
            poll_at: now.plus(khala.sessions().poll_interval),
            khala,
            follower,
            watch,
            evidence: Evidence::default(),
            counts: Counts::default(),
            cursor_handle: None,
            state: State::Asks,
            ready: None,
        }
    }

    /// Waits until it is known where it starts, or that it cannot; gives the cursor, but not of a snapshot.
    async fn open(&mut self) -> Result<Option<Cursor>, Error> {
        loop {
            let step = self.ask().await;
            let with_documents = matches!(step.delivery, Some(Delivery::Documents { .. }));
            let opened = step.opened.as_ref().map(|opened| opened.at);
            self.ready = self.take(step)?;
            match (opened, self.state) {
                (Some(at), _) => {
                    self.stands_at(at);
                    return Ok((!with_documents).then_some(at));
                }
                (None, State::Over) => return Ok(None),
                (None, state) => self.sleep(state).await,
            }
        }
    }

    /// Waits for what comes next.
    async fn next(&mut self) -> Result<EventPage, Error> {
        if let Some(page) = self.ready.take() {
            self.hands_out();
            return Ok(page);
        }
        loop {
            self.sleep(self.state).await;
            let step = self.ask().await;
            if let Some(next) = self.take(step).transpose() {
                self.hands_out();
                return next;
            }
        }
    }

    /// Notes where the subscriber stands once it has what is handed out now.
    fn hands_out(&mut self) {
        if let Some(cursor) = self.follower.cursor() {
            self.stands_at(cursor);
        }
    }

    fn stands_at(&mut self, cursor: Cursor) {
        let now = self.khala.moment();
        match &self.cursor_handle {
            Some(handle) => handle.moved(cursor, now),
            None => {
                self.cursor_handle =
                    Some(self.khala.cursors().follow(self.follower.topic(), None, cursor, now));
            }
        }
    }

    /// Has the follower's question answered.
    async fn ask(&mut self) -> Step {
        self.take_news();
        let Self { khala, follower, evidence, waiter, .. } = self;
        let at = (follower.cursor(), follower.published_at());
        let question = follower.question();
        let topic = follower.topic().clone();
        let mut doubted = evidence.doubt(khala.journal(), &topic, question, at.1);
        let answer = loop {
            let question = match doubted {
                Ok(question) => question,
                Err(stale) => break Ok(Answer::Read(FollowResult::Stale(stale))),
            };
            let answer = khala.answer(*waiter, &topic, question).await;
            match evidence.doubt_answer(khala.journal(), &topic, at, &answer) {
                Some(again) => doubted = again,
                None => break answer,
            }
        };
        if matches!(answer, Err(_) | Ok(Answer::Deferred(_))) {
            evidence.unanswered();
        }
        // What was announced meanwhile is no find of a poll.
        self.take_news();
        let (khala, options) = (&self.khala, self.khala.sessions());
        let context = Context {
            stats: khala.shared_stats(),
            subject: &self.name,
            retry_after: options.retry_after,
            poll_interval: options.poll_interval,
            now: khala.clock().read(),
        };
        self.follower.answer(answer, &context)
    }

    fn take_news(&mut self) {
        if let Some(head) = self.watch.news() {
            self.follower.on_head(head);
            self.counts.heard();
        }
    }

    /// What a step hands out, if anything.
    fn take(&mut self, step: Step) -> Result<Option<EventPage>, Error> {
        let now = self.khala.moment();
        let page = step.delivery.map(|delivery| match delivery {
            Delivery::Updates { page, complete } => {
                self.counts.sent(page.page().updates.len(), self.khala.stats(), now);
                EventPage::Updates(UpdatePage::shared(page, complete))
            }
            Delivery::Documents { page, first, stale } => {
                let page = page.page();
                let page = DocumentPage::new(page.at, first, page.documents.clone(), page.complete);
                EventPage::Snapshot(page.with_stale(stale.map(|stale| *stale)))
            }
        });
        self.state = match step.next {
            Next::Ask => State::Asks,
            Next::Rest => State::Sleeps(None),
            Next::Wait(wait) => State::Sleeps(Some(now.plus(wait))),
            Next::Deferred(limited) => State::Sleeps(Some(now.plus(limited.retry_after))),
            Next::Failed { error, wait } => {
                self.state = State::Rests(now.plus(wait));
                return Err(error);
            }
            Next::Stale(stale) => {
                self.state = State::Over;
                return Ok(Some(EventPage::Stale(stale)));
            }
        };
        Ok(page)
    }

    /// Sleeps until there is something to ask.
    async fn sleep(&mut self, state: State) {
        let (until, listens) = match state {
            State::Asks | State::Over => return,
            State::Rests(until) => (Some(until), false),
            State::Sleeps(until) => (until, true),
        };
        let poll_interval = self.khala.sessions().poll_interval;
        loop {
            let now = self.khala.moment();
            if until.is_some_and(|until| until <= now) {
                break;
            }
            if self.poll_at <= now {
                self.poll_at = now.plus(poll_interval);
                self.counts.tell(self.khala.stats());
                // Half a period: the first poll of a topic serves all polls of the same period.
                if self.follower.poll(now.minus(poll_interval / 2)) && listens {
                    break;
                }
            }
            let wake_at = until.map_or(self.poll_at, |until| until.min(self.poll_at));
            let wake = self.khala.clock().sleep(wake_at.since(now));
            let moved = std::pin::pin!(self.watch.moved());
            if let Either::Left((head, _)) = futures::future::select(moved, wake).await {
                self.follower.on_head(head);
                self.counts.heard();
                if listens && self.follower.has_news() {
                    break;
                }
            }
        }
        self.state = State::Asks;
    }

    /// Ends after [`EventPage::Stale`], and holds nothing from then on. A `next` that is dropped leaves its wait in the stream, which
    /// goes on with the next one.
    fn into_stream(self) -> impl Stream<Item = Result<EventPage, Error>> + Send {
        stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            let next = following.next().await;
            let is_over = matches!(following.state, State::Over);
            Some((next, (!is_over).then_some(following)))
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.counts.tell(self.khala.stats());
    }
}
