//! Those who publish: over HTTP at every node, and by SQL in transactions of their own.
//!
//! Each waits for its answer before it goes on, and tries again, with the same key and anywhere, until it has one: so
//! there is no line of which it is not known in the end whether it is stored.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::{Request, StatusCode, header};
use main_job::{
    chance::Chance,
    checker::Acknowledged,
    failure::{During as _, Failure},
    http,
    place::Place,
};
use serde::Deserialize;
use tokio::{
    sync::RwLock,
    time::{Instant, sleep, timeout},
};

use crate::book::{Book, Lines};

/// A node that takes longer for an answer is given up for this attempt.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The longest pause before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What every publisher has.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// Its number in the book, and its seed's.
    pub(crate) number: usize,
    pub(crate) book: Arc<Book>,
    /// Held while something is being published: a caller that has all of it knows that every publisher rests.
    pub(crate) busy: Arc<RwLock<()>>,
    pub(crate) seed: u64,
    /// The longest pause between two publishes.
    pub(crate) pause: Duration,
}

impl Desk {
    pub(crate) fn chance(&self) -> Chance {
        Chance::new(self.seed.wrapping_mul(31).wrapping_add(self.number as u64))
    }

    /// Up to `most` new lines on a topic.
    pub(crate) fn write(&self, chance: &mut Chance, most: u64) -> Lines {
        let topic = index(chance, self.book.topics().len());
        self.book.write(self.number, topic, chance.number(1..=most))
    }

    pub(crate) async fn rest(&self, chance: &mut Chance) {
        sleep(chance.pause(u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX))).await;
    }
}

/// A publisher over HTTP, at home at one of the nodes.
#[derive(Debug)]
pub(crate) struct OverHttp {
    pub(crate) desk: Desk,
    pub(crate) place: Arc<Place>,
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) home: usize,
}

#[derive(Deserialize)]
struct Stored {
    epoch: String,
    first: u64,
    last: u64,
    duplicate: bool,
}

impl OverHttp {
    /// Publishes for as long as it is waited for; ready when that fails.
    pub(crate) async fn publish(self) -> Failure {
        let mut chance = self.desk.chance();
        loop {
            let busy = self.desk.busy.read().await;
            let lines = self.desk.write(&mut chance, 4);
            if let Err(failure) = self.store(&lines, &mut chance).await {
                return failure;
            }
            drop(busy);
            self.desk.rest(&mut chance).await;
        }
    }

    /// Returns when these lines are acknowledged.
    async fn store(&self, lines: &Lines, chance: &mut Chance) -> Result<(), Failure> {
        let Self { desk: Desk { number, book, .. }, place, nodes, home } = self;
        let Lines { topic, numbers, texts } = lines;
        // Put together as text: a JSON value would lose the payloads' own.
        let updates: Vec<_> =
            texts.iter().map(|text| format!(r#"{{"kind":"several","payload":{text}}}"#)).collect();
        let body = format!(r#"{{"updates":[{}]}}"#, updates.join(","));
        let path = format!("/v1/topics/{}/updates", book.topics()[*topic]);
        let key = format!("several-{number}-{topic}-{}", numbers[0]);
        let began = Instant::now();
        let mut node = *home;
        let mut wait = Duration::from_millis(20);
        loop {
            let head = Request::post(&path)
                .header(header::CONTENT_TYPE, "application/json")
                .header("idempotency-key", &key);
            let attempt = Instant::now();
            let token = place.token()?;
            let sent = http::send(nodes[node], &token, head, body.clone().into());
            match timeout(ANSWER_WITHIN, sent).await {
                Ok(Ok((StatusCode::OK | StatusCode::CREATED, answer))) => {
                    let Stored { epoch, first, last, duplicate } =
                        serde_json::from_slice(&answer).during("reading an acknowledgement")?;
                    let batch =
                        Acknowledged { epoch, first_seq: first, last_seq: last, lines: *numbers, duplicate };
                    book.acknowledged(*number, *topic, batch, node, (began, attempt));
                    return Ok(());
                }
                // A server that stood still has the request for longer than its token is good: the next one has a fresh token.
                Ok(Ok((StatusCode::UNAUTHORIZED, answer))) if is_expiry(&answer) => {}
                Ok(Ok((status, answer))) if !status.is_server_error() => {
                    let answer = String::from_utf8_lossy(&answer);
                    return Err(Failure::new(format_args!("POST {path} was answered {status}: {answer}")));
                }
                // Not now, not here, or nobody knows.
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_AFTER);
            node = (node + 1 + index(chance, nodes.len() - 1)) % nodes.len();
        }
    }
}

/// Whether that is the refusal of a token that has ended.
fn is_expiry(problem: &[u8]) -> bool {
    let code = |problem: serde_json::Value| problem["code"] == "token_expired";
    serde_json::from_slice(problem).is_ok_and(code)
}

/// One of that many.
pub(crate) fn index(chance: &mut Chance, count: usize) -> usize {
    usize::try_from(chance.number(0..=count as u64 - 1)).unwrap_or_default()
}
