//! Reads: what a caller that stalls, or goes away, does to everybody else's.

use std::num::NonZeroUsize;

use futures::FutureExt;
use khala_core::journal::Journal;
use khala_store_sqlite::SqliteOptions;

use crate::support::{Place, soon, topic};

#[tokio::test]
async fn reads_that_are_not_polled_on_hold_up_nobody() {
    for readers in [1, 2] {
        let place = Place::new();
        let readers = NonZeroUsize::new(readers).unwrap();
        let store = place.open_with(SqliteOptions { readers, ..SqliteOptions::default() });
        let topic = topic("t");
        let mut stalled: Vec<_> = (0..8).map(|_| store.bounds(&topic)).collect();
        // Polled once, each has a reader or waits for one; a quick reader may have answered already.
        stalled.retain_mut(|read| read.now_or_never().is_none());
        let bounds = soon(store.bounds(&topic)).await.unwrap();
        // Some go away; the others are answered once they are polled again.
        stalled.truncate(4);
        for read in stalled {
            assert_eq!(soon(read).await.unwrap(), bounds);
        }
    }
}
