//! Checkpoints: how far each entity of a projection was folded, moved in the transaction that stores what was folded.
//!
//! Two who fold the same at once do no harm: a checkpoint moves only from where its mover found it, so one of them is written and
//! the other is told.
//!
//! # Invariants
//! Nobody sees a checkpoint without its document, or a document without its checkpoint, whatever is killed when.

use std::{fmt, num::NonZeroUsize};

use async_trait::async_trait;

use crate::{
    error::Error,
    journal::{Batch, Conflict, Receipt},
    position::Cursor,
    text::{plain, text},
    topic::Topic,
    update::{PayloadHash, Timestamp},
};

text! {
    /// The name of a projection: 1 to 128 bytes without control characters.
    ProjectionName, "projection", |field, text| plain(field, text, 128)
}

text! {
    /// What a projection keeps one state of, by its name within the projection: 1 to 512 bytes without control
    /// characters.
    Entity, "entity", |field, text| plain(field, text, 512)
}

/// How far one entity of a projection was folded, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it from its row, and must fill every field")]
pub struct Checkpoint {
    /// Everything of the source up to here was folded. Of a source that has no epochs, such as the application's own
    /// events, the epoch is the application's to choose.
    pub source: Cursor,
    /// The version of the projection that folded it.
    pub version: u32,
    /// The hash of what it was folded into.
    pub summary_hash: PayloadHash,
}

/// A checkpoint's move, and what is appended with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advance {
    /// Of which projection.
    pub projection: ProjectionName,
    /// Of which entity.
    pub entity: Entity,
    /// Where its mover found it; none where it found none.
    pub from: Option<Checkpoint>,
    /// Where it is to stand. May be anywhere: that is its mover's to say.
    pub to: Checkpoint,
    /// The new state, and the topic that it is appended to.
    pub batch: Option<(Topic, Batch)>,
}

impl Advance {
    /// A move that appends nothing: the fold changed nothing.
    pub fn new(projection: ProjectionName, entity: Entity, from: Option<Checkpoint>, to: Checkpoint) -> Self {
        Self { projection, entity, from, to, batch: None }
    }

    /// Appends `batch` to `topic` with it.
    #[must_use]
    pub fn with_batch(mut self, topic: Topic, batch: Batch) -> Self {
        self.batch = Some((topic, batch));
        self
    }

    /// The answer where `stored` forbids it: a repeat (C2), or a checkpoint that stands elsewhere (C3).
    ///
    /// For implementers: asked before anything is written, in the transaction that writes, under a lock that keeps others
    /// from moving the checkpoint, and from making it where there is none.
    pub fn objection(&self, stored: Option<Checkpoint>) -> Option<Advanced> {
        if stored.as_ref() == Some(&self.to) {
            Some(Advanced::Repeated)
        } else if stored != self.from {
            Some(Advanced::Elsewhere(stored))
        } else {
            None
        }
    }
}

/// The answer to an [`Advance`]. Only [`Written`](Self::Written) has changed anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle every outcome")]
pub enum Advanced {
    /// The checkpoint stands where it was expected, and the batch cannot be appended.
    Conflict(Conflict),
    /// The checkpoint stands here, or nowhere, and not where it was expected: somebody else moved or removed it.
    Elsewhere(Option<Checkpoint>),
    /// The checkpoint stands where it was to go already, wherever it was expected. The batch was appended then, and perhaps
    /// not announced: see [`Checkpoints::advance`].
    Repeated,
    /// Both are stored, and this is the batch's receipt, to announce; none where there was no batch.
    Written(Option<Receipt>),
}

