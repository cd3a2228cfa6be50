//! The connections that read: a few, each lent to one question at a time, on a thread that may block.
//!
//! None is held across an await of the caller's, nor is the turn to have one: tasks of the store's own wait for
//! turns, so a caller that is not polled any more pins nothing. A question whose asker has gone is dropped at its
//! turn, or answered to nobody, and its connection comes back all the same.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use khala_core::Error;
use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot},
    task,
};

use crate::{
    fault::{BACKEND, Fault, shutting_down},
    site::Site,
    sql,
};

#[derive(Debug)]
pub(crate) struct Readers {
    idle: Arc<Idle>,
    site: Arc<Site>,
    turns: Arc<Semaphore>,
}

struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("connections", &self.lock().len()).finish()
    }
}

/// A connection on loan. It goes back, and only then lets the next one have its turn.
struct Loan {
    conn: Option<Connection>,
    idle: Arc<Idle>,
    site: Arc<Site>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            if !conn.is_autocommit() {
                // A question panicked; the next one must not be answered from its moment.
                let _ = conn.execute_batch(sql::ROLLBACK);
            }
            if self.site.stands().is_err() {
                self.site.close(conn);
                return;
            }
            self.idle.lock().push(conn);
        }
    }
}

impl Readers {
    pub(crate) fn new(connections: Vec<Connection>, site: Arc<Site>) -> Self {
        let turns = Arc::new(Semaphore::new(connections.len()));
        Self { idle: Arc::new(Idle(Mutex::new(connections))), site, turns }
    }

    /// Closes what is not on loan; what is closes as it comes back.
    pub(crate) fn close(&self) {
        self.turns.close();
        for conn in self.idle.lock().drain(..) {
            self.site.close(conn);
        }
    }

    /// Asks a connection, once one is free.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        self.site.admit_reader()?;
        let (answer, answered) = oneshot::channel();
        let (idle, site, turns) = (Arc::clone(&self.idle), Arc::clone(&self.site), Arc::clone(&self.turns));
        let on = move |turn| {
            if answer.is_closed() {
                return;
            }
            let conn = idle.lock().pop();
            let loan = Loan { conn, idle, site, _turn: turn };
            task::spawn_blocking(move || {
                let conn = loan.conn.as_ref().ok_or_else(shutting_down);
                // The connection stays: its statements are reset, and what was open is rolled back.
                let said = conn.and_then(|conn| {
                    let said = catch_unwind(AssertUnwindSafe(|| question(conn)));
                    said.unwrap_or_else(|panic| Err(Error::panicked(BACKEND, &*panic).into()))
                        .map_err(Error::from)
                });
                drop(loan);
                let _ = answer.send(said);
            });
        };
        match Arc::clone(&turns).try_acquire_owned() {
            Ok(turn) => on(turn),
            Err(TryAcquireError::Closed) => return Err(shutting_down()),
            // Not waited for here: the semaphore hands a turn to a waiter whether or not that is polled ever again.
            Err(TryAcquireError::NoPermits) => {
                task::spawn(async move {
                    if let Ok(turn) = turns.acquire_owned().await {
                        on(turn);
                    }
                });
            }
        }
        // Nobody answers where the store is closed, or the runtime shuts down.
        answered.await.unwrap_or_else(|_| Err(Error::unanswered(BACKEND)))
    }
}
