//! One HTTP request, on a connection of its own.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, client::conn::http1, header, http::request};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use crate::failure::{During as _, Failure};

/// Over that, a request counts as failed. The server may have been killed with it in hand.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

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
    let request = head
        .header(header::HOST, address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(body))
        .during("making a request")?;
    timeout(ANSWER_WITHIN, exchange(address, request)).await.during("waiting for an answer")?
}

async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Failure> {
    let stream = TcpStream::connect(address).await.during("connecting")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.during("connecting")?;
    let _ends_with_this = Abort(tokio::spawn(connection).abort_handle());
    let response = sender.send_request(request).await.during("asking")?;
    let status = response.status();
    Ok((status, response.into_body().collect().await.during("reading the answer")?.to_bytes()))
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
