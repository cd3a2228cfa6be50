//! What operators see of delivery: by topic, in sums, by connection, and by what wakes the node up.

use http::{Method, Request};
use http_body_util::Full;
use khala_core::ErrorKind;
use serde_json::{Value, json};

use crate::{
    admin::{ADMIN, CONNECTIONS, HOOKS, METRICS, admin},
    support::{Answer, Running, hear, join, running_with},
};

async fn get(server: &Running, path: &str) -> Answer {
    let request = Request::builder().method(Method::GET).uri(path).header("host", "x");
    let request = request.header("authorization", format!("Bearer {ADMIN}"));
    server.send(request.body(Full::default()).unwrap()).await
}

async fn told(server: &Running, path: &str) -> Value {
    let answer = get(server, path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn topics_are_told_of_with_rules_and_what_was_broken() {
    let server = running_with(|server| server.with_admin_token(admin())).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "run:7:events", json!({})).await[4]["status"], "ok");
    for _ in 0..3 {
        server.publish("run:7:events", "1").await;
        assert_eq!(hear(&mut socket).await[3], "sync:update_batch");
    }
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(64 << 10));
    for _ in 0..2 {
        server.post("/v1/topics/quiet/updates", &large).await.problem(413, "khala_frame_payload_too_large");
    }
    let epoch = "0000000000000000";
    let stale = join(&mut socket, "run:8:events", json!({"after": 5, "epoch": epoch})).await;
    assert_eq!(stale[4]["response"]["code"], "stale_cursor", "{stale}");

    let all = told(&server, METRICS).await;
    let names: Vec<_> = all["topics"].as_array().unwrap().iter().map(|topic| &topic["topic"]).collect();
    assert_eq!(names, [&json!("quiet"), &json!("run:8:events"), &json!("run:7:events")], "the worst first");
    let quiet = &all["topics"][0];
    assert_eq!(quiet["incidents"]["payload_too_large"], 2);
    assert_eq!([&quiet["class"], &quiet["last_reason"]], [&json!("fallback"), &json!("payload_too_large")]);
    assert!(quiet["last_at"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(all["topics"][1]["incidents"]["stale_cursor"], 1);
    let followed = &all["topics"][2];
    let facts =
        ["class", "tier", "head", "floor", "lag", "connected", "seen", "slowest_connected", "last_reason"]
            .map(|name| followed[name].clone());
    let expected = json!(["run_events", "warm", 3, 0, 0, 1, 0, 3, null]);
    assert_eq!(json!(facts), expected);
    let limits = json!({"replay_budget_events": 20_000, "publish_per_second": 240, "publish_at_once": 240,
        "payload_bytes": 256 << 10, "inline_bytes": null, "hashes": false, "retain_for_ms": 604_800_000, "retain_updates": null,
        "retain_bytes": null, "retain_tombstones_for_ms": null, "stall_ms": null});
    assert_eq!(followed["limits"], limits);

    let delivery = &all["delivery"];
    let sums = ["connections", "channels", "behind", "stale_cursors", "stale_loops", "slow_evictions"]
        .map(|name| delivery[name].clone());
    assert_eq!(json!(sums), json!([1, 1, 0, 1, 0, 0]));
    assert_eq!(delivery["fairness"]["reads_at_once"], 4);
    assert_eq!(delivery["storms"]["longest_wait_ms"], 30_000);

    let one = told(&server, &format!("{METRICS}?topic_limit=1")).await;
    assert_eq!(one["topics"].as_array().unwrap().len(), 1);
    for bad in ["0", "1001", "x", "-1", ""] {
        let refused = get(&server, &format!("{METRICS}?topic_limit={bad}")).await;
        assert_eq!(refused.problem(400, "invalid_query")["field"], "topic_limit");
    }
    get(&server, &format!("{METRICS}?limit=1")).await.problem(400, "invalid_query");
}

/// A topic whose bounds cannot be read keeps nobody from the others.
#[tokio::test]
async fn a_topic_that_is_corrupt_is_left_out_and_the_others_are_told_of() {
    let server = running_with(|server| server.with_admin_token(admin())).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "good", json!({})).await[4]["status"], "ok");
    let large = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(64 << 10));
    server.post("/v1/topics/bad/updates", &large).await.problem(413, "khala_frame_payload_too_large");
    server.store.fail(Some(ErrorKind::Corrupt));
    let all = told(&server, METRICS).await;
    let names: Vec<_> = all["topics"].as_array().unwrap().iter().map(|topic| &topic["topic"]).collect();
    assert_eq!(names, [&json!("good")]);
}

#[tokio::test]
async fn what_wakes_a_node_up_is_counted() {
    let server = running_with(|server| server.with_admin_token(admin())).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    server.publish("t", "1").await;
    assert_eq!(hear(&mut socket).await[3], "sync:update_batch");
    let hooks = told(&server, HOOKS).await;
    let heads = json!({"hook": "heads", "announced": 1, "announce_failures": 0, "heard": 1, "poll_finds": 0});
    assert_eq!(hooks["hooks"][0], heads);
    let revocations =
        json!({"hook": "revocations", "announced": 0, "announce_failures": 0, "heard": 0, "poll_finds": 0});
    assert_eq!(hooks["hooks"][1], revocations);
    get(&server, &format!("{HOOKS}?x=1")).await.problem(400, "invalid_query");
}

#[tokio::test]
async fn connections_are_told_of() {
    let server = running_with(|server| server.with_admin_token(admin())).await;
    let mut socket = server.connect().await;
    for name in ["t", "u"] {
        assert_eq!(join(&mut socket, name, json!({})).await[4]["status"], "ok");
    }
    let _other = server.connect().await;
    let all = told(&server, CONNECTIONS).await;
    assert_eq!([&all["open"], &all["channels"], &all["outbox_bytes"]], [&json!(2), &json!(2), &json!(0)]);
    let slowest = all["slowest"].as_array().unwrap();
    assert_eq!(slowest.len(), 2);
    let with_channels = slowest.iter().find(|one| one["channels"] == 2).unwrap();
    let facts = ["subject", "address", "held_bytes", "stalled_ms"].map(|name| with_channels[name].clone());
    assert_eq!(json!(facts), json!(["ada", "127.0.0.1", 0, 0]));
    let one = told(&server, &format!("{CONNECTIONS}?limit=1")).await;
    assert_eq!((&one["open"], one["slowest"].as_array().unwrap().len()), (&json!(2), 1));
    get(&server, &format!("{CONNECTIONS}?limit=0")).await.problem(400, "invalid_query");
}
