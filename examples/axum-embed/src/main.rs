//! An axum application with a route and a table of its own, and Khala beside them: whoever follows the topic `notes`
//! sees exactly the notes that were committed, live, and after any absence what was missed.
//!
//! `cargo run -p axum-embed`, then follow the lines that it prints.

use std::{
    error::Error,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    routing::{get, post},
};
use khala_core::{
    Append, Batch, DocKey, JwtIssuer, JwtOptions, JwtVerifier, Khala, Kind, NewUpdate, Payload, Scope, Topic,
};
use khala_server::Server;
use khala_store_sqlite::{SqliteOptions, SqliteStore, append_in};
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::spawn_blocking};

/// The topic that notes are published to.
const NOTES: &str = "notes";
/// Where a real application has a secret of its own.
const SECRET: &[u8] = b"an example's key, which is public";

#[derive(Clone)]
struct App {
    khala: Khala,
    /// The application's own connection to the file that Khala's tables are in too.
    database: Arc<Mutex<Connection>>,
    issuer: Arc<JwtIssuer>,
}

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

#[derive(Serialize)]
struct Note {
    id: i64,
    text: String,
}

/// The application: its routes, and Khala for everything else.
fn application(database: &Path) -> Result<(Router, Server), Box<dyn Error>> {
    let store = SqliteStore::open(database, SqliteOptions::new())?;
    let khala = Khala::builder(Arc::new(store.clone())).with_fanout(Arc::new(store)).build();
    let verifier = JwtVerifier::hs256(SECRET, JwtOptions::default())?;
    let server = Server::builder(khala.clone(), Arc::new(verifier)).build();

    let own = Connection::open(database)?;
    own.busy_timeout(Duration::from_secs(5))?;
    own.execute_batch("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")?;
    let issuer = Arc::new(JwtIssuer::hs256(SECRET, JwtOptions::default())?);
    let app = App { khala, database: Arc::new(Mutex::new(own)), issuer };

    let service = server.clone();
    let router = Router::new()
        .route("/notes", get(list).post(add))
        .route("/token", post(token))
        .fallback(move |request: Request| async move { service.handle(request).await.map(Body::new) })
        .with_state(app);
    Ok((router, server))
}

/// Stores a note and publishes it, both or neither.
async fn add(State(app): State<App>, Json(note): Json<NewNote>) -> Result<Json<Note>, (StatusCode, String)> {
    let (now, database) = (app.khala.now(), Arc::clone(&app.database));
    let stored = spawn_blocking(move || -> Result<_, Box<dyn Error + Send + Sync>> {
        let mut database = database.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO notes (text) VALUES (?1)", params![note.text])?;
        let note = Note { id: transaction.last_insert_rowid(), text: note.text };

        let topic = Topic::parse(NOTES)?;
        let update = NewUpdate::new(Kind::parse("note_added")?, Payload::of(&note)?)
            .with_doc_key(DocKey::parse(&format!("note/{}", note.id))?);
        let Append::Written(receipt) = append_in(&transaction, &topic, &Batch::new(vec![update])?, now)?
        else {
            return Err("a new note cannot be in anybody's way".into());
        };
        transaction.commit()?;
        Ok((note, topic, receipt))
    });
    let failed = |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let (note, topic, receipt) =
        stored.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    // After the commit, so that subscribers wake now.
    app.khala.announce(&topic, &receipt).await;
    Ok(Json(note))
}

/// The notes, from the application's own table.
async fn list(State(app): State<App>) -> Result<Json<Vec<Note>>, (StatusCode, String)> {
    let read = spawn_blocking(move || -> Result<Vec<Note>, rusqlite::Error> {
        let database = app.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = database.prepare_cached("SELECT id, text FROM notes ORDER BY id")?;
        let notes = query.query_map([], |row| Ok(Note { id: row.get(0)?, text: row.get(1)? }))?;
        notes.collect()
    });
    let failed = |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    Ok(Json(read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?))
}

/// A token to follow with. A real application gives it to users whom it knows.
async fn token(State(app): State<App>) -> String {
    let hour = Duration::from_secs(60 * 60);
    app.issuer.issue("somebody", &[Scope::Read], app.khala.now(), hour).reveal().to_owned()
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it tells what to do next")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (router, server) = application(Path::new("notes.db"))?;
    let listener = TcpListener::bind("127.0.0.1:4511").await?;
    println!(
        "\
Follow the notes:

    khala tail notes --from floor --url http://127.0.0.1:4511 --token $(curl -s -X POST http://127.0.0.1:4511/token)

and add one:

    curl -H 'Content-Type: application/json' -d '{{\"text\":\"hello\"}}' http://127.0.0.1:4511/notes
"
    );
    let stop = {
        let server = server.clone();
        async move {
            let _ = tokio::signal::ctrl_c().await;
            server.drain();
        }
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    server.drained().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{SinkExt as _, StreamExt as _};
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};
    use tokio::{net::TcpStream, time::timeout};
    use tokio_tungstenite::{client_async, tungstenite::Message};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn send(address: &str, method: &str, path: &str, body: &str, token: &str) -> (u16, String) {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", address)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::<Bytes>::from(body.to_owned()))
            .unwrap();
        let response = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_note_is_stored_and_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (router, server) = application(&folder.path().join("notes.db")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });

        let (_, token) = send(&address, "POST", "/token", "", "").await;
        let url = format!("ws://{address}/sync/v1/websocket?vsn=2.0.0&token={token}");
        let stream = TcpStream::connect(&address).await.unwrap();
        let (mut socket, _) = timeout(LONG, client_async(url, stream)).await.unwrap().unwrap();
        socket.send(Message::text(json!(["1", "1", NOTES, "phx_join", {}]).to_string())).await.unwrap();
        let mut hear = async || -> Value {
            let message = timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap();
            serde_json::from_str(message.to_text().unwrap()).unwrap()
        };
        assert_eq!(hear().await[4]["status"], "ok");

        let (status, note) = send(&address, "POST", "/notes", r#"{"text":"hello"}"#, "").await;
        assert_eq!((status, note.as_str()), (200, r#"{"id":1,"text":"hello"}"#));
        let batch = hear().await;
        assert_eq!(batch[4]["updates"][0]["payload"], json!({"id": 1, "text": "hello"}), "{batch}");

        let (_, notes) = send(&address, "GET", "/notes", "", "").await;
        assert_eq!(notes, r#"[{"id":1,"text":"hello"}]"#);
        let (_, document) = send(&address, "GET", "/v1/topics/notes/documents/note%2F1", "", &token).await;
        assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["payload"]["text"], "hello");

        server.drain();
        assert_eq!(hear().await[3], "sync:drain");
    }
}
