//! Reading the log over HTTP: a topic's bounds, a page of its history, and which topics there are.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use khala_core::{
    Access, Bounds, Denied, Grant, Journal as _, Khala, Page, ReadLimit, Replay, Stale, Start, Topic,
    wire::write_page,
};
use serde::Serialize;
use tokio::{task::yield_now, time::timeout};

use crate::{
    Server,
    problem::Problem,
    query::Query,
    service::{json, json_bytes},
};

/// Topics that the store is asked for at once.
const LOOK_AT: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();
/// How long topics are looked for: between those that are open to a reader there may be any number of others'.
const LIST_WITHIN: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct TopicBounds<'a> {
    topic: &'a Topic,
    #[serde(flatten)]
    bounds: Bounds,
}

/// `GET /v1/topics/{topic}`
pub(crate) async fn bounds(
    server: &Server,
    topic: &Topic,
    query: Option<&str>,
) -> Result<Response<Full<Bytes>>, Problem> {
    Query::parse(query, &[])?;
    let bounds = server.0.khala.journal().bounds(topic).await?;
    json(StatusCode::OK, &TopicBounds { topic, bounds })
}

/// `GET /v1/topics/{topic}/updates`: a page after the cursor; without one, from the oldest update that is kept.
///
/// A page is never refused for the class's replay budget alone: its reader goes at its own pace, and costs a page at a
/// time.
pub(crate) async fn updates(
    server: &Server,
    topic: &Topic,
    query: Option<&str>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let query = Query::parse(query, &["after", "epoch", "limit"])?;
    let limit = ReadLimit::new(query.limit()?, ReadLimit::PAGE.bytes);
    let journal = server.0.khala.journal();
    if let Some(cursor) = query.cursor("after")? {
        return match journal.read(topic, Start::After(cursor), limit).await? {
            Replay::Page(page) => Ok(written(topic, &page)),
            Replay::Stale(stale) => Err(server.stale_cursor(topic, stale)),
        };
    }
    let mut start = Start::Origin;
    // Each turn after the first needs a trim between two reads.
    for _ in 0..8 {
        match journal.read(topic, start, limit).await? {
            Replay::Page(page) => return Ok(written(topic, &page)),
            Replay::Stale(stale) => start = Start::After(stale.bounds.at_floor()),
        }
    }
    Err(Problem::unavailable("unavailable", "the topic is being trimmed faster than it can be read"))
}

impl Server {
    /// What is answered to who brings a cursor that cannot be resumed from.
    pub(crate) fn stale_cursor(&self, topic: &Topic, stale: Stale) -> Problem {
        Problem::stale_cursor(topic, stale, self.0.khala.class_of(topic).map(|class| &**class))
    }
}

/// A page, payloads byte for byte, with what an HTTP reader needs beside it.
fn written(topic: &Topic, page: &Page) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
        epoch: khala_core::Epoch,
        floor: khala_core::Watermark,
    }
    let beside = Beside { topic, epoch: page.bounds.epoch, floor: page.bounds.floor };
    let mut body = Vec::new();
    write_page(&mut body, page, None);
    json_bytes(extended(body, &beside))
}

/// The JSON object `object` with the members of `beside` added.
pub(crate) fn extended(mut object: Vec<u8>, beside: &impl Serialize) -> Vec<u8> {
    let beside = serde_json::to_vec(beside).expect("a struct of texts and numbers has a JSON form");
    object.pop();
    object.push(b',');
    object.extend_from_slice(&beside[1..]);
    object
}

/// `GET /v1/topics`: those that the holder of `grant` may read. Nothing tells of the others.
pub(crate) async fn topics(
    server: &Server,
    grant: &Grant,
    query: Option<&str>,
) -> Result<Response<Full<Bytes>>, Problem> {
    #[derive(Serialize)]
    struct Topics<'a> {
        topics: Vec<TopicBounds<'a>>,
        complete: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let query = Query::parse(query, &["prefix", "after", "limit"])?;
    let (prefix, after, limit) =
        (query.text("prefix").unwrap_or_default(), query.parsed::<Topic>("after")?, query.limit()?);
    let mut open = Vec::new();
    let found = timeout(LIST_WITHIN, find(&server.0.khala, grant, prefix, after, limit, &mut open)).await;
    let complete = match found {
        Ok(complete) => complete?,
        Err(_) if open.is_empty() => {
            let detail = "no topic that is open to you was found in time: name a longer prefix";
            return Err(Problem::unavailable("unavailable", detail));
        }
        Err(_) => false,
    };
    open.truncate(limit.get());
    let topics: Vec<_> = open.iter().map(|(topic, bounds)| TopicBounds { topic, bounds: *bounds }).collect();
    let next = topics.last().filter(|_| !complete).map(|last| next(prefix, last.topic, limit));
    json(StatusCode::OK, &Topics { topics, complete, next })
}

/// Adds to `open`, one by one, the topics that the holder of `grant` may read, until there is one more than `limit`.
/// Gives whether there are no others.
async fn find(
    khala: &Khala,
    grant: &Grant,
    prefix: &str,
    mut after: Option<Topic>,
    limit: NonZeroUsize,
    open: &mut Vec<(Topic, Bounds)>,
) -> Result<bool, Problem> {
    let mut size = limit.saturating_add(1);
    loop {
        let page = khala.journal().topics(prefix, after.as_ref(), size).await?;
        let last = page.len() < size.get();
        after = page.last().map(|(topic, _)| topic.clone());
        for (topic, bounds) in page {
            match khala.authorize(grant, &topic, Access::Read).await {
                Ok(()) => open.push((topic, bounds)),
                Err(denied @ Denied::Unavailable(_)) => return Err(denied.into()),
                Err(_) => {}
            }
            if open.len() > limit.get() {
                return Ok(false);
            }
        }
        if last {
            return Ok(true);
        }
        // Most are others': fewer questions to the store.
        size = size.saturating_mul(TWO).min(LOOK_AT.max(size));
        // A store in memory waits for nothing, so nobody else would have a turn, nor the time an end.
        yield_now().await;
    }
}

fn next(prefix: &str, after: &Topic, limit: NonZeroUsize) -> String {
    let mut query = url::form_urlencoded::Serializer::new("/v1/topics?".to_owned());
    if !prefix.is_empty() {
        query.append_pair("prefix", prefix);
    }
    query.append_pair("after", after.as_str()).append_pair("limit", &limit.to_string());
    query.finish()
}
