//! The handle of one topic of a server: what an application publishes to and subscribes to.
//!
//! It has the shape of [`khala_core::TopicHandle`], with the same events, so that code moves from an embedded Khala to a remote one
//! by changing where its handle comes from.

use futures::{Stream, stream};
use khala_core::{
    Append, Batch, Bounds, Cursor, DocKey, EventPage, Producer, PublishError, Receipt, Stale, Start,
    Subscription, TextError, Topic, Update,
    documents::{Snapshot, SnapshotFrom},
    event::{DocumentPage, UpdatePage},
    journal::{BatchError, ReadLimit, Replay},
    wire::{JoinRequest, Resume, StaleCursor},
};

use crate::{
    api,
    client::Client,
    error::Error,
    event::{self, ConnectionEvent},
    http::Retry,
    producer::send_all,
    subscription::ConnectionEvents,
};

/// One topic of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TopicHandle {
    client: Client,
    topic: Topic,
}

impl Client {
    /// The handle of the topic of that name. Nothing is sent.
    ///
    /// # Errors
    /// A [`TextError`] where this cannot be the name of a topic.
    pub fn topic(&self, name: impl TryInto<Topic, Error: Into<TextError>>) -> Result<TopicHandle, TextError> {
        Ok(TopicHandle { client: self.clone(), topic: name.try_into().map_err(Into::into)? })
    }
}

impl TopicHandle {
    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Publishes an update, many, or a [`Batch`], as a whole or not at all. Every conflict is an error here;
    /// [`append`](Self::append) gives it as an outcome.
    ///
    /// # Cancellation
    /// As for [`Client::publish`].
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        updates: impl TryInto<Batch, Error: Into<BatchError>>,
    ) -> Result<Receipt, PublishError<Error>> {
        let batch = updates.try_into().map_err(|fault| PublishError::Invalid(fault.into()))?;
        PublishError::of(self.append(batch).await.map_err(PublishError::Failed)?)
    }

    /// Publishes a batch, and gives each outcome to match: see [`Client::publish`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn append(&self, batch: Batch) -> Result<Append, Error> {
        self.client.publish(&self.topic, batch).await
    }

    /// Publishes many updates without waiting for each: one request streams them, and answers each as it is stored.
    ///
    /// A connection that is lost is made anew, within [`retry_for`](crate::ClientOptions::retry_for), and what was not answered is
    /// sent again; each batch has a dedup key, so nothing is stored twice. A batch of several updates, or one that expects a
    /// head, is sent by a request of its own, once all before it are answered.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn producer(&self) -> Producer<Error> {
        let (producer, submissions) = Producer::channel();
        tokio::spawn(send_all(self.client.clone(), self.topic.clone(), submissions));
        producer
    }

    /// Follows the topic: connects, joins, resumes and reconnects by itself. Each reconnect is told to
    /// [`on_retry`](crate::ClientBuilder::on_retry); [`Client::connection_events`] tells more.
    ///
    /// The error that a subscription ends with is one that coming back does not help.
    ///
    /// # Errors
    /// None yet: what goes wrong comes as the first event. The result is that of [`khala_core::TopicHandle::subscribe`].
    #[expect(clippy::unused_async, reason = "the same shape as that of an embedded handle")]
    pub async fn subscribe(&self, start: impl Into<Start>) -> Result<Subscription<Error>, Error> {
        let start = start.into();
        let cursor = match JoinRequest::from(start).resume {
            Resume::After(cursor) => Some(cursor),
            Resume::Floor | Resume::Head | Resume::Snapshot => None,
        };
        let events = self.client.connection_events(&self.topic, start);
        Ok(Subscription::new(pages(self.client.clone(), events, cursor), cursor))
    }

    /// What the topic holds now.
    ///
    /// # Errors
    /// [`Error`]: it was refused, or there was no answer for too long.
    pub async fn bounds(&self) -> Result<Bounds, Error> {
        self.client.bounds(&self.topic).await
    }

    /// A page of history: what follows `cursor`. To read from the start, begin with [`Bounds::at_floor`].
    ///
    /// The server gives at most 1,000 updates in a page, and 2 MiB, unless one update alone is larger.
    ///
    /// # Errors
    /// [`Error`]: it was refused, or there was no answer for too long.
    pub async fn history(&self, cursor: Cursor, limit: ReadLimit) -> Result<Replay, Error> {
        self.client.http().history(&self.topic, cursor, limit).await
    }

    /// The newest update of a document, a tombstone too; none if there never was one.
    ///
    /// # Errors
    /// [`Error::Settings`] for a key that breaks the rule; otherwise as for [`history`](Self::history).
    pub async fn document(
        &self,
        key: impl TryInto<DocKey, Error: Into<TextError>>,
    ) -> Result<Option<Update>, Error> {
        let key = key.try_into().map_err(|fault| Error::Settings(fault.into().to_string()))?;
        self.client.http().document(&self.topic, &key).await
    }

    /// A page of the documents that are there. Its bounds are of a moment after the page was read.
    ///
    /// The server bounds a page as it bounds [`history`](Self::history).
    ///
    /// # Errors
    /// As for [`history`](Self::history).
    pub async fn snapshot(&self, from: SnapshotFrom, limit: ReadLimit) -> Result<Snapshot, Error> {
        self.client.http().snapshot(&self.topic, from, limit).await
    }
}

struct Following {
    client: Client,
    events: ConnectionEvents,
    /// Up to where it was told.
    cursor: Option<Cursor>,
    /// Why the next snapshot comes.
    stale: Option<Stale>,
}

fn pages(
    client: Client,
    events: ConnectionEvents,
    cursor: Option<Cursor>,
) -> impl Stream<Item = Result<EventPage, Error>> + Send {
    stream::unfold(Following { client, events, cursor, stale: None }, |mut following| async move {
        let page = following.next().await?;
        Some((page, following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Result<EventPage, Error>> {
        loop {
            let page = match self.events.next().await? {
                Ok(ConnectionEvent::Updates(arrived)) => {
                    self.cursor = Some(arrived.cursor);
                    let epoch = arrived.cursor.epoch;
                    EventPage::Updates(UpdatePage::new(
                        epoch,
                        arrived.updates,
                        arrived.head,
                        arrived.complete,
                    ))
                }
                Ok(ConnectionEvent::Snapshot(event::Snapshot { at, first, documents, complete })) => {
                    self.cursor = Some(at);
                    let stale = if first { self.stale.take() } else { None };
                    EventPage::Snapshot(DocumentPage::new(at, first, documents, complete).with_stale(stale))
                }
                Ok(ConnectionEvent::Stale(stale)) => EventPage::Stale(self.read(&stale)),
                Ok(ConnectionEvent::Joined { joined, .. }) => {
                    self.stale = joined.stale.as_ref().map(|stale| self.read(stale));
                    continue;
                }
                Ok(ConnectionEvent::Reconnecting { error, failures, wait }) => {
                    self.client.tell_retry(&Retry { error: &error, failures, wait });
                    continue;
                }
                Ok(ConnectionEvent::Head(_)) => continue,
                Err(error) => return Some(Err(error)),
            };
            return Some(Ok(page));
        }
    }

    fn read(&self, stale: &StaleCursor) -> Stale {
        let epoch = self.cursor.map_or(stale.epoch, |cursor| cursor.epoch);
        api::stale(stale, epoch)
    }
}
