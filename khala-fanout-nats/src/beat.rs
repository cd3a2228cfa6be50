//! Proof that this node hears: a beat of its own that comes back through the server.
//!
//! A connection proves nothing: a server whose permissions are reloaded takes subscriptions away and keeps the connection. So this
//! node publishes to itself, and a beat that does not come back means that nothing else does. The server names the subscriptions
//! that it refuses; those end nothing by themselves, because no client makes them anew.
//!
//! # Invariants
//! Silence and refused subscriptions are told for as long as they last, and are mended by a new connection, on which everything is
//! subscribed anew and other nodes are asked for what was missed.

use std::time::Duration;

use async_nats::Client;
use tokio::time::{sleep, timeout};

use crate::{fanout::Shared, setup::pause};

/// How often the node beats.
const BEAT: Duration = Duration::from_secs(2);
/// How long a beat may take: by then a connection that died without a word is usually known to be lost.
const SILENCE: Duration = Duration::from_secs(8);
/// How long it may take once the server has refused a subscription, which may be that of the beat.
const SILENCE_AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// How much later than a beat the refusal of what was sent before it may be known.
const REFUSALS_WITHIN: Duration = Duration::from_millis(250);
/// How long a new connection may take.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// The rest before a new connection, in rests before an attempt to connect: where nothing is heard, and where only some of it is
/// not, so that the rest must not suffer much.
const RESTS_DEAF: u32 = 2;
const RESTS_REFUSED: u32 = 30;

/// Beats for ever, and has the connection made anew when that is not heard or a subscription is refused.
pub(crate) async fn beat(shared: Shared, client: Client) {
    let station = &shared.station;
    let mut attempts = 0;
    // The refusals that were on connections before this one.
    let mut before = 0;
    loop {
        station.until(|state| state.connected).await;
        let ticket = shared.listening.ticket();
        shared.outbox.echo(ticket);
        let comes_back = tokio::select! {
            () = shared.echoed(ticket) => true,
            () = station.until(|state| !state.connected) => {
                before = station.refusals();
                continue;
            }
            () = sleep(SILENCE) => false,
            () = station.refused_more_than(before) => {
                timeout(SILENCE_AFTER_REFUSAL, shared.echoed(ticket)).await.is_ok()
            }
        };
        if comes_back {
            // The server tells what it refuses of what was sent before the beat, and the client tells it on another way.
            let _ = timeout(REFUSALS_WITHIN, station.refused_more_than(before)).await;
        }
        let refused = station.refusals() > before;
        if comes_back && !refused {
            attempts = 0;
            station.hears();
            let _ = timeout(BEAT, station.refused_more_than(before)).await;
            continue;
        }
        station.is_deaf(if refused {
            "the server refuses subscriptions of this node; check the permissions of its user"
        } else {
            "what this node publishes to itself does not come back; check the permissions of its user"
        });
        attempts += 1;
        sleep(pause(attempts) * if comes_back { RESTS_REFUSED } else { RESTS_DEAF }).await;
        let reconnects = station.state().reconnects;
        before = station.refusals();
        if client.force_reconnect().await.is_err() {
            return;
        }
        // If it takes longer, the next beat finds out.
        let _ = timeout(CONNECTS_WITHIN, station.until(|state| state.reconnects > reconnects)).await;
    }
}
