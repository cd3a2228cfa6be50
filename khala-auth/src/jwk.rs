//! Reading sets of keys as JSON (RFC 7517, RFC 7518 section 6, RFC 8037).
//!
//! No fault repeats what a member holds, because it may be a secret; it names the key and the member.

use jsonwebtoken::{
    DecodingKey,
    jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters,
        EllipticCurveKeyType, Jwk, OctetKeyPairParameters, OctetKeyPairType, OctetKeyParameters,
        OctetKeyType, RSAKeyParameters, RSAKeyType,
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    algorithm::KeyAlgorithm,
    key::{Key, check_kid},
    key_error::KeyError,
};

/// The most keys in a set: searching one is bounded, and a set that is fetched cannot fill the memory.
pub(crate) const MAX_KEYS: usize = 100;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Members {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    e: Option<String>,
    k: Option<String>,
    n: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a JWK Set, in its order, and what is wrong with those that cannot be used. Those that are not for
/// signatures are left out.
///
/// # Errors
/// A [`KeyError`] when it is no JWK Set, or holds too many keys.
pub(crate) fn read(json: &str) -> Result<Vec<Result<Key, KeyError>>, KeyError> {
    let set: Set = serde_json::from_str(json).map_err(|fault| {
        let (line, column) = (fault.line(), fault.column());
        KeyError::new(None, format!("not a JWK Set (RFC 7517): line {line}, column {column}"))
    })?;
    if set.keys.len() > MAX_KEYS {
        let found = set.keys.len();
        return Err(KeyError::new(None, format!("a key set of {found} keys; at most {MAX_KEYS} are taken")));
    }
    let keys = set.keys.into_iter().enumerate();
    Ok(keys.filter_map(|(at, key)| read_one(key).map_err(|fault| fault.at(at + 1)).transpose()).collect())
}

/// [`read`], for a set of somebody else, with a fault in the place of each secret: whoever made it public can sign, and
/// so can everybody who read it on its way.
pub(crate) fn read_foreign(json: &str) -> Result<Vec<Result<Key, KeyError>>, KeyError> {
    let public = |(at, key): (usize, Result<Key, KeyError>)| match key {
        Ok(key) if key.algorithm() == KeyAlgorithm::Hs256 => {
            let fault = "it is a secret (kty \"oct\"), and a set that others can read has public keys alone";
            Err(KeyError::new(key.kid(), fault).at(at + 1))
        }
        key => key,
    };
    Ok(read(json)?.into_iter().enumerate().map(public).collect())
}

/// One key; None if it is not for signatures.
fn read_one(key: Value) -> Result<Option<Key>, KeyError> {
    let kid = key.get("kid").and_then(Value::as_str).map(str::to_owned);
    if let Some(kid) = &kid {
        check_kid(kid)?;
    }
    let fault = |text: String| KeyError::new(kid.as_deref(), text);
    let members: Members = serde_json::from_value(key)
        .map_err(|_| fault("it has no kty, or a member of another type than RFC 7517 gives it".to_owned()))?;
    match members.usage.as_deref() {
        None | Some("sig") => {}
        Some("enc") => return Ok(None),
        Some(other) => return Err(fault(format!("its use is {other:?}; \"sig\" is what is supported"))),
    }
    if members.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|one| one == "verify")) {
        return Ok(None);
    }
    let (algorithm, parameters) = members.parameters().map_err(fault)?;
    if let Some(other) = members.alg.as_deref().filter(|alg| *alg != algorithm.as_str()) {
        let kty = &members.kty;
        return Err(fault(format!("its alg is {other:?}; with kty {kty:?}, {algorithm} is supported")));
    }
    let jwk = Jwk { common: CommonParameters::default(), algorithm: parameters };
    let key = DecodingKey::from_jwk(&jwk)
        .map_err(|_| fault("a member is not base64url without padding (RFC 7515)".to_owned()))?;
    Key::checked(members.kid.as_deref(), algorithm, key).map(Some)
}

