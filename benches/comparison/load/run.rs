//! Publishing: at a rate, where each update is due at its time whatever became of those before it, or as fast as it goes.

use std::time::{Duration, Instant};

use khala_testing::{During as _, Failure};

use super::{
    client_pool::{ClientPool, Counts, PATIENCE},
    command::{Done, Pace, Publish},
    marker::Mark,
    publisher::Publisher,
};
use crate::comparison::{sample::Latency, wire::Update};

impl ClientPool {
    /// Publishes, and waits until everything has arrived, or nothing does any more.
    pub(super) fn publish(&mut self, publish: Publish) -> Result<Done, Failure> {
        self.counts = Counts::default();
        let acknowledged = self.acknowledged();
        if let Pace::Window(updates) = publish.pace {
            let places = updates.next_power_of_two();
            for topic in self.topics.iter_mut().filter(|topic| topic.subscribers > 1) {
                topic.have = vec![0; places];
            }
        }
        let begin = Instant::now();
        let expected = match publish.pace {
            Pace::Rate(per_second) => self.at_rate(per_second, publish.seconds)?,
            Pace::Window(updates) => self.as_fast_as_it_goes(updates, publish.seconds)?,
        };
        let mut waiting = Waiting::new(self);
        while self.counts.delivered < expected
            || self.acknowledged() < acknowledged.map(|count| count + self.counts.published)
        {
            self.take_turn(Duration::from_millis(100))?;
            if waiting.is_over(self) {
                break;
            }
        }
        let wall_seconds = begin.elapsed().as_secs_f64();
        self.topics.iter_mut().for_each(|topic| topic.have = Vec::new());
        let Counts { published, delivered, disordered, latency, .. } = std::mem::take(&mut self.counts);
        if self.acknowledged() < acknowledged.map(|count| count + published) {
            return Err(Failure::new("not every update was acknowledged"));
        }
        Ok(Done {
            published,
            delivered,
            lost: expected.saturating_sub(delivered),
            disordered,
            wall_seconds,
            cpu_seconds: 0.0,
            latency: Latency::of(&latency),
        })
    }

    /// Gives how many are to arrive.
    fn at_rate(&mut self, per_second: f64, seconds: f64) -> Result<u64, Failure> {
        // A moment to begin with, so that the first is not late.
        let begin = self.now() + 2_000;
        let due = |number: u64| begin + (number as f64 * 1e6 / per_second) as u64;
        let total = (per_second * seconds).round() as u64;
        let (mut number, mut expected) = (0, 0);
        while number < total {
            let now = self.now();
            let late = (number..total).take_while(|number| due(*number) <= now).count() as u64;
            expected += self.hand_over((number..number + late).map(due))?;
            number += late;
            if number < total {
                self.wake_at(due(number))?;
                self.take_turn(Duration::from_secs(1))?;
            }
        }
        Ok(expected)
    }

    fn as_fast_as_it_goes(&mut self, window: usize, seconds: f64) -> Result<u64, Failure> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let (mut expected, mut waiting) = (0, Waiting::new(self));
        while Instant::now() < until && !waiting.is_over(self) {
            let under_way = (self.counts.published - self.counts.complete) as usize;
            let now = self.now();
            expected += self.hand_over(std::iter::repeat_n(now, window.saturating_sub(under_way)))?;
            self.take_turn(Duration::from_millis(10))?;
        }
        Ok(expected)
    }

    /// Publishes an update for each time at which one is due, to each topic in turn. Gives how many are to arrive.
    fn hand_over(&mut self, due: impl Iterator<Item = u64>) -> Result<u64, Failure> {
        let Self { topics, payload, turn, .. } = self;
        let (mut text, mut of, mut expected) = (Vec::new(), Vec::new(), 0);
        for due in due {
            let topic = &mut topics[*turn];
            text.extend_from_slice(payload.marked(Mark { due, number: topic.published }));
            topic.published += 1;
            expected += u64::from(topic.subscribers);
            of.push(*turn);
            *turn = (*turn + 1) % topics.len();
        }
        if of.is_empty() {
            return Ok(0);
        }
        self.counts.published += of.len() as u64;
        let payloads = text.chunks_exact(text.len() / of.len());
        let updates: Vec<_> =
            of.iter().zip(payloads).map(|(topic, payload)| Update { topic: *topic, payload }).collect();
        let publisher = self.publisher.as_mut().ok_or_else(|| Failure::new("there is no publisher"))?;
        publisher.publish(self.wire.as_ref(), &updates);
        publisher.flush().during("publishing")?;
        Ok(expected)
    }

    fn acknowledged(&self) -> Option<u64> {
        self.publisher.as_ref().and_then(Publisher::acknowledged)
    }
}

/// Notices that nothing arrives any more.
struct Waiting {
    delivered: u64,
    since: Instant,
}

impl Waiting {
    fn new(pool: &ClientPool) -> Self {
        Self { delivered: pool.counts.delivered, since: Instant::now() }
    }

    fn is_over(&mut self, pool: &ClientPool) -> bool {
        if self.delivered != pool.counts.delivered {
            *self = Self::new(pool);
        }
        self.since.elapsed() > PATIENCE
    }
}