/// Keeps checkpoints beside a journal, to which their advances append.
///
/// A projector reads the checkpoint first and the document after it: then a document that is newer than the
/// checkpoint is noticed by the advance, because the checkpoint has moved too. An advance wakes nobody: the receipt is
/// to be announced, as after an append.
///
/// ```
/// use khala_core::{
///     Cursor, DocKey, Epoch, Kind, MemoryStore, NewUpdate, Payload, Timestamp, Topic, Watermark,
///     projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName}, update::PayloadHash,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let (projection, entity) = (ProjectionName::parse("orders by customer")?, Entity::parse("ann")?);
/// let found = store.checkpoint(&projection, &entity).await?;
///
/// // Two orders of the source were folded.
/// let payload = Payload::parse(r#"{"orders":2}"#)?;
/// let to = Checkpoint {
///     source: Cursor::new(Epoch::from_bits(1), Watermark::new(2).expect("it is below 2^53")),
///     version: 1,
///     summary_hash: PayloadHash::of(&payload).expect("it has a canonical form"),
/// };
/// let state = NewUpdate::new(Kind::parse("customer")?, payload).doc_key(DocKey::parse("ann")?);
/// let advance = Advance::new(projection, entity, found, to)
///     .with_batch(Topic::parse("customers")?, state.try_into()?);
///
/// let answer = store.advance(advance.clone(), Timestamp::from_millis(0)).await?;
/// assert!(matches!(answer, Advanced::Written(Some(receipt)) if receipt.last.as_u64() == 1));
/// assert_eq!(store.advance(advance, Timestamp::from_millis(0)).await?, Advanced::Repeated);
/// # Ok(())
/// # }
/// ```
///
/// The laws, each a test of the same name in [`conformance`](crate::conformance):
/// C1 a checkpoint and its batch are written together · C2 a repeat writes nothing, wherever it was expected · C3 an
/// advance from elsewhere writes nothing and is told where the checkpoint stands · C4 a batch that conflicts moves
/// nothing, and one whose dedup key is known moves the checkpoint and writes nothing else · C5 a checkpoint is kept as
/// it was given, whichever way it moves, and without a batch nothing else is written · C6 projections and entities
/// are apart · C7 reading is exclusive of the entity, in byte order, and pages concatenate · C8 removing takes the
/// checkpoints that it names and nothing else · C9 what was acknowledged survives reopening and `kill -9`, and no
/// checkpoint without its document.
#[async_trait]
pub trait Checkpoints: fmt::Debug + Send + Sync + 'static {
    /// Moves a checkpoint and appends its batch, both or neither, on stable storage before it answers.
    ///
    /// Whether it is a repeat is looked at first (C2), then whether it starts where the checkpoint stands (C3), then
    /// the batch, as by [`Journal::append`](crate::journal::Journal::append) at `now`. A batch that was stored before under the
    /// same dedup key is there already, so its checkpoint moves (C4). A dropped future may have stored both or neither;
    /// the same advance, asked again, tells.
    ///
    /// Who is told [`Written`](Advanced::Written) announces the receipt's [`cursor`](crate::Receipt::cursor).
    /// [`Repeated`](Advanced::Repeated) has no receipt, because none is kept with a checkpoint: a caller that cannot say that
    /// the first answer was announced, for it never came or was given up, announces the head of the batch's topic as
    /// [`Journal::bounds`](crate::journal::Journal::bounds) tells it. That is at least as far, and one announcement too many does
    /// no harm; without it, subscribers find the update by polling.
    ///
    /// # Errors
    /// An [`Error`] when nothing is known to be stored; [`Error::is_retryable`] tells whether to try again.
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error>;

    /// Where the checkpoint of `entity` stands; none if it has none.
    ///
    /// # Errors
    /// An [`Error`] when it cannot be read now.
    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error>;

    /// The checkpoints of a projection in byte order of their entities: those that follow `after`, at most `limit`.
    ///
    /// # Errors
    /// An [`Error`] when they cannot be read now.
    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error>;

    /// Removes the checkpoint of `entity`, so that it can be folded from the start; gives whether there was one.
    ///
    /// Its documents stay, until the next advance brings their new state. A dropped future may have removed it or not.
    ///
    /// # Errors
    /// An [`Error`] when it is not known to be removed.
    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error>;

    /// Removes every checkpoint of a projection; gives how many there were.
    ///
    /// One that is stored meanwhile is removed or not. So is any, after an error or where the future was dropped: ask
    /// again.
    ///
    /// # Errors
    /// An [`Error`] when not all are known to be removed.
    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        position::{Epoch, Watermark},
        update::Payload,
    };

    #[test]
    fn a_repeat_comes_before_an_objection_to_where_it_starts() {
        let checkpoint = |number| Checkpoint {
            source: Cursor::new(Epoch::from_bits(1), Watermark::new(number).unwrap()),
            version: 1,
            summary_hash: PayloadHash::of(&Payload::null()).unwrap(),
        };
        let name = ProjectionName::parse("runs").unwrap();
        let entity = Entity::parse("7").unwrap();
        let (one, two, three) = (checkpoint(1), checkpoint(2), checkpoint(3));
        let advance = Advance::new(name, entity, Some(one.clone()), two.clone());
        assert_eq!(advance.objection(Some(one)), None);
        assert_eq!(advance.objection(Some(two.clone())), Some(Advanced::Repeated));
        for stored in [None, Some(three)] {
            assert_eq!(advance.objection(stored.clone()), Some(Advanced::Elsewhere(stored)));
        }
        let nowhere = Advance { from: Some(two), ..advance };
        assert_eq!(nowhere.objection(nowhere.from.clone()), Some(Advanced::Repeated));
    }
}
