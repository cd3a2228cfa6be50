//! The routes: which path is which, and what may be done there.
//!
//! Paths are split before they are percent-decoded, so a `/` within a topic or a key is written `%2F`, and a path that is
//! written so says exactly what it means. Many proxies decode the paths that they pass on. A path with more parts than
//! its route has is therefore read from its end: [`Route::of_decoded`] has the rule.

use std::borrow::Cow;

use http::Method;
use khala_core::{DocKey, Topic, telemetry::Surface};
use percent_encoding::percent_decode_str;

use crate::problem::Problem;

/// A route, with the parts of its path still as they came in. That of a token has several patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    AdminConnections,
    AdminDrain,
    AdminFanoutHooks,
    AdminFanoutMetrics,
    AdminRetention,
    AdminRevocations,
    Bounds { topic: &'a str },
    Document { topic: &'a str, doc_key: &'a str },
    Health,
    Metrics,
    Mint { pattern: &'static str },
    OpenApi,
    Ready,
    Snapshot { topic: &'a str },
    Topics,
    Updates { topic: &'a str },
    UpdatesOfMany,
    WebSocket,
}

impl<'a> Route<'a> {
    /// The route of `path`, if there is one.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let mut parts = [""; 6];
        let mut count = 0;
        for part in path.strip_prefix('/')?.split('/') {
            let Some(place) = parts.get_mut(count) else { return Self::of_decoded(path) };
            *place = part;
            count += 1;
        }
        Some(match &parts[..count] {
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["metrics"] => Self::Metrics,
            ["openapi.json"] => Self::OpenApi,
            ["api", "khala", "token"] => Self::Mint { pattern: "/api/khala/token" },
            ["api", "sync", "token"] => Self::Mint { pattern: "/api/sync/token" },
            ["internal", "v1", "khala", "connections"] => Self::AdminConnections,
            ["internal", "v1", "khala", "drain"] => Self::AdminDrain,
            ["internal", "v1", "khala", "fanout", "hooks"] => Self::AdminFanoutHooks,
            ["internal", "v1", "khala", "fanout", "metrics"] => Self::AdminFanoutMetrics,
            ["internal", "v1", "khala", "retention"] => Self::AdminRetention,
            ["internal", "v1", "khala", "revocations"] => Self::AdminRevocations,
            ["sync", "v1", "websocket"] => Self::WebSocket,
            ["v1", "token"] => Self::Mint { pattern: "/v1/token" },
            ["v1", "updates"] => Self::UpdatesOfMany,
            ["v1", "topics"] => Self::Topics,
            ["v1", "topics", topic] => Self::Bounds { topic },
            ["v1", "topics", topic, "updates"] => Self::Updates { topic },
            ["v1", "topics", topic, "snapshot"] => Self::Snapshot { topic },
            ["v1", "topics", topic, "documents", doc_key] => Self::Document { topic, doc_key },
            _ => return Self::of_decoded(path),
        })
    }

    /// The route of a path in which the `/` of a topic or a document key is not escaped any more.
    ///
    /// A path that ends in `/updates` or `/snapshot` is that of the topic before it. Else what follows the last
    /// `/documents/` is a document key. Else the whole is a topic. Empty parts are a mistake: proxies merge slashes.
    fn of_decoded(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/topics/")?;
        if rest.split('/').any(str::is_empty) {
            return None;
        }
        Some(if let Some(topic) = rest.strip_suffix("/updates") {
            Self::Updates { topic }
        } else if let Some(topic) = rest.strip_suffix("/snapshot") {
            Self::Snapshot { topic }
        } else if let Some((topic, doc_key)) = rest.rsplit_once("/documents/") {
            Self::Document { topic, doc_key }
        } else {
            Self::Bounds { topic: rest }
        })
    }

    /// The route as it is in the OpenAPI document and in metrics.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Self::AdminConnections => "/internal/v1/khala/connections",
            Self::AdminDrain => "/internal/v1/khala/drain",
            Self::AdminFanoutHooks => "/internal/v1/khala/fanout/hooks",
            Self::AdminFanoutMetrics => "/internal/v1/khala/fanout/metrics",
            Self::AdminRetention => "/internal/v1/khala/retention",
            Self::AdminRevocations => "/internal/v1/khala/revocations",
            Self::Bounds { .. } => "/v1/topics/{topic}",
            Self::Document { .. } => "/v1/topics/{topic}/documents/{doc_key}",
            Self::Health => "/healthz",
            Self::Metrics => "/metrics",
            Self::Mint { pattern } => pattern,
            Self::OpenApi => "/openapi.json",
            Self::Ready => "/readyz",
            Self::Snapshot { .. } => "/v1/topics/{topic}/snapshot",
            Self::Topics => "/v1/topics",
            Self::Updates { .. } => "/v1/topics/{topic}/updates",
            Self::UpdatesOfMany => "/v1/updates",
            Self::WebSocket => "/sync/v1/websocket",
        }
    }

    /// What [`pattern`](Self::pattern) may say.
    pub(crate) const PATTERNS: [&'static str; 20] = [
        "/v1/topics/{topic}/updates",
        "/v1/topics/{topic}",
        "/v1/topics/{topic}/snapshot",
        "/v1/topics/{topic}/documents/{doc_key}",
        "/v1/topics",
        "/v1/updates",
        "/sync/v1/websocket",
        "/v1/token",
        "/api/khala/token",
        "/api/sync/token",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/internal/v1/khala/connections",
        "/internal/v1/khala/drain",
        "/internal/v1/khala/fanout/hooks",
        "/internal/v1/khala/fanout/metrics",
        "/internal/v1/khala/retention",
        "/internal/v1/khala/revocations",
    ];

    /// What `Allow` says.
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Self::AdminRetention | Self::AdminRevocations | Self::Updates { .. } => "GET, HEAD, POST",
            Self::AdminDrain | Self::Mint { .. } | Self::UpdatesOfMany => "POST",
            Self::WebSocket => "GET",
            _ => "GET, HEAD",
        }
    }

    /// Whether it is for holders of a token, and so looks at the origin of pages.
    pub(crate) fn takes_token(self) -> bool {
        !matches!(self, Self::Health | Self::Metrics | Self::OpenApi | Self::Ready)
    }

    /// Whether it is for operators, who get their answer also where nobody else gets one.
    pub(crate) fn is_for_operators(self) -> bool {
        matches!(
            self,
            Self::AdminConnections
                | Self::AdminDrain
                | Self::AdminFanoutHooks
                | Self::AdminFanoutMetrics
                | Self::AdminRetention
                | Self::AdminRevocations
                | Self::Health
                | Self::Metrics
                | Self::Ready
        )
    }

    /// What is refused when something is refused here.
    pub(crate) fn surface(self) -> Surface {
        match self {
            Self::Mint { .. } => Surface::Mint,
            Self::WebSocket => Surface::Upgrade,
            _ => Surface::Http,
        }
    }

    pub(crate) fn allows(self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }
}

