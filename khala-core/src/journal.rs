//! The journal: the durable ordered log that everything else only hints at.
//!
//! The trait is small so that the laws can be whole: J1 to J22 in `conformance` say what each method must
//! do, and a store is right when it passes them. Pages, not streams, so that no slow reader pins a connection.

use std::{collections::HashMap, convert::Infallible, fmt, num::NonZeroUsize, time::Duration};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

pub use crate::{chain::Chain, strict::PayloadFault};
use crate::{
    error::{Error, ErrorKind},
    position::{Bounds, Cursor, Epoch, Seq, Stale, Watermark},
    strict,
    text::TextError,
    topic::Topic,
    update::{DedupKey, DocKey, NewUpdate, PayloadHash, Timestamp, Update},
};

/// The durable ordered log of every topic.
///
/// Held as `Arc<dyn Journal>`. Every method may be called from many tasks at once. A future that is dropped
/// before it is ready leaves either the whole effect or none: an append whose answer nobody waited for may
/// have been stored, which is what [`Batch::with_dedup`] is for.
///
/// A journal of one's own, here one that counts what passes through to another:
///
/// ```
/// use std::{num::NonZeroUsize, sync::atomic::{AtomicU64, Ordering}};
///
/// use async_trait::async_trait;
/// use khala_core::{
///     Append, Batch, Bounds, Error, Timestamp, Topic,
///     journal::{DueAfter, DuePage, Journal, Keep, ReadLimit, Replay, Settled, ReadFrom, TopicPage, Trimmed},
/// };
///
/// #[derive(Debug)]
/// struct Counting<J> {
///     inner: J,
///     appends: AtomicU64,
/// }
///
/// #[async_trait]
/// impl<J: Journal> Journal for Counting<J> {
///     async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error> {
///         self.appends.fetch_add(1, Ordering::Relaxed);
///         self.inner.append(topic, batch, now).await
///     }
///
///     async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error> {
///         self.inner.read(topic, start, limit).await
///     }
///
///     async fn check_writable(&self) -> Result<(), Error> {
///         self.inner.check_writable().await
///     }
///
///     async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
///         self.inner.bounds(topic).await
///     }
///
///     async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
///         self.inner.trim(topic, keep, now).await
///     }
///
///     async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error> {
///         self.inner.plan_trim(topic, keep, now).await
///     }
///
///     async fn topics(
///         &self,
///         prefix: &str,
///         after: Option<&str>,
///         limit: NonZeroUsize,
///     ) -> Result<TopicPage, Error> {
///         self.inner.topics(prefix, after, limit).await
///     }
///
///     async fn due(
///         &self,
///         rules: u64,
///         after: Option<&DueAfter>,
///         until: Timestamp,
///         limit: NonZeroUsize,
///     ) -> Result<DuePage, Error> {
///         self.inner.due(rules, after, until, limit).await
///     }
///
///     async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
///         self.inner.settle(rules, settled).await
///     }
/// }
/// ```
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Appends a batch as a whole or not at all (J2), on stable storage before it answers.
    ///
    /// `now` becomes `published_at`. A repeated dedup key is answered before anything else is looked at (J10),
    /// then `expect` (J9), then document versions (D1). A key is remembered as long as its
    /// updates are kept and at least [`DEDUP_FOR`]; a batch that is refused leaves its key free.
    ///
    /// Batches of one topic that were asked for one after the other, without waiting for answers, should be stored in the
    /// order in which their futures were first polled: who publishes a stream relies on it. [`Inbox`](crate::inbox::Inbox) helps
    /// a store that has one writer.
    ///
    /// # Errors
    /// An [`Error`] when nothing is known to be stored; [`Error::is_retryable`] tells whether to try again.
    async fn append(&self, topic: &Topic, batch: Batch, now: Timestamp) -> Result<Append, Error>;

    /// Reads what follows `start`, exclusive (J3), up to `limit`.
    ///
    /// A page before the end is never empty, even when one update exceeds the byte limit (J4).
    ///
    /// # Errors
    /// An [`Error`] when the log cannot be read now.
    async fn read(&self, topic: &Topic, start: ReadFrom, limit: ReadLimit) -> Result<Replay, Error>;

    /// Whether an append could be stored now: asks what writes, and proves it by a transaction that reaches stable storage
    /// and changes nothing that anybody reads. A commit of the last second is proof enough.
    ///
    /// # Errors
    /// The [`Error`] that an append would meet.
    async fn check_writable(&self) -> Result<(), Error>;

    /// What the topic holds now. A topic that was never written has a stable epoch and empty bounds (J16).
    ///
    /// # Errors
    /// An [`Error`] when the log cannot be read now.
    async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error>;

    /// Removes the oldest updates that `keep` does not keep; documents stay (D4).
    ///
    /// A dropped future may have removed a part of them: the oldest, as another trim would have.
    ///
    /// # Errors
    /// An [`Error`] when nothing was removed.
    async fn trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error>;

    /// What [`trim`](Self::trim) would do now, and changes nothing (J19).
    ///
    /// The floor of its bounds is the one that a trim would leave, not the one that readers meet.
    ///
    /// # Errors
    /// An [`Error`] when the log cannot be read now.
    async fn plan_trim(&self, topic: &Topic, keep: Keep, now: Timestamp) -> Result<Trimmed, Error>;

    /// Topics that were written at least once and are not retired, in byte order of their names: those that start with `prefix`
    /// and follow `after`, at most `limit`.
    ///
    /// It looks at no more than `limit` of them, whatever else is stored. Each is judged by itself: what is stored of a
    /// topic and cannot be true is named in the page, and spoils no other.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn topics(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: NonZeroUsize,
    ) -> Result<TopicPage, Error>;

    /// The topics that are to be looked at for what may go: those that are due at `until` or before, in order of the moments and
    /// then of the names, at most `limit` of those that follow `after`.
    ///
    /// A topic is due from its first append on, until it is [settled](Self::settle), and again from its next append on (J21).
    /// Where topics were settled under other rules than these, all are due, at whatever moment.
    ///
    /// A journal that does not say otherwise settles nothing: all its topics are due, always.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn due(
        &self,
        rules: u64,
        after: Option<&DueAfter>,
        until: Timestamp,
        limit: NonZeroUsize,
    ) -> Result<DuePage, Error> {
        let _ = (rules, until);
        let page = self.topics("", after.map(|after| &*after.name), limit).await?;
        let at = Timestamp::default();
        Ok(DuePage {
            topics: page.topics.into_iter().map(|(topic, bounds)| (at, topic, bounds)).collect(),
            corrupt: page.corrupt,
            next: page.next.map(|name| DueAfter { at, name }),
        })
    }

    /// Puts topics off until the given moment, because nothing of them is to be deleted before; an append makes a topic due at once
    /// (J21). A topic whose head is not the given one stays due.
    ///
    /// A topic is due earlier than said where a dedup key or a tombstone is to go earlier. What was settled under other rules is due
    /// again, also when `settled` is empty. A dropped future may have settled some of them.
    ///
    /// A topic that was settled before and has not moved since [`retire_idle_since`](Settled::retire_idle_since) is retired
    /// instead, if it has no updates, no documents and no dedup keys: it is not listed and never due, under any rules, until
    /// something is appended to it. Its epoch and its head stay, so that every cursor is judged as before (J22). Answers how many
    /// were retired.
    ///
    /// # Errors
    /// An [`Error`] when it is not known which are settled: looking once more is all that it costs.
    async fn settle(&self, rules: u64, settled: &[Settled]) -> Result<u64, Error> {
        let _ = (rules, settled);
        Ok(0)
    }
}

