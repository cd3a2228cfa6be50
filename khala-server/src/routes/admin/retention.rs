//! `/internal/v1/khala/retention`: how much history is kept, what the last sweeps did, what the next would do, and the
//! order for one.
//!
//! # Invariants
//! Asking changes nothing, and a sweep that was begun goes to its end whether or not anybody waits for the answer.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use khala_core::{
    class::TopicPattern,
    node::NodeId,
    retention::{SweepOptions, SweepOrder, SweepPlan, SweepRecord, SweepTrigger, Swept},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::order;
use super::rules::{Retained, millis};
use crate::{
    openapi,
    problem::Problem,
    request::{Admin, Context, Empty, Limit, NoParams, Params, flag, invalid, parse},
    response::json,
    shared::Shared,
};

/// What is told.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct RetentionQuery {
    /// How many of the last sweeps are told of.
    #[param(inline)]
    limit: Limit<10>,
    /// Whether to say what the next sweep would do. That reads what would go.
    #[param(default = false)]
    #[serde(deserialize_with = "flag")]
    plan: bool,
}

/// How much history is kept, and what the last sweeps did.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Retention)]
struct Status<'a> {
    /// This node's name among those that share the journal.
    #[schema(value_type = String)]
    node: &'a NodeId,
    /// Until when this node's lease lasts, while a sweep of its own is under way.
    #[schema(value_type = Option<openapi::Timestamp>, required)]
    leads_until: Option<u64>,
    /// How often it sweeps; null: by order only.
    #[schema(required)]
    every_ms: Option<u64>,
    /// How many cursors a sweep may make stale; null: as many as there are.
    #[schema(required)]
    guard_cursors: Option<u64>,
    /// How long the cursor of a client that went counts for that.
    seen_ms: u64,
    /// How long a lease lasts that is not renewed.
    lead_ms: u64,
    classes: Vec<Class<'a>>,
    /// The last sweeps of the journal, newest first.
    #[schema(value_type = Vec<openapi::SweepRecord>)]
    records: Vec<SweepRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = openapi::SweepPlan, required = false)]
    plan: Option<SweepPlan>,
}

/// How much history of a topic class is kept.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = RetentionClass)]
struct Class<'a> {
    class: &'a str,
    #[schema(value_type = String)]
    pattern: &'a TopicPattern,
    #[schema(value_type = openapi::Tier)]
    tier: &'static str,
    #[serde(flatten)]
    retained: Retained,
}

/// How much history is kept, and what the last sweeps did.
#[utoipa::path(
    get, path = "/internal/v1/khala/retention", operation_id = "retention", tag = "admin", security(("admin" = [])),
    params(RetentionQuery),
    responses(
        (status = 200, body = Status<'_>, description = "As of now."),
        openapi::AdminRefusals,
        openapi::StoreRefusals,
    )
)]
pub(crate) async fn retention(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<RetentionQuery>,
) -> Result<Response, Problem> {
    let RetentionQuery { limit: Limit(limit), plan: planned } = query;
    let khala = &shared.0.khala;
    let records = khala.retention().records(limit).await?;
    let plan = if planned { Some(khala.retention().plan_sweep().await?) } else { None };
    let SweepOptions { max_stale_cursors, lease_duration, recent_cursor, .. } = khala.retention().options();
    let classes = khala.classes().iter().map(|class| Class {
        class: &class.name,
        pattern: &class.pattern,
        tier: class.tier.as_str(),
        retained: Retained::of(class.retain),
    });
    json(
        StatusCode::OK,
        &Status {
            node: khala.node(),
            leads_until: khala.retention().lease_until().map(|until| until.as_millis()),
            every_ms: shared.0.sweep_every.map(millis),
            guard_cursors: max_stale_cursors,
            seen_ms: millis(recent_cursor),
            lead_ms: millis(lease_duration),
            classes: classes.collect(),
            records,
            plan,
        },
    )
}

