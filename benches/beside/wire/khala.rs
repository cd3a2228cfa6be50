//! Khala: subscribers over Phoenix channels, V2; the publisher over one stream of lines, of which each is acknowledged
//! once it is on stable storage.

use std::{io::Write as _, net::SocketAddr};

use memchr::memmem;

use super::{Step, Update, Wire, topic_name, websocket};

#[derive(Debug)]
pub(super) struct Khala {
    address: SocketAddr,
    token: String,
}

impl Khala {
    pub(super) fn new(address: SocketAddr, token: String) -> Self {
        Self { address, token }
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
        topics
    }

    fn open_publisher(&self, topic: usize) -> Vec<Step> {
        let Self { address, token } = self;
        let head = format!(
            "POST /v1/topics/{}/updates HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
            topic_name(topic)
        );
        vec![Step::new(head, b"HTTP/1.1 200")]
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        // One chunk, whose length stands before it.
        let begin = out.len();
        let room = b"00000000\r\n";
        out.extend_from_slice(room);
        for Update { payload, .. } in updates {
            out.extend_from_slice(br#"{"kind":"step","payload":"#);
            out.extend_from_slice(payload);
            out.extend_from_slice(b"}\n");
        }
        let len = out.len() - begin - room.len();
        if len == 0 {
            return out.truncate(begin);
        }
        write!(&mut out[begin..], "{len:08x}").expect("a slice takes what fits");
        out.extend_from_slice(b"\r\n");
    }

    fn acknowledgement(&self) -> Option<&'static [u8]> {
        Some(br#""duplicate":false"#)
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[br#""error""#, b"HTTP/1.1 4", b"HTTP/1.1 5"]
    }
}
