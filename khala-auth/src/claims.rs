//! The claims of a token whose signature is right, each read as the type that it must have.
//!
//! A claim that is absent, null or an empty text is one that the token does not make; one of the wrong type makes the
//! token invalid. Nothing here knows which claims are asked for.

use khala_core::{
    Timestamp,
    auth::{Denied, RevocationId},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The claims of RFC 7519, and `sid` (OpenID Connect): what a further claim may not be called.
pub(crate) const REGISTERED: &[&str] = &["aud", "exp", "iat", "iss", "jti", "nbf", "sid", "sub"];

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Claims(Map<String, Value>);

impl Claims {
    fn claim(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    /// A claim of text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Denied> {
        match self.claim(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Denied::InvalidToken("a claim that must be a text is none")),
        }
    }

    /// A claim that a revocation can name.
    pub(crate) fn name(&self, name: &'static str) -> Result<Option<&str>, Denied> {
        let text = self.text(name)?;
        if text.is_some_and(|text| RevocationId::parse(text).is_err()) {
            return Err(Denied::InvalidToken(match name {
                "jti" => "its jti is too long, or holds a control character",
                "sid" => "its sid is too long, or holds a control character",
                _ => "its sub is too long, or holds a control character",
            }));
        }
        Ok(text)
    }

    /// A NumericDate: seconds since the Unix epoch, perhaps with a fraction.
    ///
    /// What is before 1970 counts as 1970, and what is after the last moment there is counts as that: a float cast
    /// saturates, which is what an absurd claim deserves.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<Timestamp>, Denied> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let seconds =
                    value.as_f64().ok_or(Denied::InvalidToken("a claim of time is not a number"))?;
                Ok(Some(Timestamp::from_millis((seconds * 1000.0) as u64)))
            }
        }
    }

    /// Whether `name`, a text or an array of texts, says `wanted`.
    pub(crate) fn says(&self, name: &str, wanted: &str) -> bool {
        match self.claim(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(texts)) => texts.iter().any(|text| text.as_str() == Some(wanted)),
            _ => false,
        }
    }

    /// Whether `name`, a text or a number, is written `wanted`.
    pub(crate) fn reads(&self, name: &str, wanted: &str) -> bool {
        match self.claim(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Number(number)) => number.to_string() == wanted,
            _ => false,
        }
    }

    /// Scopes: an array of strings, or one string with spaces between them (RFC 8693, section 4.2).
    pub(crate) fn scopes(&self, name: &str) -> Result<Vec<String>, Denied> {
        let scopes = match self.claim(name) {
            None => Some(Vec::new()),
            Some(Value::String(text)) => Some(text.split(' ').map(str::to_owned).collect()),
            Some(Value::Array(all)) => all.iter().map(|scope| scope.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        let mut scopes: Vec<String> =
            scopes.ok_or(Denied::InvalidToken("its scopes are neither an array of strings nor a string"))?;
        scopes.retain(|scope| !scope.is_empty());
        Ok(scopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn scopes_are_an_array_or_one_text() {
        for (json, scopes) in [
            (r"{}", Some(vec![])),
            (r#"{"s":null}"#, Some(vec![])),
            (r#"{"s":""}"#, Some(vec![])),
            (r#"{"s":[]}"#, Some(vec![])),
            (r#"{"s":["a","b c",""]}"#, Some(vec!["a", "b c"])),
            (r#"{"s":"a  b "}"#, Some(vec!["a", "b"])),
            (r#"{"s":["a",1]}"#, None),
            (r#"{"s":{"a":true}}"#, None),
            (r#"{"s":7}"#, None),
        ] {
            let scopes = scopes.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(claims(json).scopes("s").ok(), scopes, "{json}");
        }
    }

    #[test]
    fn moments_saturate() {
        for (json, millis) in [
            (r#"{"t":1700000000}"#, Some(Some(1_700_000_000_000))),
            (r#"{"t":1700000000.5}"#, Some(Some(1_700_000_000_500))),
            (r#"{"t":-5}"#, Some(Some(0))),
            (r#"{"t":1e308}"#, Some(Some(u64::MAX))),
            (r#"{"t":18446744073709551615}"#, Some(Some(u64::MAX))),
            (r#"{"t":null}"#, Some(None)),
            (r"{}", Some(None)),
            (r#"{"t":"1700000000"}"#, None),
            (r#"{"t":""}"#, None),
            (r#"{"t":[1]}"#, None),
        ] {
            let moment = claims(json).moment("t").ok();
            assert_eq!(moment, millis.map(|it| it.map(Timestamp::from_millis)), "{json}");
        }
    }
}
