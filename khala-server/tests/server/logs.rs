//! No token and no query string in the log, at the finest level that there is, wherever the token was: good, refused
//! or broken.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use futures::SinkExt as _;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    evidence::{Lines, assert_hides, holds, log},
    support::{LONG, Running, good_token, hear, join, running, say},
};

const PATH: &str = "/sync/v1/websocket?vsn=2.0.0&mine=mark-of-the-query-string";

/// Sends a token everywhere that one can be; gives those that were sent.
async fn send_everywhere(server: &Running) -> Vec<String> {
    let mut sent = Vec::new();
    // The parts of a good one, so that each that is broken is broken elsewhere.
    for broken in [
        |token: String| token,
        |token: String| format!("{token}x"),
        |token: String| token.replace('.', "!"),
        |token: String| token.chars().rev().collect(),
    ] {
        let token = broken(good_token());
        let bearer = format!("Bearer {token}");
        for path in [PATH.to_owned(), format!("{PATH}&token={token}"), format!("{PATH}&token=%{token}")] {
            let opened = server.handshake(&path, &[("authorization", &bearer)]).await;
            drop(opened);
            drop(server.handshake(&path, &[]).await);
        }
        for encoded in [STANDARD_NO_PAD.encode(&token), URL_SAFE_NO_PAD.encode(&token), format!("!{token}")] {
            let protocols = format!("phoenix, base64url.bearer.phx.{encoded}");
            drop(server.handshake(PATH, &[("sec-websocket-protocol", &protocols)]).await);
        }
        for scheme in ["Bearer", "Basic", "bearer  x", ""] {
            let request =
                Request::builder().uri("/v1/topics/t?mine=mark-of-the-query-string").header("host", "x");
            let request = request.header("authorization", format!("{scheme} {token}"));
            server.send(request.body(Full::default()).unwrap()).await;
        }
        let query = format!("/v1/topics/t?token={token}&mine=mark-of-the-query-string");
        server.get(&query).await;

        let mut socket = server.connect().await;
        join(&mut socket, "t", json!({})).await;
        for (topic, payload) in [
            ("phoenix", json!({"access_token": token})),
            ("t", json!({"access_token": token})),
            ("unjoined", json!({"access_token": token})),
            ("phoenix", json!({"access_token": [token]})),
            ("phoenix", json!([token])),
            ("phoenix", json!(token)),
        ] {
            say(&mut socket, json!([null, "1", topic, "access_token", payload])).await;
            hear(&mut socket).await;
        }
        // No frame, and a join, with a token in it.
        socket.send(Message::text(format!("[null, \"{token}\""))).await.unwrap();
        hear(&mut socket).await;
        join(&mut socket, "u", json!({"after": token})).await;
        // What the WebSocket library refuses: a frame that is not masked.
        let mut stream = socket.into_inner();
        let _ = stream.write_all(&[&[0x81, 0x04], token.as_bytes()].concat()).await;
        let _ = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.unwrap();
        // No request, with a token in it.
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream
            .write_all(format!("GET /?token={token} HTTP/1.1\r\nauthorization {token}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        timeout(LONG, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        sent.push(token);
    }
    sent
}

async fn logged(filtered: bool) -> (Lines, Vec<String>) {
    let (lines, _log) = log(filtered);
    let server = running().await;
    let sent = send_everywhere(&server).await;
    (lines, sent)
}

#[tokio::test]
async fn no_line_at_any_level_holds_a_token() {
    let (lines, sent) = logged(true).await;
    let text = lines.text();
    assert_hides("the log", &text, &sent);
    assert!(!text.contains("mark-of-the-query-string"), "a query string is in the log");
    for target in ["khala_server::access", "khala_server::serve"] {
        assert!(text.contains(target), "nothing of {target} was logged: {text}");
    }
    assert!(!text.lines().any(|line| line.contains(" TRACE ") && line.contains("tungstenite::")), "{text}");
}

/// Why there is a filter. The day that this fails, the library has stopped to write out what it receives.
#[tokio::test]
async fn the_websocket_library_writes_out_what_it_receives() {
    let (lines, sent) = logged(false).await;
    let text = lines.text();
    // A line of the log is several where the message is.
    let mut records: Vec<String> = Vec::new();
    for line in text.lines() {
        match records.last_mut() {
            Some(record) if !line.starts_with("20") => record.extend(["\n", line]),
            _ => records.push(line.to_owned()),
        }
    }
    records.retain(|record| sent.iter().any(|token| holds(record, token)));
    assert!(!records.is_empty());
    for record in records {
        assert!(record.contains(" TRACE ") && record.contains("tungstenite::"), "{record}");
    }
}
