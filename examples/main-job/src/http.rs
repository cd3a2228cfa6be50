//! One HTTP request, on a connection of its own.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header, request};
use reqwest::Client;
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::failure::{During as _, Failure};

/// Over that, a request counts as failed. The server may have been killed with it in hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    // Only this machine is asked, without TLS, but reqwest has to know which TLS that would be.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the usual versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().pool_max_idle_per_host(0);
    client.timeout(ANSWER_WITHIN).build().expect("these options make a client")
});

/// Asks for that path with that token.
///
/// # Errors
/// No whole answer came, or not in time.
pub async fn get(address: SocketAddr, path: &str, token: &str) -> Result<(StatusCode, Bytes), Failure> {
    send(address, token, Request::get(path), Bytes::new()).await
}

/// Sends a request of that method, path and headers, with that token and body.
///
/// # Errors
/// No whole answer came, or not in time.
pub async fn send(
    address: SocketAddr,
    token: &str,
    head: request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Failure> {
    let head = head.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let mut request = head.body(body).during("making a request")?;
    *request.uri_mut() = format!("http://{address}{}", request.uri()).parse().during("making a request")?;
    let request = request.try_into().during("making a request")?;
    let response = CLIENT.execute(request).await.during("asking")?;
    Ok((response.status(), response.bytes().await.during("reading the answer")?))
}
