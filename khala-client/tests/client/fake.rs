//! A server that does what a test tells it to, faults included. HTTP is answered from a journal in memory, with the
//! faults that stand in a queue; each WebSocket is handed to the test, which plays the server's part in it.
//!
//! Shared with the tests of the command line, which include this file.
#![allow(dead_code, reason = "each of the two test binaries uses a part of it")]

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn, upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use khala_core::{
    Append, Batch, Conflict, DocKey, Epoch, Kind, MemoryStore, NewUpdate, Payload, Receipt, Seq, Timestamp,
    Topic, Update,
    journal::{Journal as _, ReadFrom, ReadLimit, Replay},
    update::DedupKey,
    wire::{JoinRequest, Serializer},
};
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role},
    },
};

/// Nothing here takes longer, unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong with the next request.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection is cut before the request is looked at.
    CutBefore,
    /// The request is carried out, and the connection cut before the answer.
    LoseAnswer,
    /// It is answered with this status, these headers and this body.
    Say(u16, Vec<(&'static str, &'static str)>, &'static str),
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) body: String,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) journal: Arc<MemoryStore>,
    pub(crate) faults: Arc<Mutex<VecDeque<Fault>>>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    peers: mpsc::UnboundedReceiver<Peer>,
}

#[derive(Clone)]
struct Shared {
    journal: Arc<MemoryStore>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    peers: mpsc::UnboundedSender<Peer>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, peers) = mpsc::unbounded_channel();
        let shared = Shared {
            journal: Arc::new(MemoryStore::new()),
            faults: Arc::default(),
            seen: Arc::default(),
            peers: sender,
        };
        let (journal, faults, seen) =
            (Arc::clone(&shared.journal), Arc::clone(&shared.faults), Arc::clone(&shared.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| shared.clone().serve(request));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { address, journal, faults, seen, peers }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The payloads that a topic holds, in order.
    pub(crate) async fn payloads(&self, topic: &Topic) -> Vec<String> {
        let limit = ReadLimit::new(100_000.try_into().unwrap(), usize::MAX);
        match self.journal.read(topic, ReadFrom::Origin, limit).await.unwrap() {
            Replay::Page(page) => {
                page.updates.iter().map(|update| update.payload.as_str().to_owned()).collect()
            }
            Replay::Stale(stale) => panic!("{stale:?}"),
        }
    }

    /// The next client that connects.
    pub(crate) async fn peer(&mut self) -> Peer {
        timeout(PATIENCE, self.peers.recv()).await.expect("a client connects").unwrap()
    }

    /// The next client that connects and joins.
    pub(crate) async fn joining(&mut self) -> (Peer, Join) {
        let mut peer = self.peer().await;
        let join = peer.join().await;
        (peer, join)
    }
}

