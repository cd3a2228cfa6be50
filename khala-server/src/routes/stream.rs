//! `POST /v1/topics/{topic}/updates` and `POST /v1/updates` with `application/x-ndjson`: an update a line, published as it
//! arrives and answered as it is committed, while the request goes on. The lines of the second name their topics.
//!
//! # Invariants
//! Lines are handed to the journal in their order and answered in their order; an acknowledged line
//! is on stable storage; after a line that is refused nothing is stored; a topic is published to only after it was asked
//! whether it is open; and a producer that sends faster than the store writes, or reads no answers, is not read, so that a
//! stream holds bounded memory, which counts in the node's budget.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    pin::pin,
    sync::Arc,
    task::{self, Poll, Waker},
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures::{future::BoxFuture, poll, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use khala_core::{
    Append, Batch, Error, Grant, Topic,
    budget::{MemoryPart, MemoryShare},
    journal::Chain,
    publish::{Appends, PublishPermit, Refusal},
    telemetry::{self, Surface},
    text::without_byte_order_mark,
    update::TraceContext,
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{
    openapi,
    problem::Problem,
    request::{self, Authenticated, COPIES, Context, Holds, invalid, no_memory},
    routes::{
        batch::{self, IDEMPOTENCY_KEY, Stored},
        lines::{LineFault, Lines},
    },
    shared::Shared,
    timeouts::PARTS,
};

const MEDIA_TYPE: &str = "application/x-ndjson";

/// Lines, and bytes of lines, that may be on their way to stable storage; the last one may go past the bytes.
const LINES_IN_FLIGHT: usize = 1_024;
const BYTES_IN_FLIGHT: usize = 4 << 20;

/// Bytes of answers that may wait for the producer to read them; the last one may go past them.
const ANSWER_BYTES: usize = 64 << 10;

/// Room that an empty buffer for answers keeps, in bytes.
const OUT_ROOM: usize = 16 << 10;

/// The step in bytes by which the share of the budget of memory changes.
const SHARE_STEP: u64 = 16 << 10;

/// Topics that are known to be open to a stream; past that many, they are checked again.
const TOPICS_KNOWN: usize = 4_096;

/// After a refusal, what the producer still sends is taken and forgotten for so long: a connection that is closed on
/// unread bytes is reset, and that may take the answer away from who has not read it.
const LINGER: Duration = Duration::from_secs(2);

/// Whether the body is a stream of updates by its own account.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    request::is_of(headers, MEDIA_TYPE)
}

/// Publishes a stream of updates to topics that its lines name.
///
/// As a stream to one topic (`application/x-ndjson` on `/v1/topics/{topic}/updates`), but each line says in `topic` which one
/// it is for. Lines are stored in their order within each topic, and answered in their order over all of them. Whether a topic
/// is open to the token is asked when a line first names it; if it is not (status 403), that line is the last, as after any
/// error but a `conflict`. A line that comes faster than its topic's class or the token's subject may waits, and so do those
/// behind it, whatever topic they name. So does a line for a new topic, where the subject makes too many.
#[utoipa::path(
    post, path = "/v1/updates", operation_id = "streamUpdates", tag = "updates",
    params(openapi::TraceHeaders),
    request_body(content = String, content_type = "application/x-ndjson", description = "A `NewLineOfTopic` a line.",
        example = "{\"topic\":\"run:7:events\",\"kind\":\"added\",\"payload\":{\"n\":1},\"dedup\":\"job-7/1\"}\n"),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson",
            description = "The stream has begun: a `LineStored` or a `LineRefused` a line follows.",
            example = "{\"line\":1,\"topic\":\"run:7:events\",\"epoch\":\"9f86d081884c7d65\",\"first\":41,\"last\":41,\"duplicate\":false}\n"),
        (status = 415, response = openapi::BodyType),
        openapi::ClientRefusals,
    )
)]
pub(crate) async fn publish_stream(
    State(shared): State<Shared>,
    context: Context,
    Authenticated(grant): Authenticated,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    if is_asked_for(&head.headers) {
        return begin(&shared, grant, None, &head.headers, body, context).await;
    }
    let detail = "the Content-Type here is application/x-ndjson: an update a line, each with its topic";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// Begins to publish the lines of `body`, each if `grant` still stands when it is there: to the topic of `permit`, or else each to
/// the topic that it names, if that is open to the grant's subject.
pub(crate) async fn begin(
    shared: &Shared,
    grant: Grant,
    permit: Option<PublishPermit>,
    headers: &HeaderMap,
    body: Body,
    context: Context,
) -> Result<Response, Problem> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let detail = "a stream has no Idempotency-Key: each line may have a `dedup` of its own";
        return Err(Problem::invalid("invalid_idempotency_key", detail));
    }
    if shared.0.drain.is_closing() {
        return Err(draining());
    }
    if let Some(permit) = &permit {
        permit.check_new_topic().await?;
    }
    let stream = Stream {
        one: permit.map(Opened::new),
        trace: batch::trace(headers),
        patience: shared.0.limits.body_timeout,
        line_bytes: shared.0.limits.body_bytes,
        request_id: context.request_id,
        shared: shared.clone(),
        grant,
        _holds: context.holds,
    };
    let (answers, mut pieces) = mpsc::channel(1);
    let mut lines = Lines::new(body, stream.line_bytes, shared.0.khala.memory());
    if headers.contains_key(header::EXPECT) {
        // Who waits to be told to go on (100) would take the answer's head for a no. hyper tells it when the body is asked
        // for, if that is before there is a head.
        let _ = poll!(pin!(lines.fill()));
        yield_now().await;
    }
    // A task of its own: what is on its way is announced also while the producer reads nothing.
    tokio::spawn(Run::new(stream).run(lines, answers));
    let pieces =
        stream::poll_fn(move |cx| pieces.poll_recv(cx).map(|piece| piece.map(Ok::<Bytes, Infallible>)));
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

