//! Khala: subscribers over Phoenix channels, V2; the publisher over a stream of lines, or with a request for each update.
//! Either way each update is acknowledged once it is on stable storage.

use std::{io::Write as _, net::SocketAddr};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::{Step, Update, Wire, topic_name, websocket};

/// How updates come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::beside) enum Publishing {
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
}

impl Khala {
    /// The lines of a request to publish to `topic`, but for those on its body.
    fn post(&self, topic: usize) -> String {
        let Self { address, token, .. } = self;
        let topic = topic_name(topic);
        format!(
            "POST /v1/topics/{topic}/updates HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n"
        )
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
        // Whoever joined a topic before its first update has had as many as its seq says.
        Some(self.join(topic, &format!(r#"{{"after":{received},"epoch":"{epoch}"}}"#)))
    }

    fn publisher_address(&self) -> SocketAddr {
        self.address
    }

    /// A stream is of one topic.
    fn publishers(&self, topics: usize) -> usize {
        match self.publishing {
            Publishing::Posts => 1,
            Publishing::Stream => topics,
        }
    }

    fn open_publisher(&self, topic: usize) -> Vec<Step> {
        match self.publishing {
            Publishing::Posts => {
                let ready = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
                vec![Step::new(ready, b"HTTP/1.1 200")]
            }
            Publishing::Stream => {
                let head = self.post(topic)
                    + "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
                vec![Step::new(head, b"HTTP/1.1 200")]
            }
        }
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        const BEGIN: &[u8] = br#"{"kind":"step","payload":"#;
        match self.publishing {
            Publishing::Posts => {
                for &Update { topic, payload } in updates {
                    let len = BEGIN.len() + payload.len() + 1;
                    let head = self.post(topic);
                    write!(out, "{head}Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n")
                        .expect("a Vec takes every write");
                    out.extend_from_slice(BEGIN);
                    out.extend_from_slice(payload);
                    out.push(b'}');
                }
            }
            Publishing::Stream => {
                let lines = updates.iter().map(|update| BEGIN.len() + update.payload.len() + 2);
                // One chunk, whose length stands before it.
                write!(out, "{:x}\r\n", lines.sum::<usize>()).expect("a Vec takes every write");
                for Update { payload, .. } in updates {
                    out.extend_from_slice(BEGIN);
                    out.extend_from_slice(payload);
                    out.extend_from_slice(b"}\n");
                }
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
