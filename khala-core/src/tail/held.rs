//! What the tail holds of one topic, in the hands of somebody who follows it: it stays for as long, and is not looked for at
//! every turn.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use super::{entry::Entry, ring::Ring};
use crate::{position::Bounds, single_flight::Role};

/// What the tail holds of one topic.
#[derive(Debug)]
pub(crate) struct HeldTopic(Arc<Entry>);

impl HeldTopic {
    pub(super) fn new(entry: Arc<Entry>) -> Self {
        Self(entry)
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.0
    }

    /// The newest evidence that its journal went back, as a number that grows.
    pub(crate) fn evidence(&self) -> u64 {
        self.0.evidence()
    }

    /// What the topic holds, if other updates than those that were known were found in it after that evidence.
    pub(crate) fn regrown_since(&self, evidence: u64) -> Option<Bounds> {
        let regrown = self.0.regrown.load(Ordering::SeqCst) > evidence;
        regrown.then(|| self.0.ring().as_ref().map(Ring::bounds)).flatten()
    }

    /// The role of one that looked up the newest updates and was told [`CacheLookup::MissAtHead`](super::CacheLookup::MissAtHead), after it has waited for the
    /// leader of that number, if it has; `waker` is woken if it is to wait.
    pub(crate) fn join_read(&self, waited_for: Option<u64>, waker: &Waker) -> Role {
        self.0.leadership.join(waited_for, waker)
    }

    /// Whether the leader of that number still reads.
    pub(crate) fn is_led_by(&self, number: u64) -> bool {
        self.0.leadership.is_led_by(number)
    }
}
