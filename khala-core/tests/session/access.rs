//! What a session may send: the check before each topic, the fresh token, and what is left of either's failures.

use std::{sync::Arc, time::Duration};

use khala_core::auth::VerifiedClaims;
use khala_core::{
    Error, ErrorKind, Grant,
    auth::{Access, Denied},
    session::{Question, SessionOptions},
    tail::{TailJournal, TailOptions},
    wire::{Close, Serializer},
};
use serde_json::{Value, json};

use crate::{
    clock::steady,
    guards::Mood,
    rig::{Rig, START, document, grant, seconds, seqs, update},
    store::Store,
};

const READ: &str = "khala:read";

fn rig_of(store: Arc<Store>, options: SessionOptions, scopes: &[&str]) -> Rig {
    let tail = Arc::new(TailJournal::new(Arc::<Store>::clone(&store), TailOptions::default()));
    Rig::beside(store, tail, Serializer::V2, options, scopes)
}

/// A session that carries these scopes; `a`, `b` and `c` take one of their own name.
fn rig(scopes: &[&str]) -> Rig {
    let rig = rig_of(Store::new(200, 1), SessionOptions::default(), scopes);
    for topic in ["a", "b", "c"] {
        rig.doorman.lock(topic);
    }
    rig
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "test", "out of order")
}

/// The event of each frame, by topic.
fn events(sent: &[Value]) -> Vec<(&str, &str)> {
    sent.iter().map(|frame| (frame[2].as_str().unwrap(), frame[3].as_str().unwrap())).collect()
}

fn is_access(rig: &Rig) -> bool {
    rig.asked.iter().all(|(_, _, question)| matches!(question, Question::Access(_)))
}

impl Rig {
    /// All updates of a topic that come now, which were told of.
    fn told(&mut self, topic: &str, n: u64) -> Vec<u64> {
        self.publish(topic, vec![update(n)]);
        let sent = self.pass(seconds(20));
        self.say(None, None, "phoenix", "heartbeat", &json!({}));
        self.run();
        let of = sent.iter().filter(|frame| frame[2] == topic && frame[3] == "sync:update_batch");
        of.flat_map(seqs).collect()
    }
}

#[test]
fn nothing_is_watched_read_or_sent_before_it_is_granted() {
    let mut rig = rig(&[READ]);
    rig.publish("t", vec![update(1)]);
    rig.doorman.gate.set(Mood::Held);
    for (reference, topic, from) in [("1", "t", "floor"), ("2", "u", "head"), ("3", "v", "snapshot")] {
        rig.join(reference, topic, &json!({ "from": from }));
    }
    assert!(rig.run().is_empty());
    assert!(rig.pass(seconds(40)).is_empty(), "polling asks for none of them");
    assert!(is_access(&rig) && rig.watching.is_empty() && rig.store.reads() == 0 && rig.questions == 0);
    rig.doorman.gate.set(Mood::Up);
    rig.answer();
    let sent = rig.run();
    assert_eq!(sent.iter().filter(|frame| frame[4]["status"] == "ok").count(), 3);
    assert_eq!(rig.watching.len(), 3);
}

#[test]
fn what_is_refused_is_never_watched() {
    let mut rig = rig(&[READ]);
    rig.join("1", "a", &json!({}));
    let sent = rig.run();
    assert_eq!((&sent[0][1], &sent[0][4]["response"]["code"]), (&json!("1"), &json!("forbidden_topic")));
    assert!(sent[0][4]["response"].get("retry_after_ms").is_none());
    assert!(sent.len() == 1 && rig.watching.is_empty() && rig.questions == 0);
}

#[test]
fn a_wider_token_opens_what_was_refused() {
    let mut rig = rig(&[READ]);
    rig.join("1", "a", &json!({}));
    assert_eq!(rig.run()[0][4]["response"]["code"], "forbidden_topic");
    let sent = rig.refresh(Ok(grant(&[READ, "a"], seconds(7_200))));
    let expires_at = START.plus(seconds(7_200));
    let taken = json!({"status": "ok", "response": {"expires_at": expires_at}});
    assert_eq!(sent, [json!([null, "r", "phoenix", "phx_reply", taken])]);
    rig.join("2", "a", &json!({}));
    assert_eq!(rig.run()[0][4]["status"], "ok");
    assert_eq!(rig.told("a", 1), [1]);
    assert_eq!(rig.session.expires_at(), expires_at);
}

