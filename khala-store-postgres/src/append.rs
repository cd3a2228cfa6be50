//! Appends, inside a transaction that somebody else began and will commit: a writer's group, or the application's own.
//!
//! The topics are locked first, so all checks see what is true until the commit; then everything is written at once. All
//! checks of a batch come before anything of it is gathered, and see what the batches before it in the same group gathered.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    convert::Infallible,
    sync::LazyLock,
    time::Duration,
};

use khala_core::{
    Append, Batch, Bounds, DocKey, Epoch, Error, ErrorKind, Receipt, Timestamp, Topic, Watermark,
    journal::Admission,
    store::rows::{self, int},
    update::DedupKey,
};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction, postgres::PgRow};

use crate::{
    database::{Database, Work},
    fault::{BACKEND, Fault, error},
    options::Schema,
    row::{self, StoredRow, TopicRow, column},
    schema,
    sql::{self, Sql, query},
};

/// Appends a batch as part of the caller's own transaction, in the schema `khala` of a database that
/// [`PostgresStore::open`](crate::PostgresStore::open) or [`migrate`](crate::migrate) has prepared.
///
/// The answer, dedup keys, `expect` and document versions are those of
/// [`Journal::append`](khala_core::journal::Journal::append); `now` becomes `published_at`. Nothing is visible to anybody before the
/// transaction is committed, and if it is rolled back, nothing ever was. A failed call leaves nothing of the batch in the
/// transaction. Subscribers are woken by the commit itself.
///
/// The topic is locked until the transaction ends, and other appends to it wait for that: keep it short. Appends to
/// several topics in one transaction can meet another one that takes them in another order; PostgreSQL then ends one of
/// the two, which is an error of [`ErrorKind::Unavailable`] and calls for running it again. The commit is as durable as the
/// connection's `synchronous_commit` makes it.
///
/// ```no_run
/// use khala_core::{Batch, Kind, NewUpdate, Payload, Timestamp, Topic};
/// use khala_store_postgres::append_in;
///
/// # async fn pay(pool: sqlx::PgPool, now: Timestamp) -> Result<(), Box<dyn std::error::Error>> {
/// let topic = Topic::parse("orders")?;
/// let batch = Batch::new(vec![NewUpdate::new(Kind::parse("paid")?, Payload::parse(r#"{"order":1}"#)?)])?;
///
/// let mut transaction = pool.begin().await?;
/// sqlx::query("UPDATE orders SET paid = true WHERE id = 1").execute(&mut *transaction).await?;
/// append_in(&mut transaction, &topic, &batch, now).await?;
/// transaction.commit().await?; // subscribers wake now
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Schema`] where the database was not prepared, and whatever PostgreSQL has to say.
///
/// A dropped future leaves nothing of the batch in the transaction, which can go on, and be committed, without it: a caller that
/// stops waiting rolls the transaction back.
pub async fn append_in(
    transaction: &mut Transaction<'_, Postgres>,
    topic: &Topic,
    batch: &Batch,
    now: Timestamp,
) -> Result<Append, Error> {
    static SCHEMA: LazyLock<(Schema, Sql)> = LazyLock::new(|| statements_of(Schema::default()));
    append_with(transaction, &SCHEMA, topic, batch, now).await
}

/// The same as [`append_in`], in another schema.
///
/// # Errors
/// As there.
pub async fn append_in_schema(
    transaction: &mut Transaction<'_, Postgres>,
    schema: &Schema,
    topic: &Topic,
    batch: &Batch,
    now: Timestamp,
) -> Result<Append, Error> {
    append_with(transaction, &statements_of(schema.clone()), topic, batch, now).await
}

/// The application's connection may be a pooler's, so it keeps no statement.
fn statements_of(schema: Schema) -> (Schema, Sql) {
    let sql = Sql::new(schema.as_str(), false);
    (schema, sql)
}

async fn append_with(
    transaction: &mut Transaction<'_, Postgres>,
    (schema, sql): &(Schema, Sql),
    topic: &Topic,
    batch: &Batch,
    now: Timestamp,
) -> Result<Append, Error> {
    let append = async {
        let mut savepoint = transaction.begin().await?;
        let request = Request { topic: topic.clone(), batch: batch.clone(), now };
        let mut answers = append(&mut savepoint, sql, &[&request], Locking::Wait).await?;
        let Some(Outcome::Answered(answer)) = answers.pop() else {
            return Err(Fault::corrupt("a topic was added and is not there"));
        };
        if let Ok(Append::Written(_)) = &answer {
            let named = query(&sql.notify_in).bind(schema.as_str()).bind(topic.as_str().to_owned());
            named.execute(&mut *savepoint).await?;
        }
        savepoint.commit().await?;
        Ok(answer)
    };
    append.await.map_err(Error::from)?
}

/// A batch that is to be appended.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) topic: Topic,
    pub(crate) batch: Batch,
    pub(crate) now: Timestamp,
}

/// What is done about topics that somebody else has locked, or that have no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// They are left out.
    Skip,
    /// It waits for them, and adds them.
    Wait,
}

/// Gives topics their rows.
pub(crate) struct AddTopics<'a> {
    /// In their order.
    pub(crate) names: Vec<&'a str>,
    pub(crate) patience: Duration,
}

impl Work for AddTopics<'_> {
    type Done = ();

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(), Fault> {
        Database::bound_locks(conn, self.patience).await?;
        add_topics(conn, sql, &self.names).await
    }
}

/// Appends batches.
pub(crate) struct AppendGroup<'a> {
    pub(crate) requests: Vec<&'a Request>,
    pub(crate) locking: Locking,
}

impl Work for AppendGroup<'_> {
    type Done = Vec<Outcome>;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Vec<Outcome>, Fault> {
        append(conn, sql, &self.requests, self.locking).await
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Result<Append, Error>),
    /// Somebody else has its topic.
    Held,
    /// Its topic has no row yet.
    Untouched,
}

/// Checks batches and writes those that nothing speaks against.
///
/// The error of one answer is that batch's alone, and nothing of it was written; after an outer one, the transaction may
/// hold a part and must be rolled back.
pub(crate) async fn append(
    conn: &mut PgConnection,
    sql: &Sql,
    requests: &[&Request],
    locking: Locking,
) -> Result<Vec<Outcome>, Fault> {
    let names: BTreeSet<&str> = requests.iter().map(|request| request.topic.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut locked = lock(conn, sql, &names, locking).await?;
    let mut known = BTreeSet::new();
    if locked.len() < names.len() {
        let missing: Vec<&str> = names.iter().copied().filter(|name| !locked.contains_key(*name)).collect();
        match locking {
            Locking::Skip => {
                for found in query(&sql.known_topics).bind(&missing).fetch_all(&mut *conn).await? {
                    known.insert(column::<String>(&found, 0)?);
                }
            }
            Locking::Wait => {
                add_topics(conn, sql, &missing).await?;
                locked = lock(conn, sql, &names, locking).await?;
            }
        }
    }
    let mut group = Group::look_up(conn, sql, locked, requests).await?;
    let outcomes = requests
        .iter()
        .map(|request| match group.append(request) {
            Some(answer) => Outcome::Answered(answer),
            None if known.contains(request.topic.as_str()) => Outcome::Held,
            None => Outcome::Untouched,
        })
        .collect();
    group.write(conn, sql).await?;
    Ok(outcomes)
}

/// Gives topics their rows, in the transaction that is open on `conn`. The names are in their order.
async fn add_topics(conn: &mut PgConnection, sql: &Sql, names: &[&str]) -> Result<(), Fault> {
    let seed = schema::seed(conn, sql).await?;
    let mut epochs = Vec::with_capacity(names.len());
    for name in names {
        let topic = Topic::parse(name).map_err(|fault| error(ErrorKind::Invalid, fault.to_string()))?;
        epochs.push(int(Epoch::derive(&seed, &topic).bits()));
    }
    query(&sql.add_topics).bind(names).bind(epochs).execute(conn).await?;
    Ok(())
}

async fn lock(
    conn: &mut PgConnection,
    sql: &Sql,
    names: &[&str],
    locking: Locking,
) -> Result<HashMap<String, TopicRow>, Fault> {
    let statement = match locking {
        Locking::Skip => &sql.lock_free_topics,
        Locking::Wait => &sql.lock_topics,
    };
    let rows = query(statement).bind(names).fetch_all(conn).await?;
    let named = |found| {
        let topic: String = column(found, 0)?;
        let row = row::topic_row(found, 1, &topic)?;
        Ok((topic, row))
    };
    rows.iter().map(named).collect()
}

/// The appends of one transaction, gathered column by column.
#[derive(Debug)]
struct Group<'r> {
    topics: HashMap<String, Standing>,
    /// First receipts, by topic and dedup key.
    receipts: HashMap<(i64, &'r str), Known>,
    /// Versions of documents, by topic and key.
    versions: HashMap<(i64, &'r str), u64>,
    updates: Columns<'r>,
    /// Where among the updates the newest state of each document is.
    documents: HashMap<(i64, &'r str), usize>,
    added_receipts: Vec<AddedReceipt<'r>>,
}

/// What is known under a dedup key: where it was stored, and the hash of what was, if that was kept.
type Known = (Receipt, Option<[u8; 16]>);

/// What is to be remembered of a batch under its dedup key.
#[derive(Debug)]
struct AddedReceipt<'r> {
    topic_id: i64,
    key: &'r str,
    receipt: Receipt,
    content: [u8; 16],
    at: Timestamp,
}

/// Where a topic stands, inside the transaction.
#[derive(Clone, Copy, Debug)]
struct Standing {
    row: TopicRow,
    head: Watermark,
    added_bytes: u64,
}

#[derive(Debug, Default)]
struct Columns<'r> {
    topic_id: Vec<i64>,
    seq: Vec<i64>,
    published_at: Vec<i64>,
    kind: Vec<&'r str>,
    doc_key: Vec<Option<&'r str>>,
    doc_version: Vec<Option<i64>>,
    deleted: Vec<bool>,
    payload_hash: Vec<Option<&'r str>>,
    trace: Vec<Option<String>>,
    payload: Vec<&'r str>,
}

impl<'r> Group<'r> {
    /// Reads what the checks of these requests need of the topics that are locked.
    async fn look_up(
        conn: &mut PgConnection,
        sql: &Sql,
        locked: HashMap<String, TopicRow>,
        requests: &[&'r Request],
    ) -> Result<Self, Fault> {
        let standing = |row: TopicRow| Standing { row, head: row.bounds.head, added_bytes: 0 };
        let topics: HashMap<_, _> = locked.into_iter().map(|(name, row)| (name, standing(row))).collect();
        let mut dedups: BTreeSet<(i64, &'r str)> = BTreeSet::new();
        let mut keys: BTreeSet<(i64, &'r str)> = BTreeSet::new();
        for request in requests {
            let Some(Standing { row, .. }) = topics.get(request.topic.as_str()) else { continue };
            dedups.extend(request.batch.dedup.as_ref().map(|key| (row.id, key.as_str())));
            let documents = request.batch.updates().iter().filter_map(|update| update.doc_key.as_ref());
            keys.extend(documents.map(|key| (row.id, key.as_str())));
        }
        let dedups: Vec<(i64, &'r str)> = dedups.into_iter().collect();
        let keys: Vec<(i64, &'r str)> = keys.into_iter().collect();
        let mut receipts = HashMap::new();
        for found in ask_for(conn, &sql.receipts, &dedups).await? {
            let content: Option<&[u8]> = column(&found, 4)?;
            let content = content.map(|content| {
                content.try_into().map_err(|_| Fault::corrupt("a content hash is not of 16 bytes"))
            });
            receipts.insert(
                asked(&dedups, &found)?,
                (rows::receipt(&StoredRow(&found), 1)?, content.transpose()?),
            );
        }
        let mut versions = HashMap::new();
        for found in ask_for(conn, &sql.document_versions, &keys).await? {
            versions.insert(asked(&keys, &found)?, column::<i64>(&found, 1)?.cast_unsigned());
        }
        Ok(Self {
            topics,
            receipts,
            versions,
            updates: Columns::default(),
            documents: HashMap::new(),
            added_receipts: Vec::new(),
        })
    }

    /// Checks a batch and gathers it if nothing speaks against it; none if its topic is not locked.
    fn append(&mut self, request: &'r Request) -> Option<Result<Append, Error>> {
        let Request { topic, batch, now } = request;
        let standing = *self.topics.get(topic.as_str())?;
        let id = standing.row.id;
        let bounds = Bounds { head: standing.head, ..standing.row.bounds };
        let kept = |key: &DedupKey| Ok::<_, Infallible>(self.receipts.get(&(id, key.as_str())).copied());
        let version = |key: &DocKey| Ok(self.versions.get(&(id, key.as_str())).copied());
        let Ok(admission) = batch.admit(topic, bounds, BACKEND, kept, version);
        let receipt = match admission {
            Admission::Answered(answer) => return Some(answer),
            Admission::Write(receipt) => receipt,
        };
        let added_bytes = match self.gather(id, batch, &receipt, *now) {
            Ok(bytes) => standing.added_bytes + bytes,
            Err(error) => {
                batch.break_chain();
                return Some(Err(error));
            }
        };
        let head = receipt.last.watermark();
        self.topics.insert(topic.as_str().to_owned(), Standing { head, added_bytes, ..standing });
        Some(Ok(Append::Written(receipt)))
    }

    /// Takes a batch that nothing speaks against, and says what it counts in bytes.
    fn gather(&mut self, id: i64, batch: &'r Batch, receipt: &Receipt, now: Timestamp) -> Result<u64, Error> {
        let traces =
            batch.updates().iter().map(|update| update.trace.as_ref().map(serde_json::to_string).transpose());
        let traces: Vec<Option<String>> = traces.collect::<Result<_, _>>().map_err(|fault| {
            Error::caused_by(ErrorKind::Invalid, BACKEND, "a trace context has no JSON form", fault)
        })?;
        let mut bytes = 0;
        for ((update, trace), seq) in batch.updates().iter().zip(traces).zip(receipt.first.as_u64()..) {
            let doc_key = update.doc_key.as_ref().map(DocKey::as_str);
            let doc_version = doc_key.map(|_| update.doc_version.unwrap_or(seq));
            if let (Some(key), Some(version)) = (doc_key, doc_version) {
                self.versions.insert((id, key), version);
                self.documents.insert((id, key), self.updates.seq.len());
            }
            let columns = &mut self.updates;
            columns.topic_id.push(id);
            columns.seq.push(int(seq));
            columns.published_at.push(int(now.as_millis()));
            columns.kind.push(update.kind.as_str());
            columns.doc_key.push(doc_key);
            columns.doc_version.push(doc_version.map(int));
            columns.deleted.push(update.deleted);
            columns.payload_hash.push(update.payload_hash.as_ref().map(AsRef::as_ref));
            columns.trace.push(trace);
            columns.payload.push(update.payload.as_str());
            bytes += update.size() as u64;
        }
        if let Some(key) = &batch.dedup {
            let (key, receipt, content) = (key.as_str(), *receipt, batch.content_hash());
            self.receipts.insert((id, key), (receipt, Some(content)));
            self.added_receipts.push(AddedReceipt { topic_id: id, key, receipt, content, at: now });
        }
        Ok(bytes)
    }

    /// Writes what was gathered. What is left to do is COMMIT.
    async fn write(self, conn: &mut PgConnection, sql: &Sql) -> Result<(), Fault> {
        let columns = &self.updates;
        if columns.seq.is_empty() {
            return Ok(());
        }
        let moved: Vec<&Standing> =
            self.topics.values().filter(|standing| standing.head > standing.row.bounds.head).collect();
        let newest: HashSet<usize> = self.documents.into_values().collect();
        let newest: Vec<bool> = (0..columns.seq.len()).map(|row| newest.contains(&row)).collect();
        let receipts = &self.added_receipts;
        let number = |of: fn(&Receipt) -> u64| -> Vec<i64> {
            receipts.iter().map(|added| int(of(&added.receipt))).collect()
        };
        query(&sql.write)
            .bind(moved.iter().map(|standing| standing.row.id).collect::<Vec<_>>())
            .bind(moved.iter().map(|standing| int(standing.head.as_u64())).collect::<Vec<_>>())
            .bind(moved.iter().map(|standing| int(standing.added_bytes)).collect::<Vec<_>>())
            .bind(&columns.topic_id)
            .bind(&columns.seq)
            .bind(&columns.published_at)
            .bind(&columns.kind)
            .bind(&columns.doc_key)
            .bind(&columns.doc_version)
            .bind(&columns.deleted)
            .bind(&columns.payload_hash)
            .bind(&columns.trace)
            .bind(&columns.payload)
            .bind(newest)
            .bind(receipts.iter().map(|added| added.topic_id).collect::<Vec<_>>())
            .bind(receipts.iter().map(|added| added.key).collect::<Vec<_>>())
            .bind(number(|receipt| receipt.epoch.bits()))
            .bind(number(|receipt| receipt.first.as_u64()))
            .bind(number(|receipt| receipt.last.as_u64()))
            .bind(receipts.iter().map(|added| int(added.at.as_millis())).collect::<Vec<_>>())
            .bind(receipts.iter().map(|added| &added.content[..]).collect::<Vec<_>>())
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// Asks for the rows of these pairs of a topic and a key, if there are any.
async fn ask_for(
    conn: &mut PgConnection,
    statement: &sql::Statement,
    pairs: &[(i64, &str)],
) -> Result<Vec<PgRow>, Fault> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, keys): (Vec<i64>, Vec<&str>) = pairs.iter().copied().unzip();
    Ok(query(statement).bind(ids).bind(keys).fetch_all(conn).await?)
}

/// Which of the pairs a row answers: its first column is the place, from one.
fn asked<'r>(pairs: &[(i64, &'r str)], row: &PgRow) -> Result<(i64, &'r str), Fault> {
    let place: i64 = column(row, 0)?;
    let pair = usize::try_from(place - 1).ok().and_then(|place| pairs.get(place));
    pair.copied().ok_or_else(|| Fault::corrupt("a row was not asked for"))
}
