//! `khala token`, `khala topics`, and the token that nobody gave.

use std::time::Duration;

use khala_auth::{JwtOptions, JwtVerifier};
use khala_core::{
    Timestamp, Token,
    auth::{Access, Verifier as _},
    clock::{Clock as _, SystemClock},
};

use crate::{
    end,
    fake::{Fake, Fault},
    khala, khala_at, pem,
};

const KEY: &str = "0123456789abcdef0123456789abcdef";

async fn grant(token: &str, options: JwtOptions) -> khala_core::Grant {
    let verifier = JwtVerifier::hs256(KEY.as_bytes(), options).unwrap();
    verifier.verify(&Token::new(token.trim()), SystemClock::new().now()).await.unwrap()
}

fn about(expires_at: Timestamp, ttl: Duration) -> bool {
    // A grant lasts for the leeway longer than its token.
    let ttl = ttl + JwtOptions::default().leeway;
    let left = expires_at.since(SystemClock::new().now());
    left <= ttl && left > ttl - Duration::from_secs(60)
}

#[tokio::test]
async fn a_minted_token_is_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let none = end(khala(directory.path(), &["token"]).spawn().unwrap()).await;
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    assert!(none.stderr.contains("khala.dev.key"), "{}", none.stderr);

    std::fs::write(directory.path().join("khala.dev.key"), format!("{KEY}\n")).unwrap();
    let default = end(khala(directory.path(), &["token"]).spawn().unwrap()).await;
    assert_eq!(default.code, Some(0), "{}", default.stderr);
    let default = grant(&default.stdout, JwtOptions::default()).await;
    assert!(default.allows(Access::Read.scope()) && default.allows(Access::Publish.scope()));
    assert!(about(default.expires_at(), Duration::from_secs(3600)));

    std::fs::write(directory.path().join("other.key"), KEY).unwrap();
    let arguments = [
        "token",
        "--key-file",
        "other.key",
        "--sub",
        "ada",
        "--sid",
        "login",
        "--org",
        "acme",
        "--scope",
        "read workers:read",
        "--scope",
        "workers:admin",
        "--ttl",
        "2d",
        "--max-age",
        "30d",
        "--issuer",
        "here",
        "--audience",
        "sync",
    ];
    let minted = end(khala(directory.path(), &arguments).spawn().unwrap()).await;
    let options = JwtOptions {
        issuer: Some("here".to_owned()),
        audience: Some("sync".to_owned()),
        max_age: None,
        ..JwtOptions::default()
    };
    let minted = grant(&minted.stdout, options).await;
    assert_eq!((minted.session_id(), minted.organisation()), (Some("login"), Some("acme")));
    assert_eq!(minted.subject(), "ada");
    assert!(minted.scopes() == ["khala:read", "workers:read", "workers:admin"]);
    assert!(about(minted.expires_at(), Duration::from_secs(2 * 86_400)));

    let from_env =
        end(khala(directory.path(), &["token"]).env("KHALA_AUTH__HS256_KEY", "short").spawn().unwrap()).await;
    assert_eq!(from_env.code, Some(2), "{}", from_env.stderr);
    assert!(
        from_env.stderr.contains("32 bytes") && !from_env.stderr.contains("short"),
        "{}",
        from_env.stderr
    );
}

#[tokio::test]
async fn without_a_token_the_development_key_is_used_on_this_machine_only() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let run = || khala(directory.path(), &["topics", "--url", &fake.url()]).spawn().unwrap();
    let without = end(run()).await;
    assert_eq!((without.code, &*without.stderr), (Some(0), ""));
    std::fs::write(directory.path().join("khala.dev.key"), format!("{KEY}\n")).unwrap();
    let with = end(run()).await;
    assert_eq!((with.code, &*with.stderr), (Some(0), ""), "it is said to a person at a terminal");
    let sent: Vec<_> = fake.requests().into_iter().map(|seen| seen.authorization).collect();
    assert_eq!(sent[0], None);
    let token = sent[1].as_deref().unwrap().strip_prefix("Bearer ").unwrap();
    assert!(grant(token, JwtOptions::default()).await.allows(Access::Publish.scope()));

    // Nobody else gets such a token.
    let arguments = ["topics", "--url", "http://nosuch.invalid"];
    let mut elsewhere = khala(directory.path(), &arguments);
    elsewhere.env("HTTP_PROXY", fake.url()).env("http_proxy", fake.url());
    let _ = end(elsewhere.spawn().unwrap()).await;
    assert_eq!(fake.requests().last().unwrap().authorization, None);

    std::fs::write(directory.path().join("token"), "from-a-file\n").unwrap();
    let arguments = ["topics", "--token-file", "token"];
    assert_eq!(end(khala_at(&fake, directory.path(), &arguments).spawn().unwrap()).await.code, Some(0));
    assert_eq!(fake.requests().last().unwrap().authorization.as_deref(), Some("Bearer from-a-file"));
}

