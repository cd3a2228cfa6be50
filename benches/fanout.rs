//! One topic to 1,000 subscribers over real loopback sockets, server and subscribers in one process.
//!
//! `one update` is the time from publishing until the last subscriber has it; `burst of 100` the same for 100
//! updates published together, each stored and synced first. The subscribers' own work (WebSocket framing, finding
//! the seq) is in the figures: they compare builds of this code, not servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{SinkExt as _, StreamExt as _};
use khala_benches::update;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Append, Batch, Grant, Khala, Timestamp, Token, Topic,
    auth::{Access, Denied, Verifier},
};
use khala_server::{Server, serve};
use khala_store_sqlite::SqliteStore;
use tokio::{net::TcpListener, sync::Notify};
use tokio_tungstenite::{connect_async, tungstenite::Message};

const SUBSCRIBERS: u64 = 1_000;
const TOPIC: &str = "run:7:events";

/// Lets everybody read: what is measured here is delivery.
#[derive(Debug)]
struct Everybody;

#[async_trait::async_trait]
impl Verifier for Everybody {
    async fn verify(&self, _: &Token, now: Timestamp) -> Result<Grant, Denied> {
        Ok(Grant::from_verified(VerifiedClaims::new(
            "bench",
            [Access::Read.scope()],
            now.plus(Duration::from_secs(86_400)),
        )))
    }
}

/// How far all subscribers together are: the sum of their watermarks.
#[derive(Debug, Default)]
struct Applied {
    sum: AtomicU64,
    moved: Notify,
}

impl Applied {
    async fn reaches(&self, sum: u64) {
        loop {
            let moved = self.moved.notified();
            if self.sum.load(Ordering::Acquire) >= sum {
                return;
            }
            moved.await;
        }
    }
}

/// The last number that stands after `key`.
fn last_number(text: &str, key: &str) -> Option<u64> {
    let digits = &text[text.rfind(key)? + key.len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

async fn subscribe(url: String, applied: Arc<Applied>, joined: Arc<Applied>) {
    let (mut socket, _) = connect_async(url).await.expect("a connection");
    let join = format!(r#"["1","1","{TOPIC}","phx_join",{{"from":"floor"}}]"#);
    socket.send(Message::text(join)).await.expect("a join");
    let mut watermark = 0;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        if text.contains("phx_reply") {
            joined.sum.fetch_add(1, Ordering::AcqRel);
            joined.moved.notify_one();
        } else if text.contains("sync:update_batch") {
            let seq = last_number(&text, "\"seq\":").expect("a batch has updates");
            applied.sum.fetch_add(seq - watermark, Ordering::AcqRel);
            watermark = seq;
            applied.moved.notify_one();
        }
    }
}

fn fanout(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let topic = Topic::parse(TOPIC).expect("a topic");
    let (applied, joined) = (Arc::new(Applied::default()), Arc::new(Applied::default()));

    let khala = runtime.block_on(async {
        let store = SqliteStore::open(folder.path().join("bench.db"));
        let khala = Khala::builder(store.expect("a store")).with_verifier(Arc::new(Everybody)).build();
        let server = Server::builder(khala.clone()).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, server, std::future::pending()));
        for _ in 0..SUBSCRIBERS {
            let url = format!("ws://{address}/sync/v1/websocket?vsn=2.0.0&token=any");
            tokio::spawn(subscribe(url, Arc::clone(&applied), Arc::clone(&joined)));
        }
        joined.reaches(SUBSCRIBERS).await;
        khala
    });

    let mut group = c.benchmark_group("fan-out to 1,000");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    let mut published = 0;
    for (name, updates) in [("one update", 1), ("burst of 100", 100)] {
        group.throughput(Throughput::Elements(SUBSCRIBERS * updates));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                runtime.block_on(async {
                    for _ in 0..rounds {
                        let batch = std::iter::repeat_with(update).take(updates as usize).collect();
                        let answer = khala.publish(&topic, Batch::new(batch).expect("a batch")).await;
                        assert!(matches!(answer, Ok(Append::Written(_))), "{answer:?}");
                        published += updates;
                        applied.reaches(SUBSCRIBERS * published).await;
                    }
                });
                started.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
