//! The two requests of long polling: a GET that opens a session or polls it, and a POST that brings frames.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, request::Parts};
use khala_auth::bearer_token;
use khala_core::{Token, auth::Denied};
use memchr::memchr;
use tracing::Instrument as _;

use super::{
    answer::{self, LongPollAnswer},
    mailbox::PollOutcome,
    run::Opening,
    sessions::{PollToken, Session, digest},
};
use crate::{
    compatibility::ClientOfQuery,
    openapi,
    problem::Problem,
    request::{Context, Room, is_of, read_bytes},
    shared::Shared,
    timeouts::timeout,
    websocket::{Open, serializer, verify},
};

/// The header in which `phoenix` 1.8 sends its `authToken`.
pub(crate) const AUTH_TOKEN: &str = "x-phoenix-authtoken";

/// Polls: opens a session, or takes what one has to send.
///
/// Without a session's token it opens one, with a query and an access token as on the WebSocket, and answers `status` 410 and a `token`. With
/// it, it answers the frames that wait, or waits for some. PROTOCOL.md describes it. Every refusal but that of a page's origin is a 200
/// whose `status` says what the client does.
#[utoipa::path(
    get, path = "/sync/v1/longpoll", operation_id = "poll", tag = "sync", security(("token" = []), ()),
    params(openapi::LongPollQuery, openapi::LongPollHeaders, ClientOfQuery),
    responses(
        (status = 200, body = LongPollAnswer, description = "A session, its frames, nothing yet, or a refusal: see `status`."),
        (status = 403, response = openapi::PageRefused),
    )
)]
pub(crate) async fn poll(
    State(shared): State<Shared>,
    context: Context,
    request: Request,
) -> Result<Response, Problem> {
    let (head, _) = request.into_parts();
    refuse_pictures(&head)?;
    let asked = PollRequest::of(&shared, &head);
    let Some(token) = asked.session else { return open(shared, context, &head, asked.access).await };
    let session = find_session(&shared, &context, token, asked.access).await?;
    let wait = shared.0.limits.long_poll_wait;
    let with = |answers| PollToken { id: token.id, answers };
    match session.mailbox.poll(token.answers, wait).await {
        PollOutcome::Frames(giving) => {
            // Without room for it, the next poll finds the answer as it is.
            context.holds.take_memory(shared.0.khala.memory(), giving.buffered as u64)?;
            Ok(answer::frames(giving, with(giving.answer), &session.mailbox))
        }
        PollOutcome::Nothing => Ok(answer::no_frames(token)),
        PollOutcome::Gone(close) => Err(answer::session_gone(close)),
    }
}

/// Hands frames to a session.
///
/// The body is one frame, or as `application/x-ndjson` a frame a line.
#[utoipa::path(
    post, path = "/sync/v1/longpoll", operation_id = "postFrames", tag = "sync", security(("token" = []), ()),
    params(openapi::LongPollQuery, openapi::LongPollHeaders),
    request_body(content = String, content_type = "application/x-ndjson", description = "A frame a line.",
        example = "[\"1\",\"1\",\"run:7:events\",\"phx_join\",{}]"),
    responses(
        (status = 200, body = LongPollAnswer, description = "The frames are taken, or refused: see `status`."),
        (status = 403, response = openapi::PageRefused),
    )
)]
pub(crate) async fn post(
    State(shared): State<Shared>,
    context: Context,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let asked = PollRequest::of(&shared, &head);
    let token = asked.session.ok_or_else(|| answer::session_gone(None))?;
    let session = match asked.access {
        // `phoenix` 1.8 sends its `authToken` with a GET and not with a POST. The id is a secret, and a POST reads nothing.
        Err(Denied::MissingToken) => {
            shared.0.long_polls.find(token.id).ok_or_else(|| answer::session_gone(None))?
        }
        access => find_session(&shared, &context, token, access).await?,
    };
    let limits = shared.0.limits;
    // It counts in the memory budget until the session has read its last frame.
    let body = Bytes::from_owner(read_bytes(&shared, body, limits.body_bytes, Room::Needed).await?);
    let handed = async {
        if !is_of(&head.headers, "application/x-ndjson") {
            return session.mailbox.post(body).await;
        }
        let mut from = 0;
        while from < body.len() {
            let end = memchr(b'\n', &body[from..]).map_or(body.len(), |length| from + length);
            let at = from..end;
            from = end + 1;
            let blank = body[at.clone()].trim_ascii().is_empty();
            if !blank && !session.mailbox.post(body.slice(at)).await {
                return false;
            }
        }
        true
    };
    match timeout(limits.long_poll_wait, handed).await {
        Ok(true) => Ok(answer::frames_taken()),
        Ok(false) => Err(answer::session_gone(None)),
        Err(_) => Err(Problem::unavailable("session_busy", "the session does not take the frames in time")),
    }
}

