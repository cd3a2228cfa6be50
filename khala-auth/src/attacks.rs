//! The classical attacks on JSON Web Tokens, each a test. All are refused, and none has another effect.

use futures::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey};
use khala_core::{Grant, Token, wire::Code};
use proptest::prelude::*;
use serde_json::json;

use crate::{
    JwtOptions, Key,
    testing::{
        EC_PRIVATE, HEADER, RSA_PRIVATE, RSA_PUBLIC, SECRET, T, at, base64, claims, forge, signed, verify,
    },
};

#[tokio::test]
async fn headers_that_try_to_choose_are_refused() {
    let jwk = Key::hs256(None, &[7; 32]).unwrap().to_jwk();
    let forged = EncodingKey::from_secret(&[7; 32]);
    let secret = EncodingKey::from_secret(SECRET);
    for (header, key, verdict) in [
        (
            r#"{"alg":"HS256","kid":"hs","jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/"}"#,
            &secret,
            Ok(()),
        ),
        (r#"{"alg":"HS256","jku":"http://127.0.0.1:1/"}"#, &forged, Err(Code::InvalidToken)),
        (&format!(r#"{{"alg":"HS256","jwk":{jwk}}}"#), &forged, Err(Code::InvalidToken)),
        (&format!(r#"{{"alg":"HS256","kid":"hs","jwk":{jwk}}}"#), &forged, Err(Code::InvalidToken)),
        (&format!(r#"{{"alg":"HS256","kid":"new","jwk":{jwk}}}"#), &forged, Err(Code::UnknownKid)),
        (r#"{"alg":"HS256","kid":"hs","crit":["exp"],"exp":1}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":"hs","crit":["b64"],"b64":false}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":"hs","crit":[]}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":"hs","kid":"hs"}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":"new","kid":"hs"}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","alg":"HS256","kid":"hs"}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":["hs"]}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":7}"#, &secret, Err(Code::InvalidToken)),
        (r#"{"kid":"hs"}"#, &secret, Err(Code::InvalidToken)),
        (r#"["HS256"]"#, &secret, Err(Code::InvalidToken)),
        (r#"{"alg":"HS256","kid":"../../etc/passwd"}"#, &secret, Err(Code::UnknownKid)),
        (r#"{"alg":"HS256","kid":"' OR 1=1 --"}"#, &secret, Err(Code::UnknownKid)),
        (r#"{"alg":"HS256","kid":""}"#, &secret, Err(Code::UnknownKid)),
        (r#"{"alg":"HS256","kid":"hs\u0000"}"#, &secret, Err(Code::UnknownKid)),
        (r#"{"alg":"HS256","kid":"HS"}"#, &secret, Err(Code::UnknownKid)),
    ] {
        let token = forge(header, &claims(json!({})), key, Algorithm::HS256);
        assert_eq!(verify(JwtOptions::default(), &token, at(T)).await.map(drop), verdict, "{header}");
    }
}

#[tokio::test]
async fn the_algorithm_belongs_to_the_key() {
    let der: Vec<u8> = {
        let body: String = RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
        let bits = |byte: u8| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                .iter()
                .position(|digit| *digit == byte)
                .unwrap() as u32
        };
        let chunks =
            body.as_bytes().chunks(4).map(|four| four.iter().fold(0, |sum, byte| sum << 6 | bits(*byte)));
        chunks.flat_map(|bits| bits.to_be_bytes().into_iter().skip(1)).collect()
    };
    assert_eq!(der[..4], [0x30, 0x82, 0x01, 0x22]);
    let secret = |bytes: &[u8]| EncodingKey::from_secret(bytes);
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    for (alg, kid, key, algorithm) in [
        // HS256, signed with what everybody knows of an RSA key.
        ("HS256", "rs", &secret(RSA_PUBLIC.as_bytes()), Algorithm::HS256),
        ("HS256", "rs", &secret(RSA_PUBLIC.trim().as_bytes()), Algorithm::HS256),
        ("HS256", "rs", &secret(&der), Algorithm::HS256),
        ("HS256", "rs", &secret(&der[24..]), Algorithm::HS256),
        ("RS256", "rs", &secret(RSA_PUBLIC.as_bytes()), Algorithm::HS256),
        // Right keys and right signatures, under another key's name or by another algorithm.
        ("ES256", "rs", &ec, Algorithm::ES256),
        ("RS256", "es", &rsa, Algorithm::RS256),
        ("RS256", "hs", &rsa, Algorithm::RS256),
        ("RS384", "rs", &rsa, Algorithm::RS384),
        ("PS256", "rs", &rsa, Algorithm::PS256),
        ("HS512", "hs", &secret(SECRET), Algorithm::HS512),
        ("HS256", "hs", &secret(b""), Algorithm::HS256),
        // A header that names the key's algorithm over a signature of another.
        ("RS256", "rs", &rsa, Algorithm::PS256),
        ("ES256", "es", &rsa, Algorithm::RS256),
        ("HS256", "hs", &secret(SECRET), Algorithm::HS384),
        ("EdDSA", "ed", &secret(SECRET), Algorithm::HS256),
    ] {
        let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
        let token = forge(&header, &claims(json!({})), key, algorithm);
        let verdict = verify(JwtOptions::default(), &token, at(T)).await;
        assert_eq!(verdict, Err(Code::InvalidToken), "{alg} {kid}");
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "hs256", "HS256"] {
        for kid in [r#","kid":"hs""#, ""] {
            let header = base64(format!(r#"{{"alg":"{alg}"{kid}}}"#));
            let claims = base64(claims(json!({})));
            for token in
                [format!("{header}.{claims}."), format!("{header}.{claims}"), format!("{header}.{claims}.AA")]
            {
                let verdict = verify(JwtOptions::default(), &Token::new(token), at(T)).await;
                assert_eq!(verdict, Err(Code::InvalidToken), "{alg}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_in_any_other_writing_is_refused() {
    let good = signed(HEADER, &claims(json!({}))).reveal().to_owned();
    let other = signed(HEADER, &claims(json!({ "sub": "eve" }))).reveal().to_owned();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let (other_message, other_signature) = other.rsplit_once('.').unwrap();
    let cut = &signature[..signature.len() - 4];
    // The last digit of 32 bytes holds two bits that say nothing; both writings must not be the same token.
    let last = char::from(signature.as_bytes()[42] + 1);
    let long = format!("{header}.{}.{signature}", "A".repeat(1 << 20));
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b.c".to_owned(),
        "ä.ö.ü".to_owned(),
        long,
        "x".repeat(1 << 20),
        ".".repeat(8192),
        format!("{message}.{cut}"),
        format!("{message}.{other_signature}"),
        format!("{other_message}.{signature}"),
        format!("{message}.{}{last}", &signature[..42]),
        format!("{message}.{signature}{signature}"),
        format!("{message}.{signature}="),
        format!("{header}.{payload}=.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}. {payload}.{signature}"),
        format!("{header}.{payload}\n.{signature}"),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{header}.{good}"),
        format!("Bearer {good}"),
    ] {
        let verdict = verify(JwtOptions::default(), &Token::new(bad.clone()), at(T)).await;
        assert_eq!(verdict, Err(Code::InvalidToken), "{}", &bad[..bad.len().min(200)]);
    }
    let big = |size: usize| signed(HEADER, &claims(json!({ "more": "a".repeat(size) })));
    let room = (8192 - big(0).reveal().len()) / 4 * 3;
    assert!(verify(JwtOptions::default(), &big(room), at(T)).await.is_ok());
    assert_eq!(verify(JwtOptions::default(), &big(room + 6), at(T)).await, Err(Code::InvalidToken));
}

#[tokio::test]
async fn claims_that_are_none_are_refused() {
    for claims in [
        "",
        "[]",
        "null",
        "7",
        r#"{"sub":"ada""#,
        r#"{"sub":"a","sub":"b","exp":9999999999}"#,
        "{}",
        "\u{feff}{}",
    ] {
        let verdict = verify(JwtOptions::default(), &signed(HEADER, claims), at(T)).await;
        assert_eq!(verdict, Err(Code::InvalidToken), "{claims}");
    }
    let exp = r#"{"sub":"ada","iat":1700000000,"jti":"1","exp":1,"exp":9999999999}"#;
    let verdict = verify(JwtOptions::default(), &signed(HEADER, exp), at(T)).await;
    assert_eq!(verdict, Err(Code::InvalidToken));
    let infinite = r#"{"sub":"ada","iat":1700000000,"jti":"1","exp":1e999}"#;
    let verdict = verify(JwtOptions::default(), &signed(HEADER, infinite), at(T)).await;
    assert_eq!(verdict, Err(Code::InvalidToken));
    let deep = format!(r#"{{"sub":{}"#, "[".repeat(5000));
    assert_eq!(verify(JwtOptions::default(), &signed(HEADER, &deep), at(T)).await, Err(Code::InvalidToken));
}

fn verify_now(token: String) -> Result<Grant, Code> {
    let verdict = verify(JwtOptions::default(), &Token::new(token), at(T)).now_or_never();
    verdict.expect("keys that never change are there at once")
}

proptest! {
    #[test]
    fn random_text_is_no_token(text in ".{0,300}", parts in "[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}") {
        prop_assert!(verify_now(text).is_err());
        prop_assert!(verify_now(parts).is_err());
    }

    #[test]
    fn random_headers_and_claims_do_not_panic(header in ".{0,120}", claims in ".{0,120}") {
        prop_assert!(verify_now(signed(&header, &claims).reveal().to_owned()).is_err());
        prop_assert!(verify_now(signed(HEADER, &claims).reveal().to_owned()).is_err());
    }

    #[test]
    fn a_token_that_was_touched_is_refused(at in 0_usize..1000, how in 0..3, with in any::<char>()) {
        let good = signed(HEADER, &claims(json!({}))).reveal().to_owned();
        let at = at % good.len();
        let mut touched: Vec<char> = good.chars().collect();
        match how {
            0 => touched[at] = with,
            1 => touched.insert(at, with),
            _ => drop(touched.remove(at)),
        }
        let touched: String = touched.into_iter().collect();
        prop_assume!(touched != good);
        prop_assert!(verify_now(touched).is_err());
    }
}
