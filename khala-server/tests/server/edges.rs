//! What clients and proxies write in another form than Khala's own: numbers, marks before a text, decoded paths.

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::json;

use crate::support::{join, running};

/// JSON has one kind of number: clients whose JSON has no whole ones write `1` as `1.0`.
#[tokio::test]
async fn a_whole_number_is_taken_however_it_is_written() {
    let server = running().await;
    for payload in ["1", "2", "3"] {
        server.publish("t", payload).await;
    }
    let epoch = server.get("/v1/topics/t").await.json()["epoch"].clone();
    let epoch = epoch.as_str().unwrap();
    for after in ["1.0", "1e0", "10e-1"] {
        let mut socket = server.connect().await;
        let payload: serde_json::Value =
            serde_json::from_str(&format!(r#"{{"after":{after},"epoch":"{epoch}"}}"#)).unwrap();
        let answer = join(&mut socket, "t", payload).await;
        assert_eq!(
            (&answer[4]["status"], &answer[4]["response"]["after"]),
            (&json!("ok"), &json!(1)),
            "{answer}"
        );
        let history =
            server.get(&format!("/v1/topics/t/updates?after={after}&epoch={epoch}&limit=1.0")).await;
        assert_eq!(history.json()["updates"][0]["seq"], 2, "{history:?}");
        assert_eq!(history.json()["updates"].as_array().unwrap().len(), 1);
    }
    for after in [json!(1.5), json!(-1.0), json!(9_007_199_254_740_992_u64), json!(1e300), json!("1")] {
        let mut socket = server.connect().await;
        let answer = join(&mut socket, "t", json!({"after": after, "epoch": epoch})).await;
        assert_eq!(answer[4]["response"]["code"], "invalid_join", "{answer}");
        let message = answer[4]["response"]["message"].as_str().unwrap();
        assert!(message.contains("a whole number from 0 to 2^53 - 1"), "{message}");
        let text = after.to_string().replace('"', "%22");
        let history = server.get(&format!("/v1/topics/t/updates?after={text}&epoch={epoch}")).await;
        assert_eq!(history.problem(400, "invalid_query")["field"], "after");
    }
    let body = r#"{"updates":[{"kind":"k","payload":1,"doc_key":"d","doc_version":7.0}],"expect":3.0}"#;
    assert_eq!(server.post("/v1/topics/t/updates", body).await.status, 201);
    let line = r#"{"kind":"k","payload":1,"doc_key":"d","doc_version":8e0}"#;
    let ndjson = [("content-type", "application/x-ndjson")];
    let stream = server.request(Method::POST, "/v1/topics/t/updates").header(ndjson[0].0, ndjson[0].1);
    let answer = server.send(stream.body(Full::from(line)).unwrap()).await;
    assert_eq!(answer.json()["first"], 5, "{answer:?}");
    for version in ["8.5", "-1", "9007199254740992", "1e300", "\"9\""] {
        let body = format!(r#"{{"kind":"k","payload":1,"doc_key":"d","doc_version":{version}}}"#);
        let problem = server.post("/v1/topics/t/updates", &body).await.problem(400, "invalid");
        assert_eq!(problem["field"], "doc_version", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("whole number from 0 to 2^53 - 1"), "{problem}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_no_part_of_it() {
    let server = running().await;
    let body = "\u{feff}{\"kind\":\"k\",\r\n\"payload\":1}\r\n";
    assert_eq!(server.post("/v1/topics/t/updates", body).await.status, 201);
    let lines = "\u{feff}{\"kind\":\"k\",\"payload\":2}\r\n\r\n{\"kind\":\"k\",\"payload\":3}\r\n";
    for (path, lines) in [
        ("/v1/topics/t/updates", lines.to_owned()),
        ("/v1/updates", lines.replace("\"kind\"", "\"topic\":\"t\",\"kind\"")),
    ] {
        let request = server.request(Method::POST, path).header("content-type", "application/x-ndjson");
        let answer = server.send(request.body(Full::from(lines)).unwrap()).await;
        assert_eq!(answer.text.lines().count(), 2, "{answer:?}");
        assert!(!answer.text.contains("error"), "{answer:?}");
    }
    assert_eq!(server.get("/v1/topics/t").await.json()["head"], 5);
    // Elsewhere it is none.
    let body = "{\"kind\":\"k\",\u{feff}\"payload\":1}";
    server.post("/v1/topics/t/updates", body).await.problem(400, "invalid_json");
}

/// Many proxies decode the path of what they pass on, so that a topic's `%2F` is a `/` when it is here.
#[tokio::test]
async fn a_topic_with_slashes_is_found_in_a_decoded_path() {
    let server = running().await;
    let one = r#"{"kind":"k","payload":1,"doc_key":"x/y"}"#;
    for path in ["/v1/topics/a/b/updates", "/v1/topics/a%2Fb/updates"] {
        let answer = server.post(path, one).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["topic"]), (201, &json!("a/b")), "{answer:?}");
    }
    let lines =
        server.request(Method::POST, "/v1/topics/a/b/updates").header("content-type", "application/x-ndjson");
    let answer = server.send(lines.body(Full::from(one)).unwrap()).await;
    assert_eq!(answer.json()["first"], 3, "{answer:?}");
    for bounds in ["/v1/topics/a/b", "/v1/topics/a%2Fb"] {
        assert_eq!(server.get(bounds).await.json()["head"], 3);
    }
    let history = server.get("/v1/topics/a/b/updates").await;
    assert_eq!(history.json()["updates"].as_array().map(Vec::len), Some(3), "{history:?}");
    let snapshot = server.get("/v1/topics/a/b/snapshot").await;
    assert_eq!(snapshot.json()["documents"][0]["doc_key"], "x/y", "{snapshot:?}");
    for document in
        ["/v1/topics/a/b/documents/x/y", "/v1/topics/a%2Fb/documents/x%2Fy", "/v1/topics/a/b/documents/x%2Fy"]
    {
        assert_eq!(server.get(document).await.json()["seq"], 3, "{document}");
    }
    // What is escaped is what it says, also where a part of it is a word of the routes.
    let server = running().await;
    for (path, topic) in [
        ("/v1/topics/a%2Fupdates/updates", "a/updates"),
        ("/v1/topics/a%2Fdocuments%2Fb/updates", "a/documents/b"),
        ("/v1/topics/a/updates/updates", "a/updates"),
    ] {
        assert_eq!(server.post(path, one).await.json()["topic"], topic, "{path}");
    }
    // An empty part is a mistake, or a slash that a proxy would take away.
    for path in ["/v1/topics/a//b/updates", "/v1/topics/a/b/updates/", "/v1/topics/a/b/"] {
        server.post(path, one).await.problem(404, "unknown_route");
    }
    let request =
        server.request(Method::PUT, "/v1/topics/a/b/updates").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(server.send(request).await.header("allow"), "GET, HEAD, POST");
}
