//! `khala key`: what a server trusts afterwards, and what stays as it was.

use std::{fs, path::Path};

use khala_auth::{JwtOptions, JwtVerifier, KeyAlgorithm, KeySet};
use khala_core::{
    Token,
    auth::Verifier as _,
    clock::{Clock as _, SystemClock},
};
use serde_json::Value;

use crate::{Ended, end, khala, pem};

async fn run(directory: &Path, arguments: &[&str]) -> Ended {
    let ended = end(khala(directory, arguments).spawn().unwrap()).await;
    for secret in ["PRIVATE", "\"k\"", "\"d\""] {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{}", ended.stderr);
    }
    ended
}

async fn fails(directory: &Path, arguments: &[&str], code: i32, fault: &str) {
    let ended = run(directory, arguments).await;
    assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
    assert!(ended.stderr.contains(fault), "{arguments:?}: {}", ended.stderr);
}

fn set(directory: &Path) -> KeySet {
    KeySet::from_jwks(&fs::read_to_string(directory.join("keys.json")).unwrap()).unwrap()
}

async fn accepts(directory: &Path, token: &str) -> bool {
    let verifier = JwtVerifier::with_keys(set(directory), JwtOptions::default());
    verifier.verify(&Token::new(token.trim()), SystemClock::new().now()).await.is_ok()
}

#[tokio::test]
async fn what_is_added_is_trusted_until_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (kid, text, algorithm) in [
        ("ec", pem::EC_PRIVATE, KeyAlgorithm::Es256),
        ("ed", pem::ED_PRIVATE, KeyAlgorithm::EdDsa),
        ("rs", pem::RSA_PRIVATE, KeyAlgorithm::Rs256),
    ] {
        let file = format!("{kid}.pem");
        fs::write(at.join(&file), text).unwrap();
        let added = run(at, &["key", "add", "keys.json", "--kid", kid, &file]).await;
        assert_eq!(added.code, Some(0), "{}", added.stderr);
        assert!(
            added.stderr.starts_with(&format!("khala: keys.json now has the key \"{kid}\" ({algorithm}, "))
        );
        assert_eq!(set(at).key(Some(kid)).unwrap().algorithm(), algorithm);
        let nameless = run(at, &["token", "--key-file", &file]).await;
        assert!(nameless.code == Some(0) && nameless.stderr.contains("give --kid"), "{}", nameless.stderr);
        let token = run(at, &["token", "--key-file", &file, "--kid", kid]).await;
        assert!(accepts(at, &token.stdout).await, "{kid}: {}", token.stderr);
        // The private half stays where it was.
        assert!(!fs::read_to_string(at.join("keys.json")).unwrap().contains("\"d\""));
    }
    for (kid, text) in
        [("ec-public", pem::EC_PUBLIC), ("ed-public", pem::ED_PUBLIC), ("rs-public", pem::RSA_PUBLIC)]
    {
        fs::write(at.join("public.pem"), text).unwrap();
        let added = run(at, &["key", "add", "keys.json", "--kid", kid, "public.pem"]).await;
        assert_eq!(added.code, Some(0), "{}", added.stderr);
        let private = set(at).key(kid.strip_suffix("-public")).unwrap().to_jwk();
        assert_eq!(set(at).key(Some(kid)).unwrap().to_jwk(), private.replace(&kid[..2], kid));
    }
    let added = run(at, &["key", "add", "keys.json", "--kid", "hs"]).await;
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let token = run(at, &["token", "--key-file", "keys.json", "--kid", "hs"]).await;
    assert!(accepts(at, &token.stdout).await, "{}", token.stderr);

    let listed = run(at, &["key", "list", "keys.json"]).await;
    assert_eq!((listed.code, &*listed.stderr), (Some(0), ""));
    let rows: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 7);
    assert_eq!((&rows[0]["kid"], &rows[0]["algorithm"]), (&"ec".into(), &"ES256".into()));
    assert_eq!(rows[0]["thumbprint"], rows[1]["thumbprint"], "the two are one key");
    assert!(rows.iter().all(|row| row["thumbprint"].is_string() != (row["kid"] == "hs")));

    let removed = run(at, &["key", "remove", "keys.json", "--kid", "hs"]).await;
    assert_eq!(
        (removed.code, &*removed.stderr),
        (Some(0), "khala: keys.json no longer has the key \"hs\"\n")
    );
    assert!(!accepts(at, &token.stdout).await);
    assert_eq!(set(at).len(), 6);
}

