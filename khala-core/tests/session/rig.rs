//! One session whose driver is the test: it carries out the actions, and answers the questions when it is told to.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Batch, Cursor, DocKey, Epoch, Error, ErrorKind, Grant, Kind, NewUpdate, Payload, Timestamp, Token, Topic,
    admission::Admitted,
    auth::{Access, Authorizer as _, Denied},
    clock::Now,
    documents::Documents as _,
    journal::{Journal as _, Keep, ReadLimit},
    session::{Action, Answer, ChannelId, Question, Session, SessionOptions},
    tail::{TailJournal, TailOptions},
    wire::{Close, Encoded, Ref, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::steady,
    guards::{Doorman, Mood},
    store::Store,
};

pub const START: Timestamp = Timestamp::from_millis(1_000_000);

pub struct Rig {
    pub session: Session,
    pub serializer: Serializer,
    pub store: Arc<Store>,
    pub tail: Arc<TailJournal>,
    pub now: Timestamp,
    /// How far somebody has set the wall clock forward, and back.
    pub set_forward: Duration,
    pub set_back: Duration,
    pub doorman: Doorman,
    /// The token that waits to be verified.
    pub token: Option<Token>,
    /// Questions that wait to be answered.
    pub asked: Vec<(ChannelId, Topic, Question)>,
    pub watching: BTreeSet<ChannelId>,
    pub closed: Option<Close>,
    pub questions: usize,
}

pub fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

/// A grant of the session's subject that ends so long after the start.
pub fn grant(scopes: &[&str], lifetime: Duration) -> Grant {
    Grant::from_verified(VerifiedClaims::new("somebody", scopes.iter().copied(), START.plus(lifetime)))
}

pub fn update(n: u64) -> NewUpdate {
    NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap())
}

pub fn document(key: &str) -> NewUpdate {
    update(0).doc_key(DocKey::parse(key).unwrap())
}

impl Rig {
    pub fn new() -> Self {
        Self::with(Store::new(200, 200), Serializer::V2, SessionOptions::default())
    }

    pub fn with(store: Arc<Store>, serializer: Serializer, options: SessionOptions) -> Self {
        let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
        Self::beside(store, tail, serializer, options, &[Access::Read.scope()])
    }

    pub fn beside(
        store: Arc<Store>,
        tail: Arc<TailJournal>,
        serializer: Serializer,
        options: SessionOptions,
        scopes: &[&str],
    ) -> Self {
        Self::admitted(store, tail, serializer, options, scopes, Admitted::unlimited())
    }

    pub fn admitted(
        store: Arc<Store>,
        tail: Arc<TailJournal>,
        serializer: Serializer,
        options: SessionOptions,
        scopes: &[&str],
        admitted: Admitted,
    ) -> Self {
        let grant = grant(scopes, seconds(3_600));
        Self {
            session: Session::new(grant, admitted, serializer, options, steady(START)),
            serializer,
            store,
            tail,
            now: START,
            set_forward: Duration::ZERO,
            set_back: Duration::ZERO,
            doorman: Doorman::default(),
            token: None,
            asked: Vec::new(),
            watching: BTreeSet::new(),
            closed: None,
            questions: 0,
        }
    }

    /// What both clocks say now.
    pub fn both(&self) -> Now {
        Now { wall: self.now.plus(self.set_forward).minus(self.set_back), steady: steady(self.now) }
    }

    /// Appends as another process does.
    pub fn publish(&self, name: &str, updates: Vec<NewUpdate>) -> Cursor {
        let (journal, topic) = (self.store.journal(), topic(name));
        let append = journal.append(&topic, Batch::new(updates).unwrap(), self.now);
        let khala_core::Append::Written(receipt) = append.now_or_never().unwrap().unwrap() else {
            panic!("nothing conflicts")
        };
        receipt.cursor()
    }

    pub fn trim(&self, name: &str, keep: u64) {
        let keep = Keep { updates: Some(keep), ..Keep::everything() };
        self.store.journal().trim(&topic(name), keep, self.now).now_or_never().unwrap().unwrap();
    }

    pub fn epoch(&self, name: &str) -> Epoch {
        self.store.journal().bounds(&topic(name)).now_or_never().unwrap().unwrap().epoch
    }

    pub fn text(&mut self, text: &str) {
        self.session.handle_text(text, self.both());
    }

    /// Sends a frame, in whichever serializer.
    pub fn say(
        &mut self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        let [join_ref, reference] = [join_ref, reference].map(|reference| reference.map(Ref::of_text));
        let frame =
            self.serializer.encode_value(join_ref.as_ref(), reference.as_ref(), topic, event, payload);
        self.text(std::str::from_utf8(&frame).unwrap());
    }

    pub fn join(&mut self, reference: &str, topic: &str, payload: &Value) {
        self.say(Some(reference), Some(reference), topic, "phx_join", payload);
    }

    /// Carries out all actions and leaves the questions; gives what was sent.
    pub fn act(&mut self) -> Vec<Encoded> {
        let mut sent = Vec::new();
        while let Some(action) = self.session.poll_action() {
            assert_eq!(self.closed, None, "nothing follows a close");
            match action {
                Action::Ask { channel, topic, question } => self.ask(channel, topic, question),
                Action::Close(close) => self.closed = Some(close),
                Action::Send(frame) => sent.push(frame),
                Action::Unwatch(channel) => assert!(self.watching.remove(&channel)),
                Action::Verify(token) => assert!(self.token.replace(token).is_none(), "one at a time"),
                Action::Watch { channel, .. } => assert!(self.watching.insert(channel)),
            }
        }
        sent
    }

