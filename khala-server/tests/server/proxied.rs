//! An application that mounts the server, behind nginx under a path: every link that is answered can be followed there.

use std::{net::SocketAddr, num::NonZeroUsize};

use axum::{Router, routing::get};
use futures::TryStreamExt as _;
use khala_client::Client;
use khala_core::{Event, Start, Token, Update, wire::PathPrefix};
use khala_testing::{Nginx, free_port};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{Running, good_token, hear, join, running_with};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const TOPIC: &str = "/realtime/v1/topics/org%2F7:notes";
const STRANGE: &str = "after=1&epoch=0123456789abcdef";

/// What nginx does with the path.
#[derive(Clone, Copy, PartialEq)]
enum Nginxs {
    PassesTheWhole,
    StripsThePrefix,
}

/// How the application mounts the server: by the routes of it, or as a service, which answers a publish past them.
#[derive(Clone, Copy)]
enum Mounted {
    AsRoutes,
    AsService,
}

/// The application behind nginx, which is asked in its place.
async fn behind(nginx: Nginxs, mounted: Mounted) -> (Running, Nginx) {
    let mut running = running_with(|builder| {
        builder
            .with_path_prefix(PathPrefix::from_static("/realtime"))
            .with_trusted_proxies(vec!["127.0.0.1/32".parse().unwrap()])
    })
    .await;
    let app = Router::new().route("/", get(|| async { "the application's own" }));
    let server = running.server.clone();
    let app = match (nginx, mounted) {
        (Nginxs::PassesTheWhole, Mounted::AsRoutes) => app.nest("/realtime", server.router()),
        (Nginxs::PassesTheWhole, Mounted::AsService) => app.nest_service("/realtime", server),
        (Nginxs::StripsThePrefix, Mounted::AsRoutes) => app.merge(server.router()),
        (Nginxs::StripsThePrefix, Mounted::AsService) => app.fallback_service(server),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = listener.local_addr().unwrap().to_string();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });

    let configuration = OPERATIONS.split_once("```nginx\n").unwrap().1.split_once("```").unwrap().0;
    let port = free_port();
    running.address = format!("127.0.0.1:{port}");
    let mut configuration =
        configuration.replace("127.0.0.1:4510", &application).replace("127.0.0.1:8080", &running.address);
    if nginx == Nginxs::StripsThePrefix {
        configuration =
            configuration.replace("proxy_pass http://application;", "proxy_pass http://application/;");
        assert!(configuration.contains("http://application/;"));
    }
    let nginx = Nginx::start(&configuration, port);
    (running, nginx)
}

/// All pages from one on, each by the link of the page before.
async fn pages(server: &Running, first: &str) -> Vec<Value> {
    let mut pages: Vec<Value> = Vec::new();
    let mut path = Some(first.to_owned());
    while let Some(asked) = path {
        let answer = server.get(&asked).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        let page = answer.json();
        path = page["next"].as_str().map(str::to_owned);
        pages.push(page);
    }
    pages
}

