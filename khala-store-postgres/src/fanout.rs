//! Fanout by LISTEN and NOTIFY.
//!
//! What is announced is gathered, newest head per topic, and told by one statement while the next gathers: however many appends a
//! commit had, it is at most one announcement. A connection of its own listens. It hears its own beat, or is given up and made
//! anew; meanwhile, and once after it was made, the heads of the topics that are watched here are read from the tables.
//!
//! # Invariants
//! Whatever was missed is found by that reading.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Cursor, Epoch, Error, ErrorKind, Topic, Watermark,
    clock::SystemClock,
    config::seconds,
    fanout::{Fanout, LocalFanout, Watch},
    health::{Condition, supervise},
    store::rows,
    telemetry,
};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    PostgresStore,
    database::Database,
    fault::{Fault, error},
    options::address,
    row::{StoredRow, column},
    sealed::{Mark, Marks, SEALED_BYTES, Seal, mark_in},
    sql::{self, query, rare},
};

/// Topics that may wait to be told of.
const PENDING: usize = 65_536;
/// Payloads that one statement tells.
const PAYLOADS_AT_ONCE: usize = 64;
/// Topics whose heads are read by one statement.
const TOPICS_AT_ONCE: usize = 1_000;
/// Notifications that are heard before the topics are looked at that they name.
const HEARD_AT_ONCE: usize = 256;
/// How long an announcement that failed waits to be tried again.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

/// What metrics call it.
const TRANSPORT: &str = "postgres";

/// How a node listens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct ListenOptions {
    /// The address to listen at, where the store's own is that of a pooler: LISTEN needs a connection that stays. Default:
    /// the store's.
    ///
    /// It may hold a password, so it is read from a settings file and never written to one.
    #[serde(skip_serializing)]
    pub url: Option<String>,
    /// How often the connection must hear its own beat, and how long one may take to be made; at least 10 ms. Default: 2 s.
    #[serde(rename = "beat_seconds", with = "seconds")]
    pub beat: Duration,
    /// How often, while nothing listens, that is tried again and the heads of watched topics are read; at least 10 ms. Default: 500 ms.
    #[serde(rename = "poll_seconds", with = "seconds")]
    pub poll: Duration,
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        let url = self.url.as_ref().map(|_| "…");
        let Self { beat, poll, .. } = self;
        f.debug_struct("ListenOptions").field("url", &url).field("beat", beat).field("poll", poll).finish()
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { url: None, beat: Duration::from_secs(2), poll: Duration::from_millis(500) }
    }
}

/// The fanout of the nodes that have one database.
///
/// It can begin before the database can be reached, and goes on when it is lost. Dropping it ends its tasks.
pub struct PostgresFanout {
    news: Arc<News>,
    listener: Listener,
    tasks: OnceLock<[JoinHandle<()>; 2]>,
}

impl fmt::Debug for PostgresFanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresFanout").field("listens", &self.listens()).finish_non_exhaustive()
    }
}

impl Drop for PostgresFanout {
    fn drop(&mut self) {
        self.tasks.get().into_iter().flatten().for_each(JoinHandle::abort);
    }
}

impl PostgresFanout {
    /// Begins to listen, on a connection of its own, and to announce by the connections of `store`, in tasks of the tokio
    /// runtime that this is called in.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the address cannot be used.
    pub fn listen(store: &PostgresStore, options: ListenOptions) -> Result<Self, Error> {
        Self::listen_for(store, options, LocalFanout::new())
    }

    /// Begins to listen on behalf of another fanout, whose levels are raised by what is heard here, as by what applications
    /// append in their own transactions. What that other one announces is its own affair.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_for(
        store: &PostgresStore,
        options: ListenOptions,
        levels: LocalFanout,
    ) -> Result<Self, Error> {
        let fanout = Self::new(Arc::clone(store.database()), store.seed(), options, levels)?;
        fanout.begin();
        Ok(fanout)
    }

    /// One that begins when it is first used.
    pub(crate) fn new(
        database: Arc<Database>,
        seed: &[u8; 16],
        options: ListenOptions,
        levels: LocalFanout,
    ) -> Result<Self, Error> {
        let connect = match &options.url {
            Some(url) => address(url, "khala listen")?,
            None => database.connect_options().application_name("khala listen"),
        };
        let least = Duration::from_millis(10);
        let options =
            ListenOptions { beat: options.beat.max(least), poll: options.poll.max(least), ..options };
        let channel = database.options.schema.as_str().to_owned();
        let news = Arc::new(News::new(database, levels, seed));
        let listener = Listener { news: Arc::clone(&news), connect, channel, options };
        Ok(Self { news, listener, tasks: OnceLock::new() })
    }

    fn begin(&self) {
        self.tasks.get_or_init(|| {
            let (news, listener) = (Arc::clone(&self.news), self.listener.clone());
            let announcer = keep(Arc::clone(&self.news), "announcer", move || Arc::clone(&news).tell());
            let listener = keep(Arc::clone(&self.news), "listener", move || listener.clone().hear());
            [tokio::spawn(announcer), tokio::spawn(listener)]
        });
    }

    /// Whether the connection that listens is known to hear. While it is not, heads are read from the tables.
    pub fn listens(&self) -> bool {
        self.news.listens.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Fanout for PostgresFanout {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        self.begin();
        self.news.local.raise(topic, head);
        self.news.add(|pending| pending.raise(topic, head))
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        self.begin();
        Ok(self.news.local.observe(topic))
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        self.begin();
        self.news.local.raise_revoked(newest);
        self.news.add(|pending| pending.revoked = pending.revoked.max(Some(newest)))
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        self.begin();
        Ok(self.news.local.observe_revoked())
    }
}

