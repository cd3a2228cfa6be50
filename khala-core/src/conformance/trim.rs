//! What trimming takes, what it leaves, and what is planned of it: J13, J14, J19.

use std::time::Duration;

use crate::{
    journal::{Append, DEDUP_FOR, Keep, Trimmed},
    position::Watermark,
    update::{Timestamp, Update},
};

use super::{
    harness::Harness,
    race::at_once,
    subject::{NOW, Subject, at, batch, dedup, labelled, single, state, update, watermark},
};

/// J13: trimming renumbers nothing, even to empty.
pub async fn j13_trimming_renumbers_nothing<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J13", "j13");
    subject.write_numbers(1..=10).await;
    let before = subject.log().await;
    subject.trim(Keep { updates: Some(4), ..Keep::everything() }, NOW).await;
    let bounds = subject.bounds().await;
    // After the floor, because reading right at it is for J12 to judge.
    let kept = subject.follow(at(&bounds, 7)).await;
    assert_eq!(kept, before[7..], "J13: the updates after 7, once all up to 6 were trimmed");

    for (kept, next) in [(4, 11), (0, 12), (0, 13)] {
        subject.trim(Keep { updates: Some(kept), ..Keep::everything() }, NOW).await;
        let receipt = subject.write(single("next")).await;
        assert_eq!(receipt.first.as_u64(), next, "J13: the first seq after trimming to {kept} updates");
        assert_eq!(receipt.epoch, bounds.epoch, "J13: the epoch after trimming to {kept} updates");
    }
    subject.write(single("last")).await;
    let last = subject.follow(at(&bounds, 13)).await;
    assert_eq!(last.first().map(|update| update.seq.as_u64()), Some(14), "J13: what follows 13");
}

/// J14: the floor never goes back and never passes `never_past`. It stands where the limits put it: an update stays
/// if every limit that is set keeps it.
pub async fn j14_the_floor_never_goes_back<H: Harness>(store: H) {
    let all = Keep::everything;
    let subject = Subject::new(&store, "J14", "j14");
    trimmed_to(&subject, &[], 0, Keep { updates: Some(0), ..all() }, NOW).await;
    subject.write_numbers(1..=10).await;
    let log = subject.log().await;
    for (floor, keep) in [
        (0, all()),
        (0, Keep { updates: Some(11), ..all() }),
        (4, Keep { updates: Some(6), ..all() }),
        (4, Keep { updates: Some(8), ..all() }),
        (4, Keep { updates: Some(0), never_past: Some(watermark(2)), ..all() }),
        (4, Keep { updates: Some(0), never_past: Some(Watermark::ORIGIN), ..all() }),
        (4, Keep { never_past: Some(watermark(8)), ..all() }),
        (6, Keep { updates: Some(1), never_past: Some(watermark(6)), ..all() }),
        (6, Keep { bytes: Some(0), never_past: Some(watermark(6)), ..all() }),
        (6, Keep { age: Some(Duration::ZERO), never_past: Some(watermark(6)), ..all() }),
        (9, Keep { updates: Some(1), never_past: Some(watermark(100)), ..all() }),
        (10, Keep { updates: Some(0), ..all() }),
        (10, all()),
        (10, Keep { updates: Some(5), ..all() }),
    ] {
        trimmed_to(&subject, &log, floor, keep, NOW.plus(Duration::from_secs(1))).await;
    }
    bytes_count_texts(&subject.beside("j14.bytes")).await;
    age_trims_from_the_start(&subject.beside("j14.age")).await;
    a_clock_that_was_ahead_keeps_nothing(&subject.beside("j14.ahead")).await;
    with_others(&subject.beside("j14.race")).await;
}

/// Trims, and asserts where the floor is and what the answer says went of `log`, which is all there ever was.
async fn trimmed_to(subject: &Subject, log: &[Update], floor: u64, keep: Keep, now: Timestamp) {
    let before = subject.bounds().await.floor;
    let went = log.iter().filter(|update| !before.covers(update.seq) && watermark(floor).covers(update.seq));
    let sizes: Vec<u64> = went.map(|update| update.size() as u64).collect();
    let oldest = log.iter().find(|update| !watermark(floor).covers(update.seq));
    let Trimmed { bounds, updates, bytes, oldest: kept } = subject.trim(keep, now).await;
    assert_eq!(bounds.floor, watermark(floor), "J14: the floor that trimming with {keep:?} gives");
    let found = subject.bounds().await.floor;
    assert_eq!(found, bounds.floor, "J14: the floor after trimming with {keep:?}");
    assert_eq!(updates, sizes.len() as u64, "J14: how many updates went with {keep:?}");
    assert_eq!(bytes, sizes.iter().sum::<u64>(), "J14: how many bytes went with {keep:?}");
    let meant = oldest.map(|update| update.published_at);
    assert_eq!(kept, meant, "J14: when the oldest was published that {keep:?} keeps");
}

