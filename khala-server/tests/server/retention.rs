//! What operators see and order of history that is no longer kept.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use http::{Method, Request};
use http_body_util::Full;
use khala_core::{
    ErrorKind, KhalaBuilder, Watermark,
    auth::Access,
    class::{Classes, Retain, Tier, TopicClass, TopicPattern},
    journal::Journal as _,
    node::NodeId,
    retention::{MemorySweeps, SweepOptions, SweepOutcome, SweepTrigger, Sweeps as _},
};
use serde_json::{Value, json};

use crate::{
    admin::{ADMIN, RETENTION, admin},
    support::{Answer, Running, hear, join, running_on, topic, until},
};

/// Keeps the newest two updates of each topic.
fn classes() -> Classes {
    let all = TopicClass {
        tier: Tier::Cold,
        retain: Retain { updates: Some(2), ..Retain::everything() },
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap())
            .with_read([Access::Read.scope()])
            .with_publish([Access::Publish.scope()])
    };
    Classes::new(vec![all]).unwrap()
}

async fn start(set: impl FnOnce(KhalaBuilder) -> KhalaBuilder) -> Running {
    running_on(|khala| set(khala.with_classes(classes())), |server| server.with_admin_token(admin())).await
}

async fn ask(server: &Running, method: Method, query: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("{RETENTION}{query}"))
        .header("host", "x")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {ADMIN}"));
    server.send(request.body(Full::from(body.to_owned())).unwrap()).await
}

