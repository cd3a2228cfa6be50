//! `POST /v1/topics/{topic}/updates` with `application/x-ndjson`: an update a line, published as it arrives and answered
//! as it is committed, while the request goes on.
//!
//! What must stay true: lines are handed to the journal in their order and answered in their order; an acknowledged line
//! is on stable storage; after a line that is refused nothing is stored; and a producer that sends faster than the store
//! writes, or reads no answers, is not read, so that a stream holds bounded memory.

use std::{error::Error as StdError, pin::pin};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, poll, stream::FuturesOrdered};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Body;
use khala_core::{
    Append, Batch, Error, Grant, PublishLimited, Topic, TraceContext,
    telemetry::{self, Surface},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::{unconstrained, yield_now},
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{
    Server, body,
    lines::{LineFault, Lines},
    problem::Problem,
    publish::{self, IDEMPOTENCY_KEY, Stored},
    response::ResponseBody,
};

const MEDIA_TYPE: &str = "application/x-ndjson";

/// So many lines may be on their way to stable storage, and so many bytes, but for the last of them.
const LINES_IN_FLIGHT: usize = 1_024;
const BYTES_IN_FLIGHT: usize = 4 << 20;

/// So many bytes of answers may wait for the producer to read them, but for the last of them.
const ANSWER_BYTES: usize = 64 << 10;

/// After a refusal, what the producer still sends is taken and forgotten for so long: a connection that is closed on
/// unread bytes is reset, and that may take the answer away from who has not read it.
const LINGER: Duration = Duration::from_secs(2);

/// Whether the body is a stream of updates by its own account.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    body::is_of(headers, MEDIA_TYPE)
}

