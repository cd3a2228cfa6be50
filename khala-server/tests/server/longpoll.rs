//! Long polling, as `phoenix`'s LongPoll transport does it: sessions, polls, posts, and what ends them.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use futures::future::join;
use http::{Method, Request};
use http_body_util::Full;
use khala_core::{
    admission::AdmissionOptions,
    auth::{Access, Revocation, RevocationId, RevocationTarget},
    budget::MemoryPart,
    session::SessionOptions,
};
use khala_server::{Limits, Origins, ServerBuilder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::support::{
    Answer, Hand, LONG, Running, expired_token, good_token, running, running_as, running_on, running_with,
    token, token_of, until,
};

const PATH: &str = "/sync/v1/longpoll";
const NDJSON: &str = "application/x-ndjson";

/// A client's end of a session: its access token, and the token of the last answer.
#[derive(Clone)]
struct Poller<'a> {
    server: &'a Running,
    access: String,
    session: String,
}

impl<'a> Poller<'a> {
    /// Opens a session.
    async fn open(server: &'a Running, access: &str) -> Self {
        let mut poller = Self { server, access: access.to_owned(), session: String::new() };
        let answer = poller.poll().await;
        assert_eq!((&answer["status"], &answer["messages"]), (&410.into(), &json!([])), "{answer}");
        poller
    }

    async fn joined(server: &'a Running, access: &str, topic: &str, payload: Value) -> Self {
        let mut poller = Self::open(server, access).await;
        poller.post(json!(["1", "1", topic, "phx_join", payload])).await;
        let frames = poller.frames(1).await;
        assert_eq!(frames[0][4]["status"], "ok", "{frames:?}");
        poller
    }

    /// The path as `phoenix` makes it: with two parameters `token`, or without the second.
    fn path(&self) -> String {
        let session = if self.session.is_empty() { String::new() } else { format!("token={}", self.session) };
        format!("{PATH}?token={}&vsn=2.0.0&{session}", self.access)
    }

    async fn poll(&mut self) -> Value {
        let answer = self.ask(Method::GET, "").await.json();
        if let Some(session) = answer["token"].as_str() {
            self.session = session.to_owned();
        }
        answer
    }

    /// Polls until there were that many frames.
    async fn frames(&mut self, count: usize) -> Vec<Value> {
        let mut frames = Vec::new();
        while frames.len() < count {
            let answer = self.poll().await;
            assert!(answer["status"] == 200 || answer["status"] == 204, "{answer}");
            let messages = answer["messages"].as_array().unwrap().iter();
            frames.extend(
                messages.map(|frame| serde_json::from_str::<Value>(frame.as_str().unwrap()).unwrap()),
            );
        }
        frames
    }

    async fn ask(&self, method: Method, body: &str) -> Answer {
        let headers = [("content-type", NDJSON)];
        ask(self.server, method, &self.path(), &headers, body).await
    }

    async fn post(&self, frame: Value) {
        let answer = self.ask(Method::POST, &frame.to_string()).await;
        assert_eq!(answer.json()["status"], 200, "{answer:?}");
    }
}

async fn ask(server: &Running, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Full::<Bytes>::from(body.to_owned())).unwrap()).await
}

#[track_caller]
fn gone(answer: &Value, close: Option<u16>) {
    assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"session_gone".into()), "{answer}");
    assert_eq!(answer.get("close_code").and_then(Value::as_u64), close.map(u64::from), "{answer}");
}

/// With a wait that a test can wait for.
fn brief(builder: ServerBuilder) -> ServerBuilder {
    let limits = Limits { long_poll_wait: Duration::from_millis(200), ..Limits::default() };
    builder.with_limits(limits).with_drain(Duration::from_millis(200))
}

