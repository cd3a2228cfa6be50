//! From a revocation to the closed socket, over real loopback sockets, nodes and clients in one process.
//!
//! Measured is the time from handing the revocation to a node (which syncs it to the disk first) until the last client that it
//! names has read its close frame, 4003. The moments are spread over the interval at which nodes poll. Each client has joined a
//! topic. That all clients which are not named stay is checked, by a heartbeat in the end.

use std::{
    collections::HashSet,
    future::pending,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _, future::join_all};
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Grant, Khala, Timestamp, Token,
    auth::{Access, Denied, Revocation, RevocationId, RevocationTarget, Verifier},
    fanout::LocalFanout,
};
use khala_server::{Server, serve};
use khala_store_sqlite::SqliteStore;
use khala_testing::{During as _, Failure, Histogram};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{Done, Meter};

/// At this interval nodes poll.
const SPREAD: Duration = Duration::from_millis(500);
/// Nothing here takes that long, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes a token for the name of a login: what is measured here is taking it back.
#[derive(Debug)]
struct Logins;

#[async_trait::async_trait]
impl Verifier for Logins {
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
        let end = now.plus(Duration::from_secs(86_400));
        Ok(Grant::from_verified(VerifiedClaims {
            issued_at: Some(now),
            session_id: Some(token.reveal().to_owned()),
            ..VerifiedClaims::new("bench", [Access::Read.scope()], end)
        }))
    }
}

/// How the clients' node hears of what another took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Hints {
    /// It took it itself.
    Alone,
    /// By a fanout that carries every hint at once, as within a process.
    Fanout,
    /// By the store's own, as between the processes of one machine.
    File,
    /// By polling, every hint being lost.
    Polling,
}

/// A node on the file: its handle and its address.
async fn node(file: &Path, fanout: Option<LocalFanout>) -> (Khala, SocketAddr) {
    let store = Arc::new(SqliteStore::open(file).expect("a store"));
    let mut khala = Khala::builder(store).with_verifier(Arc::new(Logins));
    if let Some(fanout) = fanout {
        khala = khala.with_fanout(Arc::new(fanout));
    }
    let khala = khala.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, Server::builder(khala.clone()).build(), pending()));
    (khala, address)
}

/// A client's connection has ended.
struct Ended {
    client: usize,
    code: Option<u16>,
    at: Instant,
}

/// A client with an open connection.
struct Client {
    login: String,
    beat: mpsc::UnboundedSender<()>,
    beaten: mpsc::UnboundedReceiver<()>,
}

impl Client {
    async fn open(
        address: SocketAddr,
        client: usize,
        login: String,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        let url = format!("ws://{address}/sync/v1/websocket?vsn=2.0.0&token={login}");
        let (mut socket, _) = connect_async(url).await.expect("a connection");
        let join = r#"["1","1","run:7:events","phx_join",{}]"#;
        socket.send(Message::text(join)).await.expect("a join");
        let joined = socket.next().await.expect("an answer").expect("an answer");
        assert!(joined.to_text().expect("text").contains("\"ok\""), "{joined}");
        let (beat, beats) = mpsc::unbounded_channel();
        let (beaten_to, beaten) = mpsc::unbounded_channel();
        tokio::spawn(follow(socket, client, beats, beaten_to, ended));
        Self { login, beat, beaten }
    }

    /// Whether the server answers it.
    async fn lives(&mut self) -> bool {
        self.beat.send(()).is_ok() && self.beaten.recv().await.is_some()
    }
}

async fn follow(
    mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    client: usize,
    mut beats: mpsc::UnboundedReceiver<()>,
    beaten: mpsc::UnboundedSender<()>,
    ended: mpsc::UnboundedSender<Ended>,
) {
    let code = loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Close(close))) => break close.map(|close| u16::from(close.code)),
                Some(Ok(Message::Text(text))) if text.contains("\"beat\"") => drop(beaten.send(())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break None,
            },
            Some(()) = beats.recv() => {
                let beat = r#"[null,"beat","phoenix","heartbeat",{}]"#;
                if socket.send(Message::text(beat)).await.is_err() {
                    break None;
                }
            }
        }
    };
    // Nobody listens any more where the line is over.
    let _ = ended.send(Ended { client, code, at: Instant::now() });
}

/// Revokes for about so long, at least twice.
pub(super) fn revoke(
    folder: &Path,
    hints: Hints,
    open: usize,
    named: usize,
    length: Duration,
) -> Result<Done, Failure> {
    super::super::files::raise_limit()?;
    let runtime = tokio::runtime::Runtime::new().during("making a runtime")?;
    let file = folder.join("bench.db");
    runtime.block_on(measure(&file, hints, open, named, length))
}

async fn measure(
    file: &Path,
    hints: Hints,
    open: usize,
    named: usize,
    length: Duration,
) -> Result<Done, Failure> {
    let shared = LocalFanout::new();
    let fanout = || match hints {
        Hints::Alone | Hints::Fanout => Some(shared.clone()),
        Hints::File => None,
        Hints::Polling => Some(LocalFanout::new()),
    };
    let (khala, address) = node(file, fanout()).await;
    let revoker = match hints {
        Hints::Alone => khala,
        Hints::Fanout | Hints::File | Hints::Polling => node(file, fanout()).await.0,
    };

    let (sender, mut ended) = mpsc::unbounded_channel();
    let mut clients = Vec::new();
    for client in 0..open {
        let login = if client < named { "login-0".to_owned() } else { format!("bystander-{client}") };
        clients.push(Client::open(address, client, login, sender.clone()).await);
    }
    let (meter, begin) = (Meter::start()?, Instant::now());
    let (mut stored, mut closed_after, mut round) = (Histogram::default(), Histogram::default(), 0);
    while round < 2 || begin.elapsed() < length {
        // Multiples of the golden ratio lie evenly, in whatever order.
        sleep(SPREAD.mul_f64((round as f64 * 0.618_034).fract())).await;
        let login = RevocationId::parse(&clients[0].login).expect("an id");
        let started = Instant::now();
        revoker
            .access()
            .revoke(Revocation::new(RevocationTarget::Sid(login), revoker.now()))
            .await
            .expect("it is stored");
        stored.extend([started.elapsed()]);
        let (mut last, mut closed) = (started, HashSet::new());
        while closed.len() < named {
            let end =
                timeout(PATIENCE, ended.recv()).await.expect("whom it names are closed").expect("clients");
            assert_eq!(end.code, Some(4003), "client {}", end.client);
            assert!(end.client < named && closed.insert(end.client), "client {} is not named", end.client);
            last = last.max(end.at);
        }
        closed_after.extend([last - started]);
        for (client, place) in clients.iter_mut().enumerate().take(named) {
            *place = Client::open(address, client, format!("login-{}", round + 1), sender.clone()).await;
        }
        round += 1;
    }
    let lives = join_all(clients.iter_mut().map(Client::lives));
    let lives = timeout(PATIENCE, lives).await.expect("every connection is answered");
    assert!(lives.into_iter().all(|lives| lives), "who was not named stays");
    assert!(ended.try_recv().is_err(), "who was not named stays");
    let millis = |times: &Histogram, share| times.quantile(share) as f64 / 1_000.0;
    let extras = [
        ("stored, p50".to_owned(), millis(&stored, 0.5)),
        ("closed, p95".to_owned(), millis(&closed_after, 0.95)),
    ];
    Ok(Done { extras: extras.into(), ..meter.stop(round, closed_after)? })
}
