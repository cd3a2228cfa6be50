//! Who may see which notes: the application's logins and its table of readers, put before Khala.
//!
//! A login is proved by a secret in a cookie. The browser sends the cookie with each request and with the WebSocket's handshake,
//! so the page needs no token. Khala knows a login by its public id (`sid`): logging out revokes that id, which closes the
//! login's sockets. Whose notes somebody may read is asked at each join.
//!
//! # Invariants
//! - The secret leaves in the `Set-Cookie` header of [`log_in`] alone. The table has its hash, and the cookie is `HttpOnly`: no
//!   script can read it.
//! - A grant ends with its login.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderName, StatusCode, header, request::Parts},
};
use khala_core::{
    Error as Fault, ErrorKind, Grant, Khala, Timestamp, Token, Topic,
    auth::{
        Access, Authorizer, Denied, Revocation, RevocationId, RevocationTarget, VerifiedClaims, Verifier,
    },
    class::{Classes, TopicClass, TopicPattern},
};
use khala_server::Server;
use khala_store_sqlite::SqliteStore;
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{App, Database, Failed, failed};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long a login lasts.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Khala, open to the application's users.
pub(crate) fn server(store: SqliteStore, database: &Database) -> Result<(Khala, Server), Box<dyn Error>> {
    // Readable with a scope, if the authorizer agrees; published by the application alone; no other topics.
    let notes =
        TopicClass::new("notes", TopicPattern::parse("notes:{owner}")?).with_read([Access::Read.scope()]);
    let khala = Khala::builder(store)
        .with_verifier(Arc::new(Logins(database.clone())))
        .with_classes(Classes::new(vec![notes])?)
        .with_authorizer(Arc::new(Readers(database.clone())))
        .build();
    // Pages of other origins are refused, because a browser sends the cookie with their requests too. What is older than
    // the week that the class keeps goes by itself.
    let server = Server::builder(khala.clone()).with_token_source(secret_of).with_sweep_every(HOUR).build();
    Ok((khala, server))
}

/// Everybody reads their own notes, and those that were shared with them.
#[derive(Debug)]
struct Readers(Database);

#[async_trait]
impl Authorizer for Readers {
    async fn authorize(&self, grant: &Grant, topic: &Topic, _: Access) -> Result<(), Denied> {
        let owner = topic.as_str().strip_prefix("notes:").unwrap_or_default().to_owned();
        let reader = grant.subject().to_owned();
        if owner == reader {
            return Ok(());
        }
        let shared = self.0.run(move |database| {
            let mut query =
                database.prepare_cached("SELECT 1 FROM readers WHERE owner = ?1 AND reader = ?2")?;
            Ok(query.exists(params![owner, reader])?)
        });
        match shared.await.map_err(unavailable) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Denied::ForbiddenTopic),
            // Down is neither yes nor no: the client is asked to try again.
            Err(error) => Err(Denied::Unavailable(error)),
        }
    }
}

/// The secret of a request's login, from its cookie.
fn secret_of(head: &Parts) -> Option<Token> {
    let cookies = head.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split("; "));
    pairs.find_map(|pair| pair.strip_prefix("login=")).map(Token::new)
}

/// What the table has of a secret. A secret of 32 random bytes cannot be guessed, so its hash needs no salt and no delay.
fn hash(secret: &Token) -> [u8; 32] {
    Sha256::digest(secret.reveal()).into()
}

/// A login, without its secret.
pub(crate) struct Login {
    /// Its public id.
    id: String,
    pub(crate) user: String,
    ends: Timestamp,
}

/// The logins that have not ended.
#[derive(Debug)]
struct Logins(Database);

impl Logins {
    async fn find(
        &self,
        secret: &Token,
        now: Timestamp,
    ) -> Result<Option<Login>, Box<dyn Error + Send + Sync>> {
        let hash = hash(secret);
        let found = self.0.run(move |database| {
            let mut query =
                database.prepare_cached("SELECT id, user, ends FROM logins WHERE hash = ?1 AND ends > ?2")?;
            let login = query.query_row(params![hash, millis(now)?], |row| {
                let ends: i64 = row.get(2)?;
                Ok(Login {
                    id: row.get(0)?,
                    user: row.get(1)?,
                    ends: Timestamp::from_millis(ends.unsigned_abs()),
                })
            });
            Ok(login.optional()?)
        });
        found.await
    }
}

