//! The gate for clients that are too old or too new: what they are told.

use khala_server::{Compatibility, Window};
use serde_json::{Value, json};

use crate::support::{Answer, Running, good_token, running, running_with};

async fn gated() -> Running {
    let gate = Compatibility {
        client_build: Some(Window::at_least("1.20.3".parse().unwrap())),
        protocol_version: Some(Window::between(2, 3).unwrap()),
        ..Compatibility::default()
    };
    running_with(|builder| builder.with_compatibility(gate).with_mint(crate::mint::mint())).await
}

async fn refused(server: &Running, query: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/sync/v1/websocket?vsn=2.0.0&{query}");
    match server.handshake(&path, headers).await {
        Ok(_) => panic!("{query} was let in"),
        Err(answer) => answer,
    }
}

#[tokio::test]
async fn who_is_outside_learns_the_window() {
    let server = gated().await;
    let builds = json!({"min": "1.20.3", "max": null});
    let versions = json!({"min": "2", "max": "3"});
    let long = format!("client_build={}", "9".repeat(100));
    for (query, status, code, supported, sent) in [
        ("client_build=1.20.2&protocol_version=2", 426, "upgrade_required", &builds, json!("1.20.2")),
        ("client_build=new&protocol_version=2", 400, "invalid_client_build", &builds, json!("new")),
        ("protocol_version=2", 400, "invalid_client_build", &builds, Value::Null),
        (&long, 400, "invalid_client_build", &builds, json!("9".repeat(32))),
        ("client_build=2&protocol_version=4", 400, "unsupported_protocol_version", &versions, json!("4")),
        ("client_build=2", 400, "unsupported_protocol_version", &versions, Value::Null),
    ] {
        // Before the token: who is too old learns so without one.
        let answer = refused(&server, query, &[]).await;
        let problem = answer.problem(status, code);
        assert_eq!((&problem["supported"], &problem["sent"]), (supported, &sent), "{query}");
        assert_eq!(answer.header("upgrade"), if status == 426 { "websocket" } else { "" });
    }
}

#[tokio::test]
async fn the_token_route_has_the_same_gate() {
    let server = gated().await;
    for path in ["/v1/token", "/api/khala/token", "/api/sync/token"] {
        for (query, status, code) in [
            ("?client_build=1.20.2&protocol_version=2", 426, "upgrade_required"),
            ("?protocol_version=2", 400, "invalid_client_build"),
            ("?client_build=2&protocol_version=1", 400, "unsupported_protocol_version"),
            ("?client_build=2&protocol_version=2", 401, "authz_denied"),
        ] {
            server.post(&format!("{path}{query}"), "").await.problem(status, code);
        }
    }
}

#[tokio::test]
async fn who_is_inside_is_let_in_by_query_or_headers() {
    let server = gated().await;
    let token = good_token();
    let bearer = format!("Bearer {token}");
    let query = format!("/sync/v1/websocket?vsn=2.0.0&client_build=1.21&protocol_version=3&token={token}");
    server.handshake(&query, &[]).await.unwrap();
    let headers =
        [("authorization", &*bearer), ("x-khala-client-build", "1.20.3"), ("x-khala-protocol-version", "2")];
    server.handshake("/sync/v1/websocket?vsn=2.0.0", &headers).await.unwrap();
    // What is not set is not checked, and the gate is not on the way to what is read over HTTP.
    server.handshake(&format!("{query}&schema_version=x"), &[]).await.unwrap();
    assert_eq!(server.get("/v1/topics/t").await.status, 200);
    refused(&running().await, "client_build=0", &[]).await.problem(401, "missing_token");
}
