//! The names of further claims: those that a mint lets a credential or a caller set.

/// The most bytes of a claim's name.
const NAME_BYTES: usize = 128;

/// Claims that say what a token is, not what its subject is: those of RFC 7519, and those that Khala reads by default.
const RESERVED: &[&str] = &[
    "aud",
    "claims_version",
    "exp",
    "iat",
    "iss",
    "jti",
    "nbf",
    "org",
    "org_id",
    "scope",
    "scopes",
    "sid",
    "sub",
];

/// The name of a further claim of a token: 1 to 128 visible ASCII characters, and no name to which JWT or Khala gives a
/// meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimName(String);

/// Why a text is no [`ClaimName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimNameError {
    /// It is empty, too long, or holds another character.
    #[error("a claim's name is of 1 to {NAME_BYTES} visible ASCII characters")]
    Invalid,
    /// The claim has a meaning of its own.
    #[error("this claim has a meaning of its own, and cannot be set freely")]
    Reserved,
}

impl ClaimName {
    /// Checks `text` and takes it.
    ///
    /// # Errors
    /// A [`ClaimNameError`], with the reason.
    pub fn parse(text: &str) -> Result<Self, ClaimNameError> {
        if RESERVED.contains(&text) {
            return Err(ClaimNameError::Reserved);
        }
        if !(1..=NAME_BYTES).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClaimNameError::Invalid);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
