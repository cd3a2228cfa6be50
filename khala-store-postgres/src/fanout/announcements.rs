//! What waits to be announced, and what announcements of other nodes lead to.
//!
//! # Invariants
//! An announcement that could not be sent waits, unless a newer one came: no head is announced after a newer one of its topic.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use khala_core::{
    Cursor, Epoch, Error, ErrorKind, Topic, Watermark, fanout::LocalFanout, store::rows, telemetry,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    database::Database,
    fault::{Fault, error},
    row::{StoredRow, column},
    sealed::{Mark, Marks, SEALED_BYTES, Seal, mark_in},
    sql::query,
};

/// Topics that may wait to be announced.
const PENDING: usize = 65_536;
/// Payloads that one statement tells.
const PAYLOADS_AT_ONCE: usize = 64;
/// Topics whose heads are read by one statement.
const TOPICS_AT_ONCE: usize = 1_000;
/// How long an announcement that failed waits to be tried again.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

/// What metrics call it.
pub(super) const TRANSPORT: &str = "postgres";

/// What this node announces, and the levels that it raises by what others announce.
pub(super) struct Announcements {
    pub(super) database: Arc<Database>,
    pub(super) local: LocalFanout,
    pub(super) seal: Seal,
    marks: Mutex<Marks>,
    pending: Mutex<Pending>,
    came: Notify,
    /// Whether the last announcement went out.
    pub(super) tells: AtomicBool,
    pub(super) listens: AtomicBool,
}

/// What was announced and is not told yet.
#[derive(Default)]
pub(super) struct Pending {
    heads: HashMap<Topic, Cursor>,
    pub(super) revoked: Option<Watermark>,
}

impl Pending {
    pub(super) fn raise(&mut self, topic: &Topic, head: Cursor) {
        let room = self.heads.len() < PENDING;
        match self.heads.get_mut(topic) {
            Some(known) if head.is_news_to(*known) => *known = head,
            Some(_) => {}
            None if room => {
                self.heads.insert(topic.clone(), head);
            }
            // Delivery completes by polling.
            None => {}
        }
    }

    /// Takes back what could not be told, where nothing newer came.
    fn take_back(&mut self, told: Self) {
        // As if it had been announced first.
        for (topic, head) in std::mem::replace(&mut self.heads, told.heads) {
            self.raise(&topic, head);
        }
        self.revoked = self.revoked.max(told.revoked);
    }

    /// What tells it, before it is sealed: a line each, as many lines to a payload as PostgreSQL takes.
    fn payloads(&self) -> Vec<String> {
        let heads = self.heads.iter().map(|(topic, head)| moved(topic, *head));
        let mut payloads: Vec<String> = Vec::new();
        for line in heads.chain(self.revoked.map(|newest| format!("r {newest}"))) {
            match payloads.last_mut() {
                Some(last) if last.len() + 1 + line.len() <= SEALED_BYTES => {
                    last.push('\n');
                    last.push_str(&line);
                }
                _ => payloads.push(line),
            }
        }
        payloads
    }
}

/// The line that tells that a head has moved.
fn moved(topic: &Topic, head: Cursor) -> String {
    format!("u {topic} {} {}", head.epoch, head.watermark)
}

