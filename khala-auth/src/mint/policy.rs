//! What a caller of a mint may have at most, and what it gets of that when it asks.
//!
//! # Invariants
//! - A token never says more than the policy allows. A request for more is refused; nothing is narrowed or widened
//!   quietly.

use std::collections::BTreeMap;

use khala_core::{
    Grant, Timestamp,
    auth::{TokenClaims, VerifiedClaims},
};

use super::{ClaimName, MintError, MintRequest};

/// Bytes of a subject, an organisation, a session id, a claim.
const TEXT_BYTES: usize = 255;
/// The most scopes of a request.
const SCOPES: usize = 64;
/// Bytes of a scope.
const SCOPE_BYTES: usize = 128;
/// The most claims of a request.
const CLAIMS: usize = 16;

/// What a credential decides about one claim of the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth answer")]
pub enum ClaimRule {
    /// The token does not have it.
    #[default]
    Absent,
    /// The caller names it, or leaves it out.
    Any,
    /// The token has this value. The caller may repeat it.
    Exactly(String),
}

/// What a caller may have at most, as its credential proves.
///
/// ```
/// # use khala_auth::mint::{ClaimRule, MintPolicy, MintRequest};
/// let mut policy = MintPolicy::for_subject("ada", ["khala:read", "khala:publish"]);
/// policy.session_id = ClaimRule::Exactly("login-7".to_owned());
///
/// let request = MintRequest { scopes: Some(vec!["khala:read".to_owned()]), ..MintRequest::default() };
/// let claims = policy.claims(&request)?;
/// assert_eq!((claims.subject.as_str(), claims.scopes), ("ada", vec!["khala:read".to_owned()]));
///
/// let request = MintRequest { subject: Some("bob".to_owned()), ..MintRequest::default() };
/// assert!(policy.claims(&request).is_err());
/// # Ok::<(), khala_auth::mint::MintError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct MintPolicy {
    /// The subject.
    pub subject: ClaimRule,
    /// The subject's organisation.
    pub organisation: ClaimRule,
    /// The session, by which the tokens can be revoked.
    pub session_id: ClaimRule,
    /// The scopes at most.
    pub scopes: Vec<String>,
    /// Further claims.
    pub claims: BTreeMap<ClaimName, ClaimRule>,
    /// When the last token ends, if that is limited.
    pub ends_at: Option<Timestamp>,
    /// The verified token that is the credential: minted tokens do not outlive it, and there are none once it was revoked.
    pub grant: Option<Grant>,
}

