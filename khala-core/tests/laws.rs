//! The laws, held against the memory journal, against the tail over it, and against checkpoints, revocations and sweeps
//! in memory.

use std::sync::Arc;

use khala_core::{
    MemoryStore,
    auth::{MemoryRevocations, Revocations},
    conformance::{
        Capabilities, CheckpointsHarness, Harness, Place, RevocationsHarness, SweepsHarness, Tailed,
    },
    documents::Documents,
    journal::Journal,
    projection::Checkpoints,
    retention::{MemorySweeps, Sweeps},
};

#[derive(Clone, Debug)]
struct Memory {
    journal: Arc<MemoryStore>,
    revocations: Arc<MemoryRevocations>,
    sweeps: Arc<MemorySweeps>,
}

impl Harness for Memory {
    const CAPABILITIES: Capabilities = Capabilities::volatile();

    async fn fresh() -> Self {
        Self {
            journal: Arc::new(MemoryStore::new()),
            revocations: Arc::new(MemoryRevocations::new()),
            sweeps: Arc::new(MemorySweeps::new()),
        }
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.journal.clone()
    }

    async fn close(self) -> Place {
        Place::new("memory").keeping(self)
    }

    async fn open(place: Place) -> Self {
        Self::clone(&place.kept::<Self>().expect("memory is opened where it was closed"))
    }
}

impl RevocationsHarness for Memory {
    fn revocations(&self) -> Arc<dyn Revocations> {
        self.revocations.clone()
    }
}

impl SweepsHarness for Memory {
    fn sweeps(&self) -> Arc<dyn Sweeps> {
        self.sweeps.clone()
    }
}

impl CheckpointsHarness for Memory {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        self.journal.clone()
    }
}

mod memory {
    khala_core::laws!(super::Memory);
    khala_core::revocation_laws!(super::Memory);
    khala_core::sweep_laws!(super::Memory);
    khala_core::checkpoint_laws!(super::Memory);
}

mod tail_over_memory {
    khala_core::laws!(super::Tailed<super::Memory>);
}
