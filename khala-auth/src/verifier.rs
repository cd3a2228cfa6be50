//! Checks JSON Web Tokens: size, header, key, signature, whom it is for, time, names. In this order, so that a reason
//! says nothing about a token that was not signed with a trusted key, but for the name of the key.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jsonwebtoken::decode_header;
use khala_core::auth::VerifiedClaims;
use khala_core::{
    Grant, Timestamp, Token,
    auth::{Denied, Verifier},
};

use crate::{
    claims::Claims,
    key::{Key, check_kid},
    key_error::KeyError,
    key_set::KeySet,
    key_source::{KeySource, StaticKeys},
    options::{JwtOptions, MAX_TOKEN},
    verified::{Known, Verified},
};

/// Checks JSON Web Tokens. A token that was checked recently, under a key that is still the same, is known again for as long as
/// it is good. Cloning it gives another handle to what it knows.
#[derive(Clone, Debug)]
pub struct JwtVerifier {
    keys: Arc<dyn KeySource>,
    options: JwtOptions,
    verified: Arc<Verified>,
}

impl JwtVerifier {
    /// Checks tokens with the keys that `keys` trusts at that time.
    pub fn new(keys: Arc<dyn KeySource>, options: JwtOptions) -> Self {
        Self { keys, options, verified: Arc::default() }
    }

    /// Checks tokens with these keys for ever.
    pub fn with_keys(keys: KeySet, options: JwtOptions) -> Self {
        Self::new(Arc::new(StaticKeys(Arc::new(keys))), options)
    }

    /// Checks tokens that are signed with this secret and name no key.
    ///
    /// # Errors
    /// A [`KeyError`] for a secret of less than 32 bytes.
    pub fn hs256(secret: &[u8], options: JwtOptions) -> Result<Self, KeyError> {
        Ok(Self::with_keys(KeySet::new().with_key(Key::hs256(None, secret)?)?, options))
    }

    fn verified(&self, claims: &Claims, now: Timestamp) -> Result<VerifiedClaims, Denied> {
        let options = &self.options;
        if options.issuer.as_deref().is_some_and(|wanted| claims.text("iss").ok().flatten() != Some(wanted)) {
            return Err(Denied::ClaimMismatch { claim: "iss" });
        }
        if options.audience.as_deref().is_some_and(|wanted| !claims.says("aud", wanted)) {
            return Err(Denied::ClaimMismatch { claim: "aud" });
        }
        let version = options.claims_version.as_deref();
        if version.is_some_and(|wanted| !claims.reads(&options.claim_names.version, wanted)) {
            return Err(Denied::ClaimMismatch { claim: "claims version" });
        }

        let (issued_at, expires_at) = self.times(claims, now)?;
        let jti = claims.name("jti")?;
        if jti.is_none() && options.require_jti {
            return Err(Denied::MissingJti);
        }
        let subject = claims.name("sub")?.ok_or(Denied::InvalidToken("it has no sub"))?;

        let scopes = claims.scopes(&options.claim_names.scopes)?;
        let text = |text: Option<&str>| text.map(str::to_owned);
        let mut bound = BTreeMap::new();
        for name in &options.bind_claims {
            if let Some(value) = claims.text(name)? {
                bound.insert(name.clone(), value.to_owned());
            }
        }
        Ok(VerifiedClaims {
            issued_at,
            token_id: text(jti),
            session_id: text(claims.name("sid")?),
            organisation: text(claims.text(&options.claim_names.organisation)?),
            claims: bound,
            ..VerifiedClaims::new(subject, scopes, expires_at)
        })
    }

    /// When it was issued, and when it ends with the leeway counted in.
    fn times(&self, claims: &Claims, now: Timestamp) -> Result<(Option<Timestamp>, Timestamp), Denied> {
        let JwtOptions { leeway, max_age, require_iat, .. } = self.options;
        let exp = claims.moment("exp")?.ok_or(Denied::InvalidToken("it has no exp"))?;
        let check_begun = |claim, begins: Timestamp| {
            let early = begins > now.plus(leeway);
            if early { Err(Denied::TokenNotYetValid { claim, begins, now, leeway }) } else { Ok(()) }
        };
        if let Some(nbf) = claims.moment("nbf")? {
            check_begun("nbf", nbf)?;
        }
        if exp.plus(leeway) <= now {
            return Err(Denied::TokenExpired);
        }
        let Some(iat) = claims.moment("iat")? else {
            let asked_for = require_iat || max_age.is_some();
            return if asked_for { Err(Denied::MissingIat) } else { Ok((None, exp.plus(leeway))) };
        };
        check_begun("iat", iat)?;
        let too_old = max_age.map(|age| iat.plus(age));
        if too_old.is_some_and(|moment| moment.plus(leeway) <= now) {
            return Err(Denied::TokenTooOld);
        }
        Ok((Some(iat), too_old.map_or(exp, |moment| moment.min(exp)).plus(leeway)))
    }
}