impl Shared {
    /// An `Err` makes hyper cut the connection.
    async fn serve(self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
        let header = |name: &str| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
        let mut seen = Seen {
            method: request.method().clone(),
            path: request.uri().to_string(),
            authorization: header("authorization"),
            key: header("idempotency-key"),
            body: String::new(),
        };
        let socket_key = header("sec-websocket-key");
        if request.method() == Method::POST {
            let body = request.body_mut().collect().await.unwrap().to_bytes();
            seen.body = String::from_utf8(body.to_vec()).unwrap();
        }
        self.seen.lock().unwrap().push(seen.clone());
        let fault = self.faults.lock().unwrap().pop_front();
        let cut = || Err(io::Error::other("cut"));
        match fault {
            Some(Fault::CutBefore) => return cut(),
            Some(Fault::LoseAnswer) => {
                self.answer(&seen).await;
                return cut();
            }
            Some(Fault::Say(status, headers, body)) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                return Ok(response.body(Full::from(body)).unwrap());
            }
            None => {}
        }
        let Some(key) = socket_key else { return Ok(self.answer(&seen).await) };
        tokio::spawn(async move {
            let stream = hyper::upgrade::on(request).await.unwrap();
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
            let _ = self.peers.send(Peer { socket, topic: String::new(), join_ref: String::new() });
        });
        Ok(Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
            .body(Full::default())
            .unwrap())
    }

    async fn answer(&self, seen: &Seen) -> Response<Full<Bytes>> {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let rest = path.strip_prefix("/v1/topics").unwrap();
        let (status, body) = match (&seen.method, rest.strip_suffix("/updates")) {
            (&Method::POST, Some(topic)) => self.publish(&topic_of(topic), seen).await,
            (_, Some(topic)) => self.history(&topic_of(topic), query).await,
            (_, None) if rest.is_empty() => (200, self.topics(query).await),
            (_, None) => {
                (200, serde_json::to_value(self.journal.bounds(&topic_of(rest)).await.unwrap()).unwrap())
            }
        };
        Response::builder().status(status).body(Full::from(body.to_string())).unwrap()
    }

    async fn publish(&self, topic: &Topic, seen: &Seen) -> (u16, Value) {
        #[derive(serde::Deserialize)]
        struct Body {
            expect: Option<u64>,
            updates: Vec<One>,
        }
        #[derive(serde::Deserialize)]
        struct One {
            kind: Kind,
            payload: Box<RawValue>,
            doc_key: Option<DocKey>,
        }
        let body: Body = serde_json::from_str(&seen.body).unwrap();
        if body.updates.iter().any(|one| one.payload.get().contains("poison")) {
            return (400, json!({"code": "invalid", "detail": "an update is poisoned"}));
        }
        let updates = body.updates.into_iter().map(|One { kind, payload, doc_key }| {
            let update = NewUpdate::new(kind, Payload::from_raw(&payload));
            match doc_key {
                Some(key) => update.doc_key(key),
                None => update,
            }
        });
        let mut batch = Batch::new(updates.collect()).unwrap();
        if let Some(expect) = body.expect {
            batch = batch.with_expect(khala_core::Watermark::new(expect).unwrap());
        }
        if let Some(key) = &seen.key {
            batch = batch.with_dedup(DedupKey::parse(key).unwrap());
        }
        let (receipt, duplicate) =
            match self.journal.append(topic, batch, Timestamp::from_millis(1)).await.unwrap() {
                Append::Written(receipt) => (receipt, false),
                Append::Duplicate(receipt) => (receipt, true),
                Append::Conflict(Conflict::Dedup { first: Receipt { epoch, first, last } }) => {
                    let code =
                        json!({"code": "dedup_mismatch", "epoch": epoch, "first": first, "last": last});
                    return (409, code);
                }
                Append::Conflict(_) => {
                    return (409, json!({"code": "conflict", "expected": body.expect, "found": 1}));
                }
            };
        let (first, last) = (receipt.first, receipt.last);
        (200, json!({"epoch": receipt.epoch, "first": first, "last": last, "duplicate": duplicate}))
    }

    async fn history(&self, topic: &Topic, query: &str) -> (u16, Value) {
        let field = |name: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.unwrap().to_owned()
        };
        let watermark = khala_core::Watermark::new(field("after").parse().unwrap()).unwrap();
        let cursor = khala_core::Cursor::new(field("epoch").parse::<Epoch>().unwrap(), watermark);
        let limit = ReadLimit::new(field("limit").parse().unwrap(), usize::MAX);
        match self.journal.read(topic, cursor.into(), limit).await.unwrap() {
            Replay::Page(page) => {
                let mut out = Vec::new();
                khala_core::wire::write_page(&mut out, &page, None);
                let mut body: Value = serde_json::from_slice(&out).unwrap();
                body["epoch"] = json!(page.bounds.epoch);
                body["floor"] = json!(page.bounds.floor);
                (200, body)
            }
            Replay::Stale(stale) => (
                410,
                serde_json::to_value(khala_core::wire::StaleCursor::new(topic, &stale, None, None)).unwrap(),
            ),
        }
    }

    /// Two at a time, so that a client has to ask again.
    async fn topics(&self, query: &str) -> Value {
        let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let plain = |text: &str| text.replace("%3A", ":").replace("%2F", "/");
        let after = field("after=").map(plain);
        let prefix = plain(field("prefix=").unwrap_or_default());
        let page = self.journal.topics(&prefix, after.as_deref(), 2.try_into().unwrap()).await.unwrap();
        let shown = page.topics.iter().map(|(topic, bounds)| {
            json!({"topic": topic, "epoch": bounds.epoch, "floor": bounds.floor, "head": bounds.head})
        });
        let mut body = json!({"topics": shown.collect::<Vec<_>>(), "complete": page.next.is_none()});
        if let Some(after) = &page.next {
            body["next"] = format!("/v1/topics?prefix={prefix}&limit=2&after={after}").into();
        }
        body
    }
}

