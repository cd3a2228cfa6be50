//! Grants that are taken back, over the real driver: whom that ends, at once, and whom it leaves alone.

use std::time::Duration;

use futures::FutureExt as _;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Grant, Watermark,
    auth::{Access, Denied, Revocation, RevocationTarget, Revocations as _},
    connection::Sent,
    session::SessionOptions,
    wire::Close,
};
use serde_json::{Value, json};

use crate::{
    guards::{BadRow, Ledger, Mood},
    host::{GrantExt as _, HOUR, Host, Peer, id, jti, seconds, seqs},
};

/// A watching host, one joined peer, blocked by its network with more to come.
fn blocked(grant: impl FnOnce(&Host) -> Grant) -> (Host, Peer) {
    let mut host = Host::new(1);
    host.keeper.run();
    let mut peer = host.admit(grant(&host));
    for topic in ["t", "u", "v", "w"] {
        peer.join(topic, &json!({}));
    }
    peer.take(0);
    for topic in ["t", "u", "v", "w"] {
        host.publish(topic, 20);
    }
    peer.task.run();
    assert_eq!(peer.closed(), None);
    (host, peer)
}

#[test]
fn a_revocation_closes_what_it_names_and_nothing_else() {
    let host = Host::new(200);
    let peer = |token: &str, sid: &str, subject: &str| {
        let grant = Grant::from_verified(VerifiedClaims::new(
            subject,
            [Access::Read.scope()],
            host.khala.now().plus(HOUR),
        ));
        let grant = grant
            .with(|claims| claims.issued_at = Some(host.khala.now()))
            .with_token_id(token)
            .with_session_id(sid);
        let mut peer = host.admit(grant.with_key_id("k"));
        assert_eq!(peer.join("t", &json!({})).len(), 1);
        peer
    };
    let mut peers = [
        peer("1", "x", "ada"),
        peer("2", "x", "ada"),
        peer("3", "y", "ada"),
        peer("4", "z", "bob"),
        // Names of one kind are none of another.
        peer("ada", "1", "x"),
        peer("x", "ada", "1"),
    ];
    let mut closed = vec![false; peers.len()];
    for (target, takes) in [
        (jti("1"), &[0][..]),
        (RevocationTarget::Sid(id("x")), &[1]),
        (RevocationTarget::Sub(id("ada")), &[2]),
        (jti("nobody"), &[]),
    ] {
        host.revoke(target);
        for (at, peer) in peers.iter_mut().enumerate() {
            let close = takes.contains(&at).then_some(Close::TokenRevoked);
            if !closed[at] {
                assert_eq!(peer.closed(), close, "{at}");
                assert_eq!(
                    peer.sent(),
                    close.map(|_| json!({"close": 4003})).into_iter().collect::<Vec<_>>()
                );
                closed[at] = close.is_some();
            }
        }
    }
    host.publish("t", 1);
    for peer in &mut peers[3..] {
        assert_eq!(seqs(&peer.sent()), [1]);
    }
    assert_eq!(host.khala.connections().count(), 3);
}

#[test]
fn a_subjects_revocation_spares_tokens_of_a_later_second() {
    let mut host = Host::new(200);
    host.clock.pass(Duration::from_millis(300));
    let now = host.khala.now();
    let issued = |at| host.grant(HOUR).with(|claims| claims.issued_at = Some(at));
    let mut before = host.admit(issued(now.minus(seconds(5))));
    let mut same = host.admit(issued(now));
    let mut later = host.admit(issued(now.plus(seconds(1))));
    let mut never = host.admit(Grant::from_verified(VerifiedClaims::new(
        "somebody",
        [Access::Read.scope()],
        now.plus(HOUR),
    )));
    host.revoke(RevocationTarget::Sub(id("somebody")));
    let closed = [&mut before, &mut same, &mut never, &mut later].map(Peer::closed);
    let revoked = Some(Close::TokenRevoked);
    assert_eq!(closed, [revoked, revoked, revoked, revoked], "the last one was open, whatever it says");
    host.pass(seconds(2), &mut []);
    host.token("new", host.grant(HOUR));
    assert!(host.verify("new").unwrap().is_ok());
    let mut later = host.connect(HOUR);
    host.revoke(RevocationTarget::Sub(id("somebody")));
    assert_eq!(later.closed(), revoked, "the later one of the same name counts");
    assert!(matches!(host.verify("new"), Some(Err(Denied::TokenRevoked))));
}