#[async_trait]
impl Verifier for JwtVerifier {
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
        let token = token.reveal();
        if token.len() > MAX_TOKEN {
            return Err(Denied::InvalidToken("it is longer than 8 KiB"));
        }
        if let Some(known) = self.verified.find(token) {
            let kid = known.key.kid();
            let keys = self.keys.keys(kid, now).await.map_err(Denied::Unavailable)?;
            if known.holds(now) && keys.key(kid) == Some(&known.key) {
                return Ok(known.grant.clone());
            }
        }
        let header = decode_header(token).map_err(|_| {
            Denied::InvalidToken("it is not a JSON Web Token, or not one of an algorithm that is accepted")
        })?;
        if header.crit.is_some() {
            return Err(Denied::InvalidToken("its header asks for an extension (crit)"));
        }
        let kid = header.kid.as_deref();
        // No key has such a name, so a source that would ask somewhere is not sent there.
        if kid.is_some_and(|kid| check_kid(kid).is_err()) {
            return Err(Denied::UnknownKid);
        }
        let keys = self.keys.keys(kid, now).await.map_err(Denied::Unavailable)?;
        let key = keys.key(kid).ok_or_else(|| match kid {
            Some(_) => Denied::UnknownKid,
            None => Denied::InvalidToken("it names no key"),
        })?;
        let verified = self.verified(&key.open(token)?, now)?;
        let grant = Grant::from_verified(VerifiedClaims { key_id: key.kid().map(str::to_owned), ..verified });
        self.verified.keep(token, Known { key: key.clone(), grant: grant.clone(), at: now });
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use khala_core::{Error, ErrorKind, auth::TokenClaims, wire::Code};
    use serde_json::json;

    use super::*;
    use crate::{
        ClaimNames, JwtIssuer,
        testing::{HEADER, HOUR, SECRET, T, at, claims, signed, verify},
    };

