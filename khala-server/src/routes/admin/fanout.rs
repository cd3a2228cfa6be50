//! `/internal/v1/khala/fanout/…`: how delivery does on this node, by topic and in sums, and what wakes it up.
//!
//! Here topics have names, which no metric may give them.
//!
//! # Invariants
//! An answer is bounded, and costs the journal no more than a read of the bounds of the topics that are in it.

use axum::{extract::State, response::Response};
use http::StatusCode;
use khala_core::{
    Epoch, Topic, Watermark,
    admin::TopicWindow,
    replay::ReplayOptions,
    stats::{Counters, TopicIncidents},
};
use serde::{Deserialize, Serialize};

use super::rules::{Rules, millis};
use crate::{
    openapi,
    problem::Problem,
    request::{Admin, Limit, NoParams, Params},
    response::json,
    shared::Shared,
};

/// How many topics are told of.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct FanoutQuery {
    /// How many topics are told of.
    #[param(inline)]
    topic_limit: Limit<20>,
}

/// How delivery does on this node.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FanoutMetrics)]
struct Metrics<'a> {
    /// First those with the most incidents, then those whose slowest follower is farthest behind.
    topics: Vec<Window<'a>>,
    delivery: Delivery,
}

/// How delivery does on this node, by topic and in sums.
#[utoipa::path(
    get, path = "/internal/v1/khala/fanout/metrics", operation_id = "fanoutMetrics", tag = "admin", security(("admin" = [])),
    params(FanoutQuery),
    responses(
        (status = 200, body = Metrics<'_>, description = "As of now."),
        openapi::AdminRefusals,
        openapi::StoreRefusals,
    )
)]
pub(crate) async fn fanout_metrics(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<FanoutQuery>,
) -> Result<Response, Problem> {
    let Limit(limit) = query.topic_limit;
    let windows = shared.0.khala.topic_stats(limit).await?;
    let topics = windows.iter().map(Window::of).collect();
    json(StatusCode::OK, &Metrics { topics, delivery: Delivery::of(&shared) })
}

/// One topic.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = TopicWindow)]
struct Window<'a> {
    #[schema(value_type = openapi::Topic)]
    topic: &'a Topic,
    #[schema(required)]
    class: Option<&'a str>,
    /// Null for a topic of no class.
    #[schema(value_type = Option<openapi::Tier>, required)]
    tier: Option<&'static str>,
    #[schema(value_type = openapi::Epoch)]
    epoch: Epoch,
    #[schema(value_type = openapi::Watermark)]
    floor: Watermark,
    #[schema(value_type = openapi::Watermark)]
    head: Watermark,
    /// How many updates the slowest client that follows it now is behind the head.
    lag: u64,
    /// Clients that follow it on this node now.
    connected: u64,
    #[schema(value_type = Option<openapi::Watermark>, required)]
    slowest_connected: Option<Watermark>,
    /// Clients that did until recently.
    seen: u64,
    #[schema(value_type = Option<openapi::Watermark>, required)]
    slowest_seen: Option<Watermark>,
    #[schema(required)]
    limits: Option<Rules>,
    incidents: Incidents,
    #[schema(value_type = Option<openapi::Incident>, required)]
    last_reason: Option<&'static str>,
    #[schema(value_type = Option<openapi::Timestamp>, required)]
    last_at: Option<u64>,
}

/// How often its rules were broken here, as far as is remembered.
#[derive(Serialize, utoipa::ToSchema)]
struct Incidents {
    /// Times that the journal was found to have lost updates of this topic that were acknowledged.
    journal_regressed: u64,
    payload_too_large: u64,
    publish_rate_limited: u64,
    replay_deferred: u64,
    slow_consumer_evicted: u64,
    stale_cursor: u64,
}

impl<'a> Window<'a> {
    fn of(window: &'a TopicWindow) -> Self {
        let TopicWindow { topic, class, bounds, followers, lag, incidents, .. } = window;
        let TopicIncidents {
            journal_regressed,
            payload_too_large,
            publish_rate_limited,
            replay_deferred,
            slow_consumer_evicted,
            stale_cursor,
            last,
            ..
        } = *incidents;
        Self {
            topic,
            class: class.as_ref().map(|class| &*class.name),
            tier: class.as_ref().map(|class| class.tier.as_str()),
            epoch: bounds.epoch,
            floor: bounds.floor,
            head: bounds.head,
            lag: *lag,
            connected: followers.connected,
            slowest_connected: followers.slowest_connected,
            seen: followers.seen,
            slowest_seen: followers.slowest_seen,
            limits: class.as_ref().map(|class| Rules::of(class)),
            incidents: Incidents {
                journal_regressed,
                payload_too_large,
                publish_rate_limited,
                replay_deferred,
                slow_consumer_evicted,
                stale_cursor,
            },
            last_reason: last.map(|(incident, _)| incident.as_str()),
            last_at: last.map(|(_, at)| at.as_millis()),
        }
    }
}