/// Where a read starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a store must handle every start")]
pub enum ReadFrom {
    /// Before the first update of whatever epoch the topic is in. Stale once anything was trimmed.
    Origin,
    /// After everything that the cursor covers.
    After(Cursor),
}

impl ReadFrom {
    /// The cursor that this start means in a topic with those bounds.
    pub fn cursor(self, bounds: &Bounds) -> Cursor {
        match self {
            Self::Origin => Cursor::new(bounds.epoch, Watermark::ORIGIN),
            Self::After(cursor) => cursor,
        }
    }
}

impl From<Cursor> for ReadFrom {
    fn from(cursor: Cursor) -> Self {
        Self::After(cursor)
    }
}

/// How much one page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a store must respect every limit")]
pub struct ReadLimit {
    /// Updates, at most.
    pub updates: NonZeroUsize,
    /// Bytes ([`Update::size`]) at most, unless the first update alone is larger.
    pub bytes: usize,
}

impl ReadLimit {
    /// What one replayed batch holds on the wire: 200 updates and 2 MiB.
    pub const PAGE: Self = Self::new(NonZeroUsize::new(200).expect("200 is not zero"), 2 << 20);

    /// At most that many updates and bytes.
    pub const fn new(updates: NonZeroUsize, bytes: usize) -> Self {
        Self { updates, bytes }
    }

    /// Whether a page that holds `updates` in `bytes` has room for one more update of `size`.
    pub fn admits(&self, updates: usize, bytes: usize, size: usize) -> bool {
        updates == 0 || (updates < self.updates.get() && bytes + size <= self.bytes)
    }
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Replay {
    /// What follows the start.
    Page(Page),
    /// The start cannot be resumed from; nothing was skipped.
    Stale(Stale),
}

/// A stretch of the log: the updates right after `after`, and the bounds of the same moment (J5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct Page {
    /// What it continues from.
    pub after: Watermark,
    /// The updates, dense from `after`.
    pub updates: Vec<Update>,
    /// What the topic held at that moment.
    pub bounds: Bounds,
}