    #[tokio::test]
    async fn each_reason_for_refusal_has_its_claims() {
        use Code::{
            ClaimMismatch, InvalidToken, MissingIat, MissingJti, TokenExpired, TokenNotYetValid, TokenTooOld,
        };
        let default = || JwtOptions { leeway: Duration::ZERO, ..JwtOptions::default() };
        let lenient = || JwtOptions { leeway: Duration::from_secs(60), ..default() };
        let ageless = || JwtOptions { max_age: None, ..default() };
        let here = || JwtOptions { issuer: Some("here".to_owned()), ..default() };
        let sync = || JwtOptions { audience: Some("sync".to_owned()), ..default() };
        let third = || JwtOptions { claims_version: Some("3".to_owned()), ..default() };
        let bound = || JwtOptions { bind_claims: vec!["team".to_owned()], ..default() };
        let jtiless = || JwtOptions { require_jti: false, ..default() };
        for (options, changes, verdict) in [
            (default(), json!({}), Ok(())),
            // Whom it is for.
            (here(), json!({ "iss": "here" }), Ok(())),
            (here(), json!({ "iss": "there" }), Err(ClaimMismatch)),
            (here(), json!({ "iss": ["here"] }), Err(ClaimMismatch)),
            (here(), json!({}), Err(ClaimMismatch)),
            (sync(), json!({ "aud": "sync" }), Ok(())),
            (sync(), json!({ "aud": ["other", "sync"] }), Ok(())),
            (sync(), json!({ "aud": ["other"] }), Err(ClaimMismatch)),
            (sync(), json!({ "aud": [] }), Err(ClaimMismatch)),
            (sync(), json!({ "aud": "sync sync" }), Err(ClaimMismatch)),
            (sync(), json!({}), Err(ClaimMismatch)),
            (third(), json!({ "claims_version": "3" }), Ok(())),
            (third(), json!({ "claims_version": 3 }), Ok(())),
            (third(), json!({ "claims_version": 4 }), Err(ClaimMismatch)),
            (third(), json!({ "claims_version": [3] }), Err(ClaimMismatch)),
            (third(), json!({}), Err(ClaimMismatch)),
            // exp.
            (default(), json!({ "exp": null }), Err(InvalidToken)),
            (default(), json!({ "exp": "1700003600" }), Err(InvalidToken)),
            (default(), json!({ "exp": {} }), Err(InvalidToken)),
            (default(), json!({ "exp": true }), Err(InvalidToken)),
            (default(), json!({ "exp": -1 }), Err(TokenExpired)),
            (default(), json!({ "exp": 0 }), Err(TokenExpired)),
            (default(), json!({ "exp": T }), Err(TokenExpired)),
            (default(), json!({ "exp": T as f64 + 0.5 }), Ok(())),
            (default(), json!({ "exp": T + 1 }), Ok(())),
            (default(), json!({ "exp": 1e308 }), Ok(())),
            (default(), json!({ "exp": u64::MAX }), Ok(())),
            (lenient(), json!({ "exp": T - 59 }), Ok(())),
            (lenient(), json!({ "exp": T - 60 }), Err(TokenExpired)),
            // nbf, which is looked at before exp.
            (default(), json!({ "nbf": T }), Ok(())),
            (default(), json!({ "nbf": T + 1 }), Err(TokenNotYetValid)),
            (default(), json!({ "nbf": T + 1, "exp": T }), Err(TokenNotYetValid)),
            (default(), json!({ "nbf": 1e308 }), Err(TokenNotYetValid)),
            (default(), json!({ "nbf": "soon" }), Err(InvalidToken)),
            (lenient(), json!({ "nbf": T + 60 }), Ok(())),
            (lenient(), json!({ "nbf": T + 61 }), Err(TokenNotYetValid)),
            // iat and age.
            (default(), json!({ "iat": null }), Err(MissingIat)),
            (default(), json!({ "iat": "then" }), Err(InvalidToken)),
            (default(), json!({ "iat": T + 1 }), Err(TokenNotYetValid)),
            (default(), json!({ "iat": T - 86_399 }), Ok(())),
            (default(), json!({ "iat": T - 86_400 }), Err(TokenTooOld)),
            (default(), json!({ "iat": -1e308 }), Err(TokenTooOld)),
            (lenient(), json!({ "iat": T + 60 }), Ok(())),
            (lenient(), json!({ "iat": T + 61 }), Err(TokenNotYetValid)),
            (lenient(), json!({ "iat": T - 86_459 }), Ok(())),
            (lenient(), json!({ "iat": T - 86_460 }), Err(TokenTooOld)),
            (ageless(), json!({ "iat": null }), Ok(())),
            (ageless(), json!({ "iat": 0 }), Ok(())),
            (ageless(), json!({ "iat": "then" }), Err(InvalidToken)),
            (ageless(), json!({ "iat": T + 1 }), Err(TokenNotYetValid)),
            (JwtOptions { require_iat: true, ..ageless() }, json!({ "iat": null }), Err(MissingIat)),
            // jti.
            (default(), json!({ "jti": null }), Err(MissingJti)),
            (default(), json!({ "jti": "" }), Err(MissingJti)),
            (default(), json!({ "jti": 7 }), Err(InvalidToken)),
            (default(), json!({ "jti": "a".repeat(512) }), Ok(())),
            (default(), json!({ "jti": "a".repeat(513) }), Err(InvalidToken)),
            (default(), json!({ "jti": "a\n" }), Err(InvalidToken)),
            (jtiless(), json!({ "jti": null }), Ok(())),
            (jtiless(), json!({ "jti": "" }), Ok(())),
            (jtiless(), json!({ "jti": "a".repeat(513) }), Err(InvalidToken)),
            // sub, sid, scopes, organisation, bound claims.
            (default(), json!({ "sub": null }), Err(InvalidToken)),
            (default(), json!({ "sub": "" }), Err(InvalidToken)),
            (default(), json!({ "sub": 7 }), Err(InvalidToken)),
            (default(), json!({ "sub": "a".repeat(513) }), Err(InvalidToken)),
            (default(), json!({ "sid": "a".repeat(513) }), Err(InvalidToken)),
            (default(), json!({ "sid": {} }), Err(InvalidToken)),
            (default(), json!({ "scope": "a b" }), Ok(())),
            (default(), json!({ "scope": null }), Ok(())),
            (default(), json!({ "scope": ["a", 1] }), Err(InvalidToken)),
            (default(), json!({ "org_id": 7 }), Err(InvalidToken)),
            (default(), json!({ "team": 7 }), Ok(())),
            (bound(), json!({ "team": 7 }), Err(InvalidToken)),
            (bound(), json!({}), Ok(())),
        ] {
            let token = signed(HEADER, &claims(changes.clone()));
            assert_eq!(verify(options, &token, at(T)).await.map(drop), verdict, "{changes}");
        }
    }

