//! What hostile and clumsy clients send. Each gets an answer that names the fault, and a client that does everything
//! right, on the same server, notices nothing.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use khala_core::{admission::AdmissionOptions, session::SessionOptions};
use khala_server::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::support::{
    LONG, Running, Socket, Witness, closed, hear, join, running, running_as, running_on, running_with, say,
    until,
};

/// A frame as a client sends it, with the mask zero, which leaves the payload as it is.
fn frame(first: u8, length: usize, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match length {
        0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        126..=65535 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Sends bytes as they are over an open WebSocket.
async fn raw(server: &Running, bytes: &[u8]) -> Socket {
    let mut stream = server.connect().await.into_inner();
    stream.write_all(bytes).await.unwrap();
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

#[tokio::test]
async fn broken_frames_are_closed_with_the_code_that_names_the_fault() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let most = 64 << 10;
    let half = vec![b' '; most / 2 + 1];
    let fragments = [frame(0x01, half.len(), &half), frame(0x80, half.len(), &half)].concat();
    let cases: [(&str, Vec<u8>, u16, &str); 11] = [
        ("too long", frame(0x81, most + 1, &vec![b' '; most + 1]), 1009, "frame_too_big"),
        ("too long by its own account", frame(0x81, 1 << 40, b""), 1009, "frame_too_big"),
        ("too long in fragments", fragments, 1009, "frame_too_big"),
        ("not UTF-8", frame(0x81, 2, b"\xc3\x28"), 1007, "invalid_utf8"),
        ("UTF-8 cut off", frame(0x81, 1, b"\xc3"), 1007, "invalid_utf8"),
        ("not masked", b"\x81\x02{}".to_vec(), 1002, "protocol_error"),
        ("a reserved bit", frame(0xc1, 2, b"{}"), 1002, "protocol_error"),
        ("a reserved opcode", frame(0x83, 2, b"{}"), 1002, "protocol_error"),
        ("a fragmented ping", frame(0x09, 0, b""), 1002, "protocol_error"),
        ("a long ping", frame(0x89, 126, &[0; 126]), 1002, "protocol_error"),
        ("a continuation of nothing", frame(0x80, 2, b"{}"), 1002, "protocol_error"),
    ];
    for (what, bytes, code, reason) in cases {
        let mut socket = raw(&server, &bytes).await;
        assert_eq!(closed(&mut socket).await, (code, reason.to_owned()), "{what}");
        witness.check(&server).await;
    }
    until(|| server.khala.connections().count() == 1).await;
}

#[tokio::test]
async fn a_close_reaches_a_client_that_is_still_sending() {
    let server = running().await;
    let mut stream = server.connect().await.into_inner();
    // Sent without a look at what comes back, as a client does whose frame is too large.
    stream.write_all(&frame(0x81, 1 << 20, &vec![b' '; 1 << 20])).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    assert_eq!(closed(&mut socket).await, (1009, "frame_too_big".to_owned()));
}

#[tokio::test]
async fn half_a_frame_costs_nobody_anything() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(raw(&server, &frame(0x81, 60_000, b"[")[..]).await);
    }
    witness.check(&server).await;
    drop(silent);
    until(|| server.khala.connections().count() == 1).await;
    witness.check(&server).await;
}

#[tokio::test]
async fn what_is_no_frame_of_the_protocol_is_named_and_then_closed() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let mut socket = server.connect().await;
    let wrong = [
        "",
        "null",
        "7",
        "\"x\"",
        "[",
        "{}",
        "[]",
        "[1,2,3,4,5]",
        r#"["1","2","t"]"#,
        r#"["1","2",7,"e",{}]"#,
        r#"["1","2","t","e",{},0]"#,
        r#"{"topic":"t"}"#,
        "[[[[[[[[",
        "\u{0}",
        "nul",
        "{\"a\":",
    ];
    for text in wrong {
        socket.send(Message::text(text)).await.unwrap();
        let answer = hear(&mut socket).await;
        assert_eq!(
            (&answer[3], &answer[4]["code"]),
            (&json!("sync:error"), &json!("malformed_frame")),
            "{text}"
        );
        assert!(answer[4]["message"].as_str().unwrap().contains("an array of"), "{answer}");
    }
    witness.check(&server).await;
    socket.send(Message::text("once too often")).await.unwrap();
    assert_eq!(closed(&mut socket).await, (1008, "too_many_malformed_frames".to_owned()));
    witness.check(&server).await;
}

