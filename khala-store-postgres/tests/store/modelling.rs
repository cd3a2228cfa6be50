//! What docs/modelling.md says to run on PostgreSQL runs, block by block, and does what the page says of it.

use khala_core::{
    documents::{Documents, Snapshot, SnapshotFrom},
    journal::{Journal as _, ReadLimit},
};
use khala_store_postgres::PostgresStore;

use crate::support::{fresh, log, sql, topic};

const PAGE: &str = include_str!("../../../docs/modelling.md");

async fn documents(store: &PostgresStore, name: &str) -> Vec<String> {
    let limit = ReadLimit::PAGE;
    match store.snapshot(&topic(name), SnapshotFrom::Start, limit).await.unwrap() {
        Snapshot::Page(page) => {
            page.documents.iter().map(|document| document.payload.as_str().to_owned()).collect()
        }
        Snapshot::Stale(stale) => panic!("{stale:?}"),
    }
}

async fn head(store: &PostgresStore, name: &str) -> u64 {
    store.bounds(&topic(name)).await.unwrap().head.as_u64()
}

#[tokio::test]
async fn the_statements_of_the_modelling_guide_do_what_it_says() {
    let blocks: Vec<_> =
        PAGE.split("```sql\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    let [appends, tombstone, trigger, backfill, batches] = blocks[..] else {
        panic!("there are {} blocks of SQL", blocks.len())
    };
    let (url, store) = fresh().await;

    sql(&url, appends);
    assert_eq!(log(&store, &topic("run:7:events")).await.len(), 2);
    assert_eq!(documents(&store, "run:7:events").await, [""; 0]);
    assert_eq!(documents(&store, "room:5").await, [r#"{"name": "Ada", "typing": true}"#]);
    sql(&url, tombstone);
    assert_eq!(documents(&store, "room:5").await, [""; 0]);
    assert_eq!(head(&store, "room:5").await, 3);

    // Rows of before the trigger, in two organisations.
    let (table, rest) = trigger.split_once("-- What is published").unwrap();
    sql(&url, table);
    sql(&url, "INSERT INTO orders SELECT n, 'acme', 'new', 'secret' FROM generate_series(1, 450) AS n");
    sql(&url, &format!("-- What is published{rest}"));
    assert_eq!(head(&store, "org:acme:orders:1").await, 0);

    // The trigger: one transaction, and nothing of one that is rolled back.
    sql(&url, "BEGIN; UPDATE orders SET state = 'paid' WHERE id = 1; ROLLBACK");
    assert_eq!(head(&store, "org:acme:orders:1").await, 0);
    sql(&url, "UPDATE orders SET state = 'paid' WHERE id = 1");
    assert_eq!(documents(&store, "org:acme:orders:1").await, [r#"{"id" : 1, "state" : "paid"}"#]);
    sql(&url, "INSERT INTO orders VALUES (900, 'other', 'new'); DELETE FROM orders WHERE id = 900");
    assert_eq!(head(&store, "org:other:orders:900").await, 2);
    assert_eq!(documents(&store, "org:other:orders:900").await, [""; 0]);

    // Batches store every row; a second run, by either statement, stores nothing.
    let heads = || sql(&url, "SELECT count(*), sum(head) FROM khala.topic WHERE topic LIKE 'org:acme:%'");
    sql(&url, batches);
    assert_eq!(heads(), "450|451", "order 1 was published by its trigger too");
    sql(&url, batches);
    sql(&url, backfill);
    assert_eq!(heads(), "450|451");
    // A row that changed is published by its trigger, and once more by a backfill that finds its new state.
    sql(&url, "UPDATE orders SET state = 'paid' WHERE id = 7");
    sql(&url, backfill);
    sql(&url, batches);
    assert_eq!(heads(), "450|453");
    assert_eq!(documents(&store, "org:acme:orders:7").await, [r#"{"id" : 7, "state" : "paid"}"#]);
    assert!(
        log(&store, &topic("org:acme:orders:7")).await.iter().all(|u| !u.payload.as_str().contains("secret"))
    );
}
