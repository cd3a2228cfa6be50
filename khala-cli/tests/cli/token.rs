//! `khala token`, `khala topics`, and the token that nobody gave.

use std::time::Duration;

use khala_core::{Clock as _, JwtOptions, JwtVerifier, Scope, SystemClock, Timestamp, Token, Verifier as _};

use crate::{end, fake::Fake, khala, khala_at};

const KEY: &str = "0123456789abcdef0123456789abcdef";

async fn grant(token: &str, options: JwtOptions) -> khala_core::Grant {
    let verifier = JwtVerifier::hs256(KEY.as_bytes(), options).unwrap();
    verifier.verify(&Token::new(token.trim()), SystemClock::new().now()).await.unwrap()
}

fn about(expires_at: Timestamp, ttl: Duration) -> bool {
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
    assert!(default.allows(Scope::Read) && default.allows(Scope::Publish));
    assert!(about(default.expires_at(), Duration::from_secs(3600)));

    std::fs::write(directory.path().join("other.key"), KEY).unwrap();
    let arguments = [
        "token",
        "--key-file",
        "other.key",
        "--sub",
        "ada",
        "--scope",
        "read",
        "--ttl",
        "2d",
        "--issuer",
        "here",
        "--audience",
        "sync",
    ];
    let minted = end(khala(directory.path(), &arguments).spawn().unwrap()).await;
    let minted = grant(&minted.stdout, JwtOptions::default().with_issuer("here").with_audience("sync")).await;
    assert_eq!(minted.subject(), "ada");
    assert!(minted.allows(Scope::Read) && !minted.allows(Scope::Publish));
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
async fn without_a_token_the_development_key_is_used_and_said() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let run = || khala(directory.path(), &["topics", "--url", &fake.url()]).spawn().unwrap();
    let without = end(run()).await;
    assert_eq!((without.code, &*without.stderr), (Some(0), ""));
    std::fs::write(directory.path().join("khala.dev.key"), format!("{KEY}\n")).unwrap();
    let with = end(run()).await;
    assert!(with.stderr.contains("khala.dev.key"), "{}", with.stderr);
    let sent: Vec<_> = fake.requests().into_iter().map(|seen| seen.authorization).collect();
    assert_eq!(sent[0], None);
    let token = sent[1].as_deref().unwrap().strip_prefix("Bearer ").unwrap();
    assert!(grant(token, JwtOptions::default()).await.allows(Scope::Publish));

    std::fs::write(directory.path().join("token"), "from-a-file\n").unwrap();
    let arguments = ["topics", "--token-file", "token"];
    assert_eq!(end(khala_at(&fake, directory.path(), &arguments).spawn().unwrap()).await.code, Some(0));
    assert_eq!(fake.requests().last().unwrap().authorization.as_deref(), Some("Bearer from-a-file"));
}