impl Announcements {
    pub(super) fn new(database: Arc<Database>, local: LocalFanout, seed: &[u8; 16]) -> Self {
        Self {
            database,
            local,
            seal: Seal::new(seed),
            marks: Mutex::new(Marks::new(*seed)),
            pending: Mutex::default(),
            came: Notify::new(),
            tells: AtomicBool::new(true),
            listens: AtomicBool::new(false),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves word, which goes out as soon as it can.
    pub(super) fn add(&self, word: impl FnOnce(&mut Pending)) -> Result<(), Error> {
        word(&mut self.pending());
        self.came.notify_one();
        if self.tells.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(error(
            ErrorKind::Unavailable,
            "announcements do not go out now; they will when the database can be reached",
        ))
    }

    pub(super) fn set_listens(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
        telemetry::fanout_connected(TRANSPORT, listens);
    }

    /// Says that this node hears what is announced, for as long as what it returns is kept.
    pub(super) fn hears(&self) -> impl Drop {
        self.set_listens(true);
        Hearing(self)
    }

    /// Tells what is pending, for ever.
    pub(super) async fn tell(self: Arc<Self>) {
        loop {
            self.came.notified().await;
            let told = std::mem::take(&mut *self.pending());
            let payloads: Vec<String> = told.payloads().iter().map(|text| self.seal.seal(text)).collect();
            if payloads.is_empty() {
                continue;
            }
            let channel = self.database.options.schema.as_str();
            match self.tell_all(channel, &payloads).await {
                Ok(()) => self.tells.store(true, Ordering::Relaxed),
                Err(fault) => {
                    if self.tells.swap(false, Ordering::Relaxed) {
                        let error = Error::from(fault);
                        tracing::warn!(%error, "announcements do not go out; other nodes find what is new by polling");
                    }
                    self.pending().take_back(told);
                    sleep(ANNOUNCE_AGAIN).await;
                    self.came.notify_one();
                }
            }
        }
    }

    pub(super) async fn tell_all(&self, channel: &str, payloads: &[String]) -> Result<(), Fault> {
        for payloads in payloads.chunks(PAYLOADS_AT_ONCE) {
            self.database.tell(channel, payloads).await?;
        }
        Ok(())
    }

    /// Raises the heads that a payload announces. A mark, which says that a topic has moved but not where to, is added to `moved`.
    /// Lines that this version does not know are from a later version, and are skipped.
    pub(super) fn heard(&self, payload: &str, moved: &mut BTreeSet<Mark>) {
        if let Some(mark) = mark_in(payload) {
            moved.insert(mark);
            return;
        }
        let Some(text) = self.seal.open(payload) else { return telemetry::fanout_foreign(TRANSPORT) };
        for line in text.lines() {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("u"), Some(topic), Some(epoch), Some(head)) => {
                    let head = head.parse().ok().and_then(Watermark::new);
                    if let (Ok(topic), Ok(epoch), Some(head)) =
                        (Topic::parse(topic), epoch.parse::<Epoch>(), head)
                    {
                        self.local.raise(&topic, Cursor::new(epoch, head));
                    }
                }
                (Some("r"), Some(newest), None, None) => {
                    if let Some(newest) = newest.parse().ok().and_then(Watermark::new) {
                        self.local.raise_revoked(newest);
                    }
                }
                _ => {}
            }
        }
    }

    /// Reads the heads of these topics. A topic with a corrupt row is skipped; its readers get the error.
    async fn look_at(&self, topics: &[Topic]) -> Result<(), Fault> {
        let sql = &self.database.sql;
        for topics in topics.chunks(TOPICS_AT_ONCE) {
            let names: Vec<String> = topics.iter().map(|topic| topic.as_str().to_owned()).collect();
            for found in self.database.rows(|| query(&sql.heads).bind(&names)).await? {
                match rows::topic_with_bounds(&StoredRow(&found)) {
                    Ok((topic, bounds)) => self.local.raise(&topic, bounds.at_head()),
                    Err(fault) => {
                        let name: &str = column(&found, 0)?;
                        rows::passed_over(&format!("topic '{name}' of khala.topic"), fault);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads where those of the topics with these marks stand that are watched here. Returns when that is to be called again,
    /// because marks wait to be looked up.
    pub(super) async fn look_up(&self, marks: BTreeSet<Mark>) -> Result<Option<Instant>, Fault> {
        let (topics, due) = {
            let mut known = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            (known.topics(marks, &self.local, Instant::now()), known.due())
        };
        self.look_at(&topics).await?;
        Ok(due)
    }

    /// Reads where the topics that are watched here stand, and how far the revocations go.
    pub(super) async fn survey(&self) -> Result<(), Fault> {
        self.look_at(&self.local.watched()).await?;
        let sql = &self.database.sql;
        let rows = self.database.rows(|| query(&sql.last_revoked)).await?;
        match rows.first().map(|found| rows::watermark(&StoredRow(found), 0)) {
            Some(Ok(newest)) if newest > Watermark::ORIGIN => self.local.raise_revoked(newest),
            Some(Ok(_)) | None => {}
            Some(Err(fault)) => rows::passed_over("the row of khala.revocation_head", fault),
        }
        Ok(())
    }
}

/// While it is there, this node hears what is announced. A panic of the listener ends that too.
struct Hearing<'n>(&'n Announcements);

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.set_listens(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_is_not_lost_to_an_older_head() {
        let topic = Topic::parse("t").unwrap();
        let head = |at| Cursor::new(Epoch::from_bits(1), Watermark::new(at).unwrap());
        let (mut told, mut pending) = (Pending::default(), Pending::default());
        told.raise(&topic, head(5));
        pending.raise(&topic, head(3));
        pending.take_back(told);
        assert_eq!(pending.heads[&topic], head(5));
    }
}