fn decoded<'a>(name: &str, part: &'a str) -> Result<Cow<'a, str>, Problem> {
    percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| Problem::invalid("invalid_path", format!("the {name} in the path is not UTF-8")))
}

/// The topic that a part of a path names.
pub(crate) fn topic(part: &str) -> Result<Topic, Problem> {
    Ok(Topic::parse(&decoded("topic", part)?)?)
}

/// The document key that a part of a path names.
pub(crate) fn doc_key(part: &str) -> Result<DocKey, Problem> {
    Ok(DocKey::parse(&decoded("doc_key", part)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_within_a_topic_is_escaped() {
        let route = Route::of("/v1/topics/a%2Fb/updates").unwrap();
        assert_eq!(route, Route::Updates { topic: "a%2Fb" });
        assert_eq!(topic("a%2Fb").unwrap().as_str(), "a/b");
    }

    #[test]
    fn a_decoded_path_is_read_from_its_end() {
        for (path, route) in [
            ("a/b", Route::Bounds { topic: "a/b" }),
            ("a/b/c/d/e/f/g/h", Route::Bounds { topic: "a/b/c/d/e/f/g/h" }),
            ("a/b/updates", Route::Updates { topic: "a/b" }),
            ("a/b/c/d/e/f/updates", Route::Updates { topic: "a/b/c/d/e/f" }),
            ("a/updates/updates", Route::Updates { topic: "a/updates" }),
            ("a/b/snapshot", Route::Snapshot { topic: "a/b" }),
            ("a/b/documents/k", Route::Document { topic: "a/b", doc_key: "k" }),
            ("a/b/documents/k/l", Route::Document { topic: "a/b", doc_key: "k/l" }),
            ("a/documents/b/documents/k", Route::Document { topic: "a/documents/b", doc_key: "k" }),
            ("documents/k/l", Route::Bounds { topic: "documents/k/l" }),
            // What is escaped wins: these are whole without the rule.
            ("a/updates", Route::Updates { topic: "a" }),
            ("a/documents/updates", Route::Document { topic: "a", doc_key: "updates" }),
            ("a%2Fdocuments%2Fk", Route::Bounds { topic: "a%2Fdocuments%2Fk" }),
        ] {
            assert_eq!(Route::of(&format!("/v1/topics/{path}")), Some(route), "{path}");
        }
        for path in ["a//b", "a/b/", "a/b//updates", "/a/b", "a/b/documents/"] {
            assert_eq!(Route::of(&format!("/v1/topics/{path}")), None, "{path}");
        }
    }

    #[test]
    fn each_pattern_is_that_of_a_route() {
        for pattern in Route::PATTERNS {
            let path = pattern.replace("{topic}", "t").replace("{doc_key}", "k");
            assert_eq!(Route::of(&path).map(Route::pattern), Some(pattern));
        }
    }

    #[test]
    fn what_is_no_route() {
        for path in ["", "/", "v1/topics", "/v1", "/v1/topics/t/updates/", "/healthz/", "/a/b/c/d/e/f/g", "*"]
        {
            assert!(Route::of(path).is_none(), "{path}");
        }
        assert_eq!(topic("%ff").unwrap_err().code(), "invalid_path");
        assert_eq!(topic("").unwrap_err().code(), "invalid_topic");
        assert_eq!(doc_key("%00").unwrap_err().code(), "invalid_doc_key");
    }
}
