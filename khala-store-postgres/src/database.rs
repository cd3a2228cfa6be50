//! The connections, and how statements get to them.
//!
//! Readers and writers have pools of their own, so that neither can starve the other. What must stay true: a connection
//! that somebody stopped waiting for is closed and never used again; and what is tried a second time, after a connection
//! was lost, cannot have happened the first time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use khala_core::ErrorKind;
use sqlx::{
    Acquire as _, AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};
use tokio::time::{error::Elapsed, timeout};

use crate::{
    fault::{Fault, error, timed_out},
    options::{PostgresOptions, address},
    row::column,
    sql::{self, Sql, rare},
};

/// The oldest PostgreSQL that the statements are for.
const OLDEST_SERVER: i32 = 140_000;
/// A connection that rested for longer is asked whether it still is one before it is used.
const RESTED: Duration = Duration::from_secs(1);

/// For how long after one connection was lost the others are asked, too.
const DOUBT: Duration = Duration::from_secs(60);

/// How a transaction that writes begins: as strict as the store needs it, whatever the server's defaults.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// The same where the server's default is to answer before a commit is on stable storage (J18).
const BEGIN_AND_SYNC: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on";

/// What is done in one transaction: all of it or nothing, and perhaps more than once until it is committed.
pub(crate) trait Work: Send + Sync {
    /// What it gives.
    type Done: Send;

    /// Does it, in the transaction that is open on `conn`.
    fn run(
        &self,
        conn: &mut PgConnection,
        sql: &Sql,
    ) -> impl Future<Output = Result<Self::Done, Fault>> + Send;
}

/// The database, as the parts of the store use it.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) sql: Sql,
    pub(crate) options: PostgresOptions,
    readers: PgPool,
    writers: PgPool,
    lost: Lost,
    begin: &'static str,
    /// Whether a statement by itself is as strict, as durable and as free to write as a transaction of the store.
    alone: bool,
    /// How many questions of readers were asked.
    asked: AtomicU64,
}

impl Database {
    /// Connects, and finds out what kind of server it is.
    pub(crate) async fn connect(url: &str, options: PostgresOptions) -> Result<Self, Fault> {
        let mut connect = address(url, "khala")?;
        if options.pooler {
            connect = connect.statement_cache_capacity(0);
        }
        let (lost, pooler) = (Lost::default(), options.pooler);
        let pool = || {
            let lost = lost.clone();
            PgPoolOptions::new()
                .max_connections(options.connections.get())
                .acquire_timeout(options.connect_timeout)
                .test_before_acquire(false)
                .after_connect(move |conn, _| {
                    Box::pin(async move {
                        if !pooler {
                            sqlx::raw_sql(sql::PLAN_ONCE).execute(conn).await?;
                        }
                        Ok(())
                    })
                })
                .before_acquire(move |conn, meta| {
                    let doubtful = meta.idle_for > RESTED || lost.may_have_hit(meta.age);
                    Box::pin(
                        async move { if doubtful { conn.ping().await.map(|()| true) } else { Ok(true) } },
                    )
                })
                .connect_lazy_with(connect.clone())
        };
        let sql = Sql::new(options.schema.as_str(), !options.pooler);
        let mut database = Self {
            sql,
            readers: pool(),
            writers: pool(),
            lost: lost.clone(),
            begin: BEGIN,
            alone: false,
            asked: AtomicU64::new(0),
            options,
        };
        database.examine().await?;
        Ok(database)
    }

    async fn examine(&mut self) -> Result<(), Fault> {
        let rows = match self.rows(|| rare(sql::SERVER)).await {
            // A pool does not say why it has no connection.
            Err(Fault::Sqlx(sqlx::Error::PoolTimedOut)) => {
                self.own_connection().await?.close().await?;
                self.rows(|| rare(sql::SERVER)).await?
            }
            rows => rows?,
        };
        let row = rows.first().ok_or_else(|| Fault::corrupt("the server says nothing of itself"))?;
        let (version, encoding): (i32, &str) = (column(row, 0)?, column(row, 1)?);
        if version < OLDEST_SERVER {
            let found = version / 10_000;
            return Err(error(
                ErrorKind::Invalid,
                format!("PostgreSQL {found} is too old; 14 or newer is needed"),
            )
            .into());
        }
        if encoding != "UTF8" {
            let message = format!("the database's encoding is {encoding}; make one with ENCODING 'UTF8'");
            return Err(error(ErrorKind::Invalid, message).into());
        }
        let (synced, fsync): (&str, bool) = (column(row, 2)?, column(row, 3)?);
        let (isolation, read_only): (&str, bool) = (column(row, 4)?, column(row, 5)?);
        if synced == "off" {
            self.begin = BEGIN_AND_SYNC;
        }
        self.alone = synced != "off" && isolation == "read committed" && !read_only && !self.options.pooler;
        if !fsync {
            tracing::warn!("the server runs with fsync = off: a power loss may destroy the database");
        }
        Ok(())
    }