#[tokio::test]
async fn a_client_follows_by_polls() {
    let server = running_with(brief).await;
    let mut poller = Poller::open(&server, &good_token()).await;
    assert_eq!(server.khala.connections().count(), 1);
    poller.post(json!(["1", "1", "t", "phx_join", {}])).await;
    assert_eq!(poller.frames(1).await[0][4]["status"], "ok");
    let nothing = poller.poll().await;
    assert_eq!((&nothing["status"], &nothing["messages"]), (&204.into(), &json!([])), "{nothing}");
    for seq in 1..=3 {
        // A poll that waits is answered at once, and one that comes later finds it.
        let (frames, ()) = join(poller.frames(1), async {
            if seq != 2 {
                sleep(Duration::from_millis(50)).await;
            }
            server.publish("t", "\"a \\\" ü\"").await;
        })
        .await;
        assert_eq!((&frames[0][3], &frames[0][4]["after"]), (&"sync:update_batch".into(), &(seq - 1).into()));
        let update = &frames[0][4]["updates"][0];
        assert_eq!((&update["seq"], &update["payload"]), (&seq.into(), &"a \" ü".into()));
    }
    poller.post(json!([null, "9", "phoenix", "heartbeat", {}])).await;
    assert_eq!(poller.frames(1).await[0][1], "9");
    assert_eq!(server.khala.connections().list(std::num::NonZeroUsize::MIN)[0].subject, "ada");
}

#[tokio::test]
async fn a_post_brings_one_frame_or_one_a_line() {
    let server = running_with(brief).await;
    let mut poller = Poller::open(&server, &good_token()).await;
    let line = |n: u8| json!([n.to_string(), n.to_string(), format!("t{n}"), "phx_join", {}]).to_string();
    let lines = format!("{}\n\r\n{}\r\nnot a frame\n{}\n", line(1), line(2), line(3));
    assert_eq!(poller.ask(Method::POST, &lines).await.json(), json!({"status": 200}));
    let frames = poller.frames(4).await;
    let heard: Vec<_> = frames.iter().map(|frame| (frame[1].clone(), frame[3].clone())).collect();
    let reply = |n: &str| (json!(n), json!("phx_reply"));
    assert_eq!(heard, [reply("1"), reply("2"), (Value::Null, json!("sync:error")), reply("3")], "{frames:?}");
    // Until 1.6 each frame comes alone.
    let json = [("content-type", "application/json")];
    let answer = ask(&server, Method::POST, &poller.path(), &json, &line(4)).await;
    assert_eq!(answer.json()["status"], 200);
    assert_eq!(poller.frames(1).await[0][1], "4");
    // The other serializer.
    let path = format!("{PATH}?token={}&vsn=1.0.0", good_token());
    let opened = ask(&server, Method::GET, &path, &[], "").await.json();
    let path = format!("{path}&token={}", opened["token"].as_str().unwrap());
    let join = json!({"join_ref": "1", "ref": "1", "topic": "t", "event": "phx_join", "payload": {}});
    ask(&server, Method::POST, &path, &json, &join.to_string()).await;
    let answer = ask(&server, Method::GET, &path, &[], "").await.json();
    let frame: Value = serde_json::from_str(answer["messages"][0].as_str().unwrap()).unwrap();
    assert_eq!(frame["payload"]["status"], "ok", "{answer}");
}

#[tokio::test]
async fn what_is_too_large_or_hostile_ends_the_session() {
    let server = running_with(|builder| {
        let limits = Limits { body_bytes: 128 << 10, frame_bytes: 1 << 10, ..Limits::default() };
        builder.with_limits(limits)
    })
    .await;
    let mut poller = Poller::open(&server, &good_token()).await;
    let answer = poller.ask(Method::POST, &"x".repeat(129 << 10)).await.json();
    assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"body_too_large".into()), "{answer}");
    poller.ask(Method::POST, &"x".repeat(1025)).await;
    gone(&poller.poll().await, Some(1009));
    let mut poller = Poller::open(&server, &good_token()).await;
    poller.ask(Method::POST, &"x\n".repeat(20)).await;
    let answer = loop {
        let answer = poller.poll().await;
        if answer["status"] != 200 {
            break answer;
        }
    };
    gone(&answer, Some(1008));
}