#[test]
fn a_subjects_revocation_ends_what_a_clock_issued_that_was_ahead() {
    let revoked = |host: &Host, token: &str| matches!(host.verify(token), Some(Err(Denied::TokenRevoked)));
    for elsewhere in [false, true] {
        let mut host = Host::new(200);
        host.keeper.run();
        host.clock.set_forward(seconds(600));
        let (open, used) = (host.grant(HOUR).with_token_id("open"), host.grant(HOUR).with_token_id("used"));
        host.token("open", open.clone());
        host.token("used", used);
        assert!(host.verify("used").unwrap().is_ok());
        let mut peer = host.admit(open);
        host.pass(seconds(2), &mut [&mut peer]);
        // Another node's clock may be right while this one's is wrong still.
        let put_right = |host: &Host| host.clock.set_back(seconds(600));
        if elsewhere {
            let at = host.khala.now().minus(seconds(600));
            let revocation = Revocation::new(RevocationTarget::Sub(id("somebody")), at);
            host.ledger.inner.revoke(revocation).now_or_never().unwrap().unwrap();
            host.pass(seconds(1), &mut [&mut peer]);
            put_right(&host);
        } else {
            put_right(&host);
            host.revoke(RevocationTarget::Sub(id("somebody")));
        }
        assert_eq!(peer.closed(), Some(Close::TokenRevoked));
        host.pass(seconds(2), &mut []);
        host.token("new", host.grant(HOUR).with_token_id("new"));
        assert!(host.verify("new").unwrap().is_ok(), "a later login is spared");
        host.clock.set_forward(seconds(600));
        // Longer than what has ended is kept.
        host.pass(seconds(70), &mut []);
        assert!(revoked(&host, "open") && revoked(&host, "used"), "whatever the clock says");
        let stored = host.ledger.inner.revocations(Watermark::ORIGIN, 10.try_into().unwrap());
        assert_eq!(
            stored.now_or_never().unwrap().unwrap().revocations.len(),
            3,
            "each is stored, for all nodes"
        );
    }
}

#[test]
fn a_clock_that_is_ahead_for_a_while_forgets_no_revocation() {
    let mut host = Host::new(200);
    host.token("token", host.grant(HOUR).with_token_id("1"));
    let revocation = Revocation::new(jti("1"), host.khala.now()).with_until(host.khala.now().plus(HOUR));
    host.khala.access().revoke(revocation).now_or_never().unwrap().unwrap();
    host.keeper.run();
    host.clock.set_forward(2 * HOUR);
    host.pass(seconds(120), &mut []);
    host.clock.set_back(2 * HOUR);
    assert!(matches!(host.verify("token"), Some(Err(Denied::TokenRevoked))));
    host.pass(HOUR, &mut []);
    let stored = host.ledger.inner.revocations(Watermark::ORIGIN, 10.try_into().unwrap());
    assert!(stored.now_or_never().unwrap().unwrap().revocations.is_empty());
}

#[test]
fn a_withdrawn_key_ends_its_grants_until_it_is_restored() {
    let host = Host::new(200);
    let of = |key: &str| host.grant(HOUR).with_key_id(key);
    let (mut old, mut new, mut none) = (host.admit(of("old")), host.admit(of("new")), host.connect(HOUR));
    for peer in [&mut old, &mut new, &mut none] {
        peer.join("t", &json!({}));
    }
    host.khala.access().distrust_key("old");
    assert_eq!(old.sent(), [json!({"close": 4004})]);
    assert_eq!([&mut old, &mut new, &mut none].map(Peer::closed), [Some(Close::KeyWithdrawn), None, None]);
    host.token("token", of("old"));
    assert!(matches!(host.verify("token"), Some(Err(Denied::UnknownKid))));
    host.khala.access().trust_key("old");
    assert!(host.verify("token").unwrap().is_ok());
    assert_eq!(host.admit(of("old")).closed(), None);
}

