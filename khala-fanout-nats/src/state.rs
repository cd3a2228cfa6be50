//! How the connection is: for operators, and for those who must not wait for it.
//!
//! The client tells of its ups and downs by events that may be lost. So an event only wakes the monitor, which looks at
//! what the client's counters say; and who looks now and then anyway.

use std::{
    collections::HashSet,
    future::{pending, ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, connection::State};
use khala_core::telemetry;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{BACKEND, outbox::Outbox};

/// How often the monitor looks although nothing happened.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon it looks again when the client is just about to say that it is connected.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What the server's error says of a subscription that it refuses, or takes away when its permissions are reloaded.
const FORBIDDEN: &str = "permissions violation for subscription";
/// What it says of one past the number that it, or the account, allows a connection.
const TOO_MANY: &str = "maximum subscriptions exceeded";
/// How many different faults of one outage are logged.
const TOLD: usize = 8;

/// How the connection of a [`NatsFanout`](crate::NatsFanout) is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsState {
    /// Whether there is a connection. One that has died without a word counts until pings find out.
    pub connected: bool,
    /// Without a connection: why, as far as it is known. With one: what the server refused on it last.
    pub fault: Option<String>,
    /// With a connection: why this node is not known to hear what others announce, as when the server has taken its subscriptions
    /// away. None while it hears its own beat.
    pub deaf: Option<String>,
    /// Whether this node has heard its own beat on this connection.
    pub heard: bool,
    /// How often a connection was made again, because it was lost or because nothing was heard on it.
    pub reconnects: u64,
}

impl NatsState {
    /// Whether what others announce is heard.
    pub fn listens(&self) -> bool {
        self.connected && self.heard && self.deaf.is_none()
    }
}

/// How many subscriptions the server has refused, or taken away, on any connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) forbidden: u64,
    pub(crate) too_many: u64,
}

/// The state, for all who look at it.
#[derive(Debug)]
pub(crate) struct ConnectionMonitor {
    state: watch::Sender<NatsState>,
    refusals: watch::Sender<Refusals>,
    /// Faults that were logged since the connection was last well.
    told: Mutex<HashSet<String>>,
    stirred: Notify,
    closed: AtomicBool,
}

impl ConnectionMonitor {
    pub(crate) fn new() -> Self {
        telemetry::fanout_connected(BACKEND, false);
        Self {
            state: watch::Sender::new(NatsState::default()),
            refusals: watch::Sender::new(Refusals::default()),
            told: Mutex::default(),
            stirred: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> NatsState {
        self.state.borrow().clone()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    /// Waits until the state is such.
    pub(crate) async fn until(&self, such: impl FnMut(&NatsState) -> bool + Send) {
        // It cannot fail: the sender is here.
        let _ = self.state.subscribe().wait_for(such).await;
    }

    /// The client says that something happened.
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::ServerError(fault) => {
                let fault = fault.to_string();
                let text = fault.to_lowercase();
                let (forbidden, too_many) = (text.contains(FORBIDDEN), text.contains(TOO_MANY));
                self.fault(fault);
                if forbidden || too_many {
                    self.refusals.send_modify(|refusals| {
                        refusals.forbidden += u64::from(forbidden);
                        refusals.too_many += u64::from(too_many);
                    });
                }
            }
            // Of other faults the client tells more when it tries again; of this one it does not.
            Event::ClientError(ClientError::Other(kind)) if *kind == ConnectErrorKind::Dns.to_string() => {
                self.fault(
                    "the server's name cannot be resolved; check the address and the name service".to_owned(),
                );
            }
            _ => {}
        }
        self.stirred.notify_one();
    }

    /// Something is wrong. Each different fault is logged once in an outage.
    pub(crate) fn fault(&self, fault: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.len() < TOLD && told.insert(fault.clone());
        drop(told);
        if news && self.is_connected() {
            tracing::warn!(%fault, "NATS refuses something; what it does not carry is found by polling");
        } else if news {
            tracing::warn!(%fault, "no connection to NATS; it is tried again, and subscribers poll meanwhile");
        }
        self.state.send_if_modified(|state| {
            let changed = state.fault.as_ref() != Some(&fault);
            state.fault = Some(fault);
            changed
        });
    }

    /// The last handle is gone.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.down();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// How many subscriptions were refused.
    pub(crate) fn refusals(&self) -> Refusals {
        *self.refusals.borrow()
    }

    /// Waits until more are refused than that.
    pub(crate) async fn refused_more_than(&self, before: Refusals) {
        // It cannot fail: the sender is here.
        let _ = self.refusals.subscribe().wait_for(|refusals| *refusals != before).await;
    }

    /// A beat came back, and no subscription is refused.
    pub(crate) fn hears(&self) {
        self.set_deaf(None);
    }

    /// Nothing is heard, or not all.
    pub(crate) fn is_deaf(&self, why: &str) {
        self.set_deaf(Some(why));
    }

    fn set_deaf(&self, why: Option<&str>) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.deaf.as_deref() != why;
            state.deaf = why.map(str::to_owned);
            state.heard |= why.is_none();
            telemetry::fanout_connected(BACKEND, state.listens());
            if changed && why.is_none() {
                state.fault = None;
                self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            changed
        });
        if !changed {
            return;
        }
        match why {
            Some(why) => {
                let told = self.state().fault.unwrap_or_else(|| "nothing".to_owned());
                tracing::warn!(
                    why,
                    told,
                    "does not hear everything on NATS; the connection is made anew after a while, and subscribers poll meanwhile"
                );
            }
            None => tracing::info!("hears NATS again"),
        }
    }

    fn up(&self, again: bool) {
        if again {
            telemetry::fanout_reconnected(BACKEND);
        }
        self.state.send_modify(|state| {
            state.connected = true;
            state.heard = false;
            state.reconnects += u64::from(again);
            // What keeps this node deaf is told once, however often it is tried.
            if state.deaf.is_none() {
                state.fault = None;
                self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            telemetry::fanout_connected(BACKEND, state.listens());
        });
    }

    fn down(&self) {
        telemetry::fanout_connected(BACKEND, false);
        self.state.send_modify(|state| (state.connected, state.heard) = (false, false));
    }
}