#[tokio::test]
async fn a_session_is_of_the_subject_that_opened_it() {
    let server = running_with(brief).await;
    let mut ada = Poller::joined(&server, &good_token(), "t", json!({})).await;
    server.publish("t", "1").await;
    let mut bob = Poller {
        access: token_of("bob", &[Access::Read], LONG),
        session: ada.session.clone(),
        ..ada.clone()
    };
    gone(&bob.poll().await, None);
    gone(&bob.ask(Method::POST, "x").await.json(), None);
    let none = format!("{PATH}?vsn=2.0.0&token={}", ada.session);
    let answer = ask(&server, Method::GET, &none, &[], "").await.json();
    assert_eq!(answer["code"], "missing_token", "{answer}");
    // A post may do without: `phoenix` 1.8 sends its `authToken` with a GET alone.
    let beat = r#"[null,"7","phoenix","heartbeat",{}]"#;
    let answer = ask(&server, Method::POST, &none, &[("content-type", NDJSON)], beat).await.json();
    assert_eq!(answer["status"], 200, "{answer}");
    // Another token of hers will do.
    ada.access = token(&[Access::Read], LONG * 7);
    assert_eq!(ada.frames(1).await[0][4]["updates"][0]["seq"], 1);
    // A bad one will not.
    let mut nobody = Poller { access: "x".to_owned(), ..ada.clone() };
    let refused = nobody.poll().await;
    assert_eq!((&refused["status"], &refused["code"]), (&500.into(), &"invalid_token".into()), "{refused}");
    // An id that there is not.
    let mut unknown = Poller { session: format!("poll-{:032x}-0", 7), ..ada };
    gone(&unknown.poll().await, None);
    gone(&unknown.ask(Method::POST, "x").await.json(), None);
}

#[tokio::test]
async fn a_refusal_has_a_status_that_phoenix_knows() {
    let server = running_with(brief).await;
    let accept = ("accept", "application/json");
    let expired = expired_token(&[Access::Read]);
    for (query, header, code) in [
        ("vsn=2.0.0".to_owned(), None, "missing_token"),
        ("vsn=2.0.0&token=x".to_owned(), None, "invalid_token"),
        ("vsn=2.0.0".to_owned(), Some(expired.as_str()), "token_expired"),
    ] {
        let mut headers = vec![accept];
        headers.extend(header.map(|token| ("x-phoenix-authtoken", token)));
        let answer = ask(&server, Method::GET, &format!("{PATH}?{query}"), &headers, "").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
        assert_eq!((&answer.json()["status"], &answer.json()["code"]), (&403.into(), &code.into()));
        // A client that may not know 403.
        let answer = ask(&server, Method::GET, &format!("{PATH}?{query}"), &headers[1..], "").await;
        assert_eq!((&answer.json()["status"], &answer.json()["code"]), (&500.into(), &code.into()));
    }
    let token = good_token();
    let path = format!("{PATH}?vsn=3.0.0&token={token}");
    let answer = ask(&server, Method::GET, &path, &[accept], "").await.json();
    assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"unsupported_vsn".into()));
    for method in [Method::HEAD, Method::PUT] {
        assert_eq!(ask(&server, method, PATH, &[], "").await.status, 405);
    }
    // As a header of 1.8, and as any other client's.
    let bearer = format!("Bearer {token}");
    for header in [("x-phoenix-authtoken", token.as_str()), ("authorization", bearer.as_str())] {
        let answer = ask(&server, Method::GET, &format!("{PATH}?vsn=2.0.0&"), &[header], "").await.json();
        assert_eq!(answer["status"], 410, "{answer}");
    }
    // Tries with a bad token count, as at the WebSocket.
    let mut limits = AdmissionOptions::unlimited();
    limits.connects_per_address = Some(khala_core::admission::Rate::new(NonZeroU32::MIN, NonZeroU32::MIN));
    limits.connections_per_subject = NonZeroU32::new(1);
    let server = running_on(|khala| khala.with_admission(limits), |builder| builder).await;
    let _one = Poller::open(&server, &token).await;
    let answer = Poller { server: &server, access: token.clone(), session: String::new() }.poll().await;
    assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"too_many_connections".into()));
    ask(&server, Method::GET, &format!("{PATH}?token=x"), &[], "").await;
    let answer = ask(&server, Method::GET, &format!("{PATH}?token={token}"), &[], "").await.json();
    assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"too_many_connections".into()));
    assert!(answer["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{answer}");
}

#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let server = running_with(brief).await;
    let mut poller = Poller::joined(&server, &good_token(), "t", json!({})).await;
    let before = poller.clone();
    server.publish("t", "1").await;
    let first = poller.poll().await;
    assert_eq!(first["status"], 200, "{first}");
    server.publish("t", "2").await;
    // As if it had not arrived.
    let mut again = before.clone();
    assert_eq!(again.poll().await, first);
    assert_eq!(poller.frames(1).await[0][4]["after"], 1);
    // What is confirmed is not kept: a client that is further behind has to begin anew.
    gone(&before.clone().poll().await, None);
}