#[tokio::test]
async fn what_nobody_asked_about_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let file = at.join("keys.json");
    let one = "{ \"kty\":\"oct\", \"kid\":\"old\", \"k\":\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc\", \
               \"more\": [1.0, 1e2] }";
    let before = format!("{{\"z\": 1.50, \"keys\": [{one}], \"a\": {{ }} }}");
    fs::write(&file, &before).unwrap();

    let added = run(at, &["key", "add", "keys.json", "--kid", "new"]).await;
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let text = fs::read_to_string(&file).unwrap();
    for kept in [one, "\"z\": 1.50", "\"a\": { }"] {
        assert!(text.contains(kept), "{text}");
    }
    assert_eq!(run(at, &["key", "remove", "keys.json", "--kid", "old"]).await.code, Some(0));
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(one) && text.contains("\"z\": 1.50"), "{text}");

    // What cannot be done changes nothing, and leaves nothing behind.
    fails(at, &["key", "add", "keys.json", "--kid", "new"], 2, "has a key \"new\" already").await;
    fails(at, &["key", "remove", "keys.json", "--kid", "old"], 2, "there is \"new\"").await;
    fails(at, &["key", "remove", "keys.json", "--kid", "new"], 2, "--force").await;
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(fs::read_dir(at).unwrap().count(), 1);
    assert_eq!(run(at, &["key", "remove", "keys.json", "--kid", "new", "--force"]).await.code, Some(0));
    assert!(set(at).is_empty());
}

#[tokio::test]
async fn a_key_that_a_server_would_not_take_is_not_added() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (name, text) in [
        ("ec", pem::EC_PUBLIC),
        ("weak", pem::RSA_1024_PUBLIC),
        ("other", pem::SECP256K1_PUBLIC),
        ("none", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
        ("torn", "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"),
    ] {
        fs::write(at.join(name), text).unwrap();
    }
    let add = |name| ["key", "add", "keys.json", "--kid", "a", name];
    fails(at, &add("weak"), 2, "2048").await;
    fails(at, &add("other"), 2, "cannot be used").await;
    fails(at, &add("none"), 2, "CERTIFICATE").await;
    fails(at, &add("torn"), 2, "Ed25519, P-256 or RSA").await;
    fails(at, &add("missing"), 74, "missing").await;
    fails(at, &[&add("ec")[..], &["--algorithm", "RS256"]].concat(), 2, "RS256").await;
    fails(at, &["key", "add", "keys.json", "--kid", "a", "--algorithm", "ES256"], 2, "openssl").await;
    fails(at, &["key", "add", "keys.json", "--kid", "", "ec"], 2, "kid").await;
    fails(at, &["key", "list", "keys.json"], 74, "keys.json").await;
    fails(at, &["key", "remove", "keys.json", "--kid", "a"], 74, "no key file").await;
    assert!(!at.join("keys.json").exists());

    fs::write(at.join("keys.json"), "{\"keys\":[{\"kid\":\"bad\",\"kty\":\"oct\",\"k\":\"AA\"}]}").unwrap();
    fails(at, &add("ec"), 2, "\"bad\"").await;
    fails(at, &["key", "list", "keys.json"], 2, "\"bad\"").await;
    assert_eq!(run(at, &["key", "remove", "keys.json", "--kid", "bad", "--force"]).await.code, Some(0));
    fs::write(at.join("keys.json"), "[]").unwrap();
    fails(at, &add("ec"), 2, "not a JWK Set").await;
}

#[tokio::test]
async fn of_many_changes_at_once_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let kids: Vec<_> = (0..12).map(|number| format!("key-{number}")).collect();
    let added: Vec<_> = kids
        .iter()
        .map(|kid| khala(directory.path(), &["key", "add", "keys.json", "--kid", kid]).spawn().unwrap())
        .collect();
    for child in added {
        assert_eq!(end(child).await.code, Some(0));
    }
    assert_eq!(set(directory.path()).len(), kids.len());
}

#[cfg(unix)]
#[tokio::test]
async fn who_could_not_read_it_still_cannot() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let mode = || fs::metadata(at.join("keys.json")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(run(at, &["key", "add", "keys.json", "--kid", "a"]).await.code, Some(0));
    assert_eq!(mode(), 0o600);
    fs::set_permissions(at.join("keys.json"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("keys.json", at.join("link.json")).unwrap();
    assert_eq!(run(at, &["key", "add", "link.json", "--kid", "b"]).await.code, Some(0));
    assert_eq!((mode(), set(at).len()), (0o640, 2));
    assert!(at.join("link.json").is_symlink());
}
