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

use super::rules::{Retained, millis};
use crate::{
    problem::Problem,
    request::{Admin, Context, Empty, Limit, NoParams, Params, flag, invalid, parse},
    routes::json,
    server::Shared,
};

/// What is told.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RetentionQuery {
    /// How many records.
    limit: Limit<10>,
    /// Whether the next sweep is planned too.
    #[serde(deserialize_with = "flag")]
    plan: bool,
}

/// `GET /internal/v1/khala/retention`
pub(crate) async fn retention(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<RetentionQuery>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Status<'a> {
        node: &'a NodeId,
        /// Null while no sweep of this node is under way.
        leads_until: Option<u64>,
        /// Null where it sweeps by order only.
        every_ms: Option<u64>,
        guard_cursors: Option<u64>,
        seen_ms: u64,
        lead_ms: u64,
        classes: Vec<Class<'a>>,
        records: Vec<SweepRecord>,
        #[serde(skip_serializing_if = "Option::is_none")]
        plan: Option<SweepPlan>,
    }
    #[derive(Serialize)]
    struct Class<'a> {
        class: &'a str,
        pattern: &'a TopicPattern,
        tier: &'static str,
        #[serde(flatten)]
        retained: Retained,
    }
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

/// What became of it.
#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Answer {
    Planned { plan: SweepPlan },
    Swept { record: SweepRecord },
}

/// `POST /internal/v1/khala/retention`
pub(crate) async fn sweep(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
    Context { request_id, .. }: Context,
    request: Request,
) -> Result<Response, Problem> {
    let body = super::read(&shared, request, Empty::Refused).await?;
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
