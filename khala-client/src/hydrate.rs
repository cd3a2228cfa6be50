//! Fetches what stayed behind: payloads that are larger than their topic's class sends along.
//!
//! Each is taken from the history over HTTP, under the very seq that it was announced with, so the application sees the log as it
//! would have been.
//!
//! # Invariants
//! Updates are handed out whole or not at all.

use std::num::NonZeroUsize;

use khala_core::{
    Cursor, Seq, Topic, Watermark,
    journal::{ReadLimit, Replay},
    wire::Code,
};

use crate::{
    error::{Error, Refused},
    event::Arrived,
    http::Http,
};

/// Puts the payloads of `left_out`, which are in order, into `arrived`. A future that is dropped leaves nothing behind.
///
/// # Errors
/// An [`Error`] when they cannot be had: `stale_cursor` when they were trimmed meanwhile, which a join from before them
/// is then told too.
pub(crate) async fn hydrate(
    http: &Http,
    topic: &Topic,
    mut arrived: Arrived,
    left_out: &[Seq],
) -> Result<Arrived, Error> {
    let mut wanted = left_out;
    while let [first, .., last] | [first @ last] = wanted {
        // Those that follow come with the same page, as far as it goes.
        let many = usize::try_from(last.as_u64() - first.as_u64()).unwrap_or(usize::MAX);
        let limit = NonZeroUsize::MIN.saturating_add(many).min(ReadLimit::PAGE.updates);
        let limit = ReadLimit::new(limit, usize::MAX);
        let before = Watermark::new(first.as_u64() - 1).unwrap_or_default();
        let page = match http.history(topic, Cursor::new(arrived.cursor.epoch, before), limit).await? {
            Replay::Page(page) => page,
            Replay::Stale(stale) => {
                let message = format!("a payload was trimmed before it was fetched: {stale}");
                return Err(Error::Refused(Refused::of(Code::StaleCursor, &message)));
            }
        };
        if page.updates.first().is_none_or(|update| update.seq != *first) {
            let number = first.as_u64();
            return Err(Error::Protocol(format!("update {number} was announced and is not in the history")));
        }
        for update in page.updates {
            if wanted.first() != Some(&update.seq) {
                continue;
            }
            wanted = &wanted[1..];
            if let Some(place) = arrived.updates.iter_mut().find(|place| place.seq == update.seq) {
                *place = update;
            }
        }
    }
    Ok(arrived)
}
