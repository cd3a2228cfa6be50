//! What is done to the handle and by its clients, and what the test knows of it.

use std::{collections::BTreeMap, time::Duration};

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Batch, Grant, Kind, NewUpdate, Payload, Timestamp, Watermark,
    auth::{Access, Denied, Revocation, RevocationTarget, Revocations as _},
    journal::Journal as _,
    session::SessionOptions,
};
use serde_json::{Value, json};

use super::{Fresh, Step};
use crate::{
    coverage::Met,
    guards::{Ledger, Mood},
    host::{Host, Peer, id, seconds, topic},
};

pub(super) const TOPICS: [&str; 3] = ["a", "b", "c"];
pub(super) const SUBJECTS: [&str; 2] = ["ann", "bob"];
pub(super) const KEYS: [&str; 2] = ["k0", "k1"];
pub(super) const LINES: usize = 4;
/// How late a revocation without a hint may be seen: the reading itself takes no time here.
pub(super) const SEEN_WITHIN: Duration = Duration::from_millis(500);
pub(super) const TICK: Duration = Duration::from_millis(50);

/// A token as the test knows it.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub(super) text: String,
    pub(super) subject: usize,
    pub(super) jti: String,
    pub(super) sid: String,
    pub(super) key: usize,
    pub(super) topics: [bool; 3],
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

impl Card {
    pub(super) fn grant(&self) -> Grant {
        let topics = TOPICS.iter().zip(self.topics).filter(|(_, open)| *open).map(|(topic, _)| *topic);
        let scopes = topics.chain([Access::Read.scope()]);
        Grant::from_verified(VerifiedClaims {
            issued_at: Some(self.issued_at),
            token_id: Some(self.jti.clone()),
            session_id: Some(self.sid.clone()),
            key_id: Some(KEYS[self.key].to_owned()),
            ..VerifiedClaims::new(SUBJECTS[self.subject], scopes, self.expires_at)
        })
    }
}

/// A revocation as the test knows it.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    pub(super) by: &'static str,
    pub(super) name: String,
    pub(super) at: Timestamp,
    pub(super) watermark: Watermark,
    pub(super) here: bool,
    pub(super) hinted: bool,
}

