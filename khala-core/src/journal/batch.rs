//! What is appended, and what becomes of it: a batch, the checks that it has to pass, and the answer to an append.
//!
//! Values only. The checks are here once, for every store.

use std::{collections::HashMap, convert::Infallible, fmt};

use sha2::{Digest as _, Sha256};

use crate::{
    chain::Chain,
    error::{Error, ErrorKind},
    position::{Bounds, Cursor, Epoch, Seq, Watermark},
    strict::{self, PayloadFault},
    text::TextError,
    topic::Topic,
    update::{DedupKey, DocKey, NewUpdate, PayloadHash},
};

/// Updates that are appended as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    updates: Vec<NewUpdate>,
    /// The head that it must find.
    pub expect: Option<Watermark>,
    /// The name of this publish: a second one of that name stores nothing.
    pub dedup: Option<DedupKey>,
    /// The chain that it belongs to: a batch behind one that was not stored is not stored.
    pub chain: Option<Chain>,
}

/// Why updates do not make a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A tombstone or a version without the key of the document it is for.
    #[error("update {index} has {field} but no doc_key")]
    DocKeyMissing {
        /// Which update, from zero.
        index: usize,
        /// The field that needs a key.
        field: &'static str,
    },
    /// A version that a JSON reader cannot hold exactly.
    #[error("update {index} has a doc_version of 2^53 or more")]
    DocVersionTooLarge {
        /// Which update, from zero.
        index: usize,
    },
    /// No update at all.
    #[error("a batch holds at least one update")]
    Empty,
    /// A payload that is JSON and that readers would refuse, or read each in its own way.
    #[error("the payload of update {index} {fault}")]
    Payload {
        /// Which update, from zero.
        index: usize,
        /// What is wrong with it, and where.
        fault: PayloadFault,
    },
    /// A text that an update was given breaks its rule.
    #[error("the {fault} (update {index})")]
    Text {
        /// Which update, from zero.
        index: usize,
        /// Which text, and why.
        fault: TextError,
    },
    /// More than [`Batch::MAX`] updates.
    #[error("a batch holds at most {} updates, not {found}", Batch::MAX)]
    TooMany {
        /// How many there were.
        found: usize,
    },
}

impl From<Infallible> for BatchError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl TryFrom<Vec<NewUpdate>> for Batch {
    type Error = BatchError;

    fn try_from(updates: Vec<NewUpdate>) -> Result<Self, BatchError> {
        Self::new(updates)
    }
}

impl<const N: usize> TryFrom<[NewUpdate; N]> for Batch {
    type Error = BatchError;

    fn try_from(updates: [NewUpdate; N]) -> Result<Self, BatchError> {
        Self::new(updates.into())
    }
}

impl Batch {
    /// The most updates that one batch may hold.
    pub const MAX: usize = 1_000;

    /// The deepest that a payload may be nested: what every subscriber's JSON reader can take.
    pub const MAX_DEPTH: usize = strict::MAX_DEPTH;

    /// A batch of these updates.
    ///
    /// Each payload must be I-JSON (RFC 7493): no unpaired surrogates and no noncharacters, no name twice in one object, no
    /// number out of the range of a double; and at most [`MAX_DEPTH`](Self::MAX_DEPTH) levels deep. Nothing is appended but as
    /// a batch, so nothing else is stored. Integers past 2^53 are taken: RFC 7493 advises against them, and a reader that
    /// needs each digit can read the text.
    ///
    /// # Errors
    /// A [`BatchError`] that names the rule that they break.
    pub fn new(updates: Vec<NewUpdate>) -> Result<Self, BatchError> {
        if updates.is_empty() {
            return Err(BatchError::Empty);
        }
        if updates.len() > Self::MAX {
            return Err(BatchError::TooMany { found: updates.len() });
        }
        let mut checker = strict::Checker::default();
        for (index, update) in updates.iter().enumerate() {
            if let Some(fault) = &update.fault {
                return Err(BatchError::Text { index, fault: (**fault).clone() });
            }
            if update.doc_version.is_some_and(|version| version > crate::position::MAX_POSITION) {
                return Err(BatchError::DocVersionTooLarge { index });
            }
            checker.check(update.payload.as_str()).map_err(|fault| BatchError::Payload { index, fault })?;
            if update.doc_key.is_none() && (update.deleted || update.doc_version.is_some()) {
                let field = if update.deleted { "deleted" } else { "doc_version" };
                return Err(BatchError::DocKeyMissing { index, field });
            }
        }
        Ok(Self { updates, expect: None, dedup: None, chain: None })
    }

