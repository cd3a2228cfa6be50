//! For tests: a forge of tokens with any header and any claims, a verifier to show them to, and keys.
//!
//! The keys were made once with openssl and are trusted by nobody: each pair as PEM, and some that must be refused.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use khala_core::{Grant, Timestamp, Token, auth::Verifier as _, wire::Code};
use serde_json::{Value, json};

use crate::{JwtOptions, JwtVerifier, Key, KeyAlgorithm, KeySet};

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

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) const RSA_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCusfT2QbGeZvTl
QIQB7S4MXCZRrpIt9hCAPcuQL8R8Ux+5/fUZIhebb0ZhtHS/WvscNafKqn9TfU6n
mA4XfdFaLKEM0zpoBBVWXMxETl/ZsIrUEd+ZQzMGYIzoMK0L3y1g4oczvwGUWu3p
lJWNEORvBJi0cWwccWoVFD2omJvGgrB34AxZBn4m4JCCWnwFglP2ZM2q878Y1Yoz
ksrF98CpGo/DvkR0SsJrAKFhmhXYdzr5SgiaIG/Mg8jzgulBsZTYIYKHdmuupS+z
4So1jJTxmlNr01fssSvhlXxQhs4eqLzZUB5DYELTqzXmAmYoPQbBOu/mtKJmjUKi
fLzXvmozAgMBAAECggEAGg8Rq2pBRI+3GDt3dZIbvFxCmwyfYZvC+l49b1Swyprb
sLLhTM55FwaSSSDSCXlY2+xlCyZDuACJKxbTg02RXRIrM+6OV9XEGQ3eqpHGWoKr
Mtc3s3UCt4DPhBM+vPadnkYsRNvJMIgf1SgE5vYOHUFiRghlSBji6iIK0ItzMTku
UChSNSDxZyo73shBYi52pRIEPLGBfUF4yHzEZQBoqe+Nr9HShG+ijp/a+XIzRlGa
7+eqhfDzQVS8JgPmiExNEmTdJ2+qrKFu216pc7NQq6+lpXfQrO/O2kRQhlShc9c9
keZXYW4YjEOi0x0elPu5u1Isi2SJBLgw4TLEM21eAQKBgQDduWAIW7g2mRFTzmFS
LXYFgLvuQNIBUHEc9kvSei3QvR4xkPILej5sVGieZsbp1uQDWV5SxpCz4KIvmPEs
mETHaJDhU/OglMndnNpK4ZJnHJRj6GCmwtml4YFz7T+w/itRLEA3/QIk3MDxxKR5
1/1jevAWgSalVjhiD0Nor2TaUQKBgQDJs27GdyXiyQAtzWxhS7En0gdR1NKZyFCT
hnRNTcIJoMWzRNOz/pnFKjkR0dacEjTpp2TxYo3ROtw33iEezc1yjNfeeE7Irx4O
t5AsXAXL0NM0F9XUpxsXH9aUDNTyKyfpIdtIiGyFLr11ZNMxz1mmBeA4kfBVpXVp
VmAnKfwXQwKBgCkDsIL7THE1EWJ6S8BiznEoJhtlfDNoCPR9jvsJRM5XHW23zT5Y
R5HMb2nVwzfgW19POcaAGqZbiETbuskwBZEJg7taxzdOLqVC7ZJqdaWDQOPWSYKv
iolH1KV4Ho8EBUlHsT1qHOpqt3pBkNdFIAc155GSJG7zKwzgm+ySfUpxAoGAO9xO
0gPmcInqza0brzyBlSnWFkktP4qdr0rGFXMwVR8rzWpt0guLo2JGka1PHf6hSX7u
jF0Nbb0kQkhgV/4ILSjzoAjgiNq/9uovlZqx9a1CIUG5qmT1u0Utr76nLD/2lk//
/mTOoDAg9kg4DZ5WItm3k9JsG18Bm4ORAc6KDHUCgYEAgSF3CUAovApTWl18lJ5J
3FV2qe8+1H6X0GcyLfsWPaEUweqfs9BoDukEHIFrpCWBk1mrrA2+IaogyyLXgmyF
SaJY5MdgzLoORzP73pLvUugHAizm7l2k5YY+o3LaAOZntbKZJEueS1VIIb+jvrUH
kGCcZMi4BoUuGypFnxxcvAw=
-----END PRIVATE KEY-----
";

