//! What a caller may have at most, and what it gets of that when it asks: the policy of minting, without any
//! transport.
//!
//! What must stay true: a token never says more than its holder's credential allows. What is asked for beyond that
//! is refused; nothing is narrowed or widened quietly.

use std::{collections::BTreeMap, fmt};

use khala_core::{Grant, Timestamp, auth::Mandate};
use serde::{Deserialize, Deserializer, de};

use crate::{
    body::{given, given_whole, invalid},
    problem::Problem,
};

/// Bytes of a subject, an organisation, a session id, a claim.
const TEXT_BYTES: usize = 255;
/// Scopes that can be asked for at once.
const SCOPES: usize = 64;
/// Bytes of a scope.
const SCOPE_BYTES: usize = 128;
/// Claims that can be asked for at once.
const CLAIMS: usize = 16;
/// Claims that say what a token is, not what its holder is: RFC 7519, and what Khala reads by default.
const RESERVED: &[&str] = &[
    "aud",
    "exp",
    "iat",
    "iss",
    "jti",
    "nbf",
    "oa_claims_version",
    "oa_org_id",
    "oa_sync_scopes",
    "org",
    "scope",
    "scopes",
    "sid",
    "sub",
];

/// The name of a further claim of a token: 1 to 128 visible ASCII characters, and none of those that JWT or Khala
/// give a meaning to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimName(String);

/// Why a text is no [`ClaimName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimNameError {
    /// It cannot be a name.
    #[error("a claim's name is of 1 to 128 visible ASCII characters")]
    Invalid,
    /// It has a meaning of its own.
    #[error("this claim has a meaning of its own, and cannot be set freely")]
    Reserved,
}

impl ClaimName {
    /// Checks `text` and takes it.
    ///
    /// # Errors
    /// [`ClaimNameError`], with the reason.
    pub fn parse(text: &str) -> Result<Self, ClaimNameError> {
        if RESERVED.contains(&text) {
            return Err(ClaimNameError::Reserved);
        }
        if !(1..=SCOPE_BYTES).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClaimNameError::Invalid);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One thing that a token says about its holder, as far as the credential decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// It is not said.
    Absent,
    /// It is this, and may be repeated.
    Fixed(String),
    /// The caller names it, or leaves it out.
    Free,
}

/// What a caller may have at most, as its credential proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    subject: Part,
    organisation: Part,
    session_id: Part,
    scopes: Vec<String>,
    claims: BTreeMap<ClaimName, Part>,
    ends_at: Option<Timestamp>,
    grant: Option<Grant>,
}

