//! Publishing for the subject of a grant: one call that takes grant, topic and batch.
//!
//! The application that holds the handle is trusted: nothing here stands in the way of [`Khala::publish`].
//!
//! # Invariants
//! Only [`Khala::publish_permit`] makes a [`PublishPermit`], after the topic's class and the authorizer were asked, so a batch of
//! somebody else cannot be published unasked. Whether the grant still stands is asked again for every batch.

use super::Khala;
use crate::{
    auth::{Access, Denied, Grant},
    journal::{Append, Batch},
    pipeline::Appends,
    refusal::{PublishLimited, Refusal},
    topic::Topic,
    update::PayloadHash,
};

/// A topic that is open to the subject of a grant, to be published to.
#[derive(Clone, Debug)]
pub struct PublishPermit {
    khala: Khala,
    grant: Grant,
    topic: Topic,
}

impl Khala {
    /// Publishes a batch for the subject of `grant`: asks the topic's class and the authorizer, whether the grant still stands, the
    /// limits of the class and of the subject, and the hashes that the publisher gave. A dedup key is the publisher's own: the
    /// same key of somebody else is another one.
    ///
    /// A host that reads a body in between, or publishes many batches, takes the two steps apart: see
    /// [`publish_permit`](Self::publish_permit).
    ///
    /// # Cancellation
    /// As for [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Refusal`]; nothing of the batch is stored then, unless the store failed in the middle.
    pub async fn publish_as(&self, grant: &Grant, topic: &Topic, batch: Batch) -> Result<Append, Refusal> {
        self.publish_permit(grant, topic).await?.publish(batch, ()).await
    }

    /// Asks the topic's class, and then the authorizer, whether the subject of `grant` may publish to `topic`.
    ///
    /// # Errors
    /// [`Denied`], with the reason.
    pub async fn publish_permit(&self, grant: &Grant, topic: &Topic) -> Result<PublishPermit, Denied> {
        self.access().authorize(grant, topic, Access::Publish).await?;
        Ok(PublishPermit { khala: self.clone(), grant: grant.clone(), topic: topic.clone() })
    }
}

impl PublishPermit {
    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The grant.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether the grant's subject may publish to the topic if that is new: to be asked once before the first batch of a stream.
    /// [`publish`](Self::publish) asks it for each batch.
    ///
    /// # Errors
    /// [`PublishLimited::TooManyNewTopics`].
    pub async fn check_new_topic(&self) -> Result<(), PublishLimited> {
        self.khala.check_new_topic(&self.grant, &self.topic).await
    }

    /// Whether a batch may be published now: that the grant still stands, the limits, and the hashes. Takes its updates from the
    /// limits if it may, so it is asked once for each batch.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, batch: &Batch) -> Result<(), Refusal> {
        self.khala.access().check(&self.grant)?;
        self.khala.check_publish(&self.grant, &self.topic, batch)?;
        let hashes = self.khala.class_of(&self.topic).is_some_and(|class| class.hashes);
        if !hashes {
            return Ok(());
        }
        for (index, update) in batch.updates().iter().enumerate() {
            let Some(given) = &update.payload_hash else { continue };
            let found = PayloadHash::of(&update.payload);
            if found.as_ref() != Some(given) {
                return Err(Refusal::HashMismatch { index, found });
            }
        }
        Ok(())
    }

    /// Publishes a batch, if it may be. Drops `held` once it is stored and announced, also where the future was dropped before:
    /// for what the batch takes meanwhile, as a share of the memory budget.
    ///
    /// # Cancellation
    /// As for [`Khala::publish`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn publish(&self, batch: Batch, held: impl Send + 'static) -> Result<Append, Refusal> {
        // The grant first: a body may have taken its time.
        self.khala.access().check(&self.grant)?;
        self.check_new_topic().await?;
        self.check(&batch)?;
        let batch = batch.published_by(self.grant.subject());
        Ok(self.khala.publish_holding(&self.grant, &self.topic, batch, held).await?)
    }

    /// Hands over a batch that was [checked](Self::check), behind those that are in flight.
    pub fn append<T: Send + 'static>(&self, appends: &mut Appends<T>, tag: T, batch: Batch) {
        let batch = batch.published_by(self.grant.subject());
        appends.push(tag, Some(self.grant.clone()), self.topic.clone(), batch);
    }
}
