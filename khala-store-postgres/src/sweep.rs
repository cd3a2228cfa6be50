//! Who sweeps, and the records of sweeps.
//!
//! The lead is one row, and an advisory lock that tells whether the node that is named there lives: it is held in a transaction
//! that stays open on a connection of its own, so it goes with the connection, also through a pooler. Each lead has a lock of its
//! own, so that a node which froze amid its lead, and holds its lock for ever, keeps nobody from leading when its time is over.
//!
//! # Invariants
//! A lead is another's only when its time is over or its node is gone.

use std::{collections::HashMap, num::NonZeroUsize};

use khala_core::{
    Timestamp,
    node::NodeId,
    retention::{Lease, SWEEPS_KEPT, SweepRecord},
    store::rows::{self, int},
};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    database::{Database, Work},
    fault::Fault,
    row::{StoredRow, column},
    sql::{self, Sql, query, rare},
};

/// The locks of the nodes that lead by this store, and the turn to ask for the lead.
#[derive(Debug, Default)]
pub(crate) struct Leading(Mutex<HashMap<NodeId, Held>>);

/// An advisory lock that is held.
#[derive(Debug)]
struct Held {
    session: i64,
    conn: PgConnection,
}

impl Leading {
    /// Takes, renews or gives up the lead, unless another node has it (S1, S2, S3).
    pub(crate) async fn try_acquire(
        &self,
        database: &Database,
        node: &NodeId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Lease, Fault> {
        let mut held = self.0.lock().await;
        let patience = database.options.statement_timeout;
        let own = match held.remove(node) {
            // A lock whose connection is lost is none.
            Some(mut own) => {
                let answer = timeout(patience, rare(sql::PING).execute(&mut own.conn)).await;
                answer.is_ok_and(|answer| answer.is_ok()).then_some(own)
            }
            None => None,
        };
        let own = match own {
            Some(own) => own,
            None => timeout(patience, hold(database)).await.map_err(|_| Fault::TimedOut)??,
        };
        let schema = database.options.schema.as_str();
        let taking = TakeLead { schema, node, now, until, session: own.session };
        let lead = database.transaction(taking).await;
        // Where it is not known who leads, it may be this one, and its lock says that it lives.
        if matches!(lead, Ok(Lease::Held) | Err(_)) && until > now {
            held.insert(node.clone(), own);
        }
        lead
    }
}

/// Takes the lead for whoever holds the lock of `session`, unless another node has it.
struct TakeLead<'l> {
    schema: &'l str,
    node: &'l NodeId,
    now: Timestamp,
    until: Timestamp,
    session: i64,
}

impl Work for TakeLead<'_> {
    type Done = Lease;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Lease, Fault> {
        query(&sql.add_lead).execute(&mut *conn).await?;
        let row = query(&sql.lock_lead).fetch_one(&mut *conn).await?;
        let (named, ends, session): (&str, Timestamp, i64) =
            (column(&row, 0)?, rows::moment(&StoredRow(&row), 1)?, column(&row, 2)?);
        if !named.is_empty() && named != self.node.as_str() && ends > self.now {
            // Whoever can have the lock of that lead knows that nobody else has it.
            let gone = rare(sql::HOLD_LEAD).bind(self.schema).bind(session).fetch_one(&mut *conn).await?;
            if !column::<bool>(&gone, 0)? {
                return Ok(Lease::HeldBy { node: rows::node(&StoredRow(&row), 0)?, until: ends });
            }
            tracing::info!(node = named, "the node that led the sweeps is gone");
        }
        let until = int(self.until.as_millis());
        query(&sql.set_lead).bind(self.node.as_str()).bind(until).bind(self.session).execute(conn).await?;
        Ok(Lease::Held)
    }
}

/// Takes an advisory lock that nobody has, and keeps it for as long as the connection lives.
async fn hold(database: &Database) -> Result<Held, Fault> {
    let mut conn = database.own_connection().await?;
    sqlx::raw_sql(sql::BEGIN_LEAD).execute(&mut conn).await?;
    loop {
        let session = i64::from_be_bytes(random());
        let row = rare(sql::HOLD_LEAD).bind(database.options.schema.as_str()).bind(session);
        if column::<bool>(&row.fetch_one(&mut conn).await?, 0)? {
            return Ok(Held { session, conn });
        }
    }
}

fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// Stores a record and forgets the oldest past those that are kept (S4).
pub(crate) async fn record(database: &Database, record: &SweepRecord) -> Result<(), Fault> {
    let text = serde_json::to_string(record).map_err(|fault| sqlx::Error::Encode(fault.into()))?;
    database.transaction(Record(text)).await
}

/// The text of a record, to be stored.
struct Record(String);

impl Work for Record {
    type Done = ();

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(), Fault> {
        query(&sql.add_sweep).bind(self.0.as_str()).execute(&mut *conn).await?;
        query(&sql.forget_sweeps).bind(rows::limit(SWEEPS_KEPT)).execute(conn).await?;
        Ok(())
    }
}

/// The records, newest first (S4), but for those that cannot be read. One statement, and so of one moment.
pub(crate) async fn records(database: &Database, limit: NonZeroUsize) -> Result<Vec<SweepRecord>, Fault> {
    let limit = limit.get().min(SWEEPS_KEPT);
    let read = async |limit| database.rows(|| query(&database.sql.sweeps).bind(rows::limit(limit))).await;
    let mut rows = read(limit).await?;
    if rows.len() == limit && rows.iter().any(|found| rows::sweep_record(&StoredRow(found), 0).is_err()) {
        // A limit counts what can be read.
        rows = read(SWEEPS_KEPT).await?;
    }
    let mut records = Vec::new();
    for found in &rows {
        if records.len() == limit {
            break;
        }
        match rows::sweep_record(&StoredRow(found), 0) {
            Ok(record) => records.push(record),
            Err(fault) => {
                rows::passed_over(&format!("sweep_id {} of khala.sweep", column::<i64>(found, 1)?), fault)
            }
        }
    }
    Ok(records)
}