#[tokio::test]
async fn of_two_polls_the_newer_one_is_answered() {
    let server = running_with(|builder| {
        builder.with_limits(Limits { long_poll_wait: Duration::from_secs(2), ..Limits::default() })
    })
    .await;
    let poller = Poller::joined(&server, &good_token(), "t", json!({})).await;
    let (mut of_older, mut newer) = (poller.clone(), poller);
    let (older, newer) = join(of_older.poll(), async {
        sleep(Duration::from_millis(200)).await;
        let (answer, ()) = join(newer.poll(), async {
            sleep(Duration::from_millis(200)).await;
            server.publish("t", "1").await;
        })
        .await;
        answer
    })
    .await;
    assert_eq!((&older["status"], &newer["status"]), (&204.into(), &200.into()));
    // The answer of the older one confirms nothing: if that of the newer one was lost, its frames come again.
    assert_eq!(of_older.poll().await["messages"], newer["messages"]);
}

/// A server that holds about a megabyte of history, and a session that was not given any of it.
async fn with_a_large_answer(sessions: SessionOptions) -> (Running, String) {
    let server = running_as(sessions, brief).await;
    let payload = format!("\"{}\"", "x".repeat(30 << 10));
    for _ in 0..40 {
        server.publish("run:1:events", &payload).await;
    }
    let mut poller = Poller::open(&server, &good_token()).await;
    poller.post(json!(["1", "1", "run:1:events", "phx_join", {"from": "floor"}])).await;
    until(|| server.khala.memory().taken_by(MemoryPart::Frames) > 800_000).await;
    // The reply to the join is its own answer where it came first.
    let mut before = poller.session.clone();
    while poller.poll().await["messages"].to_string().len() < 100_000 {
        before = poller.session.clone();
    }
    let path = format!("{PATH}?token={}&vsn=2.0.0&token={before}", good_token());
    (server, path)
}

