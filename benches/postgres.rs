//! PostgreSQL: appends next to plain inserts, what crosses two nodes, and what a node reads.
//!
//! All on one throw-away cluster with its defaults, fully synced (`fsync`, `synchronous_commit`), reached over loopback.
//!
//! - **Appends** per second with 1, 64 and 1,024 publishers that wait for each answer, on one topic and on 1,000, next to
//!   `pgbench` with as many clients (64 at most), each transaction one plain insert of the same payload; and with one whose
//!   transactions are one insert of 64 rows, which is what one topic can have at the most with 64 in flight. In turn,
//!   several rounds; medians.
//! - **Two nodes**: from the call of publish on one node to the update in the hands of a subscriber on the other, at a fixed
//!   rate.
//! - **Reads**: what a node asks the database per update, with 1, 100 and 1,000 subscribers, while the other node publishes.

#![expect(clippy::print_stdout, reason = "what was measured is told to whoever runs it")]

use std::{
    fs,
    num::NonZeroU32,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use futures::future::join_all;
use khala_benches::{PAYLOAD, update};
use khala_core::{
    Append, Batch, EventPage, Khala, Start, Timestamp, Topic, fanout::Fanout, journal::Journal,
};
use khala_fanout_nats::{NatsFanout, NatsOptions};
use khala_store_postgres::{PostgresOptions, PostgresStore};
use khala_testing::{Cluster, Nats, postgres};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{interval, sleep},
};

/// Measures Khala on PostgreSQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of appends.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Groups of appends that are under way at once, at most; the store's own default where it is not said.
    #[arg(long)]
    writers: Option<NonZeroU32>,
    /// Only what its name holds: appends, nodes, reads.
    #[arg(long)]
    only: Option<String>,
    /// As cargo calls it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let cluster = Cluster::start_with(&["max_connections=200"]);
    let runtime = Runtime::new().expect("a runtime");
    let chosen = |name: &str| arguments.only.as_deref().is_none_or(|only| name.contains(only));
    if chosen("appends") {
        appends(&cluster, &runtime, &arguments);
    }
    if chosen("nodes") {
        runtime.block_on(nodes(&cluster, &arguments));
    }
    if chosen("reads") {
        runtime.block_on(reads(&cluster));
    }
}

/// A kind of appends or inserts, and its rates so far.
struct Line {
    name: String,
    rates: Vec<f64>,
}

fn appends(cluster: &Cluster, runtime: &Runtime, arguments: &Arguments) {
    let length = Duration::from_secs(arguments.seconds);
    let mut lines: Vec<Line> = Vec::new();
    let mut note = |name: String, rate: f64| match lines.iter_mut().find(|line| line.name == name) {
        Some(line) => line.rates.push(rate),
        None => lines.push(Line { name, rates: vec![rate] }),
    };
    let inserts = cluster.database();
    for _ in 0..arguments.rounds {
        for (clients, rows) in [(1, 1), (64, 1), (1, 64)] {
            let name = format!("pgbench, {clients} clients, {rows} rows a transaction");
            note(name, pgbench(&inserts, clients, rows, length));
        }
        for (publishers, topics) in [(1, 1), (64, 1), (1_024, 1), (64, 1_000), (1_024, 1_000)] {
            let url = cluster.database();
            let (rate, per_commit) =
                runtime.block_on(publish(&url, publishers, topics, length, arguments.writers));
            note(format!("khala, {publishers} publishers, {topics} topics"), rate);
            note(format!("    appends per commit, {publishers}, {topics}"), per_commit);
        }
    }
    println!("\nper second, medians of {} rounds (lowest to highest)", arguments.rounds);
    for Line { name, mut rates } in lines {
        rates.sort_by(f64::total_cmp);
        let (low, high) = (rates[0], rates[rates.len() - 1]);
        println!("{name:45} {:10.0} ({low:.0} to {high:.0})", rates[rates.len() / 2]);
    }
}

