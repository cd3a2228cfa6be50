//! The gate for clients that are too old or too new: what they say of themselves, held against what is supported.
//!
//! It is off by default, and no protection: a client says what it likes.
//!
//! # Invariants
//! A client that is refused learns the window, and only a build below it is told to upgrade.

use std::{borrow::Cow, fmt, str::FromStr};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use crate::problem::Problem;

/// How much of what was sent is sent back: more than any version has.
const SENT_CHARS: usize = 32;

/// What clients must be to be let in. What is not set is not checked.
///
/// ```
/// # use khala_server::{Compatibility, Window};
/// let compatibility = Compatibility {
///     client_build: Some(Window::at_least("1.20.3".parse()?)),
///     protocol_version: Some(Window::between(1, 2)?),
///     ..Compatibility::default()
/// };
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct Compatibility {
    /// The builds of clients: `client_build` in the query, or the header `x-khala-client-build`.
    pub client_build: Option<Window<ClientBuild>>,
    /// The versions of what they speak with each other: `protocol_version`, or `x-khala-protocol-version`.
    pub protocol_version: Option<Window<u32>>,
    /// The versions of what the payloads hold: `schema_version`, or `x-khala-schema-version`.
    pub schema_version: Option<Window<u32>>,
}

/// What is supported: from one version to another, both included, or without an upper end.
///
/// In a settings file it is `{min = 1, max = 2}`, of which one may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "WindowFields<T>",
    into = "WindowFields<T>",
    bound(serialize = "T: Copy + Serialize", deserialize = "T: Copy + Default + Ord + Deserialize<'de>")
)]
pub struct Window<T> {
    min: T,
    max: Option<T>,
}

/// A window as it stands in a settings file.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct WindowFields<T> {
    /// The oldest version that is accepted. Example: `"1.20.3"` for a build, `2` for another version.
    min: Option<T>,
    /// The newest version that is accepted. Example: `"1.30"` for a build, `3` for another version.
    max: Option<T>,
}

impl<T> Default for WindowFields<T> {
    fn default() -> Self {
        Self { min: None, max: None }
    }
}

impl<T: Copy + Default + Ord> TryFrom<WindowFields<T>> for Window<T> {
    type Error = String;

    fn try_from(WindowFields { min, max }: WindowFields<T>) -> Result<Self, String> {
        match (min, max) {
            (None, None) => Err("it has neither min nor max".to_owned()),
            (Some(min), None) => Ok(Self::at_least(min)),
            (min, Some(max)) => {
                Self::between(min.unwrap_or_default(), max).map_err(|_| "max is below min".to_owned())
            }
        }
    }
}

impl<T> From<Window<T>> for WindowFields<T> {
    fn from(Window { min, max }: Window<T>) -> Self {
        Self { min: Some(min), max }
    }
}

/// A window that nothing fits in: its upper end is below its lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the window ends before it begins")]
#[non_exhaustive]
pub struct EmptyWindow;

impl<T: Copy + Ord> Window<T> {
    /// Everything from `min` on.
    pub fn at_least(min: T) -> Self {
        Self { min, max: None }
    }

    /// Everything from `min` to `max`, both included.
    ///
    /// # Errors
    /// [`EmptyWindow`] where `max` is below `min`.
    pub fn between(min: T, max: T) -> Result<Self, EmptyWindow> {
        if max < min { Err(EmptyWindow) } else { Ok(Self { min, max: Some(max) }) }
    }

    fn holds(&self, version: T) -> bool {
        self.min <= version && self.max.is_none_or(|max| version <= max)
    }
}

impl<T: fmt::Display> fmt::Display for Window<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.max {
            Some(max) => write!(f, "{} to {max}", self.min),
            None => write!(f, "{} and later", self.min),
        }
    }
}

/// The build of a client: up to four numbers with dots between them, as `1.20.3`. Those that are not there are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientBuild([u32; 4]);