impl MintPolicy {
    /// Tokens for any subject, organisation and session, with these scopes at most: for a backend, not for a user.
    pub fn any_subject(scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            subject: ClaimRule::Any,
            organisation: ClaimRule::Any,
            session_id: ClaimRule::Any,
            scopes: scopes.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Tokens for this subject alone, with these scopes at most.
    pub fn for_subject(
        subject: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            subject: ClaimRule::Exactly(subject.into()),
            scopes: scopes.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Tokens for the subject of a verified token, with its organisation and session, and these scopes at most. They do not
    /// outlive that token, and there are none once it was revoked.
    ///
    /// A token without a session is a session of its own, named by its `jti`: so what is minted for it can be revoked.
    pub fn for_grant(grant: Grant, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let grant = match (grant.session_id(), grant.token_id()) {
            (None, Some(own)) => {
                let session_id = Some(own.to_owned());
                Grant::from_verified(VerifiedClaims { session_id, ..grant.verified().clone() })
            }
            _ => grant,
        };
        let rule = |value: Option<&str>| {
            value.map_or(ClaimRule::Absent, |value| ClaimRule::Exactly(value.to_owned()))
        };
        let policy = Self::for_subject(grant.subject(), scopes);
        let (organisation, session_id) = (rule(grant.organisation()), rule(grant.session_id()));
        Self { organisation, session_id, grant: Some(grant), ..policy }
    }

    /// When the last token ends: the earlier of [`ends_at`](Self::ends_at) and the end of the grant.
    pub fn expires_at(&self) -> Option<Timestamp> {
        [self.ends_at, self.grant.as_ref().map(Grant::expires_at)].into_iter().flatten().min()
    }

    /// What a token says for `request`.
    ///
    /// # Errors
    /// [`MintError::ExceedsCredential`] where the request asks for more than the policy gives, and
    /// [`MintError::InvalidField`] where it breaks a rule whatever the policy gives.
    pub fn claims(&self, request: &MintRequest) -> Result<TokenClaims, MintError> {
        let Some(subject) = self.subject.decide("subject", request.subject.as_deref())? else {
            return Err(invalid("subject", "missing field `subject`"));
        };
        let mut claims = TokenClaims::new(subject, self.decide_scopes(request.scopes.as_deref())?);
        claims.organisation = self.organisation.decide("organisation", request.organisation.as_deref())?;
        claims.session_id = self.session_id.decide("session_id", request.session_id.as_deref())?;
        if request.claims.len() > CLAIMS {
            return Err(invalid("claims", format!("at most {CLAIMS} claims can be set")));
        }
        for (name, rule) in &self.claims {
            let name = name.as_str();
            if let Some(value) = rule.decide("claims", request.claims.get(name).map(String::as_str))? {
                claims.claims.insert(name.to_owned(), value);
            }
        }
        // A claim with a rule is in the token, or was refused.
        if request.claims.keys().any(|name| !claims.claims.contains_key(name)) {
            return Err(exceeds("claims", "a claim cannot be set by this credential"));
        }
        Ok(claims)
    }

    fn decide_scopes(&self, requested: Option<&[String]>) -> Result<Vec<String>, MintError> {
        let Some(requested) = requested else { return Ok(self.scopes.clone()) };
        if requested.len() > SCOPES {
            return Err(invalid("scopes", format!("at most {SCOPES} scopes can be asked for")));
        }
        let mut scopes = Vec::new();
        for scope in requested {
            if !is_scope(scope) {
                let detail = format!(
                    "scopes: each is of 1 to {SCOPE_BYTES} visible ASCII characters other than quote and backslash"
                );
                return Err(invalid("scopes", detail));
            }
            if !self.scopes.contains(scope) {
                return Err(exceeds("scopes", "the credential does not reach that far"));
            }
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        Ok(scopes)
    }
}

fn exceeds(field: &'static str, detail: &'static str) -> MintError {
    MintError::ExceedsCredential { field, detail }
}

fn invalid(field: &'static str, detail: impl Into<String>) -> MintError {
    MintError::InvalidField { field, detail: detail.into() }
}

/// RFC 6749, section 3.3.
fn is_scope(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=SCOPE_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

/// What can be revoked by its name again: 1 to 255 bytes without control characters.
fn is_text(text: &str) -> bool {
    (1..=TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl ClaimRule {
    /// The value that the token has, if the credential decides it.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Exactly(value) => Some(value),
            Self::Absent | Self::Any => None,
        }
    }

    fn decide(&self, field: &'static str, requested: Option<&str>) -> Result<Option<String>, MintError> {
        if requested.is_some_and(|requested| !is_text(requested)) {
            let detail = format!("{field}: a text is of 1 to {TEXT_BYTES} bytes without control characters");
            return Err(invalid(field, detail));
        }
        match (self, requested) {
            (Self::Absent, None) => Ok(None),
            (Self::Absent, Some(_)) => {
                Err(exceeds(field, "the credential says nothing of this, so no token can"))
            }
            (Self::Exactly(fixed), None) if !is_text(fixed) => {
                Err(exceeds(field, "the credential's own value cannot be in a token"))
            }
            (Self::Exactly(fixed), Some(requested)) if fixed != requested => {
                Err(exceeds(field, "the credential is for another one"))
            }
            (Self::Exactly(fixed), _) => Ok(Some(fixed.clone())),
            (Self::Any, requested) => Ok(requested.map(str::to_owned)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(json: &str) -> MintRequest {
        serde_json::from_str(json).unwrap()
    }

    fn name(text: &str) -> ClaimName {
        ClaimName::parse(text).unwrap()
    }

    fn exactly(text: &str) -> ClaimRule {
        ClaimRule::Exactly(text.to_owned())
    }

    fn user() -> MintPolicy {
        let verified = VerifiedClaims {
            session_id: Some("s".to_owned()),
            ..VerifiedClaims::new("ada", ["app"], Timestamp::from_millis(9_000))
        };
        let claims = BTreeMap::from([(name("team"), exactly("blue")), (name("device"), ClaimRule::Any)]);
        let scopes = ["khala:read", "khala:publish"];
        MintPolicy { claims, ..MintPolicy::for_grant(Grant::from_verified(verified), scopes) }
    }

    fn outcome(policy: &MintPolicy, json: &str) -> Result<TokenClaims, String> {
        policy.claims(&request(json)).map_err(|error| match error {
            MintError::ExceedsCredential { field, .. } => format!("exceeds {field}"),
            error => format!("{error:?}"),
        })
    }

    #[test]
    fn all_that_the_policy_gives_unless_less_is_asked_for() {
        let all = outcome(&user(), "{}").unwrap();
        let expected = TokenClaims {
            session_id: Some("s".to_owned()),
            claims: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
            ..TokenClaims::new("ada", ["khala:read", "khala:publish"])
        };
        assert_eq!(all, expected);
        let less = r#"{"subject":"ada","session_id":"s","scopes":["khala:read","khala:read"],
            "claims":{"team":"blue","device":"d"}}"#;
        let less = outcome(&user(), less).unwrap();
        assert_eq!((less.scopes, less.claims["device"].as_str()), (vec!["khala:read".to_owned()], "d"));
        assert!(outcome(&user(), r#"{"scopes":[]}"#).unwrap().scopes.is_empty());
    }

    #[test]
    fn what_is_fixed_is_not_changed_and_what_is_absent_not_added() {
        for (json, field) in [
            (r#"{"subject":"bob"}"#, "subject"),
            (r#"{"session_id":"t"}"#, "session_id"),
            (r#"{"organisation":"acme"}"#, "organisation"),
            (r#"{"scopes":["khala:read","admin"]}"#, "scopes"),
            (r#"{"claims":{"team":"red"}}"#, "claims"),
            (r#"{"claims":{"sub":"bob"}}"#, "claims"),
            (r#"{"claims":{"role":"x"}}"#, "claims"),
        ] {
            assert_eq!(outcome(&user(), json), Err(format!("exceeds {field}")), "{json}");
        }
        let tenant = MintPolicy { organisation: exactly("acme"), ..MintPolicy::any_subject(["khala:read"]) };
        let claims = outcome(&tenant, r#"{"subject":"ada"}"#).unwrap();
        assert_eq!((claims.organisation.as_deref(), claims.session_id), (Some("acme"), None));
        assert!(outcome(&tenant, r#"{"subject":"ada","organisation":"other"}"#).is_err());
        assert!(outcome(&tenant, "{}").unwrap_err().contains("missing field"));
    }

    #[test]
    fn a_subject_that_could_not_be_revoked_gets_no_token() {
        for subject in ["", "a\nb", &"x".repeat(256)] {
            let policy = MintPolicy::for_subject(subject, ["khala:read"]);
            assert_eq!(outcome(&policy, "{}"), Err("exceeds subject".to_owned()), "{subject:?}");
        }
    }

    #[test]
    fn the_earliest_end_holds() {
        let at = |millis| Some(Timestamp::from_millis(millis));
        for (policy, end) in [
            (user(), at(9_000)),
            (MintPolicy { ends_at: at(10_000), ..user() }, at(9_000)),
            (MintPolicy { ends_at: at(8_000), ..user() }, at(8_000)),
            (MintPolicy { ends_at: at(1), ..MintPolicy::for_subject("ada", ["x"]) }, at(1)),
            (MintPolicy::for_subject("ada", ["x"]), None),
        ] {
            assert_eq!(policy.expires_at(), end);
        }
    }

    proptest! {
        /// Whatever is asked for, by whatever caller: a minted token is within the policy.
        #[test]
        fn a_token_never_says_more_than_the_policy_allows(
            held in proptest::collection::vec("[ab]{1,2}", 0..4),
            wanted in proptest::option::of(proptest::collection::vec("[ab\" é]{0,3}", 0..4)),
            subject in proptest::option::of("[ab\n]{0,2}"),
            organisation in proptest::option::of("[ab]{1}"),
            team in proptest::option::of("[ab]{1}"),
            bound in any::<bool>(),
        ) {
            let policy = match bound {
                true => MintPolicy {
                    claims: BTreeMap::from([(name("team"), exactly("a"))]),
                    ..MintPolicy::for_subject("a", held.clone())
                },
                false => MintPolicy { organisation: exactly("a"), ..MintPolicy::any_subject(held.clone()) },
            };
            let request = MintRequest {
                subject: subject.clone(),
                scopes: wanted.clone(),
                organisation,
                claims: team.map(|team| ("team".to_owned(), team)).into_iter().collect(),
                ..MintRequest::default()
            };
            if let Ok(claims) = policy.claims(&request) {
                prop_assert!(claims.scopes.iter().all(|scope| held.contains(scope)));
                prop_assert_eq!(claims.session_id, None);
                if let Some(wanted) = wanted {
                    prop_assert!(wanted.iter().all(|scope| claims.scopes.contains(scope)), "narrowed quietly");
                }
                if bound {
                    prop_assert_eq!(claims.subject, "a");
                    prop_assert_eq!(claims.organisation, None);
                    prop_assert_eq!(claims.claims.get("team").map(String::as_str), Some("a"));
                } else {
                    prop_assert_eq!(Some(claims.subject), subject);
                    prop_assert_eq!(claims.organisation.as_deref(), Some("a"));
                    prop_assert!(claims.claims.is_empty());
                }
            }
        }
    }
}
