//! Where the server is: scheme, host, port and path prefix, parsed once from the URL that a user gives.

use std::fmt;

use url::{Host, Position, Url};

use crate::error::Error;

/// The address of a server. Prints without anything secret, because a URL with a secret in it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether to speak TLS.
    pub(crate) tls: bool,
    /// Whether it names this machine.
    pub(crate) is_loopback: bool,
    /// `http` or `https`, host, port, and what stands before every path: without a `/` at its end.
    base: String,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fault = |what: String| Error::Settings(what);
        // Of `localhost:4510` a parser of URLs takes the name for a scheme.
        if !text.contains("://") {
            let written = if text.contains('@') { "127.0.0.1:4510" } else { text };
            return Err(fault(format!(
                "{written:?} is not a URL, because it has no scheme; write http://{written} or https://{written}"
            )));
        }
        let url = Url::parse(text).map_err(|cause| {
            // It may hold a password.
            let shown = if text.contains('@') { "this" } else { text };
            fault(format!(
                "{shown:?} is not a URL ({cause}); a server's URL looks like http://127.0.0.1:4510"
            ))
        })?;
        let tls = match url.scheme() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            other => {
                return Err(fault(format!(
                    "a URL of the scheme {other:?} is not supported; use http, https, ws or wss"
                )));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("a server's URL holds no user and password; give a token instead".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(fault(
                "a server's URL ends with its path; it has no query and no fragment".to_owned(),
            ));
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(fault(format!("{text:?} names no host"))),
        };
        let scheme = if tls { "https" } else { "http" };
        let rest = url[Position::AfterScheme..Position::AfterPath].trim_end_matches('/');
        // A port that `ws` leaves out, `http` leaves out too.
        Ok(Self { tls, is_loopback, base: format!("{scheme}{rest}") })
    }

    /// The route that a link in an answer leads to. A link is an absolute path, so it begins with the path of the server's URL; but
    /// for a server that was not told that path.
    pub(crate) fn route<'a>(&self, link: &'a str) -> &'a str {
        let host = self.base.find("://").map_or(0, |scheme| scheme + 3);
        let path = self.base[host..].find('/').map_or("", |path| &self.base[host + path..]);
        link.strip_prefix(path).filter(|route| route.starts_with('/')).unwrap_or(link)
    }

    /// The URL of a route. `path` is percent-encoded, and may have a query.
    ///
    /// A URL takes `.` and `..`, percent-encoded too, for steps between folders, which would lead to another route.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let text = format!("{}{path}", self.base);
        let unchanged =
            |url: &Url| path.starts_with('/') && text.split('?').next() == Some(&url[..Position::AfterPath]);
        Url::parse(&text).ok().filter(unchanged).ok_or_else(|| {
            Error::Settings(format!(
                "{path:?} cannot be asked for: it begins with a `/`, is percent-encoded, and in a URL the parts `.` and `..` \
                 lead elsewhere"
            ))
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_once() {
        for (text, shown, is_loopback) in [
            ("http://127.0.0.1:4510", "http://127.0.0.1:4510", true),
            ("http://127.9.0.1", "http://127.9.0.1", true),
            ("HTTP://LOCALHOST:4510", "http://localhost:4510", true),
            ("ws://localhost/", "http://localhost", true),
            ("http://a.localhost", "http://a.localhost", true),
            ("http://[::1]:9/sub/path/", "http://[::1]:9/sub/path", true),
            ("wss://khala.example", "https://khala.example", false),
            ("https://khala.example:8443/sync", "https://khala.example:8443/sync", false),
            ("http://localhost.example", "http://localhost.example", false),
            ("http://10.0.0.7:4510", "http://10.0.0.7:4510", false),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((&*address.to_string(), address.is_loopback), (shown, is_loopback));
            assert_eq!(address.tls, shown.starts_with("https"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_fault() {
        for (text, named) in [
            ("127.0.0.1:4510", "write http://127.0.0.1:4510 or https://127.0.0.1:4510"),
            ("localhost:4510", "write http://localhost:4510"),
            ("localhost", "write http://localhost or https://localhost"),
            ("example.com/sync", "write http://example.com/sync"),
            ("[::1]:4510", "write http://[::1]:4510"),
            ("user:hunter2@host", "no scheme"),
            ("ftp://host", "scheme \"ftp\""),
            ("http://user:hunter2@host", "no user"),
            ("http://user:hunter2@", "not a URL"),
            ("http://host/?token=x", "no query"),
            ("http://host/#x", "no fragment"),
            ("http://host:port", "not a URL"),
            ("http://", "not a URL"),
            ("", "not a URL"),
        ] {
            let fault = Address::parse(text).unwrap_err().to_string();
            assert!(fault.contains(named) && !fault.contains("hunter2"), "{text}: {fault}");
        }
    }

    #[test]
    fn a_link_leads_to_a_route_under_the_servers_path() {
        for (url, link, route) in [
            ("http://h", "/v1/topics?a=b", "/v1/topics?a=b"),
            ("http://h:1/sub/path/", "/sub/path/v1/topics?a=/sub/path", "/v1/topics?a=/sub/path"),
            ("http://h/sub", "/v1/topics", "/v1/topics"),
            ("http://h/v", "/v1/topics", "/v1/topics"),
        ] {
            assert_eq!(Address::parse(url).unwrap().route(link), route, "{url}");
        }
    }

    #[test]
    fn a_path_leads_to_its_own_route_or_nowhere() {
        let address = Address::parse("http://localhost:4510/sub").unwrap();
        for path in [
            "/v1/topics/a%2Fb/updates?after=1&epoch=x",
            "/v1/topics/%2E%2Ea",
            "/v1/topics/a'b?c=d'e",
            "/v1/topics?prefix=%2E%2E",
        ] {
            assert_eq!(address.url(path).unwrap().path(), format!("/sub{path}").split('?').next().unwrap());
        }
        for path in [
            "/v1/topics/%2E%2E/updates",
            "/v1/topics/../updates",
            "/v1/topics/%2E",
            "/v1/a b",
            ":1/v1",
            "@host/v1",
            "",
        ] {
            assert!(address.url(path).is_err(), "{path}");
        }
    }
}
