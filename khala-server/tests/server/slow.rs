//! Slow readers over a real socket: who takes something all the time is not evicted.

use std::time::Duration;

use khala_core::{
    Batch, Kind, NewUpdate, Payload,
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
    session::SessionOptions,
};
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};

use crate::support::{Running, closed, join, running_on, topic, until};

async fn of_megabytes(megabytes: u64, stall: Duration) -> Running {
    let all = TopicClass {
        replay_budget: None,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()])
    };
    let classes = Classes::new(vec![all]).unwrap();
    let sessions = SessionOptions { stall_timeout: stall, ..SessionOptions::default() };
    let server =
        running_on(|khala| khala.with_sessions(sessions).with_classes(classes), |server| server).await;
    for _ in 0..megabytes {
        let payload = Payload::parse(&format!("\"{}\"", "x".repeat(16 << 10))).unwrap();
        let update = NewUpdate::new(Kind::parse("k").unwrap(), payload);
        server.khala.publish(&topic("t"), Batch::new(vec![update; 64]).unwrap()).await.unwrap();
    }
    server
}

#[tokio::test]
async fn who_takes_something_all_the_time_is_not_evicted() {
    let stall = Duration::from_secs(2);
    let server = of_megabytes(32, stall).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "t", json!({"from": "floor"})).await[4]["status"], "ok");
    // From now on it reads evenly, at a pace at which it takes hundreds of kilobytes within the limit.
    let stream = socket.get_mut();
    let (began, mut read, mut buffer) = (Instant::now(), 0, vec![0; 32 << 10]);
    while began.elapsed() < Duration::from_secs(9) {
        sleep(Duration::from_millis(200)).await;
        let taken = stream.read(&mut buffer).await.unwrap_or(0);
        let evicted = server.khala.stats().counters().slow_evictions;
        assert!(
            evicted == 0 && taken > 0,
            "evicted after {:?}, of which it took something every 200 ms, {read} bytes in all",
            began.elapsed()
        );
        read += taken;
    }
}

#[tokio::test]
async fn who_is_evicted_and_reads_again_is_told_why() {
    let server = of_megabytes(16, Duration::from_millis(500)).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "t", json!({"from": "floor"})).await[4]["status"], "ok");
    until(|| server.khala.stats().counters().slow_evictions == 1).await;
    // It reads on at once, and finds what the network had taken for it.
    assert_eq!(closed(&mut socket).await, (4002, "slow_consumer_evicted".to_owned()));
}
