//! Appends and their announcements: each at once, or later for many appends together.
//!
//! # Invariants
//! What was stored is announced by the node that appended it, once it is on stable storage. Several appends to a topic may share
//! an announcement, for it says how far the head is.

use super::Khala;
use crate::{
    auth::Grant,
    error::Error,
    finish::Finish,
    journal::{Append, Batch, Journal as _, Receipt},
    position::Cursor,
    topic::Topic,
};

/// What [`Khala::announce_all`] has to announce of an append.
#[derive(Clone, Copy, Debug)]
#[must_use = "an append has to be announced"]
pub(crate) struct Unannounced {
    /// The head to announce. Of a duplicate too: the first time it may have been stored by a process that died before.
    head: Option<Cursor>,
}

impl Khala {
    /// Appends a batch, now, and announces it.
    ///
    /// Updates without a hash are given one where the topic's class says so.
    ///
    /// No limit applies: the application is trusted. For batches of others, see [`publish_as`](Self::publish_as).
    ///
    /// # Cancellation
    /// What was begun is finished: a future that is dropped after it was polled still has the batch stored and announced, by
    /// the host's runtime ([`Clock::finish`](crate::clock::Clock::finish)). A retry under the same dedup key stores nothing twice.
    ///
    /// # Errors
    /// The journal's [`Error`]. That an announcement failed is no error: the batch is stored.
    pub async fn publish(&self, topic: &Topic, batch: Batch) -> Result<Append, Error> {
        let (khala, topic) = (self.clone(), topic.clone());
        Finish::new(self.clock(), async move { khala.append_and_announce(&topic, batch).await }).await
    }

    /// [`publish`](Self::publish) for the subject of `grant`, who is charged if the batch makes its topic. Drops `held` when
    /// the batch is stored and announced, also where the future was dropped before.
    pub(super) async fn publish_holding(
        &self,
        grant: &Grant,
        topic: &Topic,
        batch: Batch,
        held: impl Send + 'static,
    ) -> Result<Append, Error> {
        let (khala, grant, topic) = (self.clone(), grant.clone(), topic.clone());
        let publish = async move {
            let answer = khala.append_and_announce(&topic, batch).await;
            if let Ok(append) = &answer {
                khala.charge_new_topic(&grant, append);
            }
            drop(held);
            answer
        };
        Finish::new(self.clock(), publish).await
    }

    async fn append_and_announce(&self, topic: &Topic, batch: Batch) -> Result<Append, Error> {
        let (answer, appended) = self.append_unannounced(topic, batch).await;
        if let Some(head) = appended.head {
            self.announce_head(topic, head).await;
        }
        answer
    }

    /// Appends a batch, and leaves it to the caller to call [`announce_all`](Self::announce_all) soon: for callers that append
    /// much, and announce many appends at once.
    pub(crate) async fn append_unannounced(
        &self,
        topic: &Topic,
        batch: Batch,
    ) -> (Result<Append, Error>, Unannounced) {
        let updates = batch.updates().len() as u64;
        let class = self.class_of(topic).map(|class| &**class);
        let batch = if class.is_some_and(|class| class.hashes) { batch.with_hashes() } else { batch };
        let (started, stamp) = (self.moment(), self.0.stamps.next(self.now()));
        let answer = self.0.tail.append(topic, batch, stamp).await;
        self.0.stats.append_took(self.moment().since(started).as_secs_f64());
        let cells = &self.0.stats.cells;
        let (outcome, head) = match &answer {
            Ok(Append::Written(receipt)) => {
                cells.updates.add(updates);
                self.0.stats.of_class(class).published_updates.add(updates);
                (&cells.appends_written, Some(receipt.cursor()))
            }
            Ok(Append::Duplicate(receipt)) => (&cells.appends_duplicate, Some(receipt.cursor())),
            Ok(Append::Conflict(_)) => (&cells.appends_conflict, None),
            Err(_) => (&cells.appends_failed, None),
        };
        outcome.add(1);
        (answer, Unannounced { head })
    }

    /// Announces what was appended: of appends to one topic that stand next to each other, the furthest head.
    ///
    /// Dropping the future may lose announcements: delivery then completes by polling. A request whose future may be
    /// dropped runs the appends and this call together in a task of their own.
    pub(crate) async fn announce_all(&self, appended: &[(Topic, Unannounced)]) {
        for same in appended.chunk_by(|(one, _), (next, _)| one == next) {
            let Some((topic, _)) = same.first() else { continue };
            let mut furthest: Option<Cursor> = None;
            for head in same.iter().filter_map(|(_, appended)| appended.head) {
                match furthest {
                    Some(known) if known.epoch == head.epoch => {
                        furthest = Some(if known.watermark < head.watermark { head } else { known });
                    }
                    Some(of_before) => {
                        self.announce_head(topic, of_before).await;
                        furthest = Some(head);
                    }
                    None => furthest = Some(head),
                }
            }
            if let Some(head) = furthest {
                self.announce_head(topic, head).await;
            }
        }
    }

    /// Announces what was appended within the caller's own transaction, after its commit.
    ///
    /// # Cancellation
    /// What was begun is finished, as by [`publish`](Self::publish).
    pub async fn announce(&self, topic: &Topic, receipt: &Receipt) {
        let (khala, topic, head) = (self.clone(), topic.clone(), receipt.cursor());
        Finish::new(self.clock(), async move { khala.announce_head(&topic, head).await }).await;
    }

    async fn announce_head(&self, topic: &Topic, head: Cursor) {
        // What was appended in a transaction of the caller's own is noted here.
        self.0.throttle.note_append(self.moment());
        let announced = self.0.fanout.announce(topic, head).await;
        let cells = &self.0.stats.cells;
        if announced.is_ok() { &cells.announced } else { &cells.announce_failures }.add(1);
        if let Err(error) = announced {
            tracing::warn!(%topic, %error, "an announcement failed; delivery completes by polling");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        fanout::{Fanout as _, LocalFanout},
        memory::MemoryStore,
        update::{Kind, NewUpdate, Payload},
    };

    #[tokio::test]
    async fn many_are_announced_at_once() {
        let fanout = LocalFanout::new();
        let khala = Khala::builder(MemoryStore::new()).with_fanout(Arc::new(fanout.clone())).build();
        let topic = |name: &str| Topic::parse(name).unwrap();
        let mut watches = Vec::new();
        for name in ["a", "b"] {
            watches.push(fanout.watch(&topic(name)).await.unwrap());
        }
        let mut all = Vec::new();
        for name in ["a", "a", "b", "a"] {
            let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null());
            let (answer, appended) =
                khala.append_unannounced(&topic(name), Batch::new(vec![update]).unwrap()).await;
            assert!(matches!(answer, Ok(Append::Written(_))));
            all.push((topic(name), appended));
        }
        assert!(watches.iter().all(|watch| watch.head().is_none()), "it was left to the caller");
        khala.announce_all(&all).await;
        let heads: Vec<_> =
            watches.iter().map(|watch| watch.head().map(|head| head.watermark.as_u64())).collect();
        assert_eq!(heads, [Some(3), Some(1)]);
    }
}