/// Rows per second, each transaction one plain insert of so many.
fn pgbench(url: &str, clients: u32, rows: usize, length: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("insert.sql");
    // To pgbench, a colon begins a variable.
    let payload = PAYLOAD.replace(':', "=");
    let row = format!("('step', '{payload}')");
    let insert = format!("INSERT INTO entry (kind, payload) VALUES {};\n", vec![row; rows].join(", "));
    fs::write(&script, insert).expect("a script");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(postgres::program(program)).args(arguments).stderr(Stdio::piped()).output();
        let output = output.unwrap_or_else(|fault| panic!("{program}: {fault}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    };
    let table = "CREATE TABLE IF NOT EXISTS entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL,
                 payload text NOT NULL)";
    run("psql", &["-X", "-q", "-d", url, "-c", table]);
    let (clients, seconds) = (clients.to_string(), length.as_secs().to_string());
    let script = script.to_str().expect("a path in UTF-8");
    let told = run(
        "pgbench",
        &["-n", "-M", "prepared", "-f", script, "-c", &clients, "-j", "2", "-T", &seconds, url],
    );
    let tps = told.lines().find_map(|line| line.strip_prefix("tps = ")).expect("it tells the rate");
    let tps: f64 = tps.split(' ').next().and_then(|tps| tps.parse().ok()).expect("a rate is a number");
    tps * rows as f64
}

/// Appends per second, and how many shared a commit.
async fn publish(
    url: &str,
    publishers: u64,
    topics: u64,
    length: Duration,
    writers: Option<NonZeroU32>,
) -> (f64, f64) {
    let defaults = PostgresOptions::default();
    let options = PostgresOptions { writers: writers.unwrap_or(defaults.writers), ..defaults };
    let store = PostgresStore::open_with(url, options).await.expect("a store");
    let topics: Arc<Vec<Topic>> = Arc::new((0..topics).map(|n| topic(&format!("run:{n}:events"))).collect());
    let append = |at: u64| {
        let (store, topic) = (store.clone(), topics[(at % topics.len() as u64) as usize].clone());
        async move {
            let batch = Batch::new(vec![update()]).expect("a batch");
            let answer = store.append(&topic, batch, Timestamp::from_millis(0)).await;
            assert!(matches!(answer, Ok(Append::Written(_))), "{answer:?}");
        }
    };
    // Every topic has its row.
    join_all((0..topics.len() as u64).map(append)).await;
    let before = store.stats();
    let (over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let publishing: Vec<_> = (0..publishers)
        .map(|_| {
            let (over, next, store, topics) =
                (Arc::clone(&over), Arc::clone(&next), store.clone(), Arc::clone(&topics));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed) % topics.len() as u64;
                    let batch = Batch::new(vec![update()]).expect("a batch");
                    let answer = store.append(&topics[at as usize], batch, Timestamp::from_millis(0)).await;
                    assert!(matches!(answer, Ok(Append::Written(_))), "{answer:?}");
                }
            })
        })
        .collect();
    sleep(length).await;
    over.store(true, Ordering::Relaxed);
    for publisher in publishing {
        publisher.await.expect("a publisher ends");
    }
    let (after, took) = (store.stats(), started.elapsed());
    store.close().await;
    let (appends, commits) = (after.appends - before.appends, after.commits - before.commits);
    (appends as f64 / took.as_secs_f64(), appends as f64 / commits as f64)
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a topic")
}

/// A node on the database, with a fanout by NATS where there is one and else by NOTIFY.
async fn node(url: &str, nats: Option<&Nats>) -> (PostgresStore, Khala) {
    let store = PostgresStore::open(url).await.expect("a store");
    let fanout: Arc<dyn Fanout> = match nats {
        Some(nats) => {
            let fanout =
                NatsFanout::connect(NatsOptions { servers: vec![nats.url()], ..NatsOptions::default() })
                    .await
                    .expect("a fanout");
            fanout.connected().await;
            Arc::new(fanout)
        }
        None => {
            let fanout = Arc::clone(store.postgres_fanout());
            // It begins to listen when it is first used.
            drop(fanout.watch_revoked().await);
            while !fanout.listens() {
                sleep(Duration::from_millis(5)).await;
            }
            fanout
        }
    };
    let khala = Khala::builder(store.clone()).with_fanout(fanout).build();
    (store, khala)
}

