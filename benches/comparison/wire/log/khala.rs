//! Khala: an update in a request of its own, or a line in a stream of them; read by joining the topic over WebSocket.

use std::{io::Write as _, net::SocketAddr};

use super::{Log, Request};
use crate::comparison::wire::{Step, topic_name, websocket};

#[derive(Debug)]
pub(super) struct Khala {
    pub(super) address: SocketAddr,
    pub(super) token: String,
    pub(super) epoch: Option<String>,
    /// Whether an appender streams lines.
    pub(super) stream: bool,
}

const BEFORE: &[u8] = br#"{"kind":"step","payload":"#;

impl Khala {
    fn head(&self, topic: usize, more: std::fmt::Arguments<'_>) -> String {
        let Self { address, token, .. } = self;
        let topic = topic_name(topic);
        format!(
            "POST /v1/topics/{topic}/updates HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{more}\r\n\r\n"
        )
    }
}

impl Log for Khala {
    fn appenders(&self) -> SocketAddr {
        self.address
    }

    fn open_appender(&self, _: usize, topic: usize) -> Vec<Step> {
        let first = if self.stream {
            let more = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked";
            self.head(topic, format_args!("{more}"))
        } else {
            format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)
        };
        vec![Step::new(first, b"HTTP/1.1 200")]
    }

    fn append(&self, out: &mut Vec<u8>, _: usize, topic: usize, payload: &[u8]) {
        let len = BEFORE.len() + payload.len() + 1;
        if self.stream {
            write!(out, "{:x}\r\n", len + 1).expect("a Vec takes every write");
        } else {
            let more = format_args!("Content-Type: application/json\r\nContent-Length: {len}");
            out.extend_from_slice(self.head(topic, more).as_bytes());
        }
        out.extend_from_slice(BEFORE);
        out.extend_from_slice(payload);
        out.extend_from_slice(if self.stream { b"}\n\r\n" } else { b"}" });
    }

    fn acknowledgement(&self) -> &'static [u8] {
        br#""duplicate":false"#
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[br#""error""#, b"HTTP/1.1 4", b"HTTP/1.1 5"]
    }

    fn readers(&self) -> SocketAddr {
        self.address
    }

    fn open_reader(&self) -> Vec<Step> {
        let bearer = format!("Authorization: Bearer {}\r\n", self.token);
        let upgrade = websocket::upgrade(self.address, "/sync/v1/websocket?vsn=2.0.0", &bearer);
        vec![Step::new(upgrade, websocket::UPGRADED)]
    }

    /// A join, or the next one of the same topic, which takes the place of the one before.
    fn read(&self, out: &mut Vec<u8>, request: Request) {
        let Request { round, topic, first, .. } = request;
        let name = topic_name(topic);
        let from = match &self.epoch {
            Some(epoch) if first > 0 => format!(r#"{{"after":{first},"epoch":"{epoch}"}}"#),
            _ => r#"{"from":"floor"}"#.to_owned(),
        };
        let join = format!(r#"["{round}","{round}","{name}","phx_join",{from}]"#);
        websocket::text(out, &[join.as_bytes()]);
    }

    fn page(&self) -> Option<u64> {
        None
    }
}
