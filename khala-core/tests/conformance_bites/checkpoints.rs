//! A store of checkpoints with one fault, and the laws that notice it.
//!
//! A fault that shows only in a race holds the race open for a moment, so that it shows every time.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Append, Batch, Cursor, DocKey, Epoch, Error, Kind, MemoryStore, NewUpdate, Receipt, Timestamp, Topic,
    Watermark,
    conformance::{self, Capabilities, CheckpointsHarness, Harness, Place, checkpoint_laws},
    documents::Documents,
    journal::Journal,
    projection::{Advance, Advanced, Checkpoint, Checkpoints, Entity, ProjectionName},
};
use tokio::time::sleep;

use crate::{each_bites, fails_exactly};

bites! {
    /// The batch is stored in a transaction before the checkpoint's.
    a_batch_before_its_checkpoint: BatchFirst => "C1",
    /// The checkpoint is stored in a transaction before the batch's.
    a_checkpoint_before_its_batch: CheckpointFirst => "C1",
    /// The batch is not stored at all.
    a_checkpoint_without_its_batch: BatchForgotten => "C1" "C4",
    /// A repeat stores its batch again.
    a_repeat_that_writes: RepeatWrites => "C2",
    /// Where it starts is looked at before whether it is a repeat.
    a_repeat_that_is_refused: RepeatRefused => "C2",
    /// Whether it is a repeat is told by the watermark only.
    a_repeat_by_watermark: RepeatByWatermark => "C2",
    /// Of where it starts, the watermark only is looked at.
    elsewhere_by_watermark: ElsewhereByWatermark => "C3",
    /// Where it starts is not looked at.
    a_start_that_is_not_looked_at: FromIgnored => "C3" "C8",
    /// The batch is stored, and then it is found that the checkpoint stands elsewhere.
    an_elsewhere_that_writes: ElsewhereWrites => "C3",
    /// Where the checkpoint stands is not told.
    an_elsewhere_that_does_not_tell: ElsewhereUntold => "C3",
    /// Where the checkpoint stands is read in another transaction than it is moved in.
    a_race_for_a_checkpoint: AdvanceRace => "C2" "C3",
    /// The batch is looked at before the checkpoint.
    a_batch_that_is_judged_first: BatchJudgedFirst => "C2" "C3",
    /// The checkpoint moves whatever became of its batch.
    a_conflict_that_moves: ConflictMoves => "C4",
    /// A batch whose name is known is a conflict of a kind: the checkpoint stays.
    a_known_name_that_stays: DuplicateStays => "C4",
    /// Without a batch there is nothing to do.
    no_batch_no_move: NothingWithoutBatch => "C5",
    /// Without a batch, an empty update is appended.
    an_update_of_nothing: UpdateOfNothing => "C5",
    /// A checkpoint goes forward only.
    forward_only: ForwardOnly => "C5",
    /// Watermarks are kept in 32 bits.
    watermarks_of_32_bits: Watermark32 => "C5",
    /// Epochs are kept in 63 bits.
    epochs_of_63_bits: Epoch63 => "C5",
    /// Versions are kept as signed numbers of 32 bits.
    versions_with_a_sign: SignedVersion => "C5",
    /// Names are told apart without regard to case.
    case_folded: CaseFolded => "C6" "C7",
    /// White space around a name is not kept.
    a_trimmed_name: NameTrimmed => "C6",
    /// Projection and entity are one text, with a space between them.
    one_text_of_two: OneText => "C6",
    /// A name ends at its 128th byte.
    a_name_cut_short: NameCut => "C6",
    /// Reading begins with the entity that it is to follow.
    an_inclusive_entity: InclusiveAfter => "C7",
    /// A page has as many checkpoints as there are.
    a_limit_that_is_not_looked_at: LimitIgnored => "C7",
    /// Entities come in the order of UTF-16.
    utf_16_order: Utf16Order => "C7",
    /// Entities come in the order of the alphabet.
    alphabetic_order: AlphabeticOrder => "C7",
    /// The limit is for the checkpoints of all projections.
    a_limit_of_all_projections: LimitOfAll => "C7",
    /// Nothing is removed.
    a_removal_that_keeps: RemovesNothing => "C8",
    /// The document goes with its checkpoint.
    a_removal_of_the_document: RemovesDocument => "C8",
    /// Whether there was one is not looked at.
    a_removal_of_what_is_not_there: RemovesAlways => "C8",
    /// Of many, some are removed.
    a_removal_of_some: RemovesSome => "C8",
    /// The projections whose names begin with its name go, too.
    a_removal_by_prefix: RemovesPrefix => "C8",
    /// Opening the store forgets the checkpoints.
    checkpoints_forgotten_on_reopening: ForgetsOnReopening => "C9",
}

