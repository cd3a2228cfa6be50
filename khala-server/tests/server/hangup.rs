//! Publishers that hang up: what they have begun is finished, and announced at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use khala_auth::{JwtOptions, JwtVerifier};
use khala_client::{Client, connection::ConnectionEvent};
use khala_core::{
    Batch, Grant, Khala, Kind, NewUpdate, Payload, Token, Topic,
    auth::{Access, Authorizer, Denied},
    journal::Journal as _,
    session::SessionOptions,
    wire::{JoinRequest, Resume},
};
use khala_server::{Server, serve};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{LONG, SECRET, good_token, topic, until};

/// Counts the publishers that it lets in.
#[derive(Debug, Default)]
struct Door(AtomicUsize);

#[async_trait]
impl Authorizer for Door {
    async fn authorize(&self, _: &Grant, _: &Topic, access: Access) -> Result<(), Denied> {
        if access == Access::Publish {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Sends a whole request for a publish, and leaves the answer to the caller.
async fn publish(address: &str, payload: usize) -> TcpStream {
    let body = format!(r#"{{"kind":"k","payload":{payload}}}"#);
    let request = format!(
        "POST /v1/topics/t/updates HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        good_token(),
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publisher_had_stored_that_reset_its_connection_is_announced_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("khala.db");
    // Nobody looks for what was not announced: neither the sessions nor the watcher of the file.
    let never = Duration::from_secs(3_600);
    let options = SqliteOptions { watch_interval: never, busy_timeout: LONG, ..SqliteOptions::default() };
    let store = Arc::new(SqliteStore::open_with(&path, options).unwrap());
    let door = Arc::new(Door::default());
    let khala = Khala::builder(Arc::clone(&store))
        .with_verifier(Arc::new(JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap()))
        .with_authorizer(Arc::<Door>::clone(&door))
        .with_sessions(SessionOptions { poll_interval: never, ..SessionOptions::default() })
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, Server::builder(khala).build(), std::future::pending()));

    let client =
        Client::builder(format!("http://{address}")).token(Token::new(good_token())).build().unwrap();
    let request = JoinRequest { resume: Resume::Floor, ..JoinRequest::default() };
    let mut follower = client.connection_events(&topic("t"), request);
    let joined = timeout(LONG, follower.next()).await.expect("it joins").unwrap().unwrap();
    assert!(matches!(joined, ConnectionEvent::Joined { .. }), "{joined:?}");

    let own = rusqlite::Connection::open(&path).unwrap();
    let (mut heard, mut sent) = (0, 0);
    // An append that was not begun yet when its publisher was gone is never stored, so that it may take some rounds.
    let rounds = async {
        while heard < 10 {
            // The writer stands still: none of them is answered.
            own.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut publishers = Vec::new();
            for _ in 0..5 {
                sent += 1;
                publishers.push(publish(&address, sent).await);
            }
            until(|| door.0.load(Ordering::SeqCst) == sent).await;
            for publisher in &publishers {
                publisher.set_zero_linger().unwrap();
            }
            drop(publishers);
            own.execute_batch("ROLLBACK").unwrap();
            // Behind those that have been begun.
            let last = NewUpdate::new(Kind::parse("k").unwrap(), Payload::null());
            store.append(&topic("other"), Batch::new(vec![last]).unwrap(), Default::default()).await.unwrap();
            let head = store.bounds(&topic("t")).await.unwrap().head.as_u64();
            while heard < head {
                let event = timeout(LONG, follower.next()).await.expect("what is stored is announced");
                if let ConnectionEvent::Updates(arrived) = event.unwrap().unwrap() {
                    heard = arrived.cursor.watermark.as_u64();
                }
            }
        }
    };
    timeout(3 * LONG, rounds).await.expect("some of them are begun before they are dropped");
}
