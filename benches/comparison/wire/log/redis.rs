//! Redis Streams: XADD, and XREAD of 200 at once.
//!
//! The identities are `1-0`, `1-1` and so on (`XADD key 1-*`), so that a reader knows the one it has had last by counting.

use std::{io::Write as _, net::SocketAddr};

use super::{Log, Request};
use crate::comparison::wire::{Step, topic_name};

/// As many as a batch of Khala's has at most.
const PAGE: u64 = 200;

#[derive(Debug)]
pub(super) struct Redis {
    pub(super) address: SocketAddr,
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    write!(out, "*{}\r\n", words.len()).expect("a Vec takes every write");
    for word in words {
        write!(out, "${}\r\n", word.len()).expect("a Vec takes every write");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

impl Log for Redis {
    fn appenders(&self) -> SocketAddr {
        self.address
    }

    fn open_appender(&self, _: usize, _: usize) -> Vec<Step> {
        vec![Step::new("PING\r\n", b"+PONG\r\n")]
    }

    fn append(&self, out: &mut Vec<u8>, _: usize, topic: usize, payload: &[u8]) {
        command(out, &[b"XADD", topic_name(topic).as_bytes(), b"1-*", b"payload", payload]);
    }

    /// An answer is the identity, one string.
    fn acknowledgement(&self) -> &'static [u8] {
        b"$"
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"-ERR", b"-MISCONF", b"-LOADING", b"-NO", b"-OOM"]
    }

    fn readers(&self) -> SocketAddr {
        self.address
    }

    fn open_reader(&self) -> Vec<Step> {
        self.open_appender(0, 0)
    }

    fn read(&self, out: &mut Vec<u8>, request: Request) {
        let Request { topic, first, received, .. } = request;
        let after =
            (first + received).checked_sub(1).map_or_else(|| "0".to_owned(), |last| format!("1-{last}"));
        let (count, name) = (PAGE.to_string(), topic_name(topic));
        let words: [&[u8]; 6] =
            [b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", name.as_bytes(), after.as_bytes()];
        command(out, &words);
    }

    fn page(&self) -> Option<u64> {
        Some(PAGE)
    }
}