/// An order to sweep.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SweepOrder)]
struct Ordered {
    /// Only says what would go; false where it is not said.
    #[serde(default)]
    dry_run: bool,
    /// Sweeps whatever the guard says; false where it is not said.
    #[serde(default)]
    force: bool,
}

/// What became of it.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[schema(as = Swept)]
enum Answer {
    #[schema(title = "SweepPlanned")]
    Planned {
        #[schema(value_type = openapi::SweepPlan)]
        plan: SweepPlan,
    },
    #[schema(title = "SweepDone")]
    Swept {
        #[schema(value_type = openapi::SweepRecord)]
        record: SweepRecord,
    },
}

/// Takes away history that is no longer kept, or says what would go.
#[utoipa::path(
    post, path = "/internal/v1/khala/retention", operation_id = "sweep", tag = "admin", security(("admin" = [])),
    params(openapi::RequestIdHeader),
    request_body(content = Ordered, content_type = "application/json", examples(
        ("dry" = (value = json!({"dry_run": true}))),
        ("now" = (value = json!({}))),
    )),
    responses(
        (status = 200, body = Answer, description = "It went to its end; or, of a dry run, what would go."),
        openapi::AdminRefusals,
        openapi::BodyRefusals,
        (status = 409, response = openapi::SweepHeldBack),
        (status = 500, response = openapi::SweepFailed),
        (status = 503, response = openapi::Unavailable),
    )
)]
pub(crate) async fn sweep(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let body = order::read(&shared, request, Empty::Refused).await?;
    let Ordered { dry_run, force } = parse(&body)?;
    let khala = shared.0.khala.clone();
    if dry_run {
        if force {
            return Err(invalid("force", "force means nothing with dry_run: a plan asks no guard"));
        }
        let plan = khala.retention().plan_sweep().await?;
        return json(StatusCode::OK, &Answer::Planned { plan });
    }
    tracing::info!(request_id = &*request_id, force, "a sweep was ordered");
    let order = SweepOrder { force, ..SweepOrder::new(SweepTrigger::Order) };
    let guard = khala.retention().options().max_stale_cursors;
    // A client that hangs up ends no sweep halfway.
    let swept = tokio::spawn(async move { khala.retention().sweep(order).await }).await;
    let swept = swept.map_err(|error| {
        tracing::error!(request_id = &*request_id, %error, "a sweep did not end");
        failed(None)
    })??;
    match swept {
        Swept::Done(record) => json(StatusCode::OK, &Answer::Swept { record }),
        Swept::HeldBack(record) => {
            let would = record.stale_connected.saturating_add(record.stale_seen);
            let allowed = guard.map_or_else(|| "none".to_owned(), |guard| guard.to_string());
            let detail = format!(
                "it would make {would} cursors stale, and the guard allows {allowed}: force it, or let more be stale; \
                 nothing went"
            );
            Err(Problem::new(StatusCode::CONFLICT, "sweep_held_back", detail).with("record", json!(record)))
        }
        Swept::Busy { node, until } => {
            let detail = format!("a sweep is under way on {node}: try again when it has ended");
            Err(Problem::new(StatusCode::CONFLICT, "sweep_busy", detail)
                .with("node", node.as_str())
                .with("until", until.as_millis()))
        }
        Swept::Failed(record) => {
            // Its own words are the store's, which are for the log, and for the record.
            tracing::error!(request_id = &*request_id, error = record.error, "a sweep failed");
            Err(failed(record.failed.first().map(|failed| &*failed.topic)).with("record", json!(record)))
        }
    }
}

/// Names the first of the topics that could not be swept.
fn failed(topic: Option<&str>) -> Problem {
    let which = topic.map(|topic| format!(": {topic:?} is the first topic that failed")).unwrap_or_default();
    let detail = format!(
        "not everything could be swept{which}; the record and the server's log say why, and the next sweep goes on from there"
    );
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "sweep_failed", detail)
}
