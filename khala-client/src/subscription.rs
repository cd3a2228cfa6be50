//! A subscription: one topic over one connection after another, driven by a task of its own.
//!
//! The task reads no further than the application does: it holds one event at most, and leaves the rest to the
//! server, which keeps a cursor for it and no queue. Heartbeats go on while the application is busy.

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, Stream, StreamExt as _, future::pending};
use khala_core::{
    Token,
    health::panic_message,
    wire::{Close, Code},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::CloseFrame};

use crate::{
    backoff::random,
    channel::{Channel, Step},
    error::{Error, Refused},
    event::ConnectionEvent,
    handover::Handover,
    http::Http,
    hydrate::hydrate,
    socket::{self, Socket},
};

/// How long after a first look a server that is silent is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Faults of the protocol in a row, with nothing delivered in between, before the subscription ends.
const MAX_FAULTS: u32 = 5;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The events of one topic: a [`Stream`] that goes on across reconnects.
///
/// It ends (`None`) after an error and after [`ConnectionEvent::Stale`]; everything else it sees to itself. The errors are those
/// that coming back does not help: the topic is not open to the token ([`Refused::is_about_token`]), a fixed token no
/// longer does or a fresh one is refused, the join is not one, the server's end is not Khala. A panic, as of the
/// application's source of tokens, ends it with [`Error::Panicked`].
///
/// # Cancel safety
/// [`next`](Self::next) may be dropped before it is ready, and nothing is lost: an event is either still to come
/// or was handed out. What was handed out and not applied when the process dies comes again from the cursor that
/// was kept: at least once.
///
/// Dropping the subscription closes the connection.
#[derive(Debug)]
pub struct ConnectionEvents {
    events: mpsc::Receiver<Result<ConnectionEvent, Error>>,
}

impl ConnectionEvents {
    pub(crate) fn start(http: Arc<Http>, channel: Channel, pulse: Pulse) -> Self {
        let (sender, events) = mpsc::channel(1);
        let driver = Driver {
            http,
            channel,
            pulse,
            events: sender,
            failures: 0,
            faults: 0,
            token: None,
            renewed: false,
        };
        tokio::spawn(drive(driver));
        Self { events }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<Result<ConnectionEvent, Error>> {
        self.events.recv().await
    }
}

impl Stream for ConnectionEvents {
    type Item = Result<ConnectionEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

/// How a connection is known to be alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// How often a heartbeat is sent.
    pub(crate) every: Duration,
    /// How soon anything has to be heard after it.
    pub(crate) within: Duration,
}

/// How a connection ended.
enum Ended {
    /// Nobody listens any more, or the last event was handed out.
    Over,
    /// Come back, not before that moment.
    Lost(Error, Option<Instant>),
    /// Do not come back.
    Refused(Error),
    /// Come back with another token.
    Renew(Error),
}

struct Driver {
    http: Arc<Http>,
    channel: Channel,
    pulse: Pulse,
    events: mpsc::Sender<Result<ConnectionEvent, Error>>,
    /// Failures since anything arrived.
    failures: u32,
    /// Of these, faults of the protocol.
    faults: u32,
    /// The token that the server wants another for, if it does.
    token: Option<Token>,
    /// The token was renewed, and with what came of it nothing was joined yet.
    renewed: bool,
}

/// Drives a subscription to its end. A panic becomes an error, because events that only end look as if no more were to come.
async fn drive(driver: Driver) {
    let events = driver.events.clone();
    if let Err(panic) = AssertUnwindSafe(driver.run()).catch_unwind().await {
        let message = panic_message(&*panic).to_owned();
        tracing::error!(message, "a subscription panicked, and ends");
        // Nobody listens any more if this fails.
        let _ = events.send(Err(Error::Panicked(message))).await;
    }
}

impl Driver {
    async fn run(mut self) {
        let events = self.events.clone();
        loop {
            let opened = tokio::select! {
                () = events.closed() => return,
                opened = self.open() => opened,
            };
            let ended = match opened {
                Ok(socket) => self.follow(socket).await,
                Err(error) => match error.refused() {
                    Some(refused) if refused.wants_token() => Ended::Renew(error),
                    _ if error.is_retryable() => Ended::Lost(error, None),
                    _ => Ended::Refused(error),
                },
            };
            self.channel.disconnected();
            let (error, not_before) = match ended {
                Ended::Over => return,
                Ended::Lost(error, not_before) => {
                    // While nobody answers, a token grows old: it may be spent again.
                    self.renewed = false;
                    (error, not_before)
                }
                Ended::Renew(error) if !self.renewed && self.http.tokens.renew(self.token.as_ref()) => {
                    self.renewed = true;
                    (error, None)
                }
                Ended::Refused(error) | Ended::Renew(error) => {
                    // Nobody listens any more if this fails.
                    let _ = events.send(Err(error)).await;
                    return;
                }
            };
            let wait = self.next_wait(&error, not_before);
            let event = ConnectionEvent::Reconnecting { error, failures: self.failures, wait };
            tokio::select! {
                sent = events.send(Ok(event)) => if sent.is_err() { return },
                () = events.closed() => return,
            }
            tokio::select! {
                () = events.closed() => return,
                () = sleep(wait) => {}
            }
        }
    }

