//! What operators and their machines ask: is it up, is it ready, what does it count, what are its routes.

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use khala_core::{ErrorKind, Journal as _};
use serde_json::json;

use crate::{
    OPENAPI, Server,
    patience::timeout,
    problem::Problem,
    service::{json, json_bytes},
};

/// How long the journal may take to answer before the server counts as not ready.
const PROBE: Duration = Duration::from_secs(2);

/// `GET /healthz`: the process is up. It asks nothing of the store, whose trouble a restart would not mend.
pub(crate) fn health() -> Result<Response<Full<Bytes>>, Problem> {
    json(StatusCode::OK, &json!({"status": "up"}))
}

/// `GET /readyz`: the journal answers, and the server is not about to stop. What it does without is noted.
pub(crate) async fn ready(server: &Server) -> Result<Response<Full<Bytes>>, Problem> {
    let health = server.0.khala.health();
    let notes = server.0.notes.as_ref().map(|notes| notes()).unwrap_or_default();
    let notes: Vec<String> = notes
        .into_iter()
        .map(str::to_owned)
        .chain(health.notes().into_iter().map(|(_, note)| note))
        .collect();
    let unready = |code, reasons: Vec<String>, detail: String| {
        let problem = Problem::unavailable(code, detail).with("reasons", reasons);
        if notes.is_empty() { problem } else { problem.with("notes", notes.clone()) }
    };
    if server.is_draining() {
        let reason = "the server is shutting down";
        return Err(unready("draining", vec![reason.to_owned()], reason.to_owned()));
    }
    let failures = health.failures();
    if !failures.is_empty() {
        let reasons = failures.into_iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        let detail = "a part of this server has failed; the reasons name it".to_owned();
        return Err(unready("part_failed", reasons, detail));
    }
    let read = server.0.khala.journal().topics("", None, NonZeroUsize::MIN);
    match timeout(PROBE, read).await {
        Ok(Ok(_)) if notes.is_empty() => json(StatusCode::OK, &json!({"status": "ready"})),
        Ok(Ok(_)) => json(StatusCode::OK, &json!({"status": "ready", "notes": notes})),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready: the journal fails");
            let detail = format!("the journal does not answer ({}); the server's log says why", error.kind());
            Err(unready("journal_unavailable", vec![reason(error.kind()).to_owned()], detail))
        }
        Err(_) => {
            let detail = format!("the journal did not answer within {} s", PROBE.as_secs());
            Err(unready("journal_unavailable", vec![reason(ErrorKind::Unavailable).to_owned()], detail))
        }
    }
}

/// Why the journal cannot be used, without a word of its own, which may name hosts and files.
fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Corrupt => "what the database holds contradicts itself",
        ErrorKind::Full => "the database has no space left",
        ErrorKind::ReadOnly => "the database refuses this user",
        ErrorKind::Schema => "the database's schema is not the one that this version works with",
        ErrorKind::Unavailable => "the database cannot be reached, or does not answer",
        _ => "the database refuses what it is asked",
    }
}

/// `GET /metrics`
pub(crate) fn metrics(server: &Server) -> Result<Response<Full<Bytes>>, Problem> {
    let Some(render) = &server.0.metrics else {
        return Err(Problem::not_found("metrics_off", "this server keeps its metrics elsewhere"));
    };
    server.0.khala.memory().report();
    let mut response = Response::new(Full::from(render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// `GET /openapi.json`
pub(crate) fn openapi() -> Response<Full<Bytes>> {
    json_bytes(Bytes::from_static(OPENAPI.as_bytes()))
}
