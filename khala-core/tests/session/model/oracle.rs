//! What comes out, held against what may.

use std::iter;

use futures::FutureExt as _;
use khala_core::{
    Timestamp,
    connection::{Ended, Sent},
    journal::Journal as _,
    wire::Close,
};
use serde_json::Value;

use super::{
    Step,
    world::{LINES, Line, Push, SUBJECTS, State, TOPICS, World},
};
use crate::coverage::Met;

impl World {
    /// Everybody does what there is to do, at this moment; what comes out is held against what may.
    pub(super) fn run(&mut self) {
        self.host.keeper.run();
        for strike in self.strikes.iter().filter(|strike| strike.hinted) {
            assert!(strike.here || strike.watermark <= self.host.ledger.upto(), "a hint is followed at once");
        }
        for at in 0..LINES {
            let Some(mut line) = self.lines[at].take() else { continue };
            self.drive(&mut line);
            self.lines[at] = Some(line);
        }
    }

    fn drive(&mut self, line: &mut Line) {
        // What was known before it ran.
        let struck: Vec<bool> = (0..self.cards.len()).map(|card| self.struck(card)).collect();
        line.peer.task.run();
        let given = std::mem::take(&mut line.peer.network.lock().unwrap().given);
        line.peer.network.lock().unwrap().taken.clear();
        if line.blocked && !line.closed {
            Met::Blocked.saw();
        }
        let mut closed = None;
        for (at, sent) in given {
            match sent {
                Sent::Close(close) => closed = Some(close),
                Sent::Text(text) => {
                    assert!(closed.is_none() && !line.closed, "nothing follows a close");
                    let frame: Value = serde_json::from_slice(&text).unwrap();
                    assert!(!text.windows(6).any(|part| part == b"token-"), "no token in any frame: {frame}");
                    self.receive(line, at, &frame);
                    // Whatever it is, it was sent to somebody whose grant stands.
                    let stands = |card: usize| {
                        at < self.cards[card].expires_at && !struck[card] && !self.is_withdrawn(card)
                    };
                    let mut grants = self.grants(line);
                    assert!(grants.any(stands), "nothing after the end: {frame} {:?}", self.cards[line.card]);
                }
            }
        }
        match (line.peer.task.done, closed) {
            _ if line.closed => {}
            (Some(Ended::Gone), _) => panic!("no client leaves"),
            (Some(Ended::Closed(close)), _) | (None, Some(close)) => {
                line.closed = true;
                self.closed(line, close);
            }
            (None, None) => {
                let now = self.now();
                let stands = |card: usize| {
                    let ended = self.struck(card) || self.overdue(card) || self.is_withdrawn(card);
                    self.cards[card].expires_at > now && !ended
                };
                assert!(self.grants(line).any(stands), "its grant has ended: {:?}", self.cards[line.card]);
            }
        }
    }

