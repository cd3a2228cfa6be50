//! Khala in the process of an application: many tasks, each of which waits for its append to be synced.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use khala_core::{Append, Batch, Khala, Timestamp, Topic, journal::Journal};
use khala_store_postgres::PostgresStore;
use khala_store_sqlite::SqliteStore;
use khala_testing::{During as _, Failure, Histogram};
use tokio::runtime::Runtime;

use super::{Done, Meter, Store};
use crate::update;

/// What takes an append.
#[derive(Clone)]
enum Taker {
    Handle(Khala),
    Store(Arc<dyn Journal>),
}

impl Taker {
    async fn append(&self, topic: &Topic) -> Result<(), Failure> {
        let batch = Batch::new(vec![update()]).during("making a batch")?;
        let answer = match self {
            Self::Handle(khala) => khala.publish(topic, batch).await.during("publishing")?,
            Self::Store(store) => {
                store.append(topic, batch, Timestamp::from_millis(0)).await.during("appending")?
            }
        };
        match answer {
            Append::Written(_) => Ok(()),
            other => Err(Failure::new(format_args!("an append was answered {other:?}"))),
        }
    }
}

/// Appends by `tasks` tasks to `topics` topics for `length`.
pub(super) fn append(
    folder: &Path,
    store: &Store,
    tasks: usize,
    topics: usize,
    length: Duration,
) -> Result<Done, Failure> {
    let runtime = Runtime::new().during("making a runtime")?;
    let _entered = runtime.enter();
    let sqlite = || SqliteStore::open(folder.join("khala.db")).map(Arc::new).during("opening a store");
    let mut postgres = None;
    let (journal, taker): (Arc<dyn Journal>, _) = match store {
        Store::Handle => {
            let store = sqlite()?;
            (Arc::clone(&store) as _, Taker::Handle(Khala::builder(store).build()))
        }
        Store::Postgres(url) => {
            let opened = runtime.block_on(PostgresStore::open(url)).during("opening a store")?;
            let store: Arc<dyn Journal> = Arc::new(postgres.insert(opened).clone());
            (Arc::clone(&store), Taker::Store(store))
        }
        Store::Sqlite => {
            let store: Arc<dyn Journal> = sqlite()?;
            (Arc::clone(&store), Taker::Store(store))
        }
    };
    let topics: Result<Vec<_>, _> =
        (0..topics).map(|number| Topic::parse(&format!("bench:{number}"))).collect();
    let topics = topics.during("naming topics")?;
    // What is made once is.
    for made in runtime.block_on(join_all(topics.iter().map(|topic| taker.append(topic)))) {
        made?;
    }
    let commits = || postgres.as_ref().map(|store| (store.stats().appends, store.stats().commits));
    let (before, meter) = (commits(), Meter::start()?);
    let until = Instant::now() + length;
    let task = |number: usize| {
        let (taker, topics) = (taker.clone(), topics.clone());
        runtime.spawn(async move {
            let mut times = Vec::new();
            for turn in 0.. {
                if Instant::now() >= until {
                    break;
                }
                let begin = Instant::now();
                taker.append(&topics[(number + turn * tasks) % topics.len()]).await?;
                times.push(begin.elapsed().as_micros() as u64);
            }
            Ok::<_, Failure>(times)
        })
    };
    let times = runtime.block_on(join_all((0..tasks).map(task)));
    let mut done = meter.stop(0, Histogram::default())?;
    for times in times {
        for time in times.during("a task")?? {
            done.latency.add(time, 1);
            done.units += 1;
        }
    }
    if let (Some(before), Some(after)) = (before, commits()) {
        let share = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        done.extras.insert("appends a commit".to_owned(), share);
    }
    let bounds = runtime.block_on(join_all(topics.iter().map(|topic| journal.bounds(topic))));
    let heads: Result<u64, khala_core::Error> =
        bounds.into_iter().map(|bounds| Ok(bounds?.head.as_u64())).sum();
    let heads = heads.during("counting")?;
    done.lost = (done.units + topics.len() as u64).abs_diff(heads);
    Ok(done)
}
