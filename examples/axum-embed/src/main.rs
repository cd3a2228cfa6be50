//! An axum application with users, routes and tables of its own, and Khala beside them: who may follow `notes:ada`
//! sees exactly the notes of Ada's that were committed, live, and after any absence what was missed.
//!
//! Here is what the application does: it stores and publishes in one transaction. In `access.rs` is who may see it, and in
//! `page.html` a page that follows the notes over a WebSocket. `cargo run -p axum-embed`, then follow the lines that it prints.

mod access;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::Html,
    routing::{get, post},
};
use khala_core::{Append, Khala, Topic, Update};
use khala_server::Server;
use khala_store_sqlite::{SqliteStore, append_in};
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::spawn_blocking};

use self::access::Login;

type Failed = (StatusCode, String);

#[derive(Clone)]
struct App {
    khala: Khala,
    database: Database,
}

/// The application's own connection to the file that Khala's tables are in too.
#[derive(Clone, Debug)]
struct Database(Arc<Mutex<Connection>>);

impl Database {
    fn open(path: &Path) -> Result<Self, rusqlite::Error> {
        let own = Connection::open(path)?;
        own.busy_timeout(Duration::from_secs(5))?;
        own.execute_batch(
            "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, text TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS readers (owner TEXT NOT NULL, reader TEXT NOT NULL, UNIQUE (owner, reader));
             CREATE TABLE IF NOT EXISTS logins (
                 hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL, ends INTEGER NOT NULL
             );",
        )?;
        Ok(Self(Arc::new(Mutex::new(own))))
    }

    /// Works with the database where that holds nobody up.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Box<dyn Error + Send + Sync>> + Send + 'static,
    ) -> Result<T, Box<dyn Error + Send + Sync>> {
        let own = Arc::clone(&self.0);
        spawn_blocking(move || work(&mut own.lock().unwrap_or_else(PoisonError::into_inner))).await?
    }
}

fn failed(error: impl std::fmt::Display) -> Failed {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
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

/// The application: its routes, and Khala's beside them.
fn application(path: &Path) -> Result<(Router, Server), Box<dyn Error>> {
    let store = SqliteStore::open(path)?;
    let database = Database::open(path)?;
    let (khala, server) = access::server(store, &database)?;
    let router = Router::new()
        .route("/", get(Html(include_str!("page.html"))))
        .route("/login", get(access::who).post(access::log_in))
        .route("/logout", post(access::log_out))
        .route("/readers", post(access::share))
        .route("/notes", get(list).post(add))
        .with_state(App { khala, database })
        .merge(server.router());
    Ok((router, server))
}

/// Serves until `stop`. Then pages are told and their sockets closed, and the port is closed last.
async fn serve(
    listener: TcpListener,
    (router, server): (Router, Server),
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stop = async move {
        stop.await;
        server.shut_down().await;
    };
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

/// Stores a note and publishes it, both or neither.
async fn add(
    State(app): State<App>,
    Login { user: owner, .. }: Login,
    Json(note): Json<NewNote>,
) -> Result<Json<Note>, Failed> {
    let now = app.khala.now();
    let stored = app.database.run(move |database| {
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO notes (owner, text) VALUES (?1, ?2)", params![owner, note.text])?;
        let note = Note { id: transaction.last_insert_rowid(), text: note.text };

        let topic = Topic::parse(&format!("notes:{owner}"))?;
        let update = Update::json("note_added", &note)?.doc_key(format!("note/{}", note.id));
        let Append::Written(receipt) = append_in(&transaction, &topic, &update.try_into()?, now)? else {
            return Err("a new note cannot be in anybody's way".into());
        };
        transaction.commit()?;
        Ok((note, topic, receipt))
    });
    let (note, topic, receipt) = stored.await.map_err(failed)?;
    // After the commit, so that subscribers wake now.
    app.khala.announce(&topic, &receipt).await;
    Ok(Json(note))
}

/// One's own notes, from the application's own table.
async fn list(State(app): State<App>, Login { user: owner, .. }: Login) -> Result<Json<Vec<Note>>, Failed> {
    let read = app.database.run(move |database| {
        let mut query = database.prepare_cached("SELECT id, text FROM notes WHERE owner = ?1 ORDER BY id")?;
        let notes = query.query_map([owner], |row| Ok(Note { id: row.get(0)?, text: row.get(1)? }))?;
        Ok(notes.collect::<Result<_, _>>()?)
    });
    read.await.map(Json).map_err(failed)
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it tells what to do next")]
async fn main() -> Result<(), Box<dyn Error>> {
    let application = application(Path::new("notes.db"))?;
    let listener = TcpListener::bind("127.0.0.1:4511").await?;
    println!(
        r#"Open http://127.0.0.1:4511/ in a browser, or log in as Ada here:

    curl -c ada -H 'Content-Type: application/json' -d '{{"user":"ada"}}' http://127.0.0.1:4511/login

follow her notes; a program sends as a token what a browser sends as a cookie:

    awk '/login/ {{ print $7 }}' ada >ada.token
    khala tail notes:ada --from floor --url http://127.0.0.1:4511 --token-file ada.token

add one:

    curl -b ada -H 'Content-Type: application/json' -d '{{"text":"hello"}}' http://127.0.0.1:4511/notes

and log out, which ends the following:

    curl -b ada -X POST http://127.0.0.1:4511/logout
"#
    );
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(serve(listener, application, stop).await?)
}

#[cfg(test)]
mod tests;
