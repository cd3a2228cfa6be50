//! How a node keeps up with the log of revocations: by hints, by polling, with a store and a fanout that fail.

use std::{num::NonZeroUsize, time::Duration};

use futures::FutureExt as _;
use khala_core::{
    Token, Watermark,
    auth::{Denied, Revocation, Revocations as _},
    session::SessionOptions,
    wire::Close,
};
use serde_json::json;

use crate::{
    clock::Task,
    guards::{Ledger, Mood},
    host::{GrantExt as _, HOUR, Host, jti, seconds},
};

#[test]
fn what_another_node_revokes_is_found_at_the_hint_or_by_polling() {
    let mut host = Host::new(200);
    host.keeper.run();
    for (hinted, n) in [(true, 1), (true, 2), (false, 3), (true, 4), (false, 5)] {
        let mut peer = host.named(&n.to_string());
        peer.join("t", &json!({}));
        let watermark = host.revoke_elsewhere(jti(&n.to_string()));
        if hinted {
            // In the same millisecond as the last time that the log was read.
            host.fanout.raise_revoked(watermark);
            host.keeper.run();
        } else {
            host.keeper.run();
            assert_eq!(peer.closed(), None);
            host.pass(Duration::from_millis(500), &mut [&mut peer]);
        }
        assert_eq!(peer.closed(), Some(Close::TokenRevoked), "{n}");
    }
}

#[test]
fn a_hint_while_the_log_is_read_the_first_time_is_not_lost() {
    let mut host = Host::new(200);
    host.ledger.gate.set(Mood::Held);
    host.keeper.run();
    let mut peer = host.named("1");
    peer.join("t", &json!({}));
    // It has read up to here, and goes on to wait.
    host.ledger.gate.set(Mood::Up);
    host.hints.gate.set(Mood::Held);
    host.keeper.run();
    let watermark = host.revoke_elsewhere(jti("1"));
    host.fanout.raise_revoked(watermark);
    host.hints.gate.set(Mood::Up);
    host.keeper.run();
    assert_eq!(peer.closed(), Some(Close::TokenRevoked));
}

#[test]
fn neither_a_watch_nor_a_pruning_that_hangs_stops_the_polling() {
    let mut host = Host::new(200);
    host.hints.gate.set(Mood::Held);
    host.ledger.broom.set(Mood::Held);
    host.keeper.run();
    for n in 0..40 {
        let token = n.to_string();
        let mut peer = host.named(&token);
        peer.task.run();
        host.revoke_elsewhere(jti(&token));
        host.pass(seconds(11), &mut []);
        assert_eq!(peer.closed(), Some(Close::TokenRevoked), "{n}");
    }
}

#[test]
fn the_log_is_read_to_its_end_whatever_the_size_of_its_pages() {
    for page in [1, 2, 3, usize::MAX] {
        let mut host = Host::with(200, SessionOptions::default(), Ledger::with_page(page));
        for n in 0..7 {
            host.revoke_elsewhere(jti(&n.to_string()));
        }
        for n in 0..8 {
            host.token(&n.to_string(), host.grant(HOUR).with_token_id(n.to_string()));
        }
        assert!(matches!(host.verify("6"), Some(Err(Denied::TokenRevoked))), "{page}");
        assert!(host.verify("7").unwrap().is_ok());
        let mut peer = host.named("8");
        peer.task.run();
        for n in 8..12 {
            host.revoke_elsewhere(jti(&(19 - n).to_string()));
        }
        host.keeper.run();
        assert_eq!(peer.closed(), Some(Close::TokenRevoked));
    }
}

