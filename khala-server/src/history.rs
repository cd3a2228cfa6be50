//! Reading the log over HTTP: a topic's bounds, a page of its history, and which topics there are.

use std::num::NonZeroUsize;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use khala_core::{
    Access, Bounds, Denied, Grant, Journal as _, Page, ReadLimit, Replay, Start, Topic, wire::write_page,
};
use serde::Serialize;

use crate::{
    Server,
    problem::Problem,
    query::Query,
    service::{json, json_bytes},
};

/// Topics that are looked at for one page, whosever they are.
const LOOK_AT: usize = 10_000;

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
            Replay::Stale(stale) => Err(Problem::stale_cursor(topic, &stale)),
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
    write_page(&mut body, page);
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
    let (prefix, mut after, limit) =
        (query.text("prefix").unwrap_or_default(), query.parsed::<Topic>("after")?, query.limit()?);
    let khala = &server.0.khala;
    let one_more = limit.saturating_add(1);
    let mut open = Vec::new();
    let mut looked_at = 0;
    let complete = loop {
        let page = khala.journal().topics(prefix, after.as_ref(), one_more).await?;
        let last = page.len() < one_more.get();
        after = page.last().map(|(topic, _)| topic.clone());
        looked_at += page.len();
        for (topic, bounds) in page {
            match khala.authorize(grant, &topic, Access::Read).await {
                Ok(()) => open.push((topic, bounds)),
                Err(denied @ Denied::Unavailable(_)) => return Err(denied.into()),
                Err(_) => {}
            }
        }
        if last || open.len() > limit.get() {
            break open.len() <= limit.get();
        }
        if looked_at >= LOOK_AT {
            if open.is_empty() {
                let detail =
                    format!("none of the next {LOOK_AT} topics is open to you: name a longer prefix");
                return Err(Problem::invalid("prefix_too_short", detail));
            }
            break false;
        }
    };
    open.truncate(limit.get());
    let topics: Vec<_> = open.iter().map(|(topic, bounds)| TopicBounds { topic, bounds: *bounds }).collect();
    let next = topics.last().filter(|_| !complete).map(|last| next(prefix, last.topic, limit));
    json(StatusCode::OK, &Topics { topics, complete, next })
}

fn next(prefix: &str, after: &Topic, limit: NonZeroUsize) -> String {
    let mut query = url::form_urlencoded::Serializer::new("/v1/topics?".to_owned());
    if !prefix.is_empty() {
        query.append_pair("prefix", prefix);
    }
    query.append_pair("after", after.as_str()).append_pair("limit", &limit.to_string());
    query.finish()
}
