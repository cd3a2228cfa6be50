//! The fanout against a real nats-server: nodes that hear each other, what fails between them, and who is let in.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a fault is told")]

mod access;
mod failures;
mod nodes;

use std::time::Duration;

use khala_core::{Cursor, Epoch, Topic, Watermark};
use khala_fanout_nats::{NatsFanout, NatsOptions};
use serde_json::Value;

/// How long anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

fn watermark(number: u64) -> Watermark {
    Watermark::new(number).unwrap()
}

fn head(epoch: u64, number: u64) -> Cursor {
    Cursor::new(Epoch::from_bits(epoch), watermark(number))
}

/// Options of a node at the server on that port.
fn options(port: u16) -> NatsOptions {
    NatsOptions {
        servers: vec![format!("nats://127.0.0.1:{port}")],
        connect_timeout: Duration::from_secs(5),
        ..NatsOptions::default()
    }
}

/// A node, connected to the server on that port.
async fn node(port: u16) -> NatsFanout {
    let fanout = NatsFanout::connect(options(port)).await.unwrap();
    within(fanout.connected()).await;
    fanout
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// The subjects that the connection of that name listens to, and how many messages it was sent.
fn listens(nats: &khala_testing::Nats, name: &str) -> (Vec<String>, u64) {
    let page: Value = serde_json::from_str(&nats.monitor("/connz?subs=1")).unwrap();
    let connections = page["connections"].as_array().unwrap();
    let Some(own) = connections.iter().find(|connection| connection["name"] == name) else {
        return (Vec::new(), 0);
    };
    let subjects = own["subscriptions_list"].as_array();
    let subjects = subjects.into_iter().flatten().map(|subject| subject.as_str().unwrap().to_owned());
    let mut subjects: Vec<_> = subjects.filter(|subject| !subject.contains(".echo.")).collect();
    subjects.sort();
    (subjects, own["out_msgs"].as_u64().unwrap())
}
