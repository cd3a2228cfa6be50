//! What requests are sent with: reqwest, which pools connections, tries the addresses of a name, and goes by the proxies
//! that the environment names.
//!
//! # Invariants
//! - TLS is rustls with ring, and the certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured),
//!   whatever other users of reqwest and rustls in this process have chosen.
//! - A token goes to the server's own address, and over http to the proxy that the environment names for it: redirects are not
//!   followed, and what is on this machine is asked without a proxy.

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
        Self::with_tls(&tls(address)?, address, connect_timeout)
    }

    fn with_tls(tls: &ClientConfig, address: &Address, connect_timeout: Duration) -> Result<Self, Error> {
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

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use futures::{StreamExt as _, channel::mpsc};
    use http::{Request, Response, Version};
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::{
        body::{Frame, Incoming},
        server::conn::{http1, http2},
        service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use khala_core::Update;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::{net::TcpListener, time::timeout};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// What a server that speaks only that protocol presents itself with, and what trusts it.
    fn tls(protocol: &str) -> (TlsAcceptor, ClientConfig) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (TlsAcceptor::from(Arc::new(server)), client)
    }

    /// Answers each line of a stream as it comes.
    async fn answer(
        request: Request<Incoming>,
    ) -> Result<Response<StreamBody<mpsc::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>>>, Infallible>
    {
        let (answers, body) = mpsc::unbounded();
        tokio::spawn(async move {
            let (mut number, mut lines) = (0, request.into_body().into_data_stream());
            while let Some(Ok(piece)) = lines.next().await {
                for _ in piece.iter().filter(|byte| **byte == b'\n') {
                    number += 1;
                    let line = format!(
                        "{{\"line\":{number},\"epoch\":\"0000000000000001\",\"first\":{number},\"last\":{number},\
                         \"duplicate\":false}}\n"
                    );
                    let _ = answers.unbounded_send(Ok(Frame::data(Bytes::from(line))));
                }
            }
        });
        Ok(Response::new(StreamBody::new(body)))
    }

    #[tokio::test]
    async fn a_stream_is_answered_while_it_goes_on() {
        for (protocol, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
            let (acceptor, trusting) = tls(protocol);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let requests = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&requests);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                    let counted = Arc::clone(&counted);
                    let service = service_fn(move |request: Request<Incoming>| {
                        assert_eq!(request.version(), version);
                        counted.fetch_add(1, Ordering::SeqCst);
                        answer(request)
                    });
                    if version == Version::HTTP_2 {
                        let server = http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(server.serve_connection(stream, service));
                    } else {
                        tokio::spawn(http1::Builder::new().serve_connection(stream, service));
                    }
                }
            });
            let address = Address::parse(&format!("https://localhost:{port}")).unwrap();
            let connector = Connector::with_tls(&trusting, &address, LONG).unwrap();
            let client = crate::Client::builder("http://localhost").build_with(address, connector);
            let producer = client.topic("t").unwrap().producer();
            for number in 1..=500_u64 {
                let update = Update::json("k", &"x".repeat(1_000)).unwrap();
                let ticket = timeout(LONG, producer.submit(update)).await.unwrap().unwrap();
                // Now and then one is waited for, with the request still open.
                if number % 100 == 0 {
                    let receipt = timeout(LONG, ticket).await.unwrap().unwrap();
                    assert_eq!(receipt.first.as_u64(), number);
                }
            }
            timeout(LONG, producer.flush()).await.unwrap().unwrap();
            assert_eq!(requests.load(Ordering::SeqCst), 1, "{protocol}");
        }
    }
}
