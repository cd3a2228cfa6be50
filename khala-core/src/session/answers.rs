//! What an answer leads to: the join's one answer, the next frame, the next question.

use super::{
    action::{Action, Answer},
    by_channel::ChannelId,
    channel::Phase,
    replies::Status,
    state::Session,
};
use crate::{
    admission::Limited,
    auth::Denied,
    clock::{Moment, Now},
    documents::SnapshotFrom,
    error::Error,
    position::{Bounds, Cursor, Stale},
    snapshots::{SharedSnapshot, SharedSnapshotPage},
    tail::{FollowResult, SharedPage},
    wire::{Code, Head, Joined, OnStale, Refusal, Resume, StaleCursor, event},
};

/// What came with a page, or with the news that there is none.
struct News {
    /// What the topic holds.
    bounds: Bounds,
    /// When the journal last confirmed that.
    confirmed_at: Moment,
    /// The page lies behind what the tail holds.
    behind: bool,
}

impl Session {
    /// A question was answered, or could not be.
    pub fn handle_answer(&mut self, id: ChannelId, answer: Result<Answer, Error>, now: Now) {
        if self.waiting.remove(&id) {
            self.ask_later();
        } else {
            self.asked -= 1;
        }
        if !self.goes_on(now) {
            return;
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.asking = false;
        if answer.is_ok() {
            channel.succeeded();
        }
        if channel.asked_in != self.round {
            // Asked under a grant that was replaced meanwhile: it is asked again once the new one was checked.
            return self.enqueue(id);
        }
        match answer {
            Ok(Answer::Access(verdict)) => self.answer_access(id, verdict),
            Err(error) if !channel.granted => self.answer_access(id, Err(Denied::Unavailable(error))),
            // What was not asked for gets nobody past the check.
            Ok(_) if !channel.granted => self.enqueue(id),
            Ok(Answer::Bounds(bounds, confirmed_at)) => {
                self.answer_bounds(id, bounds, confirmed_at, now.steady);
            }
            Ok(Answer::Deferred(limited)) => self.answer_deferred(id, &limited, now),
            Ok(Answer::Read(FollowResult::Page { page, bounds, confirmed_at, behind })) => {
                let news = News { bounds, confirmed_at, behind };
                self.answer_page(id, &page, &news, now);
            }
            Ok(Answer::Read(FollowResult::CaughtUp { bounds, confirmed_at })) => {
                let news = News { bounds, confirmed_at, behind: false };
                self.answer_caught_up(id, &news, now.steady);
            }
            Ok(Answer::Read(FollowResult::Stale(stale))) => self.answer_stale(id, stale, now),
            Ok(Answer::Snapshot(SharedSnapshot::Page(page))) => self.answer_snapshot(id, &page, now.steady),
            Ok(Answer::Snapshot(SharedSnapshot::Stale(stale))) => {
                // The client is told by the page that starts it anew; operators are by this.
                let class = channel.class.as_deref();
                self.stats.stale(self.grant.subject(), &channel.topic, class, &stale.reasons, now);
                channel.phase.restart_snapshot();
                self.start_over(id, now);
            }
            Err(error) => self.answer_error(id, &error, now.steady),
        }
        if self.channels.get(id).is_some_and(|channel| channel.asks_again()) {
            self.enqueue(id);
        }
    }

    fn answer_bounds(&mut self, id: ChannelId, bounds: Bounds, confirmed_at: Moment, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.confirmed_at = confirmed_at;
        match channel.phase {
            Phase::Opening { resume: Resume::Floor, .. } => {
                channel.phase.open_at(bounds.at_floor());
                self.enqueue(id);
            }
            Phase::Opening { .. } => self.go_live(id, bounds.at_head(), &bounds, now),
            Phase::Live | Phase::Snapshot { .. } => {}
        }
    }

    fn answer_page(&mut self, id: ChannelId, page: &SharedPage, news: &News, now: Now) {
        if let Err(stale) = self.within_budget(id, &news.bounds) {
            return self.answer_stale(id, stale, now);
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.confirmed_at = news.confirmed_at;
        let was_live = matches!(channel.phase, Phase::Live);
        if let Phase::Opening { .. } = channel.phase {
            self.go_live(id, Cursor::new(news.bounds.epoch, page.page().after), &news.bounds, now.steady);
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        if channel.cursor.watermark != page.page().after {
            // It answers a question that this channel no longer has; what is wanted is asked for again.
            return self.enqueue(id);
        }
        channel.continues();
        channel.reads(news.behind, was_live, &self.stats);
        if channel.polled() {
            self.stats.cells.poll_finds.add(page.page().updates.len() as u64);
        }
        (channel.cursor, channel.published_at) = (page.page().cursor(), Some(page.published_at()));
        channel.spoke_at = now.steady;
        let complete = channel.cursor.watermark >= channel.replay_until;
        // A shared page may have been complete when it was read, and the tail have read on since.
        let more = channel.cursor.watermark < news.bounds.head || channel.has_news();
        self.counts.sent(page.page().updates.len(), &self.stats, now.steady);
        self.actions.push_back(Action::Send(page.frame(self.serializer, complete)));
        if more {
            self.enqueue(id);
        }
    }

    fn answer_caught_up(&mut self, id: ChannelId, news: &News, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.confirmed_at = news.confirmed_at;
        if let Phase::Opening { .. } = channel.phase {
            return self.go_live(id, news.bounds.at_head(), &news.bounds, now);
        }
        channel.continues();
        channel.reads(false, true, &self.stats);
        // Polling found nothing.
        channel.polled();
        // Before a doubt forgets what was announced.
        self.speak_of_head(id, now);
        let Some(channel) = self.channels.get_mut(id) else { return };
        if channel.has_news() && !channel.asks_again() {
            // What was announced cannot be read yet. It will be; asking again at once would only spin.
            channel.doubt(news.confirmed_at);
            self.retry(id, self.options.retry_after, now);
        }
    }

    /// Whether a cursor that was brought is not too far behind the head for its class.
    fn within_budget(&self, id: ChannelId, bounds: &Bounds) -> Result<(), Stale> {
        let Some(channel) = self.channels.get(id) else { return Ok(()) };
        match channel.phase {
            Phase::Opening { resume: Resume::After(cursor), .. } => {
                bounds.admit_within(cursor, channel.budget())
            }
            _ => Ok(()),
        }
    }

    /// Too much is read from the journal: a join is told when to come back, and a channel that was answered waits.
    fn answer_deferred(&mut self, id: ChannelId, limited: &Limited, now: Now) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        self.stats.replay_deferred(&channel.topic, channel.class.as_deref(), now.wall);
        if channel.unanswered().is_some() {
            let refusal = Refusal::limited(limited);
            return self.end_channel(id, refusal.code, &refusal, event::ERROR);
        }
        self.retry(id, limited.retry_after, now.steady);
    }

    /// The cursor cannot be resumed from: at the join, or because the log was trimmed past a slow reader.
    fn answer_stale(&mut self, id: ChannelId, stale: Stale, now: Now) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if let Phase::Opening { resume: Resume::Floor, .. } = channel.phase {
            // Trimmed between the two questions; the floor is where it is now.
            channel.phase.open_at(stale.bounds.at_floor());
            return self.start_over(id, now);
        }
        let stale = stale.within(channel.budget());
        let class = channel.class.as_deref();
        self.stats.stale(self.grant.subject(), &channel.topic, class, &stale.reasons, now);
        let answer = StaleCursor::new(&channel.topic, &stale, class);
        if channel.on_stale == OnStale::Snapshot {
            let (surface, topic) = (channel.surface(), channel.topic.clone());
            channel.phase.start_snapshot(answer);
            self.note_refusal(Code::StaleCursor.as_str(), surface, topic.as_str());
            return self.start_over(id, now);
        }
        self.end_channel(id, Code::StaleCursor.as_str(), &answer, event::ERROR);
    }

    /// Has a channel ask from a new start: at once, but for one that did so again and again.
    fn start_over(&mut self, id: ChannelId, now: Now) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if channel.starts_over() {
            return self.enqueue(id);
        }
        self.retry(id, self.options.retry_after, now.steady);
    }

