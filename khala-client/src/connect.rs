//! What requests are sent with: reqwest, which pools connections, tries the addresses of a name, and goes by the proxies
//! that the environment names.
//!
//! # Invariants
//! - TLS is rustls with ring, and the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured),
//!   whatever other users of reqwest and rustls in this process have chosen.
//! - A token goes to the server's own address: redirects are not followed, and what is on this machine is asked without a proxy.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use khala_core::text::with_causes;
use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{address::Address, error::Error};

/// Connections that wait for the next request.
const MAX_IDLE: usize = 8;

/// The clients of one server.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    /// HTTP/2 where the server agrees to it.
    pub(crate) requests: Client,
    /// HTTP/1.1 alone: such a connection can become a WebSocket.
    pub(crate) upgrades: Client,
}

impl Connector {
    pub(crate) fn new(address: &Address, connect_timeout: Duration) -> Result<Self, Error> {
        let tls = tls(address)?;
        let client = |protocols: &[&str]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut builder = Client::builder()
                .tls_backend_preconfigured(tls)
                .redirect(redirect::Policy::none())
                .connect_timeout(connect_timeout)
                .pool_max_idle_per_host(MAX_IDLE)
                .user_agent(concat!("khala-client/", env!("CARGO_PKG_VERSION")));
            if address.is_loopback {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|cause| Error::Settings(format!("no HTTP client: {}", reason(&cause))))
        };
        let requests = client(&["h2", "http/1.1"])?;
        // Without TLS nothing is negotiated.
        let upgrades = if address.tls { client(&["http/1.1"])? } else { requests.clone() };
        Ok(Self { requests, upgrades })
    }
}

fn tls(address: &Address) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| Error::Settings(format!("TLS is not to be had: {cause}")))?;
    // Certificates are not looked for where none is asked for.
    if !address.tls {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let builder = builder.with_platform_verifier().map_err(|cause| {
        Error::Settings(format!(
            "the certificate authorities of this system cannot be used ({cause}); install them (often the package \
             ca-certificates), or name a file with SSL_CERT_FILE"
        ))
    })?;
    Ok(builder.with_no_client_auth())
}

/// What went wrong, in one line.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    // The outer two only repeat the URL, and say that it was an error of the client's.
    let cause = error.source().map(|outer| outer.source().unwrap_or(outer));
    cause.map_or_else(|| error.to_string(), with_causes)
}