async fn bytes_count_texts(subject: &Subject) {
    // The key counts too, and text counts in bytes.
    let updates =
        [update("one"), state("key", "two"), update("ü"), state("schlüssel", "four"), update("five")];
    subject.write(batch(updates)).await;
    let log = subject.log().await;
    let size = |from: usize| log[from..].iter().map(|update| update.size() as u64).sum::<u64>();
    for (floor, keep) in [
        (0, Keep { bytes: Some(size(0)), ..Keep::everything() }),
        (1, Keep { bytes: Some(size(0) - 1), ..Keep::everything() }),
        (1, Keep { bytes: Some(size(1)), updates: Some(5), ..Keep::everything() }),
        (2, Keep { bytes: Some(size(1)), updates: Some(3), ..Keep::everything() }),
        (3, Keep { bytes: Some(size(3)), updates: Some(3), ..Keep::everything() }),
        (4, Keep { bytes: Some(size(3) - 1), ..Keep::everything() }),
        (5, Keep { bytes: Some(size(4) - 1), ..Keep::everything() }),
    ] {
        trimmed_to(subject, &log, floor, keep, NOW).await;
    }
}

async fn age_trims_from_the_start(subject: &Subject) {
    let second = |n: u64| NOW.plus(Duration::from_secs(n));
    // The third is older than the second, as clocks of several nodes have it.
    for (text, at) in [("a", 0), ("b", 10), ("c", 5), ("d", 20)] {
        subject.append(single(text), second(at)).await;
    }
    let mut log = subject.log().await;
    for (floor, age, now) in [(0, 20, 20), (1, 12, 20), (1, 11, 21), (3, 11, 22), (3, 60, 25), (4, 4, 25)] {
        let keep = Keep { age: Some(Duration::from_secs(age)), ..Keep::everything() };
        trimmed_to(subject, &log, floor, keep, second(now)).await;
    }
    // A clock that stands behind the log's finds nothing old.
    subject.append(single("e"), second(40)).await;
    let next = watermark(4).next().expect("there are seqs after 4");
    log.push(update("e").stored(next, second(40)));
    trimmed_to(subject, &log, 4, Keep { age: Some(Duration::ZERO), ..Keep::everything() }, second(30)).await;
}

async fn a_clock_that_was_ahead_keeps_nothing(subject: &Subject) {
    let second = |n: u64| NOW.plus(Duration::from_secs(n));
    const AHEAD: u64 = 400 * 24 * 60 * 60;
    for (text, at) in [("a", 0), ("b", AHEAD), ("c", AHEAD), ("d", 5), ("e", AHEAD)] {
        subject.append(single(text), second(at)).await;
    }
    let keep = Keep { age: Some(Duration::from_secs(10)), ..Keep::everything() };
    let log = subject.log().await;
    // They are as old as what follows them; the last one stays while nothing does.
    for (floor, now) in [(0, 10), (1, 11), (1, 15), (4, 16), (4, 1_000)] {
        trimmed_to(subject, &log, floor, keep, second(now)).await;
    }
    subject.append(single("f"), second(1_000)).await;
    let mut log = log;
    log.push(update("f").stored(watermark(5).next().expect("there are seqs after 5"), second(1_000)));
    for (floor, now) in [(4, 1_010), (6, 1_011)] {
        assert_eq!(
            subject.plan_trim(keep, second(now)).await.bounds.floor,
            watermark(floor),
            "J14: as planned"
        );
        trimmed_to(subject, &log, floor, keep, second(now)).await;
    }
}

/// Floors go forward while others append and trim.
async fn with_others(subject: &Subject) {
    let tasks = (0..6).map(|task| {
        let subject = subject.clone();
        async move {
            let mut floor = Watermark::ORIGIN;
            for n in 0..6 {
                subject.write(single(&format!("{task}.{n}"))).await;
                let keep = Keep { updates: Some(2 + task * n), ..Keep::everything() };
                let found = subject.trim(keep, NOW).await.bounds.floor;
                assert!(found >= floor, "J14: floor {floor} was seen, then trimming gave floor {found}");
                floor = found;
            }
        }
    });
    at_once(tasks).await;
}

