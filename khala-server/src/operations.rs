//! What operators and their machines ask: is it up, is it ready, what does it count, what are its routes.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use khala_core::Journal as _;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    OPENAPI, Server,
    problem::Problem,
    service::{json, json_bytes},
};

/// How long the journal may take to answer before the server counts as not ready.
const PROBE: Duration = Duration::from_secs(2);

/// `GET /healthz`: the process is up. It asks nothing of the store, whose trouble a restart would not mend.
pub(crate) fn health() -> Result<Response<Full<Bytes>>, Problem> {
    json(StatusCode::OK, &json!({"status": "up"}))
}

/// `GET /readyz`: the journal answers, and the server is not about to stop.
pub(crate) async fn ready(server: &Server) -> Result<Response<Full<Bytes>>, Problem> {
    if server.is_draining() {
        return Err(Problem::unavailable("draining", "the server is shutting down"));
    }
    let read = server.0.khala.journal().topics("", None, NonZeroUsize::MIN);
    match timeout(PROBE, read).await {
        Ok(Ok(_)) => json(StatusCode::OK, &json!({"status": "ready"})),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready: the journal fails");
            let detail = format!("the journal does not answer ({}); the server's log says why", error.kind());
            Err(Problem::unavailable("journal_unavailable", detail))
        }
        Err(_) => {
            let detail = format!("the journal did not answer within {} s", PROBE.as_secs());
            Err(Problem::unavailable("journal_unavailable", detail))
        }
    }
}

/// `GET /metrics`
pub(crate) fn metrics(server: &Server) -> Result<Response<Full<Bytes>>, Problem> {
    let Some(render) = &server.0.metrics else {
        return Err(Problem::not_found("metrics_off", "this server keeps its metrics elsewhere"));
    };
    let mut response = Response::new(Full::from(render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// `GET /openapi.json`
pub(crate) fn openapi() -> Response<Full<Bytes>> {
    json_bytes(Bytes::from_static(OPENAPI.as_bytes()))
}