#[async_trait]
impl Verifier for Logins {
    async fn verify(&self, token: &Token, now: Timestamp) -> Result<Grant, Denied> {
        let login = self.find(token, now).await.map_err(|error| Denied::Unavailable(unavailable(error)))?;
        let Login { id, user, ends } = login.ok_or(Denied::InvalidToken("there is no such login"))?;
        Ok(Grant::from_verified(VerifiedClaims {
            session_id: Some(id),
            ..VerifiedClaims::new(user, [Access::Read.scope()], ends)
        }))
    }
}

/// The application's own routes take the login of a request.
impl FromRequestParts<App> for Login {
    type Rejection = Failed;

    async fn from_request_parts(head: &mut Parts, app: &App) -> Result<Self, Failed> {
        let unknown = || (StatusCode::UNAUTHORIZED, "log in first".to_owned());
        let secret = secret_of(head).ok_or_else(unknown)?;
        let logins = Logins(app.database.clone());
        logins.find(&secret, app.khala.now()).await.map_err(failed)?.ok_or_else(unknown)
    }
}

fn unavailable(cause: Box<dyn Error + Send + Sync>) -> Fault {
    Fault::caused_by(ErrorKind::Unavailable, "notes", "the application's tables cannot be read", cause)
}

fn millis(moment: Timestamp) -> Result<i64, std::num::TryFromIntError> {
    moment.as_millis().try_into()
}

/// A user, as a page names and is told it.
#[derive(Deserialize, Serialize)]
pub(crate) struct User {
    user: String,
}

/// Who is logged in.
pub(crate) async fn who(Login { user, .. }: Login) -> Json<User> {
    Json(User { user })
}

/// Logs in. A real application asks for a password.
pub(crate) async fn log_in(
    State(app): State<App>,
    Json(User { user }): Json<User>,
) -> Result<[(HeaderName, String); 1], Failed> {
    // What is no topic's segment cannot own notes.
    if Topic::parse(&format!("notes:{user}")).is_err() || user.contains(':') {
        return Err((StatusCode::BAD_REQUEST, "this is no name for a user".to_owned()));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(failed)?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("{:016x}{:016x}", getrandom::u64().map_err(failed)?, getrandom::u64().map_err(failed)?);
    let hash = hash(&Token::new(&*secret));
    let now = app.khala.now();
    let stored = app.database.run(move |database| {
        database.execute("DELETE FROM logins WHERE ends <= ?1", [millis(now)?])?;
        let insert = "INSERT INTO logins (hash, id, user, ends) VALUES (?1, ?2, ?3, ?4)";
        Ok(database.execute(insert, params![hash, id, user, millis(now.plus(DAY))?])?)
    });
    stored.await.map_err(failed)?;
    // Where the application is reached by TLS: `__Host-login` for the name, and `Secure`.
    let cookie = format!("login={secret}; HttpOnly; SameSite=Lax; Path=/; Max-Age={}", DAY.as_secs());
    Ok([(header::SET_COOKIE, cookie)])
}

/// Logs out, and closes the sockets of the login.
pub(crate) async fn log_out(
    State(app): State<App>,
    Login { id, ends, .. }: Login,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1]), Failed> {
    // In a task of its own, which goes on when the client does not wait for the answer. The row is deleted last: logging out
    // can be tried again until it is done.
    let logged_out = tokio::spawn(async move {
        let target = RevocationTarget::Sid(RevocationId::parse(&id)?);
        // No grant of the login is valid for longer.
        let revocation = Revocation::new(target, app.khala.now()).with_until(ends);
        app.khala.access().revoke(revocation).await?;
        app.database
            .run(move |database| Ok(database.execute("DELETE FROM logins WHERE id = ?1", [id])?))
            .await
    });
    logged_out.await.map_err(failed)?.map_err(failed)?;
    let forget = "login=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0";
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, forget)]))
}

#[derive(Deserialize)]
pub(crate) struct NewReader {
    reader: String,
}

/// Lets somebody read one's notes.
pub(crate) async fn share(
    State(app): State<App>,
    Login { user: owner, .. }: Login,
    Json(NewReader { reader }): Json<NewReader>,
) -> Result<StatusCode, Failed> {
    let stored = app.database.run(move |database| {
        Ok(database.execute("INSERT OR IGNORE INTO readers VALUES (?1, ?2)", params![owner, reader])?)
    });
    stored.await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}
