//! What a person who has just started the server pastes next.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use khala_core::{JwtIssuer, Scope, Timestamp};

use crate::key::Key;

/// How long the printed token is good.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The topic that the examples use.
const TOPIC: &str = "run:7:events";

/// Prints where the server is and, if the key is only for development, a token and what to do with it.
///
/// A token of a real key is not printed: standard output often ends in a log.
pub(crate) fn print(address: SocketAddr, database: &Path, key: &Key, issuer: &JwtIssuer, now: Timestamp) {
    let url = format!("http://{address}");
    let database = database.display();
    let text = match key {
        Key::Real { .. } => format!("Khala is up at {url}, on {database}.\n"),
        Key::Development { file, .. } => {
            let token = issuer.issue("dev", &[Scope::Publish, Scope::Read], now, GOOD_FOR);
            let (token, file) = (token.reveal(), file.display());
            format!(
                "\
Khala is up at {url}, on {database}, with the development key {file}.

A token that may publish and read, good for 24 hours. In each terminal:

    export KHALA_URL={url}
    export KHALA_TOKEN={token}

Follow a topic:

    khala tail {TOPIC}

Publish to it from another terminal:

    echo '{{\"text\":\"hello\"}}' | khala publish {TOPIC} --kind note

or without the khala command:

    curl -H \"Authorization: Bearer $KHALA_TOKEN\" -H 'Content-Type: application/json' \\
        -d '{{\"kind\":\"note\",\"payload\":{{\"text\":\"hello\"}}}}' $KHALA_URL/v1/topics/{TOPIC}/updates

Ctrl-C stops it.
"
            )
        }
    };
    // Nobody may be there to read it.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
