//! Updates at a fixed rate, whatever the server does: each is due at its moment, and says so.
//!
//! What is not acknowledged is sent again under the same name until it is.
//!
//! # Invariants
//! A batch is due when the rate says, not when the one before was answered.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::http::StatusCode;
use bytes::Bytes;
use khala_testing::{During as _, Failure, ensure};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    checker::{Acknowledgement, Order, PublisherId},
    clock::micros,
    environment::Environment,
    http::{Answer, Client},
    stamp::{KIND, Stamp},
    topics::Topics,
};

/// How soon after a failed connection it is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// How long the last batches may take to be acknowledged at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(120);

/// How much is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Updates a second, over all topics.
    pub(crate) rate: u32,
    /// Updates that are published together, to one topic.
    pub(crate) batch: u32,
    pub(crate) payload_bytes: usize,
    /// Requests under way at once, at most.
    pub(crate) connections: usize,
}

/// What a publish is answered with.
#[derive(Deserialize)]
struct Receipt {
    epoch: String,
    first: u64,
    last: u64,
}

/// A batch that is due.
#[derive(Debug)]
struct Due {
    topic: usize,
    /// Of its payloads, as the checker knows them.
    numbers: RangeInclusive<u64>,
    body: Bytes,
    /// Under which it may be sent again.
    key: String,
}

/// What publishing tasks share.
#[derive(Debug)]
struct Shared {
    topics: Arc<Topics>,
    /// By topic: this publisher, as the checker knows it.
    publishers: Vec<PublisherId>,
    payload_bytes: usize,
    lane: AtomicU8,
    ends: AtomicBool,
    /// Answers and failures that led to another try, by what they were.
    retries: StdMutex<BTreeMap<String, u64>>,
}

