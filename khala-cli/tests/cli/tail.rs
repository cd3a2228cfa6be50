//! `khala tail`: each update a line, at least once, whatever is killed in between.

use std::process::Stdio;

use khala_core::{
    Cursor, Epoch, Watermark,
    wire::{Resume, write_update},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::ChildStdout,
    time::timeout,
};

use crate::{
    end,
    fake::{Fake, PATIENCE, update},
    khala_at,
};

fn at(watermark: u64) -> Resume {
    Resume::After(Cursor::new(Epoch::from_bits(1), Watermark::new(watermark).unwrap()))
}

async fn line(stdout: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("it prints").unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn it_prints_up_to_the_head_and_keeps_its_cursor() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--from", "floor", "--until-head", "--cursor-file", "cursor"];
    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::Floor);
    peer.welcome(1, 0, 3).await;
    peer.batch(0, 1..=2).await;
    peer.batch(2, 3..=3).await;
    let ended = end(child).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let mut whole = Vec::new();
    for seq in 1..=3 {
        write_update(&mut whole, &update(seq));
        whole.push(b'\n');
    }
    assert_eq!(ended.stdout.as_bytes(), whole);
    let kept = std::fs::read_to_string(directory.path().join("cursor")).unwrap();
    assert_eq!(
        kept,
        "{\"topic\":\"run:7:events\",\"epoch\":\"0000000000000001\",\"watermark\":3,\"published_at\":3}\n"
    );

    // A file of another topic is not used.
    let arguments = ["tail", "run:8:events", "--cursor-file", "cursor"];
    let ended = end(khala_at(&fake, directory.path(), &arguments).spawn().unwrap()).await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
}

#[tokio::test]
async fn a_killed_tail_leaves_nothing_out() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--from", "floor", "--cursor-file", "cursor"];
    let mut child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 3).await;
    peer.batch(0, 1..=3).await;
    for seq in 1..=3 {
        assert_eq!(line(&mut stdout).await["seq"], seq);
    }
    child.kill().await.unwrap();

    let arguments = ["tail", "run:7:events", "--from", "floor", "--cursor-file", "cursor", "--count", "1"];
    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (mut peer, join) = fake.joining().await;
    // The cursor is stored after the lines: what was not stored yet is printed again, and no more than that.
    let from = match join.request.resume {
        Resume::Floor => 0,
        Resume::After(cursor) => cursor.watermark.as_u64(),
        other => panic!("{other:?}"),
    };
    assert!(from <= 3);
    peer.welcome(1, from, 5).await;
    peer.batch(from, from + 1..=5).await;
    let ended = end(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1);

    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (_peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, at(from + 1), "--count ends within a batch, and its cursor too");
    drop(child);
}

#[tokio::test]
async fn it_reconnects_and_says_so() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--count", "2"];
    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::Head);
    peer.welcome(1, 7, 7).await;
    peer.batch(7, 8..=8).await;
    peer.close(1012, "restart").await;
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, at(8));
    peer.welcome(1, 8, 9).await;
    peer.batch(8, 9..=9).await;
    let ended = end(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 2);
    assert!(
        ended.stderr.contains("was lost: the server closed it: restart (1012); trying again")
            && ended.stderr.contains("resumed after 8"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_snapshot_is_lines_and_a_stale_cursor_an_exit_code() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--from", "snapshot", "--count", "2"];
    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::Snapshot);
    let epoch = Epoch::from_bits(1);
    peer.reply("ok", json!({"epoch": epoch, "after": 5, "head": 5, "floor": 5, "snapshot": true})).await;
    let document =
        json!({"seq": 4, "kind": "k", "payload": 4, "doc_key": "d", "doc_version": 4, "published_at": 0});
    let page = json!({"epoch": epoch, "watermark": 5, "documents": [document], "complete": true});
    peer.push("sync:snapshot", page).await;
    peer.batch(5, 6..=6).await;
    let ended = end(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"snapshot": {"epoch": epoch, "watermark": 5, "document": document}}));
    assert_eq!(lines[1], json!({"snapshot": {"epoch": epoch, "watermark": 5, "complete": true}}));
    assert_eq!(lines[2]["seq"], 6);

    let kept = format!("{{\"topic\":\"run:7:events\",\"epoch\":\"{epoch}\",\"watermark\":3}}");
    std::fs::write(directory.path().join("cursor"), kept).unwrap();
    let arguments = ["tail", "run:7:events", "--cursor-file", "cursor"];
    let child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, at(3));
    let stale = json!({
        "code": "stale_cursor", "reason": "stale_cursor", "message": "trimmed up to 4",
        "reason_codes": ["retention_floor_breach"], "topic": "run:7:events", "resume_after": 3,
        "retention_floor": 4, "head": 9, "epoch": epoch, "replay_lag": 6, "full_resync_required": true,
        "snapshot": "/v1/topics/run:7:events/snapshot"
    });
    peer.reply("error", stale).await;
    let ended = end(child).await;
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("retention_floor_breach"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--from", "floor", "--cursor-file", "cursor"];
    let mut child = khala_at(&fake, directory.path(), &arguments).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 1).await;
    peer.batch(0, 1..=1).await;
    line(&mut stdout).await;
    drop(stdout);
    peer.batch(1, 2..=2).await;
    let ended = end(child).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    let kept = std::fs::read_to_string(directory.path().join("cursor")).unwrap();
    assert!(kept.contains("\"watermark\":1,"), "{kept}");
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_ends_it_with_its_cursor_stored() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["tail", "run:7:events", "--from", "floor", "--cursor-file", "cursor"];
    for (signal, watermark) in [("INT", 1), ("TERM", 2)] {
        let mut child = khala_at(&fake, directory.path(), &arguments).stdin(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut peer, _) = fake.joining().await;
        peer.welcome(1, watermark - 1, watermark).await;
        peer.batch(watermark - 1, watermark..=watermark).await;
        line(&mut stdout).await;
        let id = child.id().unwrap().to_string();
        let sent = tokio::process::Command::new("kill").args(["-s", signal, &id]).status().await.unwrap();
        assert!(sent.success());
        let ended = end(child).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{signal}");
        let kept = std::fs::read_to_string(directory.path().join("cursor")).unwrap();
        assert!(kept.contains(&format!("\"watermark\":{watermark},")), "{kept}");
    }
}
