//! Races: writers and readers on real tasks, for the laws that hold whatever happens at the same time.

use std::{
    future::Future,
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::{self, JoinSet};

/// Whether every writer of a race is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Over(Arc<AtomicBool>);

impl Over {
    /// Lets others run, then says whether to look once more. What is looked at afterwards is all there is.
    pub(super) async fn is_over(&self) -> bool {
        task::yield_now().await;
        self.0.load(Ordering::Acquire)
    }
}

/// Runs writers, and readers until they find that the race is [`Over`]; returns what each made of it.
pub(super) async fn race<W, R>(
    over: &Over,
    readers: impl IntoIterator<Item = R>,
    writers: impl IntoIterator<Item = W>,
) -> (Vec<R::Output>, Vec<W::Output>)
where
    R: Future<Output: Send> + Send + 'static,
    W: Future<Output: Send> + Send + 'static,
{
    let readers: JoinSet<R::Output> = readers.into_iter().collect();
    let writers: JoinSet<W::Output> = writers.into_iter().collect();
    let written = finish(writers).await;
    over.0.store(true, Ordering::Release);
    (finish(readers).await, written)
}

/// Runs all of them at once.
pub(super) async fn at_once<W>(tasks: impl IntoIterator<Item = W>) -> Vec<W::Output>
where
    W: Future<Output: Send> + Send + 'static,
{
    finish(tasks.into_iter().collect()).await
}

async fn finish<T: Send + 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        match result {
            Ok(result) => results.push(result),
            Err(fault) => panic::resume_unwind(fault.into_panic()),
        }
    }
    results
}
