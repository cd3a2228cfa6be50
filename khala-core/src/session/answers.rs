//! What an answer leads to: the join's one answer, the next frame, the next question.

use std::time::Duration;

use super::{action::Action, by_channel::ChannelId, replies::Status, state::Session};
use crate::{
    admission::Limited,
    auth::Denied,
    clock::{Moment, Now},
    error::Error,
    follower::{Answer, Context, Delivery, Next, Opened, Step},
    position::{Cursor, Stale, Watermark},
    refusal::Refusal,
    wire::{Code, Head, Joined, StaleCursor, event},
};

impl Session {
    /// A question was answered, or could not be.
    pub fn handle_answer(&mut self, id: ChannelId, answer: Result<Answer, Error>, now: Now) {
        if self.waiting.remove(&id) {
            self.ask_later();
        } else {
            self.asked -= 1;
        }
        if !self.advance_clock(now) {
            return;
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.asking = false;
        if channel.asked_under != self.grant_generation {
            // Asked under a grant that was replaced meanwhile: it is asked again once the new one was checked.
            return self.enqueue(id);
        }
        match answer {
            Ok(Answer::Access(verdict)) => self.answer_access(id, verdict),
            Err(error) if !channel.granted => self.answer_access(id, Err(Denied::Unavailable(error))),
            // What was not asked for gets nobody past the check.
            Ok(_) if !channel.granted => self.enqueue(id),
            answer => {
                let newest = channel.follower.newest();
                let surface = channel.surface();
                let context = Context {
                    stats: &self.stats,
                    subject: self.grant.subject(),
                    retry_after: self.options.retry_after,
                    poll_interval: self.options.poll_interval,
                    now,
                };
                let step = channel.follower.answer(answer, &context);
                if step.fell_back {
                    let topic = channel.follower.topic().clone();
                    self.note_refusal(Code::StaleCursor.as_str(), surface, topic.as_str());
                }
                self.take_step(id, step, newest, now.steady);
            }
        }
        if self.channels.get(id).is_some_and(|channel| channel.asks_again()) {
            self.enqueue(id);
        }
    }

    /// Sends what an answer led to, and sees to what comes next. `newest` is the head that was known before.
    fn take_step(&mut self, id: ChannelId, step: Step, newest: Watermark, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let Step { opened, delivery, next, .. } = step;
        let sends = opened.is_some() || delivery.is_some();
        if sends {
            channel.spoke_at = now;
        }
        if let Some(opened) = opened {
            self.answer_join(id, opened, matches!(delivery, Some(Delivery::Documents { .. })));
        }
        match delivery {
            Some(Delivery::Updates { page, complete }) => {
                self.counts.sent(page.page().updates.len(), &self.stats, now);
                self.actions.push_back(Action::Send(page.frame(self.serializer, complete)));
            }
            Some(Delivery::Documents { page, .. }) => {
                self.actions.push_back(Action::Send(page.frame(self.serializer)));
            }
            None => {}
        }
        if !sends && matches!(next, Next::Ask | Next::Rest | Next::Wait(_)) {
            self.maybe_send_head(id, newest, now);
        }
        match next {
            Next::Ask => self.enqueue(id),
            Next::Rest => {}
            Next::Wait(wait) => self.retry(id, wait, now),
            Next::Deferred(limited) => self.put_off(id, limited, now),
            Next::Failed { error, wait } => self.report_failure(id, error, wait, newest, now),
            Next::Stale(stale) => self.end_stale(id, &stale),
        }
    }

    /// Tells the client where it starts. `with_documents`: with a snapshot.
    fn answer_join(&mut self, id: ChannelId, opened: Opened, with_documents: bool) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let Opened { at: Cursor { epoch, watermark }, head, floor, stale } = opened;
        let (topic, class) = (channel.follower.topic().clone(), channel.follower.class());
        let mut joined = Joined::new(epoch, watermark, head, floor);
        if with_documents {
            let stale = stale
                .map(|stale| Box::new(StaleCursor::new(&topic, &stale, class, self.path_prefix.as_ref())));
            joined = joined.with_snapshot(stale);
        }
        let (join_ref, reference) = (channel.join_ref.clone(), channel.take_reference());
        self.reply(join_ref.as_ref(), reference.as_ref(), topic.as_str(), Status::Ok, &joined);
        if self.serializer.is_realtime() {
            self.push(join_ref.as_ref(), topic.as_str(), event::JOINED, &joined);
        }
    }

