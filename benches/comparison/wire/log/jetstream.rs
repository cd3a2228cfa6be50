//! JetStream: each update is published with an inbox for its acknowledgement; read through an ephemeral push consumer of
//! its own, without acknowledgements and without flow control, so that the server sends as fast as it can.

use std::{io::Write as _, net::SocketAddr};

use super::{Log, Request};
use crate::comparison::wire::{Step, topic_name, websocket};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

#[derive(Debug)]
pub(super) struct JetStream {
    pub(super) appenders: SocketAddr,
    pub(super) readers: SocketAddr,
}

/// A stream's name has no colon in it.
fn stream_name(topic: usize) -> String {
    topic_name(topic).replace(':', "-")
}

fn publish(subject: &str, reply: &str, text: &str) -> String {
    format!("PUB {subject} {reply} {}\r\n{text}\r\n", text.len())
}

impl Log for JetStream {
    fn appenders(&self) -> SocketAddr {
        self.appenders
    }

    fn open_appender(&self, appender: usize, topic: usize) -> Vec<Step> {
        let (stream, subject) = (stream_name(topic), topic_name(topic));
        let settings = format!(
            r#"{{"name":"{stream}","subjects":["{subject}"],"retention":"limits","storage":"file","num_replicas":1}}"#
        );
        // Made by the first, and found by the others.
        let create =
            publish(&format!("$JS.API.STREAM.CREATE.{stream}"), &format!("made.{appender}"), &settings);
        vec![
            Step::new(format!("{CONNECT}SUB made.{appender} 1\r\n{create}"), br#""config""#),
            Step::new(format!("UNSUB 1\r\nSUB done.{appender} 2\r\nPING\r\n"), b"PONG\r\n"),
        ]
    }

    fn append(&self, out: &mut Vec<u8>, appender: usize, topic: usize, payload: &[u8]) {
        let subject = topic_name(topic);
        write!(out, "PUB {subject} done.{appender} {}\r\n", payload.len()).expect("a Vec takes every write");
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn acknowledgement(&self) -> &'static [u8] {
        br#""seq":"#
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"-ERR", br#""error""#]
    }

    fn readers(&self) -> SocketAddr {
        self.readers
    }

    fn open_reader(&self) -> Vec<Step> {
        vec![
            Step::new(websocket::upgrade(self.readers, "/", ""), b"INFO {"),
            Step::new(websocket::text_frame(format!("{CONNECT}PING\r\n")), b"PONG"),
        ]
    }

    fn read(&self, out: &mut Vec<u8>, request: Request) {
        let Request { reader, round, topic, first, .. } = request;
        let (stream, inbox) = (stream_name(topic), format!("read.{reader}.{round}"));
        // Its sequence begins with 1.
        let settings = format!(
            r#"{{"stream_name":"{stream}","config":{{"deliver_subject":"{inbox}","deliver_policy":"by_start_sequence","opt_start_seq":{},"ack_policy":"none","replay_policy":"instant","mem_storage":true,"num_replicas":1}}}}"#,
            first + 1
        );
        let create = publish(&format!("$JS.API.CONSUMER.CREATE.{stream}"), "nobody", &settings);
        let before = round.checked_sub(1).map_or_else(String::new, |before| format!("UNSUB r{before}\r\n"));
        websocket::text(out, &[format!("{before}SUB {inbox} r{round}\r\n{create}").as_bytes()]);
    }

    fn page(&self) -> Option<u64> {
        None
    }
}