#[test]
fn a_narrower_token_closes_what_it_does_not_cover_and_nothing_else() {
    let mut rig = rig(&[READ, "a", "b"]);
    for (reference, topic) in [("1", "a"), ("2", "b"), ("3", "t")] {
        rig.publish(topic, vec![update(1)]);
        rig.join(reference, topic, &json!({"from": "floor"}));
    }
    rig.run();
    let sent = rig.refresh(Ok(grant(&[READ, "b"], seconds(7_200))));
    assert_eq!(events(&sent), [("phoenix", "phx_reply"), ("a", "sync:error"), ("a", "phx_close")]);
    assert_eq!((&sent[1][0], &sent[1][4]["code"]), (&json!("1"), &json!("forbidden_topic")));
    assert!(sent[1][4].get("retry_after_ms").is_none());
    assert_eq!(sent[2], json!(["1", null, "a", "phx_close", {}]));
    assert_eq!(rig.watching.len(), 2);
    assert_eq!((rig.told("a", 2), rig.told("b", 2), rig.told("t", 2)), (vec![], vec![2], vec![2]));
    rig.join("4", "a", &json!({}));
    assert_eq!(rig.run()[0][4]["response"]["code"], "forbidden_topic");
}

#[test]
fn a_token_without_the_scope_closes_everything() {
    let mut rig = rig(&[READ, "a"]);
    for (reference, topic) in [("1", "a"), ("2", "t")] {
        rig.join(reference, topic, &json!({}));
    }
    rig.run();
    let sent = rig.refresh(Ok(grant(&[Access::Publish.scope()], seconds(60))));
    assert_eq!(sent.iter().filter(|frame| frame[4]["code"] == "missing_scope").count(), 2);
    assert!(rig.watching.is_empty() && rig.closed.is_none());
}

#[test]
fn a_token_of_somebody_else_is_refused_and_changes_nothing() {
    let mut rig = rig(&[READ, "a"]);
    rig.join("1", "a", &json!({}));
    rig.run();
    let other =
        Grant::from_verified(VerifiedClaims::new("another", [READ, "a", "b"], START.plus(seconds(9_999))));
    let sent = rig.refresh(Ok(other));
    assert_eq!((sent.len(), &sent[0][4]["status"]), (1, &json!("error")));
    assert_eq!(sent[0][4]["response"]["code"], "claim_mismatch");
    assert_eq!(rig.session.expires_at(), START.plus(seconds(3_600)));
    assert_eq!(rig.told("a", 1), [1]);
    rig.join("2", "b", &json!({}));
    assert_eq!(rig.run()[0][4]["response"]["code"], "forbidden_topic");
}

#[test]
fn an_expired_token_is_refused_and_the_old_end_stays() {
    let mut rig = rig(&[READ]);
    for lifetime in [0, 5] {
        rig.now = START.plus(seconds(5));
        let sent = rig.refresh(Ok(grant(&[READ], seconds(lifetime))));
        assert_eq!(sent[0][4]["response"]["code"], "token_expired", "{lifetime}");
    }
    for _ in 0..3_594 / 20 {
        rig.pass(seconds(20));
        rig.say(None, None, "phoenix", "heartbeat", &json!({}));
        rig.run();
    }
    assert_eq!(rig.closed, None);
    rig.pass(seconds(20));
    assert_eq!((rig.closed, rig.now), (Some(Close::TokenExpired), START.plus(seconds(3_600))));
}

