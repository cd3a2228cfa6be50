//! `POST /v1/topics/{topic}/updates` line by line.

mod many;
mod producer;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Method;
use http_body_util::StreamBody;
use hyper::body::Frame;
use khala_auth::{JwtOptions, JwtVerifier};
use khala_core::{
    Cursor, ErrorKind, Khala, Update,
    admission::Rate,
    auth::{Revocation, RevocationId, RevocationTarget},
    budget::{MemoryBudget, MemoryPart},
    class::{Classes, TopicClass, TopicPattern},
    journal::{Journal, ReadFrom, ReadLimit, Replay},
};
use khala_server::{Limits, Server, serve};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{sleep, timeout},
};

use self::producer::Producer;
use crate::support::{Hand, LONG, Running, SECRET, good_token, running_on, topic, until};

const PATH: &str = "/v1/topics/t/updates";
const NDJSON: &str = "application/x-ndjson";

fn line(payload: impl std::fmt::Display) -> String {
    format!("{{\"kind\":\"k\",\"payload\":{payload}}}\n")
}

/// Without limits, so that a test is about something else.
fn unlimited() -> Classes {
    let all = TopicClass {
        publish_rate: None,
        payload_bytes: None,
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap())
            .with_publish(["khala:publish"])
            .with_read(["khala:read"])
    };
    Classes::new(vec![all]).unwrap()
}

async fn running() -> Running {
    running_on(|khala| khala.with_classes(unlimited()), |server| server).await
}

async fn stored(journal: &dyn Journal) -> Vec<Update> {
    let mut all = Vec::new();
    let mut start = ReadFrom::Origin;
    loop {
        let read = journal.read(&topic("t"), start, ReadLimit::PAGE).await.unwrap();
        let Replay::Page(page) = read else { panic!("{read:?}") };
        let Some(last) = page.updates.last() else { return all };
        start = ReadFrom::After(Cursor { epoch: page.bounds.epoch, watermark: last.seq.watermark() });
        all.extend(page.updates);
    }
}

async fn payloads(server: &Running) -> Vec<String> {
    stored(server.khala.journal()).await.iter().map(|update| update.payload.as_str().to_owned()).collect()
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("no refusal: {answer}"))
}

/// A server on a file, with the writer that groups commits.
async fn on_a_file() -> (tempfile::TempDir, Arc<SqliteStore>, String) {
    on_a_file_with(SqliteOptions::default()).await
}

