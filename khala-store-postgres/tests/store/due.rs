//! What is due after a migration, and what makes a topic due that neither this code nor this process wrote to.

use std::num::NonZeroUsize;

use khala_core::{
    Timestamp,
    journal::{Journal, Settled},
};
use khala_store_postgres::{PostgresOptions, PostgresStore, check, migrate};

use crate::support::{NOW, batch, fresh, sql, topic, written};

const RULES: u64 = 7;

/// What makes of the tables what version 4 had.
const AS_VERSION_4: &str = "
    DO $$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef(p.oid), 'SET head = seq, due_at = 0,', 'SET head = seq,')
        FROM pg_proc p WHERE p.pronamespace = 'khala'::regnamespace AND p.proname = 'append'); END $$;
    DROP INDEX khala.topic_due, khala.topic_there, khala.document_there, khala.document_gone;
    ALTER TABLE khala.topic DROP COLUMN due_at, DROP COLUMN idle_since;
    ALTER TABLE khala.meta DROP COLUMN rules;
    UPDATE khala.meta SET schema_version = 4";

async fn due(store: &PostgresStore) -> Vec<String> {
    let page = store.due(RULES, None, NOW, NonZeroUsize::MAX).await.unwrap();
    page.topics.iter().map(|(_, topic, _)| topic.as_str().to_owned()).collect()
}

async fn put_off(store: &PostgresStore, name: &str) {
    let topic = topic(name);
    let head = store.bounds(&topic).await.unwrap().at_head();
    let due = Timestamp::from_millis(u64::MAX);
    store
        .settle(
            RULES,
            &[Settled { topic, head, due, seen_at: due, tombstones: None, retire_idle_since: None }],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn what_version_4_wrote_is_due_and_its_function_makes_topics_due() {
    let (url, store) = fresh().await;
    written(store.append(&topic("before"), batch([1]), NOW).await.unwrap());
    store.close().await;
    sql(&url, AS_VERSION_4);
    sql(&url, "SELECT khala.append('by_function', 'k', '1')");
    migrate(&url, PostgresOptions::default()).await.unwrap();
    assert_eq!(check(&url, PostgresOptions::default()).await.unwrap(), [""; 0]);

    let store = PostgresStore::open(&url).await.unwrap();
    assert_eq!(due(&store).await, ["before", "by_function"]);
    for name in ["before", "by_function"] {
        put_off(&store, name).await;
    }
    assert_eq!(due(&store).await, [""; 0]);
    sql(&url, "SELECT khala.append('by_function', 'k', '2')");
    assert_eq!(due(&store).await, ["by_function"]);
}

#[tokio::test]
async fn rows_that_somebody_else_put_there_are_due() {
    let (url, store) = fresh().await;
    sql(
        &url,
        "INSERT INTO khala.topic (topic, epoch, floor, head) SELECT 'idle:' || n, n, 3, 3 FROM generate_series(1, 1200) n",
    );
    assert_eq!(due(&store).await.len(), 1_200);
    let all: Vec<Settled> = {
        let page = store.due(RULES, None, NOW, NonZeroUsize::MAX).await.unwrap();
        let due = NOW.plus(std::time::Duration::from_secs(1));
        page.topics
            .into_iter()
            .map(|(_, topic, bounds)| Settled {
                topic,
                head: bounds.at_head(),
                due,
                seen_at: due,
                tombstones: None,
                retire_idle_since: None,
            })
            .collect()
    };
    store.settle(RULES, &all).await.unwrap();
    assert_eq!(due(&store).await, [""; 0]);
    // Other rules come in steps, and then all are due again.
    store.settle(RULES + 1, &[]).await.unwrap();
    assert_eq!(due(&store).await.len(), 1_200);
}