    fn answer_snapshot(&mut self, id: ChannelId, shared: &SharedSnapshotPage, now: Moment) {
        let page = shared.page();
        let Some(channel) = self.channels.get_mut(id) else { return };
        let Phase::Snapshot { unanswered, next } = &mut channel.phase else { return };
        if matches!(next, SnapshotFrom::Start) {
            channel.replay_until = page.bounds.head;
        }
        *next = page.next().unwrap_or(SnapshotFrom::Start);
        if let Some((reference, stale)) = unanswered.take() {
            let Cursor { epoch, watermark } = page.at;
            let joined =
                Joined::new(epoch, watermark, page.bounds.head, page.bounds.floor).with_snapshot(stale);
            let (topic, join_ref) = (channel.topic.clone(), channel.join_ref.clone());
            self.stats.cells.joins_from_snapshot.add(1);
            self.reply(join_ref.as_deref(), reference.as_deref(), topic.as_str(), Status::Ok, &joined);
        }
        let Some(channel) = self.channels.get_mut(id) else { return };
        (channel.spoke_at, channel.published_at) = (now, None);
        if page.complete {
            channel.phase = Phase::Live;
            channel.cursor = page.at;
        }
        self.actions.push_back(Action::Send(shared.frame(self.serializer)));
        self.enqueue(id);
    }

