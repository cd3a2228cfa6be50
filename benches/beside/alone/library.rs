//! Khala in the process of whoever appends: many tasks, each of which waits for its append to be synced.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use khala_core::{Append, Batch, Khala, Timestamp, Topic, journal::Journal};
use khala_store_sqlite::SqliteStore;
use tokio::runtime::Runtime;

use super::{Done, Meter};
use crate::{
    crowd::{During as _, Failure, Histogram},
    update,
};

/// Who takes an append.
#[derive(Clone, Debug)]
enum Taker {
    /// What an application holds.
    Handle(Khala),
    /// What is below it.
    Store(Arc<SqliteStore>),
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

pub(super) fn append(folder: &Path, handle: bool, tasks: usize, length: Duration) -> Result<Done, Failure> {
    let runtime = Runtime::new().during("making a runtime")?;
    let _entered = runtime.enter();
    let store = SqliteStore::open(folder.join("khala.db")).during("opening a store")?;
    let store = Arc::new(store);
    let taker = if handle {
        Taker::Handle(Khala::builder(Arc::clone(&store)).build())
    } else {
        Taker::Store(Arc::clone(&store))
    };
    let topic = Topic::parse("beside:0").during("naming a topic")?;
    // What is made once is.
    runtime.block_on(taker.append(&topic))?;
    let meter = Meter::start()?;
    let until = Instant::now() + length;
    let task = || {
        let (taker, topic) = (taker.clone(), topic.clone());
        runtime.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let begin = Instant::now();
                taker.append(&topic).await?;
                times.push(begin.elapsed().as_micros() as u32);
            }
            Ok::<_, Failure>(times)
        })
    };
    let tasks: Vec<_> = (0..tasks).map(|_| task()).collect();
    let times = runtime.block_on(join_all(tasks));
    let mut done = meter.stop(0, Histogram::default())?;
    for times in times {
        for time in times.during("a task")?? {
            done.latency.add(u64::from(time), 1);
            done.units += 1;
        }
    }
    let head = runtime.block_on(store.bounds(&topic)).during("counting")?.head.as_u64();
    done.lost = (done.units + 1).abs_diff(head);
    Ok(done)
}
