//! The schema: what the migrations make, and what is said when somebody changed it.

use khala_core::ErrorKind;
use khala_store_postgres::{PostgresOptions, PostgresStore, Schema, check, migrate, new_epochs, shape_of};
use khala_testing::Cluster;

use crate::support::{fresh, patient, sql};

/// What the migrations make is what the file says. `KHALA_WRITE_SHAPE=1` writes it, after a new migration.
#[tokio::test]
async fn the_file_of_the_shape_is_what_the_migrations_make() {
    let url = Cluster::shared().database();
    migrate(&url, PostgresOptions::default()).await.unwrap();
    let made: String = shape_of(&url, PostgresOptions::default()).await.unwrap().join("\n") + "\n";
    if std::env::var_os("KHALA_WRITE_SHAPE").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/migrations/shape.txt");
        std::fs::write(file, &made).unwrap();
    }
    assert_eq!(made, include_str!("../../src/migrations/shape.txt"), "run it with KHALA_WRITE_SHAPE=1");
}

#[tokio::test]
async fn what_was_migrated_differs_in_nothing_whatever_the_schema_is_called() {
    for name in ["khala", "other_1"] {
        let options =
            || PostgresOptions { schema: Schema::parse(name).unwrap(), ..PostgresOptions::default() };
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
    migrate(&url, PostgresOptions::default()).await.unwrap();
    sql(
        &url,
        "ALTER TABLE khala.update DROP COLUMN trace;
         ALTER TABLE khala.topic ADD COLUMN mine text;
         DROP INDEX khala.receipt_last;
         CREATE OR REPLACE FUNCTION khala.json_depth(value text) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    );
    let found = check(&url, PostgresOptions::default()).await.unwrap();
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
    let opening = (0..8).map(|_| PostgresStore::open_with(&url, patient()));
    for store in futures::future::join_all(opening).await {
        store.unwrap();
    }
    assert_eq!(check(&url, PostgresOptions::default()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn versions_work_side_by_side_as_long_as_the_newer_one_says_so() {
    let url = Cluster::shared().database();
    migrate(&url, PostgresOptions::default()).await.unwrap();
    sql(
        &url,
        "UPDATE khala.meta SET schema_version = schema_version + 1; ALTER TABLE khala.topic ADD COLUMN more text",
    );
    assert_eq!(
        check(&url, PostgresOptions::default()).await.unwrap(),
        [""; 0],
        "a newer one's tables are its own matter"
    );
    PostgresStore::open(&url).await.unwrap();
    sql(&url, "UPDATE khala.meta SET works_since = schema_version");
    for migrate in [true, false] {
        let error = PostgresStore::open_with(&url, PostgresOptions { migrate, ..PostgresOptions::default() })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("run a newer version of Khala"), "{error}");
    }
}

#[tokio::test]
async fn without_the_right_to_migrate_the_tables_must_be_there() {
    let url = Cluster::shared().database();
    let error =
        PostgresStore::open_with(&url, PostgresOptions { migrate: false, ..PostgresOptions::default() })
            .await
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    migrate(&url, PostgresOptions::default()).await.unwrap();
    PostgresStore::open_with(&url, PostgresOptions { migrate: false, ..PostgresOptions::default() })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_schema_called_like_a_word_of_the_function_differs_in_nothing() {
    let mut alarms = Vec::new();
    for name in ["user", "order", "topic", "deleted", "hex", "x"] {
        let options =
            || PostgresOptions { schema: Schema::parse(name).unwrap(), ..PostgresOptions::default() };
        let url = Cluster::shared().database();
        migrate(&url, options()).await.unwrap();
        if !check(&url, options()).await.unwrap().is_empty() {
            alarms.push(name);
        }
    }
    assert_eq!(alarms, [""; 0]);
}

/// Those of these changes that `check` does not find.
async fn unnoticed(changes: &[&'static str]) -> Vec<&'static str> {
    let mut unnoticed = Vec::new();
    for change in changes {
        let (url, _) = fresh().await;
        sql(&url, change);
        if check(&url, PostgresOptions::default()).await.unwrap().is_empty() {
            unnoticed.push(*change);
        }
    }
    unnoticed
}

#[tokio::test]
async fn a_function_that_is_no_longer_safe_is_a_difference() {
    let changes =
        ["ALTER FUNCTION khala.append RESET search_path", "ALTER FUNCTION khala.append SECURITY INVOKER"];
    assert_eq!(unnoticed(&changes).await, [""; 0]);
}

#[tokio::test]
async fn another_order_of_names_and_constraints_that_are_gone_are_differences() {
    let changes = [
        "ALTER TABLE khala.topic ALTER topic TYPE text COLLATE \"und-x-icu\"",
        "ALTER TABLE khala.topic ALTER topic_id DROP IDENTITY",
        "ALTER TABLE khala.topic ALTER floor DROP DEFAULT",
        "ALTER TABLE khala.meta DROP CONSTRAINT meta_one_check",
    ];
    assert_eq!(unnoticed(&changes).await, [""; 0]);
}

#[tokio::test]
async fn the_right_to_create_in_the_schema_is_enough() {
    let url = Cluster::shared().database();
    let role = format!("migrates_{}", url.rsplit('/').next().unwrap());
    sql(
        &url,
        &format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA khala; GRANT USAGE, CREATE ON SCHEMA khala TO {role}"
        ),
    );
    migrate(&url.replace("khala@", &format!("{role}@")), PostgresOptions::default()).await.unwrap();
}

#[tokio::test]
async fn whoever_is_too_old_for_the_tables_draws_no_epochs_in_them() {
    let (url, _) = fresh().await;
    sql(&url, "UPDATE khala.meta SET schema_version = schema_version + 1, works_since = schema_version + 1");
    let error = new_epochs(&url, PostgresOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn when_new_epochs_are_an_error_nothing_was_changed() {
    let (url, _) = fresh().await;
    sql(&url, "SELECT khala.append('t', 'k', '1')");
    sql(
        &url,
        "CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON khala.topic DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION slow_commit()",
    );
    let before = sql(&url, "SELECT epoch FROM khala.topic");
    let options = PostgresOptions {
        statement_timeout: std::time::Duration::from_millis(300),
        ..PostgresOptions::default()
    };
    let drawn = new_epochs(&url, options).await;
    // Behind the row's lock, whatever goes on has ended.
    sql(&url, "SELECT khala.append('t', 'k', '2')");
    let after = sql(&url, "SELECT epoch FROM khala.topic");
    assert_eq!(drawn.is_ok(), before != after, "{drawn:?}");
}
