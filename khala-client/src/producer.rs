//! What a producer submits, sent by one request after another: an update a line, answered line by line.
//!
//! # Invariants
//! - Lines are sent in the order in which they were submitted, and what was not answered is sent again from the first of it.
//! - Each has a dedup key, so that whatever an earlier connection stored is answered as a duplicate.
//! - After a failure nothing that was submitted later is sent.

use std::{collections::VecDeque, convert::Infallible, future::pending, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Method, header};
use khala_core::{
    Append, Batch, PublishError, Token, Topic,
    publish::{Answer, Submissions},
};
use reqwest::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    api,
    backoff::random,
    client::Client,
    error::{Error, Refused},
    http::Retry,
};

/// How much is put into one piece of the body.
const PIECE: usize = 64 << 10;
/// How long one answer may be.
const ANSWER: usize = 1 << 20;

/// A batch that is not answered.
struct Waiting {
    /// Its line of the stream; none for one that needs a request of its own.
    line: Option<Bytes>,
    batch: Batch,
    answer: Answer<Error>,
}

/// How a request ended.
enum Ended {
    /// Everything was answered.
    Idle,
    /// Try again from the first that is not answered.
    Lost(Error),
    /// The first that is not answered is refused for good.
    Refused(Error),
    /// Try again with the other token that there is.
    Renewed,
}

struct Sender {
    client: Client,
    topic: Topic,
    submissions: Submissions<Error>,
    /// In order.
    waiting: VecDeque<Waiting>,
    open: bool,
    /// Failures since anything was answered, and when the first was.
    failures: u32,
    since: Option<Instant>,
    renewed: bool,
}

/// Sends what is submitted until the producer is gone and everything is answered.
pub(crate) async fn send_all(client: Client, topic: Topic, submissions: Submissions<Error>) {
    let waiting = VecDeque::new();
    let sender =
        Sender { client, topic, submissions, waiting, open: true, failures: 0, since: None, renewed: false };
    sender.run().await;
}

impl Sender {
    async fn run(mut self) {
        loop {
            if self.waiting.is_empty() {
                match self.submissions.next().await {
                    Some(submitted) => self.take(submitted),
                    None => return,
                }
            }
            let ended = match self.waiting.front() {
                Some(Waiting { line: None, .. }) => self.publish().await,
                _ => self.stream().await,
            };
            let error = match ended {
                Ok(Ended::Idle) => continue,
                Ok(Ended::Lost(error)) => error,
                Ok(Ended::Refused(error)) | Err(error) => return self.fail(error),
                Ok(Ended::Renewed) => {
                    self.renewed = true;
                    continue;
                }
            };
            self.failures += 1;
            let http = self.client.http();
            let wait = http.backoff.wait(self.failures, error.at_least(&http.backoff), random());
            let since = *self.since.get_or_insert_with(Instant::now);
            if http.retry_for.is_some_and(|most| since.elapsed() + wait > most) {
                return self.fail(error);
            }
            self.client.tell_retry(&Retry { error: &error, failures: self.failures, wait });
            sleep(wait).await;
        }
    }

    fn take(&mut self, (batch, answer): (Batch, Answer<Error>)) {
        let batch =
            if batch.dedup.is_some() { Ok(batch) } else { api::draw_key().map(|key| batch.with_dedup(key)) };
        match batch {
            Ok(batch) => {
                let alone = batch.updates().len() > 1 || batch.expect.is_some();
                let line = (!alone).then(|| api::line(&batch));
                self.waiting.push_back(Waiting { line, batch, answer });
            }
            // The next attempt draws one.
            Err(error) => self.submissions.answer(answer, Err(PublishError::Failed(error))),
        }
    }

    /// The first that waits failed, and nothing behind it is sent any more.
    fn fail(mut self, error: Error) {
        let mut failure = Some(PublishError::Failed(error));
        for Waiting { answer, .. } in self.waiting.drain(..) {
            self.submissions.answer(answer, Err(failure.take().unwrap_or(PublishError::NotAttempted)));
        }
        self.submissions.stop();
    }

    fn answered(&mut self, append: Append) {
        (self.failures, self.since, self.renewed) = (0, None, false);
        if let Some(Waiting { answer, .. }) = self.waiting.pop_front() {
            self.submissions.answer(answer, PublishError::of(append));
        }
    }

    /// Publishes the first that waits by a request of its own.
    async fn publish(&mut self) -> Result<Ended, Error> {
        let Some(Waiting { batch, .. }) = self.waiting.front() else { return Ok(Ended::Idle) };
        // It tries again by itself for as long as it may.
        let append = self.client.publish(&self.topic, batch.clone()).await?;
        self.answered(append);
        Ok(Ended::Idle)
    }

