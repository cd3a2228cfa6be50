//! One page of 200 updates: read from memory, from the tail and from SQLite; and encoded for the wire.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use khala_benches::fill;
use khala_core::{
    Cursor, MemoryStore, Topic, Watermark,
    clock::Moment,
    journal::{Journal, Page, ReadFrom, ReadLimit, Replay},
    tail::{CacheLookup, FollowResult, Freshness, TailJournal, TailOptions},
    wire,
};
use khala_store_sqlite::SqliteStore;

const UPDATES: usize = 1_000;

fn page(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let topic = Topic::parse("run:7:events").expect("a topic");
    let folder = tempfile::tempdir().expect("a folder");
    let memory: Arc<dyn Journal> = Arc::new(MemoryStore::new());
    let sqlite: Arc<dyn Journal> = {
        let _entered = runtime.enter();
        Arc::new(SqliteStore::open(folder.path().join("bench.db")).expect("a store"))
    };
    let mut group = c.benchmark_group("page of 200");
    group.throughput(Throughput::Elements(200));

    for (name, journal) in [("memory", &memory), ("sqlite", &sqlite)] {
        runtime.block_on(fill(&**journal, &topic, UPDATES));
        let start = runtime.block_on(middle(&**journal, &topic));
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| read(&**journal, &topic, start.into()));
        });
    }

    // The tail holds the pages that a follower read; all who come after share them.
    let tail = TailJournal::new(memory, TailOptions::default());
    let steady = Moment::from_millis(1);
    let start = runtime.block_on(async {
        let bounds = tail.bounds(&topic).await.expect("bounds");
        let mut cursor = bounds.at_head();
        tail.follow(&topic, cursor, Freshness::default(), steady).await.expect("a tail at the head");
        fill(&tail, &topic, 200).await;
        while let FollowResult::Page { page, .. } =
            tail.follow(&topic, cursor, Freshness::default(), steady).await.expect("a page")
        {
            cursor = page.page().cursor();
        }
        bounds.at_head()
    });
    group.bench_function("tail", |bencher| {
        bencher.iter(|| {
            let followed = tail.get(&topic, start, Freshness::default(), steady);
            let CacheLookup::Hit(FollowResult::Page { page, .. }) = followed else {
                panic!("the tail holds it")
            };
            assert_eq!(page.page().updates.len(), 200);
            page
        });
    });

    let page = runtime.block_on(read(&tail, &topic, start.into()));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let mut frame = Vec::new();
            wire::write_page(&mut frame, black_box(&page), None);
            frame
        });
    });
    group.finish();
}

async fn middle(journal: &dyn Journal, topic: &Topic) -> Cursor {
    let bounds = journal.bounds(topic).await.expect("bounds");
    Cursor::new(bounds.epoch, Watermark::new(400).expect("a watermark"))
}

async fn read(journal: &dyn Journal, topic: &Topic, start: ReadFrom) -> Page {
    let Ok(Replay::Page(page)) = journal.read(topic, start, ReadLimit::PAGE).await else { panic!("a page") };
    assert_eq!(page.updates.len(), 200);
    page
}

criterion_group!(benches, page);
criterion_main!(benches);