    /// Too much is read from the journal: a join is told when to come back, and a channel that was answered waits.
    fn put_off(&mut self, id: ChannelId, limited: Limited, now: Moment) {
        if self.channels.get(id).is_some_and(|channel| channel.follower.is_opening()) {
            return self.end_refused(id, &limited.into(), event::ERROR);
        }
        self.retry(id, limited.retry_after, now);
    }

    /// The log cannot be continued, and no snapshot is wanted in its place.
    fn end_stale(&mut self, id: ChannelId, stale: &Stale) {
        let Some(channel) = self.channels.get(id) else { return };
        let (topic, class) = (channel.follower.topic(), channel.follower.class());
        let answer = StaleCursor::new(topic, stale, class, self.path_prefix.as_ref());
        self.end_channel(id, Code::StaleCursor.as_str(), &answer, event::ERROR);
    }

    fn report_failure(
        &mut self,
        id: ChannelId,
        error: Error,
        wait: Duration,
        newest: Watermark,
        now: Moment,
    ) {
        let Some(channel) = self.channels.get(id) else { return };
        let topic = channel.follower.topic();
        let (opening, retryable) = (channel.follower.is_opening(), error.is_retryable());
        if retryable {
            tracing::warn!(%topic, %error, "a read failed");
        } else {
            tracing::error!(%topic, %error, "a read failed, and will until an operator acts");
        }
        if opening || !retryable {
            // The client's own retry is the retry.
            self.end_refused(id, &error.into(), event::ERROR);
        } else {
            self.retry(id, wait, now);
            self.maybe_send_head(id, newest, now);
        }
    }

    pub(super) fn end_refused(&mut self, id: ChannelId, refusal: &Refusal, event: &str) {
        let response = self.response_of(refusal);
        self.end_channel(id, response.code, &response, event);
    }

    /// Ends a channel with a refusal: as the answer to its join, or, where that was answered, before `event`.
    pub(super) fn end_channel(
        &mut self,
        id: ChannelId,
        code: &'static str,
        refusal: &impl serde::Serialize,
        event: &str,
    ) {
        let Some(channel) = self.channels.get(id) else { return };
        let topic = channel.follower.topic().clone();
        self.note_refusal(code, channel.surface(), topic.as_str());
        let join_ref = channel.join_ref.clone();
        if let Some(reference) = channel.unanswered().map(|reference| reference.cloned()) {
            if self.serializer.is_realtime() {
                self.push(join_ref.as_ref(), topic.as_str(), event::SYNC_ERROR, refusal);
            }
            self.reply(join_ref.as_ref(), reference.as_ref(), topic.as_str(), Status::Error, refusal);
            self.remove(id);
        } else {
            self.push(join_ref.as_ref(), topic.as_str(), event::SYNC_ERROR, refusal);
            self.close_channel(id, event);
        }
    }

    /// Tells a quiet channel where its topic stands, now and then.
    fn maybe_send_head(&mut self, id: ChannelId, newest: Watermark, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if !channel.follower.is_live() || now.since(channel.spoke_at) < self.options.head_interval {
            return;
        }
        channel.spoke_at = now;
        let age = now.since(channel.follower.confirmed_at());
        let head = Head { head: newest, age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX) };
        let topic = channel.follower.topic().clone();
        self.push(None, topic.as_str(), event::HEAD, &head);
    }
}
