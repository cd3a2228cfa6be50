//! Values that TOML has no type for: a secret, and a limit that may be none.

use std::fmt;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "none" => Ok(Self(None)),
            Value::String(text) => {
                Err(de::Error::custom(format!("{text:?} is no limit; \"none\" is the one text")))
            }
            value => {
                let zero = value.as_integer() == Some(0);
                let limit = value.try_into().map(Some).map(Self);
                limit.map_err(|fault| match fault {
                    _ if zero => {
                        de::Error::custom("0 is not taken for no limit: say \"none\", or at least 1")
                    }
                    fault => de::Error::custom(fault),
                })
            }
        }
    }
}

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(limit) => limit.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }
}

/// Refuses two settings that say the same thing.
pub(super) fn exclude(one: &str, is_set: bool, other: &str, is_set_too: bool) -> Result<(), String> {
    if is_set && is_set_too { Err(format!("{one} and {other} exclude each other")) } else { Ok(()) }
}
