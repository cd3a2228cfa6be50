//! Pages: which may ask, and what they may read of the answers.

use std::num::NonZeroU32;

use http::{Method, Request, request::Parts};
use http_body_util::Full;
use khala_core::{
    Token,
    admission::{AdmissionOptions, Rate},
};
use khala_server::Origins;

use crate::support::{Answer, Running, good_token, running, running_on, running_with};

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
            assert_eq!(answer.header("access-control-expose-headers"), "retry-after,x-request-id");
            assert_eq!(answer.header("vary"), "origin");
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
    assert_eq!(answer.header("access-control-allow-methods"), "GET,HEAD,POST");
    let allowed: Vec<_> = answer.header("access-control-allow-headers").split(',').collect();
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
    // A page asks there why its handshake was refused.
    let websocket = "/sync/v1/websocket?vsn=2.0.0";
    let answer = ask(&server, Method::OPTIONS, websocket, &PREFLIGHT).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, LISTED));
}

#[tokio::test]
async fn who_is_no_page_is_not_asked_for_an_origin() {
    let server = server().await;
    let answer = server.get("/v1/topics/t").await;
    assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, "origin"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    drop(server.connect().await);
    // What takes no token is nobody's in particular.
    let answer = ask(&server, Method::GET, "/healthz", &[("origin", "https://elsewhere.example")]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("vary"), "{answer:?}");
}

/// Over HTTP and over the WebSocket alike: neither sends a token by itself.
#[tokio::test]
async fn without_a_list_any_page_may_ask_and_read() {
    let server = running().await;
    let bearer = format!("Bearer {}", good_token());
    let headers = [("origin", "https://anywhere.example"), ("authorization", &*bearer)];
    let answer = ask(&server, Method::GET, "/v1/topics/t", &headers).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, "*"));
    assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");
    assert!(!answer.headers.contains_key("vary"), "{answer:?}");
    let answer = ask(&server, Method::OPTIONS, "/v1/topics/t", &PREFLIGHT).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, "*"));
    server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
}

/// A browser tells a page nothing of why its handshake was refused.
#[tokio::test]
async fn a_page_learns_why_its_handshake_was_refused() {
    let server = running().await;
    let (good, bad) = (format!("Bearer {}", good_token()), "Bearer x".to_owned());
    let websocket = "/sync/v1/websocket?vsn=2.0.0";
    for (path, bearer, status, code) in [
        (websocket, &bad, 401, "invalid_token"),
        ("/sync/v1/websocket?vsn=3.0.0", &good, 400, "unsupported_vsn"),
        (websocket, &good, 426, "websocket_required"),
    ] {
        let headers = [("origin", "https://anywhere.example"), ("authorization", bearer)];
        let answer = ask(&server, Method::GET, path, &headers).await;
        answer.problem(status, code);
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{answer:?}");
    }
    assert_eq!(server.khala.connections().count(), 0);
    let preflight = ask(&server, Method::OPTIONS, websocket, &PREFLIGHT).await;
    assert_eq!((preflight.status.as_u16(), preflight.header("access-control-allow-origin")), (204, "*"));
    server.server.drain();
    let headers = [("authorization", &*good)];
    ask(&server, Method::GET, websocket, &headers).await.problem(503, "draining");
}

/// Any page may have a browser ask, as for a picture: that locks nobody out.
#[tokio::test]
async fn a_question_at_the_websocket_uses_no_limit_up() {
    let mut limits = AdmissionOptions::unlimited();
    let once = Rate::new(NonZeroU32::MIN, NonZeroU32::MIN);
    (limits.connects_per_address, limits.connects_per_subject) = (Some(once), Some(once));
    limits.connections_per_subject = NonZeroU32::new(1);
    let server = running_on(|khala| khala.with_admission(limits), |builder| builder).await;
    let bearer = format!("Bearer {}", good_token());
    let websocket = "/sync/v1/websocket?vsn=2.0.0";
    for _ in 0..5 {
        ask(&server, Method::GET, websocket, &[]).await.problem(401, "missing_token");
        let answer = ask(&server, Method::GET, websocket, &[("authorization", &*bearer)]).await;
        answer.problem(426, "websocket_required");
    }
    server.handshake(websocket, &[("authorization", &*bearer)]).await.unwrap();
}

/// Browsers send cookies with the requests of every site's pages.
#[tokio::test]
async fn with_a_token_in_a_cookie_only_pages_of_the_server_itself_are_served() {
    let server = running_with(|builder| builder.with_token_source(cookie)).await;
    let cookie = format!("theme=dark; session={}", good_token());
    for (origin, status) in
        [("http://x", 200), ("https://x:443", 200), ("http://x:81", 403), ("http://elsewhere.example", 403)]
    {
        let headers = [("origin", origin), ("cookie", &*cookie)];
        assert_eq!(ask(&server, Method::GET, "/v1/topics/t", &headers).await.status, status, "{origin}");
    }
    let websocket = "/sync/v1/websocket?vsn=2.0.0";
    server.handshake(websocket, &[("cookie", &*cookie)]).await.unwrap();
    let stranger = [("origin", "http://elsewhere.example"), ("cookie", &*cookie)];
    let Err(answer) = server.handshake(websocket, &stranger).await else { panic!("it was let in") };
    answer.problem(403, "origin_not_allowed");
    // What a request says itself wins, over HTTP and over the WebSocket, and a request without either has no token.
    let own = [("cookie", &*cookie), ("authorization", "Bearer x")];
    ask(&server, Method::GET, "/v1/topics/t", &own).await.problem(401, "invalid_token");
    ask(&server, Method::GET, "/v1/topics/t", &[]).await.problem(401, "missing_token");
    let query = format!("{websocket}&token=x");
    let Err(answer) = server.handshake(&query, &[("cookie", &*cookie)]).await else {
        panic!("it was let in")
    };
    answer.problem(401, "invalid_token");

    // Pages of any origin would act in the name of who is logged in.
    let any =
        running_with(|builder| builder.with_token_source(self::cookie).with_origins(Origins::any())).await;
    let headers = [("origin", "http://elsewhere.example"), ("cookie", &*cookie)];
    ask(&any, Method::GET, "/v1/topics/t", &headers).await.problem(403, "origin_not_allowed");

    // A listed page's cookies count, and it may read the answers.
    let origins = Origins::parse([LISTED]).unwrap();
    let listed = running_with(|builder| builder.with_token_source(self::cookie).with_origins(origins)).await;
    let headers = [("origin", LISTED), ("cookie", &*cookie)];
    let answer = ask(&listed, Method::GET, "/v1/topics/t", &headers).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-credentials")), (200, "true"));
}

fn cookie(head: &Parts) -> Option<Token> {
    let cookies = head.headers.get("cookie")?.to_str().ok()?;
    cookies.split("; ").find_map(|pair| pair.strip_prefix("session=")).map(Token::new)
}
