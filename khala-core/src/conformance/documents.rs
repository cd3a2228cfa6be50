//! Documents, and the snapshot that the log continues: D1 to D4.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    documents::{Snapshot, SnapshotFrom},
    journal::{Append, Conflict, Keep, ReadLimit},
    position::{Cursor, Epoch, MAX_POSITION},
    update::{NewUpdate, Update},
};

use super::{
    harness::Harness,
    race::{Over, at_once, race},
    subject::{
        LARGE, NOW, Subject, at, batch, dedup, doc_key, kind, pages_of, state, text, texts, tombstone, update,
    },
};

/// D1: a document is the newest update of its key, and a given `doc_version` (default: the seq) that does not
/// exceed the stored one is a conflict that writes nothing.
pub async fn d1_a_document_is_the_newest_update_of_its_key<H: Harness>(store: H) {
    let subject = Subject::new(&store, "D1", "d1");
    subject.write(batch([update("no document"), state("k", "one"), state("other", "beside")])).await;
    newest(&subject, "k", "one", 2).await;
    subject.write(batch([state("k", "two").doc_version(10)])).await;
    newest(&subject, "k", "two", 10).await;
    newest(&subject, "other", "beside", 3).await;
    assert_eq!(subject.beside("d1.beside").document("k").await, None, "D1: a document of another topic");
    assert_eq!(subject.document("K").await, None, "D1: a document of another key");

    let version = |version| state("k", "refused").doc_version(version);
    refused(&subject, vec![version(10)], (10, 10)).await;
    refused(&subject, vec![version(9)], (9, 10)).await;
    refused(&subject, vec![version(0)], (0, 10)).await;
    refused(&subject, vec![state("k", "refused, because seq 5 is its version")], (5, 10)).await;
    refused(&subject, vec![update("refused"), state("new", "refused"), version(10)], (10, 10)).await;
    refused(&subject, vec![version(11), version(11)], (11, 11)).await;
    refused(&subject, vec![version(12), state("other", "refused"), version(11)], (11, 12)).await;

    // Several states of one key in one batch: the last is the newest.
    let three = batch([state("d", "one"), state("d", "two"), state("d", "three").doc_version(7)]);
    subject.write(three).await;
    newest(&subject, "d", "three", 7).await;
    subject.write(batch([state("zero", "zero").doc_version(0)])).await;
    newest(&subject, "zero", "zero", 0).await;

    // A tombstone has a version like any other state.
    subject.write(batch([NewUpdate::tombstone(kind(), doc_key("k")).doc_version(20)])).await;
    let gone = subject.document("k").await;
    assert!(gone.is_some_and(|gone| gone.deleted && gone.doc_version == Some(20)), "D1: no tombstone of k");
    refused(&subject, vec![version(20)], (20, 20)).await;
    refused(&subject, vec![tombstone("k").doc_version(19)], (19, 20)).await;
    subject.write(batch([state("k", "again").doc_version(21)])).await;
    newest(&subject, "k", "again", 21).await;

    // Of those who bring the same version, one is first.
    let racers = (0..10).map(|racer| {
        let subject = subject.clone();
        let state = state("k", &racer.to_string()).doc_version(100);
        async move { subject.append(batch([update("beside"), state]), NOW).await }
    });
    let answers = at_once(racers).await;
    let written = answers.iter().filter(|answer| matches!(answer, Append::Written(_))).count();
    assert_eq!(written, 1, "D1: appends that brought the same version and were written: {answers:?}");
}

async fn newest(subject: &Subject, key: &str, said: &str, version: u64) {
    let log = subject.log().await;
    let last = log.iter().rfind(|update| update.doc_key.as_ref().is_some_and(|found| found.as_str() == key));
    let document = subject.document(key).await;
    assert_eq!(document.as_ref(), last, "D1: document {key}, against the newest update of its key");
    let found = document.as_ref().map(|document| (text(document), document.doc_version));
    assert_eq!(found, Some((said, Some(version))), "D1: what document {key} says, and its version");
}

