//! A journal that went back and has regrown to the same seqs before this node looked: heads do not show it, and subscribers that
//! had what it lost are told nevertheless.

use futures::FutureExt as _;
use khala_core::{
    Batch, Cursor, Kind, MemoryStore, NewUpdate, Payload, Topic, fanout::Fanout as _, health::Condition,
    journal::Journal as _,
};
use serde_json::{Value, json};

use crate::host::{GrantExt as _, HOUR, Host, Peer, seconds, seqs, topic};

/// Ten updates of "t", and the journal of when there were five.
fn ten_of_which_five_will_be_lost(host: &Host) -> MemoryStore {
    host.publish("t", 5);
    let backup = host.store.backup();
    host.publish("t", 5);
    backup
}

/// The journal goes back, and another node appends that many updates a second later; gives the head.
fn go_back_and_regrow(host: &Host, backup: MemoryStore, updates: usize) -> Cursor {
    host.store.go_back(backup);
    host.clock.pass(seconds(1));
    let update = NewUpdate::new(Kind::parse("other").unwrap(), Payload::parse("1").unwrap());
    let (journal, topic) = (host.store.journal(), topic("t"));
    let batch = Batch::new(vec![update; updates]).unwrap();
    journal.append(&topic, batch, host.khala.now()).now_or_never().unwrap().unwrap();
    journal.bounds(&topic).now_or_never().unwrap().unwrap().at_head()
}

fn announce(host: &Host, topic: &Topic, head: Cursor) {
    host.fanout.announce(topic, head).now_or_never().unwrap().unwrap();
}

fn stale(sent: &[Value]) -> Option<(Value, Value)> {
    let stale = sent.iter().find(|frame| frame[4]["code"] == "stale_cursor")?;
    Some((stale[4]["reason_codes"].clone(), stale[4]["head"].clone()))
}

#[test]
fn followers_of_what_was_lost_are_told_when_the_next_update_is_announced() {
    let mut host = Host::new(200);
    let mut peers: Vec<Peer> = (0..20).map(|_| host.connect(HOUR)).collect();
    let mut slow = host.connect(HOUR);
    peers.iter_mut().chain([&mut slow]).for_each(|peer| drop(peer.join("t", &json!({"from": "floor"}))));
    host.publish("t", 3);
    assert_eq!(seqs(&slow.sent()), [1, 2, 3]);
    // It stands before what is lost.
    slow.take(0);
    host.publish("t", 2);
    slow.task.run();
    let backup = host.store.backup();
    host.publish("t", 5);
    for peer in &mut peers {
        assert_eq!(seqs(&peer.sent()), (1..=10).collect::<Vec<_>>());
    }
    // It has been sent nothing.
    let mut at_head = host.connect(HOUR);
    at_head.join("t", &json!({}));

    let head = go_back_and_regrow(&host, backup, 6);
    let before = host.store.reads();
    announce(&host, &topic("t"), head);
    let mut told: Vec<&mut Peer> = peers.iter_mut().chain([&mut at_head]).collect();
    host.pass(seconds(1), &mut told);
    for peer in told {
        let sent = peer.sent();
        assert_eq!(seqs(&sent), [0_u64; 0], "nothing of another history");
        assert_eq!(stale(&sent), Some((json!(["epoch_mismatch"]), json!(11))));
    }
    let reads = host.store.reads() - before;
    assert!(reads <= 3, "one read shows it, and one tells the others: {reads}");
    slow.take(usize::MAX);
    let sent = slow.sent();
    assert_eq!((seqs(&sent), stale(&sent)), ((4..=11).collect(), None), "it has seen nothing that was lost");

    // Operators are told once, and new updates flow.
    assert_eq!(host.khala.stats().incidents(&topic("t")).journal_regressed, 1);
    assert!(matches!(host.khala.health().report()[..], [("history", Condition::Degraded(_)), ..]));
    let mut new = host.connect(HOUR);
    assert_eq!(seqs(&new.join("t", &json!({"from": "floor"}))), (1..=11).collect::<Vec<_>>());
    host.publish("t", 1);
    assert_eq!((seqs(&new.sent()), seqs(&slow.sent())), (vec![12], vec![12]));
    assert_eq!(host.khala.stats().incidents(&topic("t")).journal_regressed, 1);
}

#[test]
fn a_history_that_has_regrown_to_the_same_head_is_noticed_by_polling() {
    let mut host = Host::new(200);
    let mut old = host.connect(HOUR);
    old.join("t", &json!({"from": "floor"}));
    let backup = ten_of_which_five_will_be_lost(&host);
    assert_eq!(seqs(&old.sent()).len(), 10);
    go_back_and_regrow(&host, backup, 5);
    old.beat();
    host.pass(seconds(11), &mut [&mut old]);
    assert_eq!(stale(&old.sent()), Some((json!(["epoch_mismatch"]), json!(10))));
}