async fn status(server: &Running, query: &str) -> Value {
    let answer = ask(server, Method::GET, query, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn floor(server: &Running, name: &str) -> u64 {
    server.khala.journal().bounds(&topic(name)).await.unwrap().floor.as_u64()
}

#[tokio::test]
async fn a_plan_changes_nothing_and_a_sweep_does_what_it_said() {
    let server = start(|khala| khala).await;
    for _ in 0..5 {
        server.publish("t", r#"{"n":1}"#).await;
    }
    let before = status(&server, "").await;
    assert_eq!((&before["records"], &before["every_ms"]), (&json!([]), &json!(null)));
    assert_eq!(before.get("plan"), None, "nobody asked for it");
    let class = json!({"class": "all", "pattern": "**", "tier": "cold",
        "retain_for_ms": null, "retain_updates": 2, "retain_bytes": null, "retain_tombstones_for_ms": null});
    assert_eq!(before["classes"], json!([class]));

    let planned = ask(&server, Method::POST, "", r#"{"dry_run":true}"#).await.json();
    assert_eq!((&planned["outcome"], &planned["plan"]["updates"]), (&json!("planned"), &json!(3)));
    let worst = &planned["plan"]["worst"][0];
    assert_eq!(
        [&worst["topic"], &worst["floor"], &worst["floor_after"]],
        [&json!("t"), &json!(0), &json!(3)]
    );
    let asked = status(&server, "?plan=true").await;
    assert_eq!(asked["plan"]["updates"], 3);
    assert_eq!(floor(&server, "t").await, 0, "a plan takes nothing");
    assert_eq!(asked["records"], json!([]));

    let swept = ask(&server, Method::POST, "", "{}").await.json();
    assert_eq!((&swept["outcome"], &swept["record"]["updates"]), (&json!("swept"), &json!(3)));
    assert_eq!(floor(&server, "t").await, 3);
    let after = status(&server, "?limit=1").await;
    let record = &after["records"][0];
    let facts = [&record["node"], &record["trigger"], &record["outcome"], &record["classes"][0]["updates"]];
    assert_eq!(facts, [&after["node"], &json!("order"), &json!("swept"), &json!(3)]);
    assert_eq!(after["leads_until"], json!(null), "it has ended");
}

#[tokio::test]
async fn the_guard_holds_back_what_would_leave_somebody_behind() {
    let server = start(|khala| {
        khala.with_sweep(SweepOptions { max_stale_cursors: Some(0), ..SweepOptions::default() })
    })
    .await;
    for _ in 0..2 {
        server.publish("t", "1").await;
    }
    let mut socket = server.connect().await;
    let joined = join(&mut socket, "t", json!({"from": "floor"})).await;
    let epoch = joined[4]["response"]["epoch"].clone();
    assert_eq!(hear(&mut socket).await[4]["updates"][1]["seq"], 2);
    drop(socket);
    let khala = server.khala.clone();
    until(move || khala.connections().count() == 0).await;
    for _ in 0..5 {
        server.publish("t", "1").await;
    }
    let plan = status(&server, "?plan=true").await["plan"].clone();
    assert_eq!(
        [&plan["stale_seen"], &plan["guard"], &plan["held_back"]],
        [&json!(1), &json!(0), &json!(true)]
    );
    let problem = ask(&server, Method::POST, "", "{}").await.problem(409, "sweep_held_back");
    assert_eq!(problem["record"]["stale_seen"], 1);
    assert!(
        problem["detail"].as_str().unwrap().contains("1 cursors stale, and the guard allows 0"),
        "{problem}"
    );
    assert_eq!(floor(&server, "t").await, 0);
    assert_eq!(status(&server, "").await["records"][0]["outcome"], "held_back");

    let forced = ask(&server, Method::POST, "", r#"{"force":true}"#).await.json();
    assert_eq!((&forced["outcome"], &forced["record"]["stale_seen"]), (&json!("swept"), &json!(1)));
    let mut socket = server.connect().await;
    let stale = join(&mut socket, "t", json!({"after": 2, "epoch": epoch})).await;
    assert_eq!(stale[4]["response"]["code"], "stale_cursor", "{stale}");
}

#[tokio::test]
async fn one_sweep_at_a_time() {
    let sweeps = Arc::new(MemorySweeps::new());
    let shared = Arc::clone(&sweeps);
    let server = start(|khala| {
        khala.with_roles(|roles| roles.sweeps = shared).with_node(NodeId::parse("here").unwrap())
    })
    .await;
    let (there, now) = (NodeId::parse("there").unwrap(), server.khala.now());
    let ends = now.plus(Duration::from_secs(60));
    sweeps.try_acquire(&there, now, ends).await.unwrap();
    let problem = ask(&server, Method::POST, "", "{}").await.problem(409, "sweep_busy");
    assert_eq!((&problem["node"], &problem["until"]), (&json!("there"), &json!(ends.as_millis())));
    assert_eq!(status(&server, "").await["node"], "here");
    sweeps.try_acquire(&there, now, now).await.unwrap();
    assert_eq!(ask(&server, Method::POST, "", "{}").await.status, 200);
}

#[tokio::test]
async fn what_fails_is_told_and_recorded() {
    let server = start(|khala| khala).await;
    server.publish("t", "1").await;
    server.store.fail(Some(ErrorKind::Unavailable));
    // The record is for operators, and has the store's own words.
    let failed = ask(&server, Method::POST, "", "{}").await;
    assert_eq!((failed.status.as_u16(), &failed.json()["code"]), (500, &json!("sweep_failed")));
    assert_eq!(failed.json()["record"]["outcome"], "failed");
    ask(&server, Method::GET, "?plan=true", "").await.problem(503, "unavailable");
    server.store.fail(None);
    let record = status(&server, "").await["records"][0].clone();
    assert_eq!(record["outcome"], "failed");
    assert!(
        record["error"].as_str().is_some_and(|error| !error.is_empty()),
        "operators are told why: {record}"
    );
    assert_eq!(ask(&server, Method::POST, "", "{}").await.status, 200);
}

#[tokio::test]
async fn the_first_topic_that_could_not_be_swept_is_named() {
    let server = start(|khala| khala).await;
    for name in ["a", "b", "c"] {
        for _ in 0..5 {
            server.publish(name, "1").await;
        }
    }
    server.store.corrupt(topic("b"));
    let problem = ask(&server, Method::POST, "", "{}").await.problem(500, "sweep_failed");
    assert!(problem["detail"].as_str().unwrap().contains("\"b\""), "{problem}");
    let failed = &problem["record"]["failed"];
    assert_eq!((&failed[0]["topic"], failed.as_array().unwrap().len()), (&json!("b"), 1), "{problem}");
    assert!(failed[0]["error"].as_str().unwrap().contains("past its head"), "{problem}");
    assert_eq!((floor(&server, "a").await, floor(&server, "c").await), (3, 3), "the others are swept");
}

#[tokio::test]
async fn bad_orders_name_their_fault_and_sweep_nothing() {
    let server = start(|khala| khala).await;
    for (body, code, named) in [
        ("", "invalid_json", "object"),
        ("[]", "invalid_json", "object"),
        (r#"{"dry_run":"yes"}"#, "invalid", "dry_run"),
        (r#"{"force":1}"#, "invalid", "force"),
        (r#"{"dryrun":true}"#, "invalid", "dryrun"),
        (r#"{"dry_run":true,"force":true}"#, "invalid", "force means nothing"),
    ] {
        let problem = ask(&server, Method::POST, "", body).await.problem(400, code);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    ask(&server, Method::POST, "?dry_run=true", "{}").await.problem(400, "invalid_query");
    for (query, named) in
        [("?plan=maybe", "plan"), ("?limit=0", "limit"), ("?limit=1001", "limit"), ("?x=1", "x")]
    {
        let problem = ask(&server, Method::GET, query, "").await.problem(400, "invalid_query");
        assert_eq!(problem["field"], named);
    }
    assert_eq!(status(&server, "").await["records"], json!([]));
}

#[tokio::test]
async fn a_server_that_is_told_to_sweeps_by_itself() {
    let server = running_on(
        |khala| khala.with_classes(classes()),
        |server| server.with_admin_token(admin()).with_sweep_every(Duration::from_millis(50)),
    )
    .await;
    for _ in 0..5 {
        server.publish("t", "1").await;
    }
    let (bounds, journal) = (topic("t"), server.khala.clone());
    let swept = async {
        while journal.journal().bounds(&bounds).await.unwrap().floor == Watermark::ORIGIN {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::LONG, swept).await.expect("it sweeps");
    assert_eq!(status(&server, "").await["every_ms"], 50);
    let khala = server.khala.clone();
    let recorded = async move {
        loop {
            let records = khala.retention().records(NonZeroUsize::MAX).await.unwrap();
            if let Some(record) = records.iter().find(|record| record.updates > 0) {
                assert_eq!((record.trigger, record.outcome), (SweepTrigger::Schedule, SweepOutcome::Swept));
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::LONG, recorded).await.expect("it is recorded");
}

#[cfg(feature = "binary")]
#[tokio::test]
async fn the_command_sweeps_its_file_and_remembers_it() {
    use crate::binary::{Started, command};

    let folder = tempfile::tempdir().unwrap();
    let classes = r#"[{ name = "all", pattern = "**", read = ["khala:read"], publish = ["khala:publish"], retain = { updates = 1 } }]"#;
    let start = |every: &'static str| {
        let mut command = command(folder.path());
        command
            .env("KHALA_CLASSES", classes)
            .env("KHALA_SWEEP_INTERVAL_SECONDS", every)
            .env("KHALA_AUTH__ADMIN_TOKEN", ADMIN);
        Started::new(command)
    };
    let sweeping = start("1").await;
    let three = r#"{"updates":[{"kind":"k","payload":1},{"kind":"k","payload":2},{"kind":"k","payload":3}]}"#;
    let published = sweeping.send(Method::POST, "/v1/topics/t/updates", &sweeping.token, three).await;
    assert_eq!(published.0, 201, "{}", published.1);
    let swept = async {
        loop {
            let bounds = sweeping.send(Method::GET, "/v1/topics/t", &sweeping.token, "").await.1;
            if serde_json::from_str::<Value>(&bounds).unwrap()["floor"] == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::LONG, swept).await.expect("it sweeps in time");
    sweeping.signal("TERM").await;
    let (code, _, log) = sweeping.ended().await;
    assert_eq!(code.code(), Some(0), "{log}");
    assert!(log.contains("topic class") && log.contains("retain.updates=\"1\""), "{log}");

    let idle = start("none").await;
    let status = idle.send(Method::GET, RETENTION, ADMIN, "").await.1;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["every_ms"], json!(null));
    let records = status["records"].as_array().unwrap();
    assert!(records.iter().any(|record| record["outcome"] == "swept" && record["updates"] == 2), "{status}");
}
