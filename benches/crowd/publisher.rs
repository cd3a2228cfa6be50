//! Updates at a fixed rate, whatever the server does: each is due at its moment, and says so.
//!
//! What is not acknowledged is sent again under the same name until it is; what was acknowledged is remembered.
//!
//! # Invariants
//! A batch is due when the rate says, not when the one before was answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::StatusCode;
use khala_testing::{During as _, Failure, ensure};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    http::{Answer, Client},
    moment::micros,
    site::Site,
    stamp::{KIND, Stamp},
};

/// How soon after a failed connection it is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
/// How long the last batches may take to be acknowledged at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(120);
/// How many `seq`s of a topic are asked for at once.
const PAGE: u64 = 200;

/// How much is published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Updates a second, over all topics.
    pub(super) rate: u32,
    /// Updates that are published together, to one topic.
    pub(super) batch: u32,
    pub(super) payload_bytes: usize,
    /// Requests under way at once, at most.
    pub(super) connections: usize,
}

/// One publish that was acknowledged: the updates from `number` on are the seqs from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) first: u64,
    pub(super) last: u64,
    number: u64,
}

/// What was acknowledged, by topic, and what it took.
#[derive(Clone, Debug)]
pub(super) struct Published {
    topics: Vec<String>,
    epochs: Vec<Option<String>>,
    acknowledged: Vec<Vec<Acknowledged>>,
    /// Answers and failures that led to another try, by what they were.
    pub(super) retries: BTreeMap<String, u64>,
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
    updates: u32,
    stamp: Stamp,
}

/// What publishing tasks share.
#[derive(Debug)]
struct Shared {
    topics: Vec<String>,
    payload_bytes: usize,
    /// Makes names of batches differ from those of another publisher of the run.
    name: u64,
    lane: AtomicU8,
    next_number: AtomicU64,
    ends: AtomicBool,
    published: StdMutex<Published>,
}

/// Publishes at a fixed rate in the background.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Published {
    fn new(topics: &[String]) -> Self {
        Self {
            topics: topics.to_vec(),
            epochs: vec![None; topics.len()],
            acknowledged: vec![Vec::new(); topics.len()],
            retries: BTreeMap::new(),
        }
    }

    /// The newest seq that was acknowledged, by topic; 0 where none was.
    pub(super) fn heads(&self) -> Vec<u64> {
        let head = |topic: &Vec<Acknowledged>| topic.iter().map(|receipt| receipt.last).max().unwrap_or(0);
        self.acknowledged.iter().map(head).collect()
    }

    /// How many updates were acknowledged.
    pub(super) fn updates(&self) -> u64 {
        self.acknowledged.iter().flatten().map(|receipt| receipt.last - receipt.first + 1).sum()
    }

    /// Takes in what another publisher of the same topics published.
    pub(super) fn extend(&mut self, other: Self) {
        for (own, other) in self.epochs.iter_mut().zip(other.epochs) {
            *own = own.take().or(other);
        }
        for (own, other) in self.acknowledged.iter_mut().zip(other.acknowledged) {
            own.extend(other);
        }
        for (what, times) in other.retries {
            *self.retries.entry(what).or_insert(0) += times;
        }
    }

    fn take(&mut self, due: &Due, receipt: Receipt) -> Result<(), Failure> {
        let Receipt { epoch, first, last } = receipt;
        ensure(last + 1 == first + u64::from(due.updates), || {
            format!("{} updates were acknowledged as {first} to {last}", due.updates)
        })?;
        let known = self.epochs[due.topic].get_or_insert_with(|| epoch.clone());
        ensure(*known == epoch, || {
            format!("the epoch {known} of {} became {epoch}", self.topics[due.topic])
        })?;
        self.acknowledged[due.topic].push(Acknowledged { first, last, number: due.stamp.number });
        Ok(())
    }

    /// Reads every topic over HTTP, from the oldest update that is kept, and fails unless everything that was acknowledged
    /// and not trimmed is there, under its seq. Says how many updates that were.
    pub(super) async fn check(&self, client: &mut Client) -> Result<u64, Failure> {
        let mut found = 0;
        for (topic, acknowledged) in self.topics.iter().zip(&self.acknowledged) {
            let (floor, history) = history(client, topic).await?;
            let mut seqs = BTreeMap::new();
            for receipt in acknowledged {
                for seq in receipt.first..=receipt.last {
                    let number = receipt.number + (seq - receipt.first);
                    let other = seqs.insert(seq, number);
                    ensure(other.is_none(), || format!("the seq {seq} of {topic} was acknowledged twice"))?;
                }
            }
            for (seq, number) in seqs.range(floor + 1..) {
                let kept = history.get(seq);
                ensure(kept == Some(number), || {
                    format!("update {number} was acknowledged as {seq} of {topic}; found there: {kept:?}")
                })?;
                found += 1;
            }
        }
        Ok(found)
    }
}

