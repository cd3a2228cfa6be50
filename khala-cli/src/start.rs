//! Where `khala tail` starts without a cursor: at an end of what is kept, at a moment, or some updates before the head.
//!
//! A moment is looked up by its updates' `published_at`, which is the clock of the server that took them: where several servers' clocks
//! differ, the start is as exact as those clocks.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use khala_client::{Client, TopicHandle};
use khala_core::{
    Bounds, Cursor, Timestamp, Topic, Watermark,
    clock::{Clock as _, SystemClock},
    journal::{ReadLimit, Replay},
    wire::Resume,
};

use crate::{
    duration::number,
    exit::Failure,
    moment::{Moment, since},
    notice::Notices,
};

/// How often a look-up begins anew because the history was trimmed under it.
const ATTEMPTS: usize = 5;

/// The options that say where.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct StartAt {
    /// Where to start without a cursor: at the oldest update that is kept, at the head (only new updates), or with a snapshot of the
    /// documents, followed by new updates [default: head]
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Start with the updates since then: how long ago (10m, 2h, 3d), a local date (2026-12-01) or a moment (2026-12-01T18:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = since, allow_hyphen_values = true)]
    since: Option<Moment>,
    /// Start with the last N updates
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX), allow_hyphen_values = true)]
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Floor,
    Head,
    Snapshot,
}

impl StartAt {
    /// What to join with.
    pub(crate) async fn resume(
        self,
        client: &Client,
        topic: &Topic,
        notices: &Notices,
    ) -> Result<Resume, Failure> {
        if let Some(count) = self.last {
            let Bounds { epoch, floor, head } = client.bounds(topic).await?;
            let after = head.as_u64().saturating_sub(count).max(floor.as_u64());
            return Ok(Resume::After(Cursor::new(epoch, watermark(after))));
        }
        if let Some(moment) = self.since {
            let moment = moment.before(SystemClock::new().now());
            let topic = client.topic(topic.clone()).map_err(|fault| Failure::usage(fault.to_string()))?;
            return Ok(Resume::After(before(&topic, moment, notices).await?));
        }
        Ok(match self.from {
            Some(From::Floor) => Resume::Floor,
            Some(From::Head) | None => Resume::Head,
            Some(From::Snapshot) => Resume::Snapshot,
        })
    }
}

/// The cursor before the first update that was published at that moment or later.
async fn before(topic: &TopicHandle, moment: Timestamp, notices: &Notices) -> Result<Cursor, Failure> {
    for _ in 0..ATTEMPTS {
        let Bounds { epoch, floor, head } = topic.bounds().await?;
        let (mut low, mut high) = (floor.as_u64(), head.as_u64());
        let mut trimmed = false;
        while low < high {
            let middle = low + (high - low) / 2;
            let read = topic.history(
                Cursor::new(epoch, watermark(middle)),
                ReadLimit::new(NonZeroUsize::MIN, usize::MAX),
            );
            let Replay::Page(page) = read.await? else {
                trimmed = true;
                break;
            };
            if page.updates.first().is_none_or(|update| update.published_at >= moment) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        if !trimmed {
            if low == floor.as_u64() && low > 0 {
                let name = topic.topic();
                notices.inform(format_args!(
                    "{name}: updates up to {floor} are no longer kept; the first one that is follows"
                ));
            }
            return Ok(Cursor::new(epoch, watermark(low)));
        }
    }
    Err(Failure::unreachable(format!(
        "the history of {} was trimmed {ATTEMPTS} times while --since was looked up in it; try again, or start with --from floor",
        topic.topic()
    )))
}

fn watermark(number: u64) -> Watermark {
    Watermark::new(number).expect("it lies between two watermarks")
}
