//! Requests to the server's internal routes, with the admin token, once each.
//!
//! The client library is for applications and never sends an admin token; what is asked here is asked by a person, who sees what
//! happened and tries again.
//!
//! # Invariants
//! The token comes from the environment or a file, and is in no output.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use url::{Host, Url};

use crate::{exit::Failure, file};

/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The most that an answer may hold: far more than a page of revocations, and bounded.
const MAX_ANSWER: usize = 16 << 20;

/// Where the server is, and the token for its internal routes.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// The server's address
    #[arg(long, env = "KHALA_URL", default_value = "http://127.0.0.1:4510")]
    url: String,
    /// A file that holds the server's auth.admin_token; without it, the environment's KHALA_ADMIN_TOKEN is used
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// What the server's refusals say.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
}

trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

impl Admin {
    /// Asks once. `path` is what follows `/internal/v1/khala/`.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        self.call_within(ANSWER_WITHIN, method, path, body).await
    }

    /// The same for what takes its time.
    pub(crate) async fn call_within(
        &self,
        most: Duration,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let token = self.token()?;
        let url = self.address()?;
        let prefix = url.path().trim_end_matches('/');
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}/internal/v1/khala/{path}"))
            .header(header::HOST, url.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, token);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|cause| Failure::usage(format!("that makes no HTTP request: {cause}")))?;
        let (status, body) = match timeout(most, exchange(&url, request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(unreachable(&url, format_args!("no answer within {most:?}"))),
        };
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    fn token(&self) -> Result<HeaderValue, Failure> {
        let text = match &self.admin_token_file {
            Some(path) => file::read_text(path).map_err(|cause| {
                Failure::usage(format!("the admin token file {} cannot be read: {cause}", path.display()))
            })?,
            None => std::env::var("KHALA_ADMIN_TOKEN").map_err(|_| {
                Failure::usage(
                    "there is no admin token: give --admin-token-file or KHALA_ADMIN_TOKEN; it is the server's \
                     auth.admin_token",
                )
            })?,
        };
        let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| Failure::usage("the admin token holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn address(&self) -> Result<Url, Failure> {
        let text = &self.url;
        // Of `localhost:4510` a parser of URLs takes the name for a scheme.
        if !text.contains("://") && !text.contains('@') {
            return Err(Failure::usage(format!(
                "{text:?} is not a URL, because it has no scheme; write http://{text} or https://{text}"
            )));
        }
        let url = Url::parse(text).map_err(|cause| {
            Failure::usage(format!(
                "{text:?} is not a URL ({cause}); a server's URL looks like http://127.0.0.1:4510"
            ))
        })?;
        let good = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if good { Ok(url) } else { Err(Failure::usage(format!("{text:?} is not the address of a server"))) }
    }
}

async fn exchange(url: &Url, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
    let link = dial(url).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(link)).await.map_err(|cause| unreachable(url, cause))?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|cause| unreachable(url, cause))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|cause| unreachable(url, cause))?.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

async fn dial(url: &Url) -> Result<Box<dyn Link>, Failure> {
    let port = url.port_or_known_default().unwrap_or(80);
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => return Err(Failure::usage(format!("{url} names no host"))),
    };
    let connected = TcpStream::connect((host.as_str(), port)).await;
    let stream = connected.map_err(|cause| unreachable(url, cause))?;
    if url.scheme() == "http" {
        return Ok(Box::new(stream));
    }
    #[cfg(feature = "tls")]
    return Ok(Box::new(secure(url, host, stream).await?));
    #[cfg(not(feature = "tls"))]
    Err(Failure::usage("https needs TLS, and this program was built without it (its feature `tls`)"))
}

/// TLS as the client library does it: what the system trusts.
#[cfg(feature = "tls")]
async fn secure(
    url: &Url,
    host: String,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    use std::sync::Arc;

    use tokio_rustls::{
        TlsConnector,
        rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
    };

    let name = ServerName::try_from(host)
        .map_err(|_| Failure::usage(format!("{url} has a host that no certificate can have")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| Failure::usage(format!("TLS is not to be had: {cause}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|cause| unreachable(url, cause))
}

/// What an answer says.
pub(crate) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|fault| {
        Failure::protocol(format!(
            "the answer is not what a Khala server says: {fault}; is this the URL of one?"
        ))
    })
}

fn unreachable(url: &Url, cause: impl fmt::Display) -> Failure {
    Failure::unreachable(format!(
        "{url} cannot be reached: {cause}; is the server running, and is its address right (--url, KHALA_URL)?"
    ))
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let Problem { code, detail } = serde_json::from_slice(body).unwrap_or_default();
    let code = code.unwrap_or_else(|| format!("http_{}", status.as_u16()));
    let said = detail.map_or_else(|| code.clone(), |detail| format!("{detail} ({code})"));
    let said = format!("the server refused: {said}");
    match (status.as_u16(), code.as_str()) {
        (401 | 403, _) => Failure::token(format!(
            "{said}; --admin-token-file or KHALA_ADMIN_TOKEN is to hold its auth.admin_token"
        )),
        (404, "admin_off") => Failure::refused(format!("{said}; set auth.admin_token there")),
        (404, _) => Failure::refused(format!("{said}; is this the URL of a Khala server?")),
        (_, "sweep_busy") => Failure::unreachable(said),
        (_, "sweep_held_back") => Failure::refused(format!("{said} (--force)")),
        (408 | 425 | 429 | 502..=504, _) => Failure::unreachable(said),
        _ => Failure::refused(said),
    }
}
