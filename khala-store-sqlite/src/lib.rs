//! Durable, resumable real-time sync in one SQLite file: the store of [`khala_core`] for an application that embeds Khala.
//!
//! Updates, documents, cursors' bounds, revocations and the records of sweeps are in the file, and an application that keeps its rows
//! there publishes in its own transaction ([`append_in`]).
//!
//! One file, which may be the application's own: Khala's tables are called `khala_…` and nothing else is touched.
//! One thread writes, with group commit; a few connections read beside it (WAL); and what other processes write
//! is noticed within [`watch_interval`](SqliteOptions::watch_interval).
//!
//! ```
//! use futures::TryStreamExt;
//! use khala_core::{Event, Khala, Start, Update};
//! use khala_store_sqlite::SqliteStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("app.db");
//! let khala = Khala::open(SqliteStore::open(&path)?);
//! let orders = khala.topic("orders:7")?;
//! orders.publish(Update::json("paid", &7)?.doc_key("order/7")).await?;
//!
//! let mut events = orders.subscribe(Start::floor()).await?;
//! while let Some(event) = events.try_next().await? {
//!     match event {
//!         Event::Update(update) => {
//!             println!("order {} was paid; keep {:?}", update.json::<u64>()?, update.cursor());
//!             # break;
//!         }
//!         Event::Snapshot(page) => println!("{} documents", page.documents.len()),
//!         Event::Stale(stale) => return Err(stale.into()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An application that keeps its own rows in the same file appends inside its own transaction, and so publishes
//! exactly what it commits:
//!
//! ```
//! use khala_core::{Append, Batch, Kind, NewUpdate, Payload, Timestamp, Topic, fanout::{Fanout}};
//! use khala_store_sqlite::{SqliteStore, append_in};
//! use rusqlite::{Connection, TransactionBehavior};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("application.db");
//! # let now = Timestamp::from_millis(0);
//! let store = SqliteStore::open(&path)?;
//! let topic = Topic::parse("orders")?;
//! let batch = Batch::new(vec![NewUpdate::new(Kind::parse("paid")?, Payload::parse(r#"{"order":1}"#)?)])?;
//!
//! let mut own = Connection::open(&path)?;
//! own.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, paid INTEGER NOT NULL)")?;
//!
//! let transaction = own.transaction_with_behavior(TransactionBehavior::Immediate)?;
//! transaction.execute("INSERT INTO orders (id, paid) VALUES (1, 1)", [])?;
//! let answer = append_in(&transaction, &topic, &batch, now)?;
//! transaction.commit()?;
//!
//! if let Append::Written(receipt) = answer {
//!     store.announce(&topic, receipt.cursor()).await?; // subscribers wake now, and not at the next look
//! }
//! # Ok(())
//! # }
//! ```

mod append;
mod checkpoint;
mod connection;
mod due;
mod fault;
mod operator;
mod options;
mod read;
mod readers;
mod revocation;
mod row;
mod schema;
mod site;
mod sql;
mod store;
mod sweep;
mod trim;
mod waiting;
mod watcher;
mod writer;

/// The driver, in the version that this crate was built with: what [`append_in`] takes is of this version.
pub use rusqlite;

pub use self::{
    append::{append_in, append_on},
    operator::{check, migrate, new_epochs},
    options::{Durability, SqliteOptions},
    schema::{prepare, verify_schema},
    store::{SqliteStats, SqliteStore},
};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// What the modelling guide says to write for SQLite compiles, and does what the page says of it.
#[cfg(doctest)]
#[doc = include_str!("../../docs/modelling.md")]
struct Modelling;
