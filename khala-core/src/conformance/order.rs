//! The order of a log: J1, J6, J7, J8.

use std::collections::BTreeMap;

use crate::{
    journal::{Keep, ReadLimit, Replay},
    position::{Bounds, Watermark},
};

use super::{
    harness::Harness,
    race::{Over, at_once, race},
    subject::{LARGE, NOW, Subject, batch, dedup, pages_of, seqs, single, state, text, texts, update},
};

/// J1: seqs are dense from one.
pub async fn j1_seqs_are_dense_from_one<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J1", "j1");
    let named = || single("named").with_dedup(dedup("name"));
    subject.write(named()).await;
    let mut next = 2;
    for size in [1, 3, 1, 7, 2] {
        let receipt = subject.write(batch((0..size).map(|n| update(&format!("{size}.{n}"))))).await;
        let given = (receipt.first.as_u64(), receipt.last.as_u64());
        assert_eq!(given, (next, next + size - 1), "J1: first and last seq of {size} updates");
        next += size;
        // What is not written must not use up a seq.
        subject.conflict(single("refused").with_expect(Watermark::ORIGIN)).await;
        subject.append(named(), NOW).await;
    }
    let found = seqs(&subject.log().await);
    assert_eq!(found, (1..next).collect::<Vec<_>>(), "J1: the seqs of the log");
}

/// J6: the head never goes back within an epoch.
pub async fn j6_head_never_goes_back<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J6", "j6");
    subject.write(single("first")).await;
    let over = Over::default();
    let readers = (0..3).map(|_| watch_head(subject.clone(), over.clone()));
    let writers = (0..4).map(|writer| {
        let subject = subject.clone();
        async move {
            for n in 0..10 {
                subject.write(single(&format!("{writer}.{n}"))).await;
                if writer == 0 && n % 4 == 3 {
                    subject.trim(Keep { updates: Some(3), ..Keep::everything() }, NOW).await;
                }
            }
        }
    });
    race(&over, readers, writers).await;

    // What writes nothing, and what removes, moves no head.
    let head = subject.bounds().await.head;
    subject.conflict(single("refused").with_expect(Watermark::ORIGIN)).await;
    assert_eq!(subject.bounds().await.head, head, "J6: the head after a conflict");
    for keep in
        [Keep { updates: Some(1), ..Keep::everything() }, Keep { updates: Some(0), ..Keep::everything() }]
    {
        let trimmed = subject.trim(keep, NOW).await.bounds.head;
        assert_eq!(trimmed, head, "J6: the head that trimming with {keep:?} gives");
        assert_eq!(subject.bounds().await.head, head, "J6: the head after trimming with {keep:?}");
    }
}

async fn watch_head(subject: Subject, over: Over) {
    let mut newest = (subject.bounds().await.epoch, Watermark::ORIGIN);
    let mut look = |source: &str, bounds: Bounds| {
        let (epoch, head) = newest;
        let back = bounds.epoch == epoch && bounds.head < head;
        assert!(!back, "J6: head {head} was seen, then {source} gave head {}", bounds.head);
        newest = (bounds.epoch, bounds.head);
    };
    loop {
        let last = over.is_over().await;
        let bounds = subject.bounds().await;
        look("bounds", bounds);
        look("bounds", subject.bounds().await);
        // What is behind the floor by now is for J11 to judge.
        if let Replay::Page(page) = subject.read(bounds.at_head(), LARGE).await {
            look("a page", page.bounds);
        }
        for (_, bounds) in subject.topics("j6", None, 1).await {
            look("topics", bounds);
        }
        if last {
            return;
        }
    }
}

/// J7: no late arrivals. Once a head was seen, nothing at or below it appears later, whatever order transactions
/// commit in.
pub async fn j7_no_late_arrivals<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J7", "j7");
    subject.write(single("first")).await;
    let over = Over::default();
    let readers =
        [pages_of(2), pages_of(7), LARGE].map(|limit| remember(subject.clone(), limit, over.clone()));
    let writers = (0..8).map(|writer| {
        let subject = subject.clone();
        async move {
            for n in 0..10 {
                // Batches of different sizes take differently long between their seqs and their commit.
                let size = if (writer + n) % 4 == 0 { 12 } else { 1 };
                subject.write(batch((0..size).map(|i| update(&format!("{writer}.{n}.{i}"))))).await;
            }
        }
    });
    let (remembered, _) = race(&over, readers, writers).await;

    let log = subject.log().await;
    for (seen, read_to) in remembered {
        for update in log.iter().filter(|update| read_to.covers(update.seq)) {
            let (seq, text) = (update.seq.as_u64(), text(update));
            match seen.get(&seq) {
                None => panic!("J7: update {seq} ({text}) appeared after a reader had seen a head past it"),
                Some(seen) => assert_eq!(seen, text, "J7: update {seq} is not what a reader had seen"),
            }
        }
    }
}

/// Follows the log and remembers what it said, as far as a head that was seen.
async fn remember(subject: Subject, limit: ReadLimit, over: Over) -> (BTreeMap<u64, String>, Watermark) {
    let mut seen = BTreeMap::new();
    let mut cursor = subject.bounds().await.at_floor();
    loop {
        let last = over.is_over().await;
        let head = subject.bounds().await.head;
        while cursor.watermark < head {
            let page = subject.page(cursor, limit).await;
            assert!(
                page.end() > cursor.watermark,
                "J7: head {head} was seen, but nothing follows {}: {page:?}",
                cursor.watermark
            );
            seen.extend(page.updates.iter().map(|update| (update.seq.as_u64(), text(update).to_owned())));
            cursor = page.cursor();
        }
        if last {
            return (seen, cursor.watermark);
        }
    }
}

/// J8: concurrent appends lose nothing and repeat nothing.
pub async fn j8_concurrent_appends_lose_and_repeat_nothing<H: Harness>(store: H) {
    let subjects = ["j8.a", "j8.b"].map(|topic| Subject::new(&store, "J8", topic));
    let writers = (0..16).map(|writer| {
        let subject = subjects[writer % 2].clone();
        async move {
            let mut written = Vec::new();
            for n in 0..5 {
                let text = format!("{writer}.{n}");
                // With a document here and there, because a store may take another way for those.
                let update = if n == 3 { state(&format!("{writer}"), &text) } else { update(&text) };
                written.push((subject.write(batch([update])).await, text));
            }
            (writer % 2, written)
        }
    });
    let mut acknowledged = [Vec::new(), Vec::new()];
    for (topic, written) in at_once(writers).await {
        acknowledged[topic].extend(written);
    }
    for (subject, mut acknowledged) in subjects.iter().zip(acknowledged) {
        acknowledged.sort_by_key(|(receipt, _)| receipt.first);
        let said = acknowledged.into_iter().map(|(receipt, text)| (receipt.first.as_u64(), text));
        let log = subject.log().await;
        let found: Vec<_> = seqs(&log).into_iter().zip(texts(&log)).collect();
        assert_eq!(found, said.collect::<Vec<_>>(), "J8: the log, against what was acknowledged where");
    }
}
