//! The handle of a topic against a real server: the program of the front page, and the producer over connections that break.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier};
use khala_client::{Backoff, Client, ClientOptions, Error};
use khala_core::{
    Batch, Conflict, Event, EventPage, Khala, MemoryStore, PublishError, Start, Update,
    auth::{Access, TokenClaims},
    documents::{Snapshot, SnapshotFrom},
    journal::{ReadLimit, Replay},
};
use khala_server::{Server, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SECRET: &[u8] = b"thirty-two bytes that are secret";
const LONG: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

/// A server, and the address of a proxy before it that breaks its first `broken` connections in the middle of the answers.
async fn start(broken: usize) -> (Khala, String) {
    let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
    let khala = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Server::builder(khala.clone()).build(), std::future::pending()));
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (client, _) = proxy.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
            let most = if number < broken { 5_000 } else { u64::MAX };
            let sending = tokio::spawn(async move { drop(copy(&mut from_client, &mut to_server).await) });
            tokio::spawn(async move {
                drop(copy(&mut from_server.take(most), &mut to_client).await);
                drop(to_client.shutdown().await);
                sending.abort();
            });
        }
    });
    (khala, url)
}

fn client(khala: &Khala, url: &str, access: &[Access]) -> Client {
    let issuer = JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap();
    let mandate = TokenClaims::new("ada", access.iter().map(|access| access.scope()));
    let token = issuer.sign(&mandate, khala.now(), Duration::from_secs(600)).unwrap().token;
    let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
    let options = ClientOptions { backoff, ..ClientOptions::default() };
    Client::builder(url).token(token).options(options).build().unwrap()
}

#[tokio::test]
async fn what_is_published_is_handed_out_as_by_an_embedded_handle() {
    let (khala, url) = start(0).await;
    let topic = client(&khala, &url, &[Access::Publish, Access::Read]).topic("orders:7").unwrap();
    let first = topic.publish(Update::json("paid", &1).unwrap().doc_key("order/7")).await.unwrap();
    topic.publish([Update::json("packed", &2).unwrap(), Update::json("sent", &3).unwrap()]).await.unwrap();
    let mut here = Vec::new();
    let mut events = topic.subscribe(Start::after(first.cursor()).or_snapshot()).await.unwrap();
    while here.len() < 2 {
        let Some(Event::Update(update)) = soon(events.try_next()).await.unwrap() else {
            panic!("it resumes")
        };
        here.push((update.json::<u64>().unwrap(), update.cursor()));
    }
    let mut there = Vec::new();
    let embedded = khala.topic("orders:7").unwrap();
    let mut events = embedded.subscribe(Start::after(first.cursor()).or_snapshot()).await.unwrap();
    while there.len() < 2 {
        let Some(Event::Update(update)) = soon(events.try_next()).await.unwrap() else {
            panic!("it resumes")
        };
        there.push((update.json::<u64>().unwrap(), update.cursor()));
    }
    assert_eq!(here, there);
    let mut pages = topic.subscribe(Start::snapshot()).await.unwrap().pages();
    let Some(Ok(EventPage::Snapshot(page))) = soon(pages.next()).await else { panic!("a snapshot") };
    assert_eq!((page.first, page.complete, page.documents.len(), page.at), (true, true, 1, here[1].1));
    let ahead = khala_core::Cursor::new(first.epoch, khala_core::Watermark::new(99).unwrap());
    let mut events = topic.subscribe(ahead).await.unwrap();
    let Some(Ok(Event::Stale(stale))) = soon(events.next()).await else { panic!("it is stale") };
    assert_eq!((stale.cursor, stale.bounds), (ahead, topic.bounds().await.unwrap()));
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test]
async fn history_and_documents_are_those_of_an_embedded_handle() {
    let (khala, url) = start(0).await;
    let topic = client(&khala, &url, &[Access::Publish, Access::Read]).topic("orders/7").unwrap();
    let here = khala.topic("orders/7").unwrap();
    for key in ["a/1", "b?&2", "c 3"] {
        topic.publish(Update::json("k", &key).unwrap().doc_key(key)).await.unwrap();
    }
    topic.publish(Update::tombstone("k", "c 3").unwrap()).await.unwrap();

    for key in ["a/1", "b?&2", "c 3", "never"] {
        let (there, here) = (topic.document(key).await.unwrap(), here.document(key).await.unwrap());
        assert_eq!(there, here.map(without_trace), "{key}");
    }
    assert!(matches!(topic.document("").await, Err(Error::Settings(_))));

    let (floor, all) = (here.bounds().await.unwrap().at_floor(), ReadLimit::PAGE);
    for limit in
        [all, ReadLimit::new(3.try_into().unwrap(), 1), ReadLimit::new(3.try_into().unwrap(), all.bytes)]
    {
        let (there, here) =
            (topic.history(floor, limit).await.unwrap(), here.history(floor, limit).await.unwrap());
        let Replay::Page(mut page) = here else { panic!("{here:?}") };
        page.updates = page.updates.into_iter().map(without_trace).collect();
        assert_eq!(there, Replay::Page(page));
    }
    let ahead = khala_core::Cursor::new(floor.epoch, khala_core::Watermark::new(99).unwrap());
    assert_eq!(topic.history(ahead, all).await.unwrap(), here.history(ahead, all).await.unwrap());

    let one = ReadLimit::new(1.try_into().unwrap(), all.bytes);
    for limit in [one, ReadLimit::new(9.try_into().unwrap(), 1), all] {
        let (mut from, mut pages) = (Some(SnapshotFrom::Start), 0);
        while let Some(start) = from {
            let there = topic.snapshot(start.clone(), limit).await.unwrap();
            let Snapshot::Page(mut page) = here.snapshot(start, limit).await.unwrap() else {
                panic!("{there:?}")
            };
            from = page.next();
            page.documents = page.documents.into_iter().map(without_trace).collect();
            assert_eq!(there, Snapshot::Page(page));
            pages += 1;
        }
        assert_eq!(pages, if limit == all { 1 } else { 2 });
    }
    let from = SnapshotFrom::After { at: ahead, key: "a/1".try_into().unwrap() };
    let there = topic.snapshot(from.clone(), all).await.unwrap();
    assert_eq!(there, here.snapshot(from, all).await.unwrap());
}

