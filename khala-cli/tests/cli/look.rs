//! What a person looks at: a payload that is published from the command line, tails from a moment on, documents, connections, stats.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::sleep,
};

use crate::{
    Ended, end,
    real::{ADMIN, khala_at, start},
};

async fn run(address: SocketAddr, at: &Path, arguments: &[&str]) -> Ended {
    let mut command = khala_at(address, at, arguments);
    end(command.env("KHALA_ADMIN_TOKEN", ADMIN).spawn().unwrap()).await
}

fn lines(ended: &Ended) -> Vec<Value> {
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn seqs(ended: &Ended) -> Vec<u64> {
    lines(ended).iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_payload_may_stand_on_the_command_line() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    let payload = "{ \"a\" : 1.0e0 }";
    let publish =
        ["publish", "run:7/a", payload, "--kind", "paid", "--doc-key", "order/7", "--dedup", "p-1", "--ack"];
    for duplicate in [false, true] {
        let acknowledged = lines(&run(address, at, &publish).await);
        assert_eq!(
            (&acknowledged[0]["first_seq"], &acknowledged[0]["duplicate"]),
            (&json!(1), &json!(duplicate)),
            "{acknowledged:?}"
        );
    }
    // Without --ack nothing is printed.
    let quiet = run(address, at, &["publish", "run:7/a", "-5"]).await;
    assert_eq!((quiet.code, &*quiet.stdout, &*quiet.stderr), (Some(0), "", ""));
    let stored = lines(&run(address, at, &["tail", "run:7/a", "--from", "floor", "--until-head"]).await);
    assert_eq!((&stored[0]["kind"], &stored[0]["doc_key"]), (&json!("paid"), &json!("order/7")));
    assert_eq!((stored.len(), &stored[1]["payload"], &stored[1]["kind"]), (2, &json!(-5), &json!("update")));
    for (arguments, code, says) in [
        (&["publish", "run:7/a", "hello"][..], 65, "is not JSON"),
        (&["publish", "run:7/a", "hello"], 65, "'\"hello\"'"),
        (&["publish", "run:7/a", "2", "--dedup", "p-1"], 65, "conflicts with what is stored"),
        (&["publish", "run:7/a", "2", "--doc-key", ""], 2, "doc_key"),
        (&["publish", "run:7/a", "2", "--run-id", "x"], 2, "--run-id"),
        (&["publish", "run:7/a", "--doc-key", "x"], 2, "PAYLOAD"),
        (&["publish", "run:7/a", "-", "--doc-key", "x"], 2, "lines are read"),
        (&["publish", "run:7/a", "1", "2"], 2, "one payload within quotes, or lines on standard input"),
        (&["publish", "run:7/a", "--delete"], 2, "--doc-key"),
        (&["publish", "run:7/a", "1", "--doc-key", "x", "--delete"], 2, "--delete"),
        (&["publish", "run:7/a", "1", "--kind-field", "type"], 65, "is not a JSON object"),
        (&["publish", "run:7/a", "nope"], 65, "near \"nope\""),
        (&["publish", ":7", "2"], 2, "topic"),
    ] {
        let ended = run(address, at, arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_tail_starts_where_it_is_told_to() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    let tail = async |start: &[&str]| {
        let arguments = [&["tail", "run:7/a", "--until-head"], start].concat();
        run(address, at, &arguments).await
    };
    assert!(seqs(&tail(&["--last", "3"]).await).is_empty(), "nothing was published yet");
    assert!(seqs(&tail(&["--since", "1h"]).await).is_empty());
    for number in ["1", "2", "3"] {
        assert_eq!(run(address, at, &["publish", "run:7/a", number]).await.code, Some(0));
    }
    let third = lines(&tail(&["--last", "1"]).await)[0]["published_at"].as_u64().unwrap();
    // What comes next is of a later millisecond.
    sleep(Duration::from_millis(2)).await;
    for number in ["4", "5"] {
        assert_eq!(run(address, at, &["publish", "run:7/a", number]).await.code, Some(0));
    }
    let moment =
        |millis: u64| jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap().to_string();
    for (start, expected) in [
        (&["--last", "2"][..], &[4, 5][..]),
        (&["--last", "0"], &[]),
        (&["--last", "99"], &[1, 2, 3, 4, 5]),
        (&["--since", "10m"], &[1, 2, 3, 4, 5]),
        (&["--since", "2000-02-29"], &[1, 2, 3, 4, 5]),
        (&["--since", &moment(third + 1)], &[4, 5]),
        (&["--since", "2999-01-01T12:00"], &[]),
        (&["--from", "floor"], &[1, 2, 3, 4, 5]),
        (&[], &[]),
    ] {
        assert_eq!(seqs(&tail(start).await), expected, "{start:?}");
    }
    assert!(seqs(&tail(&["--since", &moment(third)]).await).contains(&3));
    for wrong in [
        &["--last", "2", "--since", "1h"][..],
        &["--last", "-1"],
        &["--since", "soon"],
        &["--raw", "--pretty"],
        &["-f"],
    ] {
        let ended = tail(wrong).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{wrong:?}: {}", ended.stderr);
    }
    for (wrong, says) in [
        (&["--last", "-1"][..], "write a number from 0"),
        (&["--last", "abc"], "write a number from 0"),
        (&["--count", "0"], "write a number from 1"),
        (&["--since", "-10m"], "write how long ago"),
    ] {
        let ended = tail(wrong).await;
        assert!(ended.stderr.contains(says) && !ended.stderr.contains("tip"), "{}", ended.stderr);
    }
    let followed = run(address, at, &["tail", "-f", "run:7/a", "--from", "floor", "--count", "1"]).await;
    assert_eq!(seqs(&followed), [1]);
    // A cursor file wins over where to start without one.
    let kept = ["--last", "1", "--cursor-file", "cursor"];
    assert_eq!(seqs(&tail(&kept).await), [5]);
    assert!(seqs(&tail(&kept).await).is_empty());
}

#[tokio::test]
async fn several_topics_are_followed_at_once_and_told_apart() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    for (topic, payload) in [("run:7", "{\"n\":\n 1}"), ("run:8", "2")] {
        assert_eq!(run(address, at, &["publish", topic, payload]).await.code, Some(0));
    }
    let both = run(address, at, &["tail", "run:7", "run:8", "--from", "floor", "--until-head"]).await;
    let mut told: Vec<_> =
        lines(&both).iter().map(|line| (line["topic"].clone(), line["payload"].clone())).collect();
    told.sort_by_key(|(topic, _)| topic.to_string());
    assert_eq!(told, [(json!("run:7"), json!({"n": 1})), (json!("run:8"), json!(2))]);
    assert!(both.stdout.lines().all(|line| line.starts_with("{\"topic\":\"run:")), "{}", both.stdout);
    // Payloads alone, one a line.
    let raw = run(address, at, &["tail", "run:7", "run:8", "--from", "floor", "--until-head", "--raw"]).await;
    let mut payloads: Vec<_> = raw.stdout.lines().collect();
    payloads.sort_unstable();
    assert_eq!(payloads, ["2", "{\"n\": 1}"]);
    // A topic that has ended leaves the others alone, and the count is that of all.
    let arguments = ["tail", "run:7", "run:8", "--count", "2"];
    let child = khala_at(address, at, &arguments).spawn().unwrap();
    let (one, two) = (&["publish", "run:8", "3"], &["publish", "run:7", "4"]);
    let open = async || lines(&run(address, at, &["connections"]).await)[0]["channels"] == 2;
    while !open().await {}
    for publish in [one, two] {
        assert_eq!(run(address, at, publish).await.code, Some(0));
    }
    assert_eq!(lines(&end(child).await).len(), 2);
    for (arguments, says) in [
        (&["tail", "run:7", "run:8", "--cursor-file", "cursor"][..], "one topic"),
        (&["tail", "run:7", "run:7"], "given twice"),
        (&["tail"], "TOPIC"),
    ] {
        let ended = run(address, at, arguments).await;
        assert_eq!((ended.code, ended.stderr.contains(says)), (Some(2), true), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn documents_are_listed_and_shown() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    for number in 1..=3 {
        let (payload, key) = (format!("{{\"n\":{number}}}"), format!("order/{number}"));
        let publish = ["publish", "run:7/a", &payload, "--doc-key", &key];
        assert_eq!(run(address, at, &publish).await.code, Some(0));
    }
    let all = lines(&run(address, at, &["documents", "run:7/a"]).await);
    assert_eq!(
        all.iter().map(|line| &line["doc_key"]).collect::<Vec<_>>(),
        ["order/1", "order/2", "order/3"]
    );
    let raw = run(address, at, &["documents", "run:7/a", "order/2", "--raw"]).await;
    assert_eq!((raw.code, &*raw.stdout), (Some(0), "{\"n\":2}\n"));
    let pretty = run(address, at, &["documents", "run:7/a", "order/2", "--pretty"]).await;
    assert!(pretty.stdout.contains("  2  update  order/2\n  {\n    \"n\": 2\n  }\n"), "{}", pretty.stdout);
    assert!(!pretty.stdout.contains('\u{1b}'), "colours are for terminals");
    let painted = run(address, at, &["documents", "run:7/a", "--pretty", "--color", "always"]).await;
    assert!(painted.stdout.contains("\u{1b}["), "{}", painted.stdout);
    let none = run(address, at, &["documents", "run:7/a", "order/9"]).await;
    assert_eq!((none.code, &*none.stdout), (Some(1), ""));
    assert!(
        none.stderr.contains("order/9") && none.stderr.contains("khala documents run:7/a"),
        "{}",
        none.stderr
    );
    let unknown = run(address, at, &["documents", "run:8/a"]).await;
    assert_eq!((unknown.code, &*unknown.stdout), (Some(0), ""));
    assert!(unknown.stderr.contains("no topic run:8/a"), "{}", unknown.stderr);
    // A document is deleted, and a kind may come from a field of the payload.
    let delete = ["publish", "run:7/a", "--doc-key", "order/2", "--delete", "--kind", "gone"];
    assert_eq!(run(address, at, &delete).await.code, Some(0));
    let deleted = run(address, at, &["documents", "run:7/a", "order/2"]).await;
    assert_eq!(deleted.code, Some(1), "{}", deleted.stderr);
    assert!(deleted.stderr.contains("was deleted by update 4"), "{}", deleted.stderr);
    let fields = ["--kind-field", "type", "--doc-key-field", "id", "{\"type\":\"paid\",\"id\":9}"];
    assert_eq!(run(address, at, &[&["publish", "run:7/a"], &fields[..]].concat()).await.code, Some(0));
    let paid = lines(&run(address, at, &["documents", "run:7/a", "9"]).await);
    assert_eq!(paid[0]["kind"], "paid");
}

#[tokio::test]
async fn a_node_tells_who_is_connected_and_how_it_does() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let at = folder.path();
    assert_eq!(run(address, at, &["publish", "run:7/a", "1"]).await.code, Some(0));
    let mut tail =
        khala_at(address, at, &["tail", "run:7/a", "--from", "floor"]).stdin(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tail.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let connections = lines(&run(address, at, &["connections", "--limit", "5"]).await);
    assert_eq!(
        (&connections[0]["open"], &connections[0]["slowest"][0]["subject"]),
        (&json!(1), &json!("test"))
    );
    let stats = lines(&run(address, at, &["stats"]).await);
    assert_eq!(stats.len(), 1);
    assert_eq!(
        (&stats[0]["topics"][0]["topic"], &stats[0]["delivery"]["connections"]),
        (&json!("run:7/a"), &json!(1))
    );
    assert_eq!(stats[0]["hooks"][0]["hook"], "heads");
    for arguments in [["connections"], ["stats"]] {
        let ended = end(khala_at(address, at, &arguments).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
        assert!(ended.stderr.contains("there is no admin token"), "{}", ended.stderr);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupted_publish_says_how_far_it_came() {
    let (address, folder) = (start().await, tempfile::tempdir().unwrap());
    let mut child = khala_at(address, folder.path(), &["publish", "run:7/a", "--ack"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n").await.unwrap();
    let mut acknowledged = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    while !acknowledged.contains("\"last_seq\":2") {
        assert!(stdout.read_line(&mut acknowledged).await.unwrap() > 0, "{acknowledged}");
    }
    let id = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-s", "INT", &id]).status().await.unwrap().success());
    let ended = end(child).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(130), "khala: interrupted (published 2 updates)\n"));
}

#[tokio::test]
async fn waits_on_this_machine_are_short() {
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["tail", "run:7/a"][..], &["publish", "run:7/a", "1"]] {
        let arguments = [arguments, &["--retry-for", "500ms"]].concat();
        let ended = run(closed, folder.path(), &arguments).await;
        assert_eq!(ended.code, Some(69), "{}", ended.stderr);
        assert!(ended.stderr.contains("trying again in 0.1 s"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(&closed.to_string()) && ended.stderr.contains("--url"),
            "{}",
            ended.stderr
        );
    }
}