#[test]
fn every_reason_is_told_and_changes_nothing() {
    let not_yet = Denied::TokenNotYetValid {
        claim: "iat",
        begins: START.plus(seconds(9)),
        now: START,
        leeway: seconds(5),
    };
    let message = not_yet.to_string();
    assert!(message.contains("its iat is 1009, and this server's clock says 1000"), "{message}");
    assert!(message.contains("jwt.leeway_seconds"), "{message}");
    let reasons = [
        (Denied::ClaimMismatch { claim: "aud" }, "claim_mismatch"),
        (Denied::ForbiddenTopic, "forbidden_topic"),
        (Denied::InvalidAuthorizationScheme, "invalid_authorization_scheme"),
        (Denied::InvalidToken("the signature is wrong"), "invalid_token"),
        (Denied::MissingIat, "missing_iat"),
        (Denied::MissingJti, "missing_jti"),
        (Denied::MissingScope { scopes: vec![READ.into()] }, "missing_scope"),
        (Denied::MissingToken, "missing_token"),
        (Denied::OriginNotAllowed, "origin_not_allowed"),
        (Denied::OwnerMismatch { claim: "org".into() }, "owner_mismatch"),
        (Denied::TokenExpired, "token_expired"),
        (not_yet, "token_not_yet_valid"),
        (Denied::TokenRevoked, "token_revoked"),
        (Denied::TokenTooOld, "token_too_old"),
        (Denied::Unavailable(down()), "unavailable"),
        (Denied::UnknownKid, "unknown_kid"),
    ];
    let mut rig = rig(&[READ]);
    rig.join("1", "t", &json!({}));
    rig.run();
    for (denied, code) in reasons {
        let retry_after = matches!(denied, Denied::Unavailable(_)).then_some(1_000);
        let sent = rig.refresh(Err(denied));
        assert_eq!((sent.len(), &sent[0][1], &sent[0][4]["status"]), (1, &json!("r"), &json!("error")));
        let response = &sent[0][4]["response"];
        assert_eq!((&response["code"], response["retry_after_ms"].as_u64()), (&json!(code), retry_after));
        assert!(!response["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(rig.session.expires_at(), START.plus(seconds(3_600)));
    assert_eq!(rig.told("t", 1), [1]);
}

#[test]
fn a_frame_without_a_token_is_told_what_is_wrong_and_not_what_it_held() {
    let mut rig = rig(&[READ]);
    for (payload, code) in [
        (json!({}), "missing_token"),
        (json!({"access_token": null}), "missing_token"),
        (json!({"access_token": ""}), "missing_token"),
        (json!("s3cret"), "invalid_token"),
        (json!(["s3cret"]), "invalid_token"),
        (json!({"access_token": {"s3cret": 1}}), "invalid_token"),
        (json!({"access_token": 53}), "invalid_token"),
    ] {
        rig.say(None, Some("1"), "phoenix", "access_token", &payload);
        let sent = rig.run();
        assert_eq!((sent.len(), &sent[0][4]["response"]["code"]), (1, &json!(code)), "{payload}");
        assert!(!sent[0].to_string().contains("s3cret"));
        assert!(rig.token.is_none());
    }
}

#[test]
fn a_token_comes_on_phoenix_or_on_a_joined_topic() {
    let mut rig = rig(&[READ]);
    let token = json!({"access_token": "s3cret"});
    rig.say(Some("1"), Some("2"), "t", "access_token", &token);
    let sent = rig.run();
    assert_eq!(sent[0][4]["response"]["code"], "unmatched_topic");
    assert!(!sent[0].to_string().contains("s3cret"));
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.say(Some("0"), Some("3"), "t", "access_token", &token);
    assert!(rig.run().is_empty() && rig.token.is_none(), "it is of an earlier join");
    rig.say(Some("1"), Some("4"), "t", "access_token", &token);
    assert!(rig.run().is_empty());
    rig.verified(Ok(grant(&[READ], seconds(60))));
    let sent = rig.run();
    assert_eq!((&sent[0][0], &sent[0][1], &sent[0][2]), (&json!("1"), &json!("4"), &json!("t")));
    assert_eq!(rig.told("t", 1), [1]);
}

#[test]
fn one_token_is_checked_at_a_time() {
    let mut rig = rig(&[READ]);
    let token = json!({"access_token": "fresh"});
    rig.say(None, Some("1"), "phoenix", "access_token", &token);
    rig.say(None, Some("2"), "phoenix", "access_token", &token);
    let sent = rig.run();
    let response = &sent[0][4]["response"];
    assert_eq!((sent.len(), &sent[0][1], &response["code"]), (1, &json!("2"), &json!("frame_rate_limited")));
    assert_eq!(response["retry_after_ms"], 1_000);
    rig.verified(Ok(grant(&[READ], seconds(60))));
    let sent = rig.run();
    assert_eq!((sent.len(), &sent[0][1], &sent[0][4]["status"]), (1, &json!("1"), &json!("ok")));
    assert_eq!(rig.refresh(Ok(grant(&[READ], seconds(90))))[0][4]["status"], "ok");
}

#[test]
fn a_token_that_ends_sooner_ends_the_connection_sooner() {
    let mut rig = rig(&[READ]);
    rig.refresh(Ok(grant(&[READ], seconds(10))));
    assert!(rig.session.poll_timeout(rig.both()) <= steady(START.plus(seconds(10))));
    rig.pass(seconds(10));
    assert_eq!((rig.closed, rig.now), (Some(Close::TokenExpired), START.plus(seconds(10))));
}

#[test]
fn a_token_is_taken_until_the_last_moment_and_not_after() {
    let mut rig = rig(&[READ]);
    rig.now = START.plus(seconds(3_600)).minus(Duration::from_millis(1));
    rig.say(None, Some("1"), "phoenix", "access_token", &json!({"access_token": "fresh"}));
    assert!(rig.run().is_empty());
    rig.verified(Ok(grant(&[READ], seconds(7_200))));
    assert_eq!(rig.run()[0][4]["status"], "ok");
    rig.now = START.plus(seconds(7_199));
    rig.say(None, Some("2"), "phoenix", "access_token", &json!({"access_token": "fresh"}));
    assert!(rig.run().is_empty());
    rig.now = START.plus(seconds(7_200));
    rig.verified(Ok(grant(&[READ], seconds(9_999))));
    assert!(rig.act().is_empty());
    assert_eq!(rig.closed, Some(Close::TokenExpired), "the old grant ended while the new one was checked");
}

#[test]
fn an_authorizer_that_is_down_refuses_a_join_for_now() {
    let mut rig = rig(&[READ, "a"]);
    rig.doorman.gate.set(Mood::Down);
    rig.join("1", "a", &json!({}));
    let sent = rig.run();
    let response = &sent[0][4]["response"];
    assert_eq!((sent.len(), &sent[0][1], &sent[0][4]["status"]), (1, &json!("1"), &json!("error")));
    assert_eq!((&response["code"], &response["retry_after_ms"]), (&json!("unavailable"), &json!(1_000)));
    assert!(rig.watching.is_empty() && rig.questions == 0);
    rig.doorman.gate.set(Mood::Up);
    rig.join("2", "a", &json!({}));
    assert_eq!(rig.run()[0][4]["status"], "ok");
}

#[test]
fn an_authorizer_that_is_down_at_a_refresh_ends_channels_that_may_come_back() {
    let mut rig = rig(&[READ, "a"]);
    rig.publish("a", vec![update(1)]);
    rig.join("1", "a", &json!({"from": "floor"}));
    rig.run();
    rig.doorman.gate.set(Mood::Down);
    let sent = rig.refresh(Ok(grant(&[READ, "a"], seconds(7_200))));
    assert_eq!(events(&sent), [("phoenix", "phx_reply"), ("a", "sync:error"), ("a", "phx_error")]);
    assert_eq!((&sent[1][4]["code"], &sent[1][4]["retry_after_ms"]), (&json!("unavailable"), &json!(1_000)));
    assert!(rig.watching.is_empty());
    rig.publish("a", vec![update(2)]);
    rig.doorman.gate.set(Mood::Up);
    let epoch = rig.epoch("a");
    rig.join("2", "a", &json!({"after": 1, "epoch": epoch}));
    let mut sent = rig.run();
    sent.extend(rig.pass(seconds(20)));
    assert_eq!((&sent[0][4]["status"], seqs(&sent[1])), (&json!("ok"), vec![2]));
}

#[test]
fn a_check_that_fails_in_any_other_way_is_unavailable_too() {
    let mut rig = rig(&[READ]);
    rig.doorman.gate.set(Mood::Held);
    rig.join("1", "t", &json!({}));
    rig.run();
    let (channel, ..) = rig.asked.pop().unwrap();
    rig.session.handle_answer(channel, Err(down()), rig.both());
    let sent = rig.run();
    assert_eq!(sent[0][4]["response"]["code"], "unavailable");
    assert_eq!(sent[0][4]["response"]["retry_after_ms"], 1_000);
    assert!(rig.asked.is_empty() && rig.watching.is_empty());
}

#[test]
fn what_was_read_under_the_old_grant_is_not_sent_before_the_new_one_was_checked() {
    for scopes in [&[READ, "a"][..], &[READ]] {
        let mut rig = rig(&[READ, "a"]);
        rig.join("1", "a", &json!({}));
        rig.run();
        let head = rig.publish("a", vec![update(1)]);
        rig.session.handle_moved(rig.channel(), head);
        rig.act();
        assert_eq!(rig.asked.len(), 1, "a read is under way");
        rig.doorman.gate.set(Mood::Held);
        rig.say(None, Some("2"), "phoenix", "access_token", &json!({"access_token": "fresh"}));
        rig.act();
        rig.verified(Ok(grant(scopes, seconds(7_200))));
        assert_eq!(rig.act().len(), 1, "the token is taken");
        rig.answer();
        assert!(rig.run().is_empty(), "the page waits");
        rig.doorman.gate.set(Mood::Up);
        rig.answer();
        let sent = rig.run();
        if scopes.len() == 2 {
            assert_eq!(sent.iter().map(seqs).collect::<Vec<_>>(), [[1]], "and comes once");
        } else {
            assert_eq!(events(&sent), [("a", "sync:error"), ("a", "phx_close")]);
        }
    }
}

#[test]
fn a_snapshot_goes_on_where_a_refresh_interrupted_it() {
    // Interrupted before each page, and while each page is read.
    for (pages, reading) in [(0, true), (1, false), (1, true), (2, false), (2, true), (3, false)] {
        let mut rig = rig(&[READ, "a"]);
        rig.publish("a", vec![document("x"), document("y"), document("z")]);
        rig.join("1", "a", &json!({"from": "snapshot"}));
        let mut sent = Vec::new();
        for _ in 0..pages {
            sent.extend(rig.act());
            rig.answer();
        }
        if reading {
            sent.extend(rig.act());
        }
        rig.say(None, Some("2"), "phoenix", "access_token", &json!({"access_token": "fresh"}));
        sent.extend(rig.act());
        rig.verified(Ok(grant(&[READ, "a"], seconds(7_200))));
        rig.publish("a", vec![update(4)]);
        sent.extend(rig.bytes());
        let mut sent: Vec<_> = sent.iter().map(|frame| crate::rig::show(Serializer::V2, frame)).collect();
        sent.extend(rig.pass(seconds(20)));
        let answers = sent.iter().filter(|frame| frame[3] == "phx_reply" && frame[2] == "a").count();
        let keys = sent.iter().filter_map(|frame| frame[4]["documents"].as_array()).flatten();
        let keys: Vec<_> = keys.map(|document| document["doc_key"].as_str().unwrap()).collect();
        let updates: Vec<_> =
            sent.iter().filter(|frame| frame[3] == "sync:update_batch").flat_map(seqs).collect();
        assert_eq!((answers, keys), (1, vec!["x", "y", "z"]), "after {pages} pages, reading: {reading}");
        // Before page one there is no watermark for it to come after.
        assert_eq!(updates, if pages == 0 { vec![] } else { vec![4] });
    }
}

#[test]
fn the_verdict_under_a_grant_that_was_replaced_does_not_count() {
    for (first, second, open) in [(&[READ][..], &[READ, "a"][..], true), (&[READ, "a"], &[READ], false)] {
        let mut rig = rig(&[READ, "a"]);
        rig.join("1", "a", &json!({}));
        rig.run();
        rig.doorman.gate.set(Mood::Held);
        rig.refresh(Ok(grant(first, seconds(7_200))));
        assert!(is_access(&rig) && rig.asked.len() == 1);
        rig.refresh(Ok(grant(second, seconds(7_300))));
        assert_eq!(rig.asked.len(), 1, "one question at a time");
        rig.doorman.gate.set(Mood::Up);
        rig.answer();
        let sent = rig.run();
        assert_eq!(sent.is_empty(), open, "{sent:?}");
        assert_eq!(rig.told("a", 1), if open { vec![1] } else { vec![] });
    }
}

#[test]
fn a_join_that_a_refresh_overtakes_has_one_answer() {
    for from in ["head", "floor", "snapshot"] {
        for answered in 0..4 {
            let mut rig = rig(&[READ]);
            rig.publish("a", vec![document("x")]);
            rig.refresh(Ok(grant(&[READ, "a"], seconds(60))));
            rig.join("1", "a", &json!({ "from": from }));
            let mut sent = rig.act();
            for _ in 0..answered {
                rig.answer();
                sent.extend(rig.act());
            }
            let sent = {
                let mut all: Vec<_> =
                    sent.iter().map(|frame| crate::rig::show(Serializer::V2, frame)).collect();
                all.extend(rig.refresh(Ok(grant(&[READ, "a"], seconds(7_200)))));
                all
            };
            let answers = sent.iter().filter(|frame| frame[3] == "phx_reply" && frame[2] == "a");
            let answers: Vec<_> = answers.map(|frame| frame[4]["status"].as_str().unwrap()).collect();
            assert_eq!(answers, ["ok"], "{from} {answered}");
            assert_eq!(rig.told("a", 2), [2]);
        }
    }
}

#[test]
fn a_channel_that_goes_while_it_is_checked_leaves_nothing_behind() {
    let options = SessionOptions { concurrent_reads: 1.try_into().unwrap(), ..SessionOptions::default() };
    let mut rig = rig_of(Store::new(200, 1), options, &[READ]);
    rig.join("1", "t", &json!({}));
    rig.join("2", "u", &json!({}));
    rig.run();
    rig.doorman.gate.set(Mood::Held);
    rig.refresh(Ok(grant(&[READ], seconds(7_200))));
    assert_eq!(rig.asked.len(), 1);
    rig.say(Some("1"), Some("3"), "t", "phx_leave", &json!({}));
    rig.join("4", "u", &json!({}));
    let sent = rig.run();
    assert_eq!(events(&sent), [("t", "phx_reply"), ("t", "phx_close"), ("u", "phx_close")]);
    assert!(rig.watching.is_empty() && rig.asked.len() == 1);
    rig.doorman.gate.set(Mood::Up);
    rig.answer();
    let sent = rig.run();
    assert_eq!((sent.len(), &sent[0][1], &sent[0][4]["status"]), (1, &json!("4"), &json!("ok")));
    assert_eq!(rig.told("u", 1), [1]);
}

#[test]
fn a_failed_read_is_tried_again_after_a_refresh() {
    let mut rig = rig(&[READ]);
    rig.join("1", "t", &json!({}));
    rig.run();
    let head = rig.publish("t", vec![update(1)]);
    rig.store.fail(1);
    rig.session.handle_moved(rig.channel(), head);
    assert!(rig.run().is_empty());
    rig.doorman.gate.set(Mood::Held);
    rig.refresh(Ok(grant(&[READ], seconds(7_200))));
    assert!(rig.pass(seconds(2)).is_empty());
    rig.doorman.gate.set(Mood::Up);
    rig.answer();
    assert_eq!(seqs(&rig.run()[0]), [1]);
}

#[test]
fn a_drain_goes_on_through_a_refresh() {
    let mut rig = rig(&[READ]);
    rig.join("1", "t", &json!({}));
    rig.run();
    rig.session.handle_drain(seconds(5), rig.both());
    rig.run();
    assert_eq!(rig.refresh(Ok(grant(&[READ], seconds(7_200))))[0][4]["status"], "ok");
    rig.pass(seconds(5));
    assert_eq!(rig.closed, Some(Close::Restart));
}

#[test]
fn nothing_but_the_close_comes_after_a_revocation() {
    let mut rig = rig(&[READ]);
    rig.publish("t", vec![update(1)]);
    rig.join("1", "t", &json!({"from": "floor"}));
    for _ in 0..2 {
        rig.act();
        rig.answer();
    }
    rig.session.handle_revoked(Close::TokenRevoked);
    assert!(rig.act().is_empty());
    assert_eq!(rig.closed, Some(Close::TokenRevoked));
    rig.session.handle_revoked(Close::KeyWithdrawn);
    assert!(rig.act().is_empty() && rig.session.is_ended());
}

#[test]
fn what_a_close_has_left_to_send_is_cut_off_by_the_end_of_the_grant() {
    for revoked in [false, true] {
        let mut rig = rig(&[READ]);
        for _ in 0..=SessionOptions::default().malformed_frames {
            rig.text("[");
        }
        if revoked {
            rig.session.handle_revoked(Close::TokenRevoked);
        } else {
            rig.now = START.plus(seconds(3_600));
            rig.session.handle_timeout(rig.both());
        }
        assert!(rig.act().is_empty());
        assert_eq!(rig.closed, Some(Close::Hostile), "it was closed before, for that");
    }
}
