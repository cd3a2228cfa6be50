//! How much others may publish: payloads of a size and updates at a rate, both by the topic's class; updates and new
//! topics at a rate, both by the publisher's subject.
//!
//! It stands before [`Khala::publish`] and not within it: the application that holds the handle is trusted, and a server that
//! takes batches from others asks here first.
//!
//! # Invariants
//! What is refused takes nothing; a batch goes through whole or not at all; and memory follows the topics that were published to
//! recently.

use super::Khala;
use crate::{
    auth::Grant,
    journal::{Append, Batch, Journal as _},
    refusal::PublishLimited,
    stats::TopicIncident,
    telemetry::{self, SubjectLimit},
    topic::Topic,
};

impl Khala {
    /// Whether a batch of the subject of `grant` may be published to `topic` now: by the limits of the topic's class, and
    /// by [`publishes_per_subject`](crate::admission::AdmissionOptions::publishes_per_subject). Takes its updates from them if
    /// it may. A topic of no class has no limits of its own.
    ///
    /// [`publish_as`](Self::publish_as) asks it. The rates are those on this
    /// node, in updates. A batch goes through as soon as there is room for its first update; what is over is owed, and
    /// the next one waits for it. So a batch may be larger than the burst, and over time the rate holds. What then is
    /// not stored, as a duplicate or a conflict, was taken all the same: it costs the store as much.
    ///
    /// # Errors
    /// [`PublishLimited`], with the limit, and with the time to wait where that helps. It has taken nothing.
    pub(super) fn check_publish(
        &self,
        grant: &Grant,
        topic: &Topic,
        batch: &Batch,
    ) -> Result<(), PublishLimited> {
        let now = self.moment();
        if let Some((rate, retry_after)) = self.0.publishers.wait_to_publish(grant.subject(), now) {
            telemetry::subject_limited(SubjectLimit::Publishes);
            return Err(PublishLimited::SubjectTooFast { rate, retry_after });
        }
        if let Some(class) = self.class_of(topic)
            && let Err(limited) = self.0.published.take(class, topic, batch, now)
        {
            telemetry::publish_refused(class, limited.code());
            let incident = match limited {
                PublishLimited::PayloadTooLarge { .. } => TopicIncident::PayloadTooLarge,
                _ => TopicIncident::PublishRateLimited,
            };
            self.0.stats.incident(topic, incident, self.now());
            return Err(limited);
        }
        // Several at the same moment may go past the burst together: that is owed too.
        self.0.publishers.published(grant.subject(), batch.updates().len() as u64, now);
        Ok(())
    }

    /// Whether the subject of `grant` may publish to `topic` if that is new, by
    /// [`new_topics_per_subject`](crate::admission::AdmissionOptions::new_topics_per_subject). A topic is new until its first
    /// update is stored.
    ///
    /// To be asked once before the first batch that a request, or a stream, has for a topic. It takes nothing, for nobody knows yet whether the topic will be made:
    /// [`publish_as`](Self::publish_as) charges for that afterwards. The journal is asked only while the subject may
    /// make no topic. If it does not answer, the topic is let through, for then the batch will not be stored either.
    ///
    /// # Cancellation
    /// A dropped future leaves nothing behind.
    ///
    /// # Errors
    /// [`PublishLimited::TooManyNewTopics`], with the time to wait.
    pub(super) async fn check_new_topic(&self, grant: &Grant, topic: &Topic) -> Result<(), PublishLimited> {
        let Some((rate, retry_after)) = self.0.publishers.wait_for_new_topic(grant.subject(), self.moment())
        else {
            return Ok(());
        };
        match self.journal().bounds(topic).await {
            Ok(bounds) if bounds.head.as_u64() == 0 => {
                telemetry::subject_limited(SubjectLimit::NewTopics);
                Err(PublishLimited::TooManyNewTopics { rate, retry_after })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Charges the subject of `grant` for the topic that its append made, if it made one.
    pub(crate) fn charge_new_topic(&self, grant: &Grant, append: &Append) {
        if let Append::Written(receipt) = append
            && receipt.first.as_u64() == 1
        {
            self.0.publishers.made_topic(grant.subject(), self.moment());
        }
    }
}
