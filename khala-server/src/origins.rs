//! Which pages may talk to this server: the `Origin` that a browser sends, held against a list.
//!
//! A browser never sends a bearer token by itself, so the list is no lock: it keeps pages that an operator does not know from using
//! tokens that they came by. Where an application takes tokens from cookies, which browsers do send by themselves, it is a lock.
//!
//! # Invariants
//! An origin is compared as a whole (RFC 6454, section 4), never by how its text starts or ends.

use std::{fmt, net::Ipv6Addr, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority};
use khala_core::auth::Denied;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Longer texts are no origin: a scheme, a host of at most 253 bytes and a port.
const MAX_BYTES: usize = 320;
/// What a page may send along.
const ALLOWED_HEADERS: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-khala-client-build"),
    HeaderName::from_static("x-khala-protocol-version"),
    HeaderName::from_static("x-khala-schema-version"),
    HeaderName::from_static("x-phoenix-authtoken"),
    HeaderName::from_static("x-request-id"),
];
/// What a page may read of an answer, beside what it always may.
const EXPOSED_HEADERS: [HeaderName; 2] = [header::RETRY_AFTER, HeaderName::from_static("x-request-id")];
/// For how long a browser need not ask again; none remembers it for longer than two hours or a day.
const MAX_AGE: Duration = Duration::from_secs(7_200);

/// The origins whose pages may talk to a server.
///
/// ```
/// # use khala_server::Origins;
/// let origins = Origins::parse(["https://app.example.com", "https://*.example.org", "http://localhost:5173"])?;
/// assert_eq!(origins.to_string(), "https://app.example.com https://*.example.org http://localhost:5173");
/// # Ok::<_, khala_server::OriginError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(Policy);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Policy {
    Any,
    /// The origin that the page was served from has the host that it now asks.
    Same,
    Listed(Arc<[Listed]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    /// What browsers send for pages that have no origin, as of a file or a sandboxed frame.
    Null,
    One(Tuple),
    /// Every host below the one that is named, at any depth, and not that host itself.
    Below(Tuple),
}

/// Scheme, host and port, in lower case, without a port that the scheme implies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tuple {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// An entry of a list of origins that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the origin {entry:?} {fault}")]
pub struct OriginError {
    entry: String,
    fault: &'static str,
}

impl Origins {
    /// Pages of every origin. A browser sends no bearer token by itself, so a page that has none gets nothing. A server that
    /// takes tokens from [cookies](crate::ServerBuilder::with_token_source) takes [`same`](Self::same) in its place.
    pub const fn any() -> Self {
        Self(Policy::Any)
    }

    /// Pages that came from the server's own host and port, as the request's `Host` or `:authority` names them. A proxy before
    /// the server has to pass that on.
    ///
    /// The scheme is the page's word, since a proxy may speak TLS: where http must not be trusted, [list](Self::parse) the
    /// https origin.
    pub const fn same() -> Self {
        Self(Policy::Same)
    }

    /// A list of `scheme://host[:port]`, with `*.` before the host for every host below it, or `null`.
    ///
    /// Hosts are compared without regard to case, and a port that the scheme implies may be written or not. `null`
    /// is accepted only where it is listed. An empty list accepts no page at all.
    ///
    /// # Errors
    /// An [`OriginError`] that names the first entry that is something else, and what is wrong with it.
    pub fn parse(entries: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, OriginError> {
        let listed = entries.into_iter().map(|entry| {
            let entry = entry.as_ref();
            Listed::parse(entry).map_err(|fault| OriginError { entry: entry.to_owned(), fault })
        });
        Ok(Self(Policy::Listed(listed.collect::<Result<_, _>>()?)))
    }

    /// Refuses the request of a page of another origin. What sends no origin is no page.
    pub(crate) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Denied> {
        let mut sent = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = sent.next() else { return Ok(()) };
        // A browser sends one.
        let known = sent.next().is_none() && self.knows(origin, headers, uri);
        if known { Ok(()) } else { Err(Denied::OriginNotAllowed) }
    }

    /// Lets pages of these origins send and read what the routes that `allow` those methods take and answer. With
    /// `credentials`, browsers send the cookies that they have for the server too.
    pub(crate) fn cors(&self, allow: &str, credentials: bool) -> CorsLayer {
        let methods: Vec<Method> = allow.split(", ").filter_map(|method| method.parse().ok()).collect();
        let layer = CorsLayer::new()
            .allow_methods(methods)
            .allow_headers(ALLOWED_HEADERS)
            .expose_headers(EXPOSED_HEADERS)
            .max_age(MAX_AGE);
        if !self.vary(credentials) {
            return layer.allow_origin(AllowOrigin::any()).vary([]);
        }
        let origins = self.clone();
        let known = move |origin: &HeaderValue, head: &http::request::Parts| {
            origins.knows(origin, &head.headers, &head.uri)
        };
        layer
            .allow_origin(AllowOrigin::predicate(known))
            .allow_credentials(credentials)
            .vary([header::ORIGIN])
    }

    pub(crate) fn is_any(&self) -> bool {
        self.0 == Policy::Any
    }

    /// Whether the answer depends on the origin of a page.
    pub(crate) fn vary(&self, credentials: bool) -> bool {
        self.0 != Policy::Any || credentials
    }

    fn knows(&self, origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
        match &self.0 {
            Policy::Any => true,
            Policy::Same => is_same(origin, headers, uri),
            Policy::Listed(listed) => origin.to_str().is_ok_and(|text| accepts(listed, text)),
        }
    }
}

fn is_same(origin: &HeaderValue, headers: &HeaderMap, uri: &Uri) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Tuple>().ok());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(Authority::as_str));
    let Some((origin, host)) = origin.zip(host) else { return false };
    // Behind a proxy that speaks TLS, only the page knows the scheme.
    format!("{}://{host}", origin.scheme).parse::<Tuple>().is_ok_and(|host| host == origin)
}

