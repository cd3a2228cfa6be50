//! Those who publish: over HTTP at every node, and by SQL in transactions of their own.
//!
//! Each waits for its answer before it goes on, and tries again, with the same key and anywhere, until it has one: so
//! there is no line of which it is not known in the end whether it is stored.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::StatusCode;
use khala_scenarios::{http::Client, rng::Rng, workspace::Workspace};
use khala_testing::{During as _, Failure};
use serde::Deserialize;
use tokio::{
    sync::RwLock,
    time::{Instant, sleep, timeout},
};

use crate::model::{Acknowledged, Lines, Model};

/// A node that takes longer for an answer is given up for this attempt.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The longest pause before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What every publisher has.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    /// Its number in the model, and its seed's.
    pub(crate) number: usize,
    pub(crate) model: Arc<Model>,
    /// Held while something is being published: a caller that has all of it knows that every publisher rests.
    pub(crate) busy: Arc<RwLock<()>>,
    pub(crate) seed: u64,
    /// The longest pause between two publishes.
    pub(crate) pause: Duration,
}

impl Desk {
    pub(crate) fn rng(&self) -> Rng {
        Rng::new(self.seed.wrapping_mul(31).wrapping_add(self.number as u64))
    }

    /// Up to `most` new lines on a topic.
    pub(crate) fn write(&self, rng: &mut Rng, most: u64) -> Lines {
        let topic = index(rng, self.model.topics().len());
        self.model.write(self.number, topic, rng.number(1..=most))
    }

    pub(crate) async fn rest(&self, rng: &mut Rng) {
        sleep(rng.pause(u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX))).await;
    }
}

/// A publisher over HTTP, at home at one of the nodes.
#[derive(Debug)]
pub(crate) struct OverHttp {
    pub(crate) desk: Desk,
    pub(crate) workspace: Arc<Workspace>,
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
        let mut rng = self.desk.rng();
        loop {
            let busy = self.desk.busy.read().await;
            let lines = self.desk.write(&mut rng, 4);
            if let Err(failure) = self.store(&lines, &mut rng).await {
                return failure;
            }
            drop(busy);
            self.desk.rest(&mut rng).await;
        }
    }

    /// Returns when these lines are acknowledged.
    async fn store(&self, lines: &Lines, rng: &mut Rng) -> Result<(), Failure> {
        let Self { desk: Desk { number, model, .. }, workspace, nodes, home } = self;
        let Lines { topic, numbers, texts } = lines;
        // Put together as text: a JSON value would lose the payloads' own.
        let updates: Vec<_> =
            texts.iter().map(|text| format!(r#"{{"kind":"several","payload":{text}}}"#)).collect();
        let body = format!(r#"{{"updates":[{}]}}"#, updates.join(","));
        let path = format!("/v1/topics/{}/updates", model.topics()[*topic]);
        let key = format!("several-{number}-{topic}-{}", numbers[0]);
        let began = Instant::now();
        let mut node = *home;
        let mut wait = Duration::from_millis(20);
        loop {
            let attempt = Instant::now();
            let client = Client::new(nodes[node], workspace.token()?);
            let sent = timeout(ANSWER_WITHIN, client.post(&path, Some(&key), body.clone().into())).await;
            match sent {
                Ok(Ok(answer)) if answer.status.is_success() => {
                    let Stored { epoch, first, last, duplicate } =
                        serde_json::from_slice(&answer.body).during("reading an acknowledgement")?;
                    let batch =
                        Acknowledged { epoch, first_seq: first, last_seq: last, lines: *numbers, duplicate };
                    model.acknowledged(*number, *topic, &batch, node, (began, attempt));
                    return Ok(());
                }
                // A server that stood still has the request for longer than its token is good: the next one has a fresh token.
                Ok(Ok(answer))
                    if answer.status == StatusCode::UNAUTHORIZED
                        && answer.code().as_deref() == Some("token_expired") => {}
                Ok(Ok(answer)) if !answer.status.is_server_error() => {
                    return Err(Failure::new(format_args!("POST {path}: {}", answer.words())));
                }
                // Not now, not here, or nobody knows.
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_AFTER);
            node = (node + 1 + index(rng, nodes.len() - 1)) % nodes.len();
        }
    }
}

/// One of that many.
pub(crate) fn index(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.number(0..=count as u64 - 1)).unwrap_or_default()
}
