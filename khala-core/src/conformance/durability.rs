//! What was acknowledged is there, whatever happens to the process: J18.
//!
//! A process is killed, not a machine: whether the disk was told to write is for the store's own tests.

use std::sync::Arc;

use crate::{
    journal::{Append, Batch, Journal, Keep, Receipt},
    position::{Bounds, Cursor, Watermark},
    update::Update,
};

use super::{
    append::whole,
    harness::Harness,
    race::at_once,
    run::{Victim, declared, report},
    subject::{
        NOW, Subject, at, batch, dedup, doc_key, labelled, seqs, single, state, text, tombstone, topic,
        update,
    },
};

/// J18: acknowledged updates, bounds and epoch survive reopening and `kill -9`.
pub async fn j18_acknowledged_means_durable<H: Harness>(store: H) {
    if !H::CAPABILITIES.survives_reopening {
        return declared("J18", "survive reopening");
    }
    let named = || single("named").with_dedup(dedup("name"));
    let receipt = write_some_history(&store, named()).await;
    let before = held(&store).await;
    let store = H::open(store.close().await).await;
    same("reopening", &before, &held(&store).await);
    let again = Subject::new(&store, "J18", PLAIN).append(named(), NOW).await;
    assert_eq!(again, Append::Duplicate(receipt), "J18: the answer to a known name after reopening");

    if !H::CAPABILITIES.survives_kill {
        return declared("J18", "survive kill -9");
    }
    let place = store.close().await;
    let victim = Victim { law: "J18", test: "victim" };
    let reports = victim.killed_at_work(&place, ACKNOWLEDGED).await;
    let store = H::open(place).await;
    same("kill -9", &before, &held(&store).await);
    acknowledged_is_there(&store, &reports).await;
}

const PLAIN: &str = "j18";
const TRIMMED: &str = "j18.trimmed";
const EMPTIED: &str = "j18.emptied";

async fn write_some_history(store: &impl Harness, named: Batch) -> Receipt {
    let subject = Subject::new(store, "J18", PLAIN);
    subject.write(batch([update("plain"), state("kept", "state").doc_version(9)])).await;
    subject.write(batch([state("gone", "state")])).await;
    subject.write(batch([tombstone("gone")])).await;
    for (topic, kept) in [(TRIMMED, 3), (EMPTIED, 0)] {
        let subject = subject.beside(topic);
        subject.write_numbers(1..=6).await;
        subject.trim(Keep { updates: Some(kept), ..Keep::everything() }, NOW).await;
    }
    subject.write(named).await
}

/// What a topic holds: its bounds, its log but for the oldest update, and its documents.
type Held = (Bounds, Vec<Update>, [Option<Update>; 2]);

async fn held(store: &impl Harness) -> Vec<Held> {
    let mut all = Vec::new();
    for topic in [PLAIN, TRIMMED, EMPTIED] {
        let subject = Subject::new(store, "J18", topic);
        let bounds = subject.bounds().await;
        // After the floor, because reading right at it is for J12 to judge.
        let log = match bounds.floor.as_u64() + 1 {
            start if start <= bounds.head.as_u64() => subject.follow(at(&bounds, start)).await,
            _ => Vec::new(),
        };
        all.push((bounds, log, [subject.document("kept").await, subject.document("gone").await]));
    }
    all
}

fn same(event: &str, before: &[Held], after: &[Held]) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(after.0, before.0, "J18: the bounds after {event}");
        assert_eq!(after.1, before.1, "J18: the log after {event}");
        assert_eq!(after.2, before.2, "J18: the documents after {event}");
    }
}

/// After how many acknowledgements the victim is killed.
const ACKNOWLEDGED: usize = 60;

const VICTIM_TOPICS: [&str; 2] = ["j18.killed.a", "j18.killed.b"];

/// What the victim does: appends from several tasks, and reports each receipt as it gets it.
pub(super) async fn append_until_killed(journal: Arc<dyn Journal>) {
    let writers = (0..4).map(|writer: usize| {
        let journal = Arc::clone(&journal);
        async move {
            let name = VICTIM_TOPICS[writer % 2];
            // An end, should nobody come to kill it.
            for n in 0..2_000 {
                let label = format!("{writer}.{n}");
                let updates = labelled(&label, 3).into_iter();
                let updates = updates.map(|update| update.doc_key(doc_key(&format!("doc-{writer}.{n}"))));
                let answer = journal.append(&topic(name), batch(updates), NOW).await;
                let Ok(Append::Written(Receipt { epoch, first, last })) = answer else {
                    panic!("J18: in the process to be killed, a plain append was not written: {answer:?}");
                };
                report(&format!("{name} {epoch} {first} {last} {label}"));
            }
        }
    });
    at_once(writers).await;
}

async fn acknowledged_is_there(store: &impl Harness, reports: &[String]) {
    for name in VICTIM_TOPICS {
        let subject = Subject::new(store, "J18", name);
        let (bounds, log) = (subject.bounds().await, subject.log().await);
        let dense = seqs(&log).into_iter().eq(1..=bounds.head.as_u64());
        assert!(dense, "J18: after kill -9 the head is {} and the log {:?}", bounds.head, seqs(&log));
        // What nobody was told about is there whole, or not at all.
        whole("J18", &log);
        let mut last = Watermark::ORIGIN;
        for report in reports {
            let said: Vec<&str> = report.split(' ').collect();
            let [topic, epoch, first, end, label] = said[..] else {
                panic!("J18: the process to be killed reported {report:?}");
            };
            if topic != name {
                continue;
            }
            let first: usize = first.parse().expect("the report holds a seq");
            let found = log.get(first - 1).map(text);
            assert_eq!(found, Some(format!("{label}/0/3").as_str()), "J18: update {first} after kill -9");
            assert_eq!(bounds.epoch.to_string(), epoch, "J18: the epoch after kill -9");
            let found = log.get(first + 1);
            let document = subject.document(&format!("doc-{label}")).await;
            assert_eq!(document.as_ref(), found, "J18: a document after kill -9");
            last = last.max(end.parse().ok().and_then(Watermark::new).unwrap_or_default());
        }
        assert!(
            last <= bounds.head,
            "J18: {last} was acknowledged; after kill -9 the head is {}",
            bounds.head
        );
        let receipt = subject.write(single("after")).await;
        assert_eq!(Cursor::new(receipt.epoch, bounds.head), bounds.at_head(), "J18: the epoch after kill -9");
        assert_eq!(bounds.head.next(), Some(receipt.first), "J18: the next seq after kill -9");
    }
}
