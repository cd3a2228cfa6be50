//! Streams broken on purpose: each fault is found, and nothing is found where nothing is wrong.

use super::{fault::FAULTS, *};

const EPOCH: &str = "00000000000000aa";

fn payload(number: u64) -> String {
    format!(r#"{{"n":{number},"half": {number}.50}}"#)
}

fn acknowledgement(first: u64, last: u64) -> Acknowledgement<'static> {
    Acknowledgement { epoch: EPOCH, seqs: [first, last], numbers: [first, last] }
}

/// Nine payloads of one publisher, acknowledged in three batches as the updates 1 to 9.
fn published() -> (Published, PublisherId) {
    let (mut published, publisher) = submitted();
    for (first, last) in [(1, 3), (4, 6), (7, 9)] {
        published.acknowledge(publisher, acknowledgement(first, last));
    }
    (published, publisher)
}

fn submitted() -> (Published, PublisherId) {
    let mut published = Published::new(Limits::default());
    let publisher = published.publisher("publisher", Order::Submitted);
    for number in 1..=9 {
        assert_eq!(published.submit(publisher, payload(number).as_bytes()), number);
    }
    (published, publisher)
}

fn give(subscriber: &mut Subscriber, published: &mut Published, seq: u64, payload: &str) {
    let payload = payload.as_bytes();
    subscriber.given(published, Given { epoch: Some(EPOCH), seq, payload });
}

fn kinds(verdict: Verdict) -> Vec<FaultKind> {
    assert_eq!(verdict.more_faults, 0);
    verdict.faults.into_iter().map(|fault| fault.kind).collect()
}

/// What is found where a subscriber was given these, run by run.
fn found(delivery: Delivery, runs: &[&[u64]]) -> Vec<FaultKind> {
    let (mut published, _) = published();
    let mut subscriber = Subscriber::new("subscriber", delivery);
    for (number, run) in runs.iter().enumerate() {
        if number > 0 {
            subscriber.restarted();
        }
        for seq in *run {
            give(&mut subscriber, &mut published, *seq, &payload(*seq));
        }
    }
    let verdict = published.last_verdict([&subscriber]);
    assert!(verdict.faults.iter().all(|fault| fault.name == "subscriber"), "{verdict:?}");
    kinds(verdict)
}

/// What is found where a payload was replaced.
fn found_with(changed: u64, text: &str) -> Vec<FaultKind> {
    let (mut published, _) = published();
    let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
    for seq in 1..=9 {
        let own = if seq == changed { text.to_owned() } else { payload(seq) };
        give(&mut subscriber, &mut published, seq, &own);
    }
    kinds(published.last_verdict([&subscriber]))
}

