//! Documents: the state of each `doc_key` of a topic, and the snapshot that a reader starts from.
//!
//! A snapshot is read over many pages while others write. Its watermark is fixed at page one; a later page may
//! already hold newer documents, and the log from the watermark repeats those updates. Because every document
//! says which seq made it, the two converge (D3).

use std::fmt;

use async_trait::async_trait;

use crate::{
    error::Error,
    journal::ReadLimit,
    position::{Bounds, Cursor, Stale},
    topic::Topic,
    update::{DocKey, Update},
};

/// The documents of every topic, written by the journal's appends.
#[async_trait]
pub trait Documents: fmt::Debug + Send + Sync + 'static {
    /// The newest update of `key`, a tombstone too (D1); none if there never was one.
    ///
    /// # Errors
    /// An [`Error`] when it cannot be read now.
    async fn document(&self, topic: &Topic, key: &DocKey) -> Result<Option<Update>, Error>;

    /// One page of the documents that are there, in byte order of their keys, tombstones left out (D2).
    ///
    /// A page before the last is never empty, even when one document exceeds the byte limit.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn snapshot(&self, topic: &Topic, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error>;
}

/// Which page of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a store must handle every start")]
pub enum SnapshotFrom {
    /// The first, which fixes the watermark.
    Start,
    /// The one after `key` of the snapshot that was started at `at`.
    After {
        /// The cursor that page one gave.
        at: Cursor,
        /// The last key of the page before.
        key: DocKey,
    },
}

impl SnapshotFrom {
    /// The cursor at which the snapshot of this page was started, of a topic with those bounds.
    pub fn cursor(&self, bounds: &Bounds) -> Cursor {
        match self {
            Self::Start => bounds.at_head(),
            Self::After { at, .. } => *at,
        }
    }

    /// The key that the page follows. No key is empty, so the empty text stands before the first.
    pub fn after(&self) -> &str {
        match self {
            Self::Start => "",
            Self::After { key, .. } => key.as_str(),
        }
    }
}

/// The answer to a snapshot read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Snapshot {
    /// Some of the documents.
    Page(SnapshotPage),
    /// The log no longer continues from where this snapshot was started. Start a new one.
    Stale(Stale),
}

/// Some documents of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct SnapshotPage {
    /// Where the log continues once all pages are applied; the same on every page.
    pub at: Cursor,
    /// The newest update of each document.
    pub documents: Vec<Update>,
    /// Whether this is the last page.
    pub complete: bool,
    /// What the topic held when this page was read.
    pub bounds: Bounds,
}

impl SnapshotPage {
    /// As many of these documents as `limit` admits.
    ///
    /// For implementers: they are the documents that follow the page before, without tombstones, and at least one more than fits.
    ///
    /// # Errors
    /// The first error among those documents.
    pub fn of<E>(
        at: Cursor,
        bounds: Bounds,
        limit: ReadLimit,
        documents: impl IntoIterator<Item = Result<Update, E>>,
    ) -> Result<Self, E> {
        let (mut page, mut bytes) = (Self { at, documents: Vec::new(), complete: true, bounds }, 0);
        for document in documents {
            let document = document?;
            if !limit.admits(page.documents.len(), bytes, document.size()) {
                page.complete = false;
                break;
            }
            bytes += document.size();
            page.documents.push(document);
        }
        Ok(page)
    }

    /// The start of the next page; none after the last.
    pub fn next(&self) -> Option<SnapshotFrom> {
        let key = self.documents.last()?.doc_key.clone()?;
        (!self.complete).then_some(SnapshotFrom::After { at: self.at, key })
    }
}