    /// The doorman answers at once, unless he is held.
    fn ask(&mut self, channel: ChannelId, topic: Topic, question: Question) {
        if let Question::Access(grant) = &question {
            let asked = self.doorman.authorize(grant, &topic, Access::Read).now_or_never();
            if let Some(verdict) = asked {
                return self.session.handle_answer(channel, Ok(Answer::Access(verdict)), self.both());
            }
        } else {
            self.questions += 1;
        }
        self.asked.push((channel, topic, question));
    }

    /// Hands over a token, which is verified with that outcome.
    pub fn refresh(&mut self, verified: Result<Grant, Denied>) -> Vec<Value> {
        self.say(None, Some("r"), "phoenix", "access_token", &json!({"access_token": "fresh"}));
        let mut sent = self.run();
        self.verified(verified);
        sent.extend(self.run());
        sent
    }

    pub fn verified(&mut self, verified: Result<Grant, Denied>) {
        self.token.take().expect("a token is to be verified");
        self.session.handle_verified(verified, self.both());
    }

    /// Answers the questions that wait.
    pub fn answer(&mut self) {
        for (channel, topic, question) in std::mem::take(&mut self.asked) {
            let (tail, now, both) = (&self.tail, self.now, self.both());
            let answer = match question {
                Question::Access(grant) => {
                    let asked = self.doorman.authorize(&grant, &topic, Access::Read).now_or_never();
                    let Some(verdict) = asked else {
                        self.asked.push((channel, topic, Question::Access(grant)));
                        continue;
                    };
                    Ok(Answer::Access(verdict))
                }
                Question::Bounds { not_older_than } => tail
                    .recent_bounds(&topic, not_older_than, steady(now))
                    .now_or_never()
                    .unwrap()
                    .map(|(bounds, at)| Answer::Bounds(bounds, at)),
                Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } => {
                    tail.follow(&topic, cursor, wanted, steady(now)).now_or_never().unwrap().map(Answer::Read)
                }
                Question::Snapshot(from) => {
                    let snapshot = self.store.snapshot(&topic, from, ReadLimit::PAGE);
                    let shared = |snapshot| Answer::Snapshot(crate::pair::shared(&topic, snapshot));
                    snapshot.now_or_never().unwrap().map(shared)
                }
            };
            self.session.handle_answer(channel, answer, both);
        }
    }

    /// Answers the questions that wait with a failure that no waiting mends; gives what was sent.
    pub fn corrupt(&mut self) -> Vec<Value> {
        self.act();
        assert!(!self.asked.is_empty(), "something is asked");
        for (channel, _, _) in std::mem::take(&mut self.asked) {
            let error = Error::new(ErrorKind::Corrupt, "test", "a row is not what it was");
            self.session.handle_answer(channel, Err(error), self.both());
        }
        self.run()
    }

    /// Carries out actions and answers questions until there are none; gives the frames as bytes.
    pub fn bytes(&mut self) -> Vec<Encoded> {
        let mut sent = Vec::new();
        for _ in 0..1_000 {
            sent.extend(self.act());
            let held = |(_, _, question): &_| matches!(question, Question::Access(_));
            if self.asked.iter().all(held) && self.doorman.gate.mood() == Mood::Held || self.asked.is_empty()
            {
                return sent;
            }
            self.answer();
        }
        panic!("it does not come to rest");
    }

    /// The same, as `[join_ref, ref, topic, event, payload]`.
    pub fn run(&mut self) -> Vec<Value> {
        let serializer = self.serializer;
        self.bytes().iter().map(|frame| show(serializer, frame)).collect()
    }

    /// Lets time pass in steps of at most a second, as long as the session goes on; gives what was sent.
    pub fn pass(&mut self, time: Duration) -> Vec<Value> {
        let (until, mut sent) = (self.now.plus(time), Vec::new());
        while self.now < until && self.closed.is_none() {
            let wait = self.session.poll_timeout(self.both()).since(steady(self.now));
            self.now = until.min(self.now.plus(wait.max(Duration::from_millis(1))));
            if self.session.poll_timeout(self.both()) <= steady(self.now) {
                self.session.handle_timeout(self.both());
            }
            sent.extend(self.run());
        }
        sent
    }

    pub fn channel(&self) -> ChannelId {
        *self.watching.last().expect("something is joined")
    }
}

pub fn show(serializer: Serializer, frame: &Encoded) -> Value {
    let frame = serializer.decode(std::str::from_utf8(frame).unwrap()).unwrap();
    let payload: Value = serde_json::from_str(frame.payload.get()).unwrap();
    let value = |reference: Option<Ref<'_>>| -> Option<Value> {
        reference.map(|reference| serde_json::from_str(reference.as_json()).unwrap())
    };
    json!([value(frame.join_ref), value(frame.reference), frame.topic, frame.event, payload])
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn seqs(batch: &Value) -> Vec<u64> {
    batch[4]["updates"].as_array().unwrap().iter().map(|update| update["seq"].as_u64().unwrap()).collect()
}
