//! One joined topic of a session: what the client was promised about it, and when it asks next. Where it stands in the log is its
//! follower's.

use crate::{
    auth::Grant,
    clock::Moment,
    follower::{Follower, Question},
    telemetry::Surface,
    wire::{Frame, Ref},
};

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) follower: Follower,
    pub(super) join_ref: Option<Ref<'static>>,
    /// The ref of the join, until that is answered.
    reference: Option<Ref<'static>>,
    /// It was checked under the session's grant. Until then nothing is asked or sent.
    pub(super) granted: bool,
    /// It is watched, which it is from when it was granted first.
    pub(super) watched: bool,
    /// Watching it failed, and is tried again at the next poll.
    pub(super) unwatched: bool,
    /// When anything was last sent on this channel.
    pub(super) spoke_at: Moment,
    /// A question is under way.
    pub(super) asking: bool,
    /// How often the session's grant had been replaced when it asked last.
    pub(super) asked_under: u64,
    /// When to ask again, after something could not be read or was put off.
    pub(super) retry_at: Option<Moment>,
    /// Its question was withdrawn: it asks nothing until the session lets it.
    withdrawn: bool,
    /// It is in the session's queue.
    queued: bool,
    /// There is something to ask once the answer that is under way has come.
    again: bool,
}

impl Channel {
    pub(super) fn new(follower: Follower, join: &Frame<'_>, now: Moment) -> Self {
        Self {
            follower,
            join_ref: join.join_ref.clone().map(Ref::into_owned),
            reference: join.reference.clone().map(Ref::into_owned),
            granted: false,
            watched: false,
            unwatched: false,
            spoke_at: now,
            asking: false,
            asked_under: 0,
            retry_at: None,
            withdrawn: false,
            queued: false,
            again: false,
        }
    }

    /// Notes that it wants to ask; says whether it has to be put into the queue for that.
    pub(super) fn enqueue(&mut self) -> bool {
        if self.asking || self.withdrawn {
            self.again = true;
            return false;
        }
        !std::mem::replace(&mut self.queued, true)
    }

    /// Withdraws its question.
    pub(super) fn put_back(&mut self) {
        (self.asking, self.withdrawn) = (false, true);
    }

    /// Lets it ask again what was withdrawn.
    pub(super) fn resume_asking(&mut self) {
        self.withdrawn = false;
    }

    /// Whether it is time to ask again.
    pub(super) fn retries(&mut self, now: Moment) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Whether it wanted to ask while a question was under way.
    pub(super) fn asks_again(&self) -> bool {
        self.again && !self.asking && !self.withdrawn
    }

    /// The ref of the join, if that is not answered yet.
    pub(super) fn unanswered(&self) -> Option<Option<&Ref<'static>>> {
        self.follower.is_opening().then_some(self.reference.as_ref())
    }

    /// The ref of the join, which is answered now.
    pub(super) fn take_reference(&mut self) -> Option<Ref<'static>> {
        self.reference.take()
    }

    /// What is refused when it is ended.
    pub(super) fn surface(&self) -> Surface {
        if self.follower.is_opening() { Surface::Join } else { Surface::Live }
    }

    /// The question that it has now, under a grant that took the place of `grant_generation` others.
    pub(super) fn ask(&mut self, grant: &Grant, grant_generation: u64) -> Question {
        self.queued = false;
        self.again = false;
        self.asking = true;
        self.asked_under = grant_generation;
        if self.granted { self.follower.question() } else { Question::Access(grant.clone()) }
    }
}
