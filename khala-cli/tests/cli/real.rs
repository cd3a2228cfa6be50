//! The `khala` binary against a real server: what is published arrives, once and in order, whatever is cut or killed.

use std::{
    fmt::Write as _,
    future::pending,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier, SharedSecret};
use khala_core::{
    Khala, MemoryStore,
    admission::Rate,
    auth::{Access, TokenClaims},
    class::{Classes, TopicClass, TopicPattern},
    clock::{Clock as _, SystemClock},
};
use khala_server::{Server, serve};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{Ended, end, khala};

pub(crate) const ADMIN: &str = "an-admin-token-of-enough-characters";
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A server in this process that sets no pace; its address.
pub(crate) async fn start() -> SocketAddr {
    start_with(None).await
}

/// A server that takes that many updates a second to a topic; its address.
async fn start_with(rate: Option<Rate>) -> SocketAddr {
    let verifier = JwtVerifier::hs256(KEY, JwtOptions::default()).unwrap();
    let class = TopicClass {
        payload_bytes: Some(64 << 10),
        publish_rate: rate,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap())
            .with_read([Access::Read.scope()])
            .with_publish([Access::Publish.scope()])
    };
    let khala = Khala::builder(MemoryStore::new())
        .with_verifier(Arc::new(verifier))
        .with_classes(Classes::new(vec![class]).unwrap())
        .build();
    let server = Server::builder(khala)
        .with_admin_token(SharedSecret::new(ADMIN).unwrap())
        .with_drain(Duration::from_millis(100))
        .build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, server, pending()));
    address
}

/// A token that may publish and read.
pub(crate) fn token() -> String {
    let issuer = JwtIssuer::hs256(KEY, JwtOptions::default()).unwrap();
    let claims = TokenClaims::new("test", [Access::Publish.scope(), Access::Read.scope()]);
    let issued = issuer.sign(&claims, SystemClock::new().now(), Duration::from_secs(600)).unwrap();
    issued.token.reveal().to_owned()
}

pub(crate) fn khala_at(address: SocketAddr, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = khala(directory, arguments);
    command.env("KHALA_URL", format!("http://{address}")).env("KHALA_TOKEN", token());
    command
}

pub(crate) async fn publish(address: SocketAddr, directory: &Path, flags: &[&str], input: String) -> Ended {
    let arguments = [&["publish", "run:7/a", "--ack"], flags].concat();
    let mut child = khala_at(address, directory, &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await.unwrap() });
    let ended = end(child).await;
    writer.await.unwrap();
    ended
}

fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().fold(String::new(), |mut out, number| {
        writeln!(out, "{{ \"n\" : {number} }}").unwrap();
        out
    })
}

/// Everything that the topic holds, payload by payload.
pub(crate) async fn read(address: SocketAddr, directory: &Path) -> String {
    let arguments = ["tail", "run:7/a", "--from", "floor", "--until-head"];
    let ended = end(khala_at(address, directory, &arguments).spawn().unwrap()).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let mut payloads = String::new();
    for (line, seq) in ended.stdout.lines().zip(1u64..) {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["seq"], seq);
        let (_, rest) = line.split_once("\"payload\":").unwrap();
        let (payload, _) = rest.rsplit_once(",\"published_at\"").unwrap();
        payloads.push_str(payload);
        payloads.push('\n');
    }
    payloads
}

#[tokio::test]
async fn what_is_published_is_printed_byte_for_byte() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let ended = publish(address, directory.path(), &[], lines(1..=1000)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(read(address, directory.path()).await, lines(1..=1000));
    let topics = end(khala_at(address, directory.path(), &["topics", "run:"]).spawn().unwrap()).await;
    let topics: Value = serde_json::from_str(&topics.stdout).unwrap();
    assert_eq!((&topics["topic"], &topics["head"]), (&"run:7/a".into(), &1000.into()));

    let denied = publish(address, directory.path(), &["--token", "nonsense"], lines(1..=1)).await;
    assert_eq!(denied.code, Some(77), "{}", denied.stderr);
    let huge = format!("1\n\"{}\"\n2\n", "x".repeat(300 << 10));
    let huge = publish(address, directory.path(), &[], huge).await;
    assert_eq!(huge.code, Some(65), "{}", huge.stderr);
    assert!(huge.stderr.contains("line 2 was refused"), "{}", huge.stderr);
    assert!(read(address, directory.path()).await.ends_with("}\n1\n"));
}