/// Begins to publish the lines of `body`, each if `grant` still stands when it is there.
pub(crate) async fn publish<B>(
    server: &Server,
    grant: Grant,
    topic: Topic,
    headers: &HeaderMap,
    body: B,
    request_id: &str,
) -> Result<Response<ResponseBody>, Problem>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let detail = "a stream has no Idempotency-Key: each line may have a `dedup` of its own";
        return Err(Problem::invalid("invalid_idempotency_key", detail));
    }
    if server.is_closing() {
        return Err(draining());
    }
    let stream = Stream {
        hashes: server.0.khala.class_of(&topic).is_some_and(|class| class.hashes),
        trace: publish::trace(headers),
        patience: server.0.limits.body_timeout,
        line_bytes: server.0.limits.body_bytes,
        request_id: request_id.to_owned(),
        server: server.clone(),
        grant,
        topic,
    };
    let (answers, pieces) = mpsc::channel(1);
    let mut lines = Lines::new(body, stream.line_bytes);
    if headers.contains_key(header::EXPECT) {
        // Who waits to be told to go on (100) would take the answer's head for a no. hyper tells it when the body is asked
        // for, if that is before there is a head.
        let _ = poll!(pin!(lines.fill()));
        yield_now().await;
    }
    // A task of its own: what is on its way is announced also while the producer reads nothing.
    tokio::spawn(stream.run(lines, answers));
    let mut response = Response::new(ResponseBody::pieces(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

fn draining() -> Problem {
    Problem::unavailable("draining", "the server is shutting down")
}

struct Stream {
    server: Server,
    grant: Grant,
    topic: Topic,
    hashes: bool,
    trace: Option<TraceContext>,
    /// How long a line may take to arrive, and to wait for the class's rate.
    patience: Duration,
    line_bytes: usize,
    request_id: String,
}

/// A line that was read and not handed over yet.
struct Held {
    line: u64,
    bytes: usize,
    batch: Batch,
    since: Instant,
    /// When the class's rate may let it through.
    again: Instant,
}

/// A line that was handed over, and what became of it.
struct Done {
    line: u64,
    bytes: usize,
    answer: Result<Append, Error>,
}

type InFlight = FuturesOrdered<BoxFuture<'static, Done>>;

/// Where a line was stored, as the answer to a publish of its own says it, but for the topic.
#[derive(Serialize)]
struct Acknowledged {
    line: u64,
    #[serde(flatten)]
    receipt: Stored,
    duplicate: bool,
}

#[derive(Serialize)]
struct Refused {
    line: u64,
    error: Value,
}

#[derive(Debug, Default)]
struct Counts {
    written: u64,
    duplicates: u64,
    conflicts: u64,
}

impl Stream {
    async fn run<B>(self, mut lines: Lines<B>, answers: mpsc::Sender<Bytes>)
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut in_flight = InFlight::new();
        // What nobody is told of any more.
        let mut untold = InFlight::new();
        let mut counts = Counts::default();
        let (mut out, mut bytes, mut line) = (Vec::new(), 0, 0);
        let mut held: Option<Held> = None;
        let (mut reading, mut whole) = (true, false);
        let mut refusal: Option<(u64, Problem)> = None;
        let mut code = None;
        let mut quiet_since = Instant::now();
        let mut closing = pin!(self.server.closing());
        loop {
            if !reading
                && in_flight.is_empty()
                && let Some((line, problem)) = refusal.take()
            {
                code = Some(problem.code());
                refuse(&mut out, line, &problem);
            }
            let next = held.as_ref().map_or(line + 1, |held| held.line);
            let room = held.is_none()
                && in_flight.len() < LINES_IN_FLIGHT
                && bytes < BYTES_IN_FLIGHT
                && out.len() < ANSWER_BYTES;
            let nothing_waits = held.is_none() && in_flight.is_empty() && out.is_empty();
            let again = held.as_ref().map_or(quiet_since, |held| held.again);
            tokio::select! {
                // What is ready is gathered before it is written: many answers, one write.
                biased;
                Some(done) = in_flight.next(), if !in_flight.is_empty() => {
                    bytes -= done.bytes;
                    quiet_since = Instant::now();
                    let line = done.line;
                    if let Err(problem) = answer(&mut out, &mut counts, done) {
                        (reading, refusal) = (false, Some((line, problem)));
                        untold = std::mem::take(&mut in_flight);
                    }
                }
                Some(_) = untold.next(), if !untold.is_empty() => {}
                permit = answers.reserve(), if !out.is_empty() => match permit {
                    Ok(permit) => {
                        quiet_since = Instant::now();
                        permit.send(std::mem::take(&mut out).into());
                    }
                    Err(_) => break,
                },
                () = answers.closed(), if reading => break,
                () = closing.as_mut(), if reading => {
                    (reading, refusal) = (false, Some((next, draining())));
                }
                () = sleep_until(again), if reading && held.is_some() => {
                    if let Some(again) = held.take() {
                        let at = again.line;
                        match self.offer(again, &mut in_flight).await {
                            Ok(None) => {}
                            Ok(waits) => held = waits,
                            Err(problem) => (reading, refusal) = (false, Some((at, problem))),
                        }
                    }
                }
                read = lines.next(), if reading && room => {
                    quiet_since = Instant::now();
                    match read {
                        Some(read) => {
                            line += 1;
                            match self.take(line, read) {
                                Ok(None) => {}
                                Ok(Some(taken)) => {
                                    bytes += taken.bytes;
                                    match self.offer(taken, &mut in_flight).await {
                                        Ok(waits) => held = waits,
                                        Err(problem) => (reading, refusal) = (false, Some((line, problem))),
                                    }
                                }
                                Err(problem) => (reading, refusal) = (false, Some((line, problem))),
                            }
                        }
                        None => (reading, whole) = (false, true),
                    }
                }
                () = sleep_until(quiet_since + self.patience), if reading && nothing_waits => {
                    let detail = format!("no line arrived within {} s", self.patience.as_secs());
                    let late = Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
                    (reading, refusal) = (false, Some((next, late)));
                }
                else => break,
            }
        }
        let vanished = answers.is_closed();
        drop(answers);
        let Counts { written, duplicates, conflicts } = counts;
        tracing::debug!(
            request_id = self.request_id, topic = %self.topic, lines = line, written, duplicates, conflicts, code, vanished,
            "a stream of updates ended"
        );
        // What was handed over is seen through, so that it is announced.
        let linger = async {
            if !whole && !vanished {
                let _ = timeout(LINGER, lines.discard()).await;
            }
            drop(lines);
        };
        let see_through = async {
            while in_flight.next().await.is_some() {}
            while untold.next().await.is_some() {}
        };
        tokio::join!(linger, see_through);
    }

    /// What a line asks for; nothing if it is blank.
    fn take(&self, line: u64, read: Result<Bytes, LineFault>) -> Result<Option<Held>, Problem> {
        let text = read.map_err(|fault| match fault {
            LineFault::Broken => Problem::invalid("incomplete_body", "the body ended before it was whole"),
            LineFault::TooLong => {
                let detail = format!("a line may have {} bytes at most", self.line_bytes);
                Problem::too_large("body_too_large", detail)
            }
        })?;
        if text.iter().all(u8::is_ascii_whitespace) {
            self.server.0.khala.check(&self.grant)?;
            return Ok(None);
        }
        let batch = publish::line(&text, self.trace.as_ref())?;
        let now = Instant::now();
        Ok(Some(Held { line, bytes: text.len(), batch, since: now, again: now }))
    }

    /// Hands a line to the journal, or gives it back if the class's rate does not let it through yet.
    async fn offer(&self, mut held: Held, in_flight: &mut InFlight) -> Result<Option<Held>, Problem> {
        let khala = &self.server.0.khala;
        khala.check(&self.grant)?;
        match khala.check_publish(&self.topic, &held.batch) {
            Ok(()) => {}
            Err(limited @ PublishLimited::TooFast { retry_after, .. }) => {
                held.again = Instant::now() + retry_after;
                return if held.again > held.since + self.patience {
                    Err(limited.into())
                } else {
                    Ok(Some(held))
                };
            }
            Err(limited) => return Err(limited.into()),
        }
        if self.hashes {
            publish::check_hashes(&held.batch)?;
        }
        let Held { line, bytes, batch, .. } = held;
        let (khala, topic) = (khala.clone(), self.topic.clone());
        // A store takes what it is given in the order in which it was first asked, so each line is, before the next one.
        // Without the runtime's budget, which could send it away before it has reached the store's queue.
        let mut published: BoxFuture<'static, Done> = Box::pin(unconstrained(async move {
            Done { line, bytes, answer: khala.publish(&topic, batch).await }
        }));
        in_flight.push_back(match poll!(&mut published) {
            std::task::Poll::Ready(done) => Box::pin(std::future::ready(done)),
            std::task::Poll::Pending => published,
        });
        Ok(None)
    }
}

/// Answers a line whose fate is known. After a fault of the store there is no going on.
fn answer(out: &mut Vec<u8>, counts: &mut Counts, Done { line, answer, .. }: Done) -> Result<(), Problem> {
    let (receipt, duplicate) = match answer? {
        Append::Written(receipt) => (receipt, false),
        Append::Duplicate(receipt) => (receipt, true),
        Append::Conflict(conflict) => {
            counts.conflicts += 1;
            refuse(out, line, &Problem::conflict(&conflict));
            return Ok(());
        }
    };
    *if duplicate { &mut counts.duplicates } else { &mut counts.written } += 1;
    write(out, &Acknowledged { line, receipt: receipt.into(), duplicate });
    Ok(())
}

fn refuse(out: &mut Vec<u8>, line: u64, problem: &Problem) {
    telemetry::refused(problem.code(), Surface::Http);
    write(out, &Refused { line, error: problem.to_value() });
}

fn write(out: &mut Vec<u8>, answer: &impl Serialize) {
    serde_json::to_writer(&mut *out, answer).expect("an answer has a JSON form");
    out.push(b'\n');
}