async fn refused(subject: &Subject, updates: Vec<NewUpdate>, (given, found): (u64, u64)) {
    let before = (subject.bounds().await.head, subject.log().await, documents(subject, LARGE).await);
    let what = format!("{updates:?}");
    let conflict = subject.conflict(batch(updates).with_dedup(dedup("refused"))).await;
    let meant = Conflict::DocVersion { doc_key: doc_key("k"), given, found };
    assert_eq!(conflict, meant, "D1: the conflict of {what}");
    let after = (subject.bounds().await.head, subject.log().await, documents(subject, LARGE).await);
    assert_eq!(after, before, "D1: head, log and documents after the conflict of {what}");
}

/// D2: a tombstone is in the log and not in the snapshot.
pub async fn d2_a_tombstone_is_in_the_log_only<H: Harness>(store: H) {
    let subject = Subject::new(&store, "D2", "d2");
    subject.write(batch([state("a", "a"), state("b", "b"), state("c", "c"), tombstone("never there")])).await;
    subject.write(batch([tombstone("a"), tombstone("b")])).await;
    let found = documents(&subject, LARGE).await;
    assert_eq!(keys(&found), ["c"], "D2: the snapshot's documents, where two of three are gone");
    for key in ["a", "b", "never there"] {
        let gone = subject.document(key).await.is_some_and(|document| document.deleted);
        assert!(gone, "D2: document {key} is no tombstone");
    }
    let tombstones: Vec<_> = subject.log().await.into_iter().filter(|update| update.deleted).collect();
    assert_eq!(keys(&tombstones), ["never there", "a", "b"], "D2: the tombstones in the log");

    subject.write(batch([state("a", "again"), tombstone("c")])).await;
    let found = documents(&subject, pages_of(1)).await;
    assert_eq!(texts(&found), ["again"], "D2: the snapshot after deleting and creating again");
}

/// D3: snapshot plus log converges under concurrent writes.
pub async fn d3_snapshot_plus_log_converges<H: Harness>(store: H) {
    in_byte_order(&Subject::new(&store, "D3", "d3.order")).await;
    continues_or_is_stale(&Subject::new(&store, "D3", "d3.stale")).await;

    let subject = Subject::new(&store, "D3", "d3");
    subject.write(batch((0..16).map(|n| state(&format!("{n}"), "first")))).await;
    let over = Over::default();
    let readers = [pages_of(1), pages_of(3), LARGE].map(|limit| {
        let (subject, over) = (subject.clone(), over.clone());
        async move {
            let mut snapshots = Vec::new();
            while !over.is_over().await {
                snapshots.push(pages(&subject, limit).await);
            }
            snapshots
        }
    });
    let writers = (0..4).map(|writer| {
        let subject = subject.clone();
        async move {
            for n in 0..10 {
                // Over all keys, in an order that no page follows; some are gone for a while.
                let key = |i: u64| format!("{}", (writer * 5 + n * 7 + i * 3) % 16);
                let states = (0..3).map(|i| match (n + i) % 4 {
                    0 => tombstone(&key(i)),
                    _ => state(&key(i), &format!("{writer}.{n}.{i}")),
                });
                subject.write(batch(states)).await;
            }
        }
    });
    let (snapshots, _) = race(&over, readers, writers).await;

    let log = subject.log().await;
    let meant = fold(BTreeMap::new(), &log);
    for (at, documents) in snapshots.into_iter().flatten() {
        // What follows is read late, so that only the snapshot's watermark is judged here, and not J7.
        let after: Vec<Update> =
            log.iter().filter(|update| !at.watermark.covers(update.seq)).cloned().collect();
        let found = fold(fold(BTreeMap::new(), &documents), &after);
        assert_eq!(found, meant, "D3: a snapshot at {} and the log after it", at.watermark);
    }
    let (at, _) = pages(&subject, LARGE).await;
    assert_eq!(at, subject.bounds().await.at_head(), "D3: where a snapshot stands that nobody writes beside");
}

/// Applies updates to documents as a reader does.
fn fold(mut documents: BTreeMap<String, String>, updates: &[Update]) -> BTreeMap<String, String> {
    for update in updates {
        let Some(key) = &update.doc_key else { continue };
        match update.deleted {
            true => documents.remove(key.as_str()),
            false => documents.insert(key.as_str().to_owned(), text(update).to_owned()),
        };
    }
    documents
}

