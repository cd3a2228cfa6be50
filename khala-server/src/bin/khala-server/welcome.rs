//! What a person who has just started the server pastes next.

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    Timestamp,
    auth::{Access, TokenClaims},
};

use crate::{key::Key, log_writer, settings::Database};

/// How long the printed token is good.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The topic that the examples use.
const TOPIC: &str = "run:7:events";

/// Prints where the server is and, if the key is only for development, a token and what to do with it.
///
/// A token of a real key is not printed: standard output often ends in a log.
///
/// # Errors
/// One line, when the token cannot be signed.
pub(crate) fn print(
    address: SocketAddr,
    database: &Database,
    key: &Key,
    options: &JwtOptions,
    now: Timestamp,
) -> Result<(), String> {
    let url = format!("http://{address}");
    let text = match key {
        Key::None | Key::Real { .. } => format!("Khala is up at {url}, on {database}.\n"),
        Key::Development { file, secret } => {
            let token =
                token(secret, options, now).map_err(|fault| format!("no token can be made: {fault}"))?;
            let (token, file) = (token.as_str(), file.display());
            let good_for = in_words(good_for(options));
            format!(
                "\
Khala is up at {url}, on {database}, with the development key {file}.

A token that may publish and read, good for {good_for}. In each terminal:

    export KHALA_URL={url}
    export KHALA_TOKEN={token}

Follow a topic:

    khala tail {TOPIC}

Publish to it from another terminal:

    khala publish {TOPIC} '{{\"text\":\"hello\"}}' --kind note

or without the khala command:

    curl -H \"Authorization: Bearer $KHALA_TOKEN\" -H 'Content-Type: application/json' \\
        -d '{{\"kind\":\"note\",\"payload\":{{\"text\":\"hello\"}}}}' $KHALA_URL/v1/topics/{TOPIC}/updates

Ctrl-C stops it.
"
            )
        }
    };
    log_writer::write_briefly(move || io::stdout().lock().write_all(text.as_bytes()));
    Ok(())
}

fn good_for(options: &JwtOptions) -> Duration {
    options.max_age.map_or(GOOD_FOR, |age| age.min(GOOD_FOR))
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds % 3_600 == 0 => format!("{} hours", seconds / 3_600),
        seconds => format!("{seconds} seconds"),
    }
}

fn token(secret: &[u8], options: &JwtOptions, now: Timestamp) -> Result<String, Box<dyn Error>> {
    let mandate = TokenClaims::new("dev", [Access::Publish, Access::Read].map(Access::scope));
    let issued = JwtIssuer::hs256(secret, options.clone())?.sign(&mandate, now, good_for(options))?;
    Ok(issued.token.reveal().to_owned())
}
