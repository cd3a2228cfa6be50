//! A backup that was put in place without new epochs, and has grown past what it lost: a cursor that says which update it ends
//! with is told `epoch_mismatch`, over WebSocket and HTTP.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use khala_auth::{JwtOptions, JwtVerifier};
use khala_client::{
    Client,
    connection::{ConnectionEvent, ConnectionEvents},
};
use khala_core::{
    Batch, Cursor, Khala, Kind, NewUpdate, Payload, Timestamp, Token,
    position::StaleReason,
    wire::{JoinRequest, Resume},
};
use khala_server::{Server, serve};
use khala_store_sqlite::SqliteStore;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{LONG, SECRET, good_token, topic};

async fn publish(khala: &Khala, n: u64) {
    let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap());
    khala.publish(&topic("t"), Batch::new(vec![update]).unwrap()).await.unwrap();
}

fn copy_store(from: &Path, to: &Path) {
    let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(to, suffix));
        if suffix != "-shm" && beside(from, suffix).exists() {
            std::fs::copy(beside(from, suffix), beside(to, suffix)).unwrap();
        }
    }
}

struct Node {
    khala: Khala,
    address: SocketAddr,
    stop: watch::Sender<()>,
    served: JoinHandle<()>,
}

impl Node {
    async fn start(file: &Path, address: SocketAddr) -> Self {
        let store = Arc::new(SqliteStore::open(file).unwrap());
        let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
        let khala = Khala::builder(Arc::clone(&store)).with_verifier(Arc::new(verifier)).build();
        let server = Server::builder(khala.clone()).with_drain(Duration::from_millis(1)).build();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(());
        let served = tokio::spawn(async move {
            serve(listener, server, async move { drop(stopped.changed().await) }).await;
        });
        Self { khala, address, stop, served }
    }

    async fn publish(&self, updates: u64) {
        for n in 0..updates {
            publish(&self.khala, n).await;
        }
    }

    async fn stop(self) {
        drop(self.stop);
        timeout(LONG, self.served).await.expect("it stops in time").unwrap();
    }

    /// The status and the body of a page of history.
    async fn history(&self, query: &str) -> (u16, serde_json::Value) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET /v1/topics/t/updates?{query} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            good_token()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.expect("it is answered").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

/// Follows until it stands at that seq; gives the cursor, and when its last update was published.
async fn until(subscription: &mut ConnectionEvents, seq: u64) -> (Cursor, Timestamp) {
    loop {
        let event =
            timeout(LONG, subscription.next()).await.expect("it goes on").expect("it follows").unwrap();
        if let ConnectionEvent::Updates(arrived) = event
            && arrived.cursor.watermark.as_u64() == seq
        {
            return (arrived.cursor, arrived.updates.last().unwrap().published_at);
        }
    }
}

/// How a subscription ends up: at a head, or stale.
async fn outcome(subscription: &mut ConnectionEvents) -> Result<u64, Vec<StaleReason>> {
    loop {
        match timeout(LONG, subscription.next()).await.expect("it goes on").expect("it says why").unwrap() {
            ConnectionEvent::Stale(stale) => return Err(stale.reason_codes.clone()),
            ConnectionEvent::Updates(arrived) if arrived.complete => {
                return Ok(arrived.cursor.watermark.as_u64());
            }
            ConnectionEvent::Joined { joined, .. } if joined.after == joined.head => {
                return Ok(joined.head.as_u64());
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_says_its_update_notices_a_restore_without_new_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let (file, backup) = (folder.path().join("khala.db"), folder.path().join("backup.db"));
    let node = Node::start(&file, "127.0.0.1:0".parse().unwrap()).await;
    let address = node.address;
    node.publish(5).await;
    // Nothing is being written: the file and its log are a backup.
    copy_store(&file, &backup);

    let token = Token::new(good_token());
    let client = Client::builder(format!("http://{address}")).token(token).build().unwrap();
    let from_floor = JoinRequest { resume: Resume::Floor, ..JoinRequest::default() };
    let mut follows = client.connection_events(&topic("t"), from_floor);
    let early = until(&mut follows, 5).await;
    node.publish(5).await;
    let (cursor, published_at) = until(&mut follows, 10).await;
    node.stop().await;
    copy_store(&backup, &file);
    let store = SqliteStore::open(&file).unwrap();
    let khala = Khala::builder(Arc::new(store)).build();
    for n in 100..107_u64 {
        publish(&khala, n).await;
    }
    drop(khala);
    let node = Node::start(&file, address).await;

    let mismatch = Err(vec![StaleReason::EpochMismatch]);
    assert_eq!(outcome(&mut follows).await, mismatch, "a client keeps what it takes");
    let again = |(cursor, published_at): (Cursor, Timestamp), says: bool| {
        let published_at = Some(published_at).filter(|_| says);
        let request = JoinRequest { resume: Resume::After(cursor), published_at, ..JoinRequest::default() };
        client.connection_events(&topic("t"), request)
    };
    assert_eq!(outcome(&mut again((cursor, published_at), true)).await, mismatch);
    assert_eq!(
        outcome(&mut again((cursor, published_at), false)).await,
        Ok(12),
        "it cannot be told otherwise"
    );
    assert_eq!(outcome(&mut again(early, true)).await, Ok(12), "what the backup has is the same history");

    let query = |(Cursor { epoch, watermark }, published_at): (Cursor, Timestamp)| {
        format!("after={watermark}&epoch={epoch}&published_at={}", published_at.as_millis())
    };
    let (status, body) = node.history(&query((cursor, published_at))).await;
    assert_eq!((status, &body["reason_codes"]), (410, &serde_json::json!(["epoch_mismatch"])), "{body}");
    let (status, body) = node.history(&query(early)).await;
    assert_eq!((status, body["updates"].as_array().map(Vec::len)), (200, Some(7)), "{body}");
    let (status, _) = node.history("published_at=5").await;
    assert_eq!(status, 400);
    node.stop().await;
}
