//! Documents that are watched for one mistake: a snapshot is asked of a topic whose updates belong to no document.
//!
//! Its reader receives an empty snapshot and then the log from the head: it never receives what was published before. So the node says so
//! once for each topic, in its log and by a count.
//!
//! An empty snapshot alone is no mistake, because all documents of a topic may have been deleted. So the newest updates that are kept are
//! looked at: if one of them belongs to a document, and be it a tombstone, the topic is taken for one of documents. A topic of which
//! no update is kept is not told of: there is nothing that its reader could have been sent.
//!
//! # Invariants
//! - The answer is the store's, whatever the look finds, and also where it fails.
//! - A topic is looked at once while it is remembered, and the memory for that is bounded.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    class::Classes,
    documents::{Documents, Snapshot, SnapshotFrom, SnapshotPage},
    error::Error,
    journal::{Journal as _, ReadLimit, Replay},
    position::{Cursor, Watermark},
    recent::Recent,
    stats::Stats,
    tail::TailJournal,
    topic::Topic,
    update::{DocKey, Update},
};

/// Topics that are remembered as looked at, at least.
const TOPICS: usize = 5_000;
/// How much of the log is looked at.
const NEWEST: ReadLimit = ReadLimit::new(NonZeroUsize::new(100).expect("100 is not zero"), 256 << 10);

/// The documents of a store, and what is needed for the look.
#[derive(Debug)]
pub(super) struct CheckedDocuments {
    documents: Arc<dyn Documents>,
    tail: Arc<TailJournal>,
    classes: Classes,
    stats: Arc<Stats>,
    looked_at: Mutex<Recent<Topic, bool>>,
}

impl CheckedDocuments {
    pub(super) fn new(
        documents: Arc<dyn Documents>,
        tail: Arc<TailJournal>,
        classes: Classes,
        stats: Arc<Stats>,
    ) -> Self {
        Self { documents, tail, classes, stats, looked_at: Mutex::new(Recent::new(TOPICS)) }
    }

    fn looked_at(&self) -> MutexGuard<'_, Recent<Topic, bool>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a topic that gave an empty snapshot, once.
    async fn look(&self, topic: &Topic, page: &SnapshotPage) {
        if self.looked_at().find(topic).is_some() {
            return;
        }
        let Some(has_documents) = self.has_documents(topic, page).await else { return };
        // Of several who look at once, one tells.
        let is_told = std::mem::replace(self.looked_at().touch(topic), true);
        if has_documents || is_told {
            return;
        }
        let class = self.classes.of(topic).map(|class| &**class);
        self.stats.of_class(class).topics_without_documents.add(1);
        tracing::warn!(
            %topic,
            head = %page.at.watermark,
            "a snapshot was asked of a topic that has updates and no documents: its reader receives nothing that was published \
             before; publish with a doc_key, or let the reader start at the floor"
        );
    }

    /// Whether one of the newest updates belongs to a document; none where that cannot be told.
    async fn has_documents(&self, topic: &Topic, page: &SnapshotPage) -> Option<bool> {
        let (at, most) = (page.at, NEWEST.updates.get() as u64);
        let after = Watermark::new(at.watermark.as_u64().saturating_sub(most))?.max(page.bounds.floor);
        let newest = self.tail.read(topic, Cursor::new(at.epoch, after).into(), NEWEST).await;
        let Ok(Replay::Page(newest)) = newest else { return None };
        let mut updates = newest.updates.iter();
        Some(updates.len() == 0 || updates.any(|update| update.doc_key.is_some()))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Documents for CheckedDocuments {
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error> {
        self.documents.document(topic, key).await
    }

    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        let is_first = from == SnapshotFrom::Start;
        let answer = self.documents.snapshot(topic, from, limit).await?;
        if let Snapshot::Page(page) = &answer
            && is_first
            && page.documents.is_empty()
            && page.at.watermark > Watermark::ORIGIN
        {
            self.look(topic, page).await;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::{
        journal::{Batch, Keep},
        memory::MemoryStore,
        tail::TailOptions,
        update::{NewUpdate, Timestamp},
    };

    struct Rig {
        store: Arc<MemoryStore>,
        documents: CheckedDocuments,
    }

    impl Rig {
        fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            let tail = Arc::new(TailJournal::new(Arc::<MemoryStore>::clone(&store), TailOptions::default()));
            let documents = CheckedDocuments::new(
                Arc::<MemoryStore>::clone(&store),
                tail,
                Classes::default(),
                Arc::default(),
            );
            Self { store, documents }
        }

        fn append(&self, topic: &str, update: NewUpdate) {
            let (topic, batch) = (Topic::parse(topic).unwrap(), Batch::new(vec![update]).unwrap());
            let append = self.store.append(&topic, batch, Timestamp::default());
            append.now_or_never().unwrap().unwrap();
        }

        /// Asks for a snapshot; says how many topics were told of by then.
        fn snapshot(&self, topic: &str) -> u64 {
            let topic = Topic::parse(topic).unwrap();
            let read = self.documents.snapshot(&topic, SnapshotFrom::Start, ReadLimit::PAGE);
            assert!(matches!(read.now_or_never().unwrap().unwrap(), Snapshot::Page(_)));
            self.documents.stats.counters().topics_without_documents
        }
    }

    fn event() -> NewUpdate {
        Update::json("k", &1).unwrap()
    }

    #[test]
    fn a_topic_with_updates_and_no_documents_is_told_of_once() {
        let rig = Rig::new();
        assert_eq!(rig.snapshot("untouched"), 0);
        for _ in 0..300 {
            rig.append("log", event());
        }
        assert_eq!((rig.snapshot("log"), rig.snapshot("log")), (1, 1));
        rig.append("other", event());
        assert_eq!(rig.snapshot("other"), 2);
    }

    #[test]
    fn a_topic_whose_documents_were_deleted_is_not_told_of_nor_one_without_updates() {
        let rig = Rig::new();
        rig.append("deleted", event().doc_key("d"));
        rig.append("deleted", Update::tombstone("k", "d").unwrap());
        rig.append("deleted", event());
        rig.append("there", event().doc_key("d"));
        rig.append("trimmed", event());
        let trimmed = Topic::parse("trimmed").unwrap();
        let keep = Keep { updates: Some(0), ..Keep::everything() };
        rig.store.trim(&trimmed, keep, Timestamp::default()).now_or_never().unwrap().unwrap();
        assert_eq!((rig.snapshot("deleted"), rig.snapshot("there"), rig.snapshot("trimmed")), (0, 0, 0));
    }
}
