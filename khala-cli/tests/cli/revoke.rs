//! `khala revoke`: what it orders, what it says, and that nobody reads the admin token off it.

use std::{future::pending, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use khala_auth::{JwtIssuer, JwtOptions, JwtVerifier, SharedSecret};
use khala_core::{
    Khala, MemoryStore, Token,
    auth::{Access, Revocation, RevocationId, RevocationTarget, TokenClaims},
    clock::{Clock as _, SystemClock},
};
use khala_server::{Server, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    Ended, end,
    fake::{Fake, Fault},
    khala,
};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const ADMIN: &str = "an-admin-token-of-enough-characters";

/// A server in this process; its address, and its handle.
async fn start() -> (SocketAddr, Khala) {
    let verifier = JwtVerifier::hs256(KEY, JwtOptions::default()).unwrap();
    let handle = Khala::builder(MemoryStore::new()).with_verifier(Arc::new(verifier)).build();
    let admin = SharedSecret::new(ADMIN).unwrap();
    let server = Server::builder(handle.clone()).with_admin_token(admin).build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, server, pending()));
    (address, handle)
}

fn token(subject: &str, login: &str) -> (Token, String) {
    let claims = TokenClaims {
        session_id: Some(login.to_owned()),
        ..TokenClaims::new(subject, [Access::Read.scope()])
    };
    let issuer = JwtIssuer::hs256(KEY, JwtOptions::default()).unwrap();
    let issued = issuer.sign(&claims, SystemClock::new().now(), Duration::from_secs(600)).unwrap();
    (issued.token, issued.token_id)
}

async fn revoke(url: &str, directory: &Path, arguments: &[&str]) -> Ended {
    let mut command = khala(directory, &[&["revoke", "--url", url], arguments].concat());
    let ended = end(command.env("KHALA_ADMIN_TOKEN", ADMIN).spawn().unwrap()).await;
    assert!(!ended.stdout.contains(ADMIN) && !ended.stderr.contains(ADMIN), "{}", ended.stderr);
    ended
}

#[tokio::test]
async fn what_is_named_is_refused_and_nothing_else() {
    let ((address, handle), directory) = (start().await, tempfile::tempdir().unwrap());
    let (url, at) = (format!("http://{address}"), directory.path());
    let tokens = [token("ada", "1"), token("ada", "2"), token("bob", "3"), token("cy", "4")];
    let refused = async || -> Vec<bool> {
        let mut refused = Vec::new();
        for (token, _) in &tokens {
            refused.push(handle.access().verify(token).await.is_err());
        }
        refused
    };
    assert_eq!(refused().await, [false; 4]);

    let one =
        revoke(&url, at, &["--jti", &tokens[0].1, "--reason", "left on a train", "--until", "1h"]).await;
    assert_eq!((one.code, &*one.stderr), (Some(0), ""));
    let told: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!((&told["by"], &told["id"]), (&"jti".into(), &tokens[0].1.as_str().into()));
    let lasts = told["until"].as_u64().unwrap() - told["at"].as_u64().unwrap();
    assert!((3_500_000..=3_600_000).contains(&lasts), "{told}");
    assert_eq!(refused().await, [true, false, false, false]);
    for (flag, id, then) in
        [("--sid", "3", [true, false, true, false]), ("--sub", "ada", [true, true, true, false])]
    {
        let ended = revoke(&url, at, &[flag, id]).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        assert_eq!(refused().await, then);
    }

    let listed = revoke(&url, at, &["--list"]).await;
    assert_eq!((listed.code, &*listed.stderr), (Some(0), ""));
    let lines: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], told);
    assert_eq!(lines.iter().map(|line| &line["by"]).collect::<Vec<_>>(), ["jti", "sid", "sub"]);

    std::fs::write(at.join("admin"), format!("{ADMIN}\n")).unwrap();
    let command = ["revoke", "--url", &url, "--sid", "9", "--admin-token-file", "admin"];
    assert_eq!(end(khala(at, &command).spawn().unwrap()).await.code, Some(0));
}

