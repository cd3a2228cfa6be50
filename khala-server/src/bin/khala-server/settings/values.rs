//! Values that TOML has no type for: a secret, and a limit that may be none.

use std::fmt;

use khala_core::config::or_none;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Value;

/// A text that prints as `***`.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            // serde's own words would repeat the value.
            _ => Err(de::Error::custom("a secret is a text: put it in quotes")),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A limit, or `"none"`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(transparent, bound(deserialize = "T: Deserialize<'de>", serialize = "T: Serialize"))]
pub(crate) struct Limit<T>(#[serde(with = "or_none")] pub(crate) Option<T>);

/// Refuses two settings that say the same thing.
pub(super) fn exclude(one: &str, is_set: bool, other: &str, is_set_too: bool) -> Result<(), String> {
    if is_set && is_set_too { Err(format!("{one} and {other} exclude each other")) } else { Ok(()) }
}