impl Serialize for ClientBuild {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientBuild {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text that is no build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a build is one to four numbers with dots between them, as 1.20.3")]
#[non_exhaustive]
pub struct BuildError;

impl FromStr for ClientBuild {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        let mut parts = [0; 4];
        for (at, part) in text.split('.').enumerate() {
            *parts.get_mut(at).ok_or(BuildError)? = number(part).ok_or(BuildError)?;
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for ClientBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = &self.0;
        write!(f, "{first}")?;
        let said = rest.iter().rposition(|part| *part != 0).map_or(0, |at| at + 1);
        rest[..said].iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

/// A number of digits alone: `str::parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What a client says of itself in the query, as it does to the WebSocket. It is [judged](Compatibility) before it is known
/// that nothing else is there.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ClientOfQuery {
    /// The client's build, up to four numbers as in 1.20.3; or the header `x-khala-client-build`, which wins. Only looked at where
    /// the server supports certain builds.
    #[serde(rename = "client_build")]
    #[param(value_type = String)]
    _client_build: de::IgnoredAny,
    /// What the client speaks with others; or the header `x-khala-protocol-version`. Only looked at where the server supports
    /// certain versions.
    #[serde(rename = "protocol_version")]
    #[param(value_type = String)]
    _protocol_version: de::IgnoredAny,
    /// Which payloads the client understands; or the header `x-khala-schema-version`. Only looked at where the server supports
    /// certain versions.
    #[serde(rename = "schema_version")]
    #[param(value_type = String)]
    _schema_version: de::IgnoredAny,
}

impl Compatibility {
    /// Checks what a client says of itself. A header wins over the query.
    pub(crate) fn check(&self, headers: &HeaderMap, query: Option<&str>) -> Result<(), Problem> {
        if let Some(window) = &self.client_build {
            let sent = said(headers, query, "x-khala-client-build", "client_build");
            let build = sent.as_deref().map(str::parse::<ClientBuild>);
            if let Some(Ok(build)) = build
                && build < window.min
            {
                let detail = format!("client_build is too old; supported: {window}");
                let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
                // RFC 9110, section 15.5.22, asks for a protocol in every 426, whatever else it is for.
                let problem = problem
                    .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
                    .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"));
                return Err(window.tell(problem, sent.as_deref()));
            }
            window.judge("client_build", "invalid_client_build", sent.as_deref(), build)?;
        }
        for (window, name, header, code) in [
            (
                &self.protocol_version,
                "protocol_version",
                "x-khala-protocol-version",
                "unsupported_protocol_version",
            ),
            (&self.schema_version, "schema_version", "x-khala-schema-version", "unsupported_schema_version"),
        ] {
            if let Some(window) = window {
                let sent = said(headers, query, header, name);
                let version = sent.as_deref().map(|text| number(text).ok_or("it is not a number"));
                window.judge(name, code, sent.as_deref(), version)?;
            }
        }
        Ok(())
    }
}

impl<T: Copy + Ord + fmt::Display> Window<T> {
    fn judge(
        &self,
        name: &str,
        code: &'static str,
        sent: Option<&str>,
        version: Option<Result<T, impl fmt::Display>>,
    ) -> Result<(), Problem> {
        let what = match version {
            Some(Ok(version)) if self.holds(version) => return Ok(()),
            Some(Ok(_)) => "is not supported".to_owned(),
            Some(Err(wrong)) => format!("is wrong: {wrong}"),
            None => "is missing, in the query or as a header".to_owned(),
        };
        Err(self.tell(Problem::invalid(code, format!("{name} {what}; supported: {self}")), sent))
    }