impl Holder {
    /// One who may have tokens made for anybody: any subject, organisation and session, with these scopes at most.
    /// A backend, not a user.
    pub fn anyone(scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            subject: Part::Free,
            organisation: Part::Free,
            session_id: Part::Free,
            scopes: scopes.into_iter().map(Into::into).collect(),
            claims: BTreeMap::new(),
            ends_at: None,
            grant: None,
        }
    }

    /// One who may have tokens for this subject alone, with these scopes at most.
    pub fn one(subject: impl Into<String>, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            subject: Part::Fixed(subject.into()),
            organisation: Part::Absent,
            session_id: Part::Absent,
            ..Self::anyone(scopes)
        }
    }

    /// The holder of a verified token: for its subject, organisation and session, no longer than it, and not once it
    /// was revoked; with these scopes at most.
    ///
    /// A token without a session is one of its own, named by its `jti`: so what is minted for it can be revoked.
    pub fn of(grant: Grant, scopes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let own = grant.token_id().filter(|_| grant.session_id().is_none()).map(str::to_owned);
        let grant = match own {
            Some(own) => grant.with_session_id(own),
            None => grant,
        };
        let part = |value: Option<&str>| value.map_or(Part::Absent, |value| Part::Fixed(value.to_owned()));
        Self {
            organisation: part(grant.organisation()),
            session_id: part(grant.session_id()),
            ends_at: Some(grant.expires_at()),
            ..Self::one(grant.subject(), scopes)
        }
        .with_grant(grant)
    }

    fn with_grant(mut self, grant: Grant) -> Self {
        self.grant = Some(grant);
        self
    }

    /// Fixes the organisation.
    #[must_use]
    pub fn with_organisation(mut self, organisation: impl Into<String>) -> Self {
        self.organisation = Part::Fixed(organisation.into());
        self
    }

    /// Fixes the session, by which its tokens can be revoked.
    #[must_use]
    pub fn with_session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Part::Fixed(id.into());
        self
    }

    /// Fixes a further claim: every token says it.
    #[must_use]
    pub fn with_claim(mut self, name: ClaimName, value: impl Into<String>) -> Self {
        self.claims.insert(name, Part::Fixed(value.into()));
        self
    }

    /// Lets the caller set a further claim as it likes.
    #[must_use]
    pub fn with_free_claim(mut self, name: ClaimName) -> Self {
        self.claims.insert(name, Part::Free);
        self
    }

    /// Lets no token last beyond `moment`. Of several, the earliest holds.
    #[must_use]
    pub fn with_end(mut self, moment: Timestamp) -> Self {
        self.ends_at = Some(self.ends_at.map_or(moment, |end| end.min(moment)));
        self
    }

    /// When the last token that it may have ends.
    pub(crate) fn ends_at(&self) -> Option<Timestamp> {
        self.ends_at
    }

    /// The token that proved it, which may have been revoked.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Whose tokens it may have, if that is settled.
    pub(crate) fn subject(&self) -> Option<&str> {
        match &self.subject {
            Part::Fixed(subject) => Some(subject),
            Part::Absent | Part::Free => None,
        }
    }

    /// What the token is to say when that is asked for.
    pub(crate) fn mandate(&self, asked: Asked) -> Result<Mandate, Refused> {
        let Some(subject) = self.subject.decide("subject", asked.subject)? else {
            return Err(Refused::Invalid(invalid("subject", "missing field `subject`")));
        };
        let mut mandate = Mandate::new(subject, self.decide_scopes(asked.scopes)?);
        mandate.organisation = self.organisation.decide("organisation", asked.organisation)?;
        mandate.session_id = self.session_id.decide("session_id", asked.session_id)?;
        let mut claims = asked.claims.map(|Claims(claims)| claims).unwrap_or_default();
        if claims.len() > CLAIMS {
            return Err(Refused::Invalid(invalid("claims", format!("at most {CLAIMS} claims can be set"))));
        }
        for (name, part) in &self.claims {
            if let Some(value) = part.decide("claims", claims.remove(name.as_str()))? {
                mandate.claims.insert(name.as_str().to_owned(), value);
            }
        }
        if !claims.is_empty() {
            return Err(Refused::Beyond {
                field: "claims",
                detail: "a claim cannot be set by this credential",
            });
        }
        Ok(mandate)
    }

    fn decide_scopes(&self, asked: Option<Vec<String>>) -> Result<Vec<String>, Refused> {
        let Some(asked) = asked else { return Ok(self.scopes.clone()) };
        if asked.len() > SCOPES {
            return Err(Refused::Invalid(invalid(
                "scopes",
                format!("at most {SCOPES} scopes can be asked for"),
            )));
        }
        let mut scopes = Vec::new();
        for scope in asked {
            if !is_scope(&scope) {
                let detail = format!(
                    "scopes: each is of 1 to {SCOPE_BYTES} visible ASCII characters other than quote and backslash"
                );
                return Err(Refused::Invalid(invalid("scopes", detail)));
            }
            if !self.scopes.contains(&scope) {
                return Err(Refused::Beyond {
                    field: "scopes",
                    detail: "the credential does not reach that far",
                });
            }
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Ok(scopes)
    }
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

impl Part {
    fn decide(&self, field: &'static str, asked: Option<String>) -> Result<Option<String>, Refused> {
        if asked.as_deref().is_some_and(|asked| !is_text(asked)) {
            let detail = format!("{field}: a text is of 1 to {TEXT_BYTES} bytes without control characters");
            return Err(Refused::Invalid(invalid(field, detail)));
        }
        match (self, asked) {
            (Self::Absent, None) => Ok(None),
            (Self::Absent, Some(_)) => {
                Err(Refused::Beyond { field, detail: "the credential says nothing of this, so no token can" })
            }
            (Self::Fixed(fixed), None) if !is_text(fixed) => {
                Err(Refused::Beyond { field, detail: "the credential's own cannot be in a token" })
            }
            (Self::Fixed(fixed), Some(asked)) if *fixed != asked => {
                Err(Refused::Beyond { field, detail: "the credential is for another one" })
            }
            (Self::Fixed(fixed), _) => Ok(Some(fixed.clone())),
            (Self::Free, asked) => Ok(asked),
        }
    }
}

/// Why somebody does not get what was asked for.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The credential does not reach that far.
    Beyond { field: &'static str, detail: &'static str },
    /// It breaks a rule, whoever asks.
    Invalid(Problem),
}

/// What a caller asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default, deserialize_with = "given")]
    subject: Option<String>,
    #[serde(default, deserialize_with = "given")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    organisation: Option<String>,
    #[serde(default, deserialize_with = "given")]
    session_id: Option<String>,
    #[serde(default, deserialize_with = "given_whole")]
    pub(crate) ttl_seconds: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    claims: Option<Claims>,
}

impl Asked {
    /// The subject that is named, where it could be one.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.subject.as_deref().filter(|subject| is_text(subject))
    }
}

