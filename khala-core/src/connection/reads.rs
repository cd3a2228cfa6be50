//! How a connection has the questions of its session answered: at once from memory, by a read that it shares, or by waiting for
//! another connection that reads the same.
//!
//! # Invariants
//! A question that waits for another connection's read is asked again when that read is done, has failed or was given up.

use std::{sync::Arc, task::Waker};

use futures::FutureExt as _;

use super::{
    driver::{ChannelState, Driver},
    questions::Told,
};
use crate::{
    clock::{Moment, Now},
    error::Error,
    follower::{Answer, Question},
    position::{Cursor, Stale},
    session::ChannelId,
    single_flight::{Leader, Role},
    tail::{CacheLookup, FollowResult, Freshness},
    topic::Topic,
};

impl Driver {
    /// Has a question answered, which has waited for the leader of that number, if for any.
    pub(super) fn ask(
        &mut self,
        channel: ChannelId,
        topic: Topic,
        question: Question,
        waited_for: Option<u64>,
    ) {
        let now = self.read_clocks();
        let question = match self.doubt(channel, &topic, question) {
            Ok(question) => question,
            Err(stale) => return self.tell(channel, Ok(Answer::Read(FollowResult::Stale(stale))), now),
        };
        let (mut leads, mut waits) = (None, matches!(question, Question::Snapshot(_)));
        if let Question::Resume { cursor, published_at: Some(published_at), .. } = &question
            && self.khala.journal().known_moment(&topic, *cursor) != Some(*published_at)
        {
            // Whether the cursor is of this history has to be read.
            waits = true;
        } else if let Question::Read { cursor, wanted } | Question::Resume { cursor, wanted, .. } = &question
        {
            match self.get(channel, *cursor, *wanted, now.steady) {
                CacheLookup::Hit(followed) => return self.tell(channel, Ok(Answer::Read(followed)), now),
                CacheLookup::MissBehind => waits = true,
                CacheLookup::MissAtHead => match self.join_read(channel, waited_for) {
                    Role::Alone => {}
                    Role::Leads(leader) => leads = Some(leader),
                    Role::Waits(leader) => {
                        let held = self.channels.get_or_insert_with(channel, ChannelState::default);
                        held.waiting = Some(Box::new((topic, question, leader)));
                        return;
                    }
                },
            }
        }
        if waits && !self.session.handle_waiting(channel) {
            if let Some(held) = self.channels.get_mut(channel) {
                held.evidence.unanswered();
            }
            return;
        }
        self.ask_khala(channel, topic, question, leads);
    }

    /// The question to ask in the place of that one, if the topic's journal went back.
    fn doubt(&mut self, channel: ChannelId, topic: &Topic, question: Question) -> Result<Question, Stale> {
        let published_at = self.session.published_at(channel);
        let held = self.channels.get_or_insert_with(channel, ChannelState::default);
        held.evidence.doubt(self.khala.journal(), topic, question, published_at)
    }

    /// Asks again where the journal went back while a page was on its way, which may continue what is lost; says whether
    /// it does.
    pub(super) fn asks_again(
        &mut self,
        channel: ChannelId,
        answer: &Result<Answer, Error>,
        now: Now,
    ) -> bool {
        let Ok(Answer::Read(FollowResult::Page { .. })) = answer else { return false };
        let Some(topic) = self.session.topic(channel).cloned() else { return false };
        let at = (self.session.cursor(channel), self.session.published_at(channel));
        let Some(held) = self.channels.get_mut(channel) else { return false };
        match held.evidence.doubt_answer(self.khala.journal(), &topic, at, answer) {
            None => return false,
            Some(Ok(question)) => self.ask_khala(channel, topic, question, None),
            Some(Err(stale)) => self.tell(channel, Ok(Answer::Read(FollowResult::Stale(stale))), now),
        }
        true
    }

    pub(super) fn ask_khala(
        &mut self,
        channel: ChannelId,
        topic: Topic,
        question: Question,
        leads: Option<Leader>,
    ) {
        let (khala, waiter) = (self.khala.clone(), self.guard.waiter());
        let answer = async move {
            let answer = khala.answer(waiter, &topic, question).await;
            if let (Some(mut leader), Err(_)) = (leads, &answer) {
                leader.fail();
            }
            Told::Answer(channel, answer)
        };
        self.questions.asked.push(answer.boxed());
    }

    /// What to do for a channel whose newest updates are not in memory yet.
    fn join_read(&self, channel: ChannelId, waited_for: Option<u64>) -> Role {
        let held = self.channels.get(channel);
        match held.and_then(|held| held.watch.as_ref().zip(held.evidence.tail())) {
            Some(((_, waker), tail)) => tail.join_read(waited_for, &Waker::from(Arc::clone(waker))),
            // Nothing would wake it.
            None => Role::Alone,
        }
    }

    /// What the tail has in memory after `cursor`.
    fn get(&self, channel: ChannelId, cursor: Cursor, wanted: Freshness, now: Moment) -> CacheLookup {
        // It was looked for as the question was doubted.
        match self.channels.get(channel).and_then(|held| held.evidence.tail()) {
            Some(held) => self.khala.journal().get_held(held, cursor, wanted, now),
            None => CacheLookup::MissBehind,
        }
    }

    /// Tells the session an answer, and the handle where the client stands then.
    pub(super) fn tell(&mut self, channel: ChannelId, answer: Result<Answer, Error>, now: Now) {
        if matches!(answer, Err(_) | Ok(Answer::Deferred(_)))
            && let Some(held) = self.channels.get_mut(channel)
        {
            held.evidence.unanswered();
        }
        self.session.handle_answer(channel, answer, now);
        let Some(cursor) = self.session.cursor(channel) else { return };
        let Some(topic) = self.session.topic(channel) else { return };
        let held = self.channels.get_or_insert_with(channel, ChannelState::default);
        match &held.cursor {
            Some(handle) => handle.moved(cursor, now.steady),
            None => {
                let subject = Some(self.session.grant().subject());
                held.cursor = Some(self.khala.cursors().follow(topic, subject, cursor, now.steady));
                self.followed += 1;
                self.guard.entry().set_channels(self.followed);
            }
        }
    }
}