    /// Adds what a client needs to act on it.
    fn tell(&self, problem: Problem, sent: Option<&str>) -> Problem {
        let text = |version: T| Value::from(version.to_string());
        let supported = json!({"min": text(self.min), "max": self.max.map(text)});
        let sent = sent.map(|sent| sent.chars().take(SENT_CHARS).collect::<String>());
        problem.with("supported", supported).with("sent", sent)
    }
}

/// What a client says under a name; the first, where it says it twice.
fn said<'a>(
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    header: &'static str,
    name: &str,
) -> Option<Cow<'a, str>> {
    if let Some(value) = headers.get(header) {
        return Some(String::from_utf8_lossy(value.as_bytes()));
    }
    let mut parameters = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters.find(|(found, _)| found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> ClientBuild {
        text.parse().unwrap()
    }

    fn gate() -> Compatibility {
        Compatibility {
            client_build: Some(Window::between(build("1.20.3"), build("2")).unwrap()),
            protocol_version: Some(Window::between(2, 3).unwrap()),
            schema_version: Some(Window::at_least(7)),
        }
    }

    fn code(query: &str) -> Option<&'static str> {
        gate().check(&HeaderMap::new(), Some(query)).err().map(|problem| problem.code())
    }

    #[test]
    fn builds_are_numbers() {
        assert_eq!(build("1.20.3"), build("1.20.3.0"));
        assert_eq!(build("01.020"), build("1.20"));
        assert!(
            build("1.9") < build("1.10") && build("1.20.3") < build("1.20.3.1") && build("2") > build("1.9")
        );
        for text in ["0", "2", "1.20.3", "1.0.3", "1.2.3.4"] {
            assert_eq!(build(text).to_string(), text);
        }
        for bad in [
            "",
            ".",
            "1.",
            ".1",
            "1..2",
            "1.2.3.4.5",
            "v1",
            "1.2-rc1",
            "+1",
            "-1",
            "1.4294967296",
            " 1",
            "\u{661}",
        ] {
            assert!(bad.parse::<ClientBuild>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_way_to_be_outside() {
        let good = "client_build=1.20.3&protocol_version=2&schema_version=7";
        assert_eq!(code(good), None);
        assert_eq!(code("client_build=2.0.0.0&protocol_version=3&schema_version=4294967295"), None);
        for (query, refusal) in [
            ("client_build=1.20.2&protocol_version=2&schema_version=7", "upgrade_required"),
            ("client_build=2.0.0.1&protocol_version=2&schema_version=7", "invalid_client_build"),
            ("client_build=latest&protocol_version=2&schema_version=7", "invalid_client_build"),
            ("protocol_version=2&schema_version=7", "invalid_client_build"),
            ("client_build=2&protocol_version=1&schema_version=7", "unsupported_protocol_version"),
            ("client_build=2&protocol_version=4&schema_version=7", "unsupported_protocol_version"),
            ("client_build=2&protocol_version=2.0&schema_version=7", "unsupported_protocol_version"),
            ("client_build=2&schema_version=7", "unsupported_protocol_version"),
            ("client_build=2&protocol_version=2&schema_version=6", "unsupported_schema_version"),
            ("client_build=2&protocol_version=2&schema_version=4294967296", "unsupported_schema_version"),
            ("client_build=2&protocol_version=2&schema_version=", "unsupported_schema_version"),
            ("client_build=2&protocol_version=2", "unsupported_schema_version"),
        ] {
            assert_eq!(code(query), Some(refusal), "{query}");
        }
        assert!(Compatibility::default().check(&HeaderMap::new(), None).is_ok());
        assert_eq!(Window::between(2, 1), Err(EmptyWindow));
    }

    #[test]
    fn a_header_wins() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-khala-client-build", "1.30"),
            ("x-khala-protocol-version", "2"),
            ("x-khala-schema-version", "8"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert!(gate().check(&headers, None).is_ok());
        assert!(gate().check(&headers, Some("client_build=1&protocol_version=9&schema_version=x")).is_ok());
        headers.insert("x-khala-client-build", HeaderValue::from_bytes(b"\xff").unwrap());
        let problem = gate().check(&headers, Some("client_build=2")).unwrap_err();
        assert_eq!(problem.code(), "invalid_client_build");
    }
}
