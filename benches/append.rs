//! Durable appends through the SQLite store, next to what raw rusqlite does with transactions of the same size.
//!
//! `append/1` is one publisher that waits for each answer, `append/64` and `append/1024` that many at once; group
//! commit is what lets them share transactions. `raw/n` inserts n rows of the same size per transaction into one
//! plain table. All are fully synced (`synchronous=FULL`).

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use khala_benches::{PAYLOAD, update};
use khala_core::{Append, Batch, Timestamp, Topic, journal::Journal};
use khala_store_sqlite::SqliteStore;

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("append");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(1));
    for publishers in [1_u64, 64, 1024] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = {
            let _entered = runtime.enter();
            SqliteStore::open(folder.path().join("bench.db")).expect("a store")
        };
        let store = Arc::new(store);
        let topic = Topic::parse("run:7:events").expect("a topic");
        group.bench_function(publishers.to_string(), |bencher| {
            bencher.iter_custom(|appends| {
                let started = Instant::now();
                let publish = |share: u64| {
                    let (store, topic) = (Arc::clone(&store), topic.clone());
                    runtime.spawn(async move {
                        for _ in 0..share {
                            let batch = Batch::new(vec![update()]).expect("a batch");
                            let answer = store.append(&topic, batch, Timestamp::from_millis(0)).await;
                            assert!(matches!(answer, Ok(Append::Written(_))), "{answer:?}");
                        }
                    })
                };
                let share = |index| appends / publishers + u64::from(index < appends % publishers);
                let publishing = (0..publishers).map(|index| publish(share(index)));
                runtime.block_on(join_all(publishing.collect::<Vec<_>>()));
                started.elapsed()
            });
        });
    }
    group.finish();
}

fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("raw");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(1));
    for per_transaction in [1_u64, 64, 512, 1024] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = rusqlite::Connection::open(folder.path().join("raw.db")).expect("a file");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 CREATE TABLE entry (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL)",
            )
            .expect("a table");
        group.bench_function(per_transaction.to_string(), |bencher| {
            bencher.iter_custom(|inserts| {
                let started = Instant::now();
                let mut left = inserts;
                while left > 0 {
                    let transaction = connection.transaction().expect("a transaction");
                    {
                        let insert = "INSERT INTO entry (kind, payload) VALUES (?1, ?2)";
                        let mut insert = transaction.prepare_cached(insert).expect("a statement");
                        for _ in 0..left.min(per_transaction) {
                            insert.execute(["step", black_box(PAYLOAD)]).expect("a row");
                        }
                    }
                    transaction.commit().expect("a commit");
                    left -= left.min(per_transaction);
                }
                started.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append, raw);
criterion_main!(benches);
