//! Retention races readers over real sockets, on a real file: whatever is trimmed under them, each ends complete, or was
//! told `stale_cursor` and ends complete through a snapshot. Never a hole.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use khala_auth::{JwtOptions, JwtVerifier};
use khala_client::{Client, connection::ConnectionEvent};
use khala_core::{
    Append, Batch, Bounds, Cursor, DocKey, Khala, Kind, NewUpdate, Payload, Token, Topic, Update, Watermark,
    class::{Classes, Retain, TopicClass, TopicPattern},
    documents::{Documents as _, Snapshot, SnapshotFrom},
    journal::{Journal as _, Keep, ReadLimit},
    retention::{SweepOrder, SweepTrigger},
    wire::{JoinRequest, OnStale, Resume},
};
use khala_server::{Server, serve};
use khala_store_sqlite::SqliteStore;
use tokio::{net::TcpListener, sync::watch, task::yield_now, time::timeout};

use crate::support::{LONG, SECRET, good_token, topic};

const UPDATES: u64 = 1_200;
const READERS: u64 = 8;
const KEYS: u64 = 30;

/// Numbers that look random and are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What the readers went through.
#[derive(Debug, Default)]
struct Seen {
    resumed: AtomicU64,
    stale: AtomicU64,
    snapshots: AtomicU64,
}

fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// What one reader has: the documents as its application keeps them, and where it stands.
#[derive(Default)]
struct Copy {
    documents: BTreeMap<DocKey, Update>,
    cursor: Option<Cursor>,
    /// Whether the documents are all there are.
    whole: bool,
}

impl Copy {
    fn apply(&mut self, update: Update) {
        if let Some(key) = update.doc_key.clone()
            && self.documents.get(&key).is_none_or(|newer| newer.seq < update.seq)
        {
            self.documents.insert(key, update);
        }
    }

    /// Takes in one event; says whether the subscription goes on.
    fn take(&mut self, event: ConnectionEvent, seen: &Seen) -> bool {
        match event {
            ConnectionEvent::Joined { joined, resumed } => {
                if resumed {
                    one(&seen.resumed);
                } else if !joined.snapshot {
                    self.whole = joined.after == Watermark::ORIGIN;
                    self.documents.clear();
                    self.cursor = Some(Cursor::new(joined.epoch, joined.after));
                }
                if joined.stale.is_some() {
                    one(&seen.stale);
                }
            }
            ConnectionEvent::Snapshot(snapshot) => {
                if snapshot.first {
                    self.documents.clear();
                    (self.cursor, self.whole) = (None, false);
                }
                snapshot.documents.into_iter().for_each(|document| self.apply(document));
                if snapshot.complete {
                    one(&seen.snapshots);
                    (self.cursor, self.whole) = (Some(snapshot.at), true);
                }
            }
            ConnectionEvent::Updates(arrived) => {
                let mut at = self.cursor.expect("updates come after a join or a snapshot").watermark;
                for update in arrived.updates {
                    assert_eq!(Some(update.seq), at.next(), "updates are dense");
                    at = update.seq.watermark();
                    self.apply(update);
                }
                self.cursor = Some(arrived.cursor);
            }
            ConnectionEvent::Stale(stale) => {
                one(&seen.stale);
                assert!(!stale.reason_codes.is_empty());
                *self = Self::default();
                return false;
            }
            _ => {}
        }
        true
    }
}

/// A reader that comes and goes until it has everything up to `end`.
async fn read(
    client: Client,
    name: Topic,
    number: u64,
    mut end: watch::Receiver<Option<Bounds>>,
    seen: Arc<Seen>,
) -> Copy {
    let mut chance = Chance(number);
    let mut copy = Copy::default();
    let mut told_stale = false;
    loop {
        let on_stale = if chance.below(2) == 0 { OnStale::Snapshot } else { OnStale::Error };
        let first =
            [Resume::Floor, Resume::Snapshot, Resume::Head][usize::try_from(chance.below(3)).unwrap()];
        let resume = match copy.cursor {
            Some(cursor) => Resume::After(cursor),
            None if told_stale => Resume::Snapshot,
            None => first,
        };
        let mut subscription =
            client.connection_events(&name, JoinRequest { resume, on_stale, published_at: None });
        // It leaves after some events, and is away for a while.
        for _ in 0..1 + chance.below(12) {
            let event = tokio::select! {
                event = subscription.next() => event,
                _ = end.wait_for(|end| end.is_some_and(|end| copy.cursor == Some(end.at_head()))) => return copy,
            };
            if !copy.take(event.expect("it goes on").expect("nothing is refused"), &seen) {
                told_stale = true;
                break;
            }
            for _ in 0..chance.below(40) {
                yield_now().await;
            }
        }
        drop(subscription);
        for _ in 0..chance.below(2_000) {
            yield_now().await;
        }
    }
}

