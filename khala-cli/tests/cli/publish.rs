//! `khala publish`: every line once, in order, and the truth about what was acknowledged.

use std::{fmt::Write as _, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Child,
    time::timeout,
};

use crate::{
    Ended, end,
    fake::{Fake, Fault, PATIENCE},
    khala, khala_at, topic,
};

/// Publishes `input` as a whole.
async fn publish(fake: &Fake, flags: &[&str], input: &str) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [&["publish", "run:7:events", "--ack"], flags].concat();
    let mut child = khala_at(fake, directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = tokio::spawn(async move {
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let ended = end(child).await;
    writer.await.unwrap();
    ended
}

fn numbers(upto: u64) -> String {
    (1..=upto).fold(String::new(), |mut out, number| {
        writeln!(out, "{number}").unwrap();
        out
    })
}

fn acks(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn line_of(child: &mut BufReader<tokio::process::ChildStdout>) -> Value {
    let mut line = String::new();
    timeout(PATIENCE, child.read_line(&mut line)).await.expect("it acknowledges").unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn lines_are_published_in_order_and_in_batches() {
    let fake = Fake::start().await;
    let ended = publish(&fake, &[], &numbers(1000)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fake.payloads(&topic()).await.join("\n") + "\n", numbers(1000));
    let acks = acks(&ended);
    assert!(acks.len() < 100, "{}", acks.len());
    let mut next = 1;
    for ack in &acks {
        assert_eq!((&ack["lines"][0], &ack["first_seq"]), (&json!(next), &json!(next)));
        assert_eq!(ack["lines"][1], ack["last_seq"]);
        assert_eq!(ack["duplicate"], false);
        next = ack["lines"][1].as_u64().unwrap() + 1;
    }
    assert_eq!(next, 1001);
    assert_eq!(publish(&fake, &[], "").await.code, Some(0), "nothing to publish is fine");
}

#[tokio::test]
async fn a_slow_producers_line_is_out_before_the_next_one_comes() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["publish", "run:7:events", "--ack"];
    let mut child: Child =
        khala_at(&fake, directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for number in 1..=3 {
        stdin.write_all(format!("{number}\n").as_bytes()).await.unwrap();
        assert_eq!(line_of(&mut stdout).await["lines"], json!([number, number]));
    }
    drop(stdin);
    assert_eq!(end(child).await.code, Some(0));
}

/// Demand 5: a publisher that stops between sending and reading the answer, then retries with its key, stores once.
#[tokio::test]
async fn a_lost_answer_stores_once() {
    let fake = Fake::start().await;
    fake.fault(Fault::LoseAnswer);
    fake.fault(Fault::CutBefore);
    fake.fault(Fault::Say(503, vec![("retry-after", "0")], ""));
    let ended = publish(&fake, &[], &numbers(3)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fake.payloads(&topic()).await, ["1", "2", "3"]);
    assert_eq!(acks(&ended)[0]["duplicate"], true);
    assert!(ended.stderr.contains("trying again"), "{}", ended.stderr);
}

/// The same, with the publisher itself killed at any moment and started again under its id.
#[tokio::test]
async fn a_killed_run_repeated_under_its_id_stores_each_line_once() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["publish", "run:7:events", "--ack", "--run-id", "night"];
    // The first run is killed with three lines acknowledged, one each, and a fourth that was stored unanswered.
    let mut child = khala_at(&fake, directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for number in 1..=3 {
        stdin.write_all(format!("{number}\n").as_bytes()).await.unwrap();
        line_of(&mut stdout).await;
    }
    fake.fault(Fault::LoseAnswer);
    for _ in 0..100 {
        fake.fault(Fault::CutBefore);
    }
    stdin.write_all(b"4\n").await.unwrap();
    timeout(PATIENCE, async {
        while fake.payloads(&topic()).await.len() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is stored");
    child.kill().await.unwrap();
    fake.faults.lock().unwrap().clear();

    // The second has everything at once, and so other batches.
    let ended = publish(&fake, &["--run-id", "night"], &numbers(500)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fake.payloads(&topic()).await.join("\n") + "\n", numbers(500));
    let first: Vec<_> =
        acks(&ended).iter().take(4).map(|ack| (ack["lines"].clone(), ack["duplicate"] == true)).collect();
    assert_eq!(first, [1, 2, 3, 4].map(|line| (json!([line, line]), true)));

    // The third comes line by line, where the second had batches of two hundred.
    let mut child = khala_at(&fake, directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut input = numbers(500).into_bytes();
    input.extend_from_slice(b"501\n");
    tokio::spawn(async move {
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            stdin.write_all(line).await.unwrap();
            stdin.flush().await.unwrap();
        }
    });
    let ended = end(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fake.payloads(&topic()).await.join("\n") + "\n", numbers(501));
    let fewer = publish(&fake, &["--run-id", "night"], &numbers(7)).await;
    assert_eq!(fewer.code, Some(65), "{}", fewer.stderr);
    assert!(fewer.stderr.contains("this is not its input"), "{}", fewer.stderr);
    // Neither are lines that differ from those which were stored.
    let other = publish(&fake, &["--run-id", "night"], &numbers(501).replace("\n7\n", "\n8\n")).await;
    assert_eq!(other.code, Some(65), "{}", other.stderr);
    assert!(other.stderr.contains("this is not its input"), "{}", other.stderr);
    assert_eq!(fake.payloads(&topic()).await.join("\n") + "\n", numbers(501));
}

#[tokio::test]
async fn a_bad_line_is_named_after_what_came_before_it_was_published() {
    for (bad, named) in
        [("{", "line 4 is not JSON"), ("\"poison\"", "line 4 was refused: an update is poisoned")]
    {
        let fake = Fake::start().await;
        let input = format!("1\n\n2\n{bad}\n3\n");
        let ended = publish(&fake, &[], &input).await;
        assert_eq!(ended.code, Some(65), "{}", ended.stderr);
        assert!(ended.stderr.contains(named), "{}", ended.stderr);
        assert!(ended.stderr.contains("published 2 updates"), "{}", ended.stderr);
        assert_eq!(fake.payloads(&topic()).await, ["1", "2"]);
        let ended = publish(&fake, &["--skip-invalid"], &input).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("published 3 updates, skipped 1 bad line\n"), "{}", ended.stderr);
        assert_eq!(fake.payloads(&topic()).await, ["1", "2", "1", "2", "3"]);
    }
}

#[tokio::test]
async fn kinds_and_documents_come_from_fields() {
    let fake = Fake::start().await;
    let flags = ["--kind-field", "type", "--doc-key-field", "id"];
    let ended = publish(&fake, &flags, "{\"type\":\"moved\",\"id\":7}\n").await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let sent = fake.requests().remove(0).body;
    assert_eq!(sent, r#"{"updates":[{"kind":"moved","payload":{"type":"moved","id":7},"doc_key":"7"}]}"#);
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let fake = Fake::start().await;
    fake.fault(Fault::Say(401, vec![], r#"{"code":"token_expired","detail":"the token has expired"}"#));
    let ended = publish(&fake, &[], "1\n").await;
    assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    assert!(ended.stderr.contains("the token has expired (token_expired)"), "{}", ended.stderr);
    for _ in 0..100 {
        fake.fault(Fault::Say(503, vec![], ""));
    }
    assert_eq!(publish(&fake, &["--retry-for", "300ms"], "1\n").await.code, Some(69));
    fake.faults.lock().unwrap().clear();

    let directory = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    for (url, code, named) in [
        (format!("http://{free}"), 69, "is the server running"),
        ("ftp://nowhere".to_owned(), 2, "not supported"),
        ("nonsense".to_owned(), 2, "not a URL"),
    ] {
        let arguments = ["publish", "t", "--url", &url, "--retry-for", "0s"];
        let mut child = khala(directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may have ended already.
        let _ = stdin.write_all(b"1\n").await;
        drop(stdin);
        let ended = end(child).await;
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(named), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_failure_names_the_first_line_that_was_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start().await;
    let arguments = ["publish", "t", "--ack", "--retry-for", "300ms"];
    let mut child = khala_at(&fake, directory.path(), &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(b"1\n2\n").await.unwrap();
    while line_of(&mut acks).await["lines"][1] != 2 {}
    for _ in 0..100 {
        fake.fault(Fault::Say(503, vec![], ""));
    }
    // A blank line is none that could be acknowledged.
    stdin.write_all(b"\n4\n5\n").await.unwrap();
    let ended = end(child).await;
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    let says = "(published 2 updates; line 4 is the first that was not acknowledged)";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
}
