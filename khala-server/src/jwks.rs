//! Fetches a key set over HTTP: one GET of a fixed address, in bounded time, of bounded size, without redirects.
//!
//! # Invariants
//! - Keys come over TLS, or from this machine. Anybody who could change them on their way could sign any token.

use std::{error::Error as StdError, fmt, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use khala_auth::sources::FetchKeySet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use url::{Host, Url};

use crate::patience::timeout;

/// Why an address of keys cannot be used. Its `Display` shows neither a user name nor a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JwksAddressError(String);

/// How long a fetch may take in all.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes of the head of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// The address of a JWK Set, for [`RemoteKeys`](khala_auth::sources::RemoteKeys): `https`, or `http` on this machine.
pub struct JwksAddress {
    url: Url,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for JwksAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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
        let Some(host) = url.host() else { return Err(fault("it has no host")) };
        let (loopback, name) = match &host {
            Host::Domain(name) => (*name == "localhost", ServerName::try_from((*name).to_owned()).ok()),
            Host::Ipv4(ip) => (ip.is_loopback(), Some(IpAddr::V4(*ip).into())),
            Host::Ipv6(ip) => (ip.is_loopback(), Some(IpAddr::V6(*ip).into())),
        };
        let host = match host {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let tls = match url.scheme() {
            "https" => {
                let name = name.ok_or_else(|| fault("its host cannot stand in a certificate"))?;
                Some((connector().map_err(|error| fault(&error))?, name))
            }
            "http" if loopback => None,
            "http" => return Err(fault("http is for loopback addresses; others need https")),
            _ => return Err(fault("it begins with https://")),
        };
        let port = url.port_or_known_default().expect("http and https have a port");
        Ok(Self { url, host, port, tls })
    }

    async fn get(&self, max_bytes: usize) -> Result<Vec<u8>, String> {
        let stream = self.connect().await.map_err(|fault| format!("it cannot be reached: {fault}"))?;
        let broken = |fault: hyper::Error| format!("the connection broke: {}", chain(&fault));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends with this future.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let mut request = Request::get(&self.url[url::Position::BeforePath..url::Position::AfterQuery])
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("khala-server/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|fault| fault.to_string())?;
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let host = HeaderValue::from_str(host).map_err(|fault| fault.to_string())?;
        request.headers_mut().insert(header::HOST, host);
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}, not 200", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), max_bytes).collect().await;
        let body = body.map_err(|fault| match fault.downcast::<hyper::Error>() {
            Ok(fault) => broken(*fault),
            Err(_) => format!("it is larger than {max_bytes} bytes"),
        })?;
        Ok(body.to_bytes().to_vec())
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some((connector, name)) = &self.tls else {
            // The resolver of `localhost` may say that it is elsewhere.
            if !stream.peer_addr()?.ip().is_loopback() {
                return Err(std::io::Error::other("it is not on this machine, and needs https"));
            }
            return Ok(Box::new(stream));
        };
        Ok(Box::new(connector.connect(name.clone(), stream).await?))
    }
}

#[async_trait]
impl FetchKeySet for JwksAddress {
    fn name(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }

    async fn fetch(&self, max_bytes: usize) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        let fetched = timeout(WITHIN, self.get(max_bytes)).await;
        let late = || Err(format!("no whole answer within {} s", WITHIN.as_secs()));
        fetched.unwrap_or_else(|_| late()).map_err(Into::into)
    }
}

/// rustls with ring: no cmake, no system library. Trusted is what the system trusts (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` are honoured).
fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("no certificate authorities were found on this system; install them (often the package \
                    ca-certificates), or name a file with SSL_CERT_FILE"
            .to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("TLS is not to be had: {fault}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn chain(fault: &dyn StdError) -> String {
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(fault) = cause {
        text = format!("{text}: {fault}");
        cause = fault.source();
    }
    text
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
