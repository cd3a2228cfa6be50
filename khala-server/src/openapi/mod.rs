//! What the OpenAPI document says that no struct of a route does: schemas of the core's types, the headers of requests, and the
//! refusals that routes share. Routes name these; `document` is made of all of them.

mod responses;
mod schemas;

pub(crate) use self::{responses::*, schemas::*};

/// The headers that are carried along with updates.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct TraceHeaders {
    /// W3C Trace Context; carried along with the updates.
    #[param(required = false)]
    traceparent: String,
    /// W3C Trace Context; carried along with the updates.
    #[param(required = false)]
    tracestate: String,
    /// Comes back in the answer, stands in the log, and is carried along with the updates.
    #[param(required = false, rename = "x-request-id")]
    request_id: String,
}

/// The header by which a request is found again.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct RequestIdHeader {
    /// Comes back in the answer, and stands in the log.
    #[param(required = false, rename = "x-request-id")]
    request_id: String,
}

/// The name of a publish.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct IdempotencyKey {
    /// Names this publish, so that a retry stores nothing twice. A stream has none (400): each of its lines may have a `dedup`.
    #[param(required = false, rename = "Idempotency-Key")]
    key: DedupKey,
}

/// What a WebSocket says in its query; other parameters are the client's own.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct WebSocketQuery {
    /// The serializer: 2.0.x or 1.0.x, which is also that of a client that does not say.
    #[param(required = false, pattern = "^[12]\\.0\\.[0-9]+$")]
    vsn: String,
    /// The token, for clients that can send it neither as a header nor as the subprotocol `base64url.bearer.phx.<token in base64>`.
    #[param(required = false)]
    token: String,
}

/// What the query of a WebSocket of Supabase's Realtime may have.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct RealtimeQuery {
    /// The serializer: 2.0.x or 1.0.x, which is also that of a client that does not say.
    #[param(required = false, pattern = "^[12]\\.0\\.[0-9]+$")]
    vsn: String,
    /// The token, for clients that can send it neither as a header nor as a subprotocol.
    #[param(required = false)]
    token: String,
    /// The same, by the name that these clients have for it; `token` wins.
    #[param(required = false)]
    apikey: String,
}

/// What a request of long polling says in its query; other parameters are the client's own.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct LongPollQuery {
    /// The serializer: 2.0.x or 1.0.x, which is also that of a client that does not say. It counts where a session is opened.
    #[param(required = false, pattern = "^[12]\\.0\\.[0-9]+$")]
    vsn: String,
    /// The token of the last answer, by which the session is found. The access token may come under this name too.
    #[param(required = false)]
    token: Vec<String>,
}

/// What a request of long polling says in its headers.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described")]
pub(crate) struct LongPollHeaders {
    /// The access token, where there is no Authorization header.
    #[param(required = false, rename = "x-phoenix-authtoken")]
    token: String,
}