    /// The tokens whose grant it may have: the one that it was told of and, where the answer to a newer one is still
    /// on its way, that one.
    fn grants<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = usize> + 'a {
        let subject = self.cards[line.card].subject;
        let newer = line.pushes.values().filter_map(|push| match push {
            Push::Refresh { card, .. } => *card,
            _ => None,
        });
        iter::once(line.card).chain(newer.filter(move |card| self.cards[*card].subject == subject))
    }

    fn closed(&self, line: &Line, close: Close) {
        let card = &self.cards[line.card];
        let (expired, revoked, withdrawn) = match close {
            Close::TokenExpired => {
                let expired = |card: usize| self.cards[card].expires_at <= self.now();
                assert!(self.grants(line).any(expired), "it has not expired: {card:?}");
                (Met::Expired, None, Met::ExpiredWhileBlocked)
            }
            Close::TokenRevoked => {
                let card = self.grants(line).find(|card| self.struck(*card));
                let card = &self.cards[card.expect("somebody revoked it")];
                let strike = self.strikes.iter().rev().find(|strike| strike.names(card)).unwrap();
                let by = [("jti", Met::RevokedJti), ("sid", Met::RevokedSid), ("sub", Met::RevokedSub)];
                by.iter().find(|(by, _)| *by == strike.by).unwrap().1.saw();
                let how = match (strike.here, strike.hinted) {
                    (true, _) => Met::RevokedHere,
                    (false, true) => Met::RevokedByHint,
                    (false, false) => Met::RevokedByPoll,
                };
                (Met::Revoked, Some(how), Met::RevokedWhileBlocked)
            }
            Close::KeyWithdrawn => {
                let withdrawn = |card: usize| self.is_withdrawn(card);
                assert!(self.grants(line).any(withdrawn), "its key is trusted: {card:?}");
                (Met::KeyWithdrawn, None, Met::KeyWithdrawnWhileBlocked)
            }
            other => panic!("closed for {other:?}"),
        };
        expired.saw();
        if let Some(revoked) = revoked {
            revoked.saw();
        }
        if line.blocked {
            withdrawn.saw();
        }
    }

    fn receive(&mut self, line: &mut Line, at: Timestamp, frame: &Value) {
        let (name, event) = (frame[2].as_str().unwrap(), frame[3].as_str().unwrap());
        if event == "phx_reply" {
            let push = line.pushes.remove(frame[1].as_str().unwrap()).expect("each push has one answer");
            return self.answered(line, at, push, &frame[4]);
        }
        let topic = TOPICS.iter().position(|topic| *topic == name).expect("it is of a topic");
        let covered = self.cards[line.card].topics[topic];
        let downs = self.downs;
        let channel = &mut line.channels[topic];
        let own = matches!(&channel.state, State::Joined(join_ref) if frame[0] == **join_ref);
        match event {
            "sync:update_batch" => {
                assert!(covered, "the grant does not cover it: {frame}");
                if !matches!(channel.state, State::Joined(_)) {
                    return; // of a join that was given up
                }
                assert!(channel.fault.is_none(), "nothing comes between the fault and the end");
                let (watermark, _) = channel.cursor.as_mut().expect("a joined channel has a cursor");
                assert_eq!(frame[4]["after"], *watermark, "a batch continues from what was sent before");
                for update in frame[4]["updates"].as_array().unwrap() {
                    *watermark += 1;
                    assert_eq!(update["seq"], *watermark, "updates are dense");
                }
            }
            "sync:head" => assert!(covered, "the grant does not cover it: {frame}"),
            "phx_close" | "phx_error" if !own => {
                // Another join, or a leave, took its place. A join that was not answered has its close for an answer.
                let given_up =
                    |push: &Push| matches!(push, Push::Join { join_ref, .. } if frame[0] == **join_ref);
                line.pushes.retain(|_, push| !given_up(push));
            }
            "sync:error" if !own => {}
            "sync:error" => {
                let code = frame[4]["code"].as_str().unwrap();
                match code {
                    "forbidden_topic" => assert!(!covered, "the grant covers it: {frame}"),
                    "unavailable" => assert!(downs > channel.checked, "the authorizer was there: {frame}"),
                    other => panic!("ended for {other}"),
                }
                channel.fault = Some(code.to_owned());
            }
            "phx_close" | "phx_error" => match (event, channel.fault.take().as_deref()) {
                ("phx_close", Some("forbidden_topic")) => {
                    Met::ChannelRefused.saw();
                    channel.state = State::Idle;
                }
                ("phx_error", Some("unavailable")) => {
                    Met::ChannelUnavailable.saw();
                    channel.state = State::Failed;
                }
                ("phx_close", None) => panic!("a channel closes for nothing"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other} is no event of the server"),
        }
    }

    fn answered(&mut self, line: &mut Line, at: Timestamp, push: Push, reply: &Value) {
        let (ok, code) = (reply["status"] == "ok", reply["response"]["code"].as_str());
        match push {
            Push::Leave { topic, join_ref } => {
                assert!(ok);
                let channel = &mut line.channels[topic];
                if channel.state == State::Leaving(join_ref) {
                    channel.state = State::Idle;
                }
            }
            Push::Join { topic, join_ref } => {
                let covered = self.cards[line.card].topics[topic];
                let channel = &mut line.channels[topic];
                if channel.state != State::Joining(join_ref.clone()) {
                    return;
                }
                match code {
                    None => {
                        assert!(ok && covered, "the grant does not cover it: {reply}");
                        let (after, epoch) = (&reply["response"]["after"], &reply["response"]["epoch"]);
                        if let Some((brought, _)) = &channel.cursor {
                            assert_eq!(after, brought, "it continues from what was brought");
                            Met::Rejoined.saw();
                        }
                        channel.cursor = Some((after.as_u64().unwrap(), epoch.clone()));
                        channel.state = State::Joined(join_ref);
                    }
                    Some("forbidden_topic") => {
                        assert!(!covered, "the grant covers it: {reply}");
                        Met::Forbidden.saw();
                        channel.state = State::Idle;
                    }
                    Some("unavailable") => {
                        assert!(self.downs > channel.checked, "the authorizer was there: {reply}");
                        assert!(reply["response"]["retry_after_ms"].is_u64());
                        Met::JoinUnavailable.saw();
                        channel.state = State::Failed;
                    }
                    Some(other) => panic!("refused for {other}"),
                }
            }
            Push::Refresh { card, withdrawn } => self.refreshed(line, at, card, withdrawn, ok, code),
        }
    }

    fn refreshed(
        &mut self,
        line: &mut Line,
        at: Timestamp,
        card: Option<usize>,
        withdrawn: u64,
        ok: bool,
        code: Option<&str>,
    ) {
        let others = line.pushes.values().filter(|push| matches!(push, Push::Refresh { .. })).count();
        let other_subject =
            card.is_some_and(|card| self.cards[card].subject != self.cards[line.card].subject);
        if ok {
            let new = card.expect("what nobody knows is not taken");
            assert!(!other_subject, "it is of another subject");
            assert!(self.cards[new].expires_at > at, "it had expired");
            Met::RefreshTaken.saw();
            let (old, fresh) = (self.cards[line.card].topics, self.cards[new].topics);
            if old.iter().zip(fresh).any(|(old, fresh)| !old && fresh) {
                Met::Wider.saw();
            }
            if old.iter().zip(fresh).any(|(old, fresh)| *old && !fresh) {
                Met::Narrower.saw();
            }
            line.card = new;
            let downs = self.downs_seen();
            for channel in &mut line.channels {
                channel.checked = channel.checked.min(downs);
            }
            return;
        }
        let explained = match code.expect("a refusal has its code") {
            "claim_mismatch" => {
                Met::RefreshOfAnother.saw();
                other_subject
            }
            "frame_rate_limited" => others > 0,
            "invalid_token" => {
                Met::RefreshInvalid.saw();
                card.is_none()
            }
            "token_expired" => {
                Met::RefreshExpired.saw();
                card.is_some_and(|card| self.cards[card].expires_at <= at)
            }
            "token_revoked" => {
                Met::RefreshRevoked.saw();
                card.is_some_and(|card| self.struck(card))
            }
            "unknown_kid" => {
                Met::RefreshKeyWithdrawn.saw();
                card.is_some() && self.withdrawals > withdrawn
            }
            other => panic!("refused for {other}"),
        };
        assert!(explained, "refused for {code:?}: {card:?}");
    }

    /// No more failures: whoever may has everything, and whoever may not has gone.
    pub(super) fn settle(&mut self) {
        for step in [Step::Authorizer { up: true }, Step::Log { up: true }] {
            self.step(step);
        }
        for line in 0..LINES {
            self.step(Step::Read { line, frames: usize::MAX });
        }
        for round in 0..160 {
            if round % 40 == 0 {
                (0..LINES).for_each(|line| self.rejoin(line));
            }
            self.step(Step::Pass { ticks: 1 });
        }
        for line in self.lines.iter().flatten().filter(|line| !line.closed) {
            let card = &self.cards[line.card];
            Met::Survived.saw();
            if self.strikes.iter().any(|s| s.by == "sub" && s.name == SUBJECTS[card.subject]) {
                Met::SparedBySub.saw();
            }
            assert!(line.pushes.is_empty(), "every push has its answer: {:?}", line.pushes);
            for (topic, channel) in line.channels.iter().enumerate() {
                match &channel.state {
                    State::Idle => {}
                    State::Joined(_) => {
                        assert!(card.topics[topic], "{card:?} {channel:?}");
                        let (journal, name) = (self.host.store.journal(), crate::host::topic(TOPICS[topic]));
                        let head = journal.bounds(&name).now_or_never().unwrap().unwrap().head.as_u64();
                        assert_eq!(channel.cursor.as_ref().unwrap().0, head, "it has everything");
                    }
                    State::Failed | State::Joining(_) | State::Leaving(_) => {
                        panic!("it is neither in nor out: {channel:?}")
                    }
                }
            }
        }
    }
}
