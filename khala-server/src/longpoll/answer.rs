//! What is answered to a poll and to a post: JSON as `phoenix` reads it, whose `status` says what the client does.
//!
//! `phoenix` looks at no HTTP status, and stops for good at a `status` in the body that it does not know. So each refusal is said in
//! one that it knows: 403 tells the application that the token is refused, and 500 has it open another session.
//!
//! # Invariants
//! The `status` of an answer is 200, 204, 403, 410 or 500.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use khala_core::wire::Close;
use serde::Serialize;
use serde_json::Value;

use super::{
    mailbox::{Giving, Mailbox, Superseded},
    sessions::PollToken,
};
use crate::{problem::Problem, response::json_bytes};

/// A problem has fewer bytes.
const PROBLEM_BYTES: usize = 64 << 10;

/// What a poll or a post is answered. `status` is what `phoenix` acts on: 200 frames, or the frames that were posted are taken; 204 nothing
/// came; 410 a session is open, poll with its token; 403 the token is refused; 500 open another session.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(super) struct LongPollAnswer {
    #[schema(minimum = 200, maximum = 500)]
    status: u16,
    /// What the next request sends as `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    token: Option<String>,
    /// Frames, each as a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    messages: Option<Vec<String>>,
    /// Why it is refused: as in a problem, `session_gone` or `session_busy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    code: Option<Value>,
    /// The same, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    detail: Option<Value>,
    /// When another try will do, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u64)]
    retry_after_ms: Option<Value>,
    /// The code that a WebSocket would have been closed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u16)]
    close_code: Option<Value>,
    /// The reason of that close.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    close_reason: Option<Value>,
}

/// A session is open.
pub(super) fn session_opened(token: PollToken) -> Response {
    without_frames(410, token)
}

/// Nothing came.
pub(super) fn no_frames(token: PollToken) -> Response {
    without_frames(204, token)
}

fn without_frames(status: u16, token: PollToken) -> Response {
    let token = Some(token.to_string());
    written(&LongPollAnswer { status, token, messages: Some(Vec::new()), ..LongPollAnswer::default() })
}

/// The frames of a post were taken.
pub(super) fn frames_taken() -> Response {
    written(&LongPollAnswer { status: 200, ..LongPollAnswer::default() })
}

fn written(answer: &LongPollAnswer) -> Response {
    json_bytes(serde_json::to_vec(answer).expect("an answer has a JSON form"))
}

/// Frames, which the network takes in pieces that count as progress. An answer that is superseded is broken off.
pub(super) fn frames(giving: Giving, token: PollToken, mailbox: &Arc<Mailbox>) -> Response {
    let start = Bytes::from(format!("{{\"status\":200,\"token\":\"{token}\",\"messages\":["));
    let rest = stream::try_unfold((Arc::clone(mailbox), Some(0)), move |(mailbox, from)| async move {
        let Some(from) = from else { return Ok(None) };
        Ok(Some(match mailbox.piece(giving, from)? {
            Some(piece) => {
                let from = from + piece.len();
                (piece, (mailbox, Some(from)))
            }
            None => (Bytes::from_static(b"]}"), (mailbox, None)),
        }))
    });
    let mut response = json_bytes(Bytes::new());
    *response.body_mut() = Body::from_stream(stream::once(async { Ok::<_, Superseded>(start) }).chain(rest));
    response
}

/// The session is over.
pub(super) fn session_gone(close: Option<Close>) -> Problem {
    let detail = "the session is over, or is another server's: open a new one, and join with the cursors that you have";
    let problem = Problem::new(StatusCode::GONE, "session_gone", detail);
    match close {
        Some(close) => problem.with("close_code", close.code()).with("close_reason", close.reason()),
        None => problem,
    }
}

/// A problem as an answer that `phoenix` understands.
///
/// Before 1.5 it stops for good at 403. Later ones come back after 403 and after 500 alike, and tell the application which it was. Only 1.8
/// shows which one it is, by the media type that it accepts.
pub(crate) async fn refuse(problem: Response, accept: Option<&HeaderValue>) -> Response {
    let (mut head, body) = problem.into_parts();
    let body = to_bytes(body, PROBLEM_BYTES).await.unwrap_or_default();
    let mut problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut member = |name| problem.get_mut(name).map(Value::take);
    let denied = matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let knows = accept.is_some_and(|accept| accept == "application/json");
    let answer = LongPollAnswer {
        status: if denied && knows { 403 } else { 500 },
        code: member("code"),
        detail: member("detail"),
        retry_after_ms: member("retry_after_ms"),
        close_code: member("close_code"),
        close_reason: member("close_reason"),
        ..LongPollAnswer::default()
    };
    head.status = StatusCode::OK;
    head.headers.remove(header::WWW_AUTHENTICATE);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(&answer).expect("an answer has a JSON form");
    Response::from_parts(head, Body::from(body))
}
