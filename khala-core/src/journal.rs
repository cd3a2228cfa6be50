//! The journal: the durable ordered log that everything else only hints at.
//!
//! The trait is small so that the laws can be whole: J1 to J22 in `conformance` say what each method must
//! do, and a store is right when it passes them. Pages, not streams, so that no slow reader pins a connection.

mod batch;
mod keep;

use std::{fmt, num::NonZeroUsize, time::Duration};

use async_trait::async_trait;

pub use self::{
    batch::{Admission, Append, Batch, BatchError, Conflict, Receipt},
    keep::{CLOCKS_APART, DEDUP_FOR, Keep, Trimmed, is_ahead},
};
pub use crate::{chain::Chain, strict::PayloadFault};
use crate::{
    error::Error,
    position::{Bounds, Cursor, Stale, Watermark},
    topic::Topic,
    update::{Timestamp, Update},
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

/// Bytes that the names, numbers, hashes and quotation marks of 200 updates take on the wire at most, where each character of
/// the longest kinds and document keys has to be escaped, and the frame around them.
const BESIDE_PAYLOADS: usize = 192 << 10;

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
    /// What one batch holds on the wire, unless configured otherwise: 200 updates, and less than 1 MiB.
    pub const PAGE: Self = Self::of_batch(1 << 20);

    /// At most 200 updates that take less than `bytes` on the wire as one batch, unless the first update alone is larger.
    ///
    /// What 200 updates take there beside their payloads is set aside, at most 192 KiB.
    pub const fn of_batch(bytes: usize) -> Self {
        Self::new(NonZeroUsize::new(200).expect("200 is not zero"), bytes.saturating_sub(BESIDE_PAYLOADS))
    }

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