fn accepts(listed: &[Listed], origin: &str) -> bool {
    if origin == "null" {
        return listed.contains(&Listed::Null);
    }
    let Ok(origin) = origin.parse::<Tuple>() else { return false };
    listed.iter().any(|listed| match listed {
        Listed::Null => false,
        Listed::One(one) => *one == origin,
        Listed::Below(above) => origin.is_below(above),
    })
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = match &self.0 {
            Policy::Any => return f.write_str("any"),
            Policy::Same => return f.write_str("same"),
            Policy::Listed(listed) => listed,
        };
        for (n, listed) in listed.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { " " })?;
            let (wildcard, Tuple { scheme, host, port }) = match listed {
                Listed::Null => {
                    f.write_str("null")?;
                    continue;
                }
                Listed::One(one) => ("", one),
                Listed::Below(above) => ("*.", above),
            };
            write!(f, "{scheme}://{wildcard}{host}")?;
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        Ok(())
    }
}

impl Listed {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        if entry == "null" {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = entry.split_once("://") else {
            return Err("is not written scheme://host, with :port where that is not the scheme's own");
        };
        if scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss") {
            return Err("names the socket and not the page, whose scheme is http or https");
        }
        let Some(below) = rest.strip_prefix("*.") else {
            return entry.parse().map(Self::One);
        };
        let above: Tuple = format!("{scheme}://{below}").parse()?;
        if above.host.starts_with('[') || above.host.split('.').all(|label| label.parse::<u8>().is_ok()) {
            return Err("has a wildcard before an address, which has nothing below it");
        }
        if !above.host.contains('.') && above.host != "localhost" {
            return Err("has a wildcard that would take in everybody: name two labels after it");
        }
        Ok(Self::Below(above))
    }
}

impl Tuple {
    fn is_below(&self, above: &Self) -> bool {
        let name = self.host.strip_suffix(&*above.host).and_then(|name| name.strip_suffix('.'));
        name.is_some_and(|name| !name.is_empty()) && self.scheme == above.scheme && self.port == above.port
    }
}

impl FromStr for Tuple {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_BYTES {
            return Err("is too long for one");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("is not written scheme://host, with :port where that is not the scheme's own");
        };
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err("has a scheme that is not valid");
        }
        if rest.contains(['/', '?', '#']) {
            return Err("goes on after its host: an origin has no path, not even a slash");
        }
        let after_host = rest.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match rest[after_host..].split_once(':') {
            Some((more, port)) => (&rest[..after_host + more.len()], Some(port)),
            None => (rest, None),
        };
        let scheme = scheme.to_ascii_lowercase();
        let port = match port {
            None => None,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Some(port.parse().map_err(|_| "has a port that is no number from 0 to 65535")?)
            }
            Some(_) => return Err("has a port that is no number from 0 to 65535"),
        };
        let implied = match &*scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Ok(Self { host: parse_host(host)?, port: port.filter(|port| Some(*port) != implied), scheme })
    }
}