/// A trace is carried to the log and to spans, and not to subscribers.
fn without_trace(mut update: Update) -> Update {
    update.trace = None;
    update
}

#[tokio::test]
async fn a_producer_goes_on_over_broken_connections_and_stores_each_update_once_and_in_order() {
    let (khala, url) = start(5).await;
    let topic = client(&khala, &url, &[Access::Publish]).topic("t").unwrap();
    let producer = topic.producer();
    let mut tickets = Vec::new();
    for number in 0..1_000_u64 {
        tickets.push(soon(producer.submit(Update::json("k", &number).unwrap())).await.unwrap());
        if number == 500 {
            // A batch of several goes whole, between those before and those behind it.
            let many: Vec<_> = (0..3).map(|n| Update::json("many", &n).unwrap()).collect();
            tickets.push(soon(producer.submit(Batch::try_from(many).unwrap())).await.unwrap());
        }
    }
    soon(producer.flush()).await.unwrap();
    let mut next = 1;
    for ticket in tickets {
        let receipt = soon(ticket).await.unwrap();
        assert_eq!(receipt.first.as_u64(), next);
        next = receipt.last.as_u64() + 1;
    }
    assert_eq!(next, 1_004);
    assert_eq!(khala.topic("t").unwrap().bounds().await.unwrap().head.as_u64(), 1_003);
}

#[tokio::test]
async fn a_conflict_is_its_own_alone_and_a_refusal_ends_the_producer() {
    let (khala, url) = start(0).await;
    let topic = client(&khala, &url, &[Access::Publish]).topic("t").unwrap();
    let producer = topic.producer();
    let version = |version| Update::json("k", &version).unwrap().doc_key("d").doc_version(version);
    for number in [5, 4, 6] {
        drop(soon(producer.submit(version(number))).await.unwrap());
    }
    let flushed = soon(producer.flush()).await;
    assert!(
        matches!(flushed, Err(PublishError::Conflict(Conflict::DocVersion { given: 4, found: 5, .. }))),
        "{flushed:?}"
    );
    drop(soon(producer.submit(version(7))).await.unwrap());
    drop(producer);
    let embedded = khala.topic("t").unwrap();
    soon(async {
        while embedded.bounds().await.unwrap().head.as_u64() < 3 {
            tokio::task::yield_now().await
        }
    })
    .await;

    let producer = client(&khala, &url, &[Access::Read]).topic("t").unwrap().producer();
    let mut tickets = Vec::new();
    for number in 0..3 {
        tickets.push(soon(producer.submit(Update::json("k", &number).unwrap())).await);
    }
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(match ticket {
            Ok(ticket) => soon(ticket).await,
            Err(error) => Err(error),
        });
    }
    let refused = answers.remove(0).unwrap_err();
    assert!(
        matches!(&refused, PublishError::Failed(Error::Refused(refused)) if refused.code == "missing_scope"),
        "{refused:?}"
    );
    assert!(answers.iter().all(|answer| matches!(answer, Err(PublishError::NotAttempted))), "{answers:?}");
    assert!(soon(producer.flush()).await.is_err());
}
