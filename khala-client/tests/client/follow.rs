//! Subscriptions: whatever the server does, what comes out is a gap-free continuation, or a word that says why not.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, channel::mpsc};
use khala_client::{Client, Error, connection::ConnectionEvent};
use khala_core::{
    Batch, Cursor, Epoch, Kind, NewUpdate, Payload, Timestamp, Token, Watermark,
    journal::{Journal as _, Keep},
    wire::{JoinRequest, OnStale, Resume},
};
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    client,
    fake::{Fake, Fault, PATIENCE, Peer},
    pulse, topic,
};

pub(crate) fn from(resume: Resume) -> JoinRequest {
    JoinRequest { resume, ..JoinRequest::default() }
}

fn at(epoch: u64, watermark: u64) -> Cursor {
    Cursor::new(Epoch::from_bits(epoch), Watermark::new(watermark).unwrap())
}

/// Follows the topic as an application does that is always ready for the next event.
pub(crate) fn follow(
    client: &Client,
    request: JoinRequest,
) -> mpsc::UnboundedReceiver<Result<ConnectionEvent, Error>> {
    let mut subscription = client.connection_events(&topic(), request);
    let (sender, receiver) = mpsc::unbounded();
    tokio::spawn(async move {
        while let Some(event) = subscription.next().await {
            if sender.unbounded_send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

pub(crate) async fn next(
    subscription: &mut (impl Stream<Item = Result<ConnectionEvent, Error>> + Unpin),
) -> Option<Result<ConnectionEvent, Error>> {
    timeout(PATIENCE, subscription.next()).await.expect("something happens")
}

/// The next updates: their seqs, and the cursor after them. Whatever else comes first is passed over.
pub(crate) async fn updates(
    subscription: &mut (impl Stream<Item = Result<ConnectionEvent, Error>> + Unpin),
) -> (Vec<u64>, Cursor) {
    loop {
        if let ConnectionEvent::Updates(arrived) = next(subscription).await.unwrap().unwrap() {
            let seqs = arrived.updates.iter().map(|update| update.seq.as_u64()).collect();
            return (seqs, arrived.cursor);
        }
    }
}

/// The error that the subscription ends with.
pub(crate) async fn end(
    subscription: &mut (impl Stream<Item = Result<ConnectionEvent, Error>> + Unpin),
) -> Error {
    loop {
        if let Err(error) = next(subscription).await.expect("it ends with an error") {
            assert!(next(subscription).await.is_none(), "nothing follows");
            return error;
        }
    }
}

#[tokio::test]
async fn it_joins_with_its_token_and_resumes_from_its_cursor() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Head));
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::Head);
    let seen = fake.requests().remove(0);
    assert_eq!(seen.path, "/sync/v1/websocket?vsn=2.0.0");
    assert_eq!(seen.authorization.as_deref(), Some("Bearer secret-token"));
    peer.welcome(1, 5, 5).await;
    let ConnectionEvent::Joined { joined, resumed } = next(&mut subscription).await.unwrap().unwrap() else {
        panic!()
    };
    assert_eq!((joined.after.as_u64(), resumed), (5, false));
    // Cut off before anything came: it goes on from where the join said, not from the head of a later time.
    drop(peer);
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::After(at(1, 5)));
    peer.welcome(1, 5, 7).await;
    peer.batch(5, 6..=7).await;
    assert_eq!(updates(&mut subscription).await, (vec![6, 7], at(1, 7)));
}

#[tokio::test]
async fn a_frame_that_is_cut_in_the_middle_is_none() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 2).await;
    peer.batch(0, 1..=1).await;
    assert_eq!(updates(&mut subscription).await.0, [1]);
    // The header of a text frame of 100 bytes, and 3 of them.
    peer.cut_after(&[0x81, 100, b'[', b'n', b'u']).await;
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::After(at(1, 1)));
    peer.welcome(1, 1, 2).await;
    peer.batch(1, 2..=2).await;
    assert_eq!(updates(&mut subscription).await.0, [2]);
}