#[tokio::test]
async fn more_than_a_class_takes_is_published_at_its_pace() {
    let five_hundred = 500.try_into().unwrap();
    let address = start_with(Some(Rate::new(five_hundred, five_hundred))).await;
    let directory = tempfile::tempdir().unwrap();
    // Of five batches three go at once, for there was room for the first update of the third; the others wait.
    let ended = publish(address, directory.path(), &[], lines(1..=1000)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("going on at that pace").count(), 1, "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(read(address, directory.path()).await, lines(1..=1000));
}

#[tokio::test]
async fn a_tail_that_is_killed_goes_on_from_its_cursor_file() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    publish(address, directory.path(), &[], lines(1..=300)).await;
    let arguments = ["tail", "run:7/a", "--from", "floor", "--cursor-file", "cursor"];
    let mut printed: Vec<u64> = Vec::new();
    for round in 0..3 {
        let mut child = khala_at(address, directory.path(), &arguments).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let until = 100 * (round + 1) + 50;
        loop {
            let mut line = String::new();
            stdout.read_line(&mut line).await.unwrap();
            printed.push(serde_json::from_str::<Value>(&line).unwrap()["seq"].as_u64().unwrap());
            if *printed.last().unwrap() >= until.min(300) {
                break;
            }
        }
        child.kill().await.unwrap();
    }
    let arguments = [&arguments[..], &["--until-head"]].concat();
    let last = end(khala_at(address, directory.path(), &arguments).spawn().unwrap()).await;
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    printed.extend(
        last.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()),
    );
    let mut end = 0;
    for seq in printed {
        assert!(seq <= end + 1, "{seq} comes after {end}");
        end = end.max(seq);
    }
    assert_eq!(end, 300);
}

/// Demand 5, with the real server: the connection is cut after the request got there and before its answer got back.
#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_stored_once() {
    let (address, directory) = (start().await, tempfile::tempdir().unwrap());
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let between = proxy.local_addr().unwrap();
    let lost = Arc::new(AtomicBool::new(false));
    let lose = Arc::clone(&lost);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = proxy.accept().await.unwrap();
            let mut server = TcpStream::connect(address).await.unwrap();
            if lose.load(Ordering::Relaxed) {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
                continue;
            }
            let (mut from, mut to) = client.split();
            let (mut answer, mut ask) = server.split();
            let mut first = [0; 1];
            tokio::select! {
                _ = tokio::io::copy(&mut from, &mut ask) => {}
                // The answer has begun: it is stored. The client never hears of it.
                read = answer.read(&mut first) => assert_eq!(read.unwrap(), 1),
            }
            let _ = to.shutdown().await;
            lose.store(true, Ordering::Relaxed);
        }
    });
    let ended = publish(between, directory.path(), &[], lines(1..=3)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(lost.load(Ordering::Relaxed));
    assert!(ended.stdout.contains("\"duplicate\":true"), "{}", ended.stdout);
    assert_eq!(read(address, directory.path()).await, lines(1..=3));

    // The publisher itself is run again, as one that was killed before it read the answer would be.
    for duplicate in [false, true] {
        let again = publish(address, directory.path(), &["--run-id", "night"], lines(4..=6)).await;
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert!(again.stdout.contains(&format!("\"duplicate\":{duplicate}")), "{}", again.stdout);
    }
    assert_eq!(read(address, directory.path()).await, lines(1..=6));
}
