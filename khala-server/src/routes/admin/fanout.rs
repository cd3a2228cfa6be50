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
    problem::Problem,
    request::{Admin, Limit, NoParams, Params},
    routes::json,
    server::Shared,
};

/// How many topics are told of.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct FanoutQuery {
    topic_limit: Limit<20>,
}

/// `GET /internal/v1/khala/fanout/metrics`
pub(crate) async fn fanout_metrics(
    State(shared): State<Shared>,
    _: Admin,
    Params(query): Params<FanoutQuery>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Metrics<'a> {
        topics: Vec<Window<'a>>,
        delivery: Delivery,
    }
    let Limit(limit) = query.topic_limit;
    let windows = shared.0.khala.topic_stats(limit).await?;
    let topics = windows.iter().map(Window::of).collect();
    json(StatusCode::OK, &Metrics { topics, delivery: Delivery::of(&shared) })
}

/// One topic.
#[derive(Serialize)]
struct Window<'a> {
    topic: &'a Topic,
    class: Option<&'a str>,
    tier: Option<&'static str>,
    epoch: Epoch,
    floor: Watermark,
    head: Watermark,
    /// Of the slowest that follows it now, in updates.
    lag: u64,
    connected: u64,
    slowest_connected: Option<Watermark>,
    seen: u64,
    slowest_seen: Option<Watermark>,
    limits: Option<Rules>,
    incidents: Incidents,
    last_reason: Option<&'static str>,
    last_at: Option<u64>,
}

/// How often its rules were broken.
#[derive(Serialize)]
struct Incidents {
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
#[derive(Serialize)]
struct Delivery {
    connections: usize,
    channels: u64,
    /// Of those, how many read from the journal and not from the tail.
    behind: u64,
    demotions: u64,
    promotions: u64,
    slow_evictions: u64,
    stale_cursors: u64,
    stale_loops: u64,
    outbox_bytes: u64,
    fairness: Fairness,
    storms: Storms,
}

/// Who reads history when.
#[derive(Serialize)]
struct Fairness {
    reads_at_once: usize,
    /// Reads that waited for their turn.
    waited: u64,
}

/// Who is let in to read it.
#[derive(Serialize)]
struct Storms {
    replay_pages_per_second: Option<u32>,
    replay_pages_at_once: Option<u32>,
    longest_wait_ms: u64,
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

/// `GET /internal/v1/khala/fanout/hooks`: the ways in which this node is woken up. One that hears nothing while polling
/// finds something is dead.
pub(crate) async fn fanout_hooks(
    State(shared): State<Shared>,
    _: Admin,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Hook {
        hook: &'static str,
        announced: u64,
        announce_failures: u64,
        heard: u64,
        poll_finds: u64,
    }
    #[derive(Serialize)]
    struct Hooks {
        hooks: [Hook; 2],
    }
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
