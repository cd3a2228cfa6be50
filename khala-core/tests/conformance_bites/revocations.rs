//! A log of revocations with one fault, and the laws that notice it.
//!
//! A fault that shows only in a race holds the race open for a moment, so that it shows every time.

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Error, MemoryStore, Timestamp, Watermark,
    auth::{Revocation, RevocationId, RevocationPage, RevocationTarget, Revocations},
    conformance::{self, Capabilities, Harness, Place, RevocationsHarness, revocation_laws},
    documents::Documents,
    journal::Journal,
};
use tokio::time::sleep;

use crate::{each_bites, fails_exactly};

bites! {
    /// What a revocation names is told apart by its text only, whichever claim that stands in.
    claims_folded: ClaimsFolded => "R1",
    /// Texts are told apart without regard to case.
    case_folded: CaseFolded => "R1",
    /// Reading begins with the revocation that the watermark already covers.
    an_inclusive_watermark: InclusiveWatermark => "R2",
    /// A page has as many revocations as there are.
    a_limit_that_is_not_looked_at: LimitIgnored => "R2",
    /// A page begins with its newest.
    newest_first: NewestFirst => "R2",
    /// Some revocations become visible later than those after them.
    a_late_arrival: LateArrival => "R3",
    /// Revoking again puts the new `until` in the place of a later one.
    a_renewal_that_loses_the_later_until: RenewalLosesUntil => "R4",
    /// Revoking again puts the new `at` in the place of a later one.
    a_renewal_that_loses_the_later_at: RenewalLosesAt => "R4",
    /// Revoking again changes what is stored where it stands.
    a_renewal_that_nobody_reads: RenewalInPlace => "R4",
    /// Revoking again leaves the older one beside the newer.
    a_renewal_beside_the_first: RenewalBeside => "R4",
    /// Revoking again reads what is there in another transaction than it writes in.
    a_race_of_renewals: RenewalRace => "R4",
    /// After pruning, watermarks are counted on from the newest that is left.
    a_watermark_reused_after_pruning: ReusedAfterPruning => "R5",
    /// After opening, watermarks are counted on from the newest that is left.
    a_watermark_reused_after_reopening: ReusedAfterReopening => "R5",
    /// Pruning takes what has no end for ended.
    pruning_forgets_the_endless: PruneForgetsEndless => "R5",
    /// Moments are compared as signed numbers.
    pruning_forgets_the_far_future: PruneForgetsFar => "R5",
    /// What ends now is not forgotten.
    pruning_spares_what_ends_now: PruneSparesNow => "R5",
    /// Pruning removes what is named as what had ended a moment ago.
    a_race_of_pruning: PruneRace => "R5",
    /// Opening the log begins a new one.
    forgetting_on_reopening: ForgetsOnReopening => "R6",
}

#[test]
fn every_law_is_in_the_table_and_bites() {
    each_bites(&revocation_laws::<Broken>(), (1..=6).map(|n| format!("R{n}")), NOTICED);
}

fn notices(fault: Fault, expected: &[&str]) {
    fails_exactly(revocation_laws(), || Broken::new(fault), &fault, expected);
}

#[derive(Clone, Debug)]
struct Broken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fault: Fault,
    journal: Arc<MemoryStore>,
    log: Mutex<Log>,
    /// How often something was revoked.
    revoked: AtomicU64,
}

#[derive(Debug, Default)]
struct Log {
    newest: u64,
    kept: Vec<(Watermark, Revocation)>,
    /// What is stored and not yet visible.
    hidden: HashSet<Watermark>,
}

impl Log {
    fn find(&self, target: &RevocationTarget) -> Option<usize> {
        self.kept.iter().position(|(_, kept)| kept.target == *target)
    }

    fn count_on_from_what_is_left(&mut self) {
        self.newest = self.kept.last().map_or(0, |(newest, _)| newest.as_u64());
    }
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let (journal, log) = (Arc::new(MemoryStore::new()), Mutex::default());
        Self(Arc::new(Inner { fault, journal, log, revoked: AtomicU64::new(0) }))
    }
}

impl Harness for Broken {
    const CAPABILITIES: Capabilities = Capabilities { survives_reopening: true, ..Capabilities::volatile() };

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
            Fault::ForgetsOnReopening => store.0.lock().kept.clear(),
            Fault::ReusedAfterReopening => store.0.lock().count_on_from_what_is_left(),
            _ => {}
        }
        store
    }
}

impl RevocationsHarness for Broken {
    fn revocations(&self) -> Arc<dyn Revocations> {
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
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self, target: RevocationTarget) -> RevocationTarget {
        match (self.fault, target) {
            (Fault::CaseFolded, RevocationTarget::Sub(id)) => RevocationTarget::Sub(
                RevocationId::parse(&id.as_str().to_lowercase()).expect("it was good before"),
            ),
            (Fault::ClaimsFolded, target) => RevocationTarget::Sub(target.id().clone()),
            (_, target) => target,
        }
    }