/// Refuses what a page of any origin can have a browser ask without a word of JavaScript, as for a picture. It could not read an answer,
/// but its failures would count against the visitor's address, and its sessions against the visitor's cookie.
fn refuse_pictures(head: &Parts) -> Result<(), Problem> {
    let mode = head.headers.get("sec-fetch-mode").map(HeaderValue::as_bytes);
    if matches!(mode, Some(b"no-cors" | b"navigate")) {
        let detail = "a page polls with `fetch`, which says its origin";
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail));
    }
    Ok(())
}

/// What a request says of its session and its subject. Both may be called `token` in the query.
struct PollRequest {
    session: Option<PollToken>,
    access: Result<Token, Denied>,
}

impl PollRequest {
    fn of(shared: &Shared, head: &Parts) -> Self {
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let (mut session, mut of_query) = (None, None);
        for (_, token) in url::form_urlencoded::parse(query).filter(|(name, _)| name == "token") {
            match PollToken::parse(&token) {
                Some(token) => session = Some(token),
                None if token.is_empty() => {}
                None => of_query = of_query.or_else(|| Some(Token::new(token))),
            }
        }
        let of_header = head.headers.get(AUTH_TOKEN).and_then(|token| token.to_str().ok()).map(Token::new);
        let access = match bearer_token(&head.headers) {
            Err(Denied::MissingToken) => {
                let token = of_header.or(of_query).or_else(|| shared.token_of_source(head));
                token.ok_or(Denied::MissingToken)
            }
            said => said,
        };
        Self { session, access }
    }
}

/// The session of `token`, if it belongs to who asks.
async fn find_session(
    shared: &Shared,
    context: &Context,
    token: PollToken,
    access: Result<Token, Denied>,
) -> Result<Arc<Session>, Problem> {
    let session = shared.0.long_polls.find(token.id).ok_or_else(|| answer::session_gone(None))?;
    if access.as_ref().is_ok_and(|access| session.is_opened_with(access)) {
        return Ok(session);
    }
    let grant = verify(shared, access, context.client, true).await?;
    // The answer does not say whether another subject has such a session.
    if session.is_of(&grant) { Ok(session) } else { Err(answer::session_gone(None)) }
}

async fn open(
    shared: Shared,
    context: Context,
    head: &Parts,
    access: Result<Token, Denied>,
) -> Result<Response, Problem> {
    let serializer = serializer(head.uri.query())?;
    shared.0.compatibility.check(&head.headers, head.uri.query())?;
    let Context { request_id, peer, client, .. } = context;
    let opened_with = access.as_ref().map(digest).unwrap_or_default();
    let grant = verify(&shared, access, client, true).await?;
    // Counted before it is looked whether the server stops: so it is let in and waited for, or neither.
    let open = Open::new(&shared.0.upgraded);
    if shared.0.drain.has_begun() {
        return Err(Problem::unavailable("draining", "the server is shutting down"));
    }
    let connection = shared.0.khala.connect(grant.clone(), client, serializer)?;
    let connection = connection.with_path_prefix(shared.0.path_prefix.clone());
    let span = tracing::info_span!("connection", request_id = &*request_id);
    let opening = Opening { shared, connection, grant, opened_with, request_id, peer, client, open };
    let (id, run) = opening.begin();
    tokio::spawn(run.instrument(span));
    Ok(answer::session_opened(PollToken { id, answers: 0 }))
}