#[tokio::test]
async fn holes_and_repeats_are_never_delivered() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 9).await;
    peer.batch(0, 1..=3).await;
    assert_eq!(updates(&mut subscription).await.0, [1, 2, 3]);
    peer.batch(1, 2..=3).await;
    peer.batch(2, 3..=4).await;
    assert_eq!(updates(&mut subscription).await.0, [4], "of what comes again, only what is new");
    for (after, seqs) in [(5, vec![6]), (4, vec![5, 7])] {
        peer.batch(after, seqs).await;
        // It joins again on the same connection; what is still on its way from the earlier join does not count.
        let join = peer.join().await;
        assert_eq!(join.request.resume, Resume::After(at(1, 4)));
        peer.batch(4, 5..=5).await;
        peer.welcome(1, 4, 9).await;
    }
    peer.text(json!(["1", null, topic(), "phx_close", {}])).await;
    peer.batch(4, 5..=9).await;
    assert_eq!(updates(&mut subscription).await, ((5..=9).collect(), at(1, 9)));
}

#[tokio::test]
async fn a_server_that_always_leaves_holes_is_given_up() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let server = tokio::spawn(async move {
        let mut peer = fake.peer().await;
        for _ in 0..5 {
            peer.join().await;
            peer.welcome(1, 0, 9).await;
            peer.batch(3, 4..=9).await;
        }
    });
    let error = end(&mut subscription).await;
    assert!(matches!(&error, Error::Protocol(what) if what.contains("missing")), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn another_epoch_is_noticed_and_told() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::After(at(1, 4))));
    let (mut peer, _) = fake.joining().await;
    // A server that resumed a cursor in another history would be wrong; it is asked again.
    peer.welcome(2, 4, 9).await;
    let join = peer.join().await;
    assert_eq!(join.request.resume, Resume::After(at(1, 4)));
    let stale = json!({
        "code": "stale_cursor", "reason": "stale_cursor", "message": "another epoch",
        "reason_codes": ["epoch_mismatch"], "topic": topic(), "resume_after": 4, "retention_floor": 0, "head": 9,
        "epoch": Epoch::from_bits(2), "replay_lag": 0, "replay_budget_events": null, "qos_tier": null,
        "full_resync_required": true, "snapshot": "/v1/topics/run:7:events/snapshot"
    });
    peer.reply("error", stale).await;
    loop {
        match next(&mut subscription).await.unwrap().unwrap() {
            ConnectionEvent::Stale(stale) => break assert_eq!(stale.epoch, Epoch::from_bits(2)),
            ConnectionEvent::Reconnecting { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(next(&mut subscription).await.is_none());
}

async fn document_page(peer: &mut Peer, epoch: u64, watermark: u64, seqs: &[u64], complete: bool) {
    let document = |seq: &u64| json!({"seq": seq, "kind": "k", "payload": seq, "doc_key": "d", "doc_version": seq, "published_at": 0});
    let documents: Vec<_> = seqs.iter().map(document).collect();
    let epoch = Epoch::from_bits(epoch);
    let payload =
        json!({"epoch": epoch, "watermark": watermark, "documents": documents, "complete": complete});
    peer.push("sync:snapshot", payload).await;
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_starts_again_and_stitches() {
    let mut fake = Fake::start().await;
    let request = JoinRequest { resume: Resume::Snapshot, on_stale: OnStale::Snapshot, published_at: None };
    let mut subscription = follow(&client(&fake).build().unwrap(), request);
    let answer = |after: u64| json!({"epoch": Epoch::from_bits(1), "after": after, "head": after, "floor": 0, "snapshot": true});
    let (mut peer, _) = fake.joining().await;
    peer.reply("ok", answer(5)).await;
    document_page(&mut peer, 1, 5, &[2], false).await;
    drop(peer);
    let (mut peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::Snapshot, "half a snapshot is no cursor");
    peer.reply("ok", answer(8)).await;
    document_page(&mut peer, 1, 8, &[3], false).await;
    document_page(&mut peer, 1, 8, &[8], true).await;
    peer.batch(8, 9..=9).await;
    let mut pages = Vec::new();
    let (seqs, cursor) = loop {
        match next(&mut subscription).await.unwrap().unwrap() {
            ConnectionEvent::Snapshot(page) => pages.push((page.at, page.first, page.complete)),
            ConnectionEvent::Updates(arrived) => break (arrived.updates.len(), arrived.cursor),
            _ => {}
        }
    };
    assert_eq!((seqs, cursor), (1, at(1, 9)));
    // The first page of the first snapshot may not have been read before the connection was cut.
    assert_eq!(pages[pages.len() - 2..], [(at(1, 8), true, false), (at(1, 8), false, true)]);
    // Trimmed past a slow reader: documents again, in the middle of the log.
    document_page(&mut peer, 2, 20, &[20], true).await;
    peer.batch(20, 21..=21).await;
    assert_eq!(updates(&mut subscription).await, (vec![21], at(2, 21)));
}

#[tokio::test]
async fn a_drain_is_waited_out() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    peer.text(json!([null, null, "phoenix", "sync:drain", {"retry_after_ms": 300}])).await;
    let told = Instant::now();
    peer.batch(0, 1..=1).await;
    assert_eq!(updates(&mut subscription).await.0, [1], "what comes before the close still counts");
    peer.close(1012, "restart").await;
    let (_peer, join) = fake.joining().await;
    assert!(told.elapsed() >= Duration::from_millis(290), "{:?}", told.elapsed());
    assert_eq!(join.request.resume, Resume::After(at(1, 1)));
}

#[tokio::test]
async fn a_close_code_says_whether_to_come_back() {
    let mut fake = Fake::start().await;
    let client = client(&fake).build().unwrap();
    for code in [1000, 1008, 1009] {
        let mut subscription = follow(&client, from(Resume::Head));
        let (mut peer, _) = fake.joining().await;
        peer.close(code, "enough").await;
        let error = end(&mut subscription).await;
        assert!(matches!(&error, Error::Closed { code: closed, .. } if *closed == code), "{error}");
    }
    let mut subscription = follow(&client, from(Resume::Head));
    for code in [1001, 1011, 1013, 4000, 4002] {
        let (mut peer, _) = fake.joining().await;
        peer.close(code, "again").await;
        let event = next(&mut subscription).await.unwrap().unwrap();
        assert!(matches!(event, ConnectionEvent::Reconnecting { .. }), "{code}: {event:?}");
    }
    let (mut peer, _) = fake.joining().await;
    peer.close(4001, "token_expired").await;
    assert_eq!(end(&mut subscription).await.refused().unwrap().code, "token_expired");
}

#[tokio::test]
async fn a_source_of_tokens_outlives_a_token() {
    let mut fake = Fake::start().await;
    let number = Arc::new(Mutex::new(0));
    let source = move || {
        let number = Arc::clone(&number);
        async move {
            *number.lock().await += 1;
            Ok(Token::new(format!("token-{}", number.lock().await)))
        }
    };
    let client = client(&fake).token_from(source).build().unwrap();
    let mut subscription = follow(&client, from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    peer.close(4001, "token_expired").await;
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 1).await;
    peer.batch(0, 1..=1).await;
    assert_eq!(updates(&mut subscription).await.0, [1]);
    let sent: Vec<_> = fake.requests().into_iter().map(|seen| seen.authorization.unwrap()).collect();
    assert_eq!(sent, ["Bearer token-1", "Bearer token-2"]);
    // Refused at the door, twice: it is not the token's age.
    let refused =
        || Fault::Say(401, vec![], r#"{"code":"invalid_token","detail":"its signature does not match"}"#);
    fake.fault(refused());
    fake.fault(refused());
    drop(peer);
    assert_eq!(end(&mut subscription).await.refused().unwrap().code, "invalid_token");
}

#[tokio::test]
async fn refusals_end_it_or_are_waited_out() {
    let mut fake = Fake::start().await;
    fake.fault(Fault::Say(503, vec![("retry-after", "0")], r#"{"code":"unavailable"}"#));
    let client = client(&fake).build().unwrap();
    let mut subscription = follow(&client, from(Resume::Head));
    let (mut peer, _) = fake.joining().await;
    peer.reply("error", json!({"code": "unavailable", "message": "wait", "retry_after_ms": 100})).await;
    let asked = Instant::now();
    peer.join().await;
    assert!(asked.elapsed() >= Duration::from_millis(90));
    peer.welcome(1, 0, 0).await;
    peer.push("sync:error", json!({"code": "unavailable", "message": "gone"})).await;
    peer.push("phx_error", json!({})).await;
    peer.join().await;
    peer.reply("error", json!({"code": "missing_scope", "message": "no khala:read"})).await;
    let error = end(&mut subscription).await;
    assert!(error.refused().unwrap().is_about_token(), "{error}");

    fake.fault(Fault::Say(403, vec![], r#"{"code":"origin_not_allowed","detail":"no"}"#));
    let mut subscription = follow(&client, from(Resume::Head));
    assert_eq!(end(&mut subscription).await.refused().unwrap().code, "origin_not_allowed");
    assert!(fake.requests().len() >= 3);
}

#[tokio::test]
async fn a_silent_connection_is_dead() {
    let mut fake = Fake::start().await;
    let client =
        client(&fake).options(pulse(Duration::from_millis(50), Duration::from_millis(200))).build().unwrap();
    let mut subscription = follow(&client, from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 0).await;
    let (reference, topic, event, _) = peer.frame().await.unwrap();
    assert_eq!((&*topic, &*event), ("phoenix", "heartbeat"));
    peer.text(json!([null, reference, "phoenix", "phx_reply", {"status": "ok", "response": {}}])).await;
    assert!(peer.frame().await.is_some(), "answered, it beats again");
    // Not answered, it comes back by another connection.
    let (_other, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::After(at(1, 0)));
    let mut seen = Vec::new();
    while let Some(Ok(event)) = next(&mut subscription).await {
        if let ConnectionEvent::Reconnecting { error, .. } = event {
            seen.push(error.to_string());
            break;
        }
    }
    assert!(seen[0].contains("heartbeat"), "{seen:?}");
}

#[tokio::test]
async fn a_slow_application_holds_the_server_back_and_keeps_its_connection() {
    let mut fake = Fake::start().await;
    let client =
        client(&fake).options(pulse(Duration::from_millis(20), Duration::from_millis(60))).build().unwrap();
    let mut subscription = client.connection_events(&topic(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 9).await;
    for seq in 1..=9 {
        peer.batch(seq - 1, seq..=seq).await;
    }
    // Nobody reads, so no answer of ours is heard; it beats on all the same, and does not take us for dead.
    for _ in 0..10 {
        assert_eq!(peer.frame().await.expect("it stays").2, "heartbeat");
    }
    for seq in 1..=9 {
        assert_eq!(updates(&mut subscription).await.0, [seq]);
    }
    drop(subscription);
    while peer.frame().await.is_some() {}
}

/// Appends to the fake's journal, behind its HTTP routes; gives the epoch's bits.
async fn kept(fake: &Fake, updates: u64) -> u64 {
    let update = |n: u64| NewUpdate::new(Kind::parse("k").unwrap(), Payload::of(&n).unwrap());
    let batch = Batch::new((1..=updates).map(update).collect()).unwrap();
    fake.journal.append(&topic(), batch, Timestamp::from_millis(0)).await.unwrap();
    fake.journal.bounds(&topic()).await.unwrap().epoch.bits()
}

/// A batch in which these updates have left their payloads behind.
fn left_out(after: u64, seqs: std::ops::RangeInclusive<u64>, left_out: &[u64]) -> serde_json::Value {
    let last = *seqs.end();
    let update = |seq: u64| match left_out.contains(&seq) {
        true => {
            json!({"seq": seq, "kind": "k", "payload": null, "published_at": 0, "hydration_required": true})
        }
        false => json!({"seq": seq, "kind": "k", "payload": seq, "published_at": 0}),
    };
    let updates: Vec<_> = seqs.map(update).collect();
    json!({"after": after, "head": last, "replay_complete": true, "updates": updates})
}

#[tokio::test]
async fn payloads_that_stayed_behind_are_fetched_before_they_are_handed_out() {
    let mut fake = Fake::start().await;
    let epoch = kept(&fake, 9).await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(epoch, 0, 9).await;
    fake.fault(Fault::Say(503, vec![("retry-after", "0")], "{}"));
    peer.push("sync:update_batch", left_out(0, 1..=9, &[2, 3, 7])).await;
    loop {
        let ConnectionEvent::Updates(arrived) = next(&mut subscription).await.unwrap().unwrap() else {
            continue;
        };
        let payloads: Vec<_> =
            arrived.updates.iter().map(|update| update.payload.as_str().to_owned()).collect();
        assert_eq!(payloads, (1..=9).map(|n: u64| n.to_string()).collect::<Vec<_>>());
        assert_eq!(arrived.cursor, at(epoch, 9));
        break;
    }
}

#[tokio::test]
async fn payloads_that_were_trimmed_before_they_were_fetched_come_again_with_the_next_join() {
    let mut fake = Fake::start().await;
    let epoch = kept(&fake, 9).await;
    let keep = Keep { updates: Some(2), ..Keep::everything() };
    fake.journal.trim(&topic(), keep, Timestamp::from_millis(0)).await.unwrap();
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(epoch, 2, 9).await;
    peer.batch(2, 3..=3).await;
    assert_eq!(updates(&mut subscription).await.0, [3]);
    peer.push("sync:update_batch", left_out(3, 4..=5, &[5])).await;
    let (_peer, join) = fake.joining().await;
    assert_eq!(join.request.resume, Resume::After(at(epoch, 3)), "from before them, for the server to say");
}

#[tokio::test]
async fn a_replay_that_is_put_off_is_tried_again_when_the_server_says() {
    let mut fake = Fake::start().await;
    let mut subscription = follow(&client(&fake).build().unwrap(), from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    let refusal = json!({"code": "replay_deferred", "message": "later", "retry_after_ms": 300});
    let told = Instant::now();
    peer.reply("error", refusal).await;
    peer.join().await;
    assert!(told.elapsed() >= Duration::from_millis(300), "no sooner, and on the same connection");
    peer.welcome(1, 0, 1).await;
    peer.batch(0, 1..=1).await;
    assert_eq!(updates(&mut subscription).await.0, [1]);
}

#[tokio::test]
async fn heartbeats_go_on_while_payloads_are_fetched() {
    let mut fake = Fake::start().await;
    let epoch = kept(&fake, 1).await;
    let client = client(&fake).options(pulse(Duration::from_millis(100), PATIENCE)).build().unwrap();
    let mut subscription = follow(&client, from(Resume::Floor));
    let (mut peer, _) = fake.joining().await;
    peer.welcome(epoch, 0, 1).await;
    // The payload cannot be had for two seconds; the connection is well.
    fake.fault(Fault::Say(503, vec![("retry-after", "2")], "{}"));
    peer.push("sync:update_batch", left_out(0, 1..=1, &[1])).await;
    while fake.requests().iter().all(|request| !request.path.contains("/updates")) {
        tokio::task::yield_now().await;
    }
    while timeout(Duration::from_millis(10), peer.frame()).await.is_ok() {}
    let beat = timeout(Duration::from_millis(1_000), peer.frame()).await;
    assert!(beat.is_ok(), "ten heartbeats were due, and a server takes a client for gone that sends none");
    drop(next(&mut subscription).await);
}