fn draining() -> Problem {
    Problem::unavailable("draining", "the server is shutting down")
}

struct Stream {
    shared: Shared,
    grant: Grant,
    /// The topic of all lines; where there is none, each names its own.
    one: Option<Arc<Opened>>,
    trace: Option<TraceContext>,
    /// How long a line may take to arrive, and to wait for a rate.
    patience: Duration,
    line_bytes: usize,
    request_id: Arc<str>,
    /// Until its answer is taken and what was handed over is seen through.
    _holds: Arc<Holds>,
}

/// A topic that is open to who streams.
struct Opened {
    permit: PublishPermit,
    /// A line that is not stored takes along those behind it: what is stored is a prefix of what was sent.
    chain: Chain,
}

impl Opened {
    fn new(permit: PublishPermit) -> Arc<Self> {
        Arc::new(Self { permit, chain: Chain::new() })
    }
}

/// A line that was read and not handed over yet.
struct Held {
    line: u64,
    bytes: usize,
    to: To,
    batch: Batch,
    since: Instant,
    /// When the rates of its class and of its publisher may let it through.
    again: Instant,
}

enum To {
    Opened(Arc<Opened>),
    /// It is being asked whether this one is open, and may be made if it is new.
    Unknown(BoxFuture<'static, Result<PublishPermit, Problem>>),
}

/// A line that was handed over.
struct Sent {
    line: u64,
    bytes: usize,
    to: Arc<Opened>,
}

/// What became of it.
type Answered = (Sent, Result<Append, Error>);

/// The line is on stable storage. `first` and `last` are one seq, but where an Idempotency-Key of the same text had named a batch.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LineStored)]
pub(crate) struct Acknowledged<'a> {
    /// The line of the request, from one.
    #[schema(minimum = 1)]
    line: u64,
    /// Which topic it is of; only where lines name theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = openapi::Topic, required = false)]
    topic: Option<&'a Topic>,
    #[serde(flatten)]
    receipt: Stored,
    /// Whether this is the receipt of an earlier publish with the same `dedup`.
    duplicate: bool,
}

/// The line is not stored. Unless `code` is `conflict`, no answer follows.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LineRefused)]
pub(crate) struct Refused {
    /// The line of the request, from one.
    #[schema(minimum = 1)]
    line: u64,
    #[schema(value_type = openapi::Problem)]
    error: Value,
}

#[derive(Debug, Default)]
struct Counts {
    written: u64,
    duplicates: u64,
    conflicts: u64,
}

