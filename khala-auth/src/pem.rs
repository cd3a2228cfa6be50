//! Keys as they stand in a PEM file (RFC 7468): which half it is, and the library's key from it.
//!
//! A public key is `PUBLIC KEY` or, for RSA, `RSA PUBLIC KEY`; a private one `PRIVATE KEY` (PKCS #8) or
//! `RSA PRIVATE KEY`. The library takes either half for RSA, and certificates; here the label decides, so that nobody
//! hands a verifier a private key or a certificate whose end nobody checks.

use jsonwebtoken::{DecodingKey, EncodingKey, jwk::Jwk};

use crate::algorithm::{KeyAlgorithm, name_provider};

fn label(pem: &str) -> Option<&str> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    rest.split_once("-----").map(|(label, _)| label)
}

/// The public key in `pem`, or what is wrong with it.
pub(crate) fn public(algorithm: KeyAlgorithm, pem: &str) -> Result<DecodingKey, String> {
    match label(pem) {
        Some("PUBLIC KEY" | "RSA PUBLIC KEY") => {}
        Some("PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY") => {
            return Err("it is a private key; checking tokens takes the public one".to_owned());
        }
        Some(other) => return Err(format!("it is a PEM of {other:?}, not of a public key")),
        None => return Err("it is not a PEM file".to_owned()),
    }
    let key = match algorithm {
        KeyAlgorithm::EdDsa => DecodingKey::from_ed_pem(pem.as_bytes()),
        KeyAlgorithm::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()),
        KeyAlgorithm::Hs256 => return Err("HS256 takes a secret, not a PEM file".to_owned()),
        KeyAlgorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
    };
    key.map_err(|_| format!("it is not a public key for {algorithm}"))
}

/// The private key in `pem` and its public half, or what is wrong with it.
pub(crate) fn private(algorithm: KeyAlgorithm, pem: &str) -> Result<(EncodingKey, DecodingKey), String> {
    match label(pem) {
        Some("PRIVATE KEY" | "RSA PRIVATE KEY") => {}
        Some("EC PRIVATE KEY") => {
            return Err(
                "it is in the form of SEC 1; `openssl pkcs8 -topk8 -nocrypt` makes PKCS #8 of it".to_owned()
            );
        }
        Some("ENCRYPTED PRIVATE KEY") => return Err("it is encrypted".to_owned()),
        Some(other) => return Err(format!("it is a PEM of {other:?}, not of a private key")),
        None => return Err("it is not a PEM file".to_owned()),
    }
    let key = match algorithm {
        KeyAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem.as_bytes()),
        KeyAlgorithm::Es256 => EncodingKey::from_ec_pem(pem.as_bytes()),
        KeyAlgorithm::Hs256 => return Err("HS256 takes a secret, not a PEM file".to_owned()),
        KeyAlgorithm::Rs256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    name_provider();
    let pair = key.and_then(|key| {
        let public = DecodingKey::from_jwk(&Jwk::from_encoding_key(&key, algorithm.of_library())?)?;
        Ok((key, public))
    });
    pair.map_err(|_| format!("it is not a private key for {algorithm}"))
}
