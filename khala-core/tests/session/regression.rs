//! A journal that went back within an epoch, as a crash or a failover leaves it: everybody who remembers more is told, and
//! nobody is served what is lost.

use futures::FutureExt as _;
use khala_core::{Cursor, Event, MemoryStore, Start, Watermark, health::Condition, journal::Journal as _};
use serde_json::json;

use crate::host::{HOUR, Host, Peer, seconds, seqs, topic};

/// Ten updates of "t", and the journal of when there were five.
fn ten_of_which_five_will_be_lost(host: &Host) -> MemoryStore {
    host.publish("t", 5);
    let backup = host.store.backup();
    host.publish("t", 5);
    backup
}

fn stale(sent: &[serde_json::Value]) -> Option<&serde_json::Value> {
    let stale = |frame: &&serde_json::Value| {
        frame[4]["code"] == "stale_cursor" || frame[4]["response"]["code"] == "stale_cursor"
    };
    sent.iter()
        .find(stale)
        .map(|frame| if frame[4]["code"].is_null() { &frame[4]["response"] } else { &frame[4] })
}

#[test]
fn connected_and_joining_clients_that_stand_ahead_are_told_within_the_poll_interval() {
    let mut host = Host::new(200);
    let epoch = host.store.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap().epoch;
    let (mut old, mut others) = (host.connect(HOUR), Vec::new());
    old.join("t", &json!({"from": "floor"}));
    let backup = ten_of_which_five_will_be_lost(&host);
    for _ in 0..20 {
        let mut other = host.connect(HOUR);
        other.join("t", &json!({"after": 10, "epoch": epoch}));
        others.push(other);
    }
    assert_eq!(seqs(&old.sent()), (1..=10).collect::<Vec<_>>());
    host.store.go_back(backup);
    let before = host.store.reads();
    let mut peers: Vec<&mut Peer> = others.iter_mut().collect();
    peers.push(&mut old);
    peers.iter_mut().for_each(|peer| peer.beat());
    host.pass(seconds(11), &mut peers);
    for peer in peers {
        let sent = peer.sent();
        let stale = stale(&sent).expect("it is told");
        assert_eq!((&stale["reason_codes"], &stale["head"]), (&json!(["cursor_ahead"]), &json!(5)));
    }
    let reads = host.store.reads() - before;
    assert!(reads <= 2 * 21, "each looks once or twice at most, and none goes on: {reads}");

    let mut new = host.connect(HOUR);
    let sent = new.join("t", &json!({"from": "floor"}));
    assert_eq!((seqs(&sent), &sent[0][4]["response"]["head"]), ((1..=5).collect(), &json!(5)));
    let mut ahead = host.connect(HOUR);
    let sent = ahead.join("t", &json!({"after": 10, "epoch": epoch}));
    assert_eq!(stale(&sent).expect("it is told")["reason_codes"], json!(["cursor_ahead"]));

    // Operators are told, and new updates flow.
    assert_eq!(host.khala.stats().incidents(&topic("t")).journal_regressed, 1);
    let notes = host.khala.health().notes();
    assert!(
        notes.iter().any(|(part, note)| *part == "history" && note.contains("from head 10 to 5")),
        "{notes:?}"
    );
    host.publish("t", 1);
    assert_eq!(seqs(&new.sent()), [6]);
}

#[test]
fn what_this_node_appends_shows_at_once_that_the_journal_went_back() {
    let mut host = Host::new(200);
    let mut old = host.connect(HOUR);
    old.join("t", &json!({"from": "floor"}));
    let backup = ten_of_which_five_will_be_lost(&host);
    assert_eq!(seqs(&old.sent()).len(), 10);
    host.store.go_back(backup);
    host.publish("t", 1);
    assert_eq!(host.khala.stats().incidents(&topic("t")).journal_regressed, 1);
    let mut new = host.connect(HOUR);
    assert_eq!(seqs(&new.join("t", &json!({"from": "floor"}))), [1, 2, 3, 4, 5, 6]);
    old.beat();
    host.pass(seconds(11), &mut [&mut old]);
    assert_eq!(stale(&old.sent()).expect("it is told")["reason_codes"], json!(["cursor_ahead"]));
}

#[test]
fn a_head_that_was_announced_and_is_lost_is_waited_for_by_nobody() {
    let mut host = Host::new(200);
    let backup = ten_of_which_five_will_be_lost(&host);
    host.store.go_back(backup);
    let epoch = host.store.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap().epoch;
    let lost = Cursor::new(epoch, Watermark::new(10).unwrap());
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({"after": 5, "epoch": epoch}));
    let before = host.store.reads();
    for _ in 0..5 {
        khala_core::fanout::Fanout::announce(&host.fanout, &topic("t"), lost)
            .now_or_never()
            .unwrap()
            .unwrap();
        peer.beat();
        host.pass(seconds(10), &mut [&mut peer]);
    }
    let reads = host.store.reads() - before;
    assert!(reads <= 20, "a look at each announcement, another soon, and polls: {reads}");
    host.publish("t", 1);
    assert_eq!(seqs(&peer.sent()), [6]);
}

#[test]
fn a_subscription_of_this_process_and_snapshots_know_it_too() {
    let host = Host::new(200);
    let backup = ten_of_which_five_will_be_lost(&host);
    let handle = host.khala.topic("t").unwrap();
    let mut subscription = handle.subscribe(Start::head()).now_or_never().unwrap().unwrap();
    let snapshot = |host: &Host| {
        let sent = host.connect(HOUR).join("t", &json!({"from": "snapshot"}));
        sent[0][4]["response"]["after"].as_u64().expect("it is answered")
    };
    assert_eq!((snapshot(&host), snapshot(&host)), (10, 10));
    host.store.go_back(backup);
    assert!(matches!(host.khala.health().report()[..], [("history", Condition::Healthy), ..]));
    assert_eq!(host.khala.journal().bounds(&topic("t")).now_or_never().unwrap().unwrap().head.as_u64(), 5);
    assert!(subscription.next().now_or_never().is_none());
    host.clock.pass(seconds(10));
    let delivery = subscription.next().now_or_never().expect("a poll finds it").unwrap().unwrap();
    assert!(matches!(delivery, Event::Stale(stale) if stale.bounds.head.as_u64() == 5));
    assert_eq!(snapshot(&host), 5, "what others have just read is read again");
}
