//! Reading the log over HTTP: a topic's bounds, a page of its history, and which topics there are.

use std::{num::NonZeroUsize, time::Duration};

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use khala_core::{
    Bounds, Epoch, Grant, Stale, Timestamp, Topic, Watermark,
    auth::{Access, Denied},
    connection::ReadPermit,
    journal::{CorruptTopic, Journal as _, Page, ReadFrom, ReadLimit, Replay, TopicPage},
    position::StaleReason,
    wire::{PathPrefix, write_page},
};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;

use crate::{
    openapi,
    problem::Problem,
    request::{
        Authenticated, Context, Holds, Limit, NoParams, Params, Readable, TopicPath, cursor, parameters,
        parsed, watermark, whole_number, wrong,
    },
    response::{json, json_bytes},
    shared::Shared,
    timeouts::timeout,
};

/// Topics that the store is asked for at once.
const LOOK_AT: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// Bytes that a page takes while it is read and written out: its updates, and their text.
pub(crate) const PAGE_BYTES: u64 = 2 * READ_BYTES as u64;
/// Bytes of updates that a page holds at most, unless the first alone is larger.
pub(crate) const READ_BYTES: usize = 2 << 20;
/// Bytes that a list of topics takes, about.
const LIST_BYTES: u64 = 64 << 10;
const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();
/// Topics that one request looks at, about: between those that are open to a reader there may be any number of others'.
const LOOK_AT_MOST: usize = 20_000;
/// How long topics are looked for: an authorizer may take its time over each.
const LIST_WITHIN: Duration = Duration::from_secs(5);

/// What a topic holds: exactly the updates with floor < seq <= head.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Bounds)]
struct TopicBounds<'a> {
    #[schema(value_type = openapi::Topic)]
    topic: &'a Topic,
    #[schema(value_type = openapi::Epoch)]
    epoch: Epoch,
    #[schema(value_type = openapi::Watermark)]
    floor: Watermark,
    #[schema(value_type = openapi::Watermark)]
    head: Watermark,
}

impl<'a> TopicBounds<'a> {
    fn new(topic: &'a Topic, Bounds { epoch, floor, head }: Bounds) -> Self {
        Self { topic, epoch, floor, head }
    }
}

/// Tells what a topic holds.
#[utoipa::path(
    get, path = "/v1/topics/{topic}", operation_id = "readBounds", tag = "topics",
    params(TopicPath),
    responses(
        (status = 200, body = TopicBounds<'_>,
            description = "Its bounds. A topic that was never written to has a stable epoch and holds nothing."),
        openapi::ReadRefusals,
    )
)]
pub(crate) async fn bounds(
    State(shared): State<Shared>,
    Readable { topic, .. }: Readable,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    let bounds = shared.0.khala.journal().bounds(&topic).await?;
    json(StatusCode::OK, &TopicBounds::new(&topic, bounds))
}

/// Where a page of history begins, and how long it is.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct UpdatesQuery {
    /// Where to continue: `after` and `epoch`, both or neither. Without them, the page starts at the oldest update that is kept.
    #[serde(deserialize_with = "watermark")]
    #[param(value_type = Option<openapi::Watermark>)]
    after: Option<Watermark>,
    #[serde(deserialize_with = "parsed")]
    #[param(value_type = Option<openapi::Epoch>)]
    epoch: Option<Epoch>,
    /// Beside `after`: when that update was published. The cursor is stale if the topic has another update in its place.
    #[serde(deserialize_with = "whole_number")]
    #[param(value_type = Option<openapi::Timestamp>)]
    published_at: Option<u64>,
    #[param(inline)]
    limit: Limit,
}