/// Notices when the connection is lost and when there is one again.
pub(crate) async fn watch_over(client: Client, monitor: Arc<ConnectionMonitor>, outbox: Arc<Outbox>) {
    let counters = client.statistics();
    let mut known = 0;
    loop {
        let connects = counters.connects.load(Ordering::Relaxed);
        let connected = client.connection_state() == State::Connected;
        if connected && connects != known {
            let again = known > 0;
            known = connects;
            monitor.up(again);
            outbox.reconnected();
            if again && monitor.state().deaf.is_some() {
                tracing::debug!("connected to NATS anew");
            } else if again {
                tracing::info!("connected to NATS again");
            } else {
                tracing::info!("connected to NATS");
            }
        } else if !connected && monitor.is_connected() {
            let told = monitor.state().fault.unwrap_or_else(|| "nothing".to_owned());
            tracing::warn!(%told, "lost the connection to NATS; it is made again, and subscribers poll meanwhile");
            monitor.down();
        }
        tokio::select! {
            () = monitor.stirred.notified() => {}
            () = sleep(if connects == known { LOOK_EVERY } else { LOOK_AGAIN }) => {}
        }
    }
}

/// Has a client that is to be made report to `monitor`.
pub(crate) fn reporting(options: ConnectOptions, monitor: &Arc<ConnectionMonitor>) -> ConnectOptions {
    let (told, asked) = (Arc::clone(monitor), Arc::clone(monitor));
    options
        .event_callback(move |event| {
            told.event(&event);
            ready(())
        })
        // It is asked before each round of attempts which server to take, and told how the last round went. It has no
        // opinion, but it listens.
        .reconnect_to_server_callback(move |servers, _| {
            let faults: Vec<_> = servers
                .iter()
                .filter(|server| server.failed_attempts > 0)
                .filter_map(|server| Some(explained(server.addr.as_url_str(), server.last_error.as_deref()?)))
                .collect();
            if !faults.is_empty() {
                asked.fault(faults.join("; "));
            }
            // The client would try for ever, also when nobody holds it any more.
            let closed = asked.is_closed();
            async move {
                if closed {
                    pending::<()>().await;
                }
                None
            }
        })
}

/// A fault, and what to do about it where that is known.
fn explained(server: &str, fault: &str) -> String {
    let advice = if fault.contains("authorization violation") {
        "; check the user and password, the token, the credentials or nkey file, or the client certificate"
    } else if fault.contains("UnknownIssuer") {
        "; the server's certificate is of an authority that is not trusted here: name its root certificates"
    } else if fault.contains("InvalidContentType") {
        "; the server does not speak TLS"
    } else {
        ""
    };
    format!("{server}: {fault}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_not_heard_until_a_beat_came_back_on_it() {
        let monitor = ConnectionMonitor::new();
        let listens = || monitor.state().listens();
        for again in [false, true] {
            monitor.up(again);
            assert!(!listens(), "a connection proves nothing");
            monitor.hears();
            assert!(listens());
            monitor.is_deaf("on purpose");
            assert!(!listens());
            monitor.hears();
            assert!(listens());
            monitor.down();
            assert!(!listens());
        }
    }
}
