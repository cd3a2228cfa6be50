//! A simulated Phoenix client, which believes nothing: it checks whatever it is sent against the truth.
//!
//! It keeps the reader's rules: `seq <= watermark` is skipped, a batch that continues from beyond the watermark is
//! a hole. It knows which of its pushes are unanswered and which of its joins may still be spoken for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use khala_core::{
    Cursor, DocKey, Epoch, Timestamp, Topic, Update, Watermark,
    position::StaleReason,
    wire::{
        Head, JoinRequest, Joined, OnStale, Ref, Resume, Serializer, SnapshotBatch, StaleCursor, UpdateBatch,
        event,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::coverage::{Saw, saw};

/// Every update that was ever appended, by topic and epoch.
#[derive(Debug, Default)]
pub struct Truth(HashMap<(Topic, Epoch), Vec<Update>>);

impl Truth {
    pub fn write(&mut self, topic: &Topic, epoch: Epoch, updates: Vec<Update>) {
        let log = self.0.entry((topic.clone(), epoch)).or_default();
        for update in updates {
            assert_eq!(update.seq.as_u64(), log.len() as u64 + 1, "the test's own books are right");
            log.push(update);
        }
    }

    fn head(&self, topic: &Topic, epoch: Epoch) -> Watermark {
        let log = self.0.get(&(topic.clone(), epoch));
        Watermark::new(log.map_or(0, |log| log.len() as u64)).unwrap()
    }

    fn holds(&self, topic: &Topic, epoch: Epoch, update: &Update) {
        let log = self.0.get(&(topic.clone(), epoch)).expect("an update is of a history that exists");
        let place = usize::try_from(update.seq.as_u64() - 1).unwrap();
        assert_eq!(log.get(place), Some(update), "an update is what was appended under its seq");
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not joined, and not to be.
    Idle,
    /// To be joined again.
    Failed,
    Joining(String),
    Joined(String),
    Leaving(String),
}

#[derive(Clone, Debug)]
enum Push {
    Heartbeat,
    Join { channel: usize, join_ref: String, request: JoinRequest },
    Leave { channel: usize },
    Token,
}

/// One topic, as the client's application has it.
#[derive(Debug)]
pub struct Channel {
    pub topic: Topic,
    pub state: State,
    /// How it starts without a cursor, and what it wants when its cursor is stale.
    pub request: JoinRequest,
    pub cursor: Option<Cursor>,
    pub documents: BTreeMap<DocKey, Update>,
    /// Whether the documents are all there are.
    pub whole: bool,
    /// A snapshot is to come before updates.
    snapshot_due: bool,
    /// The snapshot that is being read.
    snapshot: Option<(Cursor, Option<DocKey>)>,
    /// Joins of this connection that the server may still speak for.
    open: BTreeSet<String>,
    /// Its `sync:error` came, and `phx_error` is to follow.
    erring: bool,
    /// The head that ends the replay; none after a snapshot that came in the middle of a channel.
    replay_until: Option<Watermark>,
    /// The replay has ended.
    replayed: bool,
}

#[derive(Debug)]
pub struct Client {
    pub serializer: Serializer,
    next_ref: u64,
    pub channels: Vec<Channel>,
    unanswered: BTreeMap<String, Push>,
    pub beat_at: Timestamp,
}

#[derive(Deserialize)]
struct Reply<'a> {
    status: &'a str,
    #[serde(borrow)]
    response: &'a RawValue,
}

#[derive(Deserialize)]
struct Refused {
    code: String,
    retry_after_ms: Option<u64>,
}

impl Client {
    pub fn new(serializer: Serializer, topics: &[Topic], first_ref: u64) -> Self {
        let channel = |topic: &Topic| Channel {
            topic: topic.clone(),
            state: State::Idle,
            request: JoinRequest::default(),
            cursor: None,
            documents: BTreeMap::new(),
            whole: false,
            snapshot_due: false,
            snapshot: None,
            open: BTreeSet::new(),
            erring: false,
            replay_until: None,
            replayed: false,
        };
        Self {
            serializer,
            next_ref: first_ref,
            channels: topics.iter().map(channel).collect(),
            unanswered: BTreeMap::new(),
            beat_at: Timestamp::default(),
        }
    }

    fn push(
        &mut self,
        join_ref: Option<&str>,
        topic: &str,
        event: &str,
        payload: &impl serde::Serialize,
        push: Push,
    ) -> String {
        let reference = self.next_ref.to_string();
        self.next_ref += 1;
        let (join, own) = (join_ref.map(Ref::of_text), Ref::of_text(&reference));
        let frame = self.serializer.encode_value(join.as_ref(), Some(&own), topic, event, payload);
        self.unanswered.insert(reference, push);
        String::from_utf8(frame.to_vec()).unwrap()
    }

    pub fn heartbeat(&mut self, now: Timestamp) -> String {
        self.beat_at = now;
        self.push(None, "phoenix", event::HEARTBEAT, &serde_json::json!({}), Push::Heartbeat)
    }

    pub fn refresh(&mut self) -> String {
        let token = serde_json::json!({"access_token": "fresh"});
        self.push(None, "phoenix", event::ACCESS_TOKEN, &token, Push::Token)
    }

    /// Joins afresh, or with the cursor if there is one and `request` is none.
    pub fn join(&mut self, index: usize, request: Option<JoinRequest>) -> String {
        let join_ref = self.next_ref.to_string();
        let channel = &mut self.channels[index];
        if let Some(request) = request {
            channel.request = request;
            channel.cursor = None;
            channel.whole = false;
            channel.documents.clear();
        }
        let resume = channel.cursor.map_or(channel.request.resume, Resume::After);
        let request = JoinRequest { resume, on_stale: channel.request.on_stale, ..JoinRequest::default() };
        channel.state = State::Joining(join_ref.clone());
        channel.snapshot = None;
        channel.erring = false;
        channel.open.insert(join_ref.clone());
        let topic = channel.topic.clone();
        let push = Push::Join { channel: index, join_ref: join_ref.clone(), request };
        self.push(Some(&join_ref), topic.as_str(), event::JOIN, &request, push)
    }

    pub fn leave(&mut self, index: usize) -> Option<String> {
        let channel = &mut self.channels[index];
        let join_ref = match &channel.state {
            State::Joining(join_ref) | State::Joined(join_ref) => join_ref.clone(),
            State::Failed => {
                channel.state = State::Idle;
                return None;
            }
            State::Idle | State::Leaving(_) => return None,
        };
        channel.state = State::Leaving(join_ref.clone());
        let topic = channel.topic.clone();
        let push = Push::Leave { channel: index };
        Some(self.push(Some(&join_ref), topic.as_str(), event::LEAVE, &serde_json::json!({}), push))
    }

    /// The connection is gone, with everything that was on its way.
    pub fn lost(&mut self) {
        self.unanswered.clear();
        for channel in &mut self.channels {
            channel.open.clear();
            channel.snapshot = None;
            channel.erring = false;
            channel.state = match channel.state {
                State::Idle | State::Leaving(_) => State::Idle,
                State::Failed | State::Joining(_) | State::Joined(_) => State::Failed,
            };
        }
    }

    pub fn is_waiting(&self) -> bool {
        !self.unanswered.is_empty()
    }

    pub fn receive(&mut self, text: &str, truth: &Truth) {
        let frame = self.serializer.decode(text).expect("the server sends frames");
        let text_of = |reference: &Ref<'_>| reference.as_json().trim_matches('"').to_owned();
        let (join_ref, payload) = (frame.join_ref.as_ref().map(text_of), frame.payload.get());
        let join_ref = join_ref.as_deref();
        if &*frame.event == event::REPLY {
            let reference = frame.reference.as_ref().map(text_of).expect("a reply has the ref of its push");
            let push = self.unanswered.remove(&reference).expect("each push has one answer");
            let reply: Reply<'_> = serde_json::from_str(payload).unwrap();
            match push {
                Push::Heartbeat => assert_eq!((&*frame.topic, reply.status), ("phoenix", "ok")),
                Push::Join { channel, join_ref: own, request } => {
                    assert_eq!(join_ref, Some(&*own), "a reply has the join_ref of its join");
                    self.channels[channel].answered(&own, request, &reply, truth);
                }
                Push::Token => {
                    saw(if reply.status == "ok" { Saw::Refreshed } else { Saw::RefreshRefused });
                    assert_eq!((join_ref, &*frame.topic), (None, "phoenix"));
                }
                Push::Leave { channel } => {
                    assert_eq!(reply.status, "ok");
                    self.channels[channel].left();
                }
            }
            return;
        }
        if &*frame.topic == "phoenix" {
            assert_eq!(&*frame.event, event::DRAIN, "what else is there to say about the connection");
            return;
        }
        let channel = self.channels.iter_mut().find(|channel| channel.topic.as_str() == &*frame.topic);
        let channel = channel.expect("a push is for a topic of the client");
        match &*frame.event {
            event::UPDATE_BATCH => channel.updates(&serde_json::from_str(payload).unwrap(), truth),
            event::SNAPSHOT => channel.documents(serde_json::from_str(payload).unwrap(), truth),
            event::HEAD => channel.head(serde_json::from_str(payload).unwrap(), truth),
            event::SYNC_ERROR if is_unavailable(payload) => {
                // Nobody could say, at a refresh, whether the topic is still open.
                if channel.speaks_for(join_ref) {
                    saw(Saw::UnavailableLive);
                    channel.erring = true;
                }
            }
            event::SYNC_ERROR => {
                let stale: StaleCursor = serde_json::from_str(payload).unwrap();
                if channel.speaks_for(join_ref) {
                    assert_eq!(channel.cursor.map(|cursor| cursor.watermark), Some(stale.resume_after));
                    saw(Saw::StaleLive);
                    channel.check_stale(&stale);
                    channel.erring = true;
                }
            }
            event::CLOSE | event::ERROR => {
                let own = join_ref.expect("the end of a channel names it").to_owned();
                assert!(channel.open.remove(&own), "a channel ends once");
                let answered = !self
                    .unanswered
                    .values()
                    .any(|push| matches!(push, Push::Join { join_ref, .. } if *join_ref == own));
                let failed = &*frame.event == event::ERROR;
                assert!(answered || !failed, "a join that fails is answered");
                // A join that was given up by another join, or by a leave, has its close for an answer.
                self.unanswered
                    .retain(|_, push| !matches!(push, Push::Join { join_ref, .. } if *join_ref == own));
                channel.ended(&own, failed);
            }
            other => panic!("{other} is no event of the server"),
        }
    }
}

fn is_unavailable(payload: &str) -> bool {
    serde_json::from_str::<Refused>(payload).is_ok_and(|refused| refused.code == "unavailable")
}

impl Channel {
    fn speaks_for(&self, join_ref: Option<&str>) -> bool {
        matches!(&self.state, State::Joined(own) if Some(&**own) == join_ref)
    }

    /// Says whether what was pushed is for the join that the client has; if it cannot be, it must be of an
    /// earlier one that was not closed yet.
    fn is_current(&self) -> bool {
        match &self.state {
            State::Joined(own) => {
                assert!(self.open.contains(own), "nothing comes after the close");
                assert!(!self.erring, "nothing comes between the fault and the end");
                true
            }
            State::Joining(own) => {
                assert!(self.open.iter().any(|open| open != own), "nothing comes before the answer");
                false
            }
            State::Leaving(_) => {
                assert!(!self.open.is_empty(), "nothing comes after the close");
                false
            }
            State::Failed | State::Idle => panic!("nothing comes after the end"),
        }
    }

    fn answered(&mut self, own: &str, request: JoinRequest, reply: &Reply<'_>, truth: &Truth) {
        let current = matches!(&self.state, State::Joining(join_ref) if join_ref == own);
        if reply.status == "ok" {
            if !current {
                return;
            }
            assert!(self.open.iter().eq([own]), "a join is answered after the ones before it were closed");
            let joined: Joined = serde_json::from_str(reply.response.get()).unwrap();
            self.state = State::Joined(own.to_owned());
            self.joined(request, &joined, truth);
            return;
        }
        assert_eq!(reply.status, "error");
        self.open.remove(own);
        let refused: Refused = serde_json::from_str(reply.response.get()).unwrap();
        let stale = match &*refused.code {
            "unavailable" => {
                saw(Saw::Unavailable);
                assert!(refused.retry_after_ms.is_some());
                false
            }
            "replay_deferred" => {
                saw(Saw::Deferred);
                assert!(refused.retry_after_ms.is_some());
                assert!(!matches!(request.resume, Resume::Head), "the head is no replay");
                false
            }
            "too_many_topics" => {
                saw(Saw::TooManyTopics);
                if current {
                    self.state = State::Idle;
                }
                return;
            }
            "stale_cursor" => {
                saw(Saw::StaleJoin);
                assert_eq!(request.on_stale, OnStale::Error, "it asked for a snapshot");
                let stale: StaleCursor = serde_json::from_str(reply.response.get()).unwrap();
                let Resume::After(cursor) = request.resume else { panic!("only a cursor can be stale") };
                assert_eq!(stale.resume_after, cursor.watermark);
                Self::check_reasons(cursor, &stale);
                true
            }
            other => panic!("refused for {other}"),
        };
        if current {
            self.state = State::Failed;
            if stale {
                self.start_again();
            }
        }
    }

    /// A stale cursor leads to a snapshot, or to the floor.
    fn start_again(&mut self) {
        let snapshot = self.topic.as_str().len().is_multiple_of(2);
        self.request.resume = if snapshot { Resume::Snapshot } else { Resume::Floor };
        self.cursor = None;
        self.whole = false;
        self.documents.clear();
    }

    fn check_stale(&self, stale: &StaleCursor) {
        Self::check_reasons(self.cursor.expect("what is stale was joined"), stale);
    }

    fn check_reasons(cursor: Cursor, stale: &StaleCursor) {
        let (same, lag) = (stale.epoch == cursor.epoch, cursor.watermark.distance_to(stale.head));
        let over = stale.replay_budget_events.is_some_and(|budget| lag > budget);
        let holds = [
            (StaleReason::EpochMismatch, !same),
            (StaleReason::RetentionFloorBreach, same && cursor.watermark < stale.retention_floor),
            (StaleReason::CursorAhead, same && cursor.watermark > stale.head),
            (StaleReason::ReplayBudgetExceeded, same && over),
        ];
        let all: Vec<_> = holds.into_iter().filter(|(_, holds)| *holds).map(|(reason, _)| reason).collect();
        assert!(!all.is_empty(), "a cursor that can be resumed from is not stale");
        assert_eq!(stale.reason_codes, all, "every reason that holds, and no other");
        assert_eq!(stale.replay_lag, if same { lag } else { 0 });
        if all == [StaleReason::ReplayBudgetExceeded] {
            saw(Saw::BudgetExceeded);
        }
        if all.len() > 1 {
            saw(Saw::TwoReasons);
        }
    }

    fn joined(&mut self, request: JoinRequest, joined: &Joined, truth: &Truth) {
        assert!(joined.head <= truth.head(&self.topic, joined.epoch), "the head is one that there was");
        let cursor = Cursor::new(joined.epoch, joined.after);
        self.snapshot_due = joined.snapshot;
        (self.replay_until, self.replayed) = (Some(joined.head), false);
        assert!(joined.floor <= joined.after && joined.after <= joined.head, "{joined:?}");
        if joined.snapshot {
            saw(Saw::Snapshot);
            match request.resume {
                Resume::After(brought) => {
                    assert_eq!(request.on_stale, OnStale::Snapshot);
                    Self::check_reasons(brought, joined.stale.as_ref().expect("it says why"));
                }
                other => assert_eq!(other, Resume::Snapshot),
            }
            self.cursor = None;
            self.request.resume = Resume::Snapshot;
            return;
        }
        match request.resume {
            Resume::After(brought) => {
                saw(Saw::Resumed);
                let budget = crate::pair::budget(&self.topic);
                let lag = brought.watermark.distance_to(joined.head);
                assert!(budget.is_none_or(|budget| lag <= budget), "nobody replays more than the budget");
                assert_eq!(cursor, brought, "it continues from what was brought");
            }
            Resume::Floor => {
                self.documents.clear();
                self.whole = joined.after == Watermark::ORIGIN;
                self.cursor = Some(cursor);
            }
            Resume::Head => {
                assert_eq!(joined.after, joined.head);
                self.documents.clear();
                self.whole = joined.head == Watermark::ORIGIN;
                self.cursor = Some(cursor);
            }
            Resume::Snapshot => panic!("a snapshot was asked for"),
        }
    }

    fn left(&mut self) {
        if let State::Leaving(own) = &self.state
            && !self.open.contains(own)
        {
            self.state = State::Idle;
        }
    }

    fn ended(&mut self, own: &str, failed: bool) {
        match &self.state {
            State::Joined(join_ref) if join_ref == own => {
                assert!(failed, "only a leave, or another join, closes a channel");
                assert!(self.erring, "the fault comes before the end");
                self.erring = false;
                self.state = State::Failed;
            }
            State::Joining(join_ref) => assert_ne!(join_ref, own, "a join is answered before it ends"),
            State::Leaving(join_ref) if join_ref == own => self.state = State::Idle,
            _ => {}
        }
    }

    fn updates(&mut self, batch: &UpdateBatch, truth: &Truth) {
        if !self.is_current() {
            return;
        }
        assert!(!self.snapshot_due && self.snapshot.is_none(), "updates come after the snapshot");
        let cursor = self.cursor.as_mut().expect("a joined channel has a cursor");
        assert_eq!(batch.after, cursor.watermark, "a batch continues from what was sent before");
        assert!(!batch.updates.is_empty());
        for update in &batch.updates {
            assert_eq!(cursor.watermark.next(), Some(update.seq), "updates are dense");
            cursor.watermark = update.seq.watermark();
            let update = Update {
                seq: update.seq,
                kind: update.kind.clone(),
                payload: khala_core::Payload::from_raw(&update.payload),
                doc_key: update.doc_key.clone(),
                doc_version: update.doc_version,
                deleted: update.deleted,
                payload_hash: update.payload_hash.clone(),
                published_at: update.published_at,
                trace: None,
            };
            truth.holds(&self.topic, cursor.epoch, &update);
            if let Some(key) = update.doc_key.clone()
                && self.documents.get(&key).is_none_or(|newer| newer.seq < update.seq)
            {
                self.documents.insert(key, update);
            }
        }
        assert!(batch.head <= truth.head(&self.topic, cursor.epoch));
        match self.replay_until {
            Some(head) => {
                assert_eq!(batch.replay_complete, cursor.watermark >= head, "the reply named {head}")
            }
            // A snapshot that nobody asked for now names no head: it was some head of that history.
            None => {
                assert!(batch.replay_complete || cursor.watermark < truth.head(&self.topic, cursor.epoch))
            }
        }
        assert!(batch.replay_complete || !self.replayed, "a replay that has ended does not begin again");
        self.replayed = batch.replay_complete;
    }

    fn documents(&mut self, batch: SnapshotBatch, truth: &Truth) {
        if !self.is_current() {
            return;
        }
        let at = Cursor::new(batch.epoch, batch.watermark);
        let last = match &self.snapshot {
            Some((running, last)) if *running == at => last.clone(),
            running => {
                assert!(self.snapshot_due || running.is_some() || self.request.on_stale == OnStale::Snapshot);
                if running.is_some() {
                    saw(Saw::SnapshotRestarted);
                } else if !self.snapshot_due {
                    saw(Saw::SnapshotLive);
                }
                self.documents.clear();
                self.cursor = None;
                self.whole = false;
                self.request.resume = Resume::Snapshot;
                if !self.snapshot_due {
                    (self.replay_until, self.replayed) = (None, false);
                }
                None
            }
        };
        self.snapshot_due = false;
        let mut last = last;
        for document in batch.documents {
            let document = Update::from(document);
            truth.holds(&self.topic, batch.epoch, &document);
            let key = document.doc_key.clone().expect("a document has a key");
            assert!(last.as_ref().is_none_or(|last| last.as_str() < key.as_str()), "in order of their keys");
            assert!(!document.deleted);
            last = Some(key.clone());
            self.documents.insert(key, document);
        }
        if batch.complete {
            self.snapshot = None;
            self.cursor = Some(at);
            self.whole = true;
        } else {
            saw(Saw::SnapshotPages);
            self.snapshot = Some((at, last));
        }
    }

    fn head(&self, head: Head, truth: &Truth) {
        if self.is_current() {
            saw(Saw::Head);
            let cursor = self.cursor.expect("a joined channel has a cursor");
            let newest = truth.head(&self.topic, cursor.epoch);
            assert!((cursor.watermark..=newest).contains(&head.head), "a head is none that never was");
        }
    }
}
