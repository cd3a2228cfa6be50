//! Short texts with a rule, parsed once at the edge: topics, kinds, keys, hashes.
//!
//! Each is an `Arc<str>` that cannot hold anything its rule forbids, so nothing inside checks again.

use std::error::Error as StdError;

/// Why a text was refused. Its `Display` names the field, the rule and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {fault}")]
pub struct TextError {
    /// The field, as it is called on the wire.
    pub(crate) field: &'static str,
    /// What is wrong with it.
    pub(crate) fault: String,
}

impl TextError {
    pub(crate) fn new(field: &'static str, fault: impl Into<String>) -> Self {
        Self { field, fault: fault.into() }
    }

    /// The field that was refused, as it is called on the wire.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl From<std::convert::Infallible> for TextError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A text without the byte order mark that Windows tools begin files with. The mark says how a text is encoded and is
/// no part of it. Only one at the very beginning is a mark.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// An error with its causes, in one line. A cause that the error above it already repeats is not said again.
pub fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut above = error;
    while let Some(cause) = above.source() {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        above = cause;
    }
    text
}

/// The rule of most texts: 1 to `max` bytes of UTF-8 without control characters.
pub(crate) fn plain(field: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::new(field, "is empty"));
    }
    if text.len() > max {
        return Err(TextError::new(
            field,
            format!("is {} bytes long; at most {max} are allowed", text.len()),
        ));
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(TextError::new(field, format!("holds a control character at byte {at}"))),
        None => Ok(()),
    }
}

/// Defines a text type: its documentation, its name, the field's name on the wire, and its rule.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $field:literal, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks `text` against the rule and takes it.
            ///
            /// # Errors
            /// A [`TextError`](crate::text::TextError) that names the fault.
            pub fn parse(text: &str) -> Result<Self, crate::text::TextError> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks `text` against the rule, and does not take it.
            pub(crate) fn check(text: &str) -> Result<(), crate::text::TextError> {
                let rule: fn(&'static str, &str) -> Result<(), crate::text::TextError> = $rule;
                rule($field, text)
            }

            /// A literal.
            ///
            /// It panics where others give an error, because a literal that breaks the rule is a fault of the program; texts that
            /// are made while it runs go through [`parse`](Self::parse) or `TryFrom`.
            ///
            /// # Panics
            /// If the rule forbids it.
            #[track_caller]
            pub fn from_static(text: &'static str) -> Self {
                match Self::parse(text) {
                    Ok(text) => text,
                    Err(fault) => panic!("{text:?} as a literal: {fault}"),
                }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::text::TextError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = crate::text::TextError;

            fn try_from(text: &str) -> Result<Self, Self::Error> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = crate::text::TextError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<&$name> for $name {
            fn from(text: &$name) -> Self {
                text.clone()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a string")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

pub(crate) use text;