#[tokio::test]
async fn what_a_server_would_refuse_is_not_minted() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("khala.dev.key"), KEY).unwrap();
    std::fs::write(at.join("ec.pem"), pem::EC_PRIVATE).unwrap();
    std::fs::write(at.join("public.pem"), pem::EC_PUBLIC).unwrap();
    std::fs::write(at.join("set.json"), "{\"keys\":[]}").unwrap();
    for (arguments, says) in [
        (&["--ttl", "25h"][..], "jwt.max_age_seconds"),
        (&["--ttl", "2h", "--max-age", "1h"], "token_too_old"),
        (&["--sub", ""], "a value is required for '--sub"),
        (&["--sid", ""], "a value is required for '--sid"),
        (&["--scope", ""], "--scope is empty"),
        (&["--ttl", "0s"], "--ttl is too short"),
        (&["--kid", ""], "kid"),
        (&["--algorithm", "none"], "EdDSA"),
        (&["--algorithm", "ES256"], "not a PEM"),
        (&["--key-file", "ec.pem", "--algorithm", "EdDSA"], "EdDSA"),
        (&["--key-file", "ec.pem", "--algorithm", "HS256"], "takes a secret"),
        (&["--key-file", "public.pem"], "PUBLIC KEY"),
        (&["--key-file", "set.json"], "--kid"),
        (&["--key-file", "set.json", "--kid", "a"], "without a key \"a\""),
    ] {
        let ended = end(khala(at, &[&["token"], arguments].concat()).spawn().unwrap()).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("PRIVATE") && !ended.stderr.contains(KEY), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_refused_token_says_what_to_do() {
    let mut fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    for (body, says) in [
        (r#"{"code":"token_too_old"}"#, "jwt.max_age_seconds"),
        (r#"{"code":"token_revoked"}"#, "khala revoke --list"),
        (r#"{"code":"unknown_kid"}"#, "khala key list"),
        (r#"{"code":"invalid_token","detail":"it names no key"}"#, "give --kid"),
        (
            r#"{"code":"missing_token","detail":"send a header"}"#,
            "asks for a token (missing_token); give one with",
        ),
        (r#"{"code":"missing_jti"}"#, "jwt.require_jti"),
    ] {
        fake.fault(Fault::Say(401, vec![], body));
        let ended = end(khala_at(&fake, directory.path(), &["topics"]).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    let route = r#"{"code":"unknown_route","detail":"there is nothing here"}"#;
    fake.fault(Fault::Say(404, vec![], route));
    let ended = end(khala_at(&fake, directory.path(), &["topics"]).spawn().unwrap()).await;
    assert_eq!(ended.code, Some(76), "{}", ended.stderr);
    assert!(ended.stderr.contains("is the path in --url right?"), "{}", ended.stderr);
    let arguments = ["topics", "--token-file", "missing"];
    let ended = end(khala(directory.path(), &arguments).spawn().unwrap()).await;
    assert_eq!(ended.code, Some(74), "{}", ended.stderr);
    for (code, reason) in [(4003, "token_revoked"), (4004, "unknown_kid")] {
        let child = khala_at(&fake, directory.path(), &["tail", "run:7:events"]).spawn().unwrap();
        let (mut peer, _) = fake.joining().await;
        peer.welcome(1, 0, 0).await;
        peer.close(code, reason).await;
        // A token that cannot be renewed is refused for good.
        let ended = end(child).await;
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
}