#[tokio::test]
async fn wrong_joins_are_answered_and_the_connection_goes_on() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let mut socket = server.connect().await;
    let long = "x".repeat(300);
    for (topic, payload, code) in [
        (long.as_str(), json!({}), "invalid_topic"),
        ("", json!({}), "invalid_topic"),
        ("a b", json!({}), "invalid_topic"),
        ("phoenix", json!({}), "invalid_topic"),
        ("t", json!([]), "invalid_join"),
        ("t", json!(null), "invalid_join"),
        ("t", json!({"after": 1}), "invalid_join"),
        ("t", json!({"after": "1", "epoch": 2}), "invalid_join"),
        ("t", json!({"from": "yesterday"}), "invalid_join"),
    ] {
        let answer = join(&mut socket, topic, payload.clone()).await;
        let found = (&answer[3], &answer[4]["status"], &answer[4]["response"]["code"]);
        assert_eq!(
            found,
            (&json!("phx_reply"), &json!("error"), &json!(code)),
            "{topic} {payload}: {answer}"
        );
    }
    say(&mut socket, json!([null, "2", "t", "publish", {"x": 1}])).await;
    assert_eq!(hear(&mut socket).await[4]["response"]["reason"], "unmatched topic");
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    say(&mut socket, json!(["1", "3", "t", "publish", {"x": 1}])).await;
    assert_eq!(hear(&mut socket).await[4]["response"]["code"], "unknown_event");
    witness.check(&server).await;
}

#[tokio::test]
async fn ten_thousand_joins_are_answered_each() {
    // What limits the topics of a connection, not how fast it joins them.
    let unlimited = AdmissionOptions::unlimited();
    let server = running_on(|khala| khala.with_admission(unlimited), |builder| builder).await;
    let mut witness = Witness::new(&server).await;
    let (mut sink, mut stream) = server.connect().await.split();
    let send = async {
        for n in 0..10_000 {
            let frame = json!([n.to_string(), n.to_string(), format!("t:{n}"), "phx_join", {}]).to_string();
            sink.feed(Message::text(frame)).await.unwrap();
        }
        sink.flush().await.unwrap();
    };
    let receive = async {
        let (mut joined, mut refused) = (0, 0);
        while joined + refused < 10_000 {
            let Message::Text(text) = stream.next().await.unwrap().unwrap() else { continue };
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            match (answer[4]["status"].as_str(), answer[4]["response"]["code"].as_str()) {
                (Some("ok"), _) => joined += 1,
                (Some("error"), Some("too_many_topics")) => refused += 1,
                _ => panic!("{answer}"),
            }
        }
        (joined, refused)
    };
    let check = async {
        for _ in 0..20 {
            witness.check(&server).await;
        }
    };
    let (_, counts, ()) = timeout(LONG * 3, async { tokio::join!(send, receive, check) }).await.unwrap();
    assert_eq!(counts, (1024, 8976));
}