/// Reads a page of history: after the cursor, or from the oldest update that is kept.
///
/// A page is never refused for the class's replay budget alone: its reader goes at its own pace, and takes turns with
/// all who read history, for each page anew.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/updates", operation_id = "readUpdates", tag = "updates",
    params(TopicPath, UpdatesQuery),
    responses(
        (status = 200, body = openapi::Page, description = "The updates right after the position."),
        (status = 410, response = openapi::Stale),
        openapi::ReadRefusals,
    )
)]
pub(crate) async fn updates(
    State(shared): State<Shared>,
    Context { holds, .. }: Context,
    Readable { grant, topic }: Readable,
    Params(query): Params<UpdatesQuery>,
) -> Result<Response, Problem> {
    let limit = ReadLimit::new(query.limit.0, READ_BYTES);
    let khala = &shared.0.khala;
    let read = async |start| {
        // A read that waits takes no memory from others.
        holds.release_memory();
        let _permit = shared.read_permit(&grant).await?;
        holds.take_memory(khala.memory(), PAGE_BYTES)?;
        Ok::<_, Problem>(khala.journal().read(&topic, start, limit).await?)
    };
    if query.published_at.is_some() && query.after.is_none() {
        return Err(wrong("published_at", "means nothing without after"));
    }
    if let Some(cursor) = cursor("after", query.after, query.epoch)? {
        if let Some(published_at) = query.published_at.map(Timestamp::from_millis) {
            let _permit = shared.read_permit(&grant).await?;
            if !khala.is_of_this_history(&topic, cursor, published_at).await? {
                let bounds = khala.journal().bounds(&topic).await?;
                let reasons = vec![StaleReason::EpochMismatch];
                return Err(shared.stale_cursor(&topic, Stale { cursor, bounds, reasons }));
            }
        }
        return match read(ReadFrom::After(cursor)).await? {
            Replay::Page(page) => Ok(written(&topic, &page)),
            Replay::Stale(stale) => Err(shared.stale_cursor(&topic, stale)),
        };
    }
    let mut start = ReadFrom::Origin;
    // Each turn after the first needs a trim between two reads.
    for _ in 0..8 {
        match read(start).await? {
            Replay::Page(page) => return Ok(written(&topic, &page)),
            Replay::Stale(stale) => start = ReadFrom::After(stale.bounds.at_floor()),
        }
    }
    Err(Problem::unavailable("unavailable", "the topic is being trimmed faster than it can be read"))
}

impl Shared {
    /// The permit of the subject of `grant` to read history, in fair turns with all who read it, if `grant` still stands when
    /// it comes.
    pub(crate) async fn read_permit(&self, grant: &Grant) -> Result<ReadPermit, Problem> {
        let permit = self.0.khala.acquire_read_permit(grant).await;
        self.0.khala.access().check(grant)?;
        Ok(permit)
    }

    /// What is answered to who brings a cursor that cannot be resumed from.
    pub(crate) fn stale_cursor(&self, topic: &Topic, stale: Stale) -> Problem {
        let class = self.0.khala.class_of(topic).map(|class| &**class);
        Problem::stale_cursor(topic, stale, class, self.0.path_prefix.as_ref())
    }
}

/// A page, payloads byte for byte, with what an HTTP reader needs beside it.
fn written(topic: &Topic, page: &Page) -> Response {
    #[derive(Serialize)]
    struct Beside<'a> {
        topic: &'a Topic,
        epoch: Epoch,
        floor: Watermark,
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

/// Which topics are told.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct TopicsQuery {
    /// What the names start with.
    prefix: String,
    /// The name to continue after.
    #[serde(deserialize_with = "parsed")]
    #[param(value_type = Option<openapi::Topic>)]
    after: Option<Topic>,
    #[param(inline)]
    limit: Limit,
}

/// A page of topics, in order of their names.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = TopicPage)]
struct Topics<'a> {
    topics: Vec<TopicBounds<'a>>,
    complete: bool,
    /// Where the next page is; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
}