async fn in_byte_order(subject: &Subject) {
    let names = ["B", "a", "a ", "a-", "a/", "aa", "b", "b%", "b_", "ab", "z", "é", "\u{fffd}", "\u{10000}"];
    let mut meant = names;
    meant.sort_unstable();
    subject.write(batch(names.iter().rev().map(|name| state(name, name)))).await;
    for updates in [1, 2, 5, names.len(), 100] {
        for bytes in [0, 20, LARGE.bytes] {
            let limit = ReadLimit { bytes, ..pages_of(updates) };
            let found = documents(subject, limit).await;
            assert_eq!(keys(&found), meant, "D3: the keys of a snapshot in pages of {limit:?}");
        }
    }
}

async fn continues_or_is_stale(subject: &Subject) {
    subject.write(batch(["a", "b", "c"].map(|key| state(key, "first")))).await;
    let first = subject.snapshot_page(SnapshotFrom::Start, pages_of(1)).await;
    let next = |at: Cursor| SnapshotFrom::After { at, key: doc_key("a") };
    subject.write(batch([state("b", "second"), tombstone("c")])).await;
    let second = subject.snapshot_page(next(first.at), pages_of(1)).await;
    assert_eq!(second.at, first.at, "D3: where the second page of a snapshot stands");

    let bounds = subject.bounds().await;
    let ahead = at(&bounds, MAX_POSITION);
    let other = Cursor::new(Epoch::from_bits(!bounds.epoch.bits()), bounds.head);
    subject.trim(Keep { updates: Some(1), ..Keep::everything() }, NOW).await;
    let bounds = subject.bounds().await;
    for (what, at) in [("that was trimmed", first.at), ("ahead", ahead), ("of another epoch", other)] {
        match subject.snapshot(next(at), pages_of(1)).await {
            Snapshot::Stale(stale) => assert_eq!((stale.cursor, stale.bounds), (at, bounds), "D3: stale"),
            Snapshot::Page(page) => panic!("D3: a snapshot at a watermark {what} was continued: {page:?}"),
        }
    }
}

/// D4: trimming the log leaves documents.
pub async fn d4_trimming_the_log_leaves_documents<H: Harness>(store: H) {
    let subject = Subject::new(&store, "D4", "d4");
    subject.write(batch([state("a", "a").doc_version(50), state("b", "b"), state("c", "c")])).await;
    subject.write(batch([tombstone("b").doc_version(60)])).await;
    let before = documents(&subject, LARGE).await;
    for kept in [2, 0] {
        subject.trim(Keep { updates: Some(kept), ..Keep::everything() }, NOW).await;
        assert_eq!(
            documents(&subject, LARGE).await,
            before,
            "D4: the snapshot after trimming to {kept} updates"
        );
        for document in &before {
            let key = document.doc_key.as_ref().expect("a document has a key");
            let found = subject.document(key.as_str()).await;
            assert_eq!(found.as_ref(), Some(document), "D4: document {key} after trimming to {kept} updates");
        }
    }
    // Nor are versions forgotten, of what is there or gone.
    for (key, given) in [("a", 50), ("b", 60)] {
        let conflict = subject.conflict(batch([state(key, "refused").doc_version(given)])).await;
        let meant = Conflict::DocVersion { doc_key: doc_key(key), given, found: given };
        assert_eq!(conflict, meant, "D4: the conflict with a version from before trimming");
    }
}