    /// Stores it only if the head is exactly there.
    #[must_use]
    pub fn with_expect(mut self, head: Watermark) -> Self {
        self.expect = Some(head);
        self
    }

    /// Names this publish, so that a retry gets the first receipt and stores nothing. Another batch under the same name is a
    /// [`Conflict::Dedup`].
    #[must_use]
    pub fn with_dedup(mut self, key: DedupKey) -> Self {
        self.dedup = Some(key);
        self
    }

    /// Puts it behind the batches of that chain that were handed over before (J20).
    #[must_use]
    pub fn with_chain(mut self, chain: Chain) -> Self {
        self.chain = Some(chain);
        self
    }

    /// Whether its chain is broken, so that it must not be stored.
    ///
    /// For implementers: to be asked in the turn in which it would be written.
    pub fn is_cut_off(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::is_broken)
    }

    /// It is not stored because of an error: breaks its chain.
    ///
    /// For implementers: before what waits behind it is looked at.
    pub fn break_chain(&self) {
        if let Some(chain) = &self.chain {
            chain.break_off();
        }
    }

    /// Binds the dedup key, where there is one, to its publisher: the same key of somebody else is another key.
    ///
    /// An application that takes batches from others calls it with what it knows them by, so that nobody can take a key away
    /// from another. `khala-server` does so with the token's subject.
    #[must_use]
    pub fn published_by(mut self, publisher: &str) -> Self {
        self.dedup = self.dedup.map(|key| key.of_publisher(publisher));
        self
    }

    /// What tells whether a batch under a known dedup key is the same one: a hash of kind, payload, document key, version and
    /// tombstone of each update. A retry may carry another trace context and expect another head.
    ///
    /// For implementers: it is kept with the receipt, and [`repeats`](Self::repeats) compares it. The first 16 bytes of SHA-256
    /// over, for each update: kind, payload and document key, each as its length (4 bytes, big-endian; `ff ff ff ff` for no key)
    /// and its bytes; the version given (8 bytes, big-endian; all `ff` for none); 1 for a tombstone, else 0.
    pub fn content_hash(&self) -> [u8; 16] {
        fn text(digest: &mut Sha256, text: &str) {
            digest.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            digest.update(text);
        }
        let mut digest = Sha256::new();
        for update in &self.updates {
            text(&mut digest, update.kind.as_str());
            text(&mut digest, update.payload.as_str());
            match &update.doc_key {
                Some(key) => text(&mut digest, key.as_str()),
                None => digest.update([0xff; 4]),
            }
            digest.update(update.doc_version.unwrap_or(u64::MAX).to_be_bytes());
            digest.update([u8::from(update.deleted)]);
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest.finalize()[..16]);
        hash
    }

    /// The answer to this batch where its dedup key is known (J10): `first` and `content` are what was kept under it. A receipt of
    /// before content was kept has none, and counts as that of the same batch.
    ///
    /// For implementers.
    pub fn repeats(&self, first: Receipt, content: Option<[u8; 16]>) -> Append {
        match content.filter(|content| *content != self.content_hash()) {
            None => Append::Duplicate(first),
            Some(_) => Append::Conflict(Conflict::Dedup { first }),
        }
    }

    /// Gives each update that has no hash the hash of its payload. Each payload of a batch has one.
    #[must_use]
    pub fn with_hashes(mut self) -> Self {
        for update in &mut self.updates {
            update.payload_hash = update.payload_hash.take().or_else(|| PayloadHash::of(&update.payload));
        }
        self
    }

    /// The updates, in order; never empty.
    pub fn updates(&self) -> &[NewUpdate] {
        &self.updates
    }

    /// The updates, in order, to keep.
    pub fn into_updates(self) -> Vec<NewUpdate> {
        self.updates
    }

    /// The receipt of this batch if it is stored after `head`; none if the topic has no seqs left for it.
    pub fn receipt_after(&self, epoch: Epoch, head: Watermark) -> Option<Receipt> {
        let last = Seq::new(head.as_u64() + self.updates.len() as u64)?;
        Some(Receipt { epoch, first: head.next()?, last })
    }

    /// What becomes of this batch in a topic that stands there: nothing may be written of it before this is known (J9, J10, D1, J20).
    ///
    /// For implementers: `kept` tells what is kept under the dedup key, which is a receipt and the content's hash; `version` tells the
    /// version of a document in the store, tombstones too.
    ///
    /// # Errors
    /// What `kept` and `version` return.
    pub fn admit<E>(
        &self,
        topic: &Topic,
        bounds: Bounds,
        backend: &'static str,
        kept: impl FnOnce(&DedupKey) -> Result<Option<(Receipt, Option<[u8; 16]>)>, E>,
        version: impl FnMut(&DocKey) -> Result<Option<u64>, E>,
    ) -> Result<Admission, E> {
        let head = bounds.head;
        if self.is_cut_off() {
            return Ok(Admission::Answered(Err(Chain::error(backend))));
        }
        if let Some((receipt, content)) = self.dedup.as_ref().map_or(Ok(None), kept)? {
            return Ok(Admission::Answered(Ok(self.repeats(receipt, content))));
        }
        if let Some(expected) = self.expect.filter(|expected| *expected != head) {
            return Ok(Admission::Answered(Ok(Append::Conflict(Conflict::Head { expected, found: head }))));
        }
        if let Some(conflict) = self.version_conflict(head, version)? {
            return Ok(Admission::Answered(Ok(Append::Conflict(conflict))));
        }
        Ok(self.receipt_after(bounds.epoch, head).map_or_else(
            || {
                self.break_chain();
                let message = format!("topic {topic} has no seqs left; publish to another topic");
                Admission::Answered(Err(Error::new(ErrorKind::Invalid, backend, message)))
            },
            Admission::Write,
        ))
    }

    /// The first document version in this batch that does not exceed the one before it (D1).
    ///
    /// For implementers: `stored` tells the version of a document in the store, tombstones too.
    ///
    /// # Errors
    /// What `stored` returns.
    pub fn version_conflict<E>(
        &self,
        head: Watermark,
        mut stored: impl FnMut(&DocKey) -> Result<Option<u64>, E>,
    ) -> Result<Option<Conflict>, E> {
        let mut within: HashMap<&DocKey, u64> = HashMap::new();
        for (update, seq) in self.updates.iter().zip(head.as_u64() + 1..) {
            let Some(key) = &update.doc_key else { continue };
            let given = update.doc_version.unwrap_or(seq);
            let found = match within.get(key) {
                Some(version) => Some(*version),
                None => stored(key)?,
            };
            if let Some(found) = found.filter(|found| given <= *found) {
                return Ok(Some(Conflict::DocVersion { doc_key: key.clone(), given, found }));
            }
            within.insert(key, given);
        }
        Ok(None)
    }
}