/// Lists the topics that were written to and that the token may read, in order of their names.
///
/// It needs a scope that reads some class of topics; without one it is 403 `missing_scope`. A request looks at some 20,000
/// topics at most: where none of them is open to the token, it is 400 `prefix_too_short`, and a longer prefix helps. A topic
/// that is retired, because it is empty and nothing was published to it for a week (`sweep.retire_after_seconds`), is left out
/// until something is. A topic of which something corrupt is stored is left out, and named in the log of the server; reading
/// it is 500.
// Nothing tells of topics that are not open, so a page goes on only after one that is. Each thousand of topics is read in the
// turn of the subject among all who read history: what a list costs others does not grow with the topics that there are.
#[utoipa::path(
    get, path = "/v1/topics", operation_id = "listTopics", tag = "topics",
    params(TopicsQuery),
    responses(
        (status = 200, body = Topics<'_>, description = "A page of topics."),
        openapi::ReadRefusals,
    )
)]
pub(crate) async fn topics(
    State(shared): State<Shared>,
    Context { holds, .. }: Context,
    Authenticated(grant): Authenticated,
    request: Request,
) -> Result<Response, Problem> {
    shared.0.khala.access().authorize_any(&grant, Access::Read)?;
    let TopicsQuery { prefix, after, limit: Limit(limit) } = parameters(request.uri().query())?;
    let mut open = Vec::new();
    let find = find(&shared, &grant, &prefix, after.as_ref(), limit, &mut open, &holds);
    let found = timeout(LIST_WITHIN, find).await;
    let complete = match found {
        Ok(Found::Complete) => true,
        Ok(Found::Full) => false,
        Ok(Found::Failed(problem)) => return Err(problem),
        // Another try would look at the same topics.
        Ok(Found::EnoughLooked) if open.is_empty() => {
            let detail = format!(
                "none of the first {LOOK_AT_MOST} topics that start so is open to you: give a longer prefix"
            );
            return Err(Problem::invalid("prefix_too_short", detail).with("field", "prefix"));
        }
        Err(_) if open.is_empty() => {
            let detail = "no topic that is open to you was found in time: give a longer prefix";
            return Err(Problem::unavailable("unavailable", detail));
        }
        Ok(Found::EnoughLooked) | Err(_) => false,
    };
    open.truncate(limit.get());
    let topics: Vec<_> = open.iter().map(|(topic, bounds)| TopicBounds::new(topic, *bounds)).collect();
    let next = topics.last().filter(|_| !complete).map(|last| next(&shared, &prefix, last.topic, limit));
    json(StatusCode::OK, &Topics { topics, complete, next })
}

/// How a search for topics ended.
enum Found {
    /// There are no others.
    Complete,
    /// As many were looked at as one request may.
    EnoughLooked,
    Failed(Problem),
    /// There is one more than was asked for.
    Full,
}

/// Adds to `open`, one by one, the topics that the subject of `grant` may read, until there is one more than `limit`.
async fn find(
    shared: &Shared,
    grant: &Grant,
    prefix: &str,
    after: Option<&Topic>,
    limit: NonZeroUsize,
    open: &mut Vec<(Topic, Bounds)>,
    holds: &Holds,
) -> Found {
    let khala = &shared.0.khala;
    let mut size = limit.saturating_add(1);
    let (mut after, mut looked_at) = (after.map(|topic| topic.as_str().to_owned()), 0);
    loop {
        let page = async {
            let _permit = shared.read_permit(grant).await?;
            if !holds.has_memory() {
                holds.take_memory(khala.memory(), LIST_BYTES)?;
            }
            Ok::<_, Problem>(khala.journal().topics(prefix, after.as_deref(), size).await?)
        };
        let TopicPage { topics, corrupt, next } = match page.await {
            Ok(page) => page,
            Err(problem) => return Found::Failed(problem),
        };
        for CorruptTopic { name, error } in &corrupt {
            let error = error as &dyn std::error::Error;
            tracing::error!(topic = name.as_str(), error, "a topic cannot be listed; the others are");
        }
        for (topic, bounds) in topics {
            match khala.access().authorize(grant, &topic, Access::Read).await {
                Ok(()) => open.push((topic, bounds)),
                Err(denied @ Denied::Unavailable(_)) => return Found::Failed(denied.into()),
                Err(_) => {}
            }
            if open.len() > limit.get() {
                return Found::Full;
            }
        }
        if next.is_none() {
            return Found::Complete;
        }
        after = next;
        looked_at += size.get();
        if looked_at >= LOOK_AT_MOST {
            return Found::EnoughLooked;
        }
        // Most are others': fewer questions to the store.
        size = size.saturating_mul(TWO).min(LOOK_AT.max(size));
        // A store in memory waits for nothing, so nobody else would have a turn, nor the time an end.
        yield_now().await;
    }
}

fn next(shared: &Shared, prefix: &str, after: &Topic, limit: NonZeroUsize) -> String {
    let path = shared.0.path_prefix.as_ref().map_or("", PathPrefix::as_str);
    let mut query = url::form_urlencoded::Serializer::new(format!("{path}/v1/topics?"));
    if !prefix.is_empty() {
        query.append_pair("prefix", prefix);
    }
    query.append_pair("after", after.as_str()).append_pair("limit", &limit.to_string());
    query.finish()
}
