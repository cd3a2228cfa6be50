//! What operators and their machines ask: is it up, is it ready, what does it count.

use std::{num::NonZeroUsize, time::Duration};

use axum::{body::Body, extract::State, response::Response};
use futures::future::join;
use http::{HeaderValue, StatusCode, header};
use khala_core::{ErrorKind, journal::Journal as _};
use serde::Serialize;

use crate::{openapi, problem::Problem, response::json, shared::Shared, timeouts::timeout};

/// How long the journal may take to answer before the server counts as not ready.
const PROBE: Duration = Duration::from_secs(2);

/// What a server says of itself.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Health)]
struct Status {
    status: Word,
    /// What the server does without just now, and is no less ready for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StatusWord)]
enum Word {
    Ready,
    Up,
}

/// Tells that the process is up.
///
/// It asks nothing of the store, whose trouble a restart would not mend.
#[utoipa::path(
    get, path = "/healthz", operation_id = "health", tag = "operations", security(()),
    responses((status = 200, body = Status, description = "It is."))
)]
pub(crate) async fn health() -> Result<Response, Problem> {
    json(StatusCode::OK, &Status { status: Word::Up, notes: Vec::new() })
}

/// Tells whether requests can be served now.
///
/// The journal answers, can be written, and the server is not about to stop. What it does without is noted.
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = "operations", security(()),
    responses(
        (status = 200, body = Status, description = "They can."),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn ready(State(shared): State<Shared>) -> Result<Response, Problem> {
    let health = shared.0.khala.health();
    let notes = shared.0.notes.as_ref().map(|notes| notes()).unwrap_or_default();
    let notes: Vec<String> = notes
        .into_iter()
        .map(str::to_owned)
        .chain(health.notes().into_iter().map(|(_, note)| note))
        .collect();
    let unready = |code, reasons: Vec<String>, detail: String| {
        let problem = Problem::unavailable(code, detail).with("reasons", reasons);
        if notes.is_empty() { problem } else { problem.with("notes", notes.clone()) }
    };
    if shared.0.drain.has_begun() {
        let reason = "the server is shutting down";
        return Err(unready("draining", vec![reason.to_owned()], reason.to_owned()));
    }
    let failures = health.failures();
    if !failures.is_empty() {
        let reasons = failures.into_iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        let detail = "a part of this server has failed; the reasons name it".to_owned();
        return Err(unready("part_failed", reasons, detail));
    }
    let journal = shared.0.khala.journal();
    let read = async {
        journal.topics("", None, NonZeroUsize::MIN).await.map_err(|error| ("journal_unavailable", error))
    };
    let write = async {
        shared.0.write_probe.ask(&shared.0.khala).await.map_err(|error| ("journal_unwritable", error))
    };
    let asked = async {
        let (read, written) = join(read, write).await;
        read.and(written)
    };
    match timeout(PROBE, asked).await {
        Ok(Ok(_)) => json(StatusCode::OK, &Status { status: Word::Ready, notes }),
        Ok(Err((code, error))) => {
            tracing::warn!(error = &error as &dyn std::error::Error, code, "not ready: the journal fails");
            let fails =
                if code == "journal_unwritable" { "cannot store anything" } else { "does not answer" };
            let detail = format!("the journal {fails} ({}); the server's log says why", error.kind());
            Err(unready(code, vec![reason(error.kind()).to_owned()], detail))
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
        ErrorKind::Internal => "the store fails by a fault of its own",
        ErrorKind::ReadOnly => "the database refuses this user",
        ErrorKind::Schema => "the database's schema is not the one that this version works with",
        ErrorKind::Unavailable => "the database cannot be reached, or does not answer",
        _ => "the database refuses what it is asked",
    }
}

/// Gives the metrics, in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operations", security(()),
    responses(
        (status = 200, body = String, description = "The metrics."),
        (status = 404, response = openapi::MetricsOff),
    )
)]
pub(crate) async fn metrics(State(shared): State<Shared>) -> Result<Response, Problem> {
    let Some(render) = &shared.0.metrics else {
        return Err(Problem::not_found("metrics_off", "this server keeps its metrics elsewhere"));
    };
    shared.0.khala.stats().report();
    let mut response = Response::new(Body::from(render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}