/// J19: a plan is what a trim then does, and changes nothing.
pub async fn j19_a_plan_is_what_a_trim_then_does<H: Harness>(store: H) {
    let all = Keep::everything;
    let subject = Subject::new(&store, "J19", "j19");
    let second = |n: u64| NOW.plus(Duration::from_secs(n));
    // What bounds it has while it is untouched is for J16 to judge.
    let plan = subject.plan_trim(Keep { updates: Some(0), ..all() }, NOW).await;
    assert_eq!(
        subject.trim(Keep { updates: Some(0), ..all() }, NOW).await,
        plan,
        "J19: of a topic that was never written"
    );
    for (n, keep) in [
        all(),
        Keep { updates: Some(4), ..all() },
        Keep { updates: Some(0), ..all() },
        Keep { bytes: Some(30), ..all() },
        Keep { age: Some(Duration::from_secs(5)), ..all() },
        Keep { age: Some(Duration::from_secs(3)), bytes: Some(60), updates: Some(5), ..all() },
        Keep { updates: Some(0), never_past: Some(watermark(3)), ..all() },
        Keep { age: Some(Duration::ZERO), never_past: Some(watermark(5)), ..all() },
        Keep { bytes: Some(0), never_past: Some(Watermark::ORIGIN), ..all() },
    ]
    .into_iter()
    .enumerate()
    {
        let subject = subject.beside(&format!("j19.{n}"));
        for at in 1..=9 {
            subject.append(single(&"x".repeat(at * 2)), second(at as u64)).await;
        }
        planned(&subject, keep, second(10)).await;
        // From a floor that is not the origin, too.
        planned(&subject, keep, second(12)).await;
        planned(&subject, Keep { updates: Some(1), ..all() }, second(12)).await;
    }

    // As many as no store takes in one step.
    let subject = subject.beside("j19.many");
    for label in ["a", "b", "c"] {
        subject.write(batch(labelled(label, 700))).await;
    }
    planned(&subject, Keep { updates: Some(300), ..all() }, NOW).await;
    names_stay(&subject.beside("j19.names")).await;
    plans_amid_others(&subject.beside("j19.race")).await;
}

/// Plans, and asserts that everything is as before; trims, and asserts that it was planned so.
async fn planned(subject: &Subject, keep: Keep, now: Timestamp) {
    let before = subject.bounds().await;
    let plan = subject.plan_trim(keep, now).await;
    assert_eq!(subject.bounds().await, before, "J19: the bounds after planning {keep:?}");
    if before.floor == Watermark::ORIGIN {
        let kept = subject.log().await.len() as u64;
        assert_eq!(kept, before.floor.distance_to(before.head), "J19: what is kept after planning {keep:?}");
    }
    let again = subject.plan_trim(keep, now).await;
    assert_eq!(again, plan, "J19: the second of two plans of {keep:?}");
    let trimmed = subject.trim(keep, now).await;
    assert_eq!(trimmed, plan, "J19: what trimming with {keep:?} did, after that was planned");
}

/// A plan forgets no dedup key, however old.
async fn names_stay(subject: &Subject) {
    let named = || single("named").with_dedup(dedup("j19"));
    let receipt = subject.write(named()).await;
    subject.plan_trim(Keep { updates: Some(0), ..Keep::everything() }, NOW.plus(2 * DEDUP_FOR)).await;
    let again = subject.append(named(), NOW).await;
    assert_eq!(again, Append::Duplicate(receipt), "J19: the answer to a name whose end was planned");
}

/// What was planned is the least that goes, while others append and trim.
async fn plans_amid_others(subject: &Subject) {
    let tasks = (0..6).map(|task| {
        let subject = subject.clone();
        async move {
            let mut floor = Watermark::ORIGIN;
            for n in 0..6 {
                subject.write(single(&format!("{task}.{n}"))).await;
                let keep = Keep { updates: Some(2 + task * n), ..Keep::everything() };
                let plan = subject.plan_trim(keep, NOW).await.bounds.floor;
                assert!(plan >= floor, "J19: floor {floor} was seen, then a plan gave floor {plan}");
                floor = subject.trim(keep, NOW).await.bounds.floor;
                assert!(floor >= plan, "J19: floor {plan} was planned, then trimming gave floor {floor}");
            }
        }
    });
    at_once(tasks).await;
}