    /// Streams what waits, and what comes, by one request.
    async fn stream(&mut self) -> Result<Ended, Error> {
        let http = Arc::clone(self.client.http());
        let token = http.tokens.current().await?;
        let (body, pieces) = mpsc::channel::<Bytes>(1);
        let pieces = stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((Ok::<_, Infallible>(piece), pieces))
        });
        let path = api::topic_path(&self.topic, "/updates");
        let request = http
            .request(&http.connector.requests, &Method::POST, &path, token.as_ref())?
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(Body::wrap_stream(pieces));
        let mut exchange = Exchange { body: Some(body), sent: 0, answered: 0, buffer: BytesMut::new() };
        let head = http.send(request);
        tokio::pin!(head);
        // The first lines go along with the head of the request.
        let response = loop {
            tokio::select! {
                response = &mut head => break response,
                permit = exchange.room(self.waiting.len()) => exchange.put(permit, &self.waiting),
            }
        };
        let mut response = match response {
            Ok(response) => response,
            Err(error @ Error::Unreachable { .. }) => return Ok(Ended::Lost(error)),
            Err(error) => return Err(error),
        };
        if !response.status().is_success() {
            return Ok(match http.in_time(http.whole(response)).await {
                Ok(answer) => self.of_refusal(answer.refused(), token.as_ref()),
                Err(error) => Ended::Lost(error),
            });
        }
        loop {
            // What needs a request of its own waits until everything before it is answered.
            let reading = self.open && self.waiting.back().is_none_or(|last| last.line.is_some());
            let sendable = self.waiting.iter().take_while(|waiting| waiting.line.is_some()).count();
            if sendable == 0 && !reading {
                return Ok(Ended::Idle);
            }
            tokio::select! {
                biased;
                piece = response.chunk() => {
                    let piece = match piece {
                        Ok(Some(piece)) => piece,
                        Err(cause) => return Ok(Ended::Lost(http.broken(&cause))),
                        // A server may end a stream in which nothing is left to answer.
                        Ok(None) if self.waiting.is_empty() => return Ok(Ended::Idle),
                        Ok(None) => return Ok(Ended::Lost(http.unreachable("the answers ended"))),
                    };
                    if let Some(ended) = self.answers(&mut exchange, &piece, token.as_ref())? {
                        return Ok(ended);
                    }
                }
                permit = exchange.room(sendable) => exchange.put(permit, &self.waiting),
                submitted = self.submissions.next(), if reading => match submitted {
                    Some(submitted) => self.take(submitted),
                    None => self.open = false,
                },
            }
        }
    }

    /// Reads the answers that a piece completes.
    fn answers(
        &mut self,
        exchange: &mut Exchange,
        piece: &[u8],
        token: Option<&Token>,
    ) -> Result<Option<Ended>, Error> {
        exchange.buffer.extend_from_slice(piece);
        while let Some(end) = exchange.buffer.iter().position(|byte| *byte == b'\n') {
            let line = exchange.buffer.split_to(end + 1);
            #[derive(Deserialize)]
            struct Line<'a> {
                line: u64,
                #[serde(borrow)]
                error: Option<&'a RawValue>,
            }
            let read =
                |fault: serde_json::Error| Error::Protocol(format!("an update was answered with {fault}"));
            let Line { line: number, error } = serde_json::from_slice(&line).map_err(read)?;
            if number != exchange.answered + 1 || (error.is_none() && self.waiting.is_empty()) {
                return Err(Error::Protocol(format!("line {number} was answered out of turn")));
            }
            let Some(error) = error else {
                (exchange.answered, exchange.sent) = (number, exchange.sent - 1);
                self.answered(api::acknowledged(&line)?);
                continue;
            };
            if self.waiting.is_empty() || exchange.sent == 0 {
                // The server ends a stream in which nothing was sent for long.
                return Ok(Some(Ended::Idle));
            }
            if let Some(conflict) = api::conflict(error.get().as_bytes()) {
                (exchange.answered, exchange.sent) = (number, exchange.sent - 1);
                self.answered(Append::Conflict(conflict));
                continue;
            }
            let refused = Refused::read(error.get().as_bytes(), api::status_of(error.get().as_bytes()));
            return Ok(Some(self.of_refusal(refused, token)));
        }
        if exchange.buffer.len() > ANSWER {
            return Err(Error::Protocol("an answer has no end".to_owned()));
        }
        Ok(None)
    }

    fn of_refusal(&self, refused: Refused, token: Option<&Token>) -> Ended {
        let renews = refused.wants_token() && !self.renewed;
        let error = Error::Refused(refused);
        if renews && self.client.http().tokens.renew(token) {
            Ended::Renewed
        } else if error.is_retryable() {
            Ended::Lost(error)
        } else {
            Ended::Refused(error)
        }
    }
}

/// One request, and how far it has come.
struct Exchange {
    body: Option<mpsc::Sender<Bytes>>,
    /// This many of the waiting lines were sent.
    sent: usize,
    /// This many lines were answered.
    answered: u64,
    buffer: BytesMut,
}

impl Exchange {
    /// Waits until something is to be sent and there is room for it.
    async fn room(&self, waiting: usize) -> mpsc::OwnedPermit<Bytes> {
        match &self.body {
            Some(body) if self.sent < waiting => match body.clone().reserve_owned().await {
                Ok(permit) => permit,
                // The answers say why.
                Err(_) => pending().await,
            },
            _ => pending().await,
        }
    }

    fn put(&mut self, permit: mpsc::OwnedPermit<Bytes>, waiting: &VecDeque<Waiting>) {
        let mut piece = BytesMut::new();
        for line in waiting.iter().skip(self.sent).map_while(|waiting| waiting.line.as_ref()) {
            if !piece.is_empty() && piece.len() + line.len() > PIECE {
                break;
            }
            piece.extend_from_slice(line);
            self.sent += 1;
        }
        drop(permit.send(piece.freeze()));
    }
}