#[tokio::test]
async fn a_long_list_is_read_to_its_end() {
    let ((address, handle), directory) = (start().await, tempfile::tempdir().unwrap());
    for number in 0..450 {
        let id = RevocationId::parse(&format!("login-{number}")).unwrap();
        handle.access().revoke(Revocation::new(RevocationTarget::Sid(id), handle.now())).await.unwrap();
    }
    let listed = revoke(&format!("http://{address}"), directory.path(), &["--list"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    for (number, line) in listed.stdout.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"], format!("login-{number}"));
    }
    assert_eq!(listed.stdout.lines().count(), 450);
}

#[tokio::test]
async fn what_is_sent_is_what_was_asked_for() {
    let (fake, directory) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.fault(Fault::Say(201, vec![], r#"{"watermark":7,"by":"sid","id":"a b","at":1,"until":2,"more":3}"#));
    let arguments = ["--sid", "a \"b", "--until", "2100-03-01T00:00:00Z", "--reason", "a reason"];
    let ended = revoke(&format!("{}/behind/", fake.url()), directory.path(), &arguments).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert_eq!(ended.stdout, "{\"watermark\":7,\"by\":\"sid\",\"id\":\"a b\",\"at\":1,\"until\":2}\n");
    let sent = fake.requests().remove(0);
    assert_eq!(sent.path, "/behind/internal/v1/khala/revocations");
    assert_eq!(sent.authorization, Some(format!("Bearer {ADMIN}")));
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    let until = 4_107_542_400_000_u64;
    assert_eq!(body, json!({"by": "sid", "id": "a \"b", "until": until, "reason": "a reason"}));
}

#[tokio::test]
async fn each_failure_has_its_code_and_says_what_to_do() {
    let ((address, _), fake) = (start().await, Fake::start().await);
    let directory = tempfile::tempdir().unwrap();
    let (url, at) = (format!("http://{address}"), directory.path());
    let fails = async |url: &str, arguments: &[&str], code: i32, says: &str| {
        let ended = revoke(url, at, arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    };
    for arguments in [
        &[][..],
        &["--sid", "a", "--sub", "b"],
        &["--sid", ""],
        &["--list", "--until", "1h"],
        &["--sid", "a", "--until", "soon"],
        &["--sid", "a", "--admin-token", ADMIN],
    ] {
        let ended = end(khala(at, &[&["revoke"], arguments].concat()).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
    }
    let sid = ["--sid", "a"];
    let without = end(khala(at, &["revoke", "--url", &url, "--sid", "a"]).spawn().unwrap()).await;
    assert_eq!(without.code, Some(77), "{}", without.stderr);
    assert!(without.stderr.contains("KHALA_ADMIN_TOKEN"), "{}", without.stderr);
    let mut other = khala(at, &["revoke", "--url", &url, "--sid", "a"]);
    let other = end(other.env("KHALA_ADMIN_TOKEN", "another").spawn().unwrap()).await;
    assert_eq!(other.code, Some(77), "{}", other.stderr);
    assert!(
        other.stderr.contains("auth.admin_token") && !other.stderr.contains("another"),
        "{}",
        other.stderr
    );

    fails(&url, &["--sub", "a", "--until", "1h"], 1, "for another 25 h; name a later moment").await;
    fails("http://user:word@127.0.0.1", &sid, 2, "no user and password").await;
    fails("127.0.0.1:1", &sid, 2, "not a URL").await;
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    fails(&format!("http://{closed}"), &sid, 69, "cannot be reached").await;
    let faults = [
        (Fault::CutBefore, 69, "cannot be reached"),
        (Fault::Say(503, vec![], r#"{"code":"unavailable","detail":"later"}"#), 69, "later (unavailable)"),
        (Fault::Say(404, vec![], r#"{"code":"admin_off","detail":"off"}"#), 1, "set auth.admin_token"),
        (Fault::Say(404, vec![], "<html>"), 76, "is the path in --url right?"),
        (Fault::Say(200, vec![], "<html>"), 76, "is this the URL of one?"),
    ];
    for (fault, code, says) in faults {
        fake.fault(fault);
        fails(&fake.url(), &sid, code, says).await;
    }
}