/// A poll whose client takes nothing.
async fn unread(server: &Running, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(server.address.parse().unwrap()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// The bytes that are left of an answer, and whether it came to its end.
async fn rest(mut stream: TcpStream) -> (usize, bool) {
    let mut bytes = Vec::new();
    // It may be reset.
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("it ends in time");
    (bytes.len(), bytes.ends_with(b"]}\r\n0\r\n\r\n"))
}

#[tokio::test]
async fn an_answer_under_way_ends_with_the_grant() {
    let (server, path) = with_a_large_answer(SessionOptions::default()).await;
    let stream = unread(&server, &path).await;
    until(|| server.khala.memory().taken_by(MemoryPart::Answers) > 0).await;
    let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
    server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
    until(|| server.khala.connections().count() == 0).await;
    let (bytes, whole) = rest(stream).await;
    assert!(bytes < 900_000 && !whole, "{bytes}, {whole}");
}

#[tokio::test]
async fn an_answer_that_is_asked_for_again_and_again_is_held_once() {
    let (server, path) = with_a_large_answer(SessionOptions::default()).await;
    let frames = server.khala.memory().taken_by(MemoryPart::Frames);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(unread(&server, &path).await);
    }
    // What is in the queue of each connection counts.
    let queued = || server.khala.memory().taken_by(MemoryPart::Answers);
    until(|| queued() >= 20 * (256 << 10)).await;
    assert_eq!((queued(), server.khala.memory().taken_by(MemoryPart::Frames)), (20 * (256 << 10), frames));
    // The last one is given to its end, and those before it are broken off.
    let (bytes, whole) = rest_of_last(&mut streams).await;
    assert!(whole && bytes > 800_000, "{bytes}, {whole}");
    for stream in streams {
        assert!(!rest(stream).await.1);
    }
    until(|| queued() == 0).await;
}

/// Takes the last answer, up to its end.
async fn rest_of_last(streams: &mut Vec<TcpStream>) -> (usize, bool) {
    let mut stream = streams.pop().unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !bytes.ends_with(b"0\r\n\r\n") {
        match timeout(LONG, stream.read(&mut buffer)).await.expect("more in time").unwrap_or(0) {
            0 => return (bytes.len(), false),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    (bytes.len(), true)
}

#[tokio::test]
async fn a_client_that_never_confirms_is_evicted() {
    let sessions = SessionOptions { stall_timeout: Duration::from_millis(600), ..SessionOptions::default() };
    let (server, path) = with_a_large_answer(sessions).await;
    let mut answers = 0;
    while server.khala.stats().counters().slow_evictions == 0 {
        answers += 1;
        assert!(answers < 500, "it is served for ever");
        ask(&server, Method::GET, &path, &[], "").await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// Any page may have a browser ask for a picture. It must not use up what its visitor has.
#[tokio::test]
async fn what_is_asked_without_an_origin_for_a_page_counts_nothing() {
    let mut limits = AdmissionOptions::unlimited();
    limits.connects_per_address = Some(khala_core::admission::Rate::new(NonZeroU32::MIN, NonZeroU32::MIN));
    let server = running_on(|khala| khala.with_admission(limits), brief).await;
    for mode in ["no-cors", "navigate", "no-cors"] {
        for token in [String::new(), format!("token={}", good_token())] {
            let path = format!("{PATH}?{token}");
            let answer = ask(&server, Method::GET, &path, &[("sec-fetch-mode", mode)], "").await.json();
            assert_eq!((&answer["status"], &answer["code"]), (&500.into(), &"origin_not_allowed".into()));
        }
    }
    assert_eq!(server.khala.connections().count(), 0);
    Poller::open(&server, &good_token()).await;
}

#[tokio::test]
async fn a_client_that_does_not_poll_holds_little_and_is_evicted() {
    let sessions = SessionOptions { stall_timeout: Duration::from_millis(600), ..SessionOptions::default() };
    let server = running_as(sessions, |builder| builder).await;
    let payload = format!("\"{}\"", "x".repeat(60 << 10));
    let poller = Poller::open(&server, &good_token()).await;
    for _ in 0..40 {
        server.publish("run:1:events", &payload).await;
    }
    poller.post(json!(["1", "1", "run:1:events", "phx_join", {"from": "floor"}])).await;
    let most = std::sync::atomic::AtomicU64::new(0);
    until(|| {
        let held = server.khala.connections().list(std::num::NonZeroUsize::MIN);
        if let Some(one) = held.first() {
            most.fetch_max(one.held_bytes, std::sync::atomic::Ordering::SeqCst);
        }
        server.khala.stats().counters().slow_evictions == 1
    })
    .await;
    // One batch of updates, and the room for more.
    let most = most.into_inner();
    assert!(most > 0 && most < 3 << 20, "{most}");
    until(|| server.khala.connections().count() == 0).await;
    gone(&poller.clone().poll().await, None);
}

#[tokio::test]
async fn a_session_without_polls_ends_and_one_that_polls_does_not() {
    let server = running_with(|builder| {
        builder.with_limits(Limits {
            long_poll_wait: Duration::from_millis(150),
            long_poll_session_timeout: Duration::from_millis(600),
            ..Limits::default()
        })
    })
    .await;
    let mut poller = Poller::open(&server, &good_token()).await;
    let gone_one = Poller::open(&server, &good_token()).await;
    until(|| server.khala.connections().count() == 2).await;
    let mut polls = 0;
    while server.khala.connections().count() == 2 || polls < 10 {
        assert_eq!(poller.poll().await["status"], 204);
        polls += 1;
    }
    gone(&gone_one.clone().poll().await, None);
}

#[tokio::test]
async fn nothing_is_handed_out_after_the_token() {
    let server = running().await;
    let brief = token(&[Access::Read], Duration::from_secs(2));
    let mut poller = Poller::joined(&server, &brief, "t", json!({})).await;
    // A poll that waits is told why.
    gone(&poller.poll().await, Some(4001));
    let mut silent = Poller::joined(&server, &good_token(), "t", json!({})).await;
    server.publish("t", "1").await;
    until(|| server.khala.memory().taken_by(MemoryPart::Frames) > 0).await;
    let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
    server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
    until(|| server.khala.connections().count() == 0).await;
    gone(&silent.poll().await, None);
    assert_eq!(server.khala.memory().taken_by(MemoryPart::Frames), 0);
}

#[tokio::test]
async fn a_renewed_token_keeps_the_session() {
    let clock = Hand::new();
    let server = running_on(|khala| khala.with_clock(clock.clone()), brief).await;
    // The clock is a minute ahead.
    let first = token(&[Access::Read], Duration::from_secs(80));
    let mut renewed = Poller::joined(&server, &first, "t", json!({})).await;
    let mut other = Poller::joined(&server, &first, "t", json!({})).await;
    let fresh = token(&[Access::Read], Duration::from_secs(600));
    renewed.post(json!(["1", "2", "t", "access_token", {"access_token": fresh}])).await;
    let replied = renewed.frames(1).await;
    assert_eq!(replied[0][4]["status"], "ok", "{replied:?}");
    // `phoenix` goes on to send the token that the session was opened with.
    clock.advance(Duration::from_secs(60));
    server.publish("t", "1").await;
    assert_eq!(renewed.frames(1).await[0][4]["updates"][0]["seq"], 1);
    gone(&other.poll().await, Some(4001));
}

#[tokio::test]
async fn a_drain_tells_sessions_and_ends_them() {
    let mut server = running_with(brief).await;
    {
        let mut poller = Poller::joined(&server, &good_token(), "t", json!({})).await;
        server.server.drain();
        assert_eq!(poller.frames(1).await[0][3], "sync:drain");
        gone(&poller.poll().await, Some(1012));
        // It comes back, and is told so until it reaches another server.
        let mut anew = Poller { session: String::new(), ..poller };
        let refused = anew.poll().await;
        assert_eq!((&refused["status"], &refused["code"]), (&500.into(), &"draining".into()), "{refused}");
    }
    server.begin_stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_drain_waits_little_for_a_client_that_does_not_poll() {
    let server = running().await;
    let _silent = Poller::joined(&server, &good_token(), "t", json!({})).await;
    server.server.drain();
    // A session without polls would end only after more than that.
    until(|| server.khala.connections().count() == 0).await;
}

#[tokio::test]
async fn pages_of_listed_origins_may_poll() {
    let origin = "https://app.example";
    let server = running_with(|builder| builder.with_origins(Origins::parse([origin]).unwrap())).await;
    let asks = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-phoenix-authtoken"),
    ];
    let answer = ask(&server, Method::OPTIONS, PATH, &asks, "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("access-control-allow-methods")),
        (204, "GET,POST"),
        "{answer:?}"
    );
    let allowed = answer.header("access-control-allow-headers");
    for name in ["content-type", "x-phoenix-authtoken"] {
        assert!(allowed.split(',').any(|one| one == name), "{allowed}");
    }
    let path = format!("{PATH}?vsn=2.0.0&token={}", good_token());
    let answer = ask(&server, Method::GET, &path, &asks[..1], "").await;
    assert_eq!(
        (&answer.json()["status"], answer.header("access-control-allow-origin")),
        (&410.into(), origin)
    );
    // A refusal is read too; what is not listed gets none that it could.
    let answer = ask(&server, Method::GET, PATH, &asks[..1], "").await;
    assert_eq!(
        (&answer.json()["code"], answer.header("access-control-allow-origin")),
        (&"missing_token".into(), origin)
    );
    let stranger = [("origin", "https://elsewhere.example")];
    ask(&server, Method::GET, &path, &stranger, "").await.problem(403, "origin_not_allowed");
}

#[tokio::test]
async fn a_large_history_comes_whole() {
    let server = running().await;
    let payload = format!("\"{}\"", "x".repeat(30 << 10));
    for _ in 0..100 {
        server.publish("run:1:events", &payload).await;
    }
    let mut poller = Poller::open(&server, &good_token()).await;
    poller.post(json!(["1", "1", "run:1:events", "phx_join", {"from": "floor"}])).await;
    let mut seen = 0;
    while seen < 100 {
        let frames = poller.frames(1).await;
        for frame in frames.iter().filter(|frame| frame[3] != "phx_reply") {
            assert_eq!((&frame[3], &frame[4]["after"]), (&"sync:update_batch".into(), &seen.into()));
            seen += frame[4]["updates"].as_array().unwrap().len();
        }
    }
    assert_eq!(server.khala.stats().counters().slow_evictions, 0);
}
