//! How options are written in a settings file, for `#[serde(with = "…")]` on the fields of options types.
//!
//! A duration is a number of seconds, whole or with a fraction, under a key that ends in `_seconds`. A limit that may be
//! absent is its value, or the text `"none"`: TOML has no null, and a key that is left out has the default. Nothing here
//! is for the wire.
//!
//! ```
//! use std::time::Duration;
//!
//! use khala_core::session::SessionOptions;
//!
//! let text = r#"{"poll_interval_seconds": 0.5, "outbox_bytes": "none"}"#;
//! let options: SessionOptions = serde_json::from_str(text)?;
//! let expected = SessionOptions {
//!     poll_interval: Duration::from_millis(500),
//!     outbox_bytes: None,
//!     ..SessionOptions::default()
//! };
//! assert_eq!(options, expected);
//! # Ok::<_, serde_json::Error>(())
//! ```
//!
//! # Invariants
//! - What is written is read back as the same value. Fractions of a second are exact to a microsecond for durations of up to a
//!   day.
//! - `0` never means "no limit".

use std::{fmt, fs, io, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text::without_byte_order_mark;

/// A password, a token or a key, as text. It is printed as `***`, by `Debug` and by serde.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text for a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a file that holds a secret. A byte order mark before it and white space after it are not part of it.
    ///
    /// # Errors
    /// If the file cannot be read, or is not UTF-8.
    pub fn read(file: &Path) -> io::Result<Self> {
        let content = fs::read(file)?;
        let text = str::from_utf8(without_byte_order_mark(content.trim_ascii_end()));
        text.map(Self::new).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
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

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own words would repeat the value.
        let fault = |_| de::Error::custom("a secret is a text: put it in quotes");
        String::deserialize(deserializer).map(Self).map_err(fault)
    }
}

/// A [`Duration`] as a number of seconds.
pub mod seconds {
    use super::*;

    /// Writes whole seconds as an integer, and others with a fraction.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Seconds(*duration).serialize(serializer)
    }

    /// Reads a number that is not negative.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Seconds::deserialize(deserializer).map(|seconds| seconds.0)
    }
}

/// An [`Option`] of a [`Duration`]: a number of seconds, or `"none"`.
pub mod seconds_or_none {
    use super::*;

    /// Writes the seconds, or `"none"`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        or_none::serialize(&duration.map(Seconds), serializer)
    }

    /// Reads a number that is not negative, or `"none"`.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        or_none::deserialize(deserializer).map(|seconds: Option<Seconds>| seconds.map(|seconds| seconds.0))
    }
}

/// An [`Option`] of a number or a table: its value, or `"none"`.
pub mod or_none {
    use std::marker::PhantomData;

    use super::*;

    const NONE: &str = "none";

    /// Writes the value, or `"none"`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<T: Serialize, S: Serializer>(
        limit: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match limit {
            Some(limit) => limit.serialize(serializer),
            None => serializer.serialize_str(NONE),
        }
    }

    /// Reads the value, or `"none"`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(LimitVisitor(PhantomData))
    }

    struct LimitVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for LimitVisitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a limit, or \"none\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
            match text {
                NONE => Ok(None),
                _ => Err(E::custom(format!("{text:?} is no limit; \"none\" is the one text"))),
            }
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<T>, E> {
            match u64::try_from(number) {
                Ok(number) => self.visit_u64(number),
                Err(_) => T::deserialize(de::value::I64Deserializer::new(number)).map(Some),
            }
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<T>, E> {
            let limit = T::deserialize(de::value::U64Deserializer::<E>::new(number));
            limit.map(Some).map_err(|fault| match number {
                0 => E::custom("0 is not taken for no limit: say \"none\", or at least 1"),
                _ => fault,
            })
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<Option<T>, E> {
            T::deserialize(de::value::F64Deserializer::new(number)).map(Some)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

/// A duration with the form that [`seconds`] describes.
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_u64(self.0.as_secs()),
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let duration = Duration::try_from_secs_f64(seconds);
        duration.map(Self).map_err(|_| de::Error::custom(format!("{seconds} is no number of seconds")))
    }
}

/// Checks for an options type that an empty table is its default, that what it writes is read back, and that a key that
/// it does not know is refused.
#[cfg(test)]
pub(crate) fn assert_options<T>()
where
    T: Default + PartialEq + fmt::Debug + Serialize + de::DeserializeOwned,
{
    let of = |text: &str| serde_json::from_str::<T>(text);
    let defaults = T::default();
    assert_eq!(of("{}").unwrap(), defaults);
    assert_eq!(of(&serde_json::to_string(&defaults).unwrap()).unwrap(), defaults);
    let fault = of(r#"{"no_such_option": 1}"#).unwrap_err();
    assert!(fault.to_string().contains("no_such_option"), "{fault}");
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret: Secret = serde_json::from_str("\"s3cret\"").unwrap();
        assert_eq!(secret.reveal(), "s3cret");
        assert_eq!((format!("{secret:?}"), serde_json::to_string(&secret).unwrap()), {
            ("***".to_owned(), "\"***\"".to_owned())
        });
        let fault = serde_json::from_str::<Secret>("12345678").unwrap_err().to_string();
        assert!(fault.contains("put it in quotes") && !fault.contains("12345678"), "{fault}");
    }

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Row {
        #[serde(with = "seconds")]
        duration: Duration,
        #[serde(with = "seconds_or_none")]
        longest: Option<Duration>,
        #[serde(with = "or_none")]
        most: Option<NonZeroU32>,
    }

    fn read(duration: &str, longest: &str, most: &str) -> Result<Row, String> {
        let text = format!(r#"{{"duration": {duration}, "longest": {longest}, "most": {most}}}"#);
        serde_json::from_str(&text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_is_written_is_read_back() {
        for duration in [0, 1, 999, 250_000, 1_000_000, 86_400_000_000, 86_400_000_001] {
            let duration = Duration::from_micros(duration);
            for (longest, most) in [(None, None), (Some(duration), NonZeroU32::new(7))] {
                let written = serde_json::to_string(&Row { duration, longest, most }).unwrap();
                let found = serde_json::from_str::<Row>(&written).unwrap();
                assert_eq!(found.duration.as_micros(), duration.as_micros(), "{written}");
                assert_eq!((found.longest.map(|found| found.as_micros()), found.most), {
                    (longest.map(|longest| longest.as_micros()), most)
                });
            }
        }
        let whole = Row { duration: Duration::from_secs(60), longest: None, most: None };
        assert_eq!(
            serde_json::to_string(&whole).unwrap(),
            r#"{"duration":60,"longest":"none","most":"none"}"#
        );
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        assert!(read("1", "2.5", "3").is_ok());
        for (duration, longest, most, says) in [
            ("-1", "1", "1", "-1 is no number of seconds"),
            ("\"1\"", "1", "1", "string"),
            ("1", "-0.5", "1", "-0.5 is no number of seconds"),
            ("1", "\"never\"", "1", "\"none\" is the one text"),
            ("1", "1", "0", "at least 1"),
            ("1", "1", "-1", "-1"),
            ("1", "1", "true", "a limit, or \\\"none\\\""),
            ("1", "1", "null", "a limit"),
        ] {
            let fault = read(duration, longest, most).unwrap_err();
            assert!(fault.replace('\\', "").contains(&says.replace('\\', "")), "{fault}");
        }
    }
}