pub(crate) const RSA_PRIVATE_PKCS1: &str = "\
-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEArrH09kGxnmb05UCEAe0uDFwmUa6SLfYQgD3LkC/EfFMfuf31
GSIXm29GYbR0v1r7HDWnyqp/U31Op5gOF33RWiyhDNM6aAQVVlzMRE5f2bCK1BHf
mUMzBmCM6DCtC98tYOKHM78BlFrt6ZSVjRDkbwSYtHFsHHFqFRQ9qJibxoKwd+AM
WQZ+JuCQglp8BYJT9mTNqvO/GNWKM5LKxffAqRqPw75EdErCawChYZoV2Hc6+UoI
miBvzIPI84LpQbGU2CGCh3ZrrqUvs+EqNYyU8ZpTa9NX7LEr4ZV8UIbOHqi82VAe
Q2BC06s15gJmKD0GwTrv5rSiZo1Cony8175qMwIDAQABAoIBABoPEatqQUSPtxg7
d3WSG7xcQpsMn2GbwvpePW9UsMqa27Cy4UzOeRcGkkkg0gl5WNvsZQsmQ7gAiSsW
04NNkV0SKzPujlfVxBkN3qqRxlqCqzLXN7N1AreAz4QTPrz2nZ5GLETbyTCIH9Uo
BOb2Dh1BYkYIZUgY4uoiCtCLczE5LlAoUjUg8WcqO97IQWIudqUSBDyxgX1BeMh8
xGUAaKnvja/R0oRvoo6f2vlyM0ZRmu/nqoXw80FUvCYD5ohMTRJk3Sdvqqyhbtte
qXOzUKuvpaV30KzvztpEUIZUoXPXPZHmV2FuGIxDotMdHpT7ubtSLItkiQS4MOEy
xDNtXgECgYEA3blgCFu4NpkRU85hUi12BYC77kDSAVBxHPZL0not0L0eMZDyC3o+
bFRonmbG6dbkA1leUsaQs+CiL5jxLJhEx2iQ4VPzoJTJ3ZzaSuGSZxyUY+hgpsLZ
peGBc+0/sP4rUSxAN/0CJNzA8cSkedf9Y3rwFoEmpVY4Yg9DaK9k2lECgYEAybNu
xncl4skALc1sYUuxJ9IHUdTSmchQk4Z0TU3CCaDFs0TTs/6ZxSo5EdHWnBI06adk
8WKN0TrcN94hHs3NcozX3nhOyK8eDreQLFwFy9DTNBfV1KcbFx/WlAzU8isn6SHb
SIhshS69dWTTMc9ZpgXgOJHwVaV1aVZgJyn8F0MCgYApA7CC+0xxNRFiekvAYs5x
KCYbZXwzaAj0fY77CUTOVx1tt80+WEeRzG9p1cM34FtfTznGgBqmW4hE27rJMAWR
CYO7Wsc3Ti6lQu2SanWlg0Dj1kmCr4qJR9SleB6PBAVJR7E9ahzqard6QZDXRSAH
NeeRkiRu8ysM4Jvskn1KcQKBgDvcTtID5nCJ6s2tG688gZUp1hZJLT+Kna9KxhVz
MFUfK81qbdILi6NiRpGtTx3+oUl+7oxdDW29JEJIYFf+CC0o86AI4Ijav/bqL5Wa
sfWtQiFBuapk9btFLa++pyw/9pZP//5kzqAwIPZIOA2eViLZt5PSbBtfAZuDkQHO
igx1AoGBAIEhdwlAKLwKU1pdfJSeSdxVdqnvPtR+l9BnMi37Fj2hFMHqn7PQaA7p
BByBa6QlgZNZq6wNviGqIMsi14JshUmiWOTHYMy6Dkcz+96S71LoBwIs5u5dpOWG
PqNy2gDmZ7WymSRLnktVSCG/o761B5BgnGTIuAaFLhsqRZ8cXLwM
-----END RSA PRIVATE KEY-----
";

pub(crate) const RSA_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArrH09kGxnmb05UCEAe0u
DFwmUa6SLfYQgD3LkC/EfFMfuf31GSIXm29GYbR0v1r7HDWnyqp/U31Op5gOF33R
WiyhDNM6aAQVVlzMRE5f2bCK1BHfmUMzBmCM6DCtC98tYOKHM78BlFrt6ZSVjRDk
bwSYtHFsHHFqFRQ9qJibxoKwd+AMWQZ+JuCQglp8BYJT9mTNqvO/GNWKM5LKxffA
qRqPw75EdErCawChYZoV2Hc6+UoImiBvzIPI84LpQbGU2CGCh3ZrrqUvs+EqNYyU
8ZpTa9NX7LEr4ZV8UIbOHqi82VAeQ2BC06s15gJmKD0GwTrv5rSiZo1Cony8175q
MwIDAQAB
-----END PUBLIC KEY-----
";

