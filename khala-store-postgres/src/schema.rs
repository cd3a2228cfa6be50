//! The schema: made, updated and compared with what this version works with.
//!
//! A migration is one transaction under an advisory lock, so that processes which start at once make it once. Versions of
//! the code work side by side: each migration says which older code can go on beside it, and code that is older than the
//! schema goes on as long as that is so.

use sqlx::PgConnection;

use khala_core::{Error, ErrorKind};

use crate::{
    database::{Database, Work},
    fault::{Fault, error},
    options::{PostgresOptions, Schema},
    row::column,
    sql::{self, MIGRATIONS, Sql, query, rare},
};

/// The version that this code works with.
const VERSION: usize = MIGRATIONS.len();
/// What the migrations make, line by line as [`sql::SHAPE`] tells it. A test holds it against them.
const SHAPE: &str = include_str!("migrations/shape.txt");

/// Makes or updates Khala's tables in the database at `url`. Does nothing where there is nothing to do.
///
/// Needs the right to create a schema in the database, or to create in it where it is there.
///
/// # Errors
/// [`ErrorKind::Schema`] when the tables are of a version that this one cannot work with, and whatever PostgreSQL has to
/// say.
pub async fn migrate(url: &str, options: PostgresOptions) -> Result<(), Error> {
    let database = Database::connect(url, options).await?;
    let migrated = update(&database).await;
    database.close().await;
    Ok(migrated?)
}

/// What differs between Khala's tables in the database at `url` and what this version makes: nothing where it would start.
///
/// # Errors
/// An [`Error`] when that cannot be found out now.
pub async fn check(url: &str, options: PostgresOptions) -> Result<Vec<String>, Error> {
    let database = Database::connect(url, options).await?;
    let differences = differences(&database).await;
    database.close().await;
    Ok(differences?)
}

/// After a restore from a backup: draws a new epoch for every topic, so that a cursor from the lost future is told
/// `epoch_mismatch`. Gives how many topics that were.
///
/// To be run while no store is open on the database: one that is would go on with the epochs of before. A store that opens
/// meanwhile waits until the new epochs are committed, or fails when that exceeds its timeouts. Applications that use
/// [`append_in`](crate::append_in) on connections of their own are not noticed: stop them first. It takes as long as it takes;
/// a dropped future undoes it.
///
/// # Errors
/// [`ErrorKind::Unavailable`] while a store is connected to the database, and whatever PostgreSQL has to say; then nothing was
/// changed, unless the connection was lost at the very end: drawing them once more does no harm.
pub async fn new_epochs(url: &str, options: PostgresOptions) -> Result<u64, Error> {
    let database = Database::connect_for("khala new-epochs", url, options).await?;
    let drawn = changed(&database, NewEpochs).await;
    database.close().await;
    Ok(drawn?)
}

/// Says whether appends in transactions of applications, [`append_in`](crate::append_in) and the SQL function, NOTIFY.
///
/// They do until they are told otherwise. Where no server listens, it saves PostgreSQL the work; subscribers then find such
/// appends by polling.
///
/// # Errors
/// Whatever PostgreSQL has to say; then nothing was changed, unless the connection was lost at the very end.
pub async fn set_notify(url: &str, options: PostgresOptions, notify: bool) -> Result<(), Error> {
    let database = Database::connect(url, options).await?;
    let set = changed(&database, SetNotify(notify)).await;
    database.close().await;
    Ok(set?)
}

/// Makes the tables what this version works with, or finds that they are.
pub(crate) async fn prepare(database: &Database) -> Result<[u8; 16], Fault> {
    if database.options.migrate {
        update(database).await?;
    } else {
        require(read_version(database).await?, &database.options.schema)?;
    }
    let rows = database.rows(|| query(&database.sql.meta)).await?;
    let row = rows.first().ok_or_else(|| schema("meta is empty; restore the database from a backup"))?;
    seed_from(column(row, 2)?)
}

/// The random identity of the database, which the epochs of untouched topics derive from (J16).
pub(crate) async fn seed(conn: &mut PgConnection, sql: &Sql) -> Result<[u8; 16], Fault> {
    let row = query(&sql.meta).fetch_one(conn).await?;
    seed_from(column(&row, 2)?)
}

fn seed_from(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    bytes.try_into().map_err(|_| Fault::corrupt("the seed is not of 16 bytes"))
}

/// The version of the tables, and the oldest code that can work with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    schema: usize,
    works_since: usize,
}

async fn read_version(database: &Database) -> Result<Option<Version>, Fault> {
    let name = database.options.schema.as_str().to_owned();
    let rows = database.rows(|| rare(sql::HAS_META).bind(name.clone())).await?;
    if !rows.first().map(|row| column::<bool>(row, 0)).transpose()?.unwrap_or_default() {
        return Ok(None);
    }
    version(&database.rows(|| query(&database.sql.meta)).await?)
}

fn version(meta: &[sqlx::postgres::PgRow]) -> Result<Option<Version>, Fault> {
    let row = meta.first().ok_or_else(|| schema("meta is empty; restore the database from a backup"))?;
    let number =
        |at| -> Result<usize, Fault> { Ok(usize::try_from(column::<i32>(row, at)?).unwrap_or_default()) };
    Ok(Some(Version { schema: number(0)?, works_since: number(1)? }))
}

