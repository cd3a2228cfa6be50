//! Keys in PEM files: which algorithm one is for, where nobody says it.

use khala_auth::{KeyAlgorithm, KeyError};

/// Those that a PEM file can hold a key for.
const ALGORITHMS: [KeyAlgorithm; 3] = [KeyAlgorithm::EdDsa, KeyAlgorithm::Es256, KeyAlgorithm::Rs256];

/// Whether it is a PEM file.
pub(crate) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// Whether it is a PEM file of a private key.
pub(crate) fn is_private(pem: &str) -> bool {
    pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY-----"))
}

/// What `make` makes of a PEM file by `algorithm`, or by the one algorithm that its key is for.
pub(crate) fn made<T>(
    algorithm: Option<KeyAlgorithm>,
    make: impl Fn(KeyAlgorithm) -> Result<T, KeyError>,
) -> Result<T, String> {
    if let Some(algorithm) = algorithm {
        return make(algorithm).map_err(|fault| fault.to_string());
    }
    let mut faults = Vec::new();
    for algorithm in ALGORITHMS {
        match make(algorithm) {
            Ok(made) => return Ok(made),
            Err(fault) => faults.push((algorithm, fault.to_string())),
        }
    }
    // Where a key is of the right kind and unfit, one of the three says more than that it is another kind of key.
    let another_kind = |(algorithm, fault): &(KeyAlgorithm, String)| {
        fault.ends_with(&format!("key for {algorithm}")) || fault.ends_with("is not an Ed25519 key")
    };
    let told = faults.into_iter().find(|fault| !another_kind(fault)).map(|(_, fault)| fault);
    Err(told.unwrap_or_else(|| "it is no whole key of Ed25519, P-256 or RSA".to_owned()))
}
