//! The fanout itself: levels of this process, one connection, and the tasks that keep the two in step.
//!
//! Five kinds of tasks: the wire sends what waits, the ears hear what is announced (one per topic, and one each for
//! revocations, greetings and echoes), the monitor looks after the connection, and the beat proves that it hears. No caller
//! waits for the network, but for a bounded while when it begins to watch.
//!
//! # Invariants
//! A task that panics or ends runs again, and what waits for it is not lost: the ears keep their subscriptions, and the wire
//! begins with what nobody hears yet and tells again what it may have lost. Meanwhile the node's health says so.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures::StreamExt as _;
use khala_core::{
    Cursor, Error, ErrorKind, Topic, Watermark,
    clock::SystemClock,
    fanout::{Fanout, LocalFanout, Watch},
    health::{Condition, Health, Part, supervise},
};
use tokio::{
    sync::{Mutex, watch},
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    BACKEND, beat,
    listening::{Listener, Listening},
    options::NatsOptions,
    outbox::{Outbox, PendingAnnouncements},
    setup,
    state::{self, ConnectionMonitor, NatsState},
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
    pub(crate) monitor: Arc<ConnectionMonitor>,
    /// The newest ticket whose echo came back: what was sent before it has reached the server.
    settled: watch::Sender<u64>,
    subjects: Arc<Subjects>,
    /// Which node this is, drawn at random.
    node: Arc<str>,
    /// All ears of topics together: of which topics, is not for metrics.
    ears: Arc<Part>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.listening.clear();
        self.shared.monitor.close();
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
        let (patience, health) = (options.connect_timeout, options.health.clone());
        let listening = Arc::new(Listening::default());
        let shared = Shared {
            local: LocalFanout::with_unwatched({
                let listening = Arc::clone(&listening);
                move |topic| listening.forget(topic)
            }),
            listening,
            outbox: Arc::new(Outbox::new(options.remember, random)),
            monitor: Arc::new(ConnectionMonitor::new()),
            settled: watch::Sender::new(0),
            subjects: Arc::new(Subjects::new(&options.prefix)),
            node,
            ears: Arc::new(health.part("nats_topics")),
        };
        let prepared = spawn_blocking(move || setup::prepare(&options)).await;
        let (servers, connect) =
            prepared.map_err(|cause| unavailable(format!("the runtime ends: {cause}")))??;
        let connect = state::reporting(connect, &shared.monitor);
        let client = connect.connect(servers).await;
        let client = client.map_err(|cause| unavailable(format!("the client cannot be started: {cause}")))?;

        let mut inner = Inner { shared, tasks: Vec::new() };
        inner.start(&client, &health).await?;
        let first = inner.shared.monitor.until(|state| state.connected || state.fault.is_some());
        // How it went is in the state.
        let _ = timeout(patience, first).await;
        Ok(Self(Arc::new(inner)))
    }

    /// The levels that watchers in this process look at. A caller that hears of a head in another way raises it there, and those
    /// who watch it here are woken as by an announcement.
    pub fn levels(&self) -> LocalFanout {
        self.0.shared.local.clone()
    }

    /// How the connection is.
    pub fn state(&self) -> NatsState {
        self.0.shared.monitor.state()
    }

    /// Whether what others announce is heard: there is a connection, this node's own beat has come back on it, and the server refuses
    /// none of its subscriptions.
    pub fn listens(&self) -> bool {
        self.state().listens()
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.0.shared.monitor.is_connected()
    }

    /// Waits until there is a connection. Cancel safe.
    pub async fn connected(&self) {
        self.0.shared.monitor.until(|state| state.connected).await;
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
            () = shared.monitor.until(|state| !state.connected) => Err(shared.not_connected()),
        }
    }
}