#[test]
fn what_is_revoked_between_the_check_and_the_seat_is_found_at_the_seat() {
    let host = Host::new(200);
    host.token("token", host.grant(HOUR).with_token_id("1"));
    let grant = host.verify("token").unwrap().unwrap();
    host.revoke(jti("1"));
    let mut peer = host.admit(grant);
    assert_eq!(peer.join("t", &json!({})), [json!({"close": 4003})]);
    // And what is revoked after the seat was taken, before the connection runs.
    let mut peer = host.named("2");
    host.revoke(jti("2"));
    assert_eq!(peer.join("t", &json!({})), [json!({"close": 4003})]);
}

#[test]
fn a_fresh_token_that_is_revoked_before_it_has_its_seat_ends_the_connection() {
    let mut host = Host::new(1);
    host.keeper.run();
    let mut peer = host.admit(host.grant(HOUR).with_token_id("1"));
    for topic in ["t", "u", "v", "w"] {
        peer.join(topic, &json!({}));
    }
    host.token("new", host.grant(HOUR).with_token_id("2"));
    host.tokens.gate.set(Mood::Held);
    peer.refresh("new");
    peer.sent();
    peer.take(0);
    for topic in ["t", "u", "v", "w"] {
        host.publish(topic, 20);
    }
    peer.task.run();
    // It is verified while the write waits, and taken when that is done: what comes between names no seat.
    host.tokens.gate.set(Mood::Up);
    peer.task.run();
    host.revoke(jti("2"));
    peer.task.run();
    assert_eq!(peer.closed(), None, "it stands on the token of before");
    peer.take(usize::MAX);
    assert_eq!(peer.sent().last(), Some(&json!({"close": 4003})));
}

#[test]
fn a_revocation_ends_a_blocked_connection_at_once() {
    for by in ["jti", "kid", "sub"] {
        let (host, mut peer) = blocked(|host| host.grant(HOUR).with_token_id("1").with_key_id("k"));
        let given = peer.given();
        let close = match by {
            "kid" => {
                host.khala.access().distrust_key("k");
                Close::KeyWithdrawn
            }
            "jti" => {
                host.revoke(jti("1"));
                Close::TokenRevoked
            }
            _ => {
                host.revoke(RevocationTarget::Sub(id("somebody")));
                Close::TokenRevoked
            }
        };
        assert_eq!(peer.closed(), Some(close), "{by}: no time has to pass");
        assert_eq!(peer.given(), given);
        assert_eq!(host.khala.connections().count(), 0);
    }
}

#[test]
fn a_network_that_moves_again_when_the_grant_ends_is_given_nothing_more() {
    for ended in ["revoked", "withdrawn", "expired"] {
        let (host, mut peer) = blocked(|host| host.grant(seconds(10)).with_token_id("1").with_key_id("k"));
        let given = peer.given();
        let close = match ended {
            "revoked" => {
                host.revoke(jti("1"));
                Close::TokenRevoked
            }
            "withdrawn" => {
                host.khala.access().distrust_key("k");
                Close::KeyWithdrawn
            }
            _ => {
                host.clock.pass(seconds(10));
                Close::TokenExpired
            }
        };
        peer.take(usize::MAX);
        assert_eq!(peer.closed(), Some(close));
        let network = peer.network.lock().unwrap();
        let texts = network.given[given..].iter().filter(|(_, sent)| matches!(sent, Sent::Text(_)));
        assert_eq!(texts.count(), 0, "{ended}");
    }
}

