//! A store of sweeps with one fault, and the laws that notice it.
//!
//! A fault that shows only in a race holds the race open for a moment, so that it shows every time.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Error, MemoryStore, Timestamp,
    conformance::{Capabilities, Harness, Place, SweepsHarness, sweep_laws},
    documents::Documents,
    journal::Journal,
    node::NodeId,
    retention::{Lease, SWEEPS_KEPT, SweepRecord, Sweeps},
};
use tokio::time::sleep;

use crate::{each_bites, fails_exactly};

bites! {
    /// Who leads is read in another transaction than it is written in.
    a_race_for_the_lead: LeadRace => "S1",
    /// A lead that ends now is held still.
    a_lead_past_its_end: HeldAtEnd => "S2",
    /// Moments are compared as signed numbers.
    moments_with_a_sign: SignedMoments => "S2",
    /// Nodes are told apart without regard to case, so that two of them lead.
    folded_nodes: NodesFolded => "S1",
    /// Who leads already has its end where it was.
    a_renewal_that_is_forgotten: RenewalForgotten => "S3",
    /// Nobody can give the lead up.
    a_lead_that_cannot_be_given_up: NeverShorter => "S3",
    /// The oldest record comes first.
    oldest_first: OldestFirst => "S4",
    /// Records come in order of when the runs began.
    by_began_at: ByBeganAt => "S4",
    /// A page has as many records as there are.
    a_limit_that_is_not_looked_at: LimitIgnored => "S4",
    /// No record is ever forgotten.
    records_without_bound: Unbounded => "S4",
    /// A few hundred records are kept.
    few_records: FewKept => "S4",
    /// What went wrong in a run is not stored.
    a_record_without_its_error: ErrorLost => "S4" "S5",
    /// Opening the store forgets who leads.
    a_lead_forgotten_on_reopening: ForgetsLead => "S5",
    /// Opening the store forgets the records.
    records_forgotten_on_reopening: ForgetsRecords => "S5",
}

#[test]
fn every_law_is_in_the_table_and_bites() {
    each_bites(&sweep_laws::<Broken>(), (1..=5).map(|n| format!("S{n}")), NOTICED);
}

fn notices(fault: Fault, expected: &[&str]) {
    fails_exactly(sweep_laws(), || Broken::new(fault), &fault, expected);
}

#[derive(Clone, Debug)]
struct Broken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fault: Fault,
    journal: Arc<MemoryStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lead: Option<(NodeId, Timestamp)>,
    /// Oldest first.
    records: Vec<SweepRecord>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        Self(Arc::new(Inner { fault, journal: Arc::new(MemoryStore::new()), state: Mutex::default() }))
    }
}

impl Harness for Broken {
    const CAPABILITIES: Capabilities = Capabilities {
        survives_reopening: true,
        lease_ends_with_its_node: false,
        ..Capabilities::volatile()
    };

    async fn fresh() -> Self {
        Self::new(Fault::None)
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.0.journal.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.0.journal.clone()
    }

    async fn close(self) -> Place {
        Place::new("memory").keeping(self)
    }

    async fn open(place: Place) -> Self {
        let store = Self::clone(&place.kept::<Self>().expect("memory is opened where it was closed"));
        match store.0.fault {
            Fault::ForgetsLead => store.0.lock().lead = None,
            Fault::ForgetsRecords => store.0.lock().records.clear(),
            _ => {}
        }
        store
    }
}

impl SweepsHarness for Broken {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        self.0.clone()
    }
}

/// Holds a race open.
#[expect(
    clippy::disallowed_methods,
    reason = "a test: a moment passes where a real store waits for its disk"
)]
async fn meanwhile() {
    sleep(Duration::from_millis(1)).await;
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_same(&self, one: &NodeId, other: &NodeId) -> bool {
        match self.fault {
            Fault::NodesFolded => one.as_str().eq_ignore_ascii_case(other.as_str()),
            _ => one == other,
        }
    }

    fn holds(&self, until: Timestamp, now: Timestamp) -> bool {
        match self.fault {
            Fault::HeldAtEnd => until >= now,
            Fault::SignedMoments => until.as_millis().cast_signed() > now.as_millis().cast_signed(),
            _ => until > now,
        }
    }
}

#[async_trait]
impl Sweeps for Inner {
    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        let before = self.lock().lead.clone();
        if self.fault == Fault::LeadRace {
            meanwhile().await;
        }
        let mut state = self.lock();
        let found = if self.fault == Fault::LeadRace { before } else { state.lead.clone() };
        let mut end = until;
        if let Some((leader, ends)) = found.filter(|(_, ends)| self.holds(*ends, now)) {
            if !self.is_same(&leader, node) {
                return Ok(Lease::HeldBy { node: leader, until: ends });
            }
            match self.fault {
                Fault::NeverShorter => end = end.max(ends),
                Fault::RenewalForgotten => end = ends,
                _ => {}
            }
        }
        state.lead = Some((node.clone(), end));
        Ok(Lease::Held)
    }

    async fn record(&self, record: &SweepRecord) -> Result<(), Error> {
        let mut state = self.lock();
        let mut record = record.clone();
        if self.fault == Fault::ErrorLost {
            record.error = None;
        }
        state.records.push(record);
        let kept = match self.fault {
            Fault::FewKept => 300,
            Fault::Unbounded => usize::MAX,
            _ => SWEEPS_KEPT,
        };
        let past = state.records.len().saturating_sub(kept);
        state.records.drain(..past);
        Ok(())
    }

    async fn records(&self, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Error> {
        let mut records = self.lock().records.clone();
        if self.fault == Fault::ByBeganAt {
            records.sort_by_key(|record| record.began_at);
        }
        if self.fault != Fault::OldestFirst {
            records.reverse();
        }
        if self.fault != Fault::LimitIgnored {
            records.truncate(limit.get());
        }
        Ok(records)
    }
}