impl Inner {
    async fn start(&mut self, client: &Client, health: &Health) -> Result<(), Error> {
        let Shared { local, outbox, settled, subjects, node, .. } = self.shared.clone();
        // Commands that wait in the client until there is a connection.
        let revoked = TopicSubscription::new(client, subjects.revoked()).await?;
        let hello = TopicSubscription::new(client, subjects.hello()).await?;
        let echo = TopicSubscription::new(client, subjects.echo(&node)).await?;

        let part = |name| Arc::new(health.part(name));
        self.keep(revoked.hear(part("nats_revocations"), move |text| {
            subject::watermark_of(text).map(|newest| local.raise_revoked(newest)).is_some()
        }));
        self.keep(hello.hear(part("nats_greetings"), move |text| {
            if text != node.as_bytes() {
                outbox.resend_recent();
            }
            true
        }));
        self.keep(echo.hear(part("nats_echoes"), move |text| {
            let ticket = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            ticket.map(|ticket: u64| settled.send_modify(|settled| *settled = ticket.max(*settled))).is_some()
        }));
        let (shared, own) = (self.shared.clone(), client.clone());
        let mut first = true;
        self.keep(keep(part("nats_sender"), move || {
            if !std::mem::replace(&mut first, false) {
                shared.begin_again();
            }
            shared.clone().wire(own.clone())
        }));
        let (monitor, outbox, own) =
            (Arc::clone(&self.shared.monitor), Arc::clone(&self.shared.outbox), client.clone());
        self.keep(keep(part("nats_connection"), move || {
            state::watch_over(own.clone(), Arc::clone(&monitor), Arc::clone(&outbox))
        }));
        let (shared, own) = (self.shared.clone(), client.clone());
        self.keep(keep(part("nats_beat"), move || beat::beat(shared.clone(), own.clone())));
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
            self.monitor.until(|state| state.connected).await;
            match self.outbox.take(Instant::now()) {
                Ok(pending) => {
                    last = pending.echo.unwrap_or(0).max(last);
                    if self.send(&client, pending, last).await.is_none() {
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

    /// Whatever a wire before this one had taken and not sent is sent again: subscriptions, announcements and the echo.
    fn begin_again(&self) {
        match self.listening.want_unheard() {
            0 => {}
            last => self.outbox.echo(last),
        }
        self.outbox.resend_recent();
    }

    /// Sends a pending, behind the subscriptions that are wanted by now. None: the client has ended.
    async fn send(&self, client: &Client, pending: PendingAnnouncements, last: u64) -> Option<()> {
        for (topic, ticket) in self.listening.take_wanted() {
            let subscription = TopicSubscription::new(client, self.subjects.head(&topic)).await.ok()?;
            let subscription = subscription.hear(Arc::clone(&self.ears), {
                let (local, topic) = (self.local.clone(), topic.clone());
                move |text| subject::head_of(text).map(|head| local.raise(&topic, head)).is_some()
            });
            self.listening.heard_by(&topic, ticket, Listener(tokio::spawn(subscription).abort_handle()));
        }
        let echo = pending.says_hello || pending.echo.is_some();
        if pending.says_hello && (!self.listening.is_empty() || self.local.revoked_is_watched()) {
            // Watchers may have missed something.
            client.publish(self.subjects.hello(), self.node.to_string().into()).await.ok()?;
        }
        for (topic, head) in pending.heads {
            client.publish(self.subjects.head(&topic), subject::head_text(head).into()).await.ok()?;
        }
        if let Some(newest) = pending.revoked {
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
            () = self.monitor.until(|state| !state.connected) => {}
            () = tokio::time::sleep(SETTLE_WITHIN) => tracing::debug!("NATS is slow to take a subscription"),
        }
    }

    fn not_connected(&self) -> Error {
        match self.monitor.state().fault {
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
        if !shared.monitor.is_connected() {
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
        if shared.monitor.is_connected() { Ok(()) } else { Err(shared.not_connected()) }
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

/// Runs a task for ever. Without it, what is new is found by polling.
async fn keep<Fut: Future<Output = ()>>(part: Arc<Part>, task: impl FnMut() -> Fut) {
    supervise(&part, &SystemClock::new(), Condition::Degraded, task).await;
}

/// What hears one subject.
struct TopicSubscription {
    client: Client,
    subject: String,
    /// None after it has ended. Held by what listens.
    subscriber: Mutex<Option<Subscriber>>,
}

impl TopicSubscription {
    async fn new(client: &Client, subject: String) -> Result<Self, Error> {
        let subscriber = client.subscribe(subject.clone()).await;
        let subscriber = subscriber.map_err(|cause| unavailable(format!("the client ends: {cause}")))?;
        Ok(Self { client: client.clone(), subject, subscriber: Mutex::new(Some(subscriber)) })
    }

    /// Hands each message to `take`, which says whether it could make sense of it. For ever: a message that makes it panic is
    /// passed over, and the next ones are heard.
    async fn hear(self, part: Arc<Part>, take: impl Fn(&[u8]) -> bool + Send + Sync) {
        let (subscription, take) = (&self, &take);
        keep(part, || subscription.listen(take)).await;
    }

    async fn listen(&self, take: &(impl Fn(&[u8]) -> bool + Send + Sync)) {
        let mut kept = self.subscriber.lock().await;
        let subscriber = match &mut *kept {
            Some(subscriber) => subscriber,
            ended => match self.client.subscribe(self.subject.clone()).await {
                Ok(subscriber) => ended.insert(subscriber),
                // It ends with the client.
                Err(_) => return,
            },
        };
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
        *kept = None;
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, BACKEND, message)
}

fn no_random(cause: &getrandom::Error) -> Error {
    unavailable(format!("the system gives no random numbers: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use khala_core::Epoch;
    use khala_testing::Nats;

    use super::*;

    async fn node(nats: &Nats, health: &Health) -> NatsFanout {
        let options =
            NatsOptions { servers: vec![nats.url()], health: health.clone(), ..NatsOptions::default() };
        let fanout = NatsFanout::connect(options).await.unwrap();
        soon(fanout.connected()).await;
        fanout
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), what).await.expect("it happens within 30 s")
    }

    #[tokio::test]
    async fn an_ear_that_panics_hears_again_what_waited_meanwhile() {
        let nats = Nats::start();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let health = Health::new();
        let subscription = TopicSubscription::new(&client, "s".to_owned()).await.unwrap();
        let heard = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn(subscription.hear(Arc::new(health.part("subscription")), {
            let heard = Arc::clone(&heard);
            move |text| {
                assert!(text != b"bad", "on purpose");
                heard.fetch_add(1, Ordering::Relaxed);
                true
            }
        }));
        for text in ["1", "bad", "2", "3"] {
            client.publish("s", text.into()).await.unwrap();
        }
        client.flush().await.unwrap();
        soon(async {
            while health.notes().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(health.notes()[0].1, "subscription panicked", "and not why: the log says that");
        soon(async {
            while heard.load(Ordering::Relaxed) < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert!(health.notes().is_empty(), "{:?}", health.notes());
        task.abort();
    }

    /// What a wire that panics has in its hands: topics that it took to subscribe, announcements and an echo.
    #[tokio::test]
    async fn a_wire_that_begins_again_sends_what_the_last_one_had_taken() {
        let nats = Nats::start();
        let (health, elsewhere) = (Health::new(), Health::new());
        let (one, other) = (node(&nats, &health).await, node(&nats, &elsewhere).await);
        let topic = Topic::parse("t").unwrap();
        let shared = &one.0.shared;
        let mut watch = shared.local.observe(&topic);
        let (ticket, new) = shared.listening.want(&topic);
        assert!(new && shared.listening.take_wanted().len() == 1, "and so it is lost");
        shared.begin_again();
        soon(shared.echoed(ticket)).await;
        let head = Cursor::new(Epoch::from_bits(1), Watermark::new(3).unwrap());
        other.announce(&topic, head).await.unwrap();
        assert_eq!(soon(watch.moved()).await, head);
    }

    #[tokio::test]
    async fn every_task_is_a_part_of_the_nodes_health_until_the_last_handle_is_gone() {
        let nats = Nats::start();
        let health = Health::new();
        let fanout = node(&nats, &health).await;
        let parts: Vec<_> = health.report().into_iter().map(|(name, _)| name).collect();
        let tasks = ["beat", "connection", "echoes", "greetings", "revocations", "sender", "topics"];
        assert_eq!(parts, tasks.map(|task| format!("nats_{task}")));
        drop(fanout);
        soon(async {
            while !health.report().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}
