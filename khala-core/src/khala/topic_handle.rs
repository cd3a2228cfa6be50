//! The handle of one topic: what an application publishes to and subscribes to.

use std::pin::pin;

use futures::future::{Either, pending, select};

use super::Khala;
use crate::{
    chain::Chain,
    documents::{Snapshot, SnapshotFrom},
    error::{Error, ErrorKind},
    event::{Start, Subscription},
    journal::{Append, Batch, BatchError, Journal as _, ReadLimit, Receipt, Replay},
    pipeline::Appends,
    position::{Bounds, Cursor},
    producer::{Producer, PublishError, Submissions},
    text::TextError,
    topic::Topic,
    update::{DocKey, Update},
};

/// One topic of a [`Khala`]. Cheap to clone.
///
/// `khala-client` has a handle of the same shape, so that code moves from an embedded Khala to a remote one by changing where its
/// handle comes from.
#[derive(Clone, Debug)]
pub struct TopicHandle {
    khala: Khala,
    topic: Topic,
}

impl Khala {
    /// The handle of the topic of that name. Asks nothing and makes nothing: a topic is there with its first update.
    ///
    /// # Errors
    /// A [`TextError`] where this cannot be the name of a topic.
    pub fn topic(&self, name: impl TryInto<Topic, Error: Into<TextError>>) -> Result<TopicHandle, TextError> {
        Ok(TopicHandle { khala: self.clone(), topic: name.try_into().map_err(Into::into)? })
    }
}

impl TopicHandle {
    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Publishes an update, many, or a [`Batch`], as a whole or not at all; ready once that is on stable storage. Every conflict is
    /// an error here; [`append`](Self::append) gives it as an outcome.
    ///
    /// # Cancellation
    /// As for [`Khala::publish`]: what was begun is finished.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        updates: impl TryInto<Batch, Error: Into<BatchError>>,
    ) -> Result<Receipt, PublishError> {
        let batch = updates.try_into().map_err(|fault| PublishError::Invalid(fault.into()))?;
        PublishError::of(self.append(batch).await.map_err(PublishError::Failed)?)
    }

    /// Publishes a batch, and gives each outcome to match.
    ///
    /// # Cancellation
    /// As for [`Khala::publish`].
    ///
    /// # Errors
    /// The journal's [`Error`].
    pub async fn append(&self, batch: Batch) -> Result<Append, Error> {
        self.khala.publish(&self.topic, batch).await
    }

    /// Publishes many updates without waiting for each.
    ///
    /// It runs beside its caller, by [`Clock::finish`](crate::clock::Clock::finish): within the host's runtime.
    pub fn producer(&self) -> Producer {
        let (producer, submissions) = Producer::<Error>::channel();
        let appending = append_all(self.clone(), submissions);
        self.khala.clock().finish(Box::pin(appending));
        producer
    }

    /// Follows the topic: first what was missed, then what comes. The first event says where the start cannot be had.
    ///
    /// Reads the first page. Where many subscribers replay at once, it waits for its turn, and where the log is trimmed again and again
    /// before that page, it tries until it has one. Dropping the future gives up.
    ///
    /// # Errors
    /// An [`Error`] when the topic cannot be watched or read now.
    pub async fn subscribe(&self, start: impl Into<Start>) -> Result<Subscription, Error> {
        self.khala.follow(&self.topic, start.into()).await
    }

    /// What the topic holds now.
    ///
    /// # Errors
    /// The journal's [`Error`].
    pub async fn bounds(&self) -> Result<Bounds, Error> {
        self.khala.journal().bounds(&self.topic).await
    }

    /// A page of history: what follows `cursor`.
    ///
    /// # Errors
    /// The journal's [`Error`].
    pub async fn history(&self, cursor: Cursor, limit: ReadLimit) -> Result<Replay, Error> {
        self.khala.journal().read(&self.topic, cursor.into(), limit).await
    }

    /// The newest update of a document, a tombstone too; none if there never was one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a key that breaks the rule; the store's [`Error`].
    pub async fn document(
        &self,
        key: impl TryInto<DocKey, Error: Into<TextError>>,
    ) -> Result<Option<Update>, Error> {
        let key = key.try_into().map_err(Into::into);
        let key = key.map_err(|fault| Error::new(ErrorKind::Invalid, "khala", fault.to_string()))?;
        self.khala.documents().document(&self.topic, &key).await
    }

    /// A page of the documents that are there.
    ///
    /// # Errors
    /// The store's [`Error`].
    pub async fn snapshot(&self, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.khala.documents().snapshot(&self.topic, from, limit).await
    }
}

/// Appends what is submitted until the producer is gone, and sees it through.
async fn append_all(handle: TopicHandle, mut submissions: Submissions) {
    let TopicHandle { khala, topic } = handle;
    let (mut appends, chain) = (Appends::new(khala), Chain::new());
    let (mut open, mut failed) = (true, false);
    while open || !appends.is_empty() {
        let next = {
            let answered = async { if appends.is_idle() { pending().await } else { appends.next().await } };
            let submitted = async { if open { submissions.next().await } else { pending().await } };
            // What is answered goes first: it makes room.
            match select(pin!(answered), pin!(submitted)).await {
                Either::Left((answered, _)) => Either::Left(answered),
                Either::Right((submitted, _)) => Either::Right(submitted),
            }
        };
        match next {
            // All are answered, and by now announced.
            Either::Left(None) => {}
            Either::Left(Some((answer, appended))) => {
                let result = match appended {
                    Ok(append) => PublishError::of(append),
                    Err(_) if failed => Err(PublishError::NotAttempted),
                    Err(error) => {
                        (open, failed) = (false, true);
                        Err(PublishError::Failed(error))
                    }
                };
                submissions.answer(answer, result);
                if failed {
                    submissions.stop();
                }
            }
            Either::Right(Some((batch, answer))) => {
                appends.push(answer, None, topic.clone(), batch.with_chain(chain.clone()));
            }
            Either::Right(None) => open = false,
        }
    }
    appends.finish().await;
}
