//! What loads the nodes in a long run: large updates of which only the newest are kept, followers that check that these
//! come without a hole, readers that hardly read, and requests that are never finished.
//!
//! # Invariants
//! A follower is given each update that continues the one before, byte for byte, or is told that it is stale and starts again at
//! the floor. The checker holds it against what was acknowledged.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use khala_client::{
    Client, ClientOptions,
    connection::{Arrived, ConnectionEvent},
};
use khala_core::{
    Append, Batch, Kind, NewUpdate, Payload, Receipt, Token, Topic,
    update::DedupKey,
    wire::{JoinRequest, Resume},
};
use khala_scenarios::{
    checker::{Acknowledgement, Delivery, Given, Limits, Order, Published, PublisherId, Subscriber},
    rng::Rng,
    workspace::Workspace,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{publishers::index, setting::Setting};

const TOPICS: usize = 8;
/// Bytes of a payload.
const LARGE: usize = 48 << 10;
/// How often one is published.
const EVERY: Duration = Duration::from_millis(60);
const FOLLOWERS: usize = 6;
/// Readers that take some kilobytes a second, for each of the clients.
const SLOW_SHARE: u64 = 2;
/// Requests whose body never ends, at a time.
const UNFINISHED: usize = 24;
/// How long a slow reader or an unfinished request stays.
const STAYS: Duration = Duration::from_secs(20);

/// The load of a run, while it lasts.
#[derive(Debug)]
pub(crate) struct Load {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Counts {
    /// By number: what is known to be published on each topic, and who published it.
    topics: Vec<Mutex<(Published, PublisherId)>>,
    published: AtomicU64,
    delivered: AtomicU64,
    stale: AtomicU64,
    slow: AtomicU64,
    unfinished: AtomicU64,
    faults: Mutex<Vec<String>>,
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    published: u64,
    delivered: u64,
    stale: u64,
    slow: u64,
    unfinished: u64,
    faults: Vec<String>,
}

/// What everybody of the load has.
#[derive(Clone, Debug)]
struct Common {
    counts: Arc<Counts>,
    workspace: Arc<Workspace>,
    nodes: Vec<SocketAddr>,
}

impl Load {
    pub(crate) fn begin(setting: &Setting, clients: u64) -> Self {
        let counts = Arc::new(Counts::new());
        let common = Common {
            counts: Arc::clone(&counts),
            workspace: Arc::clone(&setting.workspace),
            nodes: setting.addresses(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(common.clone().publish());
        for number in 0..FOLLOWERS {
            tasks.spawn(common.clone().follow(number));
        }
        for number in 0..clients / SLOW_SHARE {
            tasks.spawn(common.clone().read_slowly(Rng::new(number)));
        }
        for number in 0..UNFINISHED {
            tasks.spawn(common.clone().never_finish(number));
        }
        Self { counts, tasks }
    }

    pub(crate) fn published(&self) -> u64 {
        self.counts.published.load(Ordering::Relaxed)
    }

    pub(crate) fn end(mut self) -> Loaded {
        self.counts.note_panics(&mut self.tasks);
        let Counts { published, delivered, stale, slow, unfinished, faults, .. } = &*self.counts;
        let [published, delivered, stale, slow, unfinished] =
            [published, delivered, stale, slow, unfinished].map(|count| count.load(Ordering::Relaxed));
        let faults = faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Loaded { published, delivered, stale, slow, unfinished, faults }
    }
}

impl Counts {
    fn new() -> Self {
        let topic = |_| {
            // All payloads are the same, so that the newest ones are enough.
            let mut published = Published::new(Limits { payload_bytes: 4 << 20 });
            let publisher = published.publisher("the publisher", Order::Submitted);
            Mutex::new((published, publisher))
        };
        Self {
            topics: (0..TOPICS).map(topic).collect(),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    fn submit(&self, number: usize, payload: &Payload) -> u64 {
        let (published, publisher) = &mut *self.topic(number);
        published.submit(*publisher, payload.as_str().as_bytes())
    }

    fn acknowledge(&self, number: usize, submitted: u64, receipt: &Receipt) {
        let (published, publisher) = &mut *self.topic(number);
        let acknowledgement = Acknowledgement {
            epoch: &receipt.epoch.to_string(),
            seqs: [receipt.first.as_u64(), receipt.last.as_u64()],
            numbers: [submitted, submitted],
        };
        published.acknowledge(*publisher, acknowledgement);
    }

    /// Gives a follower what arrived; the first fault that was found with it, if there is any.
    fn give(&self, number: usize, follower: &mut Subscriber, arrived: &Arrived) -> Option<String> {
        let epoch = arrived.cursor.epoch.to_string();
        let (published, _) = &mut *self.topic(number);
        for update in &arrived.updates {
            let (seq, payload) = (update.seq.as_u64(), update.payload.as_str().as_bytes());
            follower.given(published, Given { epoch: Some(&epoch), seq, payload });
        }
        follower.first_fault().map(ToString::to_string)
    }

    fn topic(&self, number: usize) -> MutexGuard<'_, (Published, PublisherId)> {
        self.topics[number % TOPICS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None of the tasks ends but by a panic.
    fn note_panics(&self, tasks: &mut JoinSet<()>) {
        while let Some(ended) = tasks.try_join_next() {
            if let Err(panic) = ended {
                let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.push(format!("a task of the load ended: {panic}"));
            }
        }
    }
}

impl Common {
    fn client(&self, node: usize) -> Option<Client> {
        let workspace = Arc::clone(&self.workspace);
        let token = move || {
            let token = workspace.token().map(Token::new).map_err(|failure| failure.to_string().into());
            async move { token }
        };
        Client::builder(format!("http://{}", self.nodes[node % self.nodes.len()]))
            .token_from(token)
            .options(ClientOptions { retry_for: Some(Duration::from_secs(2)), ..ClientOptions::default() })
            .build()
            .ok()
    }

    fn topic(number: usize) -> Option<Topic> {
        Topic::parse(&format!("bulk:{number}")).ok()
    }

    fn fault(&self, what: String) {
        self.counts.faults.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    async fn publish(self) {
        let clients: Vec<_> = (0..self.nodes.len()).filter_map(|node| self.client(node)).collect();
        let payload = Payload::parse(&format!("\"{}\"", "x".repeat(LARGE)));
        let (Ok(payload), Ok(kind)) = (payload, Kind::parse("bulk")) else { return };
        for number in 0_usize.. {
            let Some(topic) = Self::topic(number % TOPICS) else { return };
            let Ok(batch) = Batch::new(vec![NewUpdate::new(kind.clone(), payload.clone())]) else { return };
            let Ok(key) = DedupKey::parse(&format!("bulk-{number}")) else { return };
            let batch = batch.with_dedup(key);
            let submitted = self.counts.submit(number, &payload);
            let mut node = number;
            // Again at another node until one has it: the key says that it is the same.
            let receipt = loop {
                match clients[node % clients.len()].publish(&topic, batch.clone()).await {
                    Ok(Append::Written(receipt) | Append::Duplicate(receipt)) => break receipt,
                    Ok(other) => self.fault(format!("{topic}: a publish was answered {other:?}")),
                    Err(_) => {}
                }
                node += 1;
                sleep(EVERY).await;
            };
            self.counts.acknowledge(number, submitted, &receipt);
            self.counts.published.fetch_add(1, Ordering::Relaxed);
            sleep(EVERY).await;
        }
    }

    /// Follows a topic for ever.
    async fn follow(self, number: usize) {
        let Some(topic) = Self::topic(number % TOPICS) else { return };
        let (mut last, mut given) = (None, Subscriber::new(topic.as_str(), Delivery::AtLeastOnce));
        // It begins at the floor, wherever that is.
        given.stale();
        for node in number.. {
            let Some(client) = self.client(node) else { return };
            let resume = match last {
                Some(cursor) => Resume::After(cursor),
                None => Resume::Floor,
            };
            let mut subscription =
                client.connection_events(&topic, JoinRequest { resume, ..JoinRequest::default() });
            let began = Instant::now();
            // Now and then it moves on to another node.
            while began.elapsed() < STAYS {
                let Ok(Some(event)) = timeout(STAYS, subscription.next()).await else { break };
                match event {
                    Ok(ConnectionEvent::Updates(arrived)) => {
                        if let Some(fault) = self.counts.give(number, &mut given, &arrived) {
                            self.fault(fault);
                        }
                        last = Some(arrived.cursor);
                        self.counts.delivered.fetch_add(arrived.updates.len() as u64, Ordering::Relaxed);
                    }
                    Ok(ConnectionEvent::Stale(stale)) => {
                        // Only a follower that was away while much was published may be stale, and only for the floor.
                        if !stale
                            .reason_codes
                            .iter()
                            .all(|reason| reason.as_str() == "retention_floor_breach")
                        {
                            self.fault(format!("{topic} at {last:?}: {:?}", stale.reason_codes));
                        }
                        last = None;
                        given.stale();
                        self.counts.stale.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    // The client itself refuses what does not continue its cursor, and says so with this.
                    Ok(ConnectionEvent::Reconnecting {
                        error: error @ khala_client::Error::Protocol(_),
                        ..
                    })
                    | Err(error @ khala_client::Error::Protocol(_)) => {
                        self.fault(format!("{topic} at {last:?}: {error}"));
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            sleep(EVERY).await;
        }
    }

    /// Joins all large topics at the floor, again and again, and reads some kilobytes a second of them.
    async fn read_slowly(self, mut rng: Rng) {
        loop {
            let node = self.nodes[index(&mut rng, self.nodes.len())];
            sleep(Duration::from_millis(rng.number(100..=2_000))).await;
            if let Ok(token) = self.workspace.token() {
                self.counts.slow.fetch_add(1, Ordering::Relaxed);
                // However it ends, the next one comes.
                let _ = timeout(STAYS, slow_reader(node, &token)).await;
            }
        }
    }

    /// Sends half of a body, again and again.
    async fn never_finish(self, number: usize) {
        loop {
            let node = self.nodes[number % self.nodes.len()];
            sleep(Duration::from_millis(200)).await;
            if let Ok(token) = self.workspace.token() {
                self.counts.unfinished.fetch_add(1, Ordering::Relaxed);
                let _ = timeout(STAYS, half_a_body(node, &token)).await;
            }
        }
    }
}

async fn slow_reader(node: SocketAddr, token: &str) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(8 << 10)?;
    let mut stream = socket.connect(node).await?;
    let head = format!(
        "GET /sync/v1/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: {node}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for number in 0..TOPICS {
        let frame = format!(r#"["{number}","{number}","bulk:{number}","phx_join",{{"from":"floor"}}]"#);
        // Masked with zeros; shorter than 126 bytes.
        let mut bytes = vec![0x81, 0x80 | u8::try_from(frame.len()).unwrap_or_default(), 0, 0, 0, 0];
        bytes.extend(frame.as_bytes());
        stream.write_all(&bytes).await?;
    }
    let mut taken = vec![0; 16 << 10];
    loop {
        if stream.read(&mut taken).await? == 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn half_a_body(node: SocketAddr, token: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(node).await?;
    let half = vec![b' '; 2 << 20];
    let head = format!(
        "POST /v1/topics/bulk:0/updates HTTP/1.1\r\nHost: {node}\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        2 * half.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&half).await?;
    // It is cut off, or answered.
    stream.read(&mut [0; 1]).await.map(drop)
}

impl Loaded {
    /// What is not as it has to be.
    pub(crate) fn objection(&self) -> Option<String> {
        self.faults
            .first()
            .map(|first| format!("{} faults of followers, the first: {first}", self.faults.len()))
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, delivered, stale, slow, unfinished, faults } = self;
        write!(
            f,
            "load: {published} large updates, {delivered} deliveries of them without a hole, {stale} stale cursors, {slow} slow \
             readers, {unfinished} unfinished requests, {} faults",
            faults.len()
        )
    }
}