#[tokio::test]
async fn who_asks_much_and_reads_nothing_is_evicted() {
    let sessions = SessionOptions { stall_timeout: Duration::from_millis(300), ..SessionOptions::default() };
    let server = running_as(sessions, |builder| builder).await;
    let mut witness = Witness::new(&server).await;
    let payload = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..100 {
        server.publish("large", &payload).await;
    }
    let mut deaf = Vec::new();
    for _ in 0..5 {
        let mut socket = server.connect().await;
        for n in 0..10 {
            say(&mut socket, json!(["1", n.to_string(), "large", "phx_join", {"from": "floor"}])).await;
        }
        deaf.push(socket);
        witness.check(&server).await;
    }
    until(|| server.khala.connections().count() == 1).await;
    witness.check(&server).await;
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_and_touches_nobody() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let mut socket = raw(&server, &frame(0x89, 1, b"p").repeat(5_000)).await;
    witness.check(&server).await;
    // Only the newest ping has to be answered (RFC 6455, section 5.5.3).
    let pong = timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong(b"p".as_slice().into()));
    // What comes after the flood is still heard.
    say(&mut socket, json!([null, "9", "phoenix", "heartbeat", {}])).await;
    let mut answer = hear(&mut socket).await;
    while answer[1] != "9" {
        answer = hear(&mut socket).await;
    }
    witness.check(&server).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_any_way_is_forgotten() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    drop(server.connect().await);
    let mut polite = server.connect().await;
    polite.close(None).await.unwrap();
    while timeout(LONG, polite.next()).await.unwrap().is_some() {}
    let mut abrupt = server.connect().await.into_inner();
    abrupt.write_all(&frame(0x81, 10, b"[")).await.unwrap();
    abrupt.shutdown().await.unwrap();
    until(|| server.khala.connections().count() == 1).await;
    witness.check(&server).await;
}

