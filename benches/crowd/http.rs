//! Requests to the server, one after the other on a connection that is kept.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use khala_testing::{During as _, Failure, ensure};
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

/// Past that, a request counts as failed: the server may have been killed with it in hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What the header `Retry-After` says.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body of an answer that is to be a success.
    pub(super) fn success(self) -> Result<Bytes, Failure> {
        ensure(self.status.is_success(), || self.words())?;
        Ok(self.body)
    }

    /// The member `code` of a problem.
    pub(super) fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get("code")?.as_str()?.to_owned())
    }

    /// The answer for a person.
    pub(super) fn words(&self) -> String {
        format!("the server answered {}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// Asks one server.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    token: String,
    open: Option<(SendRequest<Full<Bytes>>, Abort)>,
}

impl Client {
    /// Will ask the server at `address`, as the holder of `token`.
    pub(super) fn new(address: SocketAddr, token: String) -> Self {
        Self { address, token, open: None }
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, None, Bytes::new()).await
    }

    /// Posts JSON, under a name that makes it safe to repeat if there is one.
    pub(super) async fn post(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, key, body).await
    }

    /// Asks; a connection that fails is not used again. The request may have been carried out all the same.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let exchange = timeout(ANSWER_WITHIN, self.exchange(method, path, key, body)).await;
        let answer = exchange.during("waiting for an answer").and_then(|answer| answer);
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let (sender, _) = match &mut self.open {
            Some(open) if !open.0.is_closed() => open,
            place => place.insert(connect(self.address).await?),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(body)).during("making a request")?;
        sender.ready().await.during("asking")?;
        let response = sender.send_request(request).await.during("asking")?;
        let status = response.status();
        let wait =
            response.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let body = response.into_body().collect().await.during("reading the answer")?.to_bytes();
        Ok(Answer { status, retry_after: wait.map(Duration::from_secs), body })
    }
}

async fn connect(address: SocketAddr) -> Result<(SendRequest<Full<Bytes>>, Abort), Failure> {
    let stream = TcpStream::connect(address).await.during("connecting")?;
    stream.set_nodelay(true).during("connecting")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.during("connecting")?;
    Ok((sender, Abort(tokio::spawn(connection).abort_handle())))
}

/// Ends a connection's task with the connection.
#[derive(Debug)]
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
