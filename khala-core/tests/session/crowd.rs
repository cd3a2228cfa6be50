//! Crowds that come back at once: what they cost the journal does not grow with them.

use std::{sync::atomic::Ordering, time::Duration};

use futures::FutureExt as _;
use khala_core::{
    Append, Batch, Cursor, DocKey, Kind, NewUpdate, Payload,
    auth::Access,
    class::{Classes, TopicClass, TopicPattern},
    clock::Clock as _,
    journal::{Journal as _, Keep},
};
use serde_json::{Value, json};

use crate::{
    guards::Ledger,
    host::{HOUR, Host, Peer, topic},
};

fn host(documents: usize) -> Host {
    let all = TopicClass {
        replay_budget: Some(10),
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read([Access::Read.scope()])
    };
    let classes = Classes::new(vec![all]).unwrap();
    let host = Host::built(200, Ledger::default(), |khala| khala.with_classes(classes));
    for n in 0..documents {
        put(&host, n);
    }
    host
}

fn put(host: &Host, n: usize) {
    let key = DocKey::parse(&format!("d{n:05}")).unwrap();
    let update = NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap()).doc_key(key);
    let batch = Batch::new(vec![update]).unwrap();
    host.khala.publish(&topic("t"), batch).now_or_never().unwrap().unwrap();
}

fn head(host: &Host) -> Cursor {
    host.store.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap().at_head()
}

/// Whose documents came, and from where the log continues.
fn documents(sent: &[Value]) -> (usize, u64) {
    let pages: Vec<_> = sent.iter().filter(|frame| frame[3] == "sync:snapshot").collect();
    let count = pages.iter().map(|page| page[4]["documents"].as_array().unwrap().len()).sum();
    assert_eq!(pages.last().unwrap()[4]["complete"], true);
    (count, pages[0][4]["watermark"].as_u64().unwrap())
}

#[test]
fn a_crowd_at_the_head_costs_one_read_of_the_bounds() {
    let host = host(50);
    let cursor = head(&host);
    let before = (host.store.reads(), host.store.bounds.load(Ordering::Relaxed));
    let request = json!({"after": cursor.watermark, "epoch": cursor.epoch});
    let mut crowd: Vec<Peer> = (0..500).map(|_| host.connect(HOUR)).collect();
    for peer in &mut crowd {
        peer.say("t", "phx_join", &request);
    }
    for peer in &mut crowd {
        assert_eq!(peer.sent()[0][4]["status"], "ok");
    }
    let after = (host.store.reads(), host.store.bounds.load(Ordering::Relaxed));
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 1));
    put(&host, 50);
    assert!(crowd.iter_mut().all(|peer| peer.sent().len() == 1), "and all of them are live");
    assert_eq!(host.store.reads() - before.0, 0, "what was appended here is known");
    let batch = Batch::new(vec![NewUpdate::new(Kind::parse("k").unwrap(), Payload::null())]).unwrap();
    let now = host.clock.now();
    let append = host.store.journal().append(&topic("t"), batch, now).now_or_never().unwrap().unwrap();
    let Append::Written(receipt) = append else { panic!("nothing conflicts") };
    host.khala.announce(&topic("t"), &receipt).now_or_never().unwrap();
    assert!(crowd.iter_mut().all(|peer| peer.sent().len() == 1));
    assert_eq!(host.store.reads() - before.0, 1, "what another node appended is read once");
}

#[test]
fn a_crowd_that_starts_again_reads_the_documents_once() {
    let host = host(1_000);
    let stale = json!({"after": 1, "epoch": head(&host).epoch, "on_stale": "snapshot"});
    for request in [stale, json!({"from": "snapshot"})] {
        let before = host.store.snapshots.load(Ordering::Relaxed);
        let mut crowd: Vec<Peer> = (0..50).map(|_| host.connect(HOUR)).collect();
        for peer in &mut crowd {
            peer.say("t", "phx_join", &request);
        }
        for peer in &mut crowd {
            let sent = peer.sent();
            assert_eq!(documents(&sent), (1_000, 1_000));
            assert_eq!(sent[0][4]["response"]["stale"].is_null(), request["from"] == "snapshot");
        }
        assert!(host.store.snapshots.load(Ordering::Relaxed) - before <= 5, "five pages of 200");
        host.clock.pass(Duration::from_secs(2));
    }
}