impl TryFrom<NewUpdate> for Batch {
    type Error = BatchError;

    fn try_from(update: NewUpdate) -> Result<Self, BatchError> {
        Self::new(vec![update])
    }
}

/// What becomes of a batch ([`Batch::admit`]).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a store must handle every outcome")]
pub enum Admission {
    /// Nothing of it is written, and this is the answer.
    Answered(Result<Append, Error>),
    /// It is to be written, as the receipt says.
    Write(Receipt),
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Append {
    /// It is stored, now.
    Written(Receipt),
    /// The same batch was stored before under the same dedup key; here is the first receipt.
    Duplicate(Receipt),
    /// It is not stored.
    Conflict(Conflict),
}

/// Where a batch was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct Receipt {
    /// The history.
    pub epoch: Epoch,
    /// The seq of the first update.
    pub first: Seq,
    /// The seq of the last update.
    pub last: Seq,
}

impl Receipt {
    /// The cursor that has applied this batch.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.epoch, self.last.watermark())
    }
}

/// Why a batch was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflict {
    /// Another batch was stored under the same dedup key.
    Dedup {
        /// The receipt of that one.
        first: Receipt,
    },
    /// A document has a version that is not lower.
    DocVersion {
        /// The document.
        doc_key: DocKey,
        /// The version in the batch: the one given, or the seq that the update would have had.
        given: u64,
        /// The version before it.
        found: u64,
    },
    /// The head is not where the batch expects it.
    Head {
        /// Where it was expected.
        expected: Watermark,
        /// Where it is.
        found: Watermark,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dedup { first } => write!(
                f,
                "another batch was stored under the same dedup key, as the updates {} to {}",
                first.first, first.last
            ),
            Self::DocVersion { doc_key, given, found } => {
                write!(
                    f,
                    "the document {doc_key:?} has version {found}; the version {given} does not exceed it"
                )
            }
            Self::Head { expected, found } => write!(f, "the head is {found} and not {expected}"),
        }
    }
}
