//! The topics of a scenario: their names, and what is known to be published on each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use khala_testing::{Failure, ensure};

use crate::{
    checker::{Delivery, Given, Limits, Published, Subscriber, Verdict},
    environment::Environment,
    history,
};

/// What the topics of a scenario are called before their number.
pub(crate) const PREFIX: &str = "scenario:";

/// Topics that publishers and clients share.
#[derive(Debug)]
pub(crate) struct Topics {
    names: Vec<String>,
    published: Vec<Mutex<Published>>,
}

impl Topics {
    /// `count` topics, at least one.
    pub(crate) fn new(count: usize) -> Self {
        let names: Vec<_> = (0..count.max(1)).map(|number| format!("{PREFIX}{number}")).collect();
        let published = names.iter().map(|_| Mutex::new(Published::new(Limits::default()))).collect();
        Self { names, published }
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, topic: usize) -> &str {
        &self.names[topic]
    }

    pub(crate) fn published(&self, topic: usize) -> MutexGuard<'_, Published> {
        // What is in there is whole after each call.
        self.published[topic].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest seq that was acknowledged, by topic; 0 where none was.
    pub(crate) fn heads(&self) -> Vec<u64> {
        (0..self.count()).map(|topic| self.published(topic).head()).collect()
    }

    /// How many updates were acknowledged.
    pub(crate) fn updates(&self) -> u64 {
        (0..self.count()).map(|topic| self.published(topic).acknowledged()).sum()
    }

    /// Reads every topic over HTTP, from the oldest update that is kept, and fails unless it is what was acknowledged. Says how
    /// many updates that were.
    pub(crate) async fn check_history(&self, environment: &Environment) -> Result<u64, Failure> {
        let mut found = 0;
        for (topic, name) in self.names.iter().enumerate() {
            let (floor, entries) = history::read_kept(&environment.http()?, name).await?;
            let mut published = self.published(topic);
            let mut reader =
                Subscriber::starting_after(format!("the history of {name}"), Delivery::ExactlyOnce, floor);
            for entry in &entries {
                let history::Entry { epoch, seq, payload } = entry;
                let given = Given { epoch: epoch.as_deref(), seq: *seq, payload: payload.as_bytes() };
                reader.given(&mut published, given);
            }
            good(&published.verdict([&reader]))?;
            found += entries.len() as u64;
        }
        Ok(found)
    }
}

/// Fails for the first fault.
pub(crate) fn good(verdict: &Verdict) -> Result<(), Failure> {
    ensure(verdict.faults.is_empty(), || {
        let more = verdict.faults.len() as u64 - 1 + verdict.more_faults;
        format!("{}, and {more} more faults", verdict.faults[0])
    })
}