    fn next_wait(&mut self, error: &Error, not_before: Option<Instant>) -> Duration {
        self.failures += 1;
        let backoff = &self.http.backoff;
        let asked = not_before.map(|moment| moment.saturating_duration_since(Instant::now()));
        let wait = backoff.wait(self.failures, asked.or_else(|| error.at_least(backoff)), random());
        if error.refused().is_some_and(Refused::needs_operator) {
            tracing::warn!(%error, ?wait, "the server does not say when it can answer again: somebody has to see to it");
        }
        wait
    }

    async fn open(&mut self) -> Result<Socket, Error> {
        self.token = self.http.tokens.current().await?;
        socket::open(&self.http, self.token.as_ref()).await
    }

    /// Follows one connection to its end.
    async fn follow(&mut self, mut socket: Socket) -> Ended {
        let began = Instant::now();
        let mut handover =
            self.token.clone().map(|token| Handover::new(self.http.tokens.clone(), self.http.backoff, token));
        let ended = self.converse(&mut socket, handover.as_mut()).await;
        if let Some(handover) = handover {
            self.token = Some(handover.spent().clone());
        }
        let _ = timeout(GOODBYE, socket.close(None)).await;
        if began.elapsed() > self.http.backoff.most {
            // It held: this is another trouble, not the same one again.
            self.failures = 0;
        }
        ended
    }

    async fn converse(&mut self, socket: &mut Socket, mut handover: Option<&mut Handover>) -> Ended {
        let events = self.events.clone();
        let mut held: Option<ConnectionEvent> = None;
        let mut last = false;
        let mut not_before: Option<Instant> = None;
        let mut join_at = Some(Instant::now());
        let mut beat_at = Instant::now() + self.pulse.every;
        // By when anything has to be heard, and by when the join has to be answered.
        let mut heard_by: Option<Instant> = None;
        let mut joined_by: Option<Instant> = None;
        // They are over only by a second look: at the first one after a pause of this process, what came meanwhile may not
        // have been read yet.
        let mut doubted = false;
        loop {
            let reading = held.is_none();
            // What is not read cannot be heard: the limits rest while the application is busy.
            let limits = [heard_by, joined_by].into_iter().filter(|_| reading);
            let timer = limits.chain([join_at]).flatten().fold(beat_at, Instant::min);
            tokio::select! {
                () = events.closed() => return Ended::Over,
                permit = events.reserve(), if !reading => {
                    let (Ok(permit), Some(event)) = (permit, held.take()) else { return Ended::Over };
                    permit.send(Ok(event));
                    if last {
                        return Ended::Over;
                    }
                    let now = Instant::now();
                    heard_by = heard_by.map(|_| now + self.pulse.within);
                    joined_by = joined_by.map(|_| now + self.http.answer_within);
                }
                frame = socket.next(), if reading => {
                    (heard_by, doubted) = (None, false);
                    let step = match frame {
                        Some(Ok(Message::Text(text))) => self.channel.handle(&text),
                        Some(Ok(Message::Close(frame))) => return self.closed(frame, not_before),
                        Some(Ok(_)) => Step::Nothing,
                        Some(Err(cause)) => return Ended::Lost(self.lost(&cause), not_before),
                        None => return Ended::Lost(self.lost(&"the connection ended"), not_before),
                    };
                    if !self.channel.is_joining() {
                        joined_by = None;
                    }
                    match step {
                        Step::Nothing => {}
                        Step::Event(event) => {
                            self.arrived(&event);
                            held = Some(event);
                        }
                        Step::Hydrate(arrived, left_out, before) => {
                            let (http, topic) = (Arc::clone(&self.http), self.channel.topic().clone());
                            let mut hydrated = pin!(hydrate(&http, &topic, arrived, &left_out));
                            let hydrated = loop {
                                tokio::select! {
                                    () = events.closed() => return Ended::Over,
                                    hydrated = &mut hydrated => break hydrated,
                                    // Nothing is heard meanwhile; the server hears that somebody is here.
                                    () = sleep_until(beat_at) => {
                                        beat_at = Instant::now() + self.pulse.every;
                                        let frame = self.channel.heartbeat();
                                        if let Err(error) = self.send(socket, frame).await {
                                            self.channel.rewind(before);
                                            return Ended::Lost(error, not_before);
                                        }
                                    }
                                }
                            };
                            match hydrated {
                                Ok(arrived) => {
                                    let event = ConnectionEvent::Updates(arrived);
                                    self.arrived(&event);
                                    held = Some(event);
                                }
                                // The next join goes on from before them, and says what became of them.
                                Err(error) => {
                                    self.channel.rewind(before);
                                    return of_fetching(error, not_before);
                                }
                            }
                        }
                        Step::Last(event) => (held, last) = (Some(event), true),
                        Step::Drain(wait) => not_before = Some(Instant::now() + wait),
                        Step::Refused(error) => return of_refusal(error),
                        Step::Token(answer) => {
                            if let Some(handover) = &mut handover {
                                handover.answered(answer);
                            }
                        }
                        Step::Rejoin(error) => {
                            if matches!(error, Error::Protocol(_)) {
                                self.faults += 1;
                                if self.faults >= MAX_FAULTS {
                                    return Ended::Refused(error);
                                }
                            }
                            let wait = self.next_wait(&error, None);
                            join_at = Some(Instant::now() + wait);
                            held = Some(ConnectionEvent::Reconnecting { error, failures: self.failures, wait });
                        }
                    }
                }
                // The join goes first: somebody waits for it.
                token = due(handover.as_deref_mut()), if join_at.is_none_or(|at| at > Instant::now()) => {
                    let frame = self.channel.hand_over(&token);
                    if let Err(error) = self.send(socket, frame).await {
                        return Ended::Lost(error, not_before);
                    }
                }
                () = sleep_until(timer) => {
                    let now = Instant::now();
                    let due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
                    if reading && (due(heard_by) || due(joined_by)) && !std::mem::replace(&mut doubted, true) {
                        let later = |by: Option<Instant>| by.map(|by| by.max(now + SECOND_LOOK));
                        (heard_by, joined_by) = (later(heard_by), later(joined_by));
                        continue;
                    }
                    if reading && due(heard_by) {
                        return Ended::Lost(self.lost(&"a heartbeat was not answered"), not_before);
                    }
                    if reading && due(joined_by) {
                        return Ended::Lost(self.lost(&"a join was not answered"), not_before);
                    }
                    let mut frames = Vec::new();
                    if due(join_at) {
                        join_at = None;
                        joined_by = Some(now + self.http.answer_within);
                        frames.push(self.channel.join());
                    }
                    if beat_at <= now {
                        beat_at = now + self.pulse.every;
                        heard_by = heard_by.or(Some(now + self.pulse.within));
                        frames.push(self.channel.heartbeat());
                    }
                    for frame in frames {
                        if let Err(error) = self.send(socket, frame).await {
                            return Ended::Lost(error, not_before);
                        }
                    }
                }
            }
        }
    }

