//! Requests to a server, on connections that are kept.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use khala_testing::{During as _, Failure, ensure};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Past that, a request counts as failed: the server may have been killed with it in hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    // Only this machine is asked, without TLS, but reqwest has to know which TLS that would be.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the usual versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    client.timeout(ANSWER_WITHIN).build().expect("these options make a client")
});

/// What was answered.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What the header `Retry-After` says.
    pub retry_after: Option<Duration>,
    /// Its whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body of an answer that is to be a success.
    ///
    /// # Errors
    /// It is none.
    pub fn success(self) -> Result<Bytes, Failure> {
        ensure(self.status.is_success(), || self.words())?;
        Ok(self.body)
    }

    /// The member `code` of a problem.
    pub fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get("code")?.as_str()?.to_owned())
    }

    /// The answer for a person.
    pub fn words(&self) -> String {
        format!("the server answered {}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// Asks one server.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    token: String,
}

impl Client {
    /// Will ask the server at `address`, with that token; an empty one is none.
    pub fn new(address: SocketAddr, token: impl Into<String>) -> Self {
        Self { address, token: token.into() }
    }

    /// Asks for that path.
    ///
    /// # Errors
    /// No whole answer came, or not in time.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, None, Bytes::new()).await
    }

    /// Posts JSON, under a name that makes it safe to repeat if there is one.
    ///
    /// # Errors
    /// No whole answer came, or not in time. It may have been carried out all the same.
    pub async fn post(&self, path: &str, key: Option<&str>, body: Bytes) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, key, body).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut request = CLIENT.request(method, format!("http://{}{path}", self.address)).body(body);
        request = request.header(header::CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.during("asking")?;
        let status = response.status();
        let wait =
            response.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let body = response.bytes().await.during("reading the answer")?;
        Ok(Answer { status, retry_after: wait.map(Duration::from_secs), body })
    }
}
