//! How a server takes leave: who is told what, in which order, and who notices nothing.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use tokio::net::TcpStream;

use crate::{
    admin::{ADMIN, DRAIN, admin},
    support::{Answer, Running, closed, hear, join, running, running_with},
};

const ONE: &str = r#"{"kind":"k","payload":1}"#;

async fn order(server: &Running, body: &str) -> Answer {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(DRAIN)
        .header("host", "x")
        .header("authorization", format!("Bearer {ADMIN}"));
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    server.send(request.body(Full::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn stopping_tells_clients_and_closes_them_all() {
    let mut server = running_with(|builder| builder.with_drain(Duration::from_millis(300))).await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = server.connect().await;
        assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
        sockets.push(socket);
    }
    server.begin_stop();
    for socket in &mut sockets {
        let told = hear(socket).await;
        assert_eq!((&told[2], &told[3]), (&json!("phoenix"), &json!("sync:drain")), "{told}");
        assert_eq!(closed(socket).await, (1012, "restart".to_owned()));
    }
    let address = server.address.clone();
    server.stopped().await;
    assert!(TcpStream::connect(&address).await.is_err(), "it accepts no more");
}

#[tokio::test]
async fn a_draining_service_is_not_ready_and_lets_nobody_in() {
    let server = running().await;
    server.server.drain();
    let refused = server.get("/readyz").await;
    refused.problem(503, "draining");
    assert_eq!(refused.header("retry-after"), "1");
    let authorization = format!("Bearer {}", crate::support::good_token());
    let refused =
        server.handshake("/sync/v1/websocket?vsn=2.0.0", &[("authorization", &authorization)]).await;
    let Err(refused) = refused else { panic!("it was let in") };
    refused.problem(503, "draining");
    assert_eq!(refused.header("retry-after"), "1");
    server.server.drained().await;
}

#[tokio::test]
async fn a_drain_is_waited_for_from_its_first_moment_on() {
    let server = running_with(|builder| builder.with_readiness_grace(Duration::from_millis(200))).await;
    let mut socket = server.connect().await;
    assert_eq!(join(&mut socket, "t", json!({})).await[4]["status"], "ok");
    server.server.drain();
    drop(socket);
    // Nobody is connected, and the load balancer has not noticed yet.
    let waited = tokio::time::Instant::now();
    server.server.drained().await;
    assert!(waited.elapsed() >= Duration::from_millis(150));
    server.get("/readyz").await.problem(503, "draining");
}

#[tokio::test]
async fn a_drain_that_is_ordered_leaves_the_process_at_work() {
    let mut server = running_with(|builder| {
        builder
            .with_admin_token(admin())
            .with_drain(Duration::from_millis(400))
            .with_readiness_grace(Duration::from_millis(100))
    })
    .await;
    let mut sockets = [server.connect().await, server.connect().await];
    for socket in &mut sockets {
        assert_eq!(join(socket, "t", json!({})).await[4]["status"], "ok");
    }
    order(&server, r#"{"force":true}"#).await.problem(400, "invalid");
    assert_eq!(server.get("/readyz").await.status, 200, "what is refused begins nothing");
    let begun = order(&server, "").await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let begun = begun.json();
    assert_eq!((&begun["connections"], &begun["already"]), (&json!(2), &json!(false)));
    let first = begun["drain_ms"].as_u64().unwrap();
    assert!(first <= 500, "{begun}");
    let again = order(&server, "{}").await.json();
    assert_eq!(again["already"], true);
    assert!(again["drain_ms"].as_u64().unwrap() <= first, "it does not begin anew: {again}");
    for socket in &mut sockets {
        assert_eq!(hear(socket).await[3], "sync:drain");
        assert_eq!(closed(socket).await.0, 1012);
    }
    server.server.drained().await;
    let over = order(&server, "").await.json();
    assert_eq!(over["connections"], 0);
    server.get("/readyz").await.problem(503, "draining");
    assert_eq!(server.post("/v1/topics/t/updates", ONE).await.status, 201);
    // The signal that follows the hook finds nothing left to do.
    server.begin_stop();
    server.stopped().await;
}

#[cfg(feature = "binary")]
mod of_the_command {
    use std::time::Duration;

    use http::Method;
    use tokio::{
        net::TcpStream,
        time::{Instant, sleep, timeout},
    };

    use super::ONE;
    use crate::{
        binary::{Started, command},
        support::{LONG, closed, hear, join},
    };

    async fn started(unready: &str, drain: &str) -> (tempfile::TempDir, Started) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        command.env("KHALA_READINESS_GRACE_SECONDS", unready).env("KHALA_DRAIN_SECONDS", drain);
        let started = Started::new(command).await;
        (folder, started)
    }

    #[tokio::test]
    async fn closes_are_spread_over_the_time_and_http_goes_on() {
        const SOCKETS: usize = 30;
        let (_folder, started) = started("0", "3").await;
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            let mut socket = started.connect().await.unwrap();
            assert_eq!(join(&mut socket, "t", serde_json::json!({})).await[4]["status"], "ok");
            sockets.push(socket);
        }
        let began = Instant::now();
        started.signal("TERM").await;
        let ends = sockets.into_iter().map(|mut socket| {
            tokio::spawn(async move {
                let told = hear(&mut socket).await;
                let within = told[4]["retry_after_ms"].as_u64().unwrap();
                assert_eq!(told[3], "sync:drain", "{told}");
                assert_eq!(closed(&mut socket).await, (1012, "restart".to_owned()));
                (began.elapsed(), Duration::from_millis(within))
            })
        });
        let ends: Vec<_> = ends.collect();
        // Each over a connection of its own.
        while started.get("/readyz", "").await != 503 {
            sleep(Duration::from_millis(10)).await;
        }
        let post = started.send(Method::POST, "/v1/topics/other/updates", &started.token, ONE).await;
        assert_eq!(post.0, 201, "{}", post.1);
        assert_eq!(started.connect().await.err(), Some(503));

        let mut slices = [0; 3];
        let mut told = Vec::new();
        for end in ends {
            let (at, within) = timeout(LONG, end).await.expect("it is closed in time").unwrap();
            slices[(at.as_secs() as usize).min(2)] += 1;
            told.push(within);
        }
        // Evenly it would be ten in each.
        assert!(slices.iter().all(|closed| (4..=20).contains(closed)), "{slices:?}");
        told.sort_unstable();
        told.dedup();
        assert!(told.len() > SOCKETS / 2, "each is told a time of its own: {told:?}");
        let address = started.url[7..].to_owned();
        let (status, _, log) = started.ended().await;
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(TcpStream::connect(&address).await.is_err());
    }

    #[tokio::test]
    async fn load_balancers_notice_before_clients_do() {
        let (_folder, started) = started("2", "1").await;
        let mut socket = started.connect().await.unwrap();
        assert_eq!(join(&mut socket, "t", serde_json::json!({})).await[4]["status"], "ok");
        started.signal("TERM").await;
        while started.get("/readyz", "").await != 503 {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(started.get("/healthz", "").await, 200);
        assert_eq!(started.connect().await.err(), Some(503));
        let post = started.send(Method::POST, "/v1/topics/t/updates", &started.token, ONE).await;
        assert_eq!(post.0, 201, "{}", post.1);
        assert_eq!(hear(&mut socket).await[3], "sync:update_batch", "it is served as before");
        assert_eq!(hear(&mut socket).await[3], "sync:drain");
        assert_eq!(closed(&mut socket).await.0, 1012);
        let (status, _, log) = started.ended().await;
        assert_eq!(status.code(), Some(0), "{log}");
    }

    #[tokio::test]
    async fn a_lone_client_is_closed_at_once() {
        let (_folder, started) = started("0", "600").await;
        let mut socket = started.connect().await.unwrap();
        started.signal("TERM").await;
        assert_eq!(hear(&mut socket).await[3], "sync:drain");
        assert_eq!(closed(&mut socket).await, (1012, "restart".to_owned()));
        assert_eq!(started.ended().await.0.code(), Some(0));
    }

    #[tokio::test]
    async fn without_clients_it_ends_at_once() {
        let (_folder, started) = started("0", "600").await;
        started.signal("TERM").await;
        assert_eq!(started.ended().await.0.code(), Some(0));
    }
}