/// This node, since it started.
#[derive(Serialize, utoipa::ToSchema)]
struct Delivery {
    connections: usize,
    /// Joined topics of all connections.
    channels: u64,
    /// Of those, how many read from the journal and not from the tail.
    behind: u64,
    /// Channels that fell behind after they had been live.
    demotions: u64,
    /// Channels that came back.
    promotions: u64,
    /// Connections that were evicted because they took nothing.
    slow_evictions: u64,
    stale_cursors: u64,
    /// Those of a subject that had one of the same topic within a minute.
    stale_loops: u64,
    /// What is held for clients that do not take it.
    outbox_bytes: u64,
    fairness: Fairness,
    storms: Storms,
}

/// Who reads history when.
#[derive(Serialize, utoipa::ToSchema)]
struct Fairness {
    #[schema(minimum = 1)]
    reads_at_once: usize,
    /// Reads that waited for their turn.
    waited: u64,
}

/// Who is let in to read it.
#[derive(Serialize, utoipa::ToSchema)]
struct Storms {
    #[schema(required, minimum = 1)]
    replay_pages_per_second: Option<u32>,
    #[schema(required, minimum = 1)]
    replay_pages_at_once: Option<u32>,
    longest_wait_ms: u64,
    /// Joins that were told to come back.
    deferred: u64,
}

impl Delivery {
    fn of(shared: &Shared) -> Self {
        let khala = &shared.0.khala;
        let Counters {
            behind,
            demotions,
            promotions,
            slow_evictions,
            stale_cursors,
            stale_loops,
            replays_deferred,
            replays_queued,
            outbox_bytes,
            ..
        } = khala.stats().counters();
        let ReplayOptions { rate, concurrent_reads, max_retry_after, .. } = khala.replay_options();
        Self {
            connections: khala.connections().count(),
            channels: khala.connections().channels(),
            behind,
            demotions,
            promotions,
            slow_evictions,
            stale_cursors,
            stale_loops,
            outbox_bytes,
            fairness: Fairness { reads_at_once: concurrent_reads.get(), waited: replays_queued },
            storms: Storms {
                replay_pages_per_second: rate.map(|rate| rate.per_second().get()),
                replay_pages_at_once: rate.map(|rate| rate.burst().get()),
                longest_wait_ms: millis(max_retry_after),
                deferred: replays_deferred,
            },
        }
    }
}

/// A way in which this node is woken up.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FanoutHook)]
struct Hook {
    #[schema(value_type = openapi::Hook)]
    hook: &'static str,
    /// What this node told the others.
    announced: u64,
    /// What it could not tell.
    announce_failures: u64,
    /// How often this node was told something.
    heard: u64,
    /// What polling found and nothing had announced. It grows while `heard` does not: the way is dead.
    poll_finds: u64,
}

/// The ways in which this node is woken up.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FanoutHooks)]
struct Hooks {
    hooks: [Hook; 2],
}

/// The ways in which this node is woken up, and whether they work.
#[utoipa::path(
    get, path = "/internal/v1/khala/fanout/hooks", operation_id = "fanoutHooks", tag = "admin", security(("admin" = [])),
    responses(
        (status = 200, body = Hooks, description = "Since it started."),
        openapi::AdminRefusals,
    )
)]
pub(crate) async fn fanout_hooks(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    let totals = shared.0.khala.stats().counters();
    let heads = Hook {
        hook: "heads",
        announced: totals.announced,
        announce_failures: totals.announce_failures,
        heard: totals.heard,
        poll_finds: totals.missed_announcements,
    };
    let revocations = Hook {
        hook: "revocations",
        announced: totals.revocations_announced,
        announce_failures: totals.revocation_announce_failures,
        heard: totals.revocations_heard,
        poll_finds: totals.missed_revocation_announcements,
    };
    json(StatusCode::OK, &Hooks { hooks: [heads, revocations] })
}
