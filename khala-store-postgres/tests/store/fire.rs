//! Law J7 under fire: thirty-two connections of two processes append to the same topics, by every way in, some slowly, some
//! rolled back. Readers on another node hold what they have seen against what they see later.

use std::{
    collections::HashSet,
    env,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use khala_core::{
    Append, Batch, Cursor, Kind, NewUpdate, Payload, Topic, Watermark,
    journal::{Journal, ReadFrom, ReadLimit, Replay},
};
use khala_store_postgres::{PostgresStore, append_in};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::sleep;

use crate::support::{NOW, fresh, log, open, topic};

/// Where the other process finds the database.
const URL: &str = "KHALA_POSTGRES_TEST_URL";
/// Appends of each connection.
const EACH: u64 = 40;
const TOPICS: [&str; 3] = ["hot", "warm", "cold"];

/// The payload of an append, and where it goes.
fn nth(name: &str, n: u64) -> (Topic, String) {
    (topic(TOPICS[(n % 3) as usize]), format!("\"{name}/{n}\""))
}

fn batch_of(payload: &str) -> Batch {
    Batch::new(vec![NewUpdate::new(Kind::parse("fire").unwrap(), Payload::parse(payload).unwrap())]).unwrap()
}

/// Whether the nth transaction is rolled back, and how long it rests before it ends. Drawn once, so that a failure can be
/// had again.
fn fate(task: u64, n: u64) -> (bool, Duration) {
    let drawn = (task * 7_919 + n * 104_729) % 97;
    (drawn.is_multiple_of(4), Duration::from_millis(if drawn.is_multiple_of(3) { drawn % 30 } else { 0 }))
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<(HashSet<String>, HashSet<String>)>>);

impl Book {
    fn committed(&self, payload: String) {
        self.0.lock().unwrap().0.insert(payload);
    }

    fn rolled_back(&self, payload: String) {
        self.0.lock().unwrap().1.insert(payload);
    }
}

async fn by_the_store(store: PostgresStore, name: String, book: Book) {
    for n in 0..EACH {
        let (topic, payload) = nth(&name, n);
        let answer = store.append(&topic, batch_of(&payload), NOW).await.unwrap();
        assert!(matches!(answer, Append::Written(_)), "{answer:?}");
        book.committed(payload);
    }
}

/// By a transaction of the application's own: by `append_in`, or by the SQL function.
async fn by_a_transaction(url: String, task: u64, function: bool, book: Book) {
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for n in 0..EACH {
        let (topic, payload) = nth(&format!("own {task}"), n);
        let (rolled_back, rest) = fate(task, n);
        let mut transaction = conn.begin().await.unwrap();
        if function {
            let append = "SELECT outcome FROM khala.append($1, 'fire', $2::text::json)";
            let row = sqlx::query(append).bind(topic.as_str()).bind(&payload).fetch_one(&mut *transaction);
            assert_eq!(row.await.unwrap().get::<&str, _>(0), "written");
        } else {
            append_in(&mut transaction, &topic, &batch_of(&payload), NOW).await.unwrap();
        }
        sleep(rest).await;
        if rolled_back {
            transaction.rollback().await.unwrap();
            book.rolled_back(payload);
        } else {
            transaction.commit().await.unwrap();
            book.committed(payload);
        }
    }
}

/// Follows a topic and holds every page against what was seen before.
async fn watch_for_late_arrivals(store: PostgresStore, topic: Topic, over: Arc<AtomicBool>) {
    let mut seen: Vec<String> = Vec::new();
    let mut last_look = false;
    loop {
        last_look |= over.load(Ordering::Relaxed);
        let bounds = store.bounds(&topic).await.unwrap();
        // Whatever is at or below a head that was seen is there, from now on.
        let cursor = |at: usize| Cursor::new(bounds.epoch, Watermark::new(at as u64).unwrap());
        while (seen.len() as u64) < bounds.head.as_u64() {
            let page = store.read(&topic, cursor(seen.len()).into(), ReadLimit::PAGE).await.unwrap();
            let Replay::Page(page) = page else { panic!("{page:?}") };
            assert!(
                !page.updates.is_empty(),
                "the head was {} and nothing follows {}",
                bounds.head,
                seen.len()
            );
            for update in page.updates {
                assert_eq!(update.seq.as_u64(), seen.len() as u64 + 1);
                seen.push(update.payload.as_str().to_owned());
            }
        }
        let again = log(&store, &topic).await;
        let texts = again.iter().map(|update| update.payload.as_str());
        assert!(texts.take(seen.len()).eq(seen.iter()), "what was seen of {topic} is not what is there");
        if last_look {
            return;
        }
    }
}

#[tokio::test]
#[ignore = "not a test: the other process of that below"]
async fn the_other_process() {
    let Ok(url) = env::var(URL) else { return };
    let store = open(&url).await;
    let tasks = (0..8).map(|task| {
        tokio::spawn(by_the_store(store.clone(), format!("other process {task}"), Book::default()))
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_appears_at_or_below_a_head_that_was_seen() {
    let (url, here) = fresh().await;
    let (book, over) = (Book::default(), Arc::new(AtomicBool::new(false)));
    let there = open(&url).await;
    let readers: Vec<_> = TOPICS
        .iter()
        .map(|name| tokio::spawn(watch_for_late_arrivals(there.clone(), topic(name), Arc::clone(&over))))
        .collect();
    let mut other = Command::new(env::current_exe().unwrap())
        .args(["fire::the_other_process", "--exact", "--ignored", "--test-threads=1"])
        .env(URL, &url)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut writers = Vec::new();
    for task in 0..8 {
        writers.push(tokio::spawn(by_the_store(here.clone(), format!("store {task}"), book.clone())));
        writers.push(tokio::spawn(by_a_transaction(url.clone(), 2 * task, false, book.clone())));
        writers.push(tokio::spawn(by_a_transaction(url.clone(), 2 * task + 1, true, book.clone())));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(tokio::task::spawn_blocking(move || other.wait()).await.unwrap().unwrap().success());
    for task in 0..8 {
        (0..EACH).for_each(|n| book.committed(nth(&format!("other process {task}"), n).1));
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let mut there_now = Vec::new();
    for name in TOPICS {
        there_now
            .extend(log(&there, &topic(name)).await.iter().map(|update| update.payload.as_str().to_owned()));
    }
    let (committed, rolled_back) = book.0.lock().unwrap().clone();
    assert_eq!(there_now.len(), committed.len(), "each once");
    assert_eq!(there_now.iter().cloned().collect::<HashSet<_>>(), committed);
    assert!(rolled_back.len() > 50 && rolled_back.is_disjoint(&committed));
}

#[tokio::test]
async fn a_start_that_was_read_before_a_slow_commit_gets_it_afterwards() {
    let (url, store) = fresh().await;
    let topic = topic("slow");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut slow = conn.begin().await.unwrap();
    append_in(&mut slow, &topic, &batch_of("1"), NOW).await.unwrap();
    // It waits for the one before it, so it cannot be seen first.
    let behind = tokio::spawn({
        let (store, topic) = (store.clone(), topic.clone());
        async move { store.append(&topic, batch_of("2"), NOW).await.unwrap() }
    });
    let Replay::Page(page) = store.read(&topic, ReadFrom::Origin, ReadLimit::PAGE).await.unwrap() else {
        panic!()
    };
    assert!(page.updates.is_empty() && !behind.is_finished());
    slow.commit().await.unwrap();
    let Append::Written(receipt) = behind.await.unwrap() else { panic!() };
    assert_eq!(receipt.last.as_u64(), 2);
    let Replay::Page(page) = store.read(&topic, page.cursor().into(), ReadLimit::PAGE).await.unwrap() else {
        panic!()
    };
    assert_eq!(page.updates.iter().map(|update| update.payload.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}