    /// Notes what an event says about how things go.
    fn arrived(&mut self, event: &ConnectionEvent) {
        match event {
            ConnectionEvent::Joined { .. } => self.renewed = false,
            ConnectionEvent::Updates(_) | ConnectionEvent::Snapshot(_) => {
                (self.failures, self.faults) = (0, 0)
            }
            _ => {}
        }
    }

    async fn send(&self, socket: &mut Socket, frame: Bytes) -> Result<(), Error> {
        let text = Utf8Bytes::try_from(frame).map_err(|cause| self.lost(&cause))?;
        match timeout(self.pulse.within, socket.send(Message::Text(text))).await {
            Ok(sent) => sent.map_err(|cause| self.lost(&cause)),
            Err(_) => Err(self.lost(&"the server takes nothing")),
        }
    }

    fn lost(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::Disconnected { url: self.http.address.to_string(), reason: cause.to_string() }
    }

    fn closed(&self, frame: Option<CloseFrame>, not_before: Option<Instant>) -> Ended {
        // 1005 is how RFC 6455 calls a close without a code.
        let (code, reason) =
            frame.map_or((1005, String::new()), |frame| (u16::from(frame.code), frame.reason.to_string()));
        let close = Close::ALL.iter().find(|close| close.code() == code);
        let token = match close {
            Some(Close::KeyWithdrawn) => Some(Refused::of(
                Code::UnknownKid,
                "the key that the token was signed with is no longer trusted",
            )),
            Some(Close::TokenExpired) => Some(Refused::of(Code::TokenExpired, "the token has expired")),
            Some(Close::TokenRevoked) => Some(Refused::of(Code::TokenRevoked, "the token was revoked")),
            _ => None,
        };
        if let Some(refused) = token {
            return Ended::Renew(Error::Refused(refused));
        }
        // A client that sent too much does not come back at once.
        let too_many = matches!(close, Some(Close::TooManyFrames));
        let not_before = not_before.or_else(|| too_many.then(|| Instant::now() + self.http.backoff.most));
        if socket::come_back(code) {
            return Ended::Lost(
                self.lost(&format_args!("the server closed it: {reason} ({code})")),
                not_before,
            );
        }
        Ended::Refused(Error::Closed { code, reason })
    }
}

/// The token to hand over, when there is one.
async fn due(handover: Option<&mut Handover>) -> Token {
    match handover {
        Some(handover) => handover.due().await,
        None => pending().await,
    }
}

fn of_fetching(error: Error, not_before: Option<Instant>) -> Ended {
    match error.refused() {
        Some(refused) if refused.code == Code::StaleCursor.as_str() => Ended::Lost(error, not_before),
        Some(refused) if refused.wants_token() => Ended::Renew(error),
        _ if error.is_retryable() => Ended::Lost(error, not_before),
        _ => Ended::Refused(error),
    }
}

fn of_refusal(error: Error) -> Ended {
    match error.refused() {
        Some(refused) if refused.wants_token() => Ended::Renew(error),
        _ => Ended::Refused(error),
    }
}
