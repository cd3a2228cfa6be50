//! Durable Streams: `POST` appends, `GET` from an offset gives all that follows.

use std::{io::Write as _, net::SocketAddr};

use memchr::memmem;

use super::{Log, Request};
use crate::beside::wire::{Step, topic_name};

#[derive(Debug)]
pub(super) struct DurableStreams {
    pub(super) address: SocketAddr,
}

impl DurableStreams {
    fn head(&self, method: &str, topic: usize, query: &str) -> String {
        format!(
            "{method} /{}{query} HTTP/1.1\r\nHost: {}\r\n",
            topic_name(topic).replace(':', "-"),
            self.address
        )
    }
}

/// Where the stream ends: two numbers, of which the second counts bytes.
fn end(answer: &[u8]) -> Option<(&str, u64)> {
    const NAME: &[u8] = b"tream-next-offset: ";
    let lower = answer.to_ascii_lowercase();
    let begin = memmem::find(&lower, NAME)? + NAME.len();
    let line = answer.get(begin..)?.split(|byte| *byte == b'\r').next()?;
    let (generation, bytes) = std::str::from_utf8(line).ok()?.split_once('_')?;
    Some((generation, bytes.parse().ok()?))
}

impl Log for DurableStreams {
    fn appenders(&self) -> SocketAddr {
        self.address
    }

    fn open_appender(&self, _: usize, topic: usize) -> Vec<Step> {
        let head = self.head("PUT", topic, "");
        // 201 from the first, 200 for the others, who find it.
        vec![Step::new(
            format!("{head}Content-Type: application/json\r\nContent-Length: 0\r\n\r\n"),
            b"HTTP/1.1 20",
        )]
    }

    fn append(&self, out: &mut Vec<u8>, _: usize, topic: usize, payload: &[u8]) {
        let (head, len) = (self.head("POST", topic, ""), payload.len());
        write!(out, "{head}Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n")
            .expect("a Vec takes every write");
        out.extend_from_slice(payload);
    }

    fn acknowledgement(&self) -> &'static [u8] {
        b"HTTP/1.1 204"
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"HTTP/1.1 4", b"HTTP/1.1 5"]
    }

    fn readers(&self) -> SocketAddr {
        self.address
    }

    fn open_reader(&self, _: usize, topic: usize) -> Vec<Step> {
        vec![Step::new(self.head("HEAD", topic, "") + "\r\n", b"\r\n\r\n")]
    }

    fn read(&self, out: &mut Vec<u8>, request: Request, answer: &[u8]) {
        let Request { topic, first, count, received, .. } = request;
        let at = first + received;
        // Every update takes as many bytes as every other.
        let offset = match end(answer) {
            Some((generation, bytes)) if at > 0 => {
                format!("{generation}_{:0>16}", bytes * at / (first + count))
            }
            _ => "-1".to_owned(),
        };
        out.extend_from_slice((self.head("GET", topic, &format!("?offset={offset}")) + "\r\n").as_bytes());
    }

    fn page(&self) -> Option<u64> {
        None
    }
}