    fn answer_error(&mut self, id: ChannelId, error: &Error, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let refusal = if error.is_retryable() {
            tracing::warn!(topic = %channel.topic, %error, "a read failed");
            Refusal::new(Code::Unavailable, "the journal cannot be read now")
                .with_retry_after(self.options.retry_after)
        } else {
            tracing::error!(topic = %channel.topic, %error, "a read failed, and will until somebody acts");
            Refusal::new(Code::Unavailable, "the journal cannot be read until an operator has acted")
        };
        if channel.unanswered().is_some() || !error.is_retryable() {
            // The client's own retry is the retry.
            self.end_channel(id, refusal.code, &refusal, event::ERROR);
        } else {
            let wait = channel.back_off(self.options.retry_after, self.options.poll_every);
            self.retry(id, wait, now);
            self.speak_of_head(id, now);
        }
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
        self.note_refusal(code, channel.surface(), channel.topic.as_str());
        let (topic, join_ref) = (channel.topic.clone(), channel.join_ref.clone());
        if let Some(reference) = channel.unanswered().map(|reference| reference.map(str::to_owned)) {
            self.reply(join_ref.as_deref(), reference.as_deref(), topic.as_str(), Status::Error, refusal);
            self.remove(id);
        } else {
            self.push(join_ref.as_deref(), topic.as_str(), event::SYNC_ERROR, refusal);
            self.close_channel(id, event);
        }
    }

    /// Answers the join and starts to follow.
    fn go_live(&mut self, id: ChannelId, cursor: Cursor, bounds: &Bounds, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let Phase::Opening { reference, resume, .. } = std::mem::replace(&mut channel.phase, Phase::Live)
        else {
            return;
        };
        channel.cursor = cursor;
        channel.replay_until = bounds.head;
        channel.spoke_at = now;
        let cells = &self.stats.cells;
        let joins = match resume {
            Resume::After(_) => &cells.joins_from_cursor,
            Resume::Floor => &cells.joins_from_floor,
            Resume::Head => &cells.joins_from_head,
            Resume::Snapshot => &cells.joins_from_snapshot,
        };
        joins.add(1);
        let joined = Joined::new(cursor.epoch, cursor.watermark, bounds.head, bounds.floor);
        let (topic, join_ref, news) = (channel.topic.clone(), channel.join_ref.clone(), channel.has_news());
        self.reply(join_ref.as_deref(), reference.as_deref(), topic.as_str(), Status::Ok, &joined);
        if news {
            self.enqueue(id);
        }
    }

    /// Tells a quiet channel where its topic stands, now and then.
    fn speak_of_head(&mut self, id: ChannelId, now: Moment) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if !matches!(channel.phase, Phase::Live) || now.since(channel.spoke_at) < self.options.head_every {
            return;
        }
        channel.spoke_at = now;
        let age = now.since(channel.confirmed_at);
        let head =
            Head { head: channel.newest(), age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX) };
        let topic = channel.topic.clone();
        self.push(None, topic.as_str(), event::HEAD, &head);
    }
}
