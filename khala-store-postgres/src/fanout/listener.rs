//! The connection that listens: it hears what is announced and its own beat, and is made anew when it no longer hears that.
//!
//! # Invariants
//! Whenever a connection was made, and while there is none, the heads of watched topics are read from the tables.

use std::{collections::BTreeSet, sync::Arc};

use khala_core::{Error, ErrorKind, telemetry};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::{Instant, sleep_until, timeout};

use super::announcements::{Announcements, TRANSPORT};
use crate::{
    fault::{Fault, error},
    options::ListenOptions,
    sql::{self, rare},
};

/// Notifications that are heard before the topics are looked at that they name.
const HEARD_AT_ONCE: usize = 256;

/// Keeps a connection that listens.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) announcements: Arc<Announcements>,
    pub(super) connect: PgConnectOptions,
    pub(super) channel: String,
    pub(super) options: ListenOptions,
}

impl Listener {
    /// Listens, for ever.
    pub(super) async fn hear(self) {
        let mut lost_at = None;
        let mut reconnects = false;
        self.announcements.set_listens(false);
        loop {
            let attempt = Instant::now();
            let fault =
                match timeout(self.options.heartbeat, self.begin()).await.unwrap_or(Err(Fault::TimedOut)) {
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
            if let Err(fault) = self.announcements.survey().await {
                tracing::debug!(error = %Error::from(fault), "the heads of watched topics were not read");
            }
            sleep_until(attempt + self.options.poll_interval).await;
        }
    }

    /// A connection that listens, and on which channel it hears its own beat.
    async fn begin(&self) -> Result<(PgListener, String), Fault> {
        let pool: PgPool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.heartbeat)
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
        if let Err(fault) = self.announcements.survey().await {
            return fault;
        }
        let _hearing = self.announcements.hears();
        let mut due = Instant::now();
        let mut awaited = false;
        let (mut moved, mut heard_since, mut look_up_at) = (BTreeSet::new(), 0, None);
        loop {
            tokio::select! {
                biased;
                heard = listener.try_recv(), if heard_since < HEARD_AT_ONCE => match heard {
                    Ok(Some(heard)) if heard.channel() == beats => awaited = false,
                    Ok(Some(heard)) => {
                        self.announcements.heard(heard.payload(), &mut moved);
                        heard_since += usize::from(!moved.is_empty());
                    }
                    Ok(None) => return gone(),
                    Err(fault) => return fault.into(),
                },
                // Once nothing more has come, or much has.
                () = std::future::ready(()), if !moved.is_empty() => {
                    heard_since = 0;
                    match self.announcements.look_up(std::mem::take(&mut moved)).await {
                        Ok(due) => look_up_at = due,
                        Err(fault) => return fault,
                    }
                }
                () = sleep_until(look_up_at.unwrap_or(due)), if look_up_at.is_some() => {
                    match self.announcements.look_up(BTreeSet::new()).await {
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
                    let told = timeout(self.options.heartbeat, self.announcements.database.tell(beats, &beat)).await;
                    awaited = told.is_ok_and(|told| told.is_ok());
                    if !awaited {
                        match timeout(self.options.heartbeat, rare(sql::PING).execute(&mut listener)).await {
                            Ok(Ok(_)) => {}
                            Ok(Err(fault)) => return fault.into(),
                            Err(_) => return Fault::TimedOut,
                        }
                    }
                    due = Instant::now() + self.options.heartbeat;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::Ordering,
        task::{Context, Poll, Wake, Waker},
        time::Duration,
    };

    use khala_core::fanout::LocalFanout;
    use khala_testing::Cluster;
    use tokio::time::sleep;

    use super::*;
    use crate::PostgresStore;

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
        let announcements = Arc::new(Announcements::new(database, LocalFanout::new(), store.seed()));
        let listener = Listener {
            announcements: Arc::clone(&announcements),
            connect,
            channel,
            options: ListenOptions::default(),
        };
        let task = tokio::spawn(listener.hear());
        let heard = async {
            while !announcements.listens.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(30), heard).await.expect("it listens");
        let mut watch = announcements.local.observe_revoked();
        let mut moved = std::pin::pin!(watch.moved());
        let waker = Waker::from(Arc::new(Panics));
        assert_eq!(moved.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        let channel = announcements.database.options.schema.as_str();
        announcements.tell_all(channel, &[announcements.seal.seal("r 1")]).await.unwrap();
        let ended = timeout(Duration::from_secs(30), task).await.expect("it panics");
        assert!(ended.unwrap_err().is_panic());
        assert!(!announcements.listens.load(Ordering::Relaxed));
    }
}