/// D5: a tombstone goes when its update is gone and it is older than is kept, and nothing else goes with it.
pub async fn d5_old_tombstones_go_and_nothing_else<H: Harness>(store: H) {
    let subject = Subject::new(&store, "D5", "d5");
    let day = Duration::from_secs(86_400);
    subject.write(batch([state("kept", "1").doc_version(5), state("again", "1"), state("gone", "1")])).await;
    subject.write(batch([tombstone("gone").doc_version(60), tombstone("again")])).await;
    subject.write(batch([state("again", "2"), state("late", "1")])).await;
    subject.write(batch([tombstone("late").doc_version(70)])).await;
    let before = documents(&subject, LARGE).await;
    let keep = |updates| Keep { updates: Some(updates), tombstones: Some(day), ..Keep::everything() };

    // Old enough, and its update is there; its update is gone, and it is young; it is kept however old.
    subject.trim(keep(9), NOW.plus(2 * day)).await;
    assert!(subject.document("gone").await.is_some(), "D5: a tombstone whose update is kept");
    subject.trim(keep(1), NOW.plus(day)).await;
    assert!(subject.document("gone").await.is_some(), "D5: a tombstone that is not older than is kept");
    subject.trim(Keep { updates: Some(1), ..Keep::everything() }, NOW.plus(2 * day)).await;
    assert!(subject.document("gone").await.is_some(), "D5: a tombstone where all are kept");

    let plan = subject.plan_trim(keep(1), NOW.plus(2 * day)).await;
    assert!(subject.document("gone").await.is_some(), "D5: a tombstone after a plan");
    assert_eq!(
        subject.trim(keep(1), NOW.plus(2 * day)).await,
        plan,
        "D5: a trim that takes a tombstone only"
    );
    assert_eq!(subject.document("gone").await, None, "D5: a tombstone that is older than is kept");
    let late = subject.document("late").await;
    assert!(
        late.is_some_and(|late| late.deleted),
        "D5: a tombstone whose update is kept, beside one that went"
    );
    assert_eq!(documents(&subject, LARGE).await, before, "D5: the snapshot after a tombstone went");
    // What a clock that was ahead has deleted goes with what follows it.
    let ahead = subject.beside("d5.ahead");
    for (key, at) in [("ahead", NOW.plus(400 * day)), ("behind", NOW), ("last", NOW)] {
        ahead.append(batch([state(key, "1")]), at).await;
        ahead.append(batch([tombstone(key)]), at).await;
    }
    ahead.trim(keep(1), NOW.plus(2 * day)).await;
    for key in ["ahead", "behind"] {
        assert_eq!(ahead.document(key).await, None, "D5: {key}, where a clock was ahead");
    }
    assert!(
        ahead.document("last").await.is_some(),
        "D5: a tombstone whose update is kept, where a clock was ahead"
    );
    // The version is forgotten with it, and no other.
    subject.write(batch([state("gone", "2").doc_version(1)])).await;
    for (key, given) in [("kept", 5), ("late", 70)] {
        let conflict = subject.conflict(batch([state(key, "refused").doc_version(given)])).await;
        let meant = Conflict::DocVersion { doc_key: doc_key(key), given, found: given };
        assert_eq!(conflict, meant, "D5: the conflict with a version that is kept");
    }
}

/// A snapshot in pages of `limit`.
async fn pages(subject: &Subject, limit: ReadLimit) -> (Cursor, Vec<Update>) {
    let law = subject.law;
    let mut page = subject.snapshot_page(SnapshotFrom::Start, limit).await;
    let (at, mut documents) = (page.at, Vec::new());
    loop {
        assert_eq!(page.at, at, "{law}: where a later page of a snapshot stands");
        let (count, bytes) = (page.documents.len(), page.documents.iter().map(Update::size).sum::<usize>());
        assert!(count <= limit.updates.get(), "{law}: a page of {limit:?} holds {count} documents");
        assert!(
            count <= 1 || bytes <= limit.bytes,
            "{law}: a page of {limit:?} holds {count} in {bytes} bytes"
        );
        let known = page.documents.iter().all(|document| page.bounds.head.covers(document.seq));
        let bounds = page.bounds;
        assert!(known && bounds.admit(at).is_ok(), "{law}: a page of a snapshot at {at:?} says {bounds:?}");
        let next = page.next();
        assert!(page.complete || next.is_some(), "{law}: an empty page of a snapshot that is not complete");
        documents.append(&mut page.documents);
        match next {
            Some(from) => page = subject.snapshot_page(from, limit).await,
            None => return (at, documents),
        }
    }
}

async fn documents(subject: &Subject, limit: ReadLimit) -> Vec<Update> {
    pages(subject, limit).await.1
}

fn keys(documents: &[Update]) -> Vec<&str> {
    documents.iter().filter_map(|document| Some(document.doc_key.as_ref()?.as_str())).collect()
}
