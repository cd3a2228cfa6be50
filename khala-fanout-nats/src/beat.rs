//! Proof that this node hears: a beat of its own that comes back through the server.
//!
//! A connection proves nothing: a server whose permissions are reloaded takes subscriptions away and keeps the connection. So this
//! node publishes to itself, and a beat that does not come back means that nothing else does. The server names the subscriptions
//! that it refuses; those end nothing by themselves, because no client makes them anew. A connection counts as heard once the
//! first beat has come back on it.
//!
//! # Invariants
//! Silence and refused subscriptions are told for as long as they last, and are mended by a new connection, on which everything is
//! subscribed anew and other nodes are asked for what was missed.

use std::time::Duration;

use async_nats::Client;
use tokio::time::{sleep, timeout};

use crate::{fanout::Shared, setup::pause, state::Refusals};

/// How often the node beats.
const BEAT: Duration = Duration::from_secs(2);
/// How long a beat may take: by then a connection that died without a word is usually known to be lost.
const SILENCE: Duration = Duration::from_secs(8);
/// How long it may take once the server has refused a subscription, which may be that of the beat.
const SILENCE_AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// How long it may take after a beat until the refusal of what was sent before it is known.
const REFUSALS_WITHIN: Duration = Duration::from_millis(250);
/// How long a new connection may take.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// The pause before a new connection, in pauses before an attempt to connect, where nothing is heard.
const PAUSES_DEAF: u32 = 2;
/// The same where some topics are heard, which a new connection interrupts.
const PAUSES_FORBIDDEN: u32 = 30;
/// The same where the node has too many subscriptions for the server: a new connection mends that only if the limit was raised,
/// or if the node watches fewer topics by then. A minute at most at first, and 10 to 20 minutes later.
const PAUSES_TOO_MANY: u32 = 600;

const SUBSCRIPTIONS_FORBIDDEN: &str =
    "the server refuses subscriptions of this node; check the permissions of its user";

/// Beats for ever, and has the connection made anew when that is not heard or a subscription is refused.
pub(crate) async fn beat(shared: Shared, client: Client) {
    let monitor = &shared.monitor;
    let mut attempts = 0;
    // The refusals that were on connections before this one.
    let mut before = Refusals::default();
    loop {
        if !monitor.is_connected() {
            before = monitor.refusals();
            monitor.until(|state| state.connected).await;
        }
        let ticket = shared.listening.ticket();
        shared.outbox.echo(ticket);
        let comes_back = tokio::select! {
            () = shared.echoed(ticket) => true,
            () = monitor.until(|state| !state.connected) => continue,
            () = sleep(SILENCE) => false,
            () = monitor.refused_more_than(before) => {
                timeout(SILENCE_AFTER_REFUSAL, shared.echoed(ticket)).await.is_ok()
            }
        };
        if comes_back {
            // The server tells what it refuses of what was sent before the beat, and the client tells it on another way.
            let _ = timeout(REFUSALS_WITHIN, monitor.refused_more_than(before)).await;
        }
        let refusals = monitor.refusals();
        if comes_back && refusals == before {
            attempts = 0;
            monitor.hears();
            tokio::select! {
                () = sleep(BEAT) => {}
                () = monitor.refused_more_than(before) => {}
                () = monitor.until(|state| !state.connected) => {}
            }
            continue;
        }
        let forbidden = refusals.forbidden > before.forbidden;
        let (why, pauses) = match (comes_back, forbidden) {
            (true, false) => (
                "the server takes no more subscriptions of this node, and it watches more topics; raise the limit \
                 (max_subscriptions of the server, or that of the account)",
                PAUSES_TOO_MANY,
            ),
            (true, true) => (SUBSCRIPTIONS_FORBIDDEN, PAUSES_FORBIDDEN),
            (false, true) => (SUBSCRIPTIONS_FORBIDDEN, PAUSES_DEAF),
            (false, false) => (
                "what this node publishes to itself does not come back; check the permissions of its user",
                PAUSES_DEAF,
            ),
        };
        monitor.is_deaf(why);
        attempts += 1;
        tokio::select! {
            () = sleep(pause(attempts) * pauses) => {}
            // The next connection is a new one anyway.
            () = monitor.until(|state| !state.connected) => continue,
        }
        let reconnects = monitor.state().reconnects;
        before = monitor.refusals();
        if client.force_reconnect().await.is_err() {
            return;
        }
        // If it takes longer, the next beat finds out.
        let _ = timeout(CONNECTS_WITHIN, monitor.until(|state| state.reconnects > reconnects)).await;
    }
}