/// The floor of a topic, and the numbers of its updates by their seqs.
async fn history(client: &mut Client, topic: &str) -> Result<(u64, BTreeMap<u64, u64>), Failure> {
    #[derive(Deserialize)]
    struct Update<'a> {
        seq: u64,
        #[serde(borrow)]
        payload: &'a serde_json::value::RawValue,
    }
    #[derive(Deserialize)]
    struct Page<'a> {
        epoch: String,
        after: u64,
        floor: u64,
        replay_complete: bool,
        #[serde(borrow)]
        updates: Vec<Update<'a>>,
    }
    let mut history = BTreeMap::new();
    let mut floor = 0;
    let mut cursor: Option<(String, u64)> = None;
    loop {
        let after = cursor.as_ref().map(|(epoch, after)| format!("&after={after}&epoch={epoch}"));
        let path = format!("/v1/topics/{topic}/updates?limit={PAGE}{}", after.unwrap_or_default());
        let answer = client.get(&path).await?;
        if answer.status == StatusCode::GONE {
            // Trimmed between two pages: once more, from where it begins now.
            (cursor, history) = (None, BTreeMap::new());
            continue;
        }
        let body = answer.success()?;
        let page: Page<'_> = serde_json::from_slice(&body).during("reading a page of history")?;
        floor = page.floor.max(floor);
        let mut last = page.after;
        for Update { seq, payload } in page.updates {
            ensure(seq == last + 1, || format!("a hole in the history of {topic}: {seq} follows {last}"))?;
            let stamp = Stamp::read(payload.get().as_bytes()).ok_or_else(|| {
                Failure::new(format_args!("update {seq} of {topic} is not as it was published"))
            })?;
            history.insert(seq, stamp.number);
            last = seq;
        }
        if page.replay_complete {
            return Ok((floor, history));
        }
        cursor = Some((page.epoch, last));
    }
}

impl Shared {
    fn new(topics: &[String], payload_bytes: usize) -> Self {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = NAMES.fetch_add(1, Ordering::Relaxed);
        Self {
            topics: topics.to_vec(),
            payload_bytes,
            name,
            lane: AtomicU8::new(0),
            // Numbers of one run differ, whichever publisher gave them.
            next_number: AtomicU64::new(name * 100_000_000),
            ends: AtomicBool::new(false),
            published: StdMutex::new(Published::new(topics)),
        }
    }