    #[tokio::test]
    async fn a_grant_says_what_the_token_does() {
        let names =
            ClaimNames { scopes: "scp".to_owned(), organisation: "org".to_owned(), version: "v".to_owned() };
        let options = JwtOptions {
            claim_names: names,
            bind_claims: vec!["team".to_owned(), "none".to_owned()],
            ..JwtOptions::default()
        };
        let changes = json!({
            "scp": "a b", "scope": "c", "org": "acme", "team": "blue", "none": "", "sid": "login", "org_id": "other", "x": "y",
        });
        let grant = verify(options, &signed(HEADER, &claims(changes)), at(T)).await.unwrap();
        // The leeway is in it.
        let text = |text: &str| Some(text.to_owned());
        let expected = VerifiedClaims {
            issued_at: Some(at(T)),
            token_id: text("1"),
            session_id: text("login"),
            organisation: text("acme"),
            key_id: text("hs"),
            claims: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
            ..VerifiedClaims::new("ada", ["a", "b"], at(T + 3605))
        };
        assert_eq!(grant.verified(), &expected);
        let unnamed = signed(r#"{"alg":"HS256"}"#, &claims(json!({})));
        assert_eq!(verify(JwtOptions::default(), &unnamed, at(T)).await.unwrap().key_id(), None);
    }

    #[tokio::test]
    async fn a_grant_ends_with_the_token_or_with_its_age_whichever_is_first() {
        let lenient = || JwtOptions { leeway: Duration::from_secs(60), ..JwtOptions::default() };
        for (options, changes, end) in [
            (lenient(), json!({}), at(T + 3660)),
            (lenient(), json!({ "exp": 1e308 }), at(T + 86_460)),
            (JwtOptions { max_age: Some(HOUR / 2), ..lenient() }, json!({}), at(T + 1860)),
            (JwtOptions { max_age: Some(Duration::MAX), ..lenient() }, json!({}), at(T + 3660)),
            (
                JwtOptions { max_age: None, ..lenient() },
                json!({ "exp": 1e308 }),
                Timestamp::from_millis(u64::MAX),
            ),
            (
                JwtOptions { max_age: None, ..lenient() },
                json!({ "exp": T as f64 + 0.25 }),
                Timestamp::from_millis(T * 1000 + 60_250),
            ),
        ] {
            let token = signed(HEADER, &claims(changes.clone()));
            let grant = verify(options.clone(), &token, at(T)).await.unwrap();
            assert_eq!(grant.expires_at(), end, "{changes}");
            // It is refused from the moment on at which the grant ends, and not before.
            let before = end.minus(Duration::from_millis(1));
            assert!(verify(options.clone(), &token, before).await.is_ok(), "{changes}");
            assert!(verify(options, &token, end).await.is_err(), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_verifier_of_one_secret_knows_no_names() {
        assert!(JwtVerifier::hs256(b"", JwtOptions::default()).is_err());
        assert!(JwtVerifier::hs256(&SECRET[..31], JwtOptions::default()).is_err());
        let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default()).unwrap();
        let issuer = || JwtIssuer::hs256(SECRET, JwtOptions::default()).unwrap();
        let token =
            |issuer: JwtIssuer| issuer.sign(&TokenClaims::new("ada", ["a"]), at(T), HOUR).unwrap().token;
        assert!(verifier.verify(&token(issuer()), at(T)).await.is_ok());
        let named = verifier.verify(&token(issuer().with_key_id("hs").unwrap()), at(T)).await;
        assert_eq!(named.unwrap_err().code(), Code::UnknownKid);
        let none = JwtVerifier::with_keys(KeySet::new(), JwtOptions::default());
        let nameless = none.verify(&token(issuer()), at(T)).await;
        assert_eq!(nameless.unwrap_err().code(), Code::InvalidToken);
        let shown = format!("{verifier:?}");
        assert!(
            shown.contains("Hs256") && !shown.contains("01234567") && !shown.contains("48, 49"),
            "{shown}"
        );
    }

    /// Has the keys that it was given last, or none now.
    #[derive(Debug)]
    struct Turning(Mutex<Option<KeySet>>);

    #[async_trait]
    impl KeySource for Turning {
        async fn keys(&self, _: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
            let keys = self.0.lock().unwrap().clone().map(Arc::new);
            keys.ok_or_else(|| Error::new(ErrorKind::Unavailable, "keys", "none now"))
        }
    }

    #[tokio::test]
    async fn a_token_that_is_known_is_judged_as_if_it_were_new() {
        let set = |secret: &[u8]| KeySet::new().with_key(Key::hs256(Some("hs"), secret).unwrap()).unwrap();
        let source = Arc::new(Turning(Mutex::new(Some(set(SECRET)))));
        let verifier = JwtVerifier::new(Arc::clone(&source) as Arc<dyn KeySource>, JwtOptions::default());
        let other = JwtVerifier::with_keys(set(SECRET), JwtOptions::default());
        let token = signed(HEADER, &claims(json!({ "nbf": T - 10 })));
        let first = verifier.verify(&token, at(T)).await.unwrap();
        for seconds in [T, T + 3_599, T + 3_600, T + 90_000, T - 1, T - 11, T + 5] {
            let (known, new) = (verifier.verify(&token, at(seconds)).await, other.clone());
            let new = JwtVerifier { verified: Arc::default(), ..new }.verify(&token, at(seconds)).await;
            let code = |denied: Denied| denied.code();
            assert_eq!(known.map_err(code), new.map_err(code), "{seconds}");
        }
        *source.0.lock().unwrap() = None;
        assert_eq!(verifier.verify(&token, at(T)).await.unwrap_err().code(), Code::Unavailable);
        *source.0.lock().unwrap() = Some(set(&[9; 32]));
        assert_eq!(verifier.verify(&token, at(T)).await.unwrap_err().code(), Code::InvalidToken);
        *source.0.lock().unwrap() = Some(KeySet::new());
        assert_eq!(verifier.verify(&token, at(T)).await.unwrap_err().code(), Code::UnknownKid);
        *source.0.lock().unwrap() = Some(set(SECRET));
        assert_eq!(verifier.verify(&token, at(T)).await.unwrap(), first);
        let forged = format!("{}x", token.reveal());
        assert_eq!(verifier.verify(&Token::new(forged), at(T)).await.unwrap_err().code(), Code::InvalidToken);
    }

    /// Notes what it is asked, and has no keys now.
    #[derive(Debug, Default)]
    struct Down(Mutex<Vec<Option<String>>>);

    #[async_trait]
    impl KeySource for Down {
        async fn keys(&self, wanted: Option<&str>, _: Timestamp) -> Result<Arc<KeySet>, Error> {
            self.0.lock().unwrap().push(wanted.map(str::to_owned));
            Err(Error::new(ErrorKind::Unavailable, "jwks", "nobody answers"))
        }
    }

    #[tokio::test]
    async fn a_source_is_asked_for_names_that_can_be_and_its_fault_refuses_nobody() {
        let source = Arc::new(Down::default());
        let verifier = JwtVerifier::new(Arc::clone(&source) as Arc<dyn KeySource>, JwtOptions::default());
        for (header, code) in [
            (HEADER, Code::Unavailable),
            (r#"{"alg":"HS256"}"#, Code::Unavailable),
            (r#"{"alg":"HS256","kid":"../../etc/passwd"}"#, Code::Unavailable),
            (r#"{"alg":"none","kid":"hs"}"#, Code::InvalidToken),
            (r#"{"alg":"HS256","kid":"a\n"}"#, Code::UnknownKid),
            (&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "a".repeat(257)), Code::UnknownKid),
        ] {
            let denied = verifier.verify(&signed(header, "{}"), at(T)).await.unwrap_err();
            assert_eq!(denied.code(), code, "{header}");
        }
        let asked = [Some("hs".to_owned()), None, Some("../../etc/passwd".to_owned())];
        assert_eq!(*source.0.lock().unwrap(), asked);
    }
}
