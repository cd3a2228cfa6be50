//! What the tail holds of one topic, in the hands of somebody who follows it: it stays for as long, and is not looked for at
//! every turn.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use super::{entry::Entry, lead::Part, ring::Ring};
use crate::position::Bounds;

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

    /// What one does who peeked and was told [`Peek::Hot`], after it has waited for the lead of that number, if it has;
    /// `waker` is woken if it is to wait.
    pub(crate) fn take_part(&self, waited_for: Option<u64>, waker: &Waker) -> Part {
        self.0.leads.take_part(waited_for, waker)
    }

    /// Whether the lead of that number goes on.
    pub(crate) fn is_led(&self, number: u64) -> bool {
        self.0.leads.is_led(number)
    }
}