#[test]
fn a_close_for_a_grant_that_has_ended_is_not_waited_for_long() {
    for ended in ["revoked", "withdrawn", "expired"] {
        let mut host = Host::new(200);
        let mut peer = host.admit(host.grant(seconds(10)).with_token_id("1").with_key_id("k"));
        peer.join("t", &json!({}));
        peer.take(0);
        match ended {
            "revoked" => _ = host.revoke(jti("1")),
            "withdrawn" => host.khala.access().distrust_key("k"),
            _ => host.clock.pass(seconds(10)),
        }
        assert_eq!(peer.closed(), None, "{ended}: the client has a moment to take it");
        host.pass(seconds(1), &mut [&mut peer]);
        assert!(peer.closed().is_some(), "{ended}");
        assert_eq!(host.khala.connections().count(), 0);
    }
}

#[test]
fn a_fanout_that_hangs_holds_up_neither_the_end_of_a_grant_nor_the_others() {
    let mut host = Host::new(200);
    let mut peer = host.named("1");
    peer.join("t", &json!({}));
    host.hints.gate.set(Mood::Held);
    assert!(peer.join("u", &json!({})).is_empty());
    host.revoke(jti("1"));
    assert_eq!(peer.closed(), Some(Close::TokenRevoked));
    let mut peer = host.connect(seconds(3));
    assert!(peer.join("u", &json!({})).is_empty());
    host.pass(seconds(3), &mut [&mut peer]);
    assert_eq!(peer.closed(), Some(Close::TokenExpired));
    // Without a watch it goes on by polling, after a while.
    let mut peer = host.connect(HOUR);
    assert!(peer.join("u", &json!({})).is_empty());
    host.pass(seconds(5), &mut [&mut peer]);
    assert_eq!(peer.sent()[0][4]["status"], "ok");
    host.publish("u", 1);
    host.pass(seconds(20), &mut [&mut peer]);
    assert_eq!(seqs(&peer.sent()), [1]);
}

#[test]
fn a_control_lane_that_is_dead_shows_in_what_polling_finds() {
    let mut host = Host::new(200);
    let counted = |host: &Host| {
        let totals = host.khala.stats().counters();
        (totals.revocations_announced, totals.revocations_heard, totals.missed_revocation_announcements)
    };
    host.revoke_elsewhere(jti("before"));
    host.keeper.run();
    assert_eq!(counted(&host), (0, 0, 0), "nobody could have told of what was before");
    host.revoke(jti("here"));
    host.keeper.run();
    host.pass(seconds(2), &mut []);
    assert_eq!(counted(&host), (1, 1, 0));
    host.revoke_elsewhere(jti("1"));
    host.revoke_elsewhere(jti("2"));
    host.pass(seconds(1), &mut []);
    assert_eq!(counted(&host), (1, 1, 2));
    // What could not be read at first is nobody's fault but the store's.
    host.ledger.gate.set(Mood::Down);
    host.pass(seconds(1), &mut []);
    host.ledger.gate.set(Mood::Up);
    host.revoke_elsewhere(jti("3"));
    host.pass(seconds(1), &mut []);
    assert_eq!(counted(&host), (1, 1, 2));
}

#[test]
fn a_fresh_token_is_checked_against_the_log() {
    let mut host = Host::new(200);
    host.keeper.run();
    let mut peer = host.named("1");
    peer.join("t", &json!({}));
    host.token("new", host.grant(HOUR).with_token_id("2"));
    host.tokens.gate.set(Mood::Held);
    peer.refresh("new");
    assert!(peer.sent().is_empty());
    // Revoked elsewhere while the verifier thinks.
    host.revoke(jti("2"));
    assert_eq!(peer.closed(), None);
    host.tokens.gate.set(Mood::Up);
    let sent = peer.sent();
    assert_eq!((sent.len(), &sent[0][4]["response"]["code"]), (1, &json!("token_revoked")));
    // The old one goes while the new one is checked.
    host.token("newer", host.grant(HOUR).with_token_id("3"));
    host.tokens.gate.set(Mood::Held);
    peer.refresh("newer");
    peer.task.run();
    host.revoke(jti("1"));
    assert_eq!(peer.sent(), [json!({"close": 4003})]);
}

