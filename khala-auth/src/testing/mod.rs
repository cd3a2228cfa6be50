//! For tests: a forge of tokens with any header and any claims, a verifier to show them to, and keys.

mod pem;

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use khala_core::{Grant, Timestamp, Token, auth::Verifier as _, wire::Code};
use serde_json::{Value, json};

pub(crate) use self::pem::*;
use crate::{JwtOptions, JwtVerifier, Key, KeyAlgorithm, KeySet};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(crate) const T: u64 = 1_700_000_000;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"hs"}"#;

/// base64url without padding (RFC 4648).
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = bytes.as_ref().chunks(3).flat_map(|chunk| {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |at| char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]))
    });
    digits.collect()
}

/// A token of this header and these claims, signed with `key` by `algorithm`, whatever the header says.
pub(crate) fn forge(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> Token {
    let message = format!("{}.{}", base64(header), base64(claims));
    let signature = sign(message.as_bytes(), key, algorithm).unwrap();
    Token::new(format!("{message}.{signature}"))
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// One key of each kind, named by it, and the secret without a name.
fn keys() -> KeySet {
    let keys = [
        Key::hs256(None, SECRET),
        Key::hs256(Some("hs"), SECRET),
        Key::from_pem(Some("ed"), KeyAlgorithm::EdDsa, ED_PUBLIC),
        Key::from_pem(Some("es"), KeyAlgorithm::Es256, EC_PUBLIC),
        Key::from_pem(Some("rs"), KeyAlgorithm::Rs256, RSA_PUBLIC),
    ];
    keys.into_iter().fold(KeySet::new(), |set, key| set.with_key(key.unwrap()).unwrap())
}

/// The verdict on `token`, which the verdict must not show.
pub(crate) async fn verify(options: JwtOptions, token: &Token, now: Timestamp) -> Result<Grant, Code> {
    let verifier = JwtVerifier::with_keys(keys(), options);
    let verdict = verifier.verify(token, now).await;
    verdict.map_err(|denied| {
        // What is shorter may stand in a sentence by chance.
        let token = Some(token.reveal()).filter(|token| token.len() >= 16);
        assert!(!token.is_some_and(|token| format!("{denied}{denied:?}").contains(token)));
        denied.code()
    })
}

/// A token of this header and these claims, rightly signed with the secret.
pub(crate) fn signed(header: &str, claims: &str) -> Token {
    forge(header, claims, &EncodingKey::from_secret(SECRET), Algorithm::HS256)
}

/// A good token's claims, with these changes; null takes one away.
pub(crate) fn claims(changes: Value) -> String {
    let mut claims = json!({ "sub": "ada", "exp": T + 3600, "iat": T, "jti": "1", "scope": ["a"] });
    let claims = claims.as_object_mut().expect("it is an object");
    if let Value::Object(changes) = changes {
        claims.extend(changes);
    }
    claims.retain(|_, value| !value.is_null());
    json!(claims).to_string()
}
