//! A producer that streams.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle, time::timeout};

use super::{NDJSON, PATH};
use crate::support::{LONG, good_token};

/// A producer that writes lines and reads answers over a connection of its own.
pub(super) struct Producer {
    lines: Option<mpsc::UnboundedSender<Bytes>>,
    answers: Incoming,
    buffer: BytesMut,
    connection: JoinHandle<()>,
}

impl Producer {
    pub(super) async fn new(address: &str) -> Self {
        Self::to(address, PATH).await
    }

    /// Ready when the head of the answer is there, before there is any line.
    pub(super) async fn to(address: &str, path: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (lines, rest) = mpsc::unbounded_channel::<Bytes>();
        let body = stream::unfold(rest, |mut rest| async move {
            rest.recv().await.map(|line| (Ok::<_, Infallible>(Frame::data(line)), rest))
        });
        let request = Request::post(path)
            .header("host", address)
            .header("authorization", format!("Bearer {}", good_token()))
            .header("content-type", NDJSON)
            .body(StreamBody::new(Box::pin(body)))
            .unwrap();
        let response = timeout(LONG, sender.send_request(request)).await.expect("a head in time").unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], NDJSON);
        Self { lines: Some(lines), answers: response.into_body(), buffer: BytesMut::new(), connection }
    }

    pub(super) fn send(&self, text: impl Into<Bytes>) {
        // A server that has refused a line may have hung up.
        let _ = self.lines.as_ref().unwrap().send(text.into());
    }

    pub(super) fn end(&mut self) {
        self.lines = None;
    }

    /// The next answer; none after the last.
    pub(super) async fn hear(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Some(serde_json::from_slice(&self.buffer.split_to(end + 1)).unwrap());
            }
            let frame = timeout(LONG, self.answers.frame()).await.expect("an answer in time");
            let Some(frame) = frame else {
                assert!(self.buffer.is_empty(), "half an answer");
                return None;
            };
            self.buffer.extend_from_slice(&frame.expect("a whole answer").into_data().unwrap());
        }
    }

    pub(super) async fn rest(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(answer) = self.hear().await {
            all.push(answer);
        }
        all
    }

    /// Sends `text` as everything there is, and gives all answers.
    pub(super) async fn all(address: &str, text: impl Into<Bytes>) -> Vec<Value> {
        let mut producer = Self::new(address).await;
        producer.send(text);
        producer.end();
        producer.rest().await
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
