//! The client against a server that misbehaves on command.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod calls;
mod fake;
mod follow;
mod handle;
mod tokens;

use std::time::Duration;

use khala_client::{Backoff, Client, ClientBuilder, ClientOptions};
use khala_core::{Token, Topic};

use self::fake::Fake;

/// Short waits between attempts.
fn options() -> ClientOptions {
    let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
    ClientOptions { backoff, ..ClientOptions::default() }
}

/// A client that does not wait long.
fn client(fake: &Fake) -> ClientBuilder {
    Client::builder(fake.url()).token(Token::new("secret-token")).options(options())
}

/// Options of a client that does not wait long, and takes a quiet connection for dead.
fn pulse(heartbeat_interval: Duration, heartbeat_timeout: Duration) -> ClientOptions {
    ClientOptions { heartbeat_interval, heartbeat_timeout, ..options() }
}

/// Options of a client that does not wait long, and renews its tokens after that share of their time.
fn renewing(renewal_share: f64) -> ClientOptions {
    ClientOptions { renewal_share, renewal_margin: Duration::ZERO, ..options() }
}

fn topic() -> Topic {
    Topic::parse("run:7:events").unwrap()
}