/// Follows the topic until the end, and gives the seq and the moment of each update.
async fn follow(khala: &Khala, topic: &Topic, arrived: mpsc::UnboundedSender<(u64, Instant)>) {
    let topic = khala.topic(topic).expect("a topic");
    let mut pages = topic.subscribe(Start::head()).await.expect("a subscription").pages();
    tokio::spawn(async move {
        while let Some(Ok(EventPage::Updates(page))) = pages.next().await {
            let now = Instant::now();
            if page.updates().iter().any(|update| arrived.send((update.seq.as_u64(), now)).is_err()) {
                return;
            }
        }
    });
}

async fn nodes(cluster: &Cluster, arguments: &Arguments) {
    println!("\nfrom publish on one node to a subscriber on the other, ms");
    let nats = Nats::start();
    let ways = [("NOTIFY", None), ("NATS", Some(&nats))];
    let rates = [50_u32, 500];
    for (way, nats, rate) in rates.into_iter().flat_map(|rate| ways.map(|(way, nats)| (way, nats, rate))) {
        let url = cluster.database();
        let ((_, here), (_, there)) = (node(&url, nats).await, node(&url, nats).await);
        let topic = topic("run:7:events");
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        follow(&there, &topic, arrived).await;
        let updates = u64::from(rate) * arguments.seconds * 4;
        let mut due = interval(Duration::from_secs(1) / rate);
        let mut times = Vec::new();
        for _ in 0..updates {
            // From when it was due: what waits for the one before it counts.
            let called = due.tick().await.into_std();
            let (here, topic) = (here.clone(), topic.clone());
            times.push(tokio::spawn(async move {
                let answer = here.publish(&topic, Batch::new(vec![update()]).expect("a batch")).await;
                let Ok(Append::Written(receipt)) = answer else { panic!("{answer:?}") };
                (receipt.last.as_u64(), called)
            }));
        }
        let mut called = vec![None; updates as usize + 1];
        for time in times {
            let (seq, at) = time.await.expect("a publisher ends");
            called[seq as usize] = Some(at);
        }
        let mut took = Vec::new();
        while took.len() < updates as usize {
            let (seq, at) = arrivals.recv().await.expect("the subscriber follows");
            took.push(at.duration_since(called[seq as usize].expect("it was published")).as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
        println!("{way:6}, {rate:4}/s: p50 {:6.2}  p99 {:6.2}  max {:6.2}", at(0.5), at(0.99), at(1.0));
    }
}

async fn reads(cluster: &Cluster) {
    println!("\nquestions to the database by a node that follows, per update that the other published");
    const UPDATES: u64 = 200;
    for subscribers in [1, 100, 1_000] {
        let url = cluster.database();
        let ((_, here), (store, there)) = (node(&url, None).await, node(&url, None).await);
        let (followed, ignored) = (topic("followed"), topic("ignored"));
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        for _ in 0..subscribers {
            follow(&there, &followed, arrived.clone()).await;
        }
        let before = store.stats().reads;
        for n in 1..=UPDATES {
            for topic in [&followed, &ignored] {
                here.publish(topic, Batch::new(vec![update()]).expect("a batch"))
                    .await
                    .expect("it is published");
            }
            // One by one, so that none shares a read with the one before it.
            for _ in 0..subscribers {
                assert_eq!(arrivals.recv().await.expect("the subscribers follow").0, n);
            }
        }
        let asked = store.stats().reads - before;
        println!("{subscribers:5} subscribers: {:.3}", asked as f64 / UPDATES as f64);
    }
}
