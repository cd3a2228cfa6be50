//! Fanout by LISTEN and NOTIFY.
//!
//! What is announced is gathered, newest head per topic, and told by one statement while the next gathers: however many appends a
//! commit had, it is at most one announcement. A connection of its own listens. It hears its own beat, or is given up and made
//! anew; meanwhile, and once after it was made, the heads of the topics that are watched here are read from the tables.
//!
//! # Invariants
//! Whatever was missed is found by that reading.

mod announcements;
mod listener;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use khala_core::{
    Cursor, Error, Topic, Watermark,
    clock::SystemClock,
    fanout::{Fanout, LocalFanout, Watch},
    health::{Condition, supervise},
};
use tokio::task::JoinHandle;

use self::{announcements::Announcements, listener::Listener};
use crate::{PostgresStore, database::Database, options::ListenOptions};

/// The fanout of the nodes that have one database.
///
/// It can begin before the database can be reached, and goes on when it is lost. Dropping it ends its tasks.
pub struct PostgresFanout {
    announcements: Arc<Announcements>,
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
    /// [`ErrorKind::Invalid`](khala_core::ErrorKind::Invalid) where the address cannot be used.
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
            Some(url) => database.options.connect(url, "khala listen")?,
            None => database.connect_options().application_name("khala listen"),
        };
        let least = Duration::from_millis(10);
        let options = ListenOptions {
            heartbeat: options.heartbeat.max(least),
            poll_interval: options.poll_interval.max(least),
            ..options
        };
        let channel = database.options.schema.as_str().to_owned();
        let announcements = Arc::new(Announcements::new(database, levels, seed));
        let listener = Listener { announcements: Arc::clone(&announcements), connect, channel, options };
        Ok(Self { announcements, listener, tasks: OnceLock::new() })
    }

    fn begin(&self) {
        self.tasks.get_or_init(|| {
            let (announcements, listener) = (Arc::clone(&self.announcements), self.listener.clone());
            let announcer =
                keep(Arc::clone(&self.announcements), "announcer", move || Arc::clone(&announcements).tell());
            let listener = keep(Arc::clone(&self.announcements), "listener", move || listener.clone().hear());
            [tokio::spawn(announcer), tokio::spawn(listener)]
        });
    }

    /// Whether the connection that listens is known to hear. While it is not, heads are read from the tables.
    pub fn listens(&self) -> bool {
        self.announcements.listens.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Fanout for PostgresFanout {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        self.begin();
        self.announcements.local.raise(topic, head);
        self.announcements.add(|pending| pending.raise(topic, head))
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        self.begin();
        Ok(self.announcements.local.observe(topic))
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        self.begin();
        self.announcements.local.raise_revoked(newest);
        self.announcements.add(|pending| pending.revoked = pending.revoked.max(Some(newest)))
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        self.begin();
        Ok(self.announcements.local.observe_revoked())
    }
}

/// Runs a task of the fanout for ever. Without it, what is new is found by polling.
async fn keep<Fut: Future<Output = ()>>(
    announcements: Arc<Announcements>,
    name: &'static str,
    task: impl FnMut() -> Fut,
) {
    let part = announcements.database.options.health.part(name);
    supervise(&part, &SystemClock::new(), Condition::Degraded, task).await;
}
