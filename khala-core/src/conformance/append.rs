//! What an append does, or does not: J2, J9, J10.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    chain::Chain,
    journal::{Append, Batch, Conflict, DEDUP_FOR, Keep, ReadFrom, Receipt},
    position::Watermark,
    update::Update,
};

use super::{
    harness::Harness,
    race::{Over, at_once, race},
    subject::{LARGE, NOW, Subject, batch, dedup, labelled, single, state, text, texts, update, watermark},
};

/// J2: a batch is atomic and contiguous.
pub async fn j2_a_batch_is_atomic_and_contiguous<H: Harness>(store: H) {
    let largest = Subject::new(&store, "J2", "j2.largest");
    let receipt = largest.write(batch((0..Batch::MAX).map(|n| update(&n.to_string())))).await;
    assert_eq!(width(&receipt), Batch::MAX as u64, "J2: the seqs of a batch of {}: {receipt:?}", Batch::MAX);
    let numbers: Vec<String> = (0..Batch::MAX).map(|n| n.to_string()).collect();
    assert!(texts(&largest.log().await) == numbers, "J2: the largest batch is not stored in its order");

    let subject = Subject::new(&store, "J2", "j2");
    let over = Over::default();
    let readers = (0..3).map(|_| watch_batches(subject.clone(), over.clone()));
    let writers = (0..4).map(|writer| {
        let subject = subject.clone();
        async move {
            let mut receipts = Vec::new();
            for n in 0..8 {
                let size = 2 + n % 4;
                let receipt = subject.write(batch(labelled(&format!("{writer}.{n}"), size))).await;
                assert_eq!(width(&receipt), size, "J2: the seqs of a batch of {size}: {receipt:?}");
                receipts.push(receipt);
            }
            receipts
        }
    });
    let (heads, receipts) = race(&over, readers, writers).await;
    let ends: BTreeSet<Watermark> =
        receipts.iter().flatten().map(|receipt| receipt.last.watermark()).collect();
    for head in heads.into_iter().flatten().filter(|head| *head > Watermark::ORIGIN) {
        assert!(ends.contains(&head), "J2: head {head} was seen, where no batch ends");
    }
    whole("J2", &subject.log().await);
}

fn width(receipt: &Receipt) -> u64 {
    receipt.last.as_u64() + 1 - receipt.first.as_u64()
}

async fn watch_batches(subject: Subject, over: Over) -> BTreeSet<Watermark> {
    let mut heads = BTreeSet::new();
    loop {
        let last = over.is_over().await;
        heads.insert(subject.bounds().await.head);
        let page = subject.page(ReadFrom::Origin, LARGE).await;
        heads.insert(page.bounds.head);
        // A page that ends before the head may end inside a batch.
        if page.is_complete() {
            whole("J2", &page.updates);
        }
        if last {
            return heads;
        }
    }
}

/// Asserts that batches stand whole and unmixed in a log that was read up to its head.
pub(super) fn whole(law: &str, log: &[Update]) {
    let mut log = log.iter();
    while let Some(first) = log.next() {
        let mut parts = text(first).split('/');
        let (label, size) =
            (parts.next().unwrap_or_default(), parts.nth(1).and_then(|size| size.parse().ok()));
        let size: u64 = size.unwrap_or_else(|| panic!("{law}: {} is no update of this law", text(first)));
        let found: Vec<_> = std::iter::once(first).chain(log.by_ref().take(size as usize - 1)).collect();
        let dense = found.iter().zip(first.seq.as_u64()..).all(|(update, seq)| update.seq.as_u64() == seq);
        let said: Vec<_> = found.iter().map(|update| text(update)).collect();
        let meant: Vec<_> = (0..size).map(|n| format!("{label}/{n}/{size}")).collect();
        assert!(
            dense && said == meant,
            "{law}: from seq {}, a batch of {size} was seen as {said:?}",
            first.seq
        );
    }
}

/// J9: a failed `expect` writes nothing.
pub async fn j9_a_failed_expect_writes_nothing<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J9", "j9");
    let refused = |found: u64, expected: u64| {
        let subject = subject.clone();
        async move {
            let (expected, found) = (watermark(expected), watermark(found));
            let refused = batch([update("refused"), state("refused", "refused")]);
            let conflict =
                subject.conflict(refused.with_expect(expected).with_dedup(dedup("tried before"))).await;
            assert_eq!(conflict, Conflict::Head { expected, found }, "J9: the conflict");
            assert_eq!(subject.bounds().await.head, found, "J9: the head after a failed expect");
            assert_eq!(subject.document("refused").await, None, "J9: a document of a failed expect");
        }
    };
    refused(0, 1).await;
    subject.write(batch([update("one"), update("two")]).with_expect(Watermark::ORIGIN)).await;
    for expected in [0, 1, 3, 1_000] {
        refused(2, expected).await;
    }
    subject.write(single("three").with_expect(watermark(2))).await;
    refused(3, 2).await;
    let found = texts(&subject.log().await);
    assert_eq!(found, ["one", "two", "three"], "J9: the log after failed expects");

    // The name of a publish that failed is free.
    subject.write(single("four").with_dedup(dedup("tried before"))).await;

    // Of those who expect the same head, one is right.
    let head = subject.bounds().await.head;
    let racers = (0..12).map(|racer| {
        let subject = subject.clone();
        async move { subject.append(single(&racer.to_string()).with_expect(head), NOW).await }
    });
    let answers = at_once(racers).await;
    let written = answers.iter().filter(|answer| matches!(answer, Append::Written(_))).count();
    assert_eq!(written, 1, "J9: appends that expected head {head} and were written: {answers:?}");
    let found = subject.bounds().await.head;
    assert_eq!(head.distance_to(found), 1, "J9: updates after many expected head {head}");
}