#[test]
fn a_connection_goes_on_under_the_names_of_its_new_grant() {
    let host = Host::new(200);
    let mut peer = host.admit(host.grant(HOUR).with_token_id("1").with_session_id("x").with_key_id("old"));
    peer.join("t", &json!({}));
    host.token("new", host.grant(HOUR).with_token_id("2").with_session_id("y").with_key_id("new"));
    peer.refresh("new");
    assert_eq!(peer.sent()[0][4]["status"], "ok");
    host.revoke(jti("1"));
    host.revoke(RevocationTarget::Sid(id("x")));
    host.khala.access().distrust_key("old");
    host.publish("t", 1);
    assert_eq!(seqs(&peer.sent()), [1], "what it had is not what it has");
    host.khala.access().distrust_key("new");
    assert_eq!(peer.sent(), [json!({"close": 4004})]);
}

#[test]
fn a_verifier_that_hangs_is_given_up_and_the_connection_goes_on() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.tokens.gate.set(Mood::Held);
    peer.refresh("new");
    assert!(peer.sent().is_empty());
    host.publish("t", 1);
    assert_eq!(seqs(&peer.sent()), [1], "it is served meanwhile");
    host.pass(seconds(5), &mut [&mut peer]);
    let sent = peer.sent();
    let response = &sent[0][4]["response"];
    assert_eq!((&response["code"], &response["retry_after_ms"]), (&json!("unavailable"), &json!(1_000)));
    host.tokens.gate.set(Mood::Up);
    host.token("new", host.grant(HOUR));
    peer.refresh("new");
    assert_eq!(peer.sent()[0][4]["status"], "ok");
}

#[test]
fn an_authorizer_that_hangs_is_given_up_after_five_seconds() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    peer.join("t", &json!({}));
    host.doorman.gate.set(Mood::Held);
    assert!(peer.join("u", &json!({})).is_empty());
    host.publish("t", 1);
    assert_eq!(seqs(&peer.sent()), [1], "what was granted is served meanwhile");
    host.pass(Duration::from_millis(4_500), &mut [&mut peer]);
    assert!(peer.sent().is_empty());
    host.pass(Duration::from_millis(500), &mut [&mut peer]);
    let sent = peer.sent();
    assert_eq!((sent.len(), &sent[0][4]["response"]["code"]), (1, &json!("unavailable")));
    host.token("new", host.grant(HOUR));
    peer.refresh("new");
    assert_eq!(peer.sent()[0][4]["status"], "ok");
    host.publish("t", 1);
    assert!(peer.sent().is_empty(), "nothing before it was checked");
    host.pass(seconds(5), &mut [&mut peer]);
    let sent = peer.sent();
    let events: Vec<_> = sent.iter().map(|frame| frame[3].as_str().unwrap()).collect();
    assert_eq!(events, ["sync:error", "phx_error"]);
    host.doorman.gate.set(Mood::Up);
    assert_eq!(
        peer.join("t", &json!({"from": "floor"}))
            .iter()
            .flat_map(|f| seqs(std::slice::from_ref(f)))
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(host.doorman.asked() >= 4);
}

#[test]
fn the_five_seconds_are_not_those_of_a_clock_that_is_set() {
    let mut host = Host::new(200);
    let mut peer = host.connect(HOUR);
    host.doorman.gate.set(Mood::Held);
    assert!(peer.join("t", &json!({})).is_empty());
    host.clock.set_back(seconds(900));
    host.pass(seconds(5), &mut [&mut peer]);
    assert_eq!(peer.sent()[0][4]["response"]["code"], "unavailable");
}

