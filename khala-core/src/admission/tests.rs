//! What is let in, by whose limit, and that everything is given back and forgotten.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use proptest::prelude::*;

use super::{
    rate::tests::{at, rates},
    shared::PLACE_RETRY_AFTER,
    *,
};
use crate::wire::Code;

fn some(number: u32) -> Option<NonZeroU32> {
    Some(NonZeroU32::new(number).unwrap())
}

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    Some(rate::tests::rate(per_second, burst))
}

fn none() -> AdmissionOptions {
    AdmissionOptions::unlimited()
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn connect(admission: &Admission, subject: &str, from: &str) -> Result<Admitted, Limited> {
    admission.connect(subject, address(from), at(0))
}

fn known(admission: &Admission) -> (usize, usize) {
    let state = admission.shared.as_ref().unwrap().lock();
    assert_eq!(state.subjects.entries.len(), state.subjects.queue.len());
    assert_eq!(state.addresses.entries.len(), state.addresses.queue.len());
    (state.subjects.entries.len(), state.addresses.entries.len())
}

fn limited(code: Code, by: LimitedBy, millis: u64) -> Limited {
    Limited { code, retry_after: Duration::from_millis(millis), by }
}

#[test]
fn a_burst_goes_at_once_and_then_the_rate() {
    let admission = Admission::new(AdmissionOptions { frames_per_connection: rate(10, 3), ..none() });
    let mut admitted = admission.connect("ada", None, at(0)).unwrap();
    for _ in 0..3 {
        admitted.frame(at(0)).unwrap();
    }
    let refused = admitted.frame(at(0)).unwrap_err();
    assert_eq!(refused, limited(Code::FrameRateLimited, LimitedBy::Connection, 100));
    assert_eq!(refused.to_string(), "this connection sends frames too fast: try again in 100 ms");
    assert!(admitted.frame(at(99)).is_err());
    admitted.frame(at(100)).unwrap();
    assert!(admitted.frame(at(100)).is_err());
    admitted.join(at(100)).unwrap();
}

#[test]
fn the_defaults_limit_a_connection_only() {
    let admission = Admission::default();
    assert!(admission.shared.is_none());
    let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
    for _ in 0..2_048 {
        admitted.join(at(0)).unwrap();
    }
    assert_eq!(admitted.join(at(0)), Err(limited(Code::JoinRateLimited, LimitedBy::Connection, 5)));
    for _ in 0..8_192 {
        admitted.frame(at(0)).unwrap();
    }
    assert_eq!(admitted.frame(at(0)), Err(limited(Code::FrameRateLimited, LimitedBy::Connection, 2)));
    let mut free = Admitted::unlimited();
    for _ in 0..10_000 {
        free.frame(at(0)).and_then(|()| free.join(at(0))).unwrap();
    }
}

#[test]
fn places_are_counted_and_given_back() {
    let admission = Admission::new(AdmissionOptions {
        connections_per_subject: some(2),
        connections_per_address: some(3),
        ..none()
    });
    let full = |by| Some(limited(Code::TooManyConnections, by, 1_000));
    let first = connect(&admission, "ada", "192.0.2.1").unwrap();
    let _second = connect(&admission, "ada", "192.0.2.2").unwrap();
    assert_eq!(connect(&admission, "ada", "192.0.2.3").err(), full(LimitedBy::Subject));
    drop(first);
    let _third = connect(&admission, "ada", "192.0.2.1").unwrap();
    let _fourth = connect(&admission, "bob", "192.0.2.1").unwrap();
    let fifth = connect(&admission, "bob", "192.0.2.1").unwrap();
    assert_eq!(connect(&admission, "eve", "192.0.2.1").err(), full(LimitedBy::Address));
    drop(fifth);
    connect(&admission, "eve", "192.0.2.1").unwrap();
    // Who comes from nowhere fills no address.
    let _sixth = admission.connect("bob", None, at(0)).unwrap();
    assert_eq!(admission.connect("bob", None, at(0)).err(), full(LimitedBy::Subject));
}

#[test]
fn all_together_have_a_limit_too() {
    let admission = Admission::new(AdmissionOptions { connections: some(2), ..none() });
    let full = Some(limited(Code::TooManyConnections, LimitedBy::Node, 1_000));
    let first = connect(&admission, "ada", "192.0.2.1").unwrap();
    let _second = connect(&admission, "bob", "192.0.2.2").unwrap();
    assert_eq!(connect(&admission, "eve", "192.0.2.3").err(), full);
    drop(first);
    let _third = connect(&admission, "eve", "192.0.2.3").unwrap();
    assert_eq!(admission.connect("eve", None, at(0)).err(), full);
}

#[test]
fn what_is_one_address() {
    let admission = Admission::new(AdmissionOptions { connections_per_address: some(1), ..none() });
    let _one = connect(&admission, "ada", "2001:db8:1:2:3:4:5:6").unwrap();
    assert!(connect(&admission, "ada", "2001:db8:1:2:ffff::1").is_err());
    let _two = connect(&admission, "ada", "2001:db8:1:3::1").unwrap();
    let _three = connect(&admission, "ada", "::ffff:192.0.2.1").unwrap();
    assert!(connect(&admission, "ada", "192.0.2.1").is_err());
    let _four = connect(&admission, "ada", "::ffff:192.0.2.2").unwrap();
}

#[test]
fn connects_joins_and_frames_are_shared_by_subject_and_by_address() {
    let admission = Admission::new(AdmissionOptions {
        connects_per_subject: rate(1, 2),
        connects_per_address: rate(2, 3),
        joins_per_subject: rate(1, 2),
        frames_per_address: rate(1, 2),
        ..none()
    });
    let mut one = connect(&admission, "ada", "192.0.2.1").unwrap();
    let mut two = connect(&admission, "ada", "192.0.2.1").unwrap();
    let too_many = |by, millis| Some(limited(Code::TooManyConnections, by, millis));
    assert_eq!(connect(&admission, "ada", "192.0.2.1").err(), too_many(LimitedBy::Subject, 1_000));
    let mut bob = connect(&admission, "bob", "192.0.2.1").unwrap();
    assert_eq!(connect(&admission, "eve", "192.0.2.1").err(), too_many(LimitedBy::Address, 500));

    one.join(at(0)).unwrap();
    two.join(at(0)).unwrap();
    let refused = limited(Code::JoinRateLimited, LimitedBy::Subject, 1_000);
    assert_eq!(one.join(at(0)), Err(refused));
    assert_eq!(refused.to_string(), "the token's subject joins too often: try again in 1000 ms");
    bob.join(at(0)).unwrap();

    one.frame(at(0)).unwrap();
    bob.frame(at(0)).unwrap();
    assert_eq!(two.frame(at(0)), Err(limited(Code::FrameRateLimited, LimitedBy::Address, 1_000)));
    // Coming back does not help: the bucket is not the connection's.
    drop((one, two, bob));
    let mut again = admission.connect("ada", address("192.0.2.1"), at(999)).err();
    assert_eq!(again.take(), too_many(LimitedBy::Subject, 1));
    let mut again = admission.connect("eve", address("192.0.2.1"), at(999)).unwrap();
    assert_eq!(again.frame(at(999)), Err(limited(Code::FrameRateLimited, LimitedBy::Address, 1)));
}

#[test]
fn who_tries_in_vain_uses_up_the_rate_of_its_address() {
    let admission = Admission::new(AdmissionOptions { connects_per_address: rate(1, 2), ..none() });
    let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
    for _ in 0..2 {
        admission.check_connect_rate(here, at(0)).unwrap();
        admission.failed(here, at(0));
    }
    let refused = limited(Code::TooManyConnections, LimitedBy::Address, 1_000);
    assert_eq!(admission.check_connect_rate(here, at(0)), Err(refused));
    assert!(admission.connect("ada", here, at(0)).is_err(), "good or in vain, it is one rate");
    assert_eq!(admission.check_connect_rate(here, at(1_000)), Ok(()));
    assert_eq!(
        (admission.check_connect_rate(there, at(0)), admission.check_connect_rate(None, at(0))),
        (Ok(()), Ok(()))
    );
    for host in 0..5_000_u32 {
        let guesser = Some(IpAddr::from(host.to_be_bytes()));
        admission.failed(guesser, at(u64::from(host) * 10_000));
    }
    assert!(known(&admission).1 < 10, "who has gone is forgotten");
}

#[test]
fn what_is_refused_takes_from_no_bucket() {
    let admission = Admission::new(AdmissionOptions {
        connections_per_subject: some(1),
        connects_per_subject: rate(1, 2),
        connects_per_address: rate(1, 2),
        frames_per_connection: rate(1, 1),
        frames_per_subject: rate(1, 3),
        frames_per_address: rate(1, 3),
        ..none()
    });
    let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
    for _ in 0..10 {
        assert_eq!(connect(&admission, "ada", "192.0.2.1").unwrap_err().retry_after, PLACE_RETRY_AFTER);
    }
    // The address has one connect left.
    let mut bob = connect(&admission, "bob", "192.0.2.1").unwrap();
    for _ in 0..10 {
        assert_eq!(connect(&admission, "eve", "192.0.2.1").unwrap_err().by, LimitedBy::Address);
    }
    let mut eve = connect(&admission, "eve", "192.0.2.2").unwrap();

    admitted.frame(at(0)).unwrap();
    for _ in 0..10 {
        assert_eq!(admitted.frame(at(0)).unwrap_err().by, LimitedBy::Connection);
    }
    bob.frame(at(0)).unwrap();
    eve.frame(at(0)).unwrap();
    drop(admitted);
    let mut back = admission.connect("ada", address("192.0.2.3"), at(0)).unwrap();
    back.frame(at(0)).unwrap();
}

#[test]
fn no_lock_where_nothing_of_the_kind_is_shared() {
    let admission = Admission::new(AdmissionOptions {
        connections_per_subject: some(9),
        joins_per_address: rate(1, 9),
        ..none()
    });
    let shared = admission.shared.as_ref().unwrap();
    let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
    admitted.frame(at(1)).unwrap();
    assert_eq!(shared.lock().latest, at(0), "a frame took the lock");
    admitted.join(at(2)).unwrap();
    assert_eq!(shared.lock().latest, at(2));
    let mut nowhere = admission.connect("ada", None, at(3)).unwrap();
    nowhere.join(at(4)).unwrap();
    assert_eq!(shared.lock().latest, at(3), "a join without an address took the lock");
}

#[test]
fn a_million_come_and_go_and_are_forgotten() {
    let admission = Admission::new(AdmissionOptions {
        connections_per_subject: some(1),
        connects_per_subject: rate(100, 1),
        connects_per_address: rate(100, 5),
        ..none()
    });
    let stays = connect(&admission, "stays", "198.51.100.1").unwrap();
    for number in 0..1_000_000_u32 {
        let from = IpAddr::from(number.to_be_bytes());
        let now = at(u64::from(number));
        drop(admission.connect(&number.to_string(), Some(from), now).unwrap());
        if number % 1_000 == 0 {
            let (subjects, addresses) = known(&admission);
            assert!(subjects < 64 && addresses < 64, "{subjects} {addresses}");
        }
    }
    assert_eq!(connect(&admission, "stays", "198.51.100.1").unwrap_err().by, LimitedBy::Subject);
    drop(stays);
    for _ in 0..64 {
        let _ = admission.connect("last", None, at(2_000_000));
    }
    assert_eq!(known(&admission), (1, 0));
}

#[test]
fn a_crowd_that_left_is_forgotten_by_whoever_comes_next() {
    let admission = Admission::new(AdmissionOptions { connections_per_subject: some(1), ..none() });
    let crowd: Vec<_> =
        (0..50_000).map(|number| admission.connect(&number.to_string(), None, at(0)).unwrap()).collect();
    assert_eq!(known(&admission).0, 50_000);
    drop(crowd);
    // The rest is found by those who come later.
    for _ in 0..known(&admission).0 {
        drop(admission.connect("late", None, at(0)).unwrap());
    }
    assert!(known(&admission).0 <= 1, "{}", known(&admission).0);
    let state = admission.shared.as_ref().unwrap().lock();
    assert!(state.subjects.entries.capacity() <= 2 * book::SMALL);
    assert!(state.subjects.queue.capacity() <= 2 * book::SMALL);
}

#[test]
fn threads_share_what_they_share() {
    let admission = Admission::new(AdmissionOptions { frames_per_subject: rate(1, 1_000), ..none() });
    let through: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let mut admitted = admission.clone().connect("ada", None, at(0)).unwrap();
                scope.spawn(move || (0..1_000).filter(|_| admitted.frame(at(0)).is_ok()).count())
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(through, 1_000);
}

proptest! {
    #[test]
    fn whoever_is_refused_by_several_waits_for_all(
        connection in rates(), subject in rates(), address_rate in rates(),
        steps in prop::collection::vec((0..50_u64, 0..2_usize), 1..120),
    ) {
        let admission = Admission::new(
            AdmissionOptions { frames_per_connection: Some(connection), frames_per_subject: Some(subject), frames_per_address: Some(address_rate), ..none() },
        );
        let mut pair = [(); 2].map(|()| connect(&admission, "ada", "192.0.2.1").unwrap());
        let mut now = at(0);
        for (step, which) in steps {
            now = now.plus(Duration::from_millis(step));
            if let Err(refused) = pair[which].frame(now) {
                now = now.plus(refused.retry_after);
                prop_assert_eq!(pair[which].frame(now), Ok(()));
            }
        }
    }
}