pub(crate) const RSA_1024_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBAL7O8c5QrUpxC0LU
HSVVAuLQ9PUfjwcWmKc5qJdqf97xA60f5gUcWSq0tzWrCDG5KPCTnezt1HWKwZ5J
8upy7v/R6KDv5CCb/R+kYHSYFisCvLO+0Gx6PyQquPvYlP6jDgGH6vUMhoabk8Ml
gaAMMb/U63SY0hjwHWfZjculJEoDAgMBAAECgYBf8/e7tex/O/vavoptpKOP5l7Z
CebGPMHFjoROqLrnJTKhFCJ7PXdFt51OetTjFGcXHFTVugAWoBGgBTYIWoX+90ZL
G1ifmB13O22CYhta767LMfGuenfcq0YseqQCPm+VNLwLKD26XmIVq90FXPsfH/Td
CcpIPMH8F+zMKwlkUQJBAOgFrDQcsLMtAjfBttJP6lb2cLcS+Li5aifsRnLOxrTX
8QDU4ceSyupoBI7XZjqBvNazVJ411ZT/ePCbJZAaF6kCQQDShu3aqGHiC/xTtAyw
BOYVdMGfV9jv0q4cGapClzGYrLYOCk7cZFou7SbmvplIuUcZf94OpAvPDkxLPbsI
b6/LAkEAik1/VVzYsyUcElJFAN4kCIxDqc0EN1BGh9+eKqc46OljPiSnJMhKbils
thyNUkitYKlqwhfC5VrXI0zHujrjaQJAX4Z73LB0oaYAm1ZiP2gpomi1BoFM3R0C
hZubptWF2pnbjalduSELzqkq8p5fXSE8wrRDZO9IsG3zblyXRi+vWwJABWO/KHwr
p8iwFBFT+CWfHLTEoDbJiekqRgHw4GcVkjTh0T+yom6KZiB8zo/VbxwUxLuOaFwR
DBhA9EL4x4xGAA==
-----END PRIVATE KEY-----
";

pub(crate) const RSA_1024_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC+zvHOUK1KcQtC1B0lVQLi0PT1
H48HFpinOaiXan/e8QOtH+YFHFkqtLc1qwgxuSjwk53s7dR1isGeSfLqcu7/0eig
7+Qgm/0fpGB0mBYrAryzvtBsej8kKrj72JT+ow4Bh+r1DIaGm5PDJYGgDDG/1Ot0
mNIY8B1n2Y3LpSRKAwIDAQAB
-----END PUBLIC KEY-----
";

pub(crate) const EC_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/A/HNleODC2/YEhG
xMpAe+nvfi8XZusc845jfUI5xTahRANCAAQ7wjhXUt1tO0ZyQl/D8Eqx/uTa0MGn
421S7f8SxwquFpxBoe5stn3xK0mkKC5ndoQ/OpgiXQtwR1T0O/H1SPu2
-----END PRIVATE KEY-----
";

pub(crate) const EC_PRIVATE_SEC1: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIPwPxzZXjgwtv2BIRsTKQHvp734vF2brHPOOY31COcU2oAoGCCqGSM49
AwEHoUQDQgAEO8I4V1LdbTtGckJfw/BKsf7k2tDBp+NtUu3/EscKrhacQaHubLZ9
8StJpCguZ3aEPzqYIl0LcEdU9Dvx9Uj7tg==
-----END EC PRIVATE KEY-----
";

pub(crate) const EC_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEO8I4V1LdbTtGckJfw/BKsf7k2tDB
p+NtUu3/EscKrhacQaHubLZ98StJpCguZ3aEPzqYIl0LcEdU9Dvx9Uj7tg==
-----END PUBLIC KEY-----
";

pub(crate) const SECP256K1_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGEAgEAMBAGByqGSM49AgEGBSuBBAAKBG0wawIBAQQg1EhYFeI2wp79V/odd9Lo
r8lAeXiSEHQLuG/otxpOzJuhRANCAAQrJ6DH3VTSQDK9Qwlg5c6QWlZ1gTZBGkrz
SfP2DczlJcxqfs0wBBQ9g1Yk3KjolUowd2TgbQPvxvaCPHLjw+2O
-----END PRIVATE KEY-----
";

pub(crate) const SECP256K1_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEKyegx91U0kAyvUMJYOXOkFpWdYE2QRpK
80nz9g3M5SXMan7NMAQUPYNWJNyo6JVKMHdk4G0D78b2gjxy48Ptjg==
-----END PUBLIC KEY-----
";

pub(crate) const ED_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAB3i62tX1KbcnHyilsUlUYga2oPiY6nJ99rcqI3Gtwa
-----END PRIVATE KEY-----
";

pub(crate) const ED_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAa0FvpN5KpxqI2h6zUwo0iKYhkaAJJu0U5hVcrM5GYBw=
-----END PUBLIC KEY-----
";
