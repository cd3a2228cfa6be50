//! Pages: which may ask, and what they may read of the answers.

use http::{Method, Request};
use http_body_util::Full;
use khala_server::Origins;

use crate::support::{Answer, Running, good_token, running, running_with};

const LISTED: &str = "https://app.example";

async fn server() -> Running {
    let origins = Origins::parse([LISTED, "https://*.pages.example"]).unwrap();
    running_with(|builder| builder.with_origins(origins)).await
}

async fn ask(server: &Running, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Full::default()).unwrap()).await
}

const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", LISTED),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization,content-type,idempotency-key"),
];

#[tokio::test]
async fn a_listed_page_may_ask_and_read() {
    let server = server().await;
    let bearer = format!("Bearer {}", good_token());
    for origin in [LISTED, "https://one.pages.example"] {
        for headers in [&[("origin", origin), ("authorization", &*bearer)][..], &[("origin", origin)]] {
            // A refusal too: the page is to know why.
            let answer = ask(&server, Method::GET, "/v1/topics/t", headers).await;
            assert_eq!(answer.status, if headers.len() == 2 { 200 } else { 401 });
            assert_eq!(answer.header("access-control-allow-origin"), origin);
            assert_eq!(answer.header("access-control-expose-headers"), "retry-after, x-request-id");
            assert_eq!(answer.header("vary"), "Origin");
            assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");
        }
    }
    let headers = [("origin", LISTED), ("authorization", &*bearer)];
    server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_token() {
    let server = server().await;
    let answer = ask(&server, Method::OPTIONS, "/v1/topics/t/updates", &PREFLIGHT).await;
    assert_eq!((answer.status.as_u16(), &*answer.text), (204, ""));
    assert_eq!(answer.header("access-control-allow-origin"), LISTED);
    assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD, POST");
    let allowed: Vec<_> = answer.header("access-control-allow-headers").split(", ").collect();
    for name in ["authorization", "content-type", "idempotency-key", "x-request-id", "x-khala-client-build"] {
        assert!(allowed.contains(&name), "{allowed:?}");
    }
    assert!(answer.header("access-control-max-age").parse::<u32>().unwrap() > 0);
    assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");

    // Of a page that is not listed, and what is no preflight.
    let mut stranger = PREFLIGHT;
    stranger[0].1 = "https://elsewhere.example";
    let answer = ask(&server, Method::OPTIONS, "/v1/topics", &stranger).await;
    answer.problem(403, "origin_not_allowed");
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    ask(&server, Method::OPTIONS, "/v1/topics", &PREFLIGHT[..1]).await.problem(405, "method_not_allowed");
    ask(&server, Method::OPTIONS, "/v1/topics", &PREFLIGHT[1..]).await.problem(405, "method_not_allowed");
    let websocket = "/sync/v1/websocket?vsn=2.0.0";
    ask(&server, Method::OPTIONS, websocket, &PREFLIGHT).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn who_is_no_page_is_not_asked_for_an_origin() {
    let server = server().await;
    let answer = server.get("/v1/topics/t").await;
    assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, "Origin"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    drop(server.connect().await);
    // What takes no token is nobody's in particular.
    let answer = ask(&server, Method::GET, "/healthz", &[("origin", "https://elsewhere.example")]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("vary"), "{answer:?}");
}

#[tokio::test]
async fn without_a_list_any_page_may_ask_and_none_may_read() {
    let server = running().await;
    let bearer = format!("Bearer {}", good_token());
    let headers = [("origin", "https://anywhere.example"), ("authorization", &*bearer)];
    let answer = ask(&server, Method::GET, "/v1/topics/t", &headers).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{answer:?}");
    assert!(!answer.headers.contains_key("vary"), "{answer:?}");
    ask(&server, Method::OPTIONS, "/v1/topics/t", &PREFLIGHT).await.problem(405, "method_not_allowed");
    server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
}