fn update(n: u64, chance: &mut Chance) -> NewUpdate {
    let kind = Kind::parse("state").unwrap();
    let key = DocKey::parse(&format!("d{}", chance.below(KEYS))).unwrap();
    match chance.below(10) {
        0 => NewUpdate::tombstone(kind, key),
        1..4 => NewUpdate::new(kind, Payload::of(&n).unwrap()),
        _ => NewUpdate::new(kind, Payload::of(&n).unwrap()).doc_key(key),
    }
}

async fn publish(khala: Khala, name: Topic) {
    let mut chance = Chance(77);
    for n in 0..UPDATES {
        let batch = Batch::new(vec![update(n, &mut chance)]).unwrap();
        assert!(matches!(khala.publish(&name, batch).await.unwrap(), Append::Written(_)));
        match chance.below(60) {
            0..3 => {
                let keep = Keep { updates: Some(chance.below(30)), ..Keep::everything() };
                khala.journal().trim(&name, keep, khala.now()).await.unwrap();
            }
            3 => drop(khala.retention().sweep(SweepOrder::new(SweepTrigger::Order)).await.unwrap()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_overtaken_by_trims_is_told_and_ends_complete_through_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("khala.db")).unwrap();
    let store = Arc::new(store);
    let class = TopicClass {
        replay_budget: Some(80),
        retain: Retain { updates: Some(40), ..Retain::everything() },
        ..TopicClass::new("all", TopicPattern::parse("**").unwrap()).with_read(["khala:read"])
    };
    let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
    let khala = Khala::builder(Arc::clone(&store))
        .with_verifier(Arc::new(verifier))
        .with_classes(Classes::new(vec![class]).unwrap())
        .build();
    let server = Server::builder(khala.clone()).with_drain(Duration::from_millis(200)).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, mut stopped) = watch::channel(());
    let served = tokio::spawn(serve(listener, server, async move { drop(stopped.changed().await) }));

    let (name, seen) = (topic("t"), Arc::<Seen>::default());
    let client =
        Client::builder(format!("http://{address}")).token(Token::new(good_token())).build().unwrap();
    let (tell, end) = watch::channel(None);
    let readers: Vec<_> = (0..READERS)
        .map(|n| tokio::spawn(read(client.clone(), name.clone(), n, end.clone(), Arc::clone(&seen))))
        .collect();
    publish(khala.clone(), name.clone()).await;
    let bounds = khala.journal().bounds(&name).await.unwrap();
    assert_eq!(bounds.head.as_u64(), UPDATES);
    assert!(bounds.floor.as_u64() > UPDATES - 100, "most of it was trimmed");
    tell.send_replace(Some(bounds));

    let all = ReadLimit::new(1_000.try_into().unwrap(), usize::MAX);
    let Snapshot::Page(truth) = store.snapshot(&name, SnapshotFrom::Start, all).await.unwrap() else {
        panic!("a snapshot can be begun")
    };
    for reader in readers {
        let copy = timeout(LONG * 3, reader).await.expect("every reader gets to the end").unwrap();
        assert_eq!(copy.cursor, Some(bounds.at_head()));
        let here = copy.documents.values().filter(|document| !document.deleted);
        assert!(!copy.whole || here.eq(&truth.documents), "its documents are those of the journal");
    }
    let counts = [&seen.resumed, &seen.stale, &seen.snapshots].map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|count| *count > 3), "resumed, stale, snapshots: {counts:?}");
    drop(stop);
    timeout(LONG, served).await.expect("it stops in time").unwrap();
}
