//! The laws, held against the memory journal, and against the tail over it.

use std::sync::Arc;

use khala_core::{
    Documents, Journal, MemoryJournal,
    conformance::{Capabilities, Harness, Place, Tailed},
};

#[derive(Debug)]
struct Memory(Arc<MemoryJournal>);

impl Harness for Memory {
    const CAPABILITIES: Capabilities = Capabilities::volatile();

    async fn fresh() -> Self {
        Self(Arc::new(MemoryJournal::new()))
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.0.clone()
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.0.clone()
    }

    async fn close(self) -> Place {
        Place::new("memory").keeping(self.0)
    }

    async fn open(place: Place) -> Self {
        Self(Arc::clone(&place.kept::<Arc<MemoryJournal>>().expect("memory is opened where it was closed")))
    }
}

mod memory {
    khala_core::laws!(super::Memory);
}

mod tail_over_memory {
    khala_core::laws!(super::Tailed<super::Memory>);
}