/// The log went back, as after a failover that lost commits, and has grown since.
#[test]
fn what_a_log_has_lost_stays_revoked_and_is_stored_again_and_what_took_its_place_is_found() {
    let mut host = Host::new(200);
    host.keeper.run();
    host.revoke_elsewhere(jti("kept"));
    host.revoke_elsewhere(jti("lost"));
    host.pass(seconds(1), &mut []);
    host.ledger.go_back_to(1);
    // It gets the watermark that the lost one had.
    host.revoke_elsewhere(jti("new"));
    let mut peer = host.named("new");
    peer.task.run();
    host.pass(seconds(1), &mut [&mut peer]);
    assert_eq!(peer.closed(), Some(Close::TokenRevoked));
    host.pass(seconds(1), &mut []);
    let log = host.ledger.revocations(Watermark::ORIGIN, NonZeroUsize::MAX).now_or_never().unwrap().unwrap();
    let mut names: Vec<_> =
        log.revocations.iter().map(|(_, one)| one.target.id().as_str().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(names, ["kept", "lost", "new"]);
    host.token("lost", host.grant(HOUR).with_token_id("lost"));
    assert!(matches!(host.verify("lost"), Some(Err(Denied::TokenRevoked))));
}

#[test]
fn a_log_that_was_read_in_part_is_not_known() {
    let host = Host::with(200, SessionOptions::default(), Ledger::with_page(1));
    host.revoke_elsewhere(jti("1"));
    host.revoke_elsewhere(jti("2"));
    host.token("token", host.grant(HOUR).with_token_id("2"));
    host.ledger.give(1);
    host.ledger.gate.set(Mood::Down);
    assert!(
        matches!(host.verify("token"), Some(Err(Denied::Unavailable(_)))),
        "it was never read to its end"
    );
    host.ledger.gate.set(Mood::Up);
    assert!(matches!(host.verify("token"), Some(Err(Denied::TokenRevoked))));
}

#[test]
fn what_is_known_holds_while_the_log_cannot_be_read() {
    let mut host = Host::new(200);
    host.keeper.run();
    host.revoke(jti("1"));
    for n in 1..=3 {
        host.token(&n.to_string(), host.grant(HOUR).with_token_id(n.to_string()));
    }
    host.ledger.gate.set(Mood::Down);
    host.pass(seconds(10), &mut []);
    assert!(matches!(host.verify("1"), Some(Err(Denied::TokenRevoked))));
    assert!(host.verify("2").unwrap().is_ok());
    host.revoke_elsewhere(jti("3"));
    assert!(host.verify("3").unwrap().is_ok(), "nobody here can know");
    host.ledger.gate.set(Mood::Up);
    host.pass(Duration::from_millis(500), &mut []);
    assert!(matches!(host.verify("3"), Some(Err(Denied::TokenRevoked))));
    assert!(matches!(host.verify("1"), Some(Err(Denied::TokenRevoked))));
}

#[test]
fn a_revocation_that_is_not_stored_has_no_effect() {
    let host = Host::new(200);
    let mut peer = host.named("1");
    peer.join("t", &json!({}));
    host.ledger.gate.set(Mood::Down);
    let revocation = Revocation::new(jti("1"), host.khala.now());
    assert!(host.khala.access().revoke(revocation).now_or_never().unwrap().is_err());
    assert_eq!(peer.closed(), None);
}

#[test]
fn many_who_want_to_know_read_the_log_once() {
    let host = Host::new(200);
    host.revoke_elsewhere(jti("1"));
    host.token("token", host.grant(HOUR).with_token_id("1"));
    host.ledger.gate.set(Mood::Held);
    let mut tasks: Vec<_> = (0..50)
        .map(|_| {
            let khala = host.khala.clone();
            Task::new(async move { khala.access().verify(&Token::new("token")).await })
        })
        .collect();
    for task in &mut tasks {
        task.run();
    }
    assert_eq!(host.ledger.reads(), 1);
    // Whoever reads for all of them is dropped halfway.
    tasks.remove(0);
    host.ledger.gate.set(Mood::Up);
    for _ in 0..3 {
        for task in &mut tasks {
            task.run();
        }
    }
    assert!(host.ledger.reads() <= 4, "{}", host.ledger.reads());
    for task in tasks {
        assert!(matches!(task.done, Some(Err(Denied::TokenRevoked))));
    }
    host.clock.pass(Duration::from_millis(999));
    let reads = host.ledger.reads();
    assert!(matches!(host.verify("token"), Some(Err(Denied::TokenRevoked))));
    assert_eq!(host.ledger.reads(), reads, "it is fresh for a second");
}

#[test]
fn a_log_that_hangs_is_given_up_after_a_while() {
    let host = Host::new(200);
    host.token("token", host.grant(HOUR));
    host.ledger.gate.set(Mood::Held);
    let verify = || {
        let khala = host.khala.clone();
        Task::new(async move { khala.access().verify(&Token::new("token")).await })
    };
    let mut task = verify();
    task.run();
    for _ in 0..5 {
        assert!(task.done.is_none());
        host.clock.pass(seconds(1));
        task.run();
    }
    assert!(matches!(task.done, Some(Err(Denied::Unavailable(_)))), "it was never read");
    host.ledger.gate.set(Mood::Up);
    assert!(host.verify("token").unwrap().is_ok());
    assert_eq!(host.clock.sleepers(), 0);
}

#[test]
fn a_clock_that_goes_back_hides_no_revocation() {
    // With nobody who keeps up, and with one.
    for kept in [false, true] {
        let mut host = Host::new(200);
        host.token("token", host.grant(HOUR).with_token_id("1"));
        host.keeper.run();
        assert!(host.verify("token").unwrap().is_ok());
        host.clock.set_back(seconds(900));
        host.revoke_elsewhere(jti("1"));
        if kept {
            host.pass(Duration::from_millis(500), &mut []);
        } else {
            host.clock.pass(seconds(2));
        }
        assert!(matches!(host.verify("token"), Some(Err(Denied::TokenRevoked))), "{kept}");
    }
}

#[test]
fn what_has_ended_is_forgotten_and_nothing_else() {
    let mut host = Host::new(200);
    host.keeper.run();
    let now = host.khala.now();
    for (name, until) in
        [("1", Some(now.plus(seconds(30)))), ("2", Some(now.plus(seconds(300)))), ("3", None)]
    {
        let mut revocation = Revocation::new(jti(name), now);
        revocation.until = until;
        host.khala.access().revoke(revocation).now_or_never().unwrap().unwrap();
        host.token(name, host.grant(HOUR).with_token_id(name));
    }
    host.pass(seconds(61), &mut []);
    let stored = |host: &Host| {
        let all = host.ledger.inner.revocations(Watermark::ORIGIN, 10.try_into().unwrap());
        all.now_or_never().unwrap().unwrap().revocations.len()
    };
    assert_eq!(stored(&host), 2);
    let verdicts = ["1", "2", "3"].map(|name| host.verify(name).unwrap().is_ok());
    assert_eq!(verdicts, [true, false, false]);
    // What is revoked again is kept again.
    host.revoke_elsewhere(jti("1"));
    host.pass(seconds(301), &mut []);
    assert_eq!((stored(&host), host.verify("1").unwrap().is_ok()), (2, false));
}