#[test]
fn a_follower_that_asks_for_a_snapshot_instead_gets_one_of_what_has_regrown() {
    let mut host = Host::new(200);
    let mut old = host.connect(HOUR);
    old.join("t", &json!({"from": "floor", "on_stale": "snapshot"}));
    let backup = ten_of_which_five_will_be_lost(&host);
    assert_eq!(seqs(&old.sent()).len(), 10);
    let head = go_back_and_regrow(&host, backup, 6);
    announce(&host, &topic("t"), head);
    host.pass(seconds(1), &mut [&mut old]);
    let sent = old.sent();
    assert!(sent.iter().any(|frame| frame[3] == "sync:snapshot"), "{sent:?}");
    host.publish("t", 1);
    assert_eq!(seqs(&old.sent()), [12]);
}

#[test]
fn a_quiet_topic_whose_journal_is_the_same_alarms_nobody() {
    let mut host = Host::new(200);
    let mut old = host.connect(HOUR);
    old.join("t", &json!({"from": "floor"}));
    for n in 1..=3 {
        host.publish("t", 1);
        assert_eq!(seqs(&old.sent()), [n]);
        old.beat();
        let before = host.store.reads();
        host.pass(seconds(20), &mut [&mut old]);
        assert!(host.store.reads() - before <= 3, "a poll is one read");
    }
    assert_eq!(host.khala.stats().incidents(&topic("t")).journal_regressed, 0);
}

#[test]
fn more_topics_than_a_connection_asks_about_at_once_are_all_told() {
    let host = Host::new(200);
    let topics: Vec<String> = (0..6).map(|n| format!("t{n}")).collect();
    let mut many = host.connect(HOUR);
    let mut others: Vec<Peer> = topics.iter().map(|_| host.connect(HOUR)).collect();
    for (name, other) in topics.iter().zip(&mut others) {
        many.join(name, &json!({"from": "floor"}));
        other.join(name, &json!({"from": "floor"}));
        host.publish(name, 5);
    }
    let backup = host.store.backup();
    for (name, other) in topics.iter().zip(&mut others) {
        host.publish(name, 5);
        assert_eq!(seqs(&other.sent()).len(), 10);
    }
    many.sent();
    host.store.go_back(backup);
    host.clock.pass(seconds(1));
    for (name, other) in topics.iter().zip(&mut others) {
        let update = NewUpdate::new(Kind::parse("other").unwrap(), Payload::parse("1").unwrap());
        let (journal, topic) = (host.store.journal(), topic(name));
        let batch = Batch::new(vec![update; 7]).unwrap();
        journal.append(&topic, batch, host.khala.now()).now_or_never().unwrap().unwrap();
        announce(&host, &topic, journal.bounds(&topic).now_or_never().unwrap().unwrap().at_head());
        // The others look first: when the one with many topics asks, there is evidence for all of them.
        assert!(stale(&other.sent()).is_some());
    }
    let sent = many.sent();
    assert_eq!(seqs(&sent), [0_u64; 0], "nothing of another history");
    let told = sent.iter().filter(|frame| frame[4]["code"] == "stale_cursor").count();
    assert_eq!(told, topics.len());
}

#[test]
fn a_fresh_token_between_the_doubt_and_its_answer_forgets_no_doubt() {
    let host = Host::new(200);
    let (mut first, mut second) = (host.connect(HOUR), host.connect(HOUR));
    for peer in [&mut first, &mut second] {
        peer.join("t", &json!({"from": "floor"}));
    }
    let backup = ten_of_which_five_will_be_lost(&host);
    assert_eq!((seqs(&first.sent()).len(), seqs(&second.sent()).len()), (10, 10));
    let head = go_back_and_regrow(&host, backup, 7);
    announce(&host, &topic("t"), head);
    // It finds the evidence; the second one then has to read whether what it follows is lost.
    assert!(stale(&first.sent()).is_some());
    let reading = host.store.reading.try_lock().unwrap();
    assert!(second.sent().is_empty(), "its question is under way");
    host.token("new", host.grant(HOUR).with_token_id("2"));
    second.refresh("new");
    assert_eq!(second.sent()[0][4]["status"], "ok");
    drop(reading);
    let sent = second.sent();
    assert_eq!(seqs(&sent), [0_u64; 0], "nothing of another history");
    assert!(stale(&sent).is_some(), "{sent:?}");
}