async fn everything(nginx: Nginxs, mounted: Mounted) {
    let (server, _nginx) = behind(nginx, mounted).await;
    // Publishing, and history.
    for n in 1..=5 {
        let update = json!({"kind": "note", "payload": n, "doc_key": format!("note/{n}")});
        let answer = server.post(&format!("{TOPIC}/updates"), &update.to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let first = server.get(&format!("{TOPIC}/updates?limit=3")).await.json();
    assert_eq!((&first["topic"], &first["replay_complete"]), (&json!("org/7:notes"), &json!(false)));
    let (epoch, after) = (first["epoch"].as_str().unwrap(), &first["updates"][2]["seq"]);
    let second = server.get(&format!("{TOPIC}/updates?limit=3&after={after}&epoch={epoch}")).await.json();
    assert_eq!((second["updates"].as_array().unwrap().len(), &second["replay_complete"]), (2, &json!(true)));
    // A proxy before nginx may have decoded the path.
    for path in ["/realtime/v1/topics/org/7:notes", TOPIC] {
        let document = server.get(&format!("{path}/documents/note%2F3")).await.json();
        assert_eq!(document["payload"], 3, "{document}");
        assert_eq!(server.get(path).await.json()["head"], 5);
    }

    // Links: of a snapshot, of a list, of a stale cursor.
    let snapshot = pages(&server, &format!("{TOPIC}/snapshot?limit=2")).await;
    let documents: Vec<_> = snapshot.iter().flat_map(|page| page["documents"].as_array().unwrap()).collect();
    assert_eq!((snapshot.len(), documents.len()), (3, 5), "{snapshot:?}");
    for name in ["a", "b/c", "d"] {
        server.publish(name, "1").await;
    }
    let list = pages(&server, "/realtime/v1/topics?limit=1").await;
    let topics: Vec<_> = list.iter().flat_map(|page| page["topics"].as_array().unwrap()).collect();
    let names: Vec<_> = topics.iter().map(|topic| topic["topic"].as_str().unwrap()).collect();
    assert_eq!((list.len(), names), (4, vec!["a", "b/c", "d", "org/7:notes"]));
    for path in [
        format!("{TOPIC}/updates?{STRANGE}"),
        format!("{TOPIC}/snapshot?after_key=k&watermark=1&epoch=0123456789abcdef"),
    ] {
        let stale = server.get(&path).await.problem(410, "stale_cursor");
        assert_eq!(pages(&server, stale["snapshot"].as_str().unwrap()).await[0]["watermark"], 5, "{stale}");
    }
    assert_eq!(server.get("/realtime/nowhere").await.problem(404, "unknown_route")["status"], 404);

    // The WebSocket: replay, live, and the same link; and where the client is.
    let authorization = format!("Bearer {}", good_token());
    let headers = [("authorization", &*authorization), ("x-forwarded-for", "203.0.113.9")];
    let path = "/realtime/sync/v1/websocket?vsn=2.0.0";
    let (mut socket, _) = server.handshake(path, &headers).await.unwrap();
    let stale = json!({"after": 1, "epoch": "0123456789abcdef"});
    let refused = join(&mut socket, "org/7:notes", stale.clone()).await;
    let link = refused[4]["response"]["snapshot"].as_str().unwrap();
    assert_eq!(link, format!("{TOPIC}/snapshot"), "{refused}");
    let mut fall_back = stale;
    fall_back["on_stale"] = json!("snapshot");
    let joined = join(&mut socket, "org/7:notes", fall_back).await;
    assert_eq!(joined[4]["response"]["stale"]["snapshot"], link, "{joined}");
    assert_eq!(hear(&mut socket).await[4]["documents"].as_array().unwrap().len(), 5);
    server.publish("org/7:notes", "6").await;
    assert_eq!(hear(&mut socket).await[4]["updates"][0]["payload"], 6);
    let open = server.khala.connections().list(NonZeroUsize::MIN);
    assert_eq!(open[0].address, Some([203, 0, 113, 9].into()), "{open:?}");
}

#[tokio::test]
async fn links_work_where_nginx_passes_the_prefix_on() {
    everything(Nginxs::PassesTheWhole, Mounted::AsRoutes).await;
    everything(Nginxs::PassesTheWhole, Mounted::AsService).await;
}

#[tokio::test]
async fn links_work_where_nginx_strips_the_prefix() {
    everything(Nginxs::StripsThePrefix, Mounted::AsRoutes).await;
    everything(Nginxs::StripsThePrefix, Mounted::AsService).await;
}

#[tokio::test]
async fn the_rust_client_is_given_a_url_with_a_path() {
    for nginx in [Nginxs::PassesTheWhole, Nginxs::StripsThePrefix] {
        let (server, _nginx) = behind(nginx, Mounted::AsRoutes).await;
        let url = format!("http://{}/realtime", server.address);
        let client = Client::builder(&url).token(Token::new(good_token())).build().unwrap();
        let notes = client.topic("org/7:notes").unwrap();
        notes.publish(Update::json("note", &1).unwrap()).await.unwrap();
        let mut events = notes.subscribe(Start::floor()).await.unwrap();
        notes.publish(Update::json("note", &2).unwrap()).await.unwrap();
        for expected in 1..=2 {
            let Some(Event::Update(update)) = events.try_next().await.unwrap() else { panic!("an update") };
            assert_eq!(update.json::<u64>().unwrap(), expected);
        }
        // More than one page of them.
        for n in 0..600 {
            server.publish(&format!("many/{n}"), "1").await;
        }
        assert_eq!(client.topics("many/").await.unwrap().len(), 600);
    }
}