#[test]
fn a_snapshot_is_joined_only_while_it_is_young_and_the_log_continues_from_it() {
    let host = host(10);
    let join = |host: &Host| {
        let mut peer = host.connect(HOUR);
        let sent = peer.join("t", &json!({"from": "snapshot"}));
        (documents(&sent), peer)
    };
    let reads = |host: &Host| host.store.snapshots.load(Ordering::Relaxed);
    assert_eq!((join(&host).0, reads(&host)), ((10, 10), 1));
    put(&host, 10);
    // Joined: the documents of before, and then the log.
    let ((count, watermark), mut peer) = join(&host);
    assert_eq!((count, watermark, reads(&host)), (10, 10, 1));
    put(&host, 11);
    assert_eq!(crate::host::seqs(&peer.sent()), [12], "11 came with the join");

    host.clock.pass(Duration::from_millis(1_001));
    assert_eq!((join(&host).0, reads(&host)), ((12, 12), 2));
    // Trimmed past it: the log no longer continues from its watermark.
    put(&host, 12);
    let keep = Keep { updates: Some(0), ..Keep::everything() };
    host.khala.journal().trim(&topic("t"), keep, host.khala.now()).now_or_never().unwrap().unwrap();
    assert_eq!((join(&host).0, reads(&host)), ((13, 13), 3));
}

#[test]
fn a_snapshot_of_an_ended_history_is_not_joined() {
    let host = host(10);
    let mut peer = host.connect(HOUR);
    assert_eq!(documents(&peer.join("t", &json!({"from": "snapshot"}))), (10, 10));
    host.store.wipe();
    put(&host, 0);
    let mut other = host.connect(HOUR);
    let sent = other.join("t", &json!({"from": "snapshot"}));
    let epoch = head(&host).epoch;
    let last = sent.iter().rfind(|frame| frame[3] == "sync:snapshot").unwrap();
    assert_eq!((&last[4]["epoch"], &last[4]["watermark"]), (&json!(epoch), &json!(1)), "{sent:?}");
}

#[test]
fn those_who_read_a_snapshot_go_on_sharing_it_when_another_is_started() {
    // Ten pages; each takes two frames of credit at the start, the answer and the page.
    let host = host(2_000);
    let mut crowd: Vec<Peer> = (0..50).map(|_| host.connect(HOUR)).collect();
    let before = host.store.snapshots.load(Ordering::Relaxed);
    for peer in &mut crowd {
        peer.take(2);
        peer.join("t", &json!({"from": "snapshot"}));
    }
    // While they read, something is written, and one more comes later than a second.
    put(&host, 2_000);
    host.clock.pass(Duration::from_millis(1_001));
    let mut late = host.connect(HOUR);
    assert_eq!(documents(&late.join("t", &json!({"from": "snapshot"}))), (2_001, 2_001));
    for peer in &mut crowd {
        peer.take(usize::MAX);
        assert!(peer.sent().iter().any(|frame| frame[4]["complete"] == true));
    }
    let read = host.store.snapshots.load(Ordering::Relaxed) - before;
    assert!(read <= 40, "two snapshots of ten pages were read in {read} reads");
}

#[test]
fn a_crowd_that_stands_a_little_behind_the_head_reads_that_little_once() {
    // A node that was just started: it knows nothing of the topic. The crowd was cut off at different moments.
    let host = host(150);
    let head = head(&host);
    let before = host.store.reads();
    for behind in 1..=10 {
        for _ in 0..3 {
            let request = json!({"after": head.watermark.as_u64() - behind, "epoch": head.epoch});
            let sent = host.connect(HOUR).join("t", &request);
            assert_eq!(crate::host::seqs(&sent).len() as u64, behind);
        }
    }
    let read = host.store.reads() - before;
    assert!(read <= 3, "ten updates, which one page holds, were read {read} times");
}