const BOTH: [Delivery; 2] = [Delivery::AtLeastOnce, Delivery::ExactlyOnce];
const ALL: [u64; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

#[test]
fn nothing_is_wrong_with_what_is_right() {
    for delivery in BOTH {
        assert_eq!(found(delivery, &[&ALL]), []);
        assert_eq!(found(delivery, &[&ALL[..4], &ALL[4..]]), []);
    }
    assert_eq!(found(Delivery::AtLeastOnce, &[&ALL, &ALL]), []);
}

#[test]
fn a_lost_update_is_found() {
    for delivery in BOTH {
        assert_eq!(found(delivery, &[&ALL[..7]]), [FaultKind::Lost { seqs: 8..=9 }]);
        assert_eq!(found(delivery, &[]), [FaultKind::Lost { seqs: 1..=9 }]);
        let hole = [FaultKind::Gap { after: 3, seq: 5 }, FaultKind::Lost { seqs: 4..=4 }];
        assert_eq!(found(delivery, &[&[1, 2, 3, 5, 6, 7, 8, 9]]), hole);
        let between = [FaultKind::Gap { after: 4, seq: 6 }, FaultKind::Lost { seqs: 5..=5 }];
        assert_eq!(found(delivery, &[&ALL[..4], &ALL[5..]]), between);
    }
}

#[test]
fn a_doubled_update_is_found() {
    for delivery in BOTH {
        assert_eq!(found(delivery, &[&[1, 2, 3, 3, 4, 5, 6, 7, 8, 9]]), [FaultKind::Doubled { seq: 3 }]);
        let twice: Vec<u64> = ALL.into_iter().chain(ALL).collect();
        let doubled = ALL.map(|seq| FaultKind::Doubled { seq });
        assert_eq!(found(delivery, &[&twice]), doubled);
    }
}

#[test]
fn repeats_are_for_who_may_repeat_and_have_no_holes() {
    let runs: [&[u64]; 2] = [&ALL[..5], &ALL[4..]];
    assert_eq!(found(Delivery::ExactlyOnce, &runs), [FaultKind::Doubled { seq: 5 }]);
    assert_eq!(found(Delivery::AtLeastOnce, &runs), []);
    for (run, gap) in [(&[3, 5, 6, 7, 8, 9][..], 5), (&[3, 6, 7, 8, 9], 6)] {
        let found = found(Delivery::AtLeastOnce, &[&ALL[..5], run]);
        assert_eq!(found, [FaultKind::Gap { after: 3, seq: gap }]);
    }
}

#[test]
fn a_reordered_update_is_found() {
    for delivery in BOTH {
        let found = found(delivery, &[&[1, 2, 4, 3, 5, 6, 7, 8, 9]]);
        assert_eq!(found, [FaultKind::Gap { after: 2, seq: 4 }, FaultKind::Reordered { seq: 3, after: 4 }]);
    }
}

#[test]
fn a_changed_byte_is_found() {
    // The same value to every JSON reader, and not the same bytes.
    for (from, to) in [(".50", ".5"), (":", ": "), ("half", "\\u0068alf")] {
        let found = found_with(7, &payload(7).replacen(from, to, 1));
        assert!(matches!(&found[..], [FaultKind::Changed { seq: 7, .. }]), "{found:?}");
    }
    let words = FaultKind::changed(7, b"{\"n\":7}", b"{\"n\": 7}").to_string();
    assert_eq!(words, r#"update 7 differs from byte 5: "{\"n\":7}" was published, "{\"n\": 7}" was given"#);
}

#[test]
fn a_changed_repeat_is_no_repeat() {
    let (mut published, _) = published();
    let mut subscriber = Subscriber::new("subscriber", Delivery::AtLeastOnce);
    for seq in ALL {
        give(&mut subscriber, &mut published, seq, &payload(seq));
    }
    subscriber.restarted();
    give(&mut subscriber, &mut published, 9, &format!("{} ", payload(9)));
    let kinds = kinds(published.last_verdict([&subscriber]));
    assert!(matches!(&kinds[..], [FaultKind::Changed { seq: 9, .. }]), "{kinds:?}");
}

#[test]
fn an_invented_update_is_found() {
    for delivery in BOTH {
        let found = found(delivery, &[&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]);
        assert_eq!(found, [FaultKind::Invented { seq: 10 }]);
    }
}

#[test]
fn another_epoch_is_found() {
    for wrong in [1, 9] {
        let (mut published, _) = published();
        let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
        for seq in ALL {
            let epoch = if seq == wrong { "00000000000000bb" } else { EPOCH };
            let payload = payload(seq);
            subscriber.given(&mut published, Given { epoch: Some(epoch), seq, payload: payload.as_bytes() });
        }
        let kinds = kinds(published.last_verdict([&subscriber]));
        assert!(kinds.iter().any(|kind| matches!(kind, FaultKind::Epoch { .. })), "{kinds:?}");
    }
}

#[test]
fn what_is_given_before_it_is_acknowledged_is_compared_then() {
    for (text, fault) in [(payload(2), false), ("{}".to_owned(), true)] {
        let (mut published, publisher) = submitted();
        let mut subscribers = ["a", "b"].map(|name| Subscriber::new(name, Delivery::ExactlyOnce));
        for subscriber in &mut subscribers {
            give(subscriber, &mut published, 1, &payload(1));
        }
        give(&mut subscribers[0], &mut published, 2, &payload(2));
        give(&mut subscribers[1], &mut published, 2, &text);
        let early = kinds(published.verdict([&subscribers[0]]));
        assert!(early.contains(&FaultKind::Invented { seq: 2 }), "{early:?}");
        for (first, last) in [(1, 3), (4, 9)] {
            published.acknowledge(publisher, acknowledgement(first, last));
        }
        for subscriber in &mut subscribers {
            (3..=9).for_each(|seq| give(subscriber, &mut published, seq, &payload(seq)));
        }
        let verdict = published.last_verdict(&subscribers);
        let found: Vec<_> = verdict.faults.iter().map(|fault| &*fault.name).collect();
        assert_eq!(found, if fault { vec!["b"] } else { vec![] }, "{verdict:?}");
    }
}

#[test]
fn who_begins_later_needs_only_what_comes_then() {
    let (mut published, _) = published();
    let mut subscriber = Subscriber::starting_after("subscriber", Delivery::ExactlyOnce, 6);
    (7..=9).for_each(|seq| give(&mut subscriber, &mut published, seq, &payload(seq)));
    assert_eq!(kinds(published.last_verdict([&subscriber])), []);
}

#[test]
fn only_a_stale_subscriber_may_miss_what_was_trimmed() {
    for (stale, faults) in [(true, 0), (false, 2)] {
        let (mut published, _) = published();
        let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
        (1..=3).for_each(|seq| give(&mut subscriber, &mut published, seq, &payload(seq)));
        if stale {
            subscriber.stale();
        }
        (6..=9).for_each(|seq| give(&mut subscriber, &mut published, seq, &payload(seq)));
        assert_eq!(kinds(published.last_verdict([&subscriber])).len(), faults, "{stale}");
    }
}

#[test]
fn a_payload_that_is_no_longer_kept_is_said_to_be_uncompared() {
    let mut published = Published::new(Limits { payload_bytes: payload(1).len() * 2 });
    let publisher = published.publisher("publisher", Order::Submitted);
    for number in ALL {
        published.submit(publisher, payload(number).as_bytes());
        published.acknowledge(publisher, acknowledgement(number, number));
    }
    let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
    for seq in ALL {
        give(&mut subscriber, &mut published, seq, "{}");
    }
    let verdict = published.last_verdict([&subscriber]);
    assert_eq!(verdict.counted["subscriber"], Counted { updates: 9, repeated: 0, uncompared: 7 });
    assert!(matches!(&kinds(verdict)[..], [FaultKind::Changed { seq: 8, .. }, FaultKind::Changed { .. }]));
}

#[test]
fn faults_are_kept_up_to_a_bound_and_counted_beyond() {
    let (mut published, _) = published();
    let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
    for seq in ALL {
        give(&mut subscriber, &mut published, seq, &payload(seq));
    }
    (0..150).for_each(|_| give(&mut subscriber, &mut published, 9, &payload(9)));
    let verdict = published.last_verdict([&subscriber]);
    assert_eq!((verdict.faults.len(), verdict.more_faults), (FAULTS, 50));
}

#[test]
fn acknowledgements_are_checked_themselves() {
    type Told = (&'static [(u64, u64, u64, u64)], fn(&FaultKind) -> bool);
    // First and last seq, first and last number.
    let told: [Told; 7] = [
        (&[(1, 3, 1, 3), (4, 6, 4, 6)], |kind| *kind == FaultKind::Unacknowledged { numbers: 7..=9 }),
        (&[(1, 9, 1, 9), (9, 9, 9, 9)], |kind| *kind == FaultKind::Doubled { seq: 9 }),
        (&[(1, 9, 1, 9), (10, 10, 9, 9)], |kind| *kind == FaultKind::Doubled { seq: 10 }),
        (&[(4, 9, 4, 9), (1, 3, 1, 3)], |kind| matches!(kind, FaultKind::Reordered { .. })),
        (&[(1, 9, 1, 8)], |kind| matches!(kind, FaultKind::BadAcknowledgement { .. })),
        (&[(1, 10, 1, 10)], |kind| matches!(kind, FaultKind::BadAcknowledgement { .. })),
        (&[(0, 8, 1, 9)], |kind| matches!(kind, FaultKind::BadAcknowledgement { .. })),
    ];
    for (told, expected) in told {
        let (mut published, publisher) = submitted();
        for (first, last, from, to) in told {
            let ack = Acknowledgement { epoch: EPOCH, seqs: [*first, *last], numbers: [*from, *to] };
            published.acknowledge(publisher, ack);
        }
        let faults = published.last_verdict([]).faults;
        assert!(faults.iter().all(|fault| fault.name == "publisher"), "{faults:?}");
        assert!(faults.iter().any(|fault| expected(&fault.kind)), "{told:?}: {faults:?}");
    }
    let (mut published, publisher) = submitted();
    published.acknowledge(publisher, acknowledgement(1, 3));
    published.acknowledge(publisher, Acknowledgement { epoch: "", ..acknowledgement(4, 9) });
    assert!(matches!(&kinds(published.last_verdict([]))[..], [FaultKind::Epoch { seq: 4, .. }]));
}

#[test]
fn publishers_have_no_order_among_each_other_and_one_each_where_they_say_so() {
    for order in [Order::Any, Order::Submitted] {
        let (mut published, _) = published();
        let second = published.publisher("second", order);
        for number in 101..=103 {
            published.submit(second, payload(number).as_bytes());
        }
        for (seq, number) in [(11, 2), (10, 1)] {
            let ack = Acknowledgement { epoch: EPOCH, seqs: [seq, seq], numbers: [number, number] };
            published.acknowledge(second, ack);
        }
        published.withdraw(second, 3..=3);
        let expected = match order {
            Order::Any => vec![],
            Order::Submitted => vec![FaultKind::Reordered { seq: 10, after: 11 }],
        };
        assert_eq!(kinds(published.last_verdict([])), expected);
    }
}

#[test]
fn one_seq_for_two_publishers_is_found() {
    let (mut published, _) = published();
    let second = published.publisher("second", Order::Submitted);
    published.submit(second, b"{}");
    published.acknowledge(second, Acknowledgement { epoch: EPOCH, seqs: [9, 9], numbers: [1, 1] });
    let verdict = published.last_verdict([]);
    assert_eq!(verdict.faults, [Fault { name: "second".to_owned(), kind: FaultKind::Doubled { seq: 9 } }]);
}

#[test]
fn what_was_rolled_back_is_found_in_its_own_place_and_in_that_of_another() {
    for (seq, early) in [(10, false), (10, true), (9, false)] {
        let (mut published, _) = published();
        let second = published.publisher("second", Order::Submitted);
        published.submit(second, b"{}");
        let mut subscriber = Subscriber::new("subscriber", Delivery::ExactlyOnce);
        (1..seq).for_each(|seq| give(&mut subscriber, &mut published, seq, &payload(seq)));
        if early {
            give(&mut subscriber, &mut published, seq, "{}");
            published.withdraw(second, 1..=1);
        } else {
            published.withdraw(second, 1..=1);
            give(&mut subscriber, &mut published, seq, "{}");
        }
        assert_eq!(kinds(published.last_verdict([&subscriber])), [FaultKind::Withdrawn { seq }]);
    }
}

#[test]
fn ranges_are_the_numbers_that_were_put_in() {
    // A fixed generator: a failure can be repeated.
    let mut state = 7_u64;
    let mut draw = |below: u64| {
        state = state * 48_271 % 2_147_483_647;
        state % below
    };
    let (mut ranges, mut numbers) = (Ranges::default(), std::collections::BTreeSet::new());
    for _ in 0..4_000 {
        let number = 1 + draw(60);
        if draw(3) == 0 {
            assert_eq!(ranges.remove(number), numbers.remove(&number));
        } else {
            assert_eq!(ranges.insert(number), numbers.insert(number));
        }
        assert_eq!(
            ranges.within(0..=u64::MAX).flatten().collect::<Vec<_>>(),
            Vec::from_iter(numbers.clone())
        );
        let bounds = draw(60)..=draw(60);
        let within: Vec<u64> = numbers.iter().copied().filter(|number| bounds.contains(number)).collect();
        assert_eq!(ranges.within(bounds).flatten().collect::<Vec<_>>(), within);
        assert_eq!((ranges.len(), ranges.last()), (numbers.len() as u64, numbers.last().copied()));
    }
}
