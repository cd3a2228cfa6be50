//! What was begun is finished, whether or not anybody waits for it any more.
//!
//! An effect and its consequence, as an append and its announcement, must not stand in one future that a client which hangs up
//! can drop between the two. Nothing is spent on that while somebody waits but the room for the future.
//!
//! # Invariants
//! A future that was never polled has begun nothing and is dropped; one that was is driven to its end.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, FusedFuture},
};

use crate::clock::Clock;

/// Work that goes on where it is dropped.
pub(crate) struct Finish<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    begun: bool,
    clock: Arc<dyn Clock>,
}

impl<T: Send + 'static> Finish<T> {
    pub(crate) fn new(clock: &Arc<dyn Clock>, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(work.boxed()), begun: false, clock: Arc::clone(clock) }
    }
}

impl<T: Send + 'static> fmt::Debug for Finish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finish").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        let Some(work) = &mut self.work else { return Poll::Pending };
        let done = work.as_mut().poll(context);
        if done.is_ready() {
            self.work = None;
        }
        done
    }
}

impl<T: Send + 'static> FusedFuture for Finish<T> {
    fn is_terminated(&self) -> bool {
        self.work.is_none()
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && self.begun
        {
            self.clock.finish(work.map(drop).boxed());
        }
    }
}