async fn on_a_file_with(options: SqliteOptions) -> (tempfile::TempDir, Arc<SqliteStore>, String) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open_with(folder.path().join("khala.db"), options).unwrap());
    let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
    let khala = Khala::builder(Arc::clone(&store))
        .with_verifier(Arc::new(verifier))
        .with_classes(unlimited())
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, Server::builder(khala).build(), std::future::pending()));
    (folder, store, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_lines_keep_their_order_while_answers_are_read() {
    const LINES: u64 = 10_000;
    let (_folder, store, address) = on_a_file().await;
    let mut producer = Producer::new(&address).await;
    // In pieces that end anywhere.
    let text: String = (1..=LINES).map(line).collect();
    for piece in Bytes::from(text).chunks(1_000) {
        producer.send(Bytes::copy_from_slice(piece));
    }
    producer.end();
    for number in 1..=LINES {
        let answer = producer.hear().await.unwrap();
        assert_eq!((&answer["line"], &answer["first"]), (&json!(number), &json!(number)), "{answer}");
    }
    assert_eq!(producer.hear().await, None);
    let stored = stored(&*store).await;
    assert_eq!(stored.len() as u64, LINES);
    for (update, number) in stored.iter().zip(1..) {
        assert_eq!(update.payload.as_str(), format!("{number}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_side_by_side_each_keep_their_order() {
    // More lines than the writer's queue takes, so that handing over has to wait.
    const PRODUCERS: usize = 8;
    const LINES: usize = 2_000;
    let (_folder, store, address) = on_a_file().await;
    let producing = (0..PRODUCERS).map(|producer| {
        let address = address.clone();
        tokio::spawn(async move {
            let text: String = (0..LINES).map(|number| line(format!("[{producer},{number}]"))).collect();
            Producer::all(&address, text).await.len()
        })
    });
    for answers in producing.collect::<Vec<_>>() {
        assert_eq!(answers.await.unwrap(), LINES);
    }
    let mut next = [0; PRODUCERS];
    for update in stored(&*store).await {
        let [producer, number]: [usize; 2] = serde_json::from_str(update.payload.as_str()).unwrap();
        assert_eq!(number, next[producer], "of producer {producer}");
        next[producer] += 1;
    }
    assert_eq!(next, [LINES; PRODUCERS]);
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_is_sent() {
    let server = running().await;
    let mut producer = Producer::new(&server.address).await;
    let mut epoch = None;
    for number in 1..=50 {
        producer.send(line(number));
        let answer = producer.hear().await.unwrap();
        let epoch = epoch.get_or_insert_with(|| answer["epoch"].clone());
        let expected =
            json!({"line": number, "epoch": epoch, "first": number, "last": number, "duplicate": false});
        assert_eq!(answer, expected);
    }
    producer.end();
    assert_eq!(producer.hear().await, None);
}

#[tokio::test]
async fn who_waits_for_leave_to_send_is_told_to_go_on() {
    let server = running().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {NDJSON}\r\nauthorization: Bearer {}\r\n\
         transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
        good_token()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut hear = async |stream: &mut TcpStream, expected: &str| {
        while !String::from_utf8_lossy(&answer).contains(expected) {
            assert_ne!(timeout(LONG, stream.read_buf(&mut answer)).await.expect(expected).unwrap(), 0);
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(hear(&mut stream, "\r\n").await.starts_with("HTTP/1.1 100 "));
    hear(&mut stream, "HTTP/1.1 200 ").await;
    let one = line(1);
    stream.write_all(format!("{:x}\r\n{one}\r\n0\r\n\r\n", one.len()).as_bytes()).await.unwrap();
    hear(&mut stream, "\"line\":1").await;
}

#[tokio::test]
async fn blank_lines_count_and_the_last_line_needs_no_end() {
    let server = running().await;
    let text = format!("\n \r\n{}\r\n\n{}", line(1).trim(), line(2).trim());
    let answers = Producer::all(&server.address, text).await;
    let lines: Vec<_> = answers.iter().map(|answer| (&answer["line"], &answer["last"])).collect();
    assert_eq!(lines, [(&json!(3), &json!(1)), (&json!(5), &json!(2))]);
    assert_eq!(Producer::all(&server.address, "").await, [json!(null); 0]);
}

#[tokio::test]
async fn a_bad_line_is_the_last_that_is_answered() {
    let classes = unlimited();
    let small = TopicClass {
        publish_rate: None,
        payload_bytes: Some(100),
        hashes: true,
        ..TopicClass::new("small", TopicPattern::parse("t").unwrap()).with_publish(["khala:publish"])
    };
    let mut all = vec![small];
    all.extend(classes.iter().cloned());
    let classes = Classes::new(all).unwrap();
    let server = running_on(
        |khala| khala.with_classes(classes),
        |server| server.with_limits(Limits { body_bytes: 1_000, ..Limits::default() }),
    )
    .await;
    let too_long = line(format!("\"{}\"", "x".repeat(1_000)));
    let too_large = line(format!("\"{}\"", "x".repeat(99)));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let wrong_hash = format!("{{\"kind\":\"k\",\"payload\":1,\"payload_hash\":\"{wrong}\"}}\n");
    let cases: Vec<(Vec<u8>, &str, u64, &str)> = vec![
        (b"nonsense\n".to_vec(), "invalid_json", 400, "the line is not a JSON object"),
        (b"[]\n".to_vec(), "invalid_json", 400, "object"),
        (b"{\"kind\":\"k\",\n".to_vec(), "invalid_json", 400, "EOF"),
        (b"{\"kind\":\"k\",\"payload\":\"\xff\"}\n".to_vec(), "invalid_json", 400, "UTF-8"),
        (b"{\"kind\":\"k\"}\n".to_vec(), "invalid", 400, "payload"),
        (b"{\"kind\":\"k\",\"payload\":1,\"more\":1}\n".to_vec(), "invalid", 400, "more"),
        (b"{\"kind\":\"k\",\"payload\":1,\"dedup\":\"\"}\n".to_vec(), "invalid", 400, "dedup"),
        (b"{\"kind\":\"k\",\"payload\":1,\"doc_version\":1}\n".to_vec(), "invalid", 400, "doc_key"),
        (b"{\"updates\":[]}\n".to_vec(), "invalid", 400, "updates"),
        (too_large.into_bytes(), "khala_frame_payload_too_large", 413, "100"),
        (too_long.into_bytes(), "body_too_large", 413, "1000"),
        (wrong_hash.into_bytes(), "payload_hash_mismatch", 400, "payload_hash"),
    ];
    let mut expected = Vec::new();
    for (bad, expected_code, status, target) in cases {
        let text = [line(1).as_bytes(), line(2).as_bytes(), &bad, line(3).as_bytes()].concat();
        let answers = Producer::all(&server.address, text).await;
        let bad = String::from_utf8_lossy(&bad);
        assert_eq!(answers.len(), 3, "{bad}: {answers:?}");
        assert_eq!(
            (&answers[0]["line"], &answers[1]["line"], &answers[2]["line"]),
            (&json!(1), &json!(2), &json!(3))
        );
        assert!(answers[0]["last"].is_u64() && answers[1]["last"].is_u64(), "{bad}: {answers:?}");
        let error = &answers[2]["error"];
        assert_eq!((code(&answers[2]), &error["status"]), (expected_code, &json!(status)), "{bad}: {error}");
        assert!(error["detail"].as_str().unwrap().contains(target), "{bad}: {error}");
        assert_eq!(error["type"], "about:blank");
        expected.extend(["1", "2"]);
        assert_eq!(payloads(&server).await, expected, "{bad}");
    }
}

#[tokio::test]
async fn a_payload_that_is_nested_too_deep_is_refused() {
    let server = running().await;
    let deep = khala_core::Batch::MAX_DEPTH + 1;
    let deep = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let answers = Producer::all(&server.address, [line(1), line(deep), line(2)].concat()).await;
    assert_eq!((answers.len(), code(&answers[1])), (2, "invalid_payload"), "{answers:?}");
    assert_eq!(answers[1]["error"]["field"], "payload");
    assert_eq!(payloads(&server).await, ["1"]);
}

#[tokio::test]
async fn a_refusal_reaches_a_producer_that_goes_on_sending() {
    let server = running().await;
    let mut producer = Producer::new(&server.address).await;
    producer.send(format!("{}nonsense\n", line(1)));
    for _ in 0..64 {
        producer.send(Bytes::from(line(format!("\"{}\"", "x".repeat(100 << 10)))));
    }
    assert_eq!(producer.hear().await.unwrap()["last"], 1);
    assert_eq!(code(&producer.hear().await.unwrap()), "invalid_json");
    assert_eq!(producer.hear().await, None);
    assert_eq!(payloads(&server).await, ["1"]);
}

#[tokio::test]
async fn each_line_has_a_dedup_of_its_own_and_a_conflict_ends_nothing() {
    let server = running().await;
    let keyed = |key: &str, more: &str| {
        format!("{{\"kind\":\"k\",\"payload\":\"{key}\",\"dedup\":\"{key}\"{more}}}\n")
    };
    let text = [
        keyed("a", ""),
        keyed("b", r#","doc_key":"d","doc_version":5"#),
        keyed("a", ""),
        keyed("c", r#","doc_key":"d","doc_version":5"#),
        keyed("d", ""),
        "{\"kind\":\"k\",\"payload\":\"e\",\"dedup\":null}\n".to_owned(),
    ];
    for again in [false, true] {
        let answers = Producer::all(&server.address, text.concat()).await;
        assert_eq!(answers.len(), 6, "{answers:?}");
        let facts: Vec<_> = answers.iter().map(|answer| (&answer["last"], &answer["duplicate"])).collect();
        let repeated = json!(again);
        assert_eq!(facts[0], (&json!(1), &repeated));
        assert_eq!(facts[1], (&json!(2), &repeated));
        assert_eq!(facts[2], (&json!(1), &json!(true)));
        assert_eq!(code(&answers[3]), "conflict");
        assert_eq!((&answers[3]["error"]["found"], &answers[3]["error"]["status"]), (&json!(5), &json!(409)));
        assert_eq!(facts[4], (&json!(3), &repeated));
        assert_eq!(facts[5].1, &json!(false), "one without a key is stored again");
    }
}

#[tokio::test]
async fn a_stream_has_no_idempotency_key() {
    let server = running().await;
    let headers = [("content-type", NDJSON), ("idempotency-key", "x")];
    let mut request = server.request(Method::POST, PATH);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = server.send(request.body(http_body_util::Full::from(line(1))).unwrap()).await;
    answer.problem(400, "invalid_idempotency_key");
    assert_eq!(payloads(&server).await, [""; 0]);
}

/// How many lines of an endless body are taken until nothing moves any more.
async fn taken(server: &Running, line: String) -> usize {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let line = Bytes::from(line);
    let body = StreamBody::new(stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(line.clone()))
    }));
    let request = server.request(Method::POST, PATH).header("content-type", NDJSON).body(body).unwrap();
    let response = server.server.handle(request).await;
    let (mut seen, mut quiet) = (0, 0);
    while quiet < 1_000 {
        yield_now().await;
        let now = taken.load(Ordering::SeqCst);
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
    drop(response);
    seen
}

#[tokio::test]
async fn a_store_that_does_not_write_is_given_no_more_than_fits() {
    let server = running().await;
    server.store.hold(true);
    let small = taken(&server, line(1)).await;
    assert!((1_024..=1_030).contains(&small), "{small}");
    assert_eq!(server.store.asked(), 1_024);
    // 4 MiB of them.
    let large = taken(&server, line(format!("\"{}\"", "x".repeat(100 << 10)))).await;
    assert!((40..=45).contains(&large), "{large}");
    server.store.hold(false);
    // What was handed over is stored, though nobody reads of it.
    let all = server.store.asked();
    let journal = server.khala.journal();
    timeout(LONG, async {
        while journal.bounds(&topic("t")).await.unwrap().head.as_u64() < all {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is stored in time");
}

#[tokio::test]
async fn a_producer_that_reads_no_answers_is_not_read() {
    let server = running().await;
    let taken = taken(&server, line(1)).await;
    // 64 KiB of answers, and what is on its way.
    assert!((500..=3_000).contains(&taken), "{taken}");
    assert!(server.store.asked() <= taken as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_vanishes_in_the_middle_repeats_and_stores_once() {
    const LINES: u64 = 3_000;
    let (_folder, store, address) = on_a_file().await;
    let text: String = (1..=LINES)
        .map(|number| format!("{{\"kind\":\"k\",\"payload\":{number},\"dedup\":\"line-{number}\"}}\n"))
        .collect();
    let mut acknowledged = HashMap::new();
    for heard in [1, 500, 1_500] {
        let mut producer = Producer::new(&address).await;
        producer.send(text.clone());
        for _ in 0..heard {
            let answer = producer.hear().await.unwrap();
            acknowledged.insert(answer["line"].as_u64().unwrap(), answer["first"].clone());
        }
        // Without a word.
        drop(producer);
    }
    let answers = Producer::all(&address, text).await;
    assert_eq!(answers.len() as u64, LINES);
    for answer in &answers {
        if let Some(first) = acknowledged.get(&answer["line"].as_u64().unwrap()) {
            assert_eq!((first, &answer["duplicate"]), (&answer["first"], &json!(true)), "{answer}");
        }
    }
    let mut stored: Vec<u64> =
        stored(&*store).await.iter().map(|update| update.payload.as_str().parse().unwrap()).collect();
    stored.sort_unstable();
    assert_eq!(stored, (1..=LINES).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_is_taken_after_the_token() {
    for expected in ["token_expired", "token_revoked"] {
        let clock = Hand::new();
        let own = clock.clone();
        let server =
            running_on(|khala| khala.with_clock(own).with_classes(unlimited()), |server| server).await;
        let mut producer = Producer::new(&server.address).await;
        producer.send(line(1));
        assert_eq!(producer.hear().await.unwrap()["last"], 1);
        if expected == "token_expired" {
            clock.advance(LONG * 101);
        } else {
            let target = RevocationTarget::Sub(RevocationId::parse("ada").unwrap());
            server.khala.access().revoke(Revocation::new(target, server.khala.now())).await.unwrap();
        }
        producer.send([line(2), line(3)].concat());
        let refused = producer.hear().await.unwrap();
        assert_eq!((&refused["line"], code(&refused)), (&json!(2), expected));
        assert_eq!(refused["error"]["status"], 401);
        assert_eq!(producer.hear().await, None);
        assert_eq!(payloads(&server).await, ["1"]);
    }
}

#[tokio::test]
async fn a_fault_of_the_store_says_when_to_come_back() {
    let server = running().await;
    let mut producer = Producer::new(&server.address).await;
    producer.send(line(1));
    assert_eq!(producer.hear().await.unwrap()["last"], 1);
    server.store.fail(Some(ErrorKind::Unavailable));
    producer.send([line(2), line(3)].concat());
    let refused = producer.hear().await.unwrap();
    assert_eq!((&refused["line"], code(&refused)), (&json!(2), "unavailable"));
    assert_eq!(
        (&refused["error"]["status"], &refused["error"]["retry_after_ms"]),
        (&json!(503), &json!(1_000))
    );
    assert!(!refused.to_string().contains("/secret/path"));
    assert_eq!(producer.hear().await, None);
}

/// Those queued up behind it in the store, each of which fails with it, do not hide which line that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_store_is_answered_to_the_line_that_failed_first() {
    let options = SqliteOptions { busy_timeout: Duration::from_millis(300), ..SqliteOptions::default() };
    let (folder, store, address) = on_a_file_with(options).await;
    let mut producer = Producer::new(&address).await;
    let before: Vec<_> = (1..=50).map(line).collect();
    producer.send(before.concat());
    for number in 1..=50 {
        assert_eq!(producer.hear().await.unwrap()["line"], number);
    }
    let own = rusqlite::Connection::open(folder.path().join("khala.db")).unwrap();
    own.execute_batch("BEGIN IMMEDIATE").unwrap();
    // A blank one is counted and not stored.
    producer.send("\n");
    for number in 52..=300 {
        producer.send(line(number));
    }
    let refused = producer.hear().await.unwrap();
    assert_eq!((&refused["line"], code(&refused)), (&json!(52), "unavailable"), "{refused}");
    assert!(!refused.to_string().contains("not attempted"), "its own fault: {refused}");
    assert_eq!(producer.hear().await, None, "nothing is said of those behind it");
    own.execute_batch("ROLLBACK").unwrap();
    assert_eq!(stored(&*store).await.len(), 50);
}

#[tokio::test]
async fn what_comes_too_fast_waits_but_not_for_ever() {
    let rate = |per_second: u32, burst: u32| {
        let class = TopicClass {
            publish_rate: Some(Rate::new(per_second.try_into().unwrap(), burst.try_into().unwrap())),
            ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_publish(["khala:publish"])
        };
        Classes::new(vec![class]).unwrap()
    };
    let server = running_on(|khala| khala.with_classes(rate(100, 10)), |server| server).await;
    let text: String = (0..30).map(line).collect();
    let answers = Producer::all(&server.address, text).await;
    assert_eq!(answers.len(), 30);
    assert!(answers.iter().all(|answer| answer["last"].is_u64()), "{answers:?}");

    let limits = Limits { body_timeout: Duration::from_millis(500), ..Limits::default() };
    let server =
        running_on(|khala| khala.with_classes(rate(1, 2)), |server| server.with_limits(limits)).await;
    let answers = Producer::all(&server.address, (0..5).map(line).collect::<String>()).await;
    assert_eq!((answers.len(), code(&answers[2])), (3, "khala_publish_rate_limited"), "{answers:?}");
    let error = &answers[2]["error"];
    assert_eq!((&error["status"], &error["limit_per_second"]), (&json!(429), &json!(1)));
    assert!(error["retry_after_ms"].as_u64().unwrap() > 500, "{error}");
}

/// What has come of a line counts in the budget of memory, and past that no more is read: for a second, as a body waits.
#[tokio::test]
async fn lines_draw_on_the_budget_of_memory() {
    const LIMIT: u64 = 16 << 20;
    let limits = Limits { body_bytes: 4 << 20, ..Limits::default() };
    let memory = MemoryBudget::new(Some(LIMIT));
    let server = running_on(
        |khala| khala.with_classes(unlimited()).with_memory(memory.clone()),
        |server| server.with_limits(limits),
    )
    .await;
    let bodies = || memory.taken_by(MemoryPart::Bodies);
    let half = "x".repeat(1 << 20);
    let mut producer = Producer::new(&server.address).await;
    producer.send(format!("{{\"kind\":\"k\",\"payload\":\"{half}"));
    until(|| bodies() >= 1 << 20).await;
    let mut others = memory.share(MemoryPart::Frames);
    others.hold(LIMIT);
    producer.send(format!("{half}\"}}\n"));
    let refused = producer.hear().await.unwrap();
    assert_eq!((code(&refused), &refused["error"]["status"]), ("memory_limit", &json!(503)), "{refused}");
    assert_eq!(refused["error"]["retry_after_ms"], 1_000);
    drop((producer, others));
    until(|| bodies() == 0).await;

    let mut producer = Producer::new(&server.address).await;
    server.store.hold(true);
    producer.send(format!("{{\"kind\":\"k\",\"payload\":\"{half}\"}}\n"));
    // As it is held, and as the store is about to write it.
    until(|| bodies() >= 3 << 20).await;
    server.store.hold(false);
    assert_eq!(producer.hear().await.unwrap()["last"], 1);
    producer.end();
    assert_eq!(producer.hear().await, None);
    until(|| bodies() == 0).await;
}

#[tokio::test]
async fn a_stream_may_last_but_not_stand_still() {
    let limits = Limits { body_timeout: Duration::from_millis(1_000), ..Limits::default() };
    let server =
        running_on(|khala| khala.with_classes(unlimited()), |server| server.with_limits(limits)).await;
    let mut producer = Producer::new(&server.address).await;
    // Longer than a body may take, and a blank line is a sign of life too.
    for number in 1..=3 {
        producer.send("\n");
        sleep(Duration::from_millis(300)).await;
        producer.send(line(number));
        assert_eq!(producer.hear().await.unwrap()["last"], number);
        sleep(Duration::from_millis(300)).await;
    }
    producer.send("{\"kind\":");
    let late = producer.hear().await.unwrap();
    assert_eq!((&late["line"], code(&late)), (&json!(7), "request_timeout"));
    assert_eq!(producer.hear().await, None);
}

#[tokio::test]
async fn a_server_that_goes_finishes_what_it_took_and_says_so() {
    let mut server = running().await;
    let mut producer = Producer::new(&server.address).await;
    server.store.hold(true);
    producer.send([line(1), line(2)].concat());
    let store = Arc::clone(&server.store);
    until(|| store.asked() == 2).await;
    server.begin_stop();
    // What is on its way is waited for.
    assert!(timeout(Duration::from_millis(100), producer.hear()).await.is_err());
    server.store.hold(false);
    // In which order this store goes on is its own affair.
    for number in 1..=2 {
        let answer = producer.hear().await.unwrap();
        assert!(answer["line"] == number && answer["last"].is_u64(), "{answer}");
    }
    let last = producer.hear().await.unwrap();
    assert_eq!((&last["line"], code(&last)), (&json!(3), "draining"));
    assert_eq!(last["error"]["retry_after_ms"], 1_000);
    assert_eq!(producer.hear().await, None);
    producer.end();
    server.stopped().await;
}

#[tokio::test]
async fn subscribers_hear_of_each_line() {
    let server = running().await;
    let mut socket = server.connect().await;
    assert_eq!(crate::support::join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    let producer = Producer::new(&server.address).await;
    for number in 1..=3 {
        producer.send(line(number));
        let batch = crate::support::hear(&mut socket).await;
        assert_eq!(batch[4]["updates"][0]["payload"], number, "{batch}");
    }
    // An answer that nobody reads keeps nothing from them.
    let lines = stream::iter(0..3).map(line).collect::<String>().await;
    producer.send(lines);
    let mut last = json!(null);
    while last != 2 {
        let batch = crate::support::hear(&mut socket).await;
        last = batch[4]["updates"].as_array().unwrap().last().unwrap()["payload"].clone();
    }
}
