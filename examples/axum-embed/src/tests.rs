//! What a user of the application sees: notes arrive, a stranger gets none, logging out ends what it opened.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Sends a request with a cookie or a token; the status, the cookie that was set, the body.
async fn send(address: &str, method: &str, path: &str, proof: &str, body: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let name = if proof.starts_with("Bearer ") { "authorization" } else { "cookie" };
    let request = axum::http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header("content-type", "application/json")
        .header(name, proof)
        .body(Full::<Bytes>::from(body.to_owned()))
        .unwrap();
    let response = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let set = response.headers().get("set-cookie").map_or("", |value| value.to_str().unwrap());
    let cookie = set.split(';').next().unwrap_or_default().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, cookie, String::from_utf8(body.to_vec()).unwrap())
}

struct User {
    address: String,
    cookie: String,
    token: String,
    socket: WebSocketStream<TcpStream>,
}

impl User {
    /// Logs in, has a token made, and connects with it.
    async fn log_in(address: &str, user: &str) -> Self {
        let (status, cookie, _) =
            send(address, "POST", "/login", "", &json!({"user": user}).to_string()).await;
        assert_eq!(status, 200);
        let (status, _, minted) = send(address, "POST", "/v1/token", &cookie, "").await;
        assert_eq!(status, 200, "{minted}");
        let token = serde_json::from_str::<Value>(&minted).unwrap()["token"].as_str().unwrap().to_owned();
        let url = format!("ws://{address}/sync/v1/websocket?vsn=2.0.0&token={token}");
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = timeout(LONG, client_async(url, stream)).await.unwrap().unwrap();
        Self { address: address.to_owned(), cookie, token, socket }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, _, body) = send(&self.address, method, path, &self.cookie, body).await;
        (status, body)
    }

    async fn hear(&mut self) -> Message {
        timeout(LONG, self.socket.next()).await.unwrap().unwrap().unwrap()
    }

    async fn frame(&mut self) -> Value {
        serde_json::from_str(self.hear().await.to_text().unwrap()).unwrap()
    }

    /// Joins a topic; what was answered.
    async fn join(&mut self, topic: &str) -> Value {
        let join = json!(["1", "1", topic, "phx_join", {"from": "floor"}]);
        self.socket.send(Message::text(join.to_string())).await.unwrap();
        self.frame().await[4].take()
    }
}

async fn start(folder: &Path) -> (String, Server) {
    let (router, server) = application(&folder.join("notes.db")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, server)
}

#[tokio::test]
async fn a_note_is_stored_and_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (address, server) = start(folder.path()).await;
    let mut ada = User::log_in(&address, "ada").await;
    assert_eq!(ada.join("notes:ada").await["status"], "ok");

    let (status, note) = ada.send("POST", "/notes", r#"{"text":"hello"}"#).await;
    assert_eq!((status, note.as_str()), (200, r#"{"id":1,"text":"hello"}"#));
    let batch = ada.frame().await;
    assert_eq!(batch[4]["updates"][0]["payload"], json!({"id": 1, "text": "hello"}), "{batch}");

    assert_eq!(ada.send("GET", "/notes", "").await.1, r#"[{"id":1,"text":"hello"}]"#);
    let (path, bearer) = ("/v1/topics/notes:ada/documents/note%2F1", format!("Bearer {}", ada.token));
    let (_, _, document) = send(&address, "GET", path, &bearer, "").await;
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["payload"]["text"], "hello");

    server.drain();
    assert_eq!(ada.frame().await[3], "sync:drain");
}

#[tokio::test]
async fn notes_are_seen_by_whom_the_table_names_until_they_log_out() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _server) = start(folder.path()).await;
    let mut ada = User::log_in(&address, "ada").await;
    let mut bob = User::log_in(&address, "bob").await;
    assert_eq!(ada.join("notes:ada").await["status"], "ok");

    assert_eq!(bob.join("notes:ada").await["response"]["code"], "forbidden_topic");
    assert_eq!(bob.join("elsewhere").await["response"]["code"], "forbidden_topic");
    assert_eq!(ada.send("POST", "/readers", r#"{"reader":"bob"}"#).await.0, 204);
    assert_eq!(bob.join("notes:ada").await["status"], "ok");
    let publish = r#"{"updates":[{"kind":"k","payload":1}]}"#;
    let (status, _, _) =
        send(&address, "POST", "/v1/topics/notes:ada/updates", &format!("Bearer {}", ada.token), publish)
            .await;
    assert_eq!(status, 403, "only the application publishes");

    assert_eq!(bob.send("POST", "/logout", "").await.0, 204);
    let Message::Close(Some(close)) = bob.hear().await else { panic!("bob's connection ends") };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (4003, "token_revoked"));
    let history = "/v1/topics/notes:ada/updates";
    let (status, _, body) = send(&address, "GET", history, &format!("Bearer {}", bob.token), "").await;
    assert!(status == 401 && body.contains("token_revoked"), "{body}");
    for path in ["/notes", "/v1/token"] {
        assert_eq!(bob.send("POST", path, r#"{"text":"still here"}"#).await.0, 401);
    }

    assert_eq!(ada.send("POST", "/notes", r#"{"text":"to myself"}"#).await.0, 200);
    assert_eq!(ada.frame().await[4]["updates"][0]["payload"]["text"], "to myself");
}