fn parse_host(host: &str) -> Result<String, &'static str> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| "has an IPv6 address that is not valid")?;
        return Ok(format!("[{address}]"));
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.contains('*') {
        return Err("has a wildcard elsewhere than as the whole first label");
    }
    if !host.is_ascii() {
        return Err("has a host that is not in ASCII: write it as browsers send it, in Punycode");
    }
    if host.split('.').all(label) {
        Ok(host.to_ascii_lowercase())
    } else {
        Err("has a host that is not valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(entries: &[&str]) -> Arc<[Listed]> {
        match Origins::parse(entries).unwrap().0 {
            Policy::Listed(listed) => listed,
            policy => panic!("{policy:?}"),
        }
    }

    #[test]
    fn a_page_of_the_same_host_is_of_the_same_origin() {
        let same = |origin: &'static str, host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            Origins::same().check(&headers, &Uri::default()).is_ok()
        };
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://a.example", "A.example:443"),
            ("http://localhost:4511", "localhost:4511"),
            ("http://[::1]:80", "[::1]"),
        ] {
            assert!(same(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://b.example", "a.example"),
            ("http://a.example:81", "a.example"),
            ("http://a.example.evil", "a.example"),
            ("null", "a.example"),
            ("http://a.example", "a.example/x"),
        ] {
            assert!(!same(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn what_is_listed_is_accepted_and_nothing_else() {
        let origins = listed(&[
            "https://app.example.com",
            "HTTPS://*.Example.org",
            "http://localhost:5173",
            "http://[0:0::1]:80",
            "capacitor://localhost",
        ]);
        for good in [
            "https://app.example.com",
            "https://APP.example.com",
            "https://app.example.com:443",
            "https://a.example.org",
            "https://a.b.example.org",
            "http://localhost:5173",
            "http://[::1]",
            "capacitor://localhost",
        ] {
            assert!(accepts(&origins, good), "{good}");
        }
        for bad in [
            "",
            "null",
            "*",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com/",
            "https://app.example.com.evil.com",
            "https://evil.com#https://app.example.com",
            "https://evilexample.org",
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://user@app.example.com",
            "https://a.example.org:444",
            "http://a.example.org",
            "http://localhost",
            "http://localhost:+5173",
            "http://localhost:",
            "http://[::1",
            "http://[::1]x",
            "http://[::1]x:80",
            "https://app.example.com https://app.example.com",
        ] {
            assert!(!accepts(&origins, bad), "{bad}");
        }
        assert!(!accepts(&origins, &format!("https://{}.example.org", "a".repeat(10_000))));
        assert!(accepts(&listed(&["null"]), "null"));
        assert!(!accepts(&listed(&["null"]), "NULL"));
        assert!(!accepts(&listed(&[]), "https://app.example.com"));
    }

    #[test]
    fn an_entry_that_is_no_origin_is_refused_with_its_fault() {
        for (entry, fault) in [
            ("*", "is not written"),
            ("example.com", "is not written"),
            ("https:example.com", "is not written"),
            ("NULL", "is not written"),
            ("wss://example.com", "names the socket"),
            ("https://example.com/", "goes on after its host"),
            ("https://example.com?x", "goes on after its host"),
            ("https://*", "wildcard elsewhere"),
            ("https://*.*.com", "wildcard elsewhere"),
            ("https://a.*.com", "wildcard elsewhere"),
            ("https://a*.example.com", "wildcard elsewhere"),
            ("https://*.com", "would take in everybody"),
            ("https://*.10.0.0.1", "before an address"),
            ("https://*.[::1]", "before an address"),
            ("https://bücher.example", "Punycode"),
            ("https://", "has a host"),
            ("https://a b", "has a host"),
            ("https://user@example.com", "has a host"),
            ("https://[::g]", "IPv6"),
            ("https://example.com:", "has a port"),
            ("https://example.com:65536", "has a port"),
            ("1https://example.com", "has a scheme"),
            ("://example.com", "has a scheme"),
        ] {
            let error = Origins::parse(["https://good.example", entry]).unwrap_err().to_string();
            assert!(error.contains(entry) && error.contains(fault), "{entry}: {error}");
        }
        assert!(Origins::parse([format!("https://{}", "a".repeat(400))]).is_err());
    }

    #[test]
    fn it_prints_what_parses_to_the_same() {
        let origins =
            Origins::parse(["null", "https://*.A.b:444", "http://h:80", "http://[::1]:8080"]).unwrap();
        assert_eq!(origins.to_string(), "null https://*.a.b:444 http://h http://[::1]:8080");
        assert_eq!(Origins::parse(origins.to_string().split(' ')).unwrap(), origins);
    }

    #[test]
    fn two_origins_are_none() {
        let origins = Origins::parse(["https://a.example"]).unwrap();
        let mut headers = HeaderMap::new();
        assert!(origins.check(&headers, &Uri::default()).is_ok());
        headers.append(header::ORIGIN, HeaderValue::from_static("https://a.example"));
        assert!(origins.check(&headers, &Uri::default()).is_ok());
        headers.append(header::ORIGIN, HeaderValue::from_static("https://a.example"));
        assert!(origins.check(&headers, &Uri::default()).is_err());
        headers.insert(header::ORIGIN, HeaderValue::from_bytes(b"https://\xff").unwrap());
        assert!(origins.check(&headers, &Uri::default()).is_err());
    }
}
