//! What the `khala-server` command exports for Prometheus.

use std::process::Stdio;

use tokio::{process::Command, time::timeout};

use crate::{
    binary::{Started, command},
    support::LONG,
};

/// What `promtool` thinks of it.
async fn checked_by_promtool(metrics: &str) -> String {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        promtool.spawn().unwrap_or_else(|fault| panic!("promtool: {fault}; run scripts/setup --tests"));
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), metrics.as_bytes()).await.unwrap();
    let output = timeout(LONG, child.wait_with_output()).await.expect("it ends in time").unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// A dashboard and an alert find each metric before anything has happened.
#[tokio::test]
async fn every_metric_is_there_and_described_from_the_first_scrape() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
    assert_eq!(checked_by_promtool(&metrics).await, "");
    for name in khala_core::telemetry::ALL {
        for what in ["HELP", "TYPE"] {
            assert!(metrics.contains(&format!("# {what} {name} ")), "{name} has no {what}");
        }
        let samples = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| ["_count", "_count{", "{", " "].iter().any(|end| rest.starts_with(end)))
        });
        assert_ne!(samples.count(), 0, "{name} has no series");
    }
    assert!(!metrics.contains(" summary\n"), "{metrics}");
}

/// Promise 9: no identifier of unbounded range is a label.
#[tokio::test]
async fn no_label_is_of_unbounded_range() {
    let folder = tempfile::tempdir().unwrap();
    let started = Started::new(command(folder.path())).await;
    let body = r#"{"kind":"a-kind","payload":1,"doc_key":"a-key"}"#;
    let updates = "/v1/topics/a-topic/updates";
    let large: &'static str = format!(r#"{{"kind":"a-kind","payload":"{}"}}"#, "x".repeat(1 << 20)).leak();
    assert_eq!(started.send(http::Method::POST, updates, &started.token, large).await.0, 413);
    assert_eq!(started.send(http::Method::POST, updates, &started.token, body).await.0, 201);
    assert_eq!(started.get(updates, &started.token).await, 200);
    assert_eq!(started.get("/v1/topics/a-topic/documents/a-key", &started.token).await, 200);
    assert_eq!(started.get("/an-unknown/path", &started.token).await, 404);
    let url =
        format!("{}/sync/v1/websocket?vsn=2.0.0&token={}", started.url.replace("http", "ws"), started.token);
    let stream = tokio::net::TcpStream::connect(started.url.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut socket, _) = timeout(LONG, tokio_tungstenite::client_async(url, stream)).await.unwrap().unwrap();
    for frame in
        [r#"["1","1","a-topic","phx_join",{"from":"floor"}]"#, r#"["1","2","a-topic","an-event",{}]"#]
    {
        futures::SinkExt::send(&mut socket, frame.into()).await.unwrap();
    }
    for _ in 0..3 {
        // The join's reply, the update, and the refusal of the event.
        timeout(LONG, futures::StreamExt::next(&mut socket)).await.unwrap().unwrap().unwrap();
    }
    let metrics = started.send(http::Method::GET, "/metrics", "", "").await.1;
    let known = [
        "by",
        "class",
        "code",
        "kind",
        "le",
        "limit",
        "method",
        "operation",
        "outcome",
        "part",
        "reason",
        "resume",
        "route",
        "source",
        "state",
        "status",
        "temperature",
        "transport",
    ];
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let listed = [name, base].iter().any(|name| khala_core::telemetry::ALL.contains(name));
        assert!(listed, "{name} is not in telemetry::ALL");
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            assert!(known.contains(&label.split('=').next().unwrap()), "{line}");
        }
        for identifier in ["a-topic", "a-key", "a-kind", "an-event", "an-unknown"] {
            assert!(!line.contains(identifier), "{line}");
        }
    }
    for name in [
        "khala_appends_total",
        "khala_class_updates_total{class=\"default\"}",
        "khala_joins_total",
        "khala_publish_refused_total{class=\"default\",code=\"khala_frame_payload_too_large\"} 1",
        "khala_refusals_total",
        "khala_updates_sent_total",
    ] {
        assert!(metrics.contains(name), "{name} was not counted: {metrics}");
    }
}
