//! What operators ask about single topics, which no metric may name: who follows it, how far behind, and what of its
//! rules was broken.

use std::{cmp::Reverse, collections::HashSet, num::NonZeroUsize, sync::Arc};

use super::Khala;
use crate::{
    class::TopicClass,
    error::{Error, ErrorKind},
    journal::Journal as _,
    position::Bounds,
    retention::Followers,
    stats::TopicIncidents,
    topic::Topic,
};

/// One topic of this node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicWindow {
    /// Its name.
    pub topic: Topic,
    /// Its class, with its rules.
    pub class: Option<Arc<TopicClass>>,
    /// What it holds.
    pub bounds: Bounds,
    /// Who follows it here.
    pub followers: Followers,
    /// How far the slowest of those who follow it now is behind the head, in updates.
    pub lag: u64,
    /// What went wrong with it here.
    pub incidents: TopicIncidents,
}

impl Khala {
    /// The topics that are followed on this node or had incidents here recently, at most `limit`: first those
    /// with the most incidents, then those whose slowest follower is farthest behind.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The journal's [`Error`], where a topic's bounds had to be read. A topic of which something corrupt is stored is left out, and
    /// named in the log.
    pub async fn topic_stats(&self, limit: NonZeroUsize) -> Result<Vec<TopicWindow>, Error> {
        let topics: HashSet<Topic> =
            self.0.cursors.topics().into_iter().chain(self.0.stats.topics_with_incidents()).collect();
        let mut ranked: Vec<_> = topics
            .into_iter()
            .map(|topic| {
                let incidents = self.0.stats.incidents(&topic);
                let lag = self.0.tail.known_bounds(&topic).map_or(0, |bounds| self.lag(&topic, &bounds).0);
                (Reverse(incidents.sum()), Reverse(lag), topic)
            })
            .collect();
        ranked.sort_unstable();
        ranked.truncate(limit.get());

        let mut windows = Vec::with_capacity(ranked.len());
        for (_, _, topic) in ranked {
            let bounds = match self.0.tail.known_bounds(&topic) {
                Some(bounds) => bounds,
                None => match self.0.tail.bounds(&topic).await {
                    Ok(bounds) => bounds,
                    // It is in nobody's way.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(%topic, %error, "a topic cannot be told of; the others are");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let (lag, followers) = self.lag(&topic, &bounds);
            let (class, incidents) = (self.class_of(&topic).cloned(), self.0.stats.incidents(&topic));
            windows.push(TopicWindow { topic, class, bounds, followers, lag, incidents });
        }
        Ok(windows)
    }

    fn lag(&self, topic: &Topic, bounds: &Bounds) -> (u64, Followers) {
        let followers = self.0.cursors.followers(topic, bounds.epoch, self.moment());
        let lag = followers.slowest_connected.map_or(0, |slowest| slowest.distance_to(bounds.head));
        (lag, followers)
    }
}