/// J20: a batch behind one that was not stored is not stored.
pub async fn j20_nothing_is_stored_behind_what_was_not<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J20", "j20");
    let (chain, other) = (Chain::new(), Chain::new());
    let chained = |name: &str, chain: &Chain| single(name).with_chain(chain.clone());
    subject.write(chained("one", &chain)).await;
    subject.write(chained("two", &other)).await;
    // As a store does that could not write one of them.
    chain.break_off();
    let head = subject.bounds().await.head;
    for cut_off in [chained("three", &chain), chained("one", &chain).with_dedup(dedup("j20"))] {
        subject.fail(cut_off).await;
    }
    assert_eq!(subject.bounds().await.head, head, "J20: the head after batches of a broken chain");
    assert_eq!(subject.log().await.len(), 2, "J20: updates after batches of a broken chain");
    subject.beside("j20.beside").write(chained("four", &other)).await;
}

/// J10: a repeated dedup key gives the first receipt and writes nothing, and another batch under it is a conflict.
pub async fn j10_a_repeated_dedup_key_writes_nothing<H: Harness>(store: H) {
    let subject = Subject::new(&store, "J10", "j10");
    let named = || batch([update("plain"), state("doc", "state").doc_version(7)]).with_dedup(dedup("name"));
    let first = subject.write(named()).await;
    let other = single("something else").with_dedup(dedup("name"));
    // In this order: the key, before the expected head, before the versions of documents.
    for (what, again) in
        [("the same batch", named()), ("one that expects another head", named().with_expect(watermark(40)))]
    {
        repeated(&subject, what, again, first).await;
    }
    let first_state = || state("doc", "state").doc_version(7);
    for (what, changed) in [
        ("something else", other.clone()),
        ("a part of it", single("plain").with_dedup(dedup("name"))),
        ("another order", batch([first_state(), update("plain")]).with_dedup(dedup("name"))),
        ("another version", batch([update("plain"), state("doc", "state")]).with_dedup(dedup("name"))),
        ("one that expects another head", other.clone().with_expect(watermark(40))),
    ] {
        let conflict = subject.conflict(changed).await;
        assert_eq!(conflict, Conflict::Dedup { first }, "J10: the answer to {what} under a known name");
    }
    assert_eq!(texts(&subject.log().await), ["plain", "state"], "J10: the log after repeats");

    // Somebody else's key of that name is another key, and so is that of nobody.
    let theirs = |whose: &str| single("theirs").with_dedup(dedup("theirs")).published_by(whose);
    let receipts = [subject.write(theirs("ada")).await, subject.write(theirs("bob")).await];
    repeated(&subject, "the batch of the first publisher", theirs("ada"), receipts[0]).await;
    repeated(&subject, "the batch of the second publisher", theirs("bob"), receipts[1]).await;
    subject.write(single("theirs").with_dedup(dedup("theirs"))).await;

    // The key names a publish to one topic.
    subject.beside("j10.beside").write(other.clone()).await;

    let racers = (0..12).map(|_| {
        let subject = subject.clone();
        async move { subject.append(single("race").with_dedup(dedup("race")), NOW).await }
    });
    let (mut receipts, mut written) = (Vec::new(), 0);
    for answer in at_once(racers).await {
        match answer {
            Append::Written(receipt) => {
                written += 1;
                receipts.push(receipt);
            }
            Append::Duplicate(receipt) => receipts.push(receipt),
            Append::Conflict(conflict) => panic!("J10: one of many of the same name met {conflict:?}"),
        }
    }
    assert_eq!(written, 1, "J10: how many appends of one name were written");
    assert!(
        receipts.iter().all(|receipt| *receipt == receipts[0]),
        "J10: one name, many receipts: {receipts:?}"
    );
    let found = subject.log().await.len();
    assert_eq!(found, 6, "J10: updates after 12 appends of one name");

    // As long as the updates are there, and for a day at least when they are not.
    let late = NOW.plus(100 * DEDUP_FOR);
    subject.trim(Keep::everything(), late).await;
    repeated(&subject, "a batch whose updates are kept", named(), first).await;
    let almost = NOW.plus(DEDUP_FOR - Duration::from_millis(1));
    subject.trim(Keep { updates: Some(0), ..Keep::everything() }, almost).await;
    repeated(&subject, "a batch whose updates were trimmed within a day", named(), first).await;
    assert_eq!(subject.conflict(other).await, Conflict::Dedup { first }, "J10: another batch then");
}

async fn repeated(subject: &Subject, what: &str, batch: Batch, first: Receipt) {
    let head = subject.bounds().await.head;
    let answer = subject.append(batch, NOW).await;
    assert_eq!(answer, Append::Duplicate(first), "J10: the answer to {what} under a known name");
    assert_eq!(subject.bounds().await.head, head, "J10: the head after {what} under a known name");
}
