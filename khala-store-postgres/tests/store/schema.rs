//! The schema: what the migrations make, and what is said when somebody changed it.

use khala_core::ErrorKind;
use khala_store_postgres::{PostgresOptions, PostgresStore, Schema, check, migrate, shape_of};
use khala_testing::Cluster;

use crate::support::sql;

/// What the migrations make is what the file says. `KHALA_WRITE_SHAPE=1` writes it, after a new migration.
#[tokio::test]
async fn the_file_of_the_shape_is_what_the_migrations_make() {
    let url = Cluster::shared().database();
    migrate(&url, PostgresOptions::new()).await.unwrap();
    let made: String = shape_of(&url, PostgresOptions::new()).await.unwrap().join("\n") + "\n";
    if std::env::var_os("KHALA_WRITE_SHAPE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/migrations/shape.txt");
        std::fs::write(file, &made).unwrap();
    }
    assert_eq!(made, include_str!("../../src/migrations/shape.txt"), "run it with KHALA_WRITE_SHAPE=1");
}

#[tokio::test]
async fn what_was_migrated_differs_in_nothing_whatever_the_schema_is_called() {
    for name in ["khala", "other_1"] {
        let options = || PostgresOptions::new().with_schema(Schema::parse(name).unwrap());
        let url = Cluster::shared().database();
        let before = check(&url, options()).await.unwrap();
        assert!(matches!(&before[..], [one] if one.contains("khala-server migrate")), "{before:?}");
        migrate(&url, options()).await.unwrap();
        migrate(&url, options()).await.unwrap();
        assert_eq!(check(&url, options()).await.unwrap(), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn every_difference_is_named() {
    let url = Cluster::shared().database();
    migrate(&url, PostgresOptions::new()).await.unwrap();
    sql(
        &url,
        "ALTER TABLE khala.update DROP COLUMN trace;
         ALTER TABLE khala.topic ADD COLUMN mine text;
         DROP INDEX khala.receipt_last;
         CREATE OR REPLACE FUNCTION khala.json_depth(value text) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    );
    let found = check(&url, PostgresOptions::new()).await.unwrap();
    let named = |what: &str| found.iter().any(|line| line.starts_with(what));
    for what in [
        "missing: column update.trace text",
        "unexpected: column topic.mine text",
        "missing: index receipt USING btree (topic_id, last_seq)",
        "missing: function json_depth(value text)",
        "unexpected: function json_depth(value text)",
    ] {
        assert!(named(what), "{what} is not in {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[tokio::test]
async fn stores_that_open_an_empty_database_at_once_make_it_once() {
    let url = Cluster::shared().database();
    let opening = (0..8).map(|_| PostgresStore::open(&url, PostgresOptions::new()));
    for store in futures::future::join_all(opening).await {
        store.unwrap();
    }
    assert_eq!(check(&url, PostgresOptions::new()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn versions_work_side_by_side_as_long_as_the_newer_one_says_so() {
    let url = Cluster::shared().database();
    migrate(&url, PostgresOptions::new()).await.unwrap();
    sql(
        &url,
        "UPDATE khala.meta SET schema_version = schema_version + 1; ALTER TABLE khala.topic ADD COLUMN more text",
    );
    assert_eq!(
        check(&url, PostgresOptions::new()).await.unwrap(),
        [""; 0],
        "a newer one's tables are its own matter"
    );
    PostgresStore::open(&url, PostgresOptions::new()).await.unwrap();
    sql(&url, "UPDATE khala.meta SET works_since = schema_version");
    for migrate in [true, false] {
        let error =
            PostgresStore::open(&url, PostgresOptions::new().with_migrate(migrate)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("run a newer version of Khala"), "{error}");
    }
}

#[tokio::test]
async fn without_the_right_to_migrate_the_tables_must_be_there() {
    let url = Cluster::shared().database();
    let error = PostgresStore::open(&url, PostgresOptions::new().with_migrate(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    migrate(&url, PostgresOptions::new()).await.unwrap();
    PostgresStore::open(&url, PostgresOptions::new().with_migrate(false)).await.unwrap();
}
