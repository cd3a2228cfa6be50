//! Fetches a key set over HTTP: one GET of a fixed address, in bounded time, of bounded size, without redirects.
//!
//! # Invariants
//! - Keys come over TLS, or from this machine. Anybody who could change them on their way could sign any token.

use std::{
    error::Error as StdError,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use http::{StatusCode, header};
use khala_core::{
    clock::{SystemClock, within},
    text::with_causes,
};
use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::{Host, Url};

use super::remote::FetchKeySet;

/// Why an address of keys cannot be used. Its `Display` shows neither a user name nor a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JwksAddressError(String);

/// How long a fetch may take in all.
const WITHIN: Duration = Duration::from_secs(5);

/// The address of a JWK Set, for [`RemoteKeys`](super::RemoteKeys): `https`, by the proxy that the environment names, or `http` on this
/// machine.
///
/// TLS is rustls with ring, and the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). An application
/// that uses reqwest 0.13 itself turns on a feature that chooses its own TLS, because this one turns on `rustls-no-provider`.
pub struct JwksAddress {
    url: Url,
    client: Client,
}

impl fmt::Debug for JwksAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl JwksAddress {
    /// Checks `text` and takes it.
    ///
    /// # Errors
    /// A [`JwksAddressError`] for an address that is wrong, and where there is no TLS.
    pub fn parse(text: &str) -> Result<Self, JwksAddressError> {
        // It may hold a password, and is not repeated.
        let fault = |fault: &str| JwksAddressError(format!("no address for keys: {fault}"));
        let url = Url::parse(text).map_err(|error| fault(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("it holds a user name or a password"));
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => return Err(fault("it has no host")),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            "http" => return Err(fault("http is for loopback addresses; others need https")),
            _ => return Err(fault("it begins with https://")),
        }
        let client = client(url.scheme() == "https").map_err(|error| fault(&error))?;
        Ok(Self { url, client })
    }

    async fn get(&self, max_bytes: usize) -> Result<Vec<u8>, String> {
        let request = self.client.get(self.url.clone());
        let request = request.header(header::ACCEPT, "application/jwk-set+json, application/json");
        let mut answer = request.send().await.map_err(|error| match error.is_connect() {
            true => format!("it cannot be reached: {}", reason(&error)),
            false => broken(&error),
        })?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}, not 200", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + piece.len() > max_bytes {
                return Err(format!("it is larger than {max_bytes} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

#[async_trait]
impl FetchKeySet for JwksAddress {
    fn name(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    async fn fetch(&self, max_bytes: usize) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        let fetched = within(&SystemClock::new(), WITHIN, self.get(max_bytes)).await;
        let late = || Err(format!("no whole answer within {} s", WITHIN.as_secs()));
        fetched.unwrap_or_else(late).map_err(Into::into)
    }
}

fn client(secured: bool) -> Result<Client, String> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("TLS is not to be had: {fault}"))?;
    let mut tls = match secured {
        true => tls.with_platform_verifier().map_err(|fault| {
            format!(
                "the certificate authorities of this system cannot be used ({fault}); install them (often the package \
                 ca-certificates), or name a file with SSL_CERT_FILE"
            )
        })?,
        false => tls.with_root_certificates(RootCertStore::empty()),
    }
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .user_agent(concat!("khala/", env!("CARGO_PKG_VERSION")));
    let client = match secured {
        true => client,
        // Whatever a resolver or a proxy says, it stays on this machine.
        false => client.no_proxy().resolve_to_addrs(
            "localhost",
            &[(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()],
        ),
    };
    client.build().map_err(|fault| reason(&fault))
}

fn broken(error: &reqwest::Error) -> String {
    format!("the connection broke: {}", reason(error))
}

/// What went wrong, in one line.
fn reason(error: &reqwest::Error) -> String {
    // The outer two only repeat the URL, and say that it was an error of the client's.
    let cause = error.source().map(|outer| outer.source().unwrap_or(outer));
    cause.map_or_else(|| error.to_string(), with_causes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in ["http://127.0.0.1:1/keys?a=b", "http://[::1]/keys", "http://localhost:8080/keys"] {
            assert!(JwksAddress::parse(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("http://idp.example/keys", "others need https"),
            ("http://192.0.2.1/keys", "others need https"),
            ("http://localhost.example/keys", "others need https"),
            ("http://127.0.0.1.example/keys", "others need https"),
            ("ftp://127.0.0.1/keys", "begins with https://"),
            ("file:///etc/keys", "it has no host"),
            ("keys.json", "no address for keys: "),
            ("http://127.0.0.1:99999/", "no address for keys: "),
            ("http://ada:secret@127.0.0.1/keys", "it holds a user name or a password"),
        ] {
            let error = JwksAddress::parse(bad).unwrap_err().to_string();
            assert!(error.contains(fault) && !error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_name_shows_no_query() {
        let address = JwksAddress::parse("http://127.0.0.1:8/keys?code=secret").unwrap();
        assert_eq!(format!("{address:?}"), "http://127.0.0.1:8/keys");
    }
}
