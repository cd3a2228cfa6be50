//! Sockudo: subscribers over Pusher's protocol; the publisher over Pusher's HTTP API, signed, many events a request. The server
//! closes each connection of that API after its answer, so each request is sent on a new one.

use std::{
    io::Write as _,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Step, Update, Wire, topic_name, websocket};

/// What its API takes at once, where nothing else was set.
const BATCH: usize = 100;

/// Who may publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::comparison) struct App {
    pub(in crate::comparison) id: String,
    pub(in crate::comparison) key: String,
    pub(in crate::comparison) secret: String,
}

#[derive(Debug)]
pub(super) struct Sockudo {
    pub(super) address: SocketAddr,
    pub(super) app: App,
}

/// A channel's name has no colon in it.
fn channel(topic: usize) -> String {
    topic_name(topic).replace(':', "-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sockudo {
    /// The path of a request with that body, with its signature in the query.
    fn signed_path(&self, body: &str) -> String {
        let App { id, key, secret } = &self.app;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let digest = hex(&Md5::digest(body));
        let path = format!("/apps/{id}/batch_events");
        let query = format!("auth_key={key}&auth_timestamp={now}&auth_version=1.0&body_md5={digest}");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length will do");
        mac.update(format!("POST\n{path}\n{query}").as_bytes());
        format!("{path}?{query}&auth_signature={}", hex(&mac.finalize().into_bytes()))
    }
}

impl Wire for Sockudo {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        let path = format!("/app/{}?protocol=7&client=beside&version=1.0&flash=false", self.app.key);
        let subscribe =
            format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{}"}}}}"#, channel(topic));
        vec![
            Step::new(websocket::upgrade(self.address, &path, ""), b"pusher:connection_established"),
            Step::new(websocket::text_frame(subscribe), b"pusher_internal:subscription_succeeded"),
        ]
    }

    fn open_publisher(&self) -> Vec<Step> {
        Vec::new()
    }

    fn updates_a_connection(&self) -> Option<usize> {
        Some(BATCH)
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        let event = |update: &Update<'_>| {
            let data = String::from_utf8_lossy(update.payload);
            let data = serde_json::to_string(&data).expect("text is JSON");
            format!(r#"{{"name":"update","channel":"{}","data":{data}}}"#, channel(update.topic))
        };
        let events: Vec<String> = updates.iter().map(event).collect();
        let body = format!(r#"{{"batch":[{}]}}"#, events.join(","));
        let path = self.signed_path(&body);
        write!(
            out,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .expect("a Vec takes every write");
    }

    fn refusals(&self) -> &'static [&'static [u8]] {
        &[b"HTTP/1.1 4", b"HTTP/1.1 5"]
    }
}
