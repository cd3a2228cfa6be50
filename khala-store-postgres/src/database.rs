//! The connections, and how statements get to them.
//!
//! Readers and writers have pools of their own, so that neither can starve the other, and of the writers' a part is kept from
//! whatever may wait for a lock.
//!
//! # Invariants
//! A connection that somebody stopped waiting for is closed and never used again; and what is tried a second time, after a
//! connection was lost, cannot have happened the first time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use khala_core::ErrorKind;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{error::Elapsed, timeout},
};

use crate::{
    fault::{Fault, error, too_many_wait},
    options::PostgresOptions,
    row::column,
    sql::{self, Sql, rare},
};

/// The oldest PostgreSQL that the statements are for.
const OLDEST_SERVER: i32 = 140_000;
/// A connection that rested for longer is asked whether it still is one before it is used.
const RESTED: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const PING: Duration = Duration::from_millis(500);
/// For how long after one connection was lost the others are asked, too.
const DOUBT: Duration = Duration::from_secs(60);

/// How a transaction is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// One statement, which is a transaction by itself.
    Alone,
    /// It waits for no lock for long.
    Group,
    /// For an operator, who waits for as long as it takes.
    Operator,
    /// It may wait for a lock, and takes its turn with others that may.
    Waits,
}

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
    /// How many may wait for locks at once, each on a connection: half of them, so that groups are never without.
    waits: Semaphore,
    /// Whether the connections are those of the application's own pool.
    shared: bool,
    /// How many questions of readers were asked.
    asked: AtomicU64,
}

impl Database {
    /// Connects, and finds out what kind of server it is.
    pub(crate) async fn connect(url: &str, options: PostgresOptions) -> Result<Self, Fault> {
        Self::connect_for("khala", url, options).await
    }

    /// The same, under another name than that of a store.
    pub(crate) async fn connect_for(
        purpose: &str,
        url: &str,
        options: PostgresOptions,
    ) -> Result<Self, Fault> {
        let mut connect = options.connect(url, purpose)?;
        if options.pooler {
            connect = connect.statement_cache_capacity(0);
        }
        let lost = Lost::default();
        // A pooler's connections are somebody else's by the next transaction: there, each transaction sets them.
        let settings: Option<Arc<str>> =
            (!options.pooler).then(|| sql::session(options.lock_timeout()).into());
        // Where there is one that waits for a lock, there is one besides.
        let connections = options.connections.get().max(2);
        let pool = || {
            let (lost, settings) = (lost.clone(), settings.clone());
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(options.connect_timeout)
                .test_before_acquire(false)
                .after_connect(move |conn, _| {
                    let settings = settings.clone();
                    Box::pin(async move {
                        if let Some(settings) = settings {
                            sqlx::raw_sql(AssertSqlSafe(settings)).execute(conn).await?;
                        }
                        Ok(())
                    })
                })
                .before_acquire(move |conn, meta| {
                    let doubtful = meta.idle_for > RESTED || lost.may_have_hit(meta.age);
                    let lost = lost.clone();
                    Box::pin(async move {
                        let good =
                            !doubtful || timeout(PING, conn.ping()).await.is_ok_and(|pong| pong.is_ok());
                        if !good {
                            lost.note();
                        }
                        Ok(good)
                    })
                })
                .connect_lazy_with(connect.clone())
        };
        let database = Self::over(pool(), pool(), false, connections, lost.clone(), options);
        database.examine().await?;
        Ok(database)
    }

    /// Works on the connections of the application's own pool, beside it.
    pub(crate) async fn of_pool(pool: PgPool, options: PostgresOptions) -> Result<Self, Fault> {
        let connections = pool.options().get_max_connections();
        if connections < 2 {
            let message =
                "a pool of one connection is too small: while one waits for a lock, another must be there";
            return Err(error(ErrorKind::Invalid, message).into());
        }
        let database = Self::over(pool.clone(), pool, true, connections, Lost::default(), options);
        database.examine().await?;
        Ok(database)
    }

    /// Whether nothing is set up for Khala on a connection, so that each transaction says what it needs.
    fn is_bare(&self) -> bool {
        self.options.pooler || self.shared
    }

    fn over(
        readers: PgPool,
        writers: PgPool,
        shared: bool,
        connections: u32,
        lost: Lost,
        options: PostgresOptions,
    ) -> Self {
        Self {
            sql: Sql::new(options.schema.as_str(), !options.pooler),
            readers,
            writers,
            lost,
            waits: Semaphore::new(connections as usize / 2),
            shared,
            asked: AtomicU64::new(0),
            options,
        }
    }

