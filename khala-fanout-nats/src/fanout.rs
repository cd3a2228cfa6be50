//! The fanout itself: levels of this process, one connection, and the tasks that keep the two in step.
//!
//! Five kinds of tasks: the wire sends what waits, the ears hear what is announced (one per topic, and one each for
//! revocations, greetings and echoes), the watchman looks after the connection, and the beat proves that it hears. No caller waits for the network, but for
//! a bounded while when it begins to watch.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures::StreamExt as _;
use khala_core::{Cursor, Error, ErrorKind, Fanout, LocalFanout, Topic, Watch, Watermark};
use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    BACKEND, beat,
    listening::{Listener, Listening},
    options::NatsOptions,
    outbox::{Outbox, Parcel},
    setup,
    state::{self, NatsState, Station},
    subject::{self, Subjects},
};

/// How long a watch may take to be heard of by the server. Longer, and it is begun without.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// A fanout between nodes, on core NATS.
///
/// Cloning it gives another handle to the same connection, which ends with the last handle. Every method needs a tokio
/// runtime around it.
#[derive(Clone, Debug)]
pub struct NatsFanout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Shared,
    tasks: Vec<AbortHandle>,
}

/// What the tasks and the handles have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    local: LocalFanout,
    pub(crate) listening: Arc<Listening>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) station: Arc<Station>,
    /// The newest ticket whose echo came back: what was sent before it has reached the server.
    settled: watch::Sender<u64>,
    subjects: Arc<Subjects>,
    /// Which node this is, drawn at random.
    node: Arc<str>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.listening.clear();
        self.shared.station.close();
    }
}

impl NatsFanout {
    /// Connects, or begins to: a node starts without its NATS too, for a fanout is only a hint.
    ///
    /// Waits until there is a connection or a first attempt has failed, for at most the connect timeout; after that it is tried
    /// for ever, with growing pauses of up to two seconds. [`state`](Self::state) says how it stands. Dropping the future ends it.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) when the options cannot be right, whatever the server says: an address that is none, a
    /// file that cannot be read or is not what it should be, an impossible prefix. The message names it.
    pub async fn connect(options: NatsOptions) -> Result<Self, Error> {
        let random = getrandom::u64().map_err(|cause| no_random(&cause))?;
        let node: Arc<str> = format!("{random:016x}").into();
        let patience = options.connect_timeout;
        let listening = Arc::new(Listening::default());
        let shared = Shared {
            local: LocalFanout::with_unwatched({
                let listening = Arc::clone(&listening);
                move |topic| listening.forget(topic)
            }),
            listening,
            outbox: Arc::new(Outbox::new(options.remember, random)),
            station: Arc::new(Station::new()),
            settled: watch::Sender::new(0),
            subjects: Arc::new(Subjects::new(&options.prefix)),
            node,
        };
        let prepared = spawn_blocking(move || setup::prepare(&options)).await;
        let (servers, connect) =
            prepared.map_err(|cause| unavailable(format!("the runtime ends: {cause}")))??;
        let connect = state::reporting(connect, &shared.station);
        let client = connect.connect(servers).await;
        let client = client.map_err(|cause| unavailable(format!("the client cannot be started: {cause}")))?;

        let mut inner = Inner { shared, tasks: Vec::new() };
        inner.start(&client).await?;
        let first = inner.shared.station.until(|state| state.connected || state.fault.is_some());
        // How it went is in the state.
        let _ = timeout(patience, first).await;
        Ok(Self(Arc::new(inner)))
    }

    /// The levels that watchers in this process look at. Whoever hears of a head in another way raises it there, and those
    /// who watch it here are woken as by an announcement.
    pub fn levels(&self) -> LocalFanout {
        self.0.shared.local.clone()
    }

    /// How the connection is.
    pub fn state(&self) -> NatsState {
        self.0.shared.station.state()
    }

    /// Whether what others announce is heard: there is a connection, this node's own beat comes back on it, and the server refuses
    /// none of its subscriptions.
    pub fn listens(&self) -> bool {
        self.state().listens()
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.0.shared.station.is_connected()
    }

    /// Waits until there is a connection. Cancel safe.
    pub async fn connected(&self) {
        self.0.shared.station.until(|state| state.connected).await;
    }

    /// Waits until the server has everything that was announced before: for a process that ends after it announced.
    ///
    /// Cancel safe: it only waits.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) when there is no connection, or it is lost meanwhile.
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = &self.0.shared;
        let ticket = shared.listening.ticket();
        shared.outbox.echo(ticket);
        tokio::select! {
            () = shared.echoed(ticket) => Ok(()),
            () = shared.station.until(|state| !state.connected) => Err(shared.not_connected()),
        }
    }
}

impl Inner {
    async fn start(&mut self, client: &Client) -> Result<(), Error> {
        let Shared { local, outbox, settled, subjects, node, .. } = self.shared.clone();
        // Commands that wait in the client until there is a connection.
        let revoked = hear(client, subjects.revoked()).await?;
        let hello = hear(client, subjects.hello()).await?;
        let echo = hear(client, subjects.echo(&node)).await?;

        self.keep(each(revoked, move |text| {
            subject::watermark_of(text).map(|newest| local.raise_revoked(newest)).is_some()
        }));
        self.keep(each(hello, move |text| {
            if text != node.as_bytes() {
                outbox.recall();
            }
            true
        }));
        self.keep(each(echo, move |text| {
            let ticket = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            ticket.map(|ticket: u64| settled.send_modify(|settled| *settled = ticket.max(*settled))).is_some()
        }));
        self.keep(self.shared.clone().wire(client.clone()));
        let (station, outbox) = (Arc::clone(&self.shared.station), Arc::clone(&self.shared.outbox));
        self.keep(state::watch_over(client.clone(), station, outbox));
        self.keep(beat::beat(self.shared.clone(), client.clone()));
        Ok(())
    }

