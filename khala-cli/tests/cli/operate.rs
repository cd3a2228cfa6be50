//! `khala retention` and `khala drain`: what they order, what they print, and how they fail.

use std::{future::pending, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier, SharedSecret};
use khala_core::{
    Batch, Khala, KhalaBuilder, Kind, MemoryStore, NewUpdate, Payload,
    auth::{Access, TokenClaims},
    class::{Classes, Retain, TopicClass, TopicPattern},
    clock::{Clock as _, SystemClock},
    node::NodeId,
    retention::{MemorySweeps, SweepOptions, Sweeps as _},
};
use khala_server::{Server, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Ended, end, khala, topic};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const ADMIN: &str = "an-admin-token-of-enough-characters";

/// A server in this process that keeps two updates of each topic; its address, and its handle.
async fn start(set: impl FnOnce(KhalaBuilder) -> KhalaBuilder) -> (SocketAddr, Khala) {
    let verifier = JwtVerifier::hs256(KEY, JwtOptions::default()).unwrap();
    let all = TopicClass {
        retain: Retain { updates: Some(2), ..Retain::everything() },
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()])
    };
    let khala = Khala::builder(MemoryStore::new())
        .with_verifier(Arc::new(verifier))
        .with_classes(Classes::new(vec![all]).unwrap());
    let khala = set(khala).build();
    let server = Server::builder(khala.clone())
        .with_admin_token(SharedSecret::new(ADMIN).unwrap())
        .with_drain(Duration::from_millis(300))
        .build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, server, pending()));
    (address, khala)
}

async fn publish(khala: &Khala, updates: usize) {
    let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse("1").unwrap());
    khala.publish(&topic(), Batch::new(vec![update; updates]).unwrap()).await.unwrap();
}

async fn run(address: SocketAddr, directory: &Path, arguments: &[&str]) -> Ended {
    let mut command = khala(directory, arguments);
    command.env("KHALA_URL", format!("http://{address}")).env("KHALA_ADMIN_TOKEN", ADMIN);
    let ended = end(command.spawn().unwrap()).await;
    assert!(!ended.stdout.contains(ADMIN) && !ended.stderr.contains(ADMIN), "{}", ended.stderr);
    ended
}

fn told(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test]
async fn history_is_planned_for_and_swept() {
    let ((address, khala), directory) = (start(|khala| khala).await, tempfile::tempdir().unwrap());
    publish(&khala, 5).await;
    let plan = told(&run(address, directory.path(), &["retention", "plan"]).await);
    assert_eq!((&plan["outcome"], &plan["plan"]["updates"]), (&json!("planned"), &json!(3)));
    let swept = told(&run(address, directory.path(), &["retention", "run"]).await);
    assert_eq!((&swept["outcome"], &swept["record"]["updates"]), (&json!("swept"), &json!(3)));
    let status = told(&run(address, directory.path(), &["retention", "status", "--json"]).await);
    assert_eq!(status["records"].as_array().unwrap().len(), 1, "a plan is no sweep: {status}");
    assert_eq!(status["classes"][0]["retain_updates"], 2);
}

#[tokio::test]
async fn a_sweep_that_is_held_back_or_has_to_wait_says_so() {
    let sweeps = Arc::new(MemorySweeps::new());
    let shared = Arc::clone(&sweeps);
    let guard = SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() };
    let (address, handle) =
        start(|khala| khala.with_sweep(guard).with_roles(|roles| roles.sweeps = shared)).await;
    let directory = tempfile::tempdir().unwrap();
    publish(&handle, 2).await;
    // A reader that has two and goes.
    let token = token();
    let arguments = ["tail", "run:7:events", "--from", "floor", "--until-head"];
    let mut tail = khala(directory.path(), &arguments);
    tail.env("KHALA_URL", format!("http://{address}")).env("KHALA_TOKEN", &token);
    assert_eq!(end(tail.spawn().unwrap()).await.stdout.lines().count(), 2);
    while handle.connections().count() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    publish(&handle, 5).await;
    let held = run(address, directory.path(), &["retention", "run"]).await;
    assert_eq!(held.code, Some(1), "{}", held.stderr);
    for named in ["1 cursors stale", "guard allows 0", "sweep_held_back", "--force"] {
        assert!(held.stderr.contains(named), "{named}: {}", held.stderr);
    }
    let (there, now) = (NodeId::parse("there").unwrap(), handle.now());
    sweeps.try_acquire(&there, now, now.plus(Duration::from_secs(600))).await.unwrap();
    let busy = run(address, directory.path(), &["retention", "run", "--force"]).await;
    assert_eq!(busy.code, Some(69), "{}", busy.stderr);
    assert!(busy.stderr.contains("under way on there"), "{}", busy.stderr);
    sweeps.try_acquire(&there, now, now).await.unwrap();
    let forced = told(&run(address, directory.path(), &["retention", "run", "--force"]).await);
    assert_eq!(forced["record"]["stale_seen"], 1);
}

fn token() -> String {
    let issuer = JwtIssuer::hs256(KEY, JwtOptions::default()).unwrap();
    let claims = TokenClaims::new("ada", [Access::Read.scope()]);
    let issued = issuer.sign(&claims, SystemClock::new().now(), Duration::from_secs(600)).unwrap();
    issued.token.reveal().to_owned()
}

#[tokio::test]
async fn a_drain_is_ordered_and_waited_for() {
    let ((address, handle), directory) = (start(|khala| khala).await, tempfile::tempdir().unwrap());
    let mut tail = khala(directory.path(), &["tail", "run:7:events"]);
    tail.env("KHALA_URL", format!("http://{address}")).env("KHALA_TOKEN", token());
    let _tail = tail.spawn().unwrap();
    while handle.connections().count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = told(&run(address, directory.path(), &["drain", "--wait"]).await);
    assert_eq!((&begun["connections"], &begun["already"]), (&json!(1), &json!(false)));
    assert!(begun["drain_ms"].as_u64().unwrap() <= 300, "{begun}");
    assert_eq!(handle.connections().count(), 0, "it was waited for");
    let again = told(&run(address, directory.path(), &["drain"]).await);
    assert_eq!(again["already"], true);
}

#[tokio::test]
async fn each_failure_has_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let (address, _) = start(|khala| khala).await;
    for arguments in [["retention", "status"].as_slice(), &["retention", "plan"], &["drain"]] {
        let mut command = khala(directory.path(), arguments);
        let ended = end(command.env("KHALA_URL", format!("http://{address}")).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
        assert!(ended.stderr.contains("there is no admin token"), "{}", ended.stderr);
        let mut command = khala(directory.path(), arguments);
        command.env("KHALA_URL", format!("http://{address}")).env("KHALA_ADMIN_TOKEN", "x".repeat(32));
        let ended = end(command.spawn().unwrap()).await;
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    }
    let ended = run(address, directory.path(), &["retention"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let ended = run(address, directory.path(), &["retention", "plan", "--force"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    assert_eq!(run(free, directory.path(), &["drain"]).await.code, Some(69));
}
