//! Servers over TLS, behind a proxy, and with another address to go to.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{Fake, end, fake::Fault, khala, khala_at};

const NAME: &str = "khala.test";
const TOPICS: &str =
    r#"{"topics":[{"topic":"a","epoch":"0000000000000001","floor":0,"head":3}],"next":null}"#;

/// A server over TLS: requests by HTTP/2 are answered with a list of topics, and what comes by HTTP/1.1 is passed on to the fake.
struct Secured {
    address: SocketAddr,
    /// The requests by HTTP/2.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Secured {
    /// Writes the authority of its certificate to `ca.pem` there.
    async fn start(fake: &Fake, at: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(at.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new([NAME.to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = names.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, behind, seen) =
            (listener.local_addr().unwrap(), fake.address, Arc::<Mutex<Vec<String>>>::default());
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    // A client that does not trust it hangs up.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let service = service_fn(move |request: Request<Incoming>| {
                            assert_eq!(request.version(), Version::HTTP_2);
                            let token = request.headers()["authorization"].to_str().unwrap();
                            noted.lock().unwrap().push(format!("{} {token}", request.uri()));
                            async { Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(TOPICS))) }
                        });
                        let server = http2::Builder::new(TokioExecutor::new());
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    } else {
                        let mut behind = TcpStream::connect(behind).await.unwrap();
                        drop(copy_bidirectional(&mut stream, &mut behind).await);
                    }
                });
            }
        });
        Self { address, seen }
    }
}

/// A proxy that tunnels to `there`, whatever it is asked for; and what that was.
async fn proxy(there: SocketAddr) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    stream.read_line(&mut head).await.unwrap();
                }
                noted.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let mut there = TcpStream::connect(there).await.unwrap();
                drop(copy_bidirectional(&mut stream, &mut there).await);
            });
        }
    });
    (url, asked)
}

/// The command, which trusts the authority of `ca.pem` alone.
fn trusting(at: &Path, arguments: &[&str]) -> Command {
    let mut command = khala(at, arguments);
    command.env("SSL_CERT_FILE", at.join("ca.pem")).env_remove("SSL_CERT_DIR");
    command.env("KHALA_TOKEN", "secret-token");
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

#[tokio::test]
async fn requests_go_by_http_2_and_subscriptions_by_http_1() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let server = Secured::start(&fake, at).await;
    let port = server.address.port();
    // The first address of the name is often ::1, where nobody listens.
    let url = format!("https://localhost:{port}");
    let listed = end(trusting(at, &["topics", "--json", "--url", &url]).spawn().unwrap()).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.contains(r#""topic":"a""#), "{}", listed.stdout);
    let seen = server.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains("/v1/topics?") && seen[0].ends_with("Bearer secret-token"), "{seen:?}");

    let url = format!("wss://localhost:{port}");
    let tail = trusting(at, &["tail", "a", "--count", "2", "--url", &url]).spawn().unwrap();
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 2).await;
    peer.batch(0, [1, 2]).await;
    let tailed = end(tail).await;
    assert_eq!((tailed.code, tailed.stdout.lines().count()), (Some(0), 2), "{}", tailed.stderr);
}

#[tokio::test]
async fn a_server_with_another_certificate_or_none_is_said() {
    let (fake, other) = (Fake::start().await, tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let server = Secured::start(&fake, other.path()).await;
    drop(Secured::start(&fake, folder.path()).await);
    let url = format!("https://localhost:{}", server.address.port());
    let ended = end(trusting(folder.path(), &["topics", "--url", &url]).spawn().unwrap()).await;
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(69), 1), "{}", ended.stderr);
    for said in [&*url, "cannot be reached", "certificate"] {
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
    assert!(server.seen.lock().unwrap().is_empty());

    let url = format!("https://{}", fake.address);
    let ended = end(trusting(folder.path(), &["topics", "--url", &url]).spawn().unwrap()).await;
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(69), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("speak http there"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_gone_by() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let server = Secured::start(&fake, at).await;
    let (proxy, asked) = proxy(server.address).await;
    let behind = |arguments: &[&str]| {
        let mut command = trusting(at, arguments);
        command.env("HTTPS_PROXY", &proxy).env("KHALA_URL", format!("https://{NAME}")).spawn().unwrap()
    };
    let listed = end(behind(&["topics"])).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let tail = behind(&["tail", "a", "--count", "1"]);
    let (mut peer, _) = fake.joining().await;
    peer.welcome(1, 0, 1).await;
    peer.batch(0, [1]).await;
    assert_eq!(end(tail).await.code, Some(0));
    assert_eq!(*asked.lock().unwrap(), vec![format!("CONNECT {NAME}:443 HTTP/1.1"); 2]);

    // A server on this machine is asked without.
    let mut command = khala_at(&fake, at, &["topics"]);
    let direct = command.env("HTTP_PROXY", &proxy).env("ALL_PROXY", &proxy);
    assert_eq!(end(direct.spawn().unwrap()).await.code, Some(0));
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (fake, elsewhere) = (Fake::start().await, Fake::start().await);
    let folder = tempfile::tempdir().unwrap();
    let location: &'static str = format!("{}/v1/topics", elsewhere.url()).leak();
    for status in [301, 302, 307, 308] {
        fake.fault(Fault::Say(status, vec![("location", location)], ""));
        let ended = end(khala_at(&fake, folder.path(), &["topics"]).spawn().unwrap()).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("http_{status}")), "{}", ended.stderr);
    }
    assert!(elsewhere.requests().is_empty());
}
