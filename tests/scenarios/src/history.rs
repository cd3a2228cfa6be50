//! A topic's history over HTTP, page by page.

use std::sync::Arc;

use ::http::StatusCode;
use khala_testing::{During as _, Failure, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    checker::{Delivery, Given, Published, Subscriber},
    http::Client,
};

/// One update of a topic. Its texts are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "readers of every kind make it")]
pub struct Entry {
    /// None where the reader does not say it with each update.
    pub epoch: Option<Arc<str>>,
    /// Its place in the topic.
    pub seq: u64,
    /// The payload's own text.
    pub payload: Arc<str>,
}

/// What one reader of a topic applied.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "readers of every kind make it")]
pub struct Log {
    /// As faults name it.
    pub name: String,
    /// What is held against it.
    pub delivery: Delivery,
    /// One after the other; each is what one process applied, in the order in which it did.
    pub runs: Vec<Vec<Entry>>,
}

impl Log {
    /// The subscriber that was given all of this.
    pub fn subscriber(&self, published: &mut Published) -> Subscriber {
        let mut subscriber = Subscriber::new(&self.name, self.delivery);
        for (number, run) in self.runs.iter().enumerate() {
            if number > 0 {
                subscriber.restarted();
            }
            for Entry { epoch, seq, payload } in run {
                let given = Given { epoch: epoch.as_deref(), seq: *seq, payload: payload.as_bytes() };
                subscriber.given(published, given);
            }
        }
        subscriber
    }
}

#[derive(Deserialize)]
struct Page {
    epoch: Arc<str>,
    after: u64,
    replay_complete: bool,
    updates: Vec<PageUpdate>,
}

#[derive(Deserialize)]
struct PageUpdate {
    seq: u64,
    payload: Box<RawValue>,
}

impl Page {
    fn entries(self) -> impl Iterator<Item = Entry> {
        let Self { epoch, updates, .. } = self;
        updates.into_iter().map(move |PageUpdate { seq, payload }| Entry {
            epoch: Some(Arc::clone(&epoch)),
            seq,
            payload: payload.get().into(),
        })
    }
}

/// The path of the page that follows `last`, or of the first one.
fn path(topic: &str, last: Option<&Entry>) -> String {
    let topic = topic.replace('/', "%2F");
    let cursor = match last {
        Some(Entry { epoch: Some(epoch), seq, .. }) => format!("?after={seq}&epoch={epoch}"),
        _ => String::new(),
    };
    format!("/v1/topics/{topic}/updates{cursor}")
}

/// What follows `read`: nothing, where there is nothing new; none, where no server answers that could know.
///
/// # Errors
/// The answer is a refusal, or no page of that place.
pub async fn read_on(client: &Client, topic: &str, read: &[Entry]) -> Result<Option<Vec<Entry>>, Failure> {
    let path = path(topic, read.last());
    match client.get(&path).await {
        Ok(answer) if answer.status == StatusCode::OK => {
            let page: Page = serde_json::from_slice(&answer.body).during("reading a page of history")?;
            let (after, mark) = (page.after, read.last().map_or(0, |last| last.seq));
            ensure(after == mark, || format!("asked for what follows {mark}, given what follows {after}"))?;
            Ok(Some(page.entries().collect()))
        }
        Ok(answer) if !answer.status.is_server_error() => {
            Err(Failure::new(format_args!("GET {path}: {}", answer.words())))
        }
        // It may be in the middle of being killed.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// All that is kept of a topic now, and the seq that it begins after.
///
/// # Errors
/// The server does not answer, or refuses.
pub async fn read_kept(client: &Client, topic: &str) -> Result<(u64, Vec<Entry>), Failure> {
    let (mut begin, mut entries): (Option<u64>, Vec<Entry>) = (None, Vec::new());
    loop {
        let answer = client.get(&path(topic, entries.last())).await?;
        if answer.status == StatusCode::GONE {
            // Trimmed between two pages: once more, from where it begins now.
            (begin, entries) = (None, Vec::new());
            continue;
        }
        let body = answer.success()?;
        let page: Page = serde_json::from_slice(&body).during("reading a page of history")?;
        let after = *begin.get_or_insert(page.after);
        let complete = page.replay_complete;
        entries.extend(page.entries());
        if complete {
            return Ok((after, entries));
        }
    }
}