/// How far a stream has come.
struct Run {
    stream: Stream,
    /// The topics that are known to be open.
    known: HashMap<Topic, Arc<Opened>>,
    in_flight: Appends<Sent>,
    counts: Counts,
    out: Vec<u8>,
    /// Bytes of the lines that are in flight or held.
    bytes: usize,
    /// What those take of the node's memory, and the answers; it lags behind by [`SHARE_STEP`] at most.
    share: MemoryShare,
    /// The lines that were read.
    line: u64,
    held: Option<Held>,
    reading: bool,
    /// The body was read to its end.
    whole: bool,
    refusal: Option<(u64, Problem)>,
    code: Option<&'static str>,
    quiet_since: Instant,
    /// Of how many parts of its patience nothing was heard: a pause of this process uses up one at most.
    quiet_parts: u32,
}

impl Run {
    fn new(stream: Stream) -> Self {
        Self {
            share: stream.shared.0.khala.memory().share(MemoryPart::Bodies),
            in_flight: Appends::new(stream.shared.0.khala.clone()),
            stream,
            known: HashMap::new(),
            counts: Counts::default(),
            out: Vec::new(),
            bytes: 0,
            line: 0,
            held: None,
            reading: true,
            whole: false,
            refusal: None,
            code: None,
            quiet_since: Instant::now(),
            quiet_parts: 0,
        }
    }