    fn keep(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task).abort_handle());
    }
}

impl Shared {
    /// Sends what waits, while there is a connection.
    async fn wire(self, client: Client) {
        let mut last = 0;
        loop {
            self.station.until(|state| state.connected).await;
            match self.outbox.take(Instant::now()) {
                Ok(parcel) => {
                    last = parcel.echo.unwrap_or(0).max(last);
                    if self.send(&client, parcel, last).await.is_none() {
                        return;
                    }
                }
                Err(None) => self.outbox.news().await,
                Err(Some(due)) => tokio::select! {
                    () = self.outbox.news() => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Sends a parcel, behind the subscriptions that are wanted by now. None: the client has ended.
    async fn send(&self, client: &Client, parcel: Parcel, last: u64) -> Option<()> {
        for (topic, ticket) in self.listening.take_wanted() {
            let subscriber = client.subscribe(self.subjects.head(&topic)).await.ok()?;
            let ear = each(subscriber, {
                let (local, topic) = (self.local.clone(), topic.clone());
                move |text| subject::head_of(text).map(|head| local.raise(&topic, head)).is_some()
            });
            self.listening.heard_by(&topic, ticket, Listener(tokio::spawn(ear).abort_handle()));
        }
        let echo = parcel.greet || parcel.echo.is_some();
        if parcel.greet && (!self.listening.is_empty() || self.local.revoked_is_watched()) {
            // Whoever watches may have missed something.
            client.publish(self.subjects.hello(), self.node.to_string().into()).await.ok()?;
        }
        for (topic, head) in parcel.heads {
            client.publish(self.subjects.head(&topic), subject::head_text(head).into()).await.ok()?;
        }
        if let Some(newest) = parcel.revoked {
            client.publish(self.subjects.revoked(), newest.to_string().into()).await.ok()?;
        }
        if echo {
            client.publish(self.subjects.echo(&self.node), last.to_string().into()).await.ok()?;
        }
        Some(())
    }

    /// Waits until the server has taken what goes with `ticket`.
    pub(crate) async fn echoed(&self, ticket: u64) {
        // It cannot fail: the sender is here.
        let _ = self.settled.subscribe().wait_for(|settled| *settled >= ticket).await;
    }

    /// Waits until the server knows of a subscription, so that what is announced from then on is heard. Without a connection
    /// there is nothing to wait for: when it is back, the others are asked.
    async fn settled(&self, ticket: u64) {
        tokio::select! {
            () = self.echoed(ticket) => {}
            () = self.station.until(|state| !state.connected) => {}
            () = tokio::time::sleep(SETTLE_WITHIN) => tracing::debug!("NATS is slow to take a subscription"),
        }
    }

    fn not_connected(&self) -> Error {
        match self.station.state().fault {
            Some(fault) => unavailable(format!("no connection to NATS, which is tried again: {fault}")),
            None => unavailable("no connection to NATS, which is tried again"),
        }
    }
}

#[async_trait]
impl Fanout for NatsFanout {
    async fn announce(&self, topic: &Topic, head: Cursor) -> Result<(), Error> {
        let shared = &self.0.shared;
        shared.local.raise(topic, head);
        let room = shared.outbox.announce(topic, head, Instant::now());
        if !shared.station.is_connected() {
            Err(shared.not_connected())
        } else if room {
            Ok(())
        } else {
            Err(unavailable("too many topics wait to be announced: NATS takes them too slowly"))
        }
    }

    async fn watch(&self, topic: &Topic) -> Result<Watch, Error> {
        let shared = &self.0.shared;
        // In this order: while somebody watches, the topic is not forgotten.
        let watch = shared.local.observe(topic);
        let (ticket, new) = shared.listening.want(topic);
        if new {
            shared.outbox.echo(ticket);
        }
        shared.settled(ticket).await;
        Ok(watch)
    }

    async fn announce_revoked(&self, newest: Watermark) -> Result<(), Error> {
        let shared = &self.0.shared;
        shared.local.raise_revoked(newest);
        shared.outbox.announce_revoked(newest);
        if shared.station.is_connected() { Ok(()) } else { Err(shared.not_connected()) }
    }

    async fn watch_revoked(&self) -> Result<Watch<Watermark>, Error> {
        let shared = &self.0.shared;
        let watch = shared.local.observe_revoked();
        let ticket = shared.listening.ticket();
        shared.outbox.echo(ticket);
        shared.settled(ticket).await;
        Ok(watch)
    }
}

async fn hear(client: &Client, subject: String) -> Result<Subscriber, Error> {
    let subscriber = client.subscribe(subject).await;
    subscriber.map_err(|cause| unavailable(format!("the client ends: {cause}")))
}

/// Hands each message to `take`, which says whether it could make sense of it.
async fn each(mut subscriber: Subscriber, take: impl Fn(&[u8]) -> bool + Send) {
    let mut told = false;
    while let Some(message) = subscriber.next().await {
        if !take(&message.payload) && !told {
            told = true;
            let subject = message.subject.as_str();
            tracing::warn!(
                subject,
                "a message is none of Khala's, and passed over; is the prefix used by something else?"
            );
        }
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, message)
}

fn no_random(cause: &getrandom::Error) -> Error {
    unavailable(format!("the system gives no random numbers: {cause}"))
}