    /// The rows that one statement gives. After a connection was lost, it is asked once more: it changes nothing.
    pub(crate) async fn rows(
        &self,
        question: impl Fn() -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Fault> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.ask(&self.readers, question()).await {
            Err(fault) if fault.is_of_the_connection() => self.ask(&self.readers, question()).await,
            answer => answer,
        }
    }

    /// How many questions of readers were asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How many connections are in use, and how many rest.
    pub(crate) fn connections(&self) -> (u32, u32) {
        let (mut open, mut idle) = (0, 0);
        for pool in [&self.readers, &self.writers] {
            open += pool.size();
            idle += u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        }
        (open.saturating_sub(idle), idle)
    }

    /// Tells everybody who listens on `channel`.
    pub(crate) async fn tell(&self, channel: &str, payloads: &[String]) -> Result<(), Fault> {
        self.ask(&self.writers, rare(sql::NOTIFY).bind(channel).bind(payloads)).await?;
        Ok(())
    }

    /// How its connections are made.
    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        (*self.writers.connect_options()).clone()
    }

    async fn ask(
        &self,
        pool: &PgPool,
        question: Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Fault> {
        let mut conn = pool.acquire().await?;
        let pooler = self.options.pooler;
        let answer = timeout(self.options.statement_timeout, async {
            if !pooler {
                return question.fetch_all(&mut *conn).await;
            }
            let mut transaction = conn.begin().await?;
            let rows = question.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(rows)
        });
        let answer = answer.await;
        self.settle(conn, answer)
    }

    /// Runs `work` in one transaction, and commits it or undoes all of it. After a connection was lost before the commit,
    /// it is run once more.
    pub(crate) async fn transaction<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        match self.attempt(&work, false).await {
            Err((fault, false)) if fault.is_of_the_connection() => self.attempt(&work, false).await,
            answer => answer,
        }
        .map_err(|(fault, _)| fault)
    }

    /// Runs work that is one statement, which is a transaction by itself where the server's defaults allow that.
    pub(crate) async fn alone<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        self.attempt(&work, self.alone).await.map_err(|(fault, _)| fault)
    }

    /// The fault, and whether it may have been committed all the same.
    async fn attempt<W: Work>(&self, work: &W, alone: bool) -> Result<W::Done, (Fault, bool)> {
        let mut conn = self.writers.acquire().await.map_err(|fault| (fault.into(), false))?;
        let mut committing = false;
        let answer = timeout(self.options.statement_timeout, async {
            if alone {
                committing = true;
                return work.run(&mut conn, &self.sql).await;
            }
            let mut transaction = conn.begin_with(self.begin).await?;
            match work.run(&mut transaction, &self.sql).await {
                Ok(done) => {
                    committing = true;
                    transaction.commit().await?;
                    Ok(done)
                }
                Err(fault) => {
                    // Whatever it says: a connection that cannot roll back is closed, and that rolls back.
                    let _ = transaction.rollback().await;
                    Err(fault)
                }
            }
        });
        let answer = answer.await;
        self.settle(conn, answer).map_err(|fault| (fault, committing))
    }

    /// Waits at most that long for locks, in the transaction that is open on `conn`.
    pub(crate) async fn bound_locks(conn: &mut PgConnection, most: Duration) -> Result<(), Fault> {
        let most = format!("{}ms", most.as_millis().max(1));
        rare(sql::LOCK_TIMEOUT).bind(most).execute(conn).await?;
        Ok(())
    }

    /// A connection that is nobody else's, to hold on to.
    pub(crate) async fn own_connection(&self) -> Result<PgConnection, Fault> {
        let options = self.connect_options();
        let conn = timeout(self.options.connect_timeout, PgConnection::connect_with(&options)).await;
        Ok(conn.map_err(|_| timed_out())??)
    }

    /// Runs statements that are not prepared, one after the other.
    pub(crate) async fn script(conn: &mut PgConnection, text: String) -> Result<(), Fault> {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await?;
        Ok(())
    }

    /// Closes all connections, and waits for those that are in use.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    /// Gives the connection back, unless it is of no more use.
    fn settle<T, E: Into<Fault>>(
        &self,
        mut conn: PoolConnection<Postgres>,
        answer: Result<Result<T, E>, Elapsed>,
    ) -> Result<T, Fault> {
        let answer =
            answer.map_or_else(|_| Err(Fault::from(timed_out())), |answer| answer.map_err(Into::into));
        let timed_out = matches!(&answer, Err(Fault::Said(error)) if error.kind() == ErrorKind::Unavailable);
        if timed_out || answer.as_ref().is_err_and(Fault::is_of_the_connection) {
            conn.close_on_drop();
            self.lost.note();
        }
        answer
    }
}

/// When a connection was last found to be lost: the others may be, too.
#[derive(Clone, Debug, Default)]
struct Lost(Arc<Mutex<Option<Instant>>>);

impl Lost {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that was lately, and a connection of that age is one of the others.
    fn may_have_hit(&self, age: Duration) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < DOUBT && age >= lost.elapsed())
    }
}