    async fn run(mut self, mut lines: Lines, answers: mpsc::Sender<Bytes>) {
        let shared = self.stream.shared.clone();
        let mut closing = pin!(shared.0.drain.closing());
        let patience = self.stream.patience;
        loop {
            self.account();
            if !self.reading
                && self.in_flight.is_empty()
                && let Some((line, problem)) = self.refusal.take()
            {
                self.code = Some(problem.code());
                refuse(&mut self.out, line, &problem);
            }
            let next = self.held.as_ref().map_or(self.line + 1, |held| held.line);
            let nothing_waits = self.held.is_none() && self.in_flight.is_empty() && self.out.is_empty();
            let (asking, again) = match &self.held {
                Some(Held { to: To::Unknown(_), again, .. }) => (true, *again),
                Some(held) => (false, held.again),
                None => (false, self.quiet_since),
            };
            tokio::select! {
                // What is ready is gathered before it is written: many answers, one write.
                biased;
                answered = self.in_flight.next(), if !self.in_flight.is_idle() => {
                    // Without an answer, what nobody waits for any more has ended.
                    let Some(answered) = answered else { continue };
                    self.done(answered);
                    while let Some(answered) = self.in_flight.try_next() {
                        self.done(answered);
                    }
                }
                permit = answers.reserve(), if !self.out.is_empty() => match permit {
                    Ok(permit) => {
                        (self.quiet_since, self.quiet_parts) = (Instant::now(), 0);
                        // The next ones will hardly be more.
                        let room = Vec::with_capacity(self.out.len().min(OUT_ROOM));
                        permit.send(std::mem::replace(&mut self.out, room).into());
                    }
                    Err(_) => break,
                },
                () = answers.closed(), if self.reading => break,
                () = closing.as_mut(), if self.reading => self.refuse_from(next, draining()),
                answered = asked(&mut self.held), if self.reading && asking => match answered {
                    Ok(permit) => self.opened(permit),
                    Err(problem) => self.refuse_from(next, problem),
                },
                () = sleep_until(again), if self.reading && self.held.is_some() && !asking => self.go_on(),
                read = lines.next(), if self.reading && self.has_room() => {
                    (self.quiet_since, self.quiet_parts) = (Instant::now(), 0);
                    match read {
                        Some(read) => {
                            self.take(read);
                            // What came along with it, as far as it is whole.
                            while self.reading && self.has_room() && let Some(read) = lines.next_here() {
                                self.take(read);
                            }
                        }
                        None => (self.reading, self.whole) = (false, true),
                    }
                }
                () = sleep_until(self.quiet_since + patience / PARTS), if self.reading && nothing_waits => {
                    (self.quiet_since, self.quiet_parts) = (Instant::now(), self.quiet_parts + 1);
                    if self.quiet_parts < PARTS {
                        continue;
                    }
                    let detail = format!("no line arrived within {} s", patience.as_secs());
                    self.refuse_from(next, Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail));
                }
                else => break,
            }
        }
        let vanished = answers.is_closed();
        drop(answers);
        let Self { stream, in_flight, line, whole, code, .. } = self;
        let Counts { written, duplicates, conflicts } = self.counts;
        let topic = stream.one.as_ref().map(|opened| tracing::field::display(opened.permit.topic()));
        tracing::debug!(
            request_id = &*stream.request_id,
            topic,
            lines = line,
            written,
            duplicates,
            conflicts,
            code,
            vanished,
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
            in_flight.finish().await;
            drop(stream);
        };
        tokio::join!(linger, see_through);
    }

    /// Counts what is held in the node's budget of memory, not for each line.
    fn account(&mut self) {
        let held = (COPIES * self.bytes + self.out.len()) as u64;
        if held == 0 || held.abs_diff(self.share.bytes()) >= SHARE_STEP {
            self.share.hold(held);
        }
    }

    /// Whether another line may be read.
    fn has_room(&self) -> bool {
        self.held.is_none()
            && self.in_flight.len() < LINES_IN_FLIGHT
            && self.bytes < BYTES_IN_FLIGHT
            && self.out.len() < ANSWER_BYTES
    }

    /// Reads no more: from that line on nothing is stored. It is said once all before it is answered.
    fn refuse_from(&mut self, line: u64, problem: Problem) {
        (self.reading, self.refusal) = (false, Some((line, problem)));
    }

    /// Takes a line that was read.
    fn take(&mut self, read: Result<Bytes, LineFault>) {
        self.line += 1;
        match self.stream.parse(self.line, read, &self.known) {
            Ok(None) => {}
            Ok(Some(taken)) => {
                self.bytes += taken.bytes;
                let held = self.held.insert(taken);
                // Most need not be asked for long.
                let cx = &mut task::Context::from_waker(Waker::noop());
                match &mut held.to {
                    To::Opened(_) => self.go_on(),
                    To::Unknown(asking) => match asking.as_mut().poll(cx) {
                        Poll::Ready(Ok(permit)) => self.opened(permit),
                        Poll::Ready(Err(problem)) => self.refuse_from(self.line, problem),
                        Poll::Pending => {}
                    },
                }
            }
            Err(problem) => self.refuse_from(self.line, problem),
        }
    }

    /// The topic of what is held is open.
    fn opened(&mut self, permit: PublishPermit) {
        if let Some(held) = &mut self.held {
            let topic = permit.topic().clone();
            let opened = Opened::new(permit);
            if self.known.len() >= TOPICS_KNOWN {
                // But those whose lines are under way: they share a chain with what comes.
                self.known.retain(|_, opened| Arc::strong_count(opened) > 1);
            }
            self.known.insert(topic, Arc::clone(&opened));
            held.to = To::Opened(opened);
        }
        self.go_on();
    }

    /// Hands over what is held, unless it has to wait on.
    fn go_on(&mut self) {
        let Some(held) = self.held.take() else { return };
        let line = held.line;
        match self.offer(held) {
            Ok(waits) => self.held = waits,
            Err(problem) => self.refuse_from(line, problem),
        }
    }

    /// Hands a line to the journal, or gives it back if a rate does not let it through yet.
    fn offer(&mut self, mut held: Held) -> Result<Option<Held>, Problem> {
        let To::Opened(to) = &held.to else { return Ok(Some(held)) };
        let to = Arc::clone(to);
        if let Err(refusal) = to.permit.check(&held.batch) {
            let Refusal::PublishLimited(limited) = &refusal else { return Err(refusal.into()) };
            let Some(retry_after) = limited.retry_after() else { return Err(refusal.into()) };
            held.again = Instant::now() + retry_after;
            return if held.again > held.since + self.stream.patience {
                Err(refusal.into())
            } else {
                Ok(Some(held))
            };
        }
        let Held { line, bytes, batch, .. } = held;
        let batch = batch.with_chain(to.chain.clone());
        to.permit.append(&mut self.in_flight, Sent { line, bytes, to: Arc::clone(&to) }, batch);
        Ok(None)
    }

    fn done(&mut self, (sent, answer): Answered) {
        self.bytes -= sent.bytes;
        (self.quiet_since, self.quiet_parts) = (Instant::now(), 0);
        let line = sent.line;
        if let Err(problem) = self.answer(&sent, answer) {
            self.refuse_from(line, problem);
            // Those behind it were not stored; they are announced if they were all the same.
            self.in_flight.abandon();
        }
    }

    /// Answers a line whose fate is known. After a fault of the store there is no going on.
    fn answer(&mut self, sent: &Sent, answer: Result<Append, Error>) -> Result<(), Problem> {
        let line = sent.line;
        let (receipt, duplicate) = match answer? {
            Append::Written(receipt) => (receipt, false),
            Append::Duplicate(receipt) => (receipt, true),
            Append::Conflict(conflict) => {
                self.counts.conflicts += 1;
                refuse(&mut self.out, line, &Problem::conflict(&conflict));
                return Ok(());
            }
        };
        *if duplicate { &mut self.counts.duplicates } else { &mut self.counts.written } += 1;
        let topic = self.stream.one.is_none().then_some(sent.to.permit.topic());
        write(&mut self.out, &Acknowledged { line, topic, receipt: receipt.into(), duplicate });
        Ok(())
    }
}