/// Sends bytes to the port, and gives what comes back until the server hangs up.
async fn until_hung_up(server: &Running, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    // The server may hang up before all of it is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server hangs up in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn half_a_request_is_not_waited_for() {
    let short = Duration::from_millis(300);
    let limits = Limits { header_timeout: short, keep_alive_timeout: short, ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let mut witness = Witness::new(&server).await;
    let halves: [&[u8]; 3] = [b"", b"GET /v1/topics HT", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "];
    for half in halves {
        assert_eq!(until_hung_up(&server, half).await, "", "{half:?}");
        witness.check(&server).await;
    }
    // One that is kept alive and asks nothing more is the same.
    let answer = until_hung_up(&server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let many =
        futures::future::join_all((0..100).map(|_| until_hung_up(&server, b"GET / HTTP/1.1\r\nx"))).await;
    assert!(many.iter().all(String::is_empty));
    witness.check(&server).await;
}

/// A connection that rests between two requests is none that sends half of one.
#[tokio::test]
async fn a_connection_may_rest_between_two_requests() {
    const ASK: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    async fn answered(stream: &mut TcpStream) {
        stream.write_all(ASK).await.unwrap();
        let mut answer = [0; 4_096];
        let read = timeout(LONG, stream.read(&mut answer)).await.expect("an answer in time").unwrap();
        assert!(
            answer[..read].starts_with(b"HTTP/1.1 200"),
            "{:?}",
            String::from_utf8_lossy(&answer[..read])
        );
    }
    let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let mut resting = TcpStream::connect(&server.address).await.unwrap();
    answered(&mut resting).await;
    // As long as the head of a request may take, and longer.
    for _ in 0..2 {
        assert_eq!(until_hung_up(&server, b"GET /heal").await, "");
    }
    answered(&mut resting).await;
    // The head of a later request may take no longer than that of the first.
    resting.write_all(b"GET /heal").await.unwrap();
    let end = timeout(LONG, resting.read(&mut [0; 16])).await.expect("it is hung up in time");
    assert_eq!(end.unwrap_or(0), 0);
}

/// What is under way does not rest: neither a body that takes longer, nor the next request.
#[tokio::test]
async fn a_request_may_take_longer_than_a_connection_may_rest() {
    let short = Duration::from_millis(300);
    let limits = Limits { header_timeout: short, keep_alive_timeout: short, ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let body = r#"{"kind":"k","payload":1}"#;
    let head = format!(
        "POST /v1/topics/t/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        crate::support::good_token(),
        body.len()
    );
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.unwrap();
        // Longer than both, and long enough for every part of the time to be over.
        for half in [&body[..9], &body[9..]] {
            let _ = until_hung_up(&server, b"GET /heal").await;
            let _ = until_hung_up(&server, b"GET /heal").await;
            stream.write_all(half.as_bytes()).await.unwrap();
        }
        let mut answer = [0; 4_096];
        let read = timeout(LONG, stream.read(&mut answer)).await.expect("an answer in time").unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer[..read]));
    }
    assert_eq!(timeout(LONG, stream.read(&mut [0; 16])).await.expect("it is closed in time").unwrap(), 0);
}

/// An answer that its client takes slowly is no rest, although the server has handed all of it over.
#[tokio::test]
async fn an_answer_may_be_taken_for_longer_than_a_connection_may_rest() {
    let limits = Limits { keep_alive_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let payload = format!("\"{}\"", "x".repeat(200_000));
    for _ in 0..30 {
        server.publish("large", &payload).await;
    }
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!(
        "GET /v1/topics/large/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        crate::support::good_token()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut taken, mut buffer) = (0, vec![0; 64 << 10]);
    // As much as a page has.
    while taken < 2_000_000 {
        let read = timeout(LONG, stream.read(&mut buffer)).await.expect("more in time").expect("no reset");
        assert_ne!(read, 0, "it was cut off after {taken} bytes");
        taken += read;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request that meets the close of a connection that rested too long finds an end, and no reset.
#[tokio::test]
async fn a_connection_that_rested_is_closed_without_a_reset() {
    let short = Duration::from_millis(300);
    let limits = Limits { header_timeout: short, keep_alive_timeout: short, ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let mut resting = TcpStream::connect(&server.address).await.unwrap();
    resting.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, resting.read_to_end(&mut answer)).await.expect("it is closed in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    resting.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(timeout(LONG, resting.read(&mut [0; 16])).await.expect("an end in time").unwrap(), 0);
}

/// Each frame is charged, also those that the WebSocket library takes without a word.
#[tokio::test]
async fn who_sends_too_many_frames_of_any_kind_is_closed() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    let (ping, pong, fragment) = (frame(0x89, 0, b""), frame(0x8a, 0, b""), frame(0, 0, b""));
    for (first, each) in [(vec![], &ping), (vec![], &pong), (frame(0x01, 0, b""), &fragment)] {
        // As many as may be sent at once, and what a client may send is not limited further by being empty.
        let mut few = server.connect().await.into_inner();
        few.write_all(&[first.clone(), each.repeat(1_000)].concat()).await.unwrap();
        if !first.is_empty() {
            few.write_all(&frame(0x80, 0, b"")).await.unwrap();
        }
        let mut few = WebSocketStream::from_raw_socket(few, Role::Client, None).await;
        let answer = async {
            say(&mut few, json!([null, "7", "phoenix", "heartbeat", {}])).await;
            loop {
                let heard = hear(&mut few).await;
                if heard[1] == "7" {
                    return heard;
                }
            }
        };
        assert_eq!(answer.await[4]["status"], "ok");

        let mut stream = server.connect().await.into_inner();
        // The server may hang up before all of it is sent.
        let _ = stream.write_all(&[first, each.repeat(30_000)].concat()).await;
        let mut many = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        assert_eq!(closed(&mut many).await.1, "too_many_frames");
        witness.check(&server).await;
    }
}

#[tokio::test]
async fn what_is_no_http_is_hung_up_on() {
    let server = running().await;
    let mut witness = Witness::new(&server).await;
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), "400"),
        (format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20)).into_bytes(), "4"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)).into_bytes(), "431"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000)).into_bytes(), "431"),
    ] {
        let answer = until_hung_up(&server, &bytes).await;
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        witness.check(&server).await;
    }
}

#[tokio::test]
async fn who_asks_for_history_and_reads_nothing_is_hung_up_on() {
    let limits = Limits { stall_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = running_with(|builder| builder.with_limits(limits)).await;
    let mut witness = Witness::new(&server).await;
    let payload = format!("\"{}\"", "x".repeat(200_000));
    for _ in 0..10 {
        server.publish("large", &payload).await;
    }
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!(
        "GET /v1/topics/large/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        crate::support::good_token()
    );
    // More than the network's own buffers hold.
    stream.write_all(request.repeat(20).as_bytes()).await.unwrap();
    witness.check(&server).await;
    until(|| stream.try_write(b"x").is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)).await;
    witness.check(&server).await;
}