impl Page {
    /// Everything up to and including this page.
    pub fn end(&self) -> Watermark {
        self.updates.last().map_or(self.after, |update| update.seq.watermark())
    }

    /// Where the next page starts.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.bounds.epoch, self.end())
    }

    /// Whether it reaches the head of its moment.
    pub fn is_complete(&self) -> bool {
        self.end() >= self.bounds.head
    }
}

/// Some topics, in byte order of their names.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct TopicPage {
    /// The topics, with what each holds.
    pub topics: Vec<(Topic, Bounds)>,
    /// What is stored of a topic and cannot be true.
    pub corrupt: Vec<CorruptTopic>,
    /// The last name that was looked at, also if it is not listed: the next page follows it. None if this page is the last.
    pub next: Option<String>,
}

/// Some topics that are due, in order of the moments and then of the names.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct DuePage {
    /// The topics, with when each is due and what it holds.
    pub topics: Vec<(Timestamp, Topic, Bounds)>,
    /// What is stored of a topic and cannot be true.
    pub corrupt: Vec<CorruptTopic>,
    /// The last one that was looked at: the next page follows it. None where this page is the last.
    pub next: Option<DueAfter>,
}

/// A place among the topics that are due: right after that one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct DueAfter {
    /// When it is due.
    pub at: Timestamp,
    /// Its name.
    pub name: String,
}

/// A topic that has nothing to lose for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store must look at every field")]
pub struct Settled {
    /// The topic.
    pub topic: Topic,
    /// The head that it was looked at with.
    pub head: Cursor,
    /// From when on it is to be looked at again.
    pub due: Timestamp,
    /// When it was looked at.
    pub seen_at: Timestamp,
    /// The age at which tombstones are deleted whose updates are deleted: the topic is due when its oldest tombstone has that age.
    /// None: tombstones are kept.
    pub tombstones: Option<Duration>,
    /// The topic is retired if nothing was appended to it since this moment. None: it is not retired.
    pub retire_idle_since: Option<Timestamp>,
}

/// A topic of which something is stored that no store has written.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct CorruptTopic {
    /// Its name as it is stored, which may be what is wrong.
    pub name: String,
    /// What is wrong.
    pub error: Error,
}

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

/// What trimming keeps. An update stays if every limit that is set keeps it; what is not set keeps all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "an order to trim is data, written by field")]
pub struct Keep {
    /// Updates that are at most this old. Ends at the first one that is: the log is trimmed from its start only.
    pub age: Option<Duration>,
    /// This many of the newest.
    pub updates: Option<u64>,
    /// As many of the newest as fit into this many bytes ([`Update::size`]).
    pub bytes: Option<u64>,
    /// Everything after this watermark, whatever the limits say (J14).
    pub never_past: Option<Watermark>,
    /// Tombstones that are at most this old, and those whose updates are kept. None: all of them (D5).
    pub tombstones: Option<Duration>,
}

impl Keep {
    /// Keeps everything, until a limit is set.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether the oldest of `kept` updates, published at `at`, may go `now`; together they are `held` bytes.
    ///
    /// For implementers: a trim calls it for one update after the other, and ends at the first update that stays. For an update
    /// whose `published_at` [is ahead](is_ahead) of `now`, `at` is the `published_at` of the first later update that is not ahead.
    pub fn lets_go(&self, oldest: Seq, at: Timestamp, kept: u64, held: u64, now: Timestamp) -> bool {
        let over = self.age.is_some_and(|age| now.since(at) > age)
            || self.updates.is_some_and(|most| kept > most)
            || self.bytes.is_some_and(|most| held > most);
        over && self.never_past.is_none_or(|past| past.covers(oldest))
    }
}

/// How far the clocks of those who append may be apart before a trim takes no notice of what one of them says.
pub const CLOCKS_APART: Duration = Duration::from_secs(60);

/// Whether `at` was given by a clock that was far ahead, as far as can be told `now`. It says nothing of an update's age, and
/// must not keep those behind it for as long as that clock was ahead.
pub fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > now.plus(CLOCKS_APART)
}

/// How long a dedup key is remembered at least, however soon its updates are trimmed.
pub const DEDUP_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What a trim did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and must fill every field")]
pub struct Trimmed {
    /// What the topic holds now.
    pub bounds: Bounds,
    /// How many updates went.
    pub updates: u64,
    /// How many bytes they were ([`Update::size`]).
    pub bytes: u64,
    /// When the oldest update that is kept was published; none where none is kept.
    pub oldest: Option<Timestamp>,
}
