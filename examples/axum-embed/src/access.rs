//! Who may see which notes: the application's logins and its table of readers, put before Khala.
//!
//! A login is proved by a cookie, once, for a token (`POST /v1/token`); the token names the login, so that logging out
//! takes it back, on open connections too. Whose notes somebody may read is asked at each join.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use khala_auth::{
    JwtIssuer, JwtOptions, JwtVerifier,
    mint::{ClaimRule, Credential, CredentialError, Mint, MintPolicy},
};
use khala_core::{
    Error as Fault, ErrorKind, Grant, Khala, Timestamp, Topic,
    auth::{Access, Authorizer, Denied, Revocation, RevocationId, RevocationTarget},
    class::{Classes, TopicClass, TopicPattern},
};
use khala_server::Server;
use khala_store_sqlite::SqliteStore;
use rusqlite::{OptionalExtension as _, params};
use serde::Deserialize;

use crate::{App, Database, Failed, failed};

/// Where a real application has a secret of its own.
const SECRET: &[u8] = b"an example's key, which is public";
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long a token is good at most.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Khala, open to the application's users.
pub(crate) fn server(store: SqliteStore, database: &Database) -> Result<(Khala, Server), Box<dyn Error>> {
    let options = JwtOptions { max_age: Some(DAY), ..JwtOptions::default() };
    // Readable with a scope, if the authorizer agrees; published by the application alone; no other topics.
    let notes =
        TopicClass::new("notes", TopicPattern::parse("notes:{owner}")?).with_read([Access::Read.scope()]);
    let khala = Khala::builder(store)
        .with_verifier(Arc::new(JwtVerifier::hs256(SECRET, options.clone())?))
        .with_classes(Classes::new(vec![notes])?)
        .with_authorizer(Arc::new(Readers(database.clone())))
        .build();
    let logins: Arc<dyn Credential> = Arc::new(Logins(database.clone()));
    let mint = Mint::new(Arc::new(JwtIssuer::hs256(SECRET, options)?), [logins]);
    // What is older than the week that the class keeps goes by itself.
    let server = Server::builder(khala.clone()).with_mint(mint).with_sweep_every(HOUR).build();
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

/// Issues tokens to users that are logged in.
#[derive(Debug)]
struct Logins(Database);

#[async_trait]
impl Credential for Logins {
    async fn policy(&self, headers: &HeaderMap, _: Timestamp) -> Result<MintPolicy, CredentialError> {
        let id = login(headers).ok_or(CredentialError::Missing)?;
        let user = user(&self.0, id.clone())
            .await
            .map_err(|error| CredentialError::Unavailable(unavailable(error)))?;
        let user = user.ok_or(CredentialError::Invalid("no such login"))?;
        let session_id = ClaimRule::Exactly(id);
        Ok(MintPolicy { session_id, ..MintPolicy::for_subject(user, [Access::Read.scope()]) })
    }
}

fn unavailable(cause: Box<dyn Error + Send + Sync>) -> Fault {
    Fault::caused_by(ErrorKind::Unavailable, "notes", "the application's tables cannot be read", cause)
}

/// The login that the cookie names.
fn login(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    let id = cookies.split("; ").find_map(|cookie| cookie.strip_prefix("login="))?;
    Some(id.to_owned())
}

async fn user(database: &Database, login: String) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
    let found = database.run(move |database| {
        let mut query = database.prepare_cached("SELECT user FROM logins WHERE id = ?1")?;
        Ok(query.query_row([login], |row| row.get(0)).optional()?)
    });
    found.await
}

/// The login and the user of a request.
pub(crate) async fn known(database: &Database, headers: &HeaderMap) -> Result<(String, String), Failed> {
    let unknown = || (StatusCode::UNAUTHORIZED, "log in first".to_owned());
    let id = login(headers).ok_or_else(unknown)?;
    let user = user(database, id.clone()).await.map_err(failed)?.ok_or_else(unknown)?;
    Ok((id, user))
}

#[derive(Deserialize)]
pub(crate) struct NewLogin {
    user: String,
}

/// Logs in. A real application asks for a password.
pub(crate) async fn log_in(
    State(app): State<App>,
    Json(NewLogin { user }): Json<NewLogin>,
) -> Result<[(header::HeaderName, String); 1], Failed> {
    // What is no topic's segment cannot own notes.
    if Topic::parse(&format!("notes:{user}")).is_err() || user.contains(':') {
        return Err((StatusCode::BAD_REQUEST, "this is no name for a user".to_owned()));
    }
    let id = format!("{:016x}{:016x}", getrandom::u64().map_err(failed)?, getrandom::u64().map_err(failed)?);
    let cookie = format!("login={id}; HttpOnly; SameSite=Strict");
    let stored = app.database.run(move |database| {
        Ok(database.execute("INSERT INTO logins (id, user) VALUES (?1, ?2)", params![id, user])?)
    });
    stored.await.map_err(failed)?;
    Ok([(header::SET_COOKIE, cookie)])
}

/// Logs out: the tokens of this login count no longer, and there are no more.
pub(crate) async fn log_out(State(app): State<App>, headers: HeaderMap) -> Result<StatusCode, Failed> {
    let (login, _) = known(&app.database, &headers).await?;
    let target = RevocationTarget::Sid(RevocationId::parse(&login).map_err(failed)?);
    let now = app.khala.now();
    // Longer than the last token can be good that is made before the login is gone.
    let revocation = Revocation::new(target, now).with_until(now.plus(2 * DAY));
    app.khala.access().revoke(revocation).await.map_err(failed)?;
    let ended =
        app.database.run(move |database| Ok(database.execute("DELETE FROM logins WHERE id = ?1", [login])?));
    ended.await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct NewReader {
    reader: String,
}

/// Lets somebody read one's notes.
pub(crate) async fn share(
    State(app): State<App>,
    headers: HeaderMap,
    Json(NewReader { reader }): Json<NewReader>,
) -> Result<StatusCode, Failed> {
    let (_, owner) = known(&app.database, &headers).await?;
    let stored = app.database.run(move |database| {
        Ok(database.execute("INSERT OR IGNORE INTO readers VALUES (?1, ?2)", params![owner, reader])?)
    });
    stored.await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}
