//! Where the server is: scheme, host, port and path prefix, parsed once from the URL that a user gives.

use std::fmt;

use url::{Host, Url};

use crate::error::Error;

/// The address of a server. Prints without anything secret, because a URL with a secret in it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether to speak TLS.
    pub(crate) tls: bool,
    /// A name or an IP address; of an IPv6 address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What stands before every path: empty, or `/…` without a `/` at its end.
    pub(crate) prefix: String,
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
            fault(format!("{text:?} is not a URL ({cause}); a server's URL looks like http://127.0.0.1:4510"))
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
        if tls && !cfg!(feature = "tls") {
            return Err(fault(format!(
                "a URL of the scheme {:?} needs TLS, and this program was built without it \
                 (khala-client's feature `tls`)",
                url.scheme()
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("a server's URL holds no user and password; give a token instead".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(fault(
                "a server's URL ends with its path; it has no query and no fragment".to_owned(),
            ));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(fault(format!("{text:?} names no host"))),
        };
        let port = url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 });
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, prefix })
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_once() {
        for (text, shown) in [
            ("http://127.0.0.1:4510", "http://127.0.0.1:4510"),
            ("ws://localhost/", "http://localhost:80"),
            ("http://[::1]:9/sub/path/", "http://[::1]:9/sub/path"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_fault() {
        for (text, named) in [
            ("127.0.0.1:4510", "not a URL"),
            ("localhost:4510", "write http://localhost:4510"),
            ("ftp://host", "scheme \"ftp\""),
            ("http://user:word@host", "no user"),
            ("http://host/?token=x", "no query"),
            ("", "not a URL"),
        ] {
            let fault = Address::parse(text).unwrap_err().to_string();
            assert!(fault.contains(named), "{text}: {fault}");
        }
        if !cfg!(feature = "tls") {
            let fault = Address::parse("wss://host").unwrap_err().to_string();
            assert!(fault.contains("feature `tls`"), "{fault}");
        }
    }
}