#[test]
fn no_token_is_in_any_frame() {
    let mut host = Host::new(200);
    let secret = "s3cret";
    let mut peer = host.connect(HOUR);
    let mut sent: Vec<Value> = peer.join("t", &json!({}));
    let other = Grant::from_verified(VerifiedClaims::new(
        "another",
        [Access::Read.scope()],
        host.khala.now().plus(HOUR),
    ));
    for verdict in [
        Ok(host.grant(HOUR)),
        Ok(other),
        Ok(host.grant(Duration::ZERO)),
        Err(Denied::InvalidToken("it is none")),
        Err(Denied::Unavailable(khala_core::Error::new(khala_core::ErrorKind::Unavailable, "test", "down"))),
    ] {
        host.tokens.put(secret, verdict);
        for topic in ["phoenix", "t", "u"] {
            peer.say(topic, "access_token", &json!({ "access_token": secret }));
            sent.extend(peer.sent());
        }
    }
    host.pass(seconds(20), &mut [&mut peer]);
    sent.extend(peer.sent());
    assert!(sent.len() > 15);
    for frame in sent {
        assert!(!frame.to_string().contains(secret), "{frame}");
    }
}

fn notes(host: &Host) -> Vec<String> {
    host.khala.health().notes().into_iter().map(|(part, note)| format!("{part}: {note}")).collect()
}

#[test]
fn a_row_that_cannot_be_read_keeps_nobody_from_the_others_and_is_said() {
    // Pages of one row, so that it is a page by itself; and in the middle or the last.
    for (page, last) in [(1, false), (1, true), (usize::MAX, false), (usize::MAX, true)] {
        let mut host = Host::with(200, SessionOptions::default(), Ledger::with_page(page));
        for name in ["good", "unknown", "other"] {
            host.token(name, host.grant(HOUR).with_token_id(name));
        }
        let mut open = host.admit(host.grant(HOUR).with_token_id("bad"));
        host.token("bad", host.grant(HOUR).with_token_id("bad"));
        host.revoke_elsewhere(jti("unknown"));
        host.revoke_elsewhere(jti("bad"));
        if !last {
            host.revoke_elsewhere(jti("good"));
        }
        *host.ledger.corrupt.lock().unwrap() = vec![
            BadRow { meant: jti("unknown"), legible: false },
            BadRow { meant: jti("bad"), legible: true },
        ];
        host.keeper.run();
        open.task.run();
        assert_eq!(open.closed(), Some(Close::TokenRevoked), "who goes by what a bad row names is refused");
        let stands = |host: &Host, name| host.verify(name).unwrap().is_ok();
        assert_eq!(
            (stands(&host, "good"), stands(&host, "bad"), stands(&host, "other")),
            (last, false, true)
        );
        let said = notes(&host);
        assert!(
            said.len() == 1
                && said[0].starts_with("revocations: ")
                && said[0].contains("watermark 1 (it is not known what it names, so it is not enforced)")
                && said[0].contains("watermark 2 (every token that goes by what it names is refused)"),
            "{said:?}"
        );
        assert!(host.khala.health().failures().is_empty());
        if last {
            host.revoke_elsewhere(jti("good"));
            host.pass(seconds(1), &mut []);
            assert!(!stands(&host, "good"), "what is stored later is read");
        }

        // One is put right, and the other is taken away.
        host.ledger.corrupt.lock().unwrap().retain(|bad| !bad.legible);
        host.pass(seconds(61), &mut []);
        assert!(notes(&host)[0].contains("watermark 1") && !notes(&host)[0].contains("watermark 2"));
        assert!(!stands(&host, "bad"), "it is a revocation");
        host.ledger.corrupt.lock().unwrap().clear();
        host.pass(seconds(61), &mut []);
        assert_eq!(notes(&host), Vec::<String>::new());
        assert_eq!(
            ["good", "bad", "unknown", "other"].map(|name| stands(&host, name)),
            [false, false, false, true]
        );
    }
}
