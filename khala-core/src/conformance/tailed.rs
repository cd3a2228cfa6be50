//! Any store with a tail over it: the tail is a journal, and so it is held to the same laws.

use std::sync::Arc;

use super::{Capabilities, Harness, Place};
use crate::{
    documents::Documents,
    journal::Journal,
    tail::{TailJournal, TailOptions},
};

/// The harness of a store, with a [`TailJournal`] over its journal.
#[derive(Debug)]
pub struct Tailed<H> {
    store: H,
    tail: Arc<TailJournal>,
}

impl<H: Harness> Tailed<H> {
    fn over(store: H) -> Self {
        // Small enough that the laws see it forget.
        let options = TailOptions::default().with_topic_bytes(16 << 10);
        let tail = Arc::new(TailJournal::new(store.journal(), options));
        Self { store, tail }
    }
}

impl<H: Harness> Harness for Tailed<H> {
    const CAPABILITIES: Capabilities = H::CAPABILITIES;

    async fn fresh() -> Self {
        Self::over(H::fresh().await)
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::<TailJournal>::clone(&self.tail)
    }

    fn documents(&self) -> Arc<dyn Documents> {
        self.store.documents()
    }

    async fn close(self) -> Place {
        // The tail holds the store open.
        drop(self.tail);
        self.store.close().await
    }

    async fn open(place: Place) -> Self {
        Self::over(H::open(place).await)
    }
}