#[test]
fn every_law_is_in_the_table_and_bites() {
    each_bites(&checkpoint_laws::<Broken>(), (1..=9).map(|n| format!("C{n}")), NOTICED);
}

fn notices(fault: Fault, expected: &[&str]) {
    fails_exactly(checkpoint_laws(), || Broken::new(fault), &fault, expected);
}

#[derive(Clone, Debug)]
struct Broken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fault: Fault,
    journal: Arc<MemoryStore>,
    /// One transaction at a time.
    transaction: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

/// What is kept, by what is kept of the names, with the topic that the last batch went to.
type Kept = BTreeMap<(String, String), (Checkpoint, Option<Topic>)>;

impl Broken {
    fn new(fault: Fault) -> Self {
        let journal = Arc::new(MemoryStore::new());
        Self(Arc::new(Inner {
            fault,
            journal,
            transaction: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
        }))
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
        if store.0.fault == Fault::ForgetsOnReopening {
            store.0.kept().clear();
        }
        store
    }
}

impl CheckpointsHarness for Broken {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
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

fn kind() -> Kind {
    Kind::parse("broken").expect("it is a good kind")
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of the names.
    fn key(&self, projection: &ProjectionName, entity: &Entity) -> (String, String) {
        let (projection, entity) = (projection.as_str(), entity.as_str());
        match self.fault {
            Fault::CaseFolded => (projection.to_lowercase(), entity.to_lowercase()),
            Fault::NameCut => (projection.to_owned(), entity.chars().take(64).collect()),
            Fault::NameTrimmed => (projection.trim_end().to_owned(), entity.trim_end().to_owned()),
            Fault::OneText => match format!("{projection} {entity}").split_once(' ') {
                Some((first, rest)) => (first.to_owned(), rest.to_owned()),
                None => unreachable!("there is a space between them"),
            },
            _ => (projection.to_owned(), entity.to_owned()),
        }
    }

    /// What is kept of a checkpoint.
    fn value(&self, mut checkpoint: Checkpoint) -> Checkpoint {
        let Cursor { epoch, watermark } = &mut checkpoint.source;
        match self.fault {
            Fault::Epoch63 => *epoch = Epoch::from_bits(epoch.bits() & i64::MAX.cast_unsigned()),
            Fault::SignedVersion => checkpoint.version = checkpoint.version.min(i32::MAX.cast_unsigned()),
            Fault::Watermark32 => {
                let low = watermark.as_u64() & u64::from(u32::MAX);
                *watermark = Watermark::new(low).expect("32 bits are less than 53");
            }
            _ => {}
        }
        checkpoint
    }

    fn objection(&self, advance: &Advance, stored: Option<Checkpoint>) -> Option<Advanced> {
        let to = &advance.to;
        let folded = |checkpoint: &Checkpoint| checkpoint.source.watermark;
        match self.fault {
            Fault::ElsewhereByWatermark
                if stored.as_ref().map(folded) == advance.from.as_ref().map(folded)
                    && stored.as_ref() != Some(to) =>
            {
                None
            }
            Fault::ForwardOnly if stored.as_ref().is_some_and(|stored| folded(stored) > folded(to)) => {
                // Only of what nothing else speaks against.
                advance.objection(stored).or(Some(Advanced::Repeated))
            }
            Fault::FromIgnored => (stored.as_ref() == Some(to)).then_some(Advanced::Repeated),
            Fault::RepeatByWatermark if stored.as_ref().map(folded) == Some(folded(to)) => {
                Some(Advanced::Repeated)
            }
            Fault::RepeatRefused if stored != advance.from => Some(Advanced::Elsewhere(stored)),
            Fault::ElsewhereUntold => match advance.objection(stored) {
                Some(Advanced::Elsewhere(_)) => Some(Advanced::Elsewhere(None)),
                other => other,
            },
            _ => advance.objection(stored),
        }
    }

    /// What becomes of the batch: a receipt if there is one, or the answer that ends it.
    async fn append(
        &self,
        batch: Option<(Topic, Batch)>,
        now: Timestamp,
    ) -> Result<Result<Option<Receipt>, Advanced>, Error> {
        let Some((topic, batch)) = batch else { return Ok(Ok(None)) };
        Ok(match self.journal.append(&topic, batch, now).await? {
            Append::Duplicate(_) if self.fault == Fault::DuplicateStays => Err(Advanced::Repeated),
            Append::Written(receipt) | Append::Duplicate(receipt) => Ok(Some(receipt)),
            Append::Conflict(_) if self.fault == Fault::ConflictMoves => Ok(None),
            Append::Conflict(conflict) => Err(Advanced::Conflict(conflict)),
        })
    }

    async fn write(&self, mut advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        let key = self.key(&advance.projection, &advance.entity);
        let stored = self.kept().get(&key).cloned();
        let value = (self.value(advance.to.clone()), advance.batch.as_ref().map(|(topic, _)| topic.clone()));
        match self.fault {
            Fault::BatchForgotten => advance.batch = None,
            Fault::NothingWithoutBatch if advance.batch.is_none() => return Ok(Advanced::Written(None)),
            Fault::UpdateOfNothing if advance.batch.is_none() => {
                let topic = Topic::parse("conformance").expect("it is a good topic");
                let nothing = NewUpdate::new(kind(), khala_core::Payload::null());
                self.append(Some((topic, nothing.try_into().expect("one is enough"))), now).await?.ok();
            }
            Fault::CheckpointFirst => {
                self.kept().insert(key.clone(), value.clone());
                meanwhile().await;
            }
            _ => {}
        }
        let appended = self.append(advance.batch, now).await?;
        if self.fault == Fault::BatchFirst {
            meanwhile().await;
        }
        match appended {
            Ok(receipt) => {
                self.kept().insert(key, value);
                Ok(Advanced::Written(receipt))
            }
            Err(answer) => {
                if self.fault == Fault::CheckpointFirst {
                    match stored {
                        Some(stored) => self.kept().insert(key, stored),
                        None => self.kept().remove(&key),
                    };
                }
                Ok(answer)
            }
        }
    }

    /// Waits for the transaction under way, unless what it has written is seen before its end.
    async fn visible(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let early = matches!(self.fault, Fault::BatchFirst | Fault::CheckpointFirst);
        if early { None } else { Some(self.transaction.lock().await) }
    }

    async fn bury(&self, key: &(String, String)) -> Result<(), Error> {
        let topic = self.kept().get(key).and_then(|(_, topic)| topic.clone());
        if let (Some(topic), Ok(doc_key)) = (topic, DocKey::parse(&key.1)) {
            let tombstone = NewUpdate::tombstone(kind(), doc_key).try_into().expect("one is enough");
            self.journal.append(&topic, tombstone, Timestamp::default()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Checkpoints for Inner {
    async fn advance(&self, advance: Advance, now: Timestamp) -> Result<Advanced, Error> {
        let key = self.key(&advance.projection, &advance.entity);
        let find = || self.kept().get(&key).map(|(checkpoint, _)| checkpoint.clone());
        let before = find();
        if self.fault == Fault::AdvanceRace {
            meanwhile().await;
        }
        let _transaction = self.transaction.lock().await;
        let stored = if self.fault == Fault::AdvanceRace { before } else { find() };
        let objection = self.objection(&advance, stored);
        match (&objection, self.fault) {
            (Some(Advanced::Repeated), Fault::RepeatWrites)
            | (Some(Advanced::Elsewhere(_)), Fault::ElsewhereWrites) => {
                self.append(advance.batch.clone(), now).await?.ok();
            }
            (Some(_), Fault::BatchJudgedFirst) => {
                if let Some((topic, batch)) = &advance.batch {
                    let head = self.journal.bounds(topic).await?.head;
                    if let Some(expected) = batch.expect.filter(|expected| *expected != head) {
                        let conflict = khala_core::Conflict::Head { expected, found: head };
                        return Ok(Advanced::Conflict(conflict));
                    }
                }
            }
            _ => {}
        }
        match objection {
            Some(objection) => Ok(objection),
            None => self.write(advance, now).await,
        }
    }

    async fn checkpoint(
        &self,
        projection: &ProjectionName,
        entity: &Entity,
    ) -> Result<Option<Checkpoint>, Error> {
        let _visible = self.visible().await;
        let key = self.key(projection, entity);
        Ok(self.kept().get(&key).map(|(checkpoint, _)| checkpoint.clone()))
    }

    async fn checkpoints(
        &self,
        projection: &ProjectionName,
        after: Option<&Entity>,
        limit: NonZeroUsize,
    ) -> Result<Vec<(Entity, Checkpoint)>, Error> {
        let _visible = self.visible().await;
        let limit = if self.fault == Fault::LimitIgnored { usize::MAX } else { limit.get() };
        let order = |one: &str, other: &str| match self.fault {
            Fault::AlphabeticOrder => (one.to_lowercase(), one).cmp(&(other.to_lowercase(), other)),
            Fault::Utf16Order => one.encode_utf16().cmp(other.encode_utf16()),
            _ => one.cmp(other),
        };
        let kept = self.kept();
        let of_all = self.fault == Fault::LimitOfAll;
        let name = self.key(projection, &Entity::parse("-").expect("it is a good entity")).0;
        let mut page: Vec<_> =
            kept.iter().filter(|((projection, _), _)| of_all || *projection == name).collect();
        page.retain(|((_, entity), _)| {
            after.is_none_or(|after| {
                let order = order(entity, after.as_str());
                order.is_gt() || (order.is_eq() && self.fault == Fault::InclusiveAfter)
            })
        });
        page.sort_by(|((_, one), _), ((_, other), _)| order(one, other));
        page.truncate(limit);
        page.retain(|((projection, _), _)| *projection == name);
        let entity = |text: &str| Entity::parse(text).expect("it was good before");
        Ok(page.into_iter().map(|((_, name), (checkpoint, _))| (entity(name), checkpoint.clone())).collect())
    }

    async fn remove(&self, projection: &ProjectionName, entity: &Entity) -> Result<bool, Error> {
        let _transaction = self.transaction.lock().await;
        let key = self.key(projection, entity);
        match self.fault {
            Fault::RemovesNothing => return Ok(self.kept().contains_key(&key)),
            Fault::RemovesDocument => self.bury(&key).await?,
            _ => {}
        }
        Ok(self.kept().remove(&key).is_some() || self.fault == Fault::RemovesAlways)
    }

    async fn remove_all(&self, projection: &ProjectionName) -> Result<u64, Error> {
        let _transaction = self.transaction.lock().await;
        let mut kept = self.kept();
        let name = self.key(projection, &Entity::parse("-").expect("it is a good entity")).0;
        let most = if self.fault == Fault::RemovesSome { 10 } else { usize::MAX };
        let named = |key: &&(String, String)| match self.fault {
            Fault::RemovesPrefix => key.0.starts_with(&name),
            _ => key.0 == name,
        };
        let removed: Vec<_> = kept.keys().filter(named).take(most).cloned().collect();
        kept.retain(|key, _| !removed.contains(key));
        Ok(removed.len() as u64)
    }
}

mod acknowledged_in_memory {
    //! A store that acknowledges what is only in its process: it is there again after reopening, and not after
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

    impl CheckpointsHarness for Volatile {
        fn checkpoints(&self) -> Arc<dyn Checkpoints> {
            self.0.checkpoints()
        }
    }

    #[test]
    #[should_panic(expected = "after kill -9 the checkpoint of")]
    fn is_noticed() {
        let law = conformance::checkpoints::c9_acknowledged_means_durable::<Volatile>;
        conformance::run(module_path!(), "c9", law);
    }

    #[test]
    #[ignore = "the process that law C9 kills"]
    fn advancing_victim() {
        conformance::advancing_victim::<Volatile>();
    }
}