    fn published(&self) -> std::sync::MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, topic: usize, updates: u32, due: u64) -> Due {
        let number = self.next_number.fetch_add(updates.into(), Ordering::Relaxed);
        Due { topic, updates, stamp: Stamp { due, lane: self.lane.load(Ordering::Relaxed), number } }
    }

    /// The body and the name of a batch.
    fn request(&self, due: &Due) -> (Bytes, String) {
        let mut body = br#"{"updates":["#.to_vec();
        for offset in 0..u64::from(due.updates) {
            if offset > 0 {
                body.push(b',');
            }
            body.extend_from_slice(format!(r#"{{"kind":"{KIND}","payload":"#).as_bytes());
            let stamp = Stamp { number: due.stamp.number + offset, ..due.stamp };
            stamp.write(&mut body, self.payload_bytes);
            body.push(b'}');
        }
        body.extend_from_slice(b"]}");
        (body.into(), format!("crowd-{}-{}", self.name, due.stamp.number))
    }

    /// Publishes a batch, once. A second time stores nothing twice.
    async fn attempt(&self, client: &mut Client, due: &Due) -> Result<Attempt, Failure> {
        let (body, key) = self.request(due);
        let path = format!("/v1/topics/{}/updates", self.topics[due.topic]);
        let Ok(answer) = client.post(&path, Some(&key), body).await else { return Ok(Attempt::Unanswered) };
        if !answer.status.is_success() {
            return Ok(Attempt::Refused(answer));
        }
        let receipt = serde_json::from_slice(&answer.body).during("reading a receipt")?;
        self.published().take(due, receipt)?;
        Ok(Attempt::Acknowledged)
    }

    /// Publishes a batch until it is acknowledged.
    async fn publish(&self, client: &mut Client, due: &Due) -> Result<(), Failure> {
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
            *self.published().retries.entry(why).or_insert(0) += 1;
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
pub(super) struct ByHand {
    shared: Shared,
    client: Client,
    refused: Option<Due>,
    next_topic: usize,
}

impl ByHand {
    pub(super) fn new(site: &Site, topics: &[String], payload_bytes: usize) -> Result<Self, Failure> {
        let shared = Shared::new(topics, payload_bytes);
        Ok(Self { shared, client: site.http()?, refused: None, next_topic: 0 })
    }

    /// Tries a batch, once: the one that was refused last, or that many updates to the next topic in turn. Gives the
    /// answer if it was refused.
    pub(super) async fn publish(&mut self, updates: u32) -> Result<Option<Answer>, Failure> {
        let due = self.refused.take().unwrap_or_else(|| {
            self.next_topic = (self.next_topic + 1) % self.shared.topics.len();
            self.shared.due(self.next_topic, updates, micros())
        });
        match self.shared.attempt(&mut self.client, &due).await? {
            Attempt::Acknowledged => Ok(None),
            Attempt::Refused(answer) => {
                self.refused = Some(due);
                Ok(Some(answer))
            }
            Attempt::Unanswered => Err(Failure::new("a publish was not answered")),
        }
    }

    /// Runs `with` what was acknowledged so far.
    pub(super) fn published(&self) -> std::sync::MutexGuard<'_, Published> {
        self.shared.published()
    }
}

/// Publishes `count` updates to each topic, and waits until they are acknowledged.
pub(super) async fn publish_to_each(
    site: &Site,
    topics: &[String],
    count: u64,
    payload_bytes: usize,
    lane: u8,
) -> Result<Published, Failure> {
    let shared = Shared::new(topics, payload_bytes);
    shared.lane.store(lane, Ordering::Relaxed);
    let mut client = site.http()?;
    for topic in 0..topics.len() {
        let mut left = count;
        while left > 0 {
            let updates = left.min(500) as u32;
            shared.publish(&mut client, &shared.due(topic, updates, micros())).await?;
            left -= u64::from(updates);
        }
    }
    Ok(shared.published.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Publisher {
    /// Begins now.
    pub(super) fn start(site: &Site, topics: &[String], load: Load) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::new(topics, load.payload_bytes));
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut tasks = JoinSet::new();
        for _ in 0..load.connections.max(1) {
            tasks.spawn(send(Arc::clone(&shared), site.http()?, Arc::clone(&receiver)));
        }
        tasks.spawn(keep_time(Arc::clone(&shared), load, sender));
        Ok(Self { shared, tasks })
    }

    /// What is due from now on belongs to that part of the run.
    pub(super) fn set_lane(&self, lane: u8) {
        self.shared.lane.store(lane, Ordering::Relaxed);
    }

    /// The newest seq that was acknowledged so far, by topic.
    pub(super) fn heads(&self) -> Vec<u64> {
        self.shared.published().heads()
    }

    /// How many updates were acknowledged so far.
    pub(super) fn updates(&self) -> u64 {
        self.shared.published().updates()
    }

    /// Fails if a batch was refused for good.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.during("publishing")??;
        }
        Ok(())
    }

    /// Ends when everything that was due until now is acknowledged.
    pub(super) async fn finish(mut self) -> Result<Published, Failure> {
        self.shared.ends.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.during("publishing")??;
            }
            Ok(())
        };
        timeout(FINISH_WITHIN, ended).await.during("waiting for the last acknowledgements")??;
        let mut published = self.shared.published();
        let topics = published.topics.clone();
        Ok(std::mem::replace(&mut published, Published::new(&topics)))
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
        // The moment that the rate says, however late this is.
        let stamp = started_at + due.as_micros() as u64;
        let batch = shared.due(turn as usize % shared.topics.len(), load.batch, stamp);
        if shared.ends.load(Ordering::Relaxed) || sender.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends what is due, one batch after the other.
async fn send(
    shared: Arc<Shared>,
    mut client: Client,
    receiver: Arc<Mutex<mpsc::UnboundedReceiver<Due>>>,
) -> Result<(), Failure> {
    loop {
        let due = receiver.lock().await.recv().await;
        let Some(due) = due else { return Ok(()) };
        shared.publish(&mut client, &due).await?;
    }
}