impl Strike {
    pub(super) fn names(&self, card: &Card) -> bool {
        match self.by {
            "jti" => card.jti == self.name,
            "sid" => card.sid == self.name,
            _ => {
                SUBJECTS[card.subject] == self.name
                    && card.issued_at.as_millis() / 1_000 <= self.at.as_millis() / 1_000
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Push {
    Join {
        topic: usize,
        join_ref: String,
    },
    Leave {
        topic: usize,
        join_ref: String,
    },
    /// A token, or text that is none.
    Refresh {
        card: Option<usize>,
        withdrawn: u64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Idle,
    /// It was closed with leave to come back.
    Failed,
    Joining(String),
    Joined(String),
    Leaving(String),
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) state: State,
    /// Where it stands, and in which epoch.
    pub(super) cursor: Option<(u64, Value)>,
    /// The last `sync:error` of the channel that is about to end.
    pub(super) fault: Option<String>,
    /// How often the authorizer had been down when this channel was last to be checked.
    pub(super) checked: u64,
}

/// One connection and its client.
pub(super) struct Line {
    pub(super) peer: Peer,
    /// The token whose grant it has, by what it was told.
    pub(super) card: usize,
    pub(super) refs: u64,
    pub(super) pushes: BTreeMap<String, Push>,
    pub(super) channels: [Channel; 3],
    pub(super) blocked: bool,
    /// A close was given to its transport, or it has ended without one.
    pub(super) closed: bool,
}

pub(super) struct World {
    pub(super) host: Host,
    pub(super) cards: Vec<Card>,
    pub(super) strikes: Vec<Strike>,
    /// Keys that are withdrawn, and how often any was.
    pub(super) withdrawn: [bool; 2],
    pub(super) withdrawals: u64,
    /// Whether the authorizer is down, and how often it has been.
    pub(super) down: bool,
    pub(super) downs: u64,
    /// Since when the log of revocations can be read.
    pub(super) readable_since: Timestamp,
    pub(super) lines: [Option<Line>; LINES],
}

impl Line {
    pub(super) fn say(
        &mut self,
        topic: &str,
        event: &str,
        join_ref: Option<&str>,
        payload: &Value,
        push: Push,
    ) {
        self.refs += 1;
        let reference = self.refs.to_string();
        let text = json!([join_ref, reference, topic, event, payload]).to_string();
        self.pushes.insert(reference, push);
        if let Some(client) = &self.peer.client {
            // A connection that has ended hears nothing any more.
            let _ = client.unbounded_send(khala_core::connection::Received::Text(text));
        }
    }

    pub(super) fn join(&mut self, topic: usize, downs: u64) {
        let join_ref = (self.refs + 1).to_string();
        let channel = &mut self.channels[topic];
        let payload = match &channel.cursor {
            Some((after, epoch)) => json!({ "after": after, "epoch": epoch }),
            None => json!({"from": "floor"}),
        };
        channel.state = State::Joining(join_ref.clone());
        (channel.fault, channel.checked) = (None, downs);
        self.say(
            TOPICS[topic],
            "phx_join",
            Some(&join_ref),
            &payload,
            Push::Join { topic, join_ref: join_ref.clone() },
        );
    }
}

impl World {
    pub(super) fn new() -> Self {
        let options = SessionOptions {
            poll_interval: seconds(2),
            heartbeat_timeout: seconds(10_000),
            stall_timeout: seconds(10_000),
            ..SessionOptions::default()
        };
        let mut host = Host::with(3, options, Ledger::with_page(2));
        for topic in TOPICS {
            host.doorman.lock(topic);
        }
        host.keeper.run();
        let readable_since = host.khala.now();
        Self {
            host,
            cards: Vec::new(),
            strikes: Vec::new(),
            withdrawn: [false; 2],
            withdrawals: 0,
            down: false,
            downs: 0,
            readable_since,
            lines: [const { None }; LINES],
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.host.khala.now()
    }

    pub(super) fn issue(&mut self, subject: usize, topics: usize, key: usize, millis: u64) -> usize {
        let (number, now) = (self.cards.len(), self.now());
        let card = Card {
            text: format!("token-{number}"),
            subject,
            jti: format!("jti-{number}"),
            sid: format!("{}-{}", SUBJECTS[subject], number % 2),
            key,
            topics: [0, 1, 2].map(|bit| topics >> bit & 1 == 1),
            issued_at: now,
            expires_at: now.plus(Duration::from_millis(millis)),
        };
        self.host.tokens.put(&card.text, Ok(card.grant()));
        self.cards.push(card);
        number
    }

    /// Whether a revocation that this node has read names the token.
    pub(super) fn struck(&self, card: usize) -> bool {
        let upto = self.host.ledger.upto();
        let seen = |strike: &&Strike| strike.here || strike.watermark <= upto;
        self.strikes.iter().filter(seen).any(|strike| strike.names(&self.cards[card]))
    }

    /// Whether a revocation that it must have read by now does.
    pub(super) fn overdue(&self, card: usize) -> bool {
        let now = self.now();
        let readable = self.host.ledger.gate.mood() == Mood::Up;
        let due = |strike: &&Strike| {
            strike.here || readable && strike.at.max(self.readable_since).plus(SEEN_WITHIN) <= now
        };
        self.strikes.iter().filter(due).any(|strike| strike.names(&self.cards[card]))
    }

    pub(super) fn is_withdrawn(&self, card: usize) -> bool {
        self.withdrawn[self.cards[card].key]
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Authorizer { up } => {
                self.host.doorman.gate.set(if up { Mood::Up } else { Mood::Down });
                if !up && !self.down {
                    Met::AuthorizerDown.saw();
                    self.downs += 1;
                }
                self.down = !up;
            }
            Step::Block { line } => {
                if let Some(line) = &mut self.lines[line] {
                    line.peer.take(0);
                    line.blocked = true;
                }
            }
            Step::Connect { line, subject, topics, key, millis, old } => {
                self.connect(line, subject, topics, key, millis, old);
            }
            Step::Join { line, topic } => {
                let downs = self.downs_seen();
                if let Some(line) = &mut self.lines[line] {
                    line.join(topic, downs);
                }
            }
            Step::Key { key, withdrawn } => {
                self.withdrawn[key] = withdrawn;
                if withdrawn {
                    self.withdrawals += 1;
                    self.host.khala.access().distrust_key(KEYS[key]);
                } else {
                    self.host.khala.access().trust_key(KEYS[key]);
                }
            }
            Step::Leave { line, topic } => {
                if let Some(line) = &mut self.lines[line]
                    && let State::Joined(join_ref) = line.channels[topic].state.clone()
                {
                    line.channels[topic].state = State::Leaving(join_ref.clone());
                    let push = Push::Leave { topic, join_ref: join_ref.clone() };
                    line.say(TOPICS[topic], "phx_leave", Some(&join_ref), &json!({}), push);
                }
            }
            Step::Log { up } => {
                if up && self.host.ledger.gate.mood() == Mood::Down {
                    self.readable_since = self.now();
                }
                self.host.ledger.gate.set(if up { Mood::Up } else { Mood::Down });
            }
            Step::Pass { ticks } => {
                for _ in 0..ticks {
                    self.host.clock.pass(TICK);
                    self.run();
                }
            }
            Step::Publish { topic, updates, announced } => self.publish(topic, updates, announced),
            Step::Read { line, frames } => {
                if let Some(line) = &mut self.lines[line] {
                    line.peer.take(frames);
                    line.blocked = frames != usize::MAX;
                }
            }
            Step::Refresh { line, fresh } => self.refresh(line, fresh),
            Step::Rejoin { line } => self.rejoin(line),
            Step::Revoke { line, by, here, hinted } => self.revoke(line, by, here, hinted),
        }
        self.run();
    }

    pub(super) fn connect(
        &mut self,
        line: usize,
        subject: usize,
        topics: usize,
        key: usize,
        millis: u64,
        old: Option<usize>,
    ) {
        if self.lines[line].as_ref().is_some_and(|line| line.peer.task.done.is_none()) {
            return;
        }
        let card = match old {
            Some(old) if !self.cards.is_empty() => old % self.cards.len(),
            _ => self.issue(subject, topics, key, millis),
        };
        let verdict = self.host.verify(&self.cards[card].text).expect("nothing hangs");
        match verdict {
            Ok(grant) => {
                assert!(
                    self.cards[card].expires_at > self.now()
                        && !self.struck(card)
                        && !self.is_withdrawn(card)
                );
                assert_eq!(grant, self.cards[card].grant());
                let peer = self.host.admit(grant);
                let mut channels: [Channel; 3] = Default::default();
                if let Some(old) = self.lines[line].take()
                    && self.cards[old.card].subject == self.cards[card].subject
                {
                    for (channel, old) in channels.iter_mut().zip(old.channels) {
                        channel.cursor = old.cursor;
                    }
                }
                self.lines[line] = Some(Line {
                    peer,
                    card,
                    refs: 0,
                    pushes: BTreeMap::new(),
                    channels,
                    blocked: false,
                    closed: false,
                });
                let downs = self.downs_seen();
                for topic in 0..TOPICS.len() {
                    self.lines[line].as_mut().unwrap().join(topic, downs);
                }
            }
            Err(denied) => {
                Met::ConnectRefused.saw();
                let explained = match denied {
                    Denied::TokenExpired => self.cards[card].expires_at <= self.now(),
                    Denied::TokenRevoked => self.struck(card),
                    Denied::UnknownKid => self.is_withdrawn(card),
                    _ => false,
                };
                assert!(explained, "{denied:?} {:?}", self.cards[card]);
            }
        }
    }

    /// A channel that is to be checked now may meet every failure from this one on.
    pub(super) fn downs_seen(&self) -> u64 {
        self.downs - u64::from(self.down)
    }

    pub(super) fn publish(&mut self, name: usize, updates: usize, announced: bool) {
        let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("1").unwrap());
        let batch = Batch::new(vec![update; updates]).unwrap();
        if announced {
            self.host.khala.publish(&topic(TOPICS[name]), batch).now_or_never().unwrap().unwrap();
        } else {
            let journal = self.host.store.journal();
            journal.append(&topic(TOPICS[name]), batch, self.now()).now_or_never().unwrap().unwrap();
            Met::Polled.saw();
        }
    }

    pub(super) fn refresh(&mut self, at: usize, fresh: Fresh) {
        let Some(line) = &self.lines[at] else { return };
        let present = self.cards[line.card].clone();
        let card = match fresh {
            Fresh::Another => Some(self.issue(1 - present.subject, 7, present.key, 60_000)),
            Fresh::Expired => Some(self.issue(present.subject, 7, present.key, 0)),
            Fresh::None => None,
            Fresh::Old(number) => Some(number % self.cards.len()),
            Fresh::Same { topics, millis, key } => Some(self.issue(present.subject, topics, key, millis)),
        };
        let text = card.map_or("no such token", |card| &self.cards[card].text).to_owned();
        let withdrawn = self.withdrawals - self.withdrawn.iter().filter(|key| **key).count() as u64;
        let push = Push::Refresh { card, withdrawn };
        let line = self.lines[at].as_mut().unwrap();
        line.say("phoenix", "access_token", None, &json!({ "access_token": text }), push);
    }

    pub(super) fn rejoin(&mut self, at: usize) {
        let downs = self.downs_seen();
        let Some(line) = &mut self.lines[at] else { return };
        for topic in 0..TOPICS.len() {
            if line.channels[topic].state == State::Failed {
                line.join(topic, downs);
            }
        }
    }

    pub(super) fn revoke(&mut self, at: usize, by: usize, here: bool, hinted: bool) {
        let Some(line) = &self.lines[at] else { return };
        let card = &self.cards[line.card];
        let (by, name) = [("jti", &*card.jti), ("sid", &*card.sid), ("sub", SUBJECTS[card.subject])][by];
        let target = match by {
            "jti" => RevocationTarget::Jti(id(name)),
            "sid" => RevocationTarget::Sid(id(name)),
            _ => RevocationTarget::Sub(id(name)),
        };
        let (name, at) = (name.to_owned(), self.now());
        let revocation = Revocation::new(target, at);
        let watermark = if here {
            let stored = self.host.khala.access().revoke(revocation).now_or_never().unwrap();
            let Ok(watermark) = stored else {
                assert_eq!(self.host.ledger.gate.mood(), Mood::Down);
                return;
            };
            watermark
        } else {
            let watermark = self.host.ledger.inner.revoke(revocation).now_or_never().unwrap().unwrap();
            if hinted {
                self.host.fanout.raise_revoked(watermark);
            }
            watermark
        };
        // The same thing again is read anew, and the older entry is gone: what it took back stays so.
        for strike in self.strikes.iter_mut().filter(|strike| (strike.by, &strike.name) == (by, &name)) {
            strike.here |= strike.watermark <= self.host.ledger.upto();
            strike.watermark = watermark;
        }
        // What is hinted while the log cannot be read is left to polling.
        let hinted = hinted && self.host.ledger.gate.mood() == Mood::Up;
        self.strikes.push(Strike { by, name, at, watermark, here, hinted });
    }
}