impl Members {
    fn parameters(&self) -> Result<(KeyAlgorithm, AlgorithmParameters), String> {
        let needed = |name: &str, member: &Option<String>| {
            member.clone().ok_or_else(|| format!("it has no {name}, which kty {:?} needs", self.kty))
        };
        // RFC 7518, section 6.2.1.2, and RFC 8037, section 2: exactly 32 bytes, which are 43 characters. The library
        // joins the two halves of a point unseen, and panics on a short Ed25519 key.
        let coordinate = |name: &str, member: &Option<String>| {
            let text = needed(name, member)?;
            if text.len() == 43 { Ok(text) } else { Err(format!("its {name} is not 32 bytes long")) }
        };
        let curve = |wanted: &str| match needed("crv", &self.crv)? {
            found if found == wanted => Ok(()),
            found => Err(format!("its crv is {found:?}; with kty {:?}, {wanted} is supported", self.kty)),
        };
        match self.kty.as_str() {
            "EC" => {
                curve("P-256")?;
                let (x, y) = (coordinate("x", &self.x)?, coordinate("y", &self.y)?);
                let (key_type, curve) = (EllipticCurveKeyType::EC, EllipticCurve::P256);
                let parameters = EllipticCurveKeyParameters { key_type, curve, x, y };
                Ok((KeyAlgorithm::Es256, AlgorithmParameters::EllipticCurve(parameters)))
            }
            "OKP" => {
                curve("Ed25519")?;
                let x = coordinate("x", &self.x)?;
                let (key_type, curve) = (OctetKeyPairType::OctetKeyPair, EllipticCurve::Ed25519);
                let parameters = OctetKeyPairParameters { key_type, curve, x };
                Ok((KeyAlgorithm::EdDsa, AlgorithmParameters::OctetKeyPair(parameters)))
            }
            "RSA" => {
                let (n, e) = (needed("n", &self.n)?, needed("e", &self.e)?);
                let parameters = RSAKeyParameters { key_type: RSAKeyType::RSA, n, e };
                Ok((KeyAlgorithm::Rs256, AlgorithmParameters::RSA(parameters)))
            }
            "oct" => {
                let value = needed("k", &self.k)?;
                let parameters = OctetKeyParameters { key_type: OctetKeyType::Octet, value };
                Ok((KeyAlgorithm::Hs256, AlgorithmParameters::OctetKey(parameters)))
            }
            other => Err(format!("its kty is {other:?}; EC, OKP, RSA and oct are supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KeySet,
        testing::{EC_PUBLIC, ED_PUBLIC, RSA_PUBLIC, SECRET, base64},
    };

    fn all() -> [Key; 4] {
        [
            Key::from_pem(Some("ed"), KeyAlgorithm::EdDsa, ED_PUBLIC).unwrap(),
            Key::from_pem(Some("es"), KeyAlgorithm::Es256, EC_PUBLIC).unwrap(),
            Key::hs256(Some("hs"), SECRET).unwrap(),
            Key::from_pem(None, KeyAlgorithm::Rs256, RSA_PUBLIC).unwrap(),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        let json = format!(r#"{{"keys":[{}]}}"#, all().each_ref().map(Key::to_jwk).join(","));
        let set = all().into_iter().fold(KeySet::new(), |set, key| set.with_key(key).unwrap());
        assert_eq!(KeySet::from_jwks(&json).unwrap(), set);
        assert_eq!(set.kids().collect::<Vec<_>>(), ["ed", "es", "hs"]);
        let ed: Value = serde_json::from_str(&all()[0].to_jwk()).unwrap();
        let (crv, x) = ("Ed25519", "a0FvpN5KpxqI2h6zUwo0iKYhkaAJJu0U5hVcrM5GYBw");
        let expected = serde_json::json!({
            "kty": "OKP", "crv": crv, "x": x, "alg": "EdDSA", "use": "sig", "kid": "ed",
        });
        assert_eq!(ed, expected);
    }

    #[test]
    fn a_public_key_shows_no_private_part() {
        for key in all() {
            let json: Value = serde_json::from_str(&key.to_jwk()).unwrap();
            for private in ["d", "dp", "dq", "p", "q", "qi"] {
                assert!(json.get(private).is_none(), "{json}");
            }
        }
    }

    #[test]
    fn keys_that_are_not_for_signatures_are_left_out() {
        let k = base64(SECRET);
        let json = format!(
            r#"{{"keys":[
                {{"kty":"RSA","use":"enc","kid":"a","alg":"RSA-OAEP"}},
                {{"kty":"oct","key_ops":["encrypt"],"kid":"b","k":"{k}"}},
                {{"kty":"oct","key_ops":["sign","verify"],"use":"sig","kid":"c","k":"{k}","more":[1]}}
            ],"more":true}}"#
        );
        assert_eq!(KeySet::from_jwks(&json).unwrap().kids().collect::<Vec<_>>(), ["c"]);
        assert!(KeySet::from_jwks(r#"{"keys":[]}"#).unwrap().is_empty());
    }

    /// Each key of a set that must be refused, and what the refusal says.
    fn bad_keys() -> Vec<(String, &'static str)> {
        let (k, short) = (base64(SECRET), base64([7; 31]));
        let (small, even) = (base64([0xff; 128]), base64([0xff; 256]));
        let padded = base64([[0; 200], [0xff; 200]].concat());
        let (x, x31) = (base64([1; 32]), base64([1; 31]));
        let named = |members: &str| format!(r#"{{"kid":"a",{members}}}"#);
        vec![
            (
                named(&format!(r#""kty":"oct","k":"{short}""#)),
                r#"key "a": an HS256 key needs at least 32 bytes"#,
            ),
            (named(r#""kty":"oct","k":"""#), r#"key "a": an HS256 key needs at least 32 bytes"#),
            (named(r#""kty":"oct""#), r#"key "a": it has no k"#),
            (named(r#""kty":"oct","k":5"#), r#"key "a": it has no kty, or a member of another type"#),
            (named(&format!(r#""kty":"oct","k":"{k}=""#)), r#"key "a": a member is not base64url"#),
            (named(&format!(r#""kty":"oct","alg":"HS512","k":"{k}""#)), r#"key "a": its alg is "HS512""#),
            (named(&format!(r#""kty":"oct","alg":"none","k":"{k}""#)), r#"key "a": its alg is "none""#),
            (named(&format!(r#""kty":"oct","alg":"RS256","k":"{k}""#)), r#"key "a": its alg is "RS256""#),
            (named(&format!(r#""kty":"oct","use":"tls","k":"{k}""#)), r#"key "a": its use is "tls""#),
            (named(&format!(r#""kty":"RSA","e":"AQAB","n":"{small}""#)), "this one has 1024"),
            (named(&format!(r#""kty":"RSA","e":"AQAB","n":"{padded}""#)), "this one has 1600"),
            (named(&format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, base64([0xff; 513]))), "this one has 4104"),
            (named(&format!(r#""kty":"RSA","e":"AQ","n":"{even}""#)), r#"key "a": its public exponent"#),
            (named(&format!(r#""kty":"RSA","e":"AQAA","n":"{even}""#)), r#"key "a": its public exponent"#),
            (named(&format!(r#""kty":"RSA","e":"{x}","n":"{even}""#)), r#"key "a": its public exponent"#),
            (named(&format!(r#""kty":"RSA","n":"{even}""#)), r#"key "a": it has no e"#),
            (
                named(&format!(r#""kty":"EC","crv":"P-384","x":"{x}","y":"{x}""#)),
                r#"key "a": its crv is "P-384""#,
            ),
            (
                named(&format!(r#""kty":"EC","crv":"P-256","x":"{x}","y":"{x}""#)),
                r#"key "a": it is not an uncompressed"#,
            ),
            (
                named(&format!(r#""kty":"EC","crv":"P-256","x":"{x}","y":"{x31}""#)),
                r#"key "a": its y is not 32 bytes"#,
            ),
            (named(&format!(r#""kty":"EC","x":"{x}","y":"{x}""#)), r#"key "a": it has no crv"#),
            (
                named(&format!(r#""kty":"OKP","crv":"Ed25519","x":"{x31}""#)),
                r#"key "a": its x is not 32 bytes"#,
            ),
            (named(&format!(r#""kty":"OKP","crv":"X25519","x":"{x}""#)), r#"key "a": its crv is "X25519""#),
            (named(r#""kty":"AKP""#), r#"key "a": its kty is "AKP""#),
            (format!(r#"{{"kty":"oct","k":"{short}"}}"#), "key number 1 of the set: an HS256 key"),
            (format!(r#"{{"kty":"oct","kid":"","k":"{k}"}}"#), "key number 1 of the set: its kid is empty"),
            (
                format!(r#"{{"kty":"oct","kid":"{}","k":"{k}"}}"#, "a".repeat(257)),
                "its kid is 257 bytes long",
            ),
            (format!(r#"{{"kty":"oct","kid":"a\n","k":"{k}"}}"#), "its kid holds a control character"),
            (
                format!(r#"{{"kty":"oct","kid":5,"k":"{k}"}}"#),
                "key number 1 of the set: it has no kty, or a member",
            ),
            ("5".to_owned(), "key number 1 of the set: it has no kty, or a member"),
        ]
    }

    #[test]
    fn each_fault_is_named_and_shows_no_key() {
        for (key, fault) in bad_keys() {
            let json = format!(r#"{{"keys":[{key}]}}"#);
            let error = KeySet::from_jwks(&json).unwrap_err();
            assert!(error.to_string().contains(fault), "{key}: {error}");
            assert_eq!(error.kid(), key.contains(r#""kid":"a","#).then_some("a"), "{key}");
            assert!(!format!("{error}{error:?}").contains(&base64(SECRET)), "{error:?}");
        }
    }

    #[test]
    fn a_foreign_set_loses_only_the_keys_that_cannot_be_used() {
        let good = all()[0].to_jwk();
        for (bad, fault) in bad_keys() {
            let (set, left_out) =
                KeySet::from_foreign_jwks(&format!(r#"{{"keys":[{bad},{good}]}}"#)).unwrap();
            assert_eq!(set.kids().collect::<Vec<_>>(), ["ed"]);
            assert!(left_out.len() == 1 && left_out[0].to_string().contains(fault), "{left_out:?}");
        }
        assert!(KeySet::from_foreign_jwks(&format!(r#"{{"keys":[{good},{good}]}}"#)).is_err());
    }

    #[test]
    fn a_foreign_set_loses_its_secrets() {
        let k = base64(SECRET);
        let json = format!(
            r#"{{"keys":[{},{},{{"kty":"oct","k":"{k}"}},{{"kty":"oct","use":"enc","k":"{k}"}}]}}"#,
            all()[0].to_jwk(),
            all()[2].to_jwk()
        );
        let (set, left_out) = KeySet::from_foreign_jwks(&json).unwrap();
        assert_eq!(set.kids().collect::<Vec<_>>(), ["ed"]);
        assert!(set.key(None).is_none());
        let faults: Vec<_> = left_out.iter().map(KeyError::to_string).collect();
        assert_eq!(faults.len(), 2, "{faults:?}");
        for (fault, place) in faults.iter().zip(["key \"hs\": ", "key number 3 of the set: "]) {
            assert!(fault.starts_with(place) && fault.contains("secret") && !fault.contains(&k), "{fault}");
        }
        assert_eq!(left_out[0].kid(), Some("hs"));
        let (own, left_out) = KeySet::from_jwks_in_part(&json).unwrap();
        assert_eq!((own.len(), left_out.len()), (3, 0), "one's own set may hold them");
    }

    #[test]
    fn a_set_that_is_none_is_refused() {
        let k = base64(SECRET);
        let many = |count: usize| {
            let keys: Vec<_> =
                (0..count).map(|at| format!(r#"{{"kty":"oct","kid":"{at}","k":"{k}"}}"#)).collect();
            format!(r#"{{"keys":[{}]}}"#, keys.join(","))
        };
        assert_eq!(KeySet::from_jwks(&many(100)).unwrap().len(), 100);
        let twice = format!(r#"{{"keys":[{0},{0}]}}"#, all()[2].to_jwk());
        let unnamed = format!(r#"{{"keys":[{0},{0}]}}"#, all()[3].to_jwk());
        for (json, fault) in [
            (many(101).as_str(), "101 keys"),
            (&twice, r#"key "hs": there is another key of this name"#),
            (&unnamed, "key number 2 of the set: there is another key without a kid"),
            ("", "not a JWK Set (RFC 7517): line 1"),
            ("[]", "not a JWK Set"),
            (r#"{"keys":"secret"}"#, "not a JWK Set"),
            (r#"{"kty":"oct"}"#, "not a JWK Set"),
        ] {
            let error = KeySet::from_jwks(json).unwrap_err().to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{error}");
        }
    }
}