/// Publishes at a fixed rate in the background.
#[derive(Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Shared {
    fn new(topics: &Arc<Topics>, payload_bytes: usize) -> Self {
        let publishers =
            (0..topics.count()).map(|topic| topics.published(topic).publisher("publisher", Order::Any));
        Self {
            topics: Arc::clone(topics),
            publishers: publishers.collect(),
            payload_bytes,
            lane: AtomicU8::new(0),
            ends: AtomicBool::new(false),
            retries: StdMutex::default(),
        }
    }

    /// A batch of `updates` updates.
    fn due(&self, topic: usize, updates: u32, due: u64) -> Due {
        // Numbers of one process differ, whichever publisher gave them.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let first = NEXT.fetch_add(updates.into(), Ordering::Relaxed);
        let mut body = br#"{"updates":["#.to_vec();
        let mut published = self.topics.published(topic);
        let mut numbers = 0..=0;
        for number in first..first + u64::from(updates) {
            if number > first {
                body.push(b',');
            }
            body.extend_from_slice(format!(r#"{{"kind":"{KIND}","payload":"#).as_bytes());
            let begin = body.len();
            let stamp = Stamp { due, lane: self.lane.load(Ordering::Relaxed), number };
            stamp.write(&mut body, self.payload_bytes);
            let submitted = published.submit(self.publishers[topic], &body[begin..]);
            numbers = if number == first { submitted..=submitted } else { *numbers.start()..=submitted };
            body.push(b'}');
        }
        body.extend_from_slice(b"]}");
        Due { topic, numbers, body: body.into(), key: format!("scenario-{first}") }
    }

    /// Publishes a batch, once. A second time stores nothing twice.
    async fn attempt(&self, client: &Client, due: &Due) -> Result<Attempt, Failure> {
        let Due { topic, numbers, body, key } = due;
        let path = format!("/v1/topics/{}/updates", self.topics.name(*topic));
        let Ok(answer) = client.post(&path, Some(key), body.clone()).await else {
            return Ok(Attempt::Unanswered);
        };
        if !answer.status.is_success() {
            return Ok(Attempt::Refused(answer));
        }
        let Receipt { epoch, first, last } =
            serde_json::from_slice(&answer.body).during("reading a receipt")?;
        let acknowledgement = Acknowledgement {
            epoch: &epoch,
            seqs: [first, last],
            numbers: [*numbers.start(), *numbers.end()],
        };
        self.topics.published(*topic).acknowledge(self.publishers[*topic], acknowledgement);
        Ok(Attempt::Acknowledged)
    }

    fn retry(&self, why: String) {
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_insert(0) += 1;
    }

    /// Publishes a batch until it is acknowledged.
    async fn publish(&self, client: &Client, due: &Due) -> Result<(), Failure> {
        loop {
            let (why, wait) = match self.attempt(client, due).await? {
                Attempt::Acknowledged => return Ok(()),
                Attempt::Refused(answer) => {
                    let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
                    ensure(again.contains(&answer.status), || answer.words())?;
                    let wait = answer.retry_after;
                    let wait =
                        wait.ok_or_else(|| Failure::new(format_args!("no Retry-After: {}", answer.words())))?;
                    (format!("{} {}", answer.status.as_u16(), answer.code().unwrap_or_default()), wait)
                }
                // The server is being stopped or killed.
                Attempt::Unanswered => ("no answer".to_owned(), RECONNECT_AFTER),
            };
            self.retry(why);
            sleep(wait).await;
        }
    }
}

/// How one try went.
enum Attempt {
    Acknowledged,
    Refused(Answer),
    Unanswered,
}

/// Publishes batch by batch, as it is told, and gives up when told no: what was refused is the next to be tried.
#[derive(Debug)]
pub(crate) struct ByHand {
    shared: Shared,
    client: Client,
    refused: Option<Due>,
    next_topic: usize,
}

impl ByHand {
    pub(crate) fn new(
        environment: &Environment,
        topics: &Arc<Topics>,
        payload_bytes: usize,
    ) -> Result<Self, Failure> {
        let shared = Shared::new(topics, payload_bytes);
        Ok(Self { shared, client: environment.http()?, refused: None, next_topic: 0 })
    }

    /// Tries a batch, once: the one that was refused last, or that many updates to the next topic in turn. Gives the
    /// answer if it was refused.
    pub(crate) async fn publish(&mut self, updates: u32) -> Result<Option<Answer>, Failure> {
        let due = self.refused.take().unwrap_or_else(|| {
            self.next_topic = (self.next_topic + 1) % self.shared.topics.count();
            self.shared.due(self.next_topic, updates, micros())
        });
        match self.shared.attempt(&self.client, &due).await? {
            Attempt::Acknowledged => Ok(None),
            Attempt::Refused(answer) => {
                self.refused = Some(due);
                Ok(Some(answer))
            }
            Attempt::Unanswered => Err(Failure::new("a publish was not answered")),
        }
    }
}

/// Publishes `count` updates to each topic, and waits until they are acknowledged.
pub(crate) async fn publish_to_each(
    environment: &Environment,
    topics: &Arc<Topics>,
    count: u64,
    payload_bytes: usize,
    lane: u8,
) -> Result<(), Failure> {
    let shared = Shared::new(topics, payload_bytes);
    shared.lane.store(lane, Ordering::Relaxed);
    let client = environment.http()?;
    for topic in 0..topics.count() {
        let mut left = count;
        while left > 0 {
            let updates = left.min(500) as u32;
            shared.publish(&client, &shared.due(topic, updates, micros())).await?;
            left -= u64::from(updates);
        }
    }
    Ok(())
}

impl Publisher {
    /// Begins now.
    pub(crate) fn start(
        environment: &Environment,
        topics: &Arc<Topics>,
        load: Load,
    ) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::new(topics, load.payload_bytes));
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut tasks = JoinSet::new();
        for _ in 0..load.connections.max(1) {
            tasks.spawn(send(Arc::clone(&shared), environment.http()?, Arc::clone(&receiver)));
        }
        tasks.spawn(keep_time(Arc::clone(&shared), load, sender));
        Ok(Self { shared, tasks })
    }

    /// What is due from now on belongs to that part of the run.
    pub(crate) fn set_lane(&self, lane: u8) {
        self.shared.lane.store(lane, Ordering::Relaxed);
    }

    /// Fails if a batch was refused for good.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.during("publishing")??;
        }
        Ok(())
    }

    /// Ends when everything that was due until now is acknowledged; gives what led to another try.
    pub(crate) async fn finish(mut self) -> Result<BTreeMap<String, u64>, Failure> {
        self.shared.ends.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.during("publishing")??;
            }
            Ok(())
        };
        timeout(FINISH_WITHIN, ended).await.during("waiting for the last acknowledgements")??;
        Ok(std::mem::take(&mut self.shared.retries.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Hands out each batch at its moment.
async fn keep_time(
    shared: Arc<Shared>,
    load: Load,
    sender: mpsc::UnboundedSender<Due>,
) -> Result<(), Failure> {
    let every = Duration::from_secs(1).mul_f64(f64::from(load.batch) / f64::from(load.rate.max(1)));
    let (started, started_at) = (Instant::now(), micros());
    for turn in 0_u32.. {
        let due = every.mul_f64(turn.into());
        sleep_until(started + due).await;
        if shared.ends.load(Ordering::Relaxed) {
            break;
        }
        // The moment that the rate says, however late this is.
        let stamp = started_at + due.as_micros() as u64;
        if sender.send(shared.due(turn as usize % shared.topics.count(), load.batch, stamp)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends what is due, one batch after the other.
async fn send(
    shared: Arc<Shared>,
    client: Client,
    receiver: Arc<Mutex<mpsc::UnboundedReceiver<Due>>>,
) -> Result<(), Failure> {
    loop {
        let due = receiver.lock().await.recv().await;
        let Some(due) = due else { return Ok(()) };
        shared.publish(&client, &due).await?;
    }
}
