//! Appends that need nothing looked up: no dedup key, no expected head, no document. One statement locks the topics that
//! are free, moves their heads and writes the log, so a group of them is one trip to the database and one sync.
//!
//! # Invariants
//! The head that an update is numbered from is the one that is moved, of the row as it is locked and not as the statement's
//! snapshot has it.

use std::collections::{BTreeSet, HashMap};

use khala_core::{
    Append, ErrorKind, Watermark,
    store::rows::{self, int},
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    append::{Outcome, Request},
    database::{Database, Work},
    fault::{Fault, error},
    row::{StoredRow, column},
    sql::{Sql, query},
};

/// Whether nothing needs to be looked up for it.
pub(crate) fn is_plain(request: &Request) -> bool {
    let batch = &request.batch;
    batch.dedup.is_none()
        && batch.expect.is_none()
        && batch.updates().iter().all(|update| update.doc_key.is_none())
}

/// Appends batches that are plain; as [`append`](crate::append::append) does under `Locking::Skip`.
pub(crate) async fn append(database: &Database, requests: &[&Request]) -> Result<Vec<Outcome>, Fault> {
    let group = Plain::gather(requests)?;
    let mut moved = HashMap::new();
    for found in database.alone(&group).await? {
        let place: i64 = column(&found, 0)?;
        moved.insert(place, (rows::epoch(&StoredRow(&found), 1)?, rows::watermark(&StoredRow(&found), 2)?));
    }
    let there = if moved.len() < group.topics.len() { group.known(database).await? } else { Vec::new() };
    let outcomes = requests.iter().zip(&group.members).map(|(request, member)| {
        let Some((epoch, head)) = moved.get(&member.place) else {
            let name = request.topic.as_str();
            return Ok(if there.iter().any(|there| there == name) {
                Outcome::Held
            } else {
                Outcome::Untouched
            });
        };
        let before = (head.as_u64() + member.before).checked_sub(group.added(member.place));
        let before = before.and_then(Watermark::new);
        let receipt = before.and_then(|before| request.batch.receipt_after(*epoch, before));
        let receipt =
            receipt.ok_or_else(|| error(ErrorKind::Corrupt, "a topic has no seqs left and was written"))?;
        Ok(Outcome::Answered(Ok(Append::Written(receipt))))
    });
    outcomes.collect()
}

/// A group, column by column.
#[derive(Debug, Default)]
struct Plain<'r> {
    topics: Vec<&'r str>,
    /// What each topic gets: updates and bytes.
    updates: Vec<i64>,
    bytes: Vec<i64>,
    members: Vec<Member>,
    place: Vec<i64>,
    nth: Vec<i64>,
    published_at: Vec<i64>,
    kind: Vec<&'r str>,
    payload_hash: Vec<Option<&'r str>>,
    trace: Vec<Option<String>>,
    payload: Vec<&'r str>,
}

/// Where a batch stands in its group.
#[derive(Debug)]
struct Member {
    /// Of its topic among the topics, from one.
    place: i64,
    /// How many updates come before it in the same topic.
    before: u64,
}

impl<'r> Plain<'r> {
    fn gather(requests: &[&'r Request]) -> Result<Self, Fault> {
        // In their order: that is the one in which they are locked.
        let topics: BTreeSet<&str> = requests.iter().map(|request| request.topic.as_str()).collect();
        let places: HashMap<&str, usize> = topics.iter().copied().zip(0..).collect();
        let none = vec![0; topics.len()];
        let topics = topics.into_iter().collect();
        let mut group = Self { topics, updates: none.clone(), bytes: none, ..Self::default() };
        for Request { topic, batch, now } in requests {
            let at = places[topic.as_str()];
            let place = int(at as u64 + 1);
            group.members.push(Member { place, before: group.updates[at].cast_unsigned() });
            for update in batch.updates() {
                let trace = update.trace.as_ref().map(serde_json::to_string).transpose();
                group.trace.push(trace.map_err(|fault| sqlx::Error::Encode(fault.into()))?);
                group.updates[at] += 1;
                group.bytes[at] += int(update.size() as u64);
                group.place.push(place);
                group.nth.push(group.updates[at]);
                group.published_at.push(int(now.as_millis()));
                group.kind.push(update.kind.as_str());
                group.payload_hash.push(update.payload_hash.as_ref().map(AsRef::as_ref));
                group.payload.push(update.payload.as_str());
            }
        }
        Ok(group)
    }

    /// Which of the topics have a row.
    async fn known(&self, database: &Database) -> Result<Vec<String>, Fault> {
        let sql = &database.sql;
        let rows = database.rows(|| query(&sql.known_topics).bind(&self.topics)).await?;
        rows.iter().map(|found| column(found, 0)).collect()
    }

    /// How many updates the topic at that place gets.
    fn added(&self, place: i64) -> u64 {
        let at = usize::try_from(place - 1).ok();
        at.and_then(|at| self.updates.get(at)).map_or(0, |updates| updates.cast_unsigned())
    }
}

impl Work for &Plain<'_> {
    type Done = Vec<PgRow>;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Vec<PgRow>, Fault> {
        let rows = query(&sql.append_plain)
            .bind(&self.topics)
            .bind(&self.updates)
            .bind(&self.bytes)
            .bind(&self.place)
            .bind(&self.nth)
            .bind(&self.published_at)
            .bind(&self.kind)
            .bind(&self.payload_hash)
            .bind(&self.trace)
            .bind(&self.payload);
        Ok(rows.fetch_all(conn).await?)
    }
}