/// Runs a task of the fanout for ever. Without it, what is new is found by polling.
async fn keep<Fut: Future<Output = ()>>(news: Arc<News>, name: &'static str, task: impl FnMut() -> Fut) {
    let part = news.database.options.health.part(name);
    supervise(&part, &SystemClock::new(), Condition::Degraded, task).await;
}

/// What is to be told, and whom this node tells.
struct News {
    database: Arc<Database>,
    local: LocalFanout,
    seal: Seal,
    marks: Mutex<Marks>,
    pending: Mutex<Pending>,
    came: Notify,
    /// Whether the last announcement went out.
    tells: AtomicBool,
    listens: AtomicBool,
}

/// What was announced and is not told yet.
#[derive(Default)]
struct Pending {
    heads: HashMap<Topic, Cursor>,
    revoked: Option<Watermark>,
}

impl Pending {
    fn raise(&mut self, topic: &Topic, head: Cursor) {
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

impl News {
    fn new(database: Arc<Database>, local: LocalFanout, seed: &[u8; 16]) -> Self {
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
    fn add(&self, word: impl FnOnce(&mut Pending)) -> Result<(), Error> {
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

    fn set_listens(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
        telemetry::fanout_connected(TRANSPORT, listens);
    }

    /// Says that this node hears what is announced, for as long as what it returns is kept.
    fn hears(&self) -> impl Drop {
        self.set_listens(true);
        Hearing(self)
    }

    /// Tells what is pending, for ever.
    async fn tell(self: Arc<Self>) {
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

    async fn tell_all(&self, channel: &str, payloads: &[String]) -> Result<(), Fault> {
        for payloads in payloads.chunks(PAYLOADS_AT_ONCE) {
            self.database.tell(channel, payloads).await?;
        }
        Ok(())
    }

    /// Raises the heads that a payload announces. A mark, which says that a topic has moved but not where to, is added to `moved`.
    /// Lines that this version does not know are from a later version, and are skipped.
    fn heard(&self, payload: &str, moved: &mut BTreeSet<Mark>) {
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
    async fn look_up(&self, marks: BTreeSet<Mark>) -> Result<Option<Instant>, Fault> {
        let (topics, due) = {
            let mut known = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            (known.topics(marks, &self.local, Instant::now()), known.due())
        };
        self.look_at(&topics).await?;
        Ok(due)
    }

    /// Reads where the topics that are watched here stand, and how far the revocations go.
    async fn survey(&self) -> Result<(), Fault> {
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
struct Hearing<'n>(&'n News);

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.set_listens(false);
    }
}

/// What listens.
#[derive(Clone)]
struct Listener {
    news: Arc<News>,
    connect: PgConnectOptions,
    channel: String,
    options: ListenOptions,
}

impl Listener {
    /// Listens, for ever.
    async fn hear(self) {
        let mut lost_at = None;
        let mut reconnects = false;
        self.news.set_listens(false);
        loop {
            let attempt = Instant::now();
            let fault = match timeout(self.options.beat, self.begin()).await.unwrap_or(Err(Fault::TimedOut)) {
                Ok((listener, beats)) => {
                    if reconnects {
                        telemetry::fanout_reconnected(TRANSPORT);
                    }
                    reconnects = true;
                    match lost_at {
                        Some(lost_at) => {
                            tracing::info!(after = ?attempt.duration_since(lost_at), "listens again")
                        }
                        None => tracing::info!("listens"),
                    }
                    lost_at = None;
                    self.follow(listener, &beats).await
                }
                Err(fault) => fault,
            };
            if lost_at.is_none() {
                let error = Error::from(fault);
                tracing::warn!(%error, "does not listen; what is new is found by polling until it does");
                lost_at = Some(Instant::now());
            }
            // Whatever comes of it: the sessions poll by themselves, too.
            if let Err(fault) = self.news.survey().await {
                tracing::debug!(error = %Error::from(fault), "the heads of watched topics were not read");
            }
            sleep_until(attempt + self.options.poll).await;
        }
    }

    /// A connection that listens, and on which channel it hears its own beat.
    async fn begin(&self) -> Result<(PgListener, String), Fault> {
        let pool: PgPool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.beat)
            .connect_lazy_with(self.connect.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).expect("the operating system gives randomness");
        let beats = format!("{} beat {:016x}", self.channel, u64::from_be_bytes(bits));
        listener.listen_all([self.channel.as_str(), &beats]).await?;
        Ok((listener, beats))
    }

    /// Hears until nothing is heard any more, and says why.
    async fn follow(&self, mut listener: PgListener, beats: &str) -> Fault {
        let gone = || Fault::from(error(ErrorKind::Unavailable, "the connection that listens was lost"));
        // After it listens: what was announced before is in the tables.
        if let Err(fault) = self.news.survey().await {
            return fault;
        }
        let _hearing = self.news.hears();
        let mut due = Instant::now();
        let mut awaited = false;
        let (mut moved, mut heard_since, mut look_up_at) = (BTreeSet::new(), 0, None);
        loop {
            tokio::select! {
                biased;
                heard = listener.try_recv(), if heard_since < HEARD_AT_ONCE => match heard {
                    Ok(Some(heard)) if heard.channel() == beats => awaited = false,
                    Ok(Some(heard)) => {
                        self.news.heard(heard.payload(), &mut moved);
                        heard_since += usize::from(!moved.is_empty());
                    }
                    Ok(None) => return gone(),
                    Err(fault) => return fault.into(),
                },
                // Once nothing more has come, or much has.
                () = std::future::ready(()), if !moved.is_empty() => {
                    heard_since = 0;
                    match self.news.look_up(std::mem::take(&mut moved)).await {
                        Ok(due) => look_up_at = due,
                        Err(fault) => return fault,
                    }
                }
                () = sleep_until(look_up_at.unwrap_or(due)), if look_up_at.is_some() => {
                    match self.news.look_up(BTreeSet::new()).await {
                        Ok(due) => look_up_at = due,
                        Err(fault) => return fault,
                    }
                }
                () = sleep_until(due) => {
                    if awaited {
                        let why = "the connection that listens did not hear its own beat; if its address is that of a \
                                   pooler in transaction mode, give LISTEN one of its own";
                        return error(ErrorKind::Unavailable, why).into();
                    }
                    // By another connection: through a pooler, the one that listens may hear itself and nobody else.
                    let beat = [String::new()];
                    let told = timeout(self.options.beat, self.news.database.tell(beats, &beat)).await;
                    awaited = told.is_ok_and(|told| told.is_ok());
                    if !awaited {
                        match timeout(self.options.beat, rare(sql::PING).execute(&mut listener)).await {
                            Ok(Ok(_)) => {}
                            Ok(Err(fault)) => return fault.into(),
                            Err(_) => return Fault::TimedOut,
                        }
                    }
                    due = Instant::now() + self.options.beat;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Wake, Waker};

    use khala_testing::Cluster;

    use super::*;

    /// A subscriber that is woken here runs on the listener's task.
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }

    #[tokio::test]
    async fn a_listener_that_panics_no_longer_says_that_it_hears() {
        let store = PostgresStore::open(&Cluster::shared().database()).await.unwrap();
        let database = Arc::clone(store.database());
        let connect = database.connect_options().application_name("khala listen");
        let channel = database.options.schema.as_str().to_owned();
        let news = Arc::new(News::new(database, LocalFanout::new(), store.seed()));
        let listener =
            Listener { news: Arc::clone(&news), connect, channel, options: ListenOptions::default() };
        let task = tokio::spawn(listener.hear());
        let heard = async {
            while !news.listens.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(30), heard).await.expect("it listens");
        let mut watch = news.local.observe_revoked();
        let mut moved = std::pin::pin!(watch.moved());
        let waker = Waker::from(Arc::new(Panics));
        assert_eq!(moved.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        let channel = news.database.options.schema.as_str();
        news.tell_all(channel, &[news.seal.seal("r 1")]).await.unwrap();
        let ended = timeout(Duration::from_secs(30), task).await.expect("it panics");
        assert!(ended.unwrap_err().is_panic());
        assert!(!news.listens.load(Ordering::Relaxed));
    }

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