    async fn examine(&self) -> Result<(), Fault> {
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
        if !column::<bool>(row, 2)? {
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
        let mut conn = Lent::of(pool).await?;
        let pooler = self.options.pooler;
        let answer = timeout(self.options.statement_timeout, async {
            if !pooler {
                return question.fetch_all(conn.get()).await;
            }
            let mut transaction = Connection::begin(conn.get()).await?;
            let rows = question.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(rows)
        });
        let answer = answer.await;
        self.settle(conn, answer)
    }

    /// Runs `work`, which may wait for a lock, in one transaction, and commits it or undoes all of it. After a connection was
    /// lost before the commit, it is run once more.
    pub(crate) async fn transaction<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        let turn = timeout(self.options.lock_timeout(), self.waits.acquire()).await;
        let _turn = turn.map_err(|_| Fault::from(too_many_wait()))?;
        self.run(work, Manner::Waits).await
    }

    /// The same for a group of appends, which waits for nobody, or has its turn to wait.
    pub(crate) async fn group<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        self.run(work, Manner::Group).await
    }

    /// The same for an operator: it is not given up, however long it takes.
    pub(crate) async fn operation<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        self.run(work, Manner::Operator).await
    }

    /// Runs work that is one statement. It is a transaction by itself where connections are set up for it.
    pub(crate) async fn alone<W: Work>(&self, work: W) -> Result<W::Done, Fault> {
        let manner = if self.is_bare() { Manner::Group } else { Manner::Alone };
        self.run(work, manner).await
    }

    /// The turn to wait for a lock, if there is one.
    pub(crate) fn turn_to_wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waits.try_acquire().ok()
    }

    async fn run<W: Work>(&self, work: W, manner: Manner) -> Result<W::Done, Fault> {
        match self.attempt(&work, manner).await {
            Err((fault, false)) if fault.is_of_the_connection() => self.attempt(&work, manner).await,
            answer => answer,
        }
        .map_err(|(fault, _)| fault)
    }

    /// The fault, and whether it may have been committed all the same.
    async fn attempt<W: Work>(&self, work: &W, manner: Manner) -> Result<W::Done, (Fault, bool)> {
        let mut conn = Lent::of(&self.writers).await.map_err(|fault| (fault, false))?;
        let mut committing = false;
        let patience = match manner {
            Manner::Operator => Duration::MAX,
            Manner::Alone | Manner::Group | Manner::Waits => self.options.statement_timeout,
        };
        let answer = timeout(patience, async {
            if manner == Manner::Alone {
                committing = true;
                return work.run(conn.get(), &self.sql).await;
            }
            let mut transaction = conn.get().begin_with(AssertSqlSafe(self.begin(manner))).await?;
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

    fn begin(&self, manner: Manner) -> String {
        match manner {
            Manner::Operator => sql::begin_operation(),
            _ if self.is_bare() => sql::begin_pooled(self.options.lock_timeout()),
            Manner::Alone | Manner::Group | Manner::Waits => sql::BEGIN.to_owned(),
        }
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
        Ok(conn.map_err(|_| Fault::TimedOut)??)
    }

    /// Runs statements that are not prepared, one after the other.
    pub(crate) async fn script(conn: &mut PgConnection, text: String) -> Result<(), Fault> {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await?;
        Ok(())
    }

    /// Closes all connections, and waits for those that are in use; those of the application stay open.
    pub(crate) async fn close(&self) {
        if self.shared {
            return;
        }
        self.readers.close().await;
        self.writers.close().await;
    }

    /// Gives the connection back, unless it is of no more use.
    fn settle<T, E: Into<Fault>>(
        &self,
        conn: Lent,
        answer: Result<Result<T, E>, Elapsed>,
    ) -> Result<T, Fault> {
        let answer = answer.map_or(Err(Fault::TimedOut), |answer| answer.map_err(Into::into));
        match &answer {
            Err(fault) if fault.is_of_the_connection() || matches!(fault, Fault::TimedOut) => {
                self.lost.note()
            }
            _ => conn.give_back(),
        }
        answer
    }
}

/// A connection of a pool, which is closed unless it is given back: who stops waiting leaves it with an answer to come.
struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    async fn of(pool: &PgPool) -> Result<Self, Fault> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    fn get(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is taken at the end only")
    }

    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(conn) = &mut self.0 {
            conn.close_on_drop();
        }
    }
}

/// When a connection was last found to be lost: the others may be, too.
#[derive(Clone, Debug, Default)]
struct Lost(Arc<Mutex<Option<Instant>>>);

impl Lost {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that was recently, and a connection of that age is one of the others.
    fn may_have_hit(&self, age: Duration) -> bool {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < DOUBT && age >= lost.elapsed())
    }
}
