//! From an address to a byte stream, with or without TLS. Both HTTP and WebSocket go over what this opens.

use std::{fmt, io, time::Duration};

use khala_core::clock::{SystemClock, within};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{address::Address, error::Error};

/// A byte stream to the server.
pub(crate) trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// Opens streams to one address.
pub(crate) struct Dialer {
    pub(crate) address: Address,
    within: Duration,
    #[cfg(feature = "tls")]
    tls: Option<tls::Connector>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dialer {
    pub(crate) fn new(address: Address, within: Duration) -> Result<Self, Error> {
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: if address.tls { Some(tls::Connector::new(&address)?) } else { None },
            address,
            within,
        })
    }

    /// Opens a stream, TLS handshake included.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Link>, Error> {
        match within(&SystemClock::new(), self.within, self.open()).await {
            Some(opened) => opened.map_err(|cause| self.unreachable(cause)),
            None => Err(self.unreachable(format!("no connection within {:?}", self.within))),
        }
    }

    pub(crate) fn unreachable(&self, cause: impl fmt::Display) -> Error {
        Error::Unreachable { url: self.address.to_string(), reason: cause.to_string() }
    }

    async fn open(&self) -> io::Result<Box<dyn Link>> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.secure(stream).await?));
        }
        Ok(Box::new(stream))
    }
}

#[cfg(feature = "tls")]
mod tls {
    //! rustls with ring: no cmake, no system library. Trusted is what the system trusts, so that an operator's own
    //! authority works without a setting (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).

    use std::{io, sync::Arc};

    use tokio::net::TcpStream;
    use tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
    };

    use crate::{address::Address, error::Error};

    pub(super) struct Connector {
        connector: TlsConnector,
        name: ServerName<'static>,
    }

    impl Connector {
        pub(super) fn new(address: &Address) -> Result<Self, Error> {
            let fault = |what: String| Error::Settings(what);
            let name = ServerName::try_from(address.host.clone()).map_err(|_| {
                fault(format!("{:?} is not a name that a certificate can have", address.host))
            })?;
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(fault(
                    "no certificate authorities were found on this system; install them \
                     (often the package ca-certificates), or name a file with SSL_CERT_FILE"
                        .to_owned(),
                ));
            }
            let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|cause| fault(format!("TLS is not to be had: {cause}")))?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
        }

        pub(super) async fn secure(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
            self.connector.connect(self.name.clone(), stream).await
        }
    }
}
