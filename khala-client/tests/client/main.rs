//! The client against a server that misbehaves on command.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod calls;
mod fake;
mod follow;
mod handle;
mod tokens;

use std::time::Duration;

use khala_client::{Backoff, Client, ClientBuilder};
use khala_core::{Token, Topic};

use self::fake::Fake;

/// A client that does not wait long.
fn client(fake: &Fake) -> ClientBuilder {
    Client::builder(fake.url())
        .token(Token::new("secret-token"))
        .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(20)))
}

fn topic() -> Topic {
    Topic::parse("run:7:events").unwrap()
}