/// Claims by name, each once.
#[derive(Debug, Default)]
struct Claims(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom("a claim is given twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use khala_core::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::body;

    fn asked(json: &str) -> Asked {
        body::parse(json.as_bytes()).unwrap()
    }

    fn user() -> Holder {
        let grant = Grant::assertion("ada", ["app"], Timestamp::from_millis(9_000)).with_session_id("s");
        Holder::of(grant, ["khala:read", "khala:publish"])
            .with_claim(ClaimName::parse("team").unwrap(), "blue")
            .with_free_claim(ClaimName::parse("device").unwrap())
    }

    fn outcome(holder: &Holder, json: &str) -> Result<Mandate, String> {
        holder.mandate(asked(json)).map_err(|refused| match refused {
            Refused::Beyond { field, .. } => format!("beyond {field}"),
            Refused::Invalid(problem) => format!("{} {:?}", problem.code(), problem),
        })
    }

    #[test]
    fn all_that_the_holder_may_have_unless_less_is_asked_for() {
        let all = outcome(&user(), "{}").unwrap();
        let expected = Mandate::new("ada", ["khala:read", "khala:publish"]).with_session_id("s");
        assert_eq!(all, expected.with_claim("team", "blue"));
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
            assert_eq!(outcome(&user(), json), Err(format!("beyond {field}")), "{json}");
        }
        let tenant = Holder::anyone(["khala:read"]).with_organisation("acme");
        let mandate = outcome(&tenant, r#"{"subject":"ada"}"#).unwrap();
        assert_eq!((mandate.organisation.as_deref(), mandate.session_id), (Some("acme"), None));
        assert!(outcome(&tenant, r#"{"subject":"ada","organisation":"other"}"#).is_err());
        assert!(outcome(&tenant, "{}").unwrap_err().contains("missing field"));
    }

    #[test]
    fn a_subject_that_could_not_be_revoked_gets_no_token() {
        for subject in ["", "a\nb", &"x".repeat(256)] {
            let holder = Holder::one(subject, ["khala:read"]);
            assert_eq!(outcome(&holder, "{}"), Err("beyond subject".to_owned()), "{subject:?}");
        }
    }

    #[test]
    fn the_earliest_end_holds() {
        let at = Timestamp::from_millis;
        assert_eq!(user().with_end(at(10_000)).ends_at(), Some(at(9_000)));
        assert_eq!(user().with_end(at(8_000)).ends_at(), Some(at(8_000)));
        assert_eq!(Holder::one("ada", ["x"]).with_end(at(1)).ends_at(), Some(at(1)));
    }

    #[test]
    fn a_claim_with_a_meaning_of_its_own_is_no_further_one() {
        for name in RESERVED {
            assert_eq!(ClaimName::parse(name), Err(ClaimNameError::Reserved), "{name}");
        }
        for name in ["", "a b", "é", &"x".repeat(129)] {
            assert_eq!(ClaimName::parse(name), Err(ClaimNameError::Invalid), "{name}");
        }
        assert!(RESERVED.is_sorted());
        assert!(ClaimName::parse("https://example.org/team").is_ok());
    }

    proptest! {
        /// Whatever is asked for, by whomever: what is minted is within what the holder may have.
        #[test]
        fn a_token_never_says_more_than_its_holder_may_have(
            held in proptest::collection::vec("[ab]{1,2}", 0..4),
            wanted in proptest::option::of(proptest::collection::vec("[ab\" é]{0,3}", 0..4)),
            subject in proptest::option::of("[ab\n]{0,2}"),
            organisation in proptest::option::of("[ab]{1}"),
            team in proptest::option::of("[ab]{1}"),
            bound in any::<bool>(),
        ) {
            let name = ClaimName::parse("team").unwrap();
            let holder = match bound {
                true => Holder::one("a", held.clone()).with_claim(name, "a"),
                false => Holder::anyone(held.clone()).with_organisation("a"),
            };
            let asked = Asked {
                subject: subject.clone(),
                scopes: wanted.clone(),
                organisation,
                claims: team.map(|team| Claims(BTreeMap::from([("team".to_owned(), team)]))),
                ..Asked::default()
            };
            if let Ok(mandate) = holder.mandate(asked) {
                prop_assert!(mandate.scopes.iter().all(|scope| held.contains(scope)));
                prop_assert_eq!(mandate.session_id, None);
                if let Some(wanted) = wanted {
                    prop_assert!(wanted.iter().all(|scope| mandate.scopes.contains(scope)), "narrowed quietly");
                }
                if bound {
                    prop_assert_eq!(mandate.subject, "a");
                    prop_assert_eq!(mandate.organisation, None);
                    prop_assert_eq!(mandate.claims.get("team").map(String::as_str), Some("a"));
                } else {
                    prop_assert_eq!(Some(mandate.subject), subject);
                    prop_assert_eq!(mandate.organisation.as_deref(), Some("a"));
                    prop_assert!(mandate.claims.is_empty());
                }
            }
        }
    }
}