fn topic_of(part: &str) -> Topic {
    Topic::parse(&part.trim_start_matches('/').replace("%2F", "/")).unwrap()
}

/// A join that a client sent.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) request: JoinRequest,
    pub(crate) reference: String,
}

/// The server's end of a connection.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<TokioIo<Upgraded>>,
    topic: String,
    join_ref: String,
}

/// Update `seq` as the journal would hold it.
pub(crate) fn update(seq: u64) -> Update {
    NewUpdate::new(Kind::parse("k").unwrap(), Payload::parse(&seq.to_string()).unwrap())
        .stored(Seq::new(seq).unwrap(), Timestamp::from_millis(seq))
}

impl Peer {
    /// The next frame, as `(reference, topic, event, payload)`; none when the client has gone.
    pub(crate) async fn frame(&mut self) -> Option<(String, String, String, String)> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("the client says something")? {
                Ok(Message::Text(text)) => {
                    let frame = Serializer::V2.decode(&text).unwrap();
                    let reference = frame.reference.map_or_else(String::new, |reference| {
                        reference.as_json().trim_matches('"').to_owned()
                    });
                    let (topic, event) = (frame.topic.to_string(), frame.event.to_string());
                    return Some((reference, topic, event, frame.payload.get().to_owned()));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next join; heartbeats before it are answered.
    pub(crate) async fn join(&mut self) -> Join {
        loop {
            let (reference, topic, event, payload) = self.frame().await.expect("the client joins");
            match &*event {
                "phx_join" => {
                    self.topic = topic;
                    self.join_ref = reference.clone();
                    return Join { request: serde_json::from_str(&payload).unwrap(), reference };
                }
                "heartbeat" => {
                    self.text(json!([null, reference, topic, "phx_reply", {"status":"ok","response":{}}]))
                        .await
                }
                _ => panic!("{event}"),
            }
        }
    }

    pub(crate) async fn text(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Answers the newest join with ok.
    pub(crate) async fn welcome(&mut self, epoch: u64, after: u64, head: u64) {
        let epoch = Epoch::from_bits(epoch);
        self.reply("ok", json!({"epoch": epoch, "after": after, "head": head, "floor": 0})).await;
    }

    pub(crate) async fn reply(&mut self, status: &str, response: Value) {
        let of = self.join_ref.clone();
        let topic = self.topic.clone();
        self.text(json!([of, of, topic, "phx_reply", {"status": status, "response": response}])).await;
    }

    /// Sends an event to all subscribers of the topic.
    pub(crate) async fn push(&mut self, event: &str, payload: Value) {
        let topic = self.topic.clone();
        self.text(json!([null, null, topic, event, payload])).await;
    }

    /// Sends these updates as a batch that continues from `after`.
    pub(crate) async fn batch(&mut self, after: u64, seqs: impl IntoIterator<Item = u64>) {
        let updates: Vec<Value> = seqs
            .into_iter()
            .map(|seq| {
                let mut out = Vec::new();
                khala_core::wire::write_update(&mut out, &update(seq));
                serde_json::from_slice(&out).unwrap()
            })
            .collect();
        let head = updates.last().map_or_else(|| json!(after), |last| last["seq"].clone());
        let payload = json!({"after": after, "head": head, "replay_complete": true, "updates": updates});
        self.push("sync:update_batch", payload).await;
    }

    pub(crate) async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let _ = self.socket.close(Some(frame)).await;
        while let Some(Ok(_)) = timeout(PATIENCE, self.socket.next()).await.expect("the client closes") {}
    }

    /// Writes raw bytes below the WebSocket, and cuts the connection.
    pub(crate) async fn cut_after(mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt as _;
        let stream = self.socket.get_mut();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }
}
