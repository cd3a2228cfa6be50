//! Durable, resumable real-time sync on PostgreSQL: the store of [`khala_core`] for several nodes that share one database.
//!
//! One schema, `khala` unless another is named, in a database that may be the application's own. A topic's row is locked
//! while something is appended to it, which orders the commits; appends of a process share transactions, and topics never
//! wait for each other. [`append_in`] publishes in the application's own transaction, and the SQL function `khala.append` does
//! so from any language.
//!
//! ```no_run
//! use khala_core::Khala;
//! use khala_store_postgres::PostgresStore;
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let khala = Khala::open(PostgresStore::open("postgres://khala@db.example/khala").await?);
//! # drop(khala);
//! # Ok(())
//! # }
//! ```

mod append;
mod checkpoint;
mod database;
mod due;
mod fanout;
mod fault;
mod options;
mod plain;
mod read;
mod revocation;
mod row;
mod schema;
mod sealed;
mod sql;
mod store;
mod sweep;
mod trim;
mod writer;

#[doc(hidden)]
pub use self::schema::shape_of;
/// The driver, in the version that this crate was built with: what [`append_in`] takes is of this version.
pub use sqlx;

pub use self::{
    append::{append_in, append_in_schema},
    fanout::PostgresFanout,
    options::{ListenOptions, PostgresOptions, Schema},
    schema::{check, migrate, new_epochs, set_notify},
    store::{PostgresStats, PostgresStore},
};
