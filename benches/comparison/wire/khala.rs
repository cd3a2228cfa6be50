//! Khala: subscribers over Phoenix channels, V2; the publisher over a stream of lines, or with a request for each update.
//! Either way each update is acknowledged once it is on stable storage.

use std::{io::Write as _, net::SocketAddr};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::{Step, Update, Wire, topic_name, websocket};

/// How updates come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::comparison) enum Publishing {
    /// `POST` with one update, one after the other.
    Posts,
    /// `POST` of `application/x-ndjson`, which goes on.
    Stream,
}

#[derive(Debug)]
pub(super) struct Khala {
    pub(super) address: SocketAddr,
    pub(super) token: String,
    pub(super) publishing: Publishing,
    /// Whether a stream is of many topics, and its lines name theirs.
    pub(super) many: bool,
}

/// Where updates of one topic are published.
fn updates_of(topic: usize) -> String {
    format!("/v1/topics/{}/updates", topic_name(topic))
}

impl Khala {
    /// The lines of a request to publish, but for those on its body.
    fn post(&self, path: &str) -> String {
        let Self { address, token, .. } = self;
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n")
    }

    fn join(&self, topic: usize, payload: &str) -> Vec<Step> {
        let bearer = format!("Authorization: Bearer {}\r\n", self.token);
        let name = topic_name(topic);
        let join = format!(r#"["1","1","{name}","phx_join",{payload}]"#);
        vec![
            Step::new(
                websocket::upgrade(self.address, "/sync/v1/websocket?vsn=2.0.0", &bearer),
                websocket::UPGRADED,
            ),
            Step::new(websocket::text_frame(join), br#""status":"ok""#),
        ]
    }
}

impl Wire for Khala {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        self.join(topic, "{}")
    }

    fn resume(&self, topic: usize, answer: &[u8], received: u32) -> Option<Vec<Step>> {
        const EPOCH: &[u8] = br#""epoch":""#;
        let begin = memmem::find(answer, EPOCH)? + EPOCH.len();
        let epoch = answer.get(begin..)?.split(|byte| *byte == b'"').next()?;
        let epoch = std::str::from_utf8(epoch).ok()?;
        // A client that joined a topic before its first update has had as many as its seq says.
        Some(self.join(topic, &format!(r#"{{"after":{received},"epoch":"{epoch}"}}"#)))
    }

    fn open_publisher(&self) -> Vec<Step> {
        let step = match self.publishing {
            Publishing::Posts => format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", self.address),
            Publishing::Stream => {
                let path = if self.many { "/v1/updates".to_owned() } else { updates_of(0) };
                self.post(&path) + "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            }
        };
        vec![Step::new(step, b"HTTP/1.1 200")]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        match self.publishing {
            Publishing::Posts => {
                for &Update { topic, payload } in updates {
                    let body = [br#"{"kind":"step","payload":"#, payload, b"}"].concat();
                    let head = self.post(&updates_of(topic));
                    write!(
                        out,
                        "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    )
                    .expect("a Vec takes every write");
                    out.extend_from_slice(&body);
                }
            }
            Publishing::Stream => {
                let mut lines = Vec::new();
                for &Update { topic, payload } in updates {
                    if self.many {
                        write!(lines, r#"{{"topic":"{}","kind":"step","payload":"#, topic_name(topic))
                            .expect("a Vec takes every write");
                    } else {
                        lines.extend_from_slice(br#"{"kind":"step","payload":"#);
                    }
                    lines.extend_from_slice(payload);
                    lines.extend_from_slice(b"}\n");
                }
                // One chunk.
                write!(out, "{:x}\r\n", lines.len()).expect("a Vec takes every write");
                out.extend_from_slice(&lines);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn acknowledgement(&self) -> Option<&'static [u8]> {
        Some(br#""duplicate":false"#)
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[br#""error""#, b"HTTP/1.1 4", b"HTTP/1.1 5"]
    }
}
