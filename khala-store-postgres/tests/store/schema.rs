//! The schema: what the migrations make, and what is said when somebody changed it.

use khala_store_postgres::{PostgresOptions, Schema, check, migrate, shape_of};
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