impl Stream {
    /// What a line asks for; nothing if it is blank.
    fn parse(
        &self,
        line: u64,
        read: Result<Bytes, LineFault>,
        known: &HashMap<Topic, Arc<Opened>>,
    ) -> Result<Option<Held>, Problem> {
        let khala = &self.shared.0.khala;
        let text = read.map_err(|fault| match fault {
            LineFault::Broken => Problem::invalid("incomplete_body", "the body ended before it was whole"),
            LineFault::NoMemory => no_memory(MemoryPart::Bodies),
            LineFault::TooLong => {
                let detail = format!("a line may have {} bytes at most", self.line_bytes);
                Problem::too_large("body_too_large", detail)
            }
        })?;
        // A byte order mark stands before the first line only.
        let text = if line == 1 { without_byte_order_mark(&text) } else { &text };
        if text.iter().all(u8::is_ascii_whitespace) {
            khala.access().check(&self.grant)?;
            return Ok(None);
        }
        let (topic, batch) = batch::line(text, self.trace.as_ref(), self.one.is_none())?;
        let to = match (&self.one, topic) {
            (Some(one), _) => To::Opened(Arc::clone(one)),
            (None, None) => return Err(invalid("topic", "missing field `topic`")),
            (None, Some(topic)) => match known.get(&topic) {
                Some(opened) => To::Opened(Arc::clone(opened)),
                None => {
                    khala.access().check(&self.grant)?;
                    To::Unknown(self.ask(topic))
                }
            },
        };
        let now = Instant::now();
        Ok(Some(Held { line, bytes: text.len(), to, batch, since: now, again: now }))
    }

    /// Asks whether a topic is open to who streams; if it is new, waits until they may make it.
    fn ask(&self, topic: Topic) -> BoxFuture<'static, Result<PublishPermit, Problem>> {
        let (khala, grant, patience) = (self.shared.0.khala.clone(), self.grant.clone(), self.patience);
        Box::pin(async move {
            let permit = khala.publish_permit(&grant, &topic).await?;
            let latest = Instant::now() + patience;
            while let Err(limited) = permit.check_new_topic().await {
                let again = Instant::now() + limited.retry_after().unwrap_or_default();
                if again > latest {
                    return Err(limited.into());
                }
                sleep_until(again).await;
            }
            Ok(permit)
        })
    }
}

/// The answer to what is being asked about the line that is held.
async fn asked(held: &mut Option<Held>) -> Result<PublishPermit, Problem> {
    match held {
        Some(Held { to: To::Unknown(asking), .. }) => asking.await,
        _ => pending().await,
    }
}

fn refuse(out: &mut Vec<u8>, line: u64, problem: &Problem) {
    telemetry::refused(problem.code(), Surface::Http);
    write(out, &Refused { line, error: problem.to_value() });
}

fn write(out: &mut Vec<u8>, answer: &impl Serialize) {
    serde_json::to_writer(&mut *out, answer).expect("an answer has a JSON form");
    out.push(b'\n');
}
