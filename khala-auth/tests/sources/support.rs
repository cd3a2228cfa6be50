//! Keys, and what a source gives: for the tests of sources here and in khala-server.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use khala_auth::{Key, KeySet, sources::KeySource};
use khala_core::Timestamp;
use serde_json::json;

/// Longer than any test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

pub(crate) fn secret(kid: &str, version: u8) -> Vec<u8> {
    format!("{kid:_<30}{version:0>4}").into_bytes()
}

/// A public key, which each source takes.
pub(crate) fn key(kid: &str, version: u8) -> Key {
    // About every other text is a point of the curve.
    let key = |n: u8| {
        let x = URL_SAFE_NO_PAD.encode(format!("{kid:_<26}{version:0>3}{n:0>3}"));
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string();
        KeySet::from_jwks(&set).ok()?.key(Some(kid)).cloned()
    };
    (0..=u8::MAX).find_map(key).unwrap()
}

pub(crate) fn jwks(keys: &[Key]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.iter().map(Key::to_jwk).collect::<Vec<_>>().join(","))
}

pub(crate) fn set(keys: &[Key]) -> KeySet {
    keys.iter().fold(KeySet::new(), |set, key| set.with_key(key.clone()).unwrap())
}

pub(crate) async fn kids(source: &impl KeySource) -> Vec<String> {
    let set = source.keys(None, Timestamp::default()).await.unwrap();
    set.kids().map(str::to_owned).collect()
}

pub(crate) async fn knows(source: &impl KeySource, kid: &str) -> bool {
    source.keys(Some(kid), Timestamp::default()).await.unwrap().key(Some(kid)).is_some()
}