    fn merged(&self, made: Revocation, older: &Revocation) -> Revocation {
        let (at, until) = (made.at, made.until);
        let mut merged = made.merged_with(older);
        match self.fault {
            Fault::RenewalLosesAt => merged.at = at,
            Fault::RenewalLosesUntil => merged.until = until,
            _ => {}
        }
        merged
    }

    fn ended(&self, revocation: &Revocation, now: Timestamp) -> bool {
        let Some(until) = revocation.until else { return self.fault == Fault::PruneForgetsEndless };
        match self.fault {
            Fault::PruneForgetsFar => until.as_millis().cast_signed() <= now.as_millis().cast_signed(),
            Fault::PruneSparesNow => until < now,
            _ => until <= now,
        }
    }
}

#[async_trait]
impl Revocations for Inner {
    async fn revoke(&self, mut revocation: Revocation) -> Result<Watermark, Error> {
        revocation.target = self.target(revocation.target);
        let mut older = {
            let log = self.lock();
            log.find(&revocation.target).map(|at| log.kept[at].1.clone())
        };
        if self.fault == Fault::RenewalRace {
            meanwhile().await;
        }
        let given = {
            let mut log = self.lock();
            let found = log.find(&revocation.target);
            if self.fault != Fault::RenewalRace {
                older = found.map(|at| log.kept[at].1.clone());
            }
            if let Some(older) = &older {
                revocation = self.merged(revocation, older);
            }
            match found {
                Some(at) if self.fault == Fault::RenewalInPlace => {
                    log.kept[at].1 = revocation;
                    return Ok(log.kept[at].0);
                }
                Some(at) if self.fault != Fault::RenewalBeside => drop(log.kept.remove(at)),
                _ => {}
            }
            log.newest += 1;
            let given = Watermark::new(log.newest).expect("a law stores few");
            log.kept.push((given, revocation));
            let late = self.revoked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            if self.fault != Fault::LateArrival || !late {
                return Ok(given);
            }
            log.hidden.insert(given);
            given
        };
        meanwhile().await;
        self.lock().hidden.remove(&given);
        Ok(given)
    }

    async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        let log = self.lock();
        let limit = if self.fault == Fault::LimitIgnored { usize::MAX } else { limit.get() };
        let inclusive = self.fault == Fault::InclusiveWatermark;
        let follows = |given: Watermark| given > after || (inclusive && given == after);
        let seen = log.kept.iter().filter(|(given, _)| follows(*given) && !log.hidden.contains(given));
        let mut page: Vec<_> = seen.take(limit).cloned().collect();
        if self.fault == Fault::NewestFirst {
            page.reverse();
        }
        let next = page.last().map(|(given, _)| *given);
        Ok(RevocationPage { revocations: page, corrupt: Vec::new(), next })
    }

    async fn prune(&self, now: Timestamp) -> Result<u64, Error> {
        if self.fault == Fault::PruneRace {
            let log = self.lock().kept.clone();
            let ended = log.into_iter().filter(|(_, kept)| self.ended(kept, now));
            let ended: Vec<RevocationTarget> = ended.map(|(_, kept)| kept.target).collect();
            meanwhile().await;
            self.lock().kept.retain(|(_, kept)| !ended.contains(&kept.target));
            return Ok(ended.len() as u64);
        }
        let mut log = self.lock();
        let before = log.kept.len();
        log.kept.retain(|(_, kept)| !self.ended(kept, now));
        let forgotten = (before - log.kept.len()) as u64;
        if self.fault == Fault::ReusedAfterPruning && forgotten > 0 {
            log.count_on_from_what_is_left();
        }
        Ok(forgotten)
    }
}

mod acknowledged_in_memory {
    //! A log that acknowledges what is only in its process: it is there again after reopening, and not after
    //! `kill -9`.

    use super::*;

    struct Volatile(Broken);

    impl Harness for Volatile {
        const CAPABILITIES: Capabilities = Capabilities::durable();

        async fn fresh() -> Self {
            Self(Broken::fresh().await)
        }

        fn journal(&self) -> Arc<dyn Journal> {
            self.0.journal()
        }

        fn documents(&self) -> Arc<dyn Documents> {
            self.0.documents()
        }

        async fn close(self) -> Place {
            self.0.close().await
        }

        async fn open(place: Place) -> Self {
            Self(if place.kept::<Broken>().is_some() {
                Broken::open(place).await
            } else {
                Broken::fresh().await
            })
        }
    }

    impl RevocationsHarness for Volatile {
        fn revocations(&self) -> Arc<dyn Revocations> {
            self.0.revocations()
        }
    }

    #[test]
    #[should_panic(expected = "after kill -9 there is")]
    fn is_noticed() {
        let law = conformance::revocations::r6_acknowledged_means_durable::<Volatile>;
        conformance::run(module_path!(), "r6", law);
    }

    #[test]
    #[ignore = "the process that law R6 kills"]
    fn revoking_victim() {
        conformance::revoking_victim::<Volatile>();
    }
}