/// Whether this code can work with tables of that version.
fn require(found: Option<Version>, name: &Schema) -> Result<(), Fault> {
    let message = match found {
        None => format!(
            "the database has none of Khala's tables in the schema {name}; run `khala-server migrate`"
        ),
        Some(Version { schema, .. }) if schema < VERSION => {
            format!(
                "the schema {name} is version {schema} and this is version {VERSION}; run `khala-server migrate`"
            )
        }
        Some(Version { schema, works_since }) if works_since > VERSION => format!(
            "the schema {name} is version {schema}, which works from version {works_since} on, and this is version \
             {VERSION}: run a newer version of Khala"
        ),
        Some(_) => return Ok(()),
    };
    Err(schema(message).into())
}

async fn update(database: &Database) -> Result<(), Fault> {
    let name = &database.options.schema;
    // The usual case takes no lock.
    let found = read_version(database).await?;
    if found.is_some_and(|found| found.schema >= VERSION) {
        return require(found, name);
    }
    let migrated = database.operation(Migrate(name));
    if let Some(from) = migrated.await? {
        tracing::info!(schema = %name, from, to = VERSION, "migrated the schema");
    }
    require(read_version(database).await?, name)
}

/// Brings the schema up to date; gives the version that it found.
struct Migrate<'m>(&'m Schema);

impl Work for Migrate<'_> {
    type Done = Option<usize>;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<Option<usize>, Fault> {
        let Self(name) = self;
        rare(sql::ONE_MIGRATION).bind(name.as_str()).execute(&mut *conn).await?;
        // Another process may have been faster.
        let there = rare(sql::HAS_META).bind(name.as_str()).fetch_one(&mut *conn).await?;
        let found = match column::<bool>(&there, 0)? {
            true => version(&[query(&sql.meta).fetch_one(&mut *conn).await?])?,
            false => None,
        };
        let from = found.map_or(0, |found| found.schema);
        if from == 0 {
            let there = rare(sql::HAS_SCHEMA).bind(name.as_str()).fetch_one(&mut *conn).await?;
            if !column::<bool>(&there, 0)? {
                query(&sql.add_schema).execute(&mut *conn).await?;
            }
        }
        for (migration, reached) in MIGRATIONS.iter().zip(1_i32..).skip(from) {
            let quoted = format!("\"{name}\"");
            let text = migration.text.replace("{khala}", &quoted).replace("{channel}", name.as_str());
            Database::script(conn, text).await?;
            let works_since = i32::try_from(migration.works_since).unwrap_or(i32::MAX);
            query(&sql.set_version).bind(reached).bind(works_since).execute(&mut *conn).await?;
        }
        Ok((from < VERSION).then_some(from))
    }
}

/// Draws new epochs; gives how many topics got one.
struct NewEpochs;

impl Work for NewEpochs {
    type Done = u64;

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<u64, Fault> {
        // First: a store that has read the old seed is connected and counted, and any other waits for the new one.
        query(&sql.lock_meta).execute(&mut *conn).await?;
        let stores = query(&sql.stores_there).fetch_one(&mut *conn).await?;
        let stores: i64 = column(&stores, 0)?;
        if stores > 0 {
            let message = format!(
                "{stores} connections of servers or applications that use Khala are open in the database: stop them all, those that \
                 a pooler keeps too, and try again"
            );
            return Err(error(ErrorKind::Unavailable, message).into());
        }
        query(&sql.new_seed).execute(&mut *conn).await?;
        let topics = query(&sql.new_epochs).execute(&mut *conn).await?.rows_affected();
        query(&sql.move_receipts).execute(conn).await?;
        Ok(topics)
    }
}

/// Says whether appends in transactions of applications NOTIFY.
struct SetNotify(bool);

impl Work for SetNotify {
    type Done = ();

    async fn run(&self, conn: &mut PgConnection, sql: &Sql) -> Result<(), Fault> {
        query(&sql.set_notify).bind(self.0).execute(conn).await?;
        Ok(())
    }
}

/// Does an operator's work in tables that this code can work with.
async fn changed<W: Work>(database: &Database, work: W) -> Result<W::Done, Fault> {
    require(read_version(database).await?, &database.options.schema)?;
    database.operation(work).await
}

async fn differences(database: &Database) -> Result<Vec<String>, Fault> {
    let name = &database.options.schema;
    let found = read_version(database).await?;
    if let Err(fault) = require(found, name) {
        return Ok(vec![Error::from(fault).to_string()]);
    }
    if found.is_some_and(|found| found.schema > VERSION) {
        // A newer version made them, and says that this one can work with them.
        return Ok(Vec::new());
    }
    let there = shape(database).await?;
    let wanted: Vec<&str> = SHAPE.lines().collect();
    let missing = wanted.iter().filter(|line| !there.iter().any(|there| there == *line));
    let unexpected = there.iter().filter(|there| !wanted.contains(&there.as_str()));
    let missing = missing.map(|line| format!("missing: {line}"));
    Ok(missing.chain(unexpected.map(|line| format!("unexpected: {line}"))).collect())
}

async fn shape(database: &Database) -> Result<Vec<String>, Fault> {
    let name = database.options.schema.as_str();
    let rows = database.rows(|| rare(sql::SHAPE).bind(name.to_owned())).await?;
    rows.iter().map(|row| column(row, 0)).collect()
}

/// What the tables in the database at `url` are made of: how `migrations/shape.txt` is written.
#[doc(hidden)]
pub async fn shape_of(url: &str, options: PostgresOptions) -> Result<Vec<String>, Error> {
    let database = Database::connect(url, options).await?;
    let shape = shape(&database).await;
    database.close().await;
    Ok(shape?)
}

fn schema(message: impl Into<String>) -> Error {
    error(ErrorKind::Schema, message)
}
