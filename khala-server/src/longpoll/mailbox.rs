//! A session's transport in memory: what the session sends waits for polls, and what clients post waits for the session.
//!
//! # Invariants
//! - What waits to be sent is bounded in bytes, with what was answered and is not confirmed, and counts in the memory budget. Past
//!   the bound the session writes no more until a poll confirms, so that a client that does not poll is judged as one that does not
//!   read its socket.
//! - After a grant has ended nothing is handed out, whatever still waits, nor the rest of an answer that is under way.
//! - Of two polls the newer one is answered with frames. It also ends the answer that an older one is still being given, so that a
//!   session has one answer in memory, however often it is asked for.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{Sink, Stream};
use khala_core::{
    budget::{MemoryBudget, MemoryPart, MemoryShare},
    connection::{Ended, Progress, Received, Sent, Transport},
    wire::{Close, Encoded},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use crate::timeouts::PARTS;

/// Bytes that wait for polls, after which the session writes no more; the last frame may go past them. As much as the system buffers
/// for a WebSocket.
const HIGH_WATER: usize = 256 << 10;
/// How long a close waits for the poll that takes it. A socket takes one from a session whose client is gone, too.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of an answer that the network takes in one piece.
const PIECE: usize = 16 << 10;
/// Pieces that hyper has in its queue for a client, at most.
const QUEUED_PIECES: usize = 16;
/// Frames of clients that wait for the session.
const WAITING_FRAMES: usize = 128;

/// What is between a session and its client's requests.
#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    /// Something may be there for a poll, or room for a post.
    changed: Notify,
    /// The session has said its close.
    closing: Notify,
    progress: Progress,
    /// Bytes of a frame from a client.
    frame_bytes: usize,
}

#[derive(Debug)]
struct State {
    /// The memory that frames take until they are confirmed.
    share: MemoryShare,
    outgoing: VecDeque<Encoded>,
    outgoing_bytes: usize,
    /// The session has nothing to add just now.
    flushed: bool,
    /// The last answer with frames, until a poll confirms it.
    unconfirmed: Option<Unconfirmed>,
    /// Answers with frames so far.
    answers: u64,
    /// How often an answer was begun to be given, the first time and again: the last of these is under way.
    givings: u64,
    close: Option<Close>,
    /// The session is over, or its close was told.
    ended: bool,
    sink: Option<Waker>,

    /// Frames of clients, each a part of the body that brought it.
    incoming: VecDeque<Bytes>,
    /// A request came since the session last looked.
    heard: bool,
    input: Option<Waker>,

    /// Polls so far; the last of them is the newest.
    polls: u64,
    /// Polls that wait.
    waiting: usize,
    /// Counts requests, so that a look can tell whether any came.
    requests: u64,
}

/// An answer with frames.
#[derive(Debug)]
struct Unconfirmed {
    /// The frames as texts of JSON, with commas between them.
    messages: Bytes,
    /// How much of it the network has taken at most, of all times that it was given.
    taken: usize,
}

/// An answer that is being given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Giving {
    /// The number of the answer.
    pub(super) answer: u64,
    /// Bytes of it that a connection may hold at most, of a client that does not take them.
    pub(super) buffered: usize,
    number: u64,
}

/// The rest of an answer is not given: a newer poll has come, or the session has ended.
#[derive(Debug, thiserror::Error)]
#[error("a newer poll has come, or the session has ended")]
pub(super) struct Superseded;

/// What a poll is answered.
#[derive(Debug)]
pub(super) enum PollOutcome {
    /// Frames, which are taken in pieces.
    Frames(Giving),
    /// The session is over, with its close if it had one.
    Gone(Option<Close>),
    /// Nothing came. The client still has what it had.
    Nothing,
}

impl Mailbox {
    /// An empty one, for frames of clients of at most `frame_bytes`.
    pub(super) fn new(frame_bytes: usize, memory: &MemoryBudget) -> Arc<Self> {
        let state = State {
            share: memory.share(MemoryPart::Frames),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            flushed: false,
            unconfirmed: None,
            answers: 0,
            givings: 0,
            close: None,
            ended: false,
            sink: None,
            incoming: VecDeque::new(),
            heard: false,
            input: None,
            polls: 0,
            waiting: 0,
            requests: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            closing: Notify::new(),
            progress: Progress::new(),
            frame_bytes,
        })
    }

    /// Takes what waits to be sent, and waits for it. `confirmed` is the number of the last answer that the client has.
    ///
    /// # Cancellation
    /// Frames that were taken for an answer stay until the next poll confirms them.
    pub(super) async fn poll(&self, confirmed: u64, wait: Duration) -> PollOutcome {
        let (number, _waiting) = match self.begin_poll(confirmed) {
            Ok(begun) => begun,
            Err(polled) => return polled,
        };
        let until = Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            if let Some(polled) = self.lock().take(number) {
                return polled;
            }
            if timeout_at(until, changed).await.is_err() {
                return self.lock().take(number).unwrap_or(PollOutcome::Nothing);
            }
        }
    }

    fn begin_poll(&self, confirmed: u64) -> Result<(u64, Waiting<'_>), PollOutcome> {
        let mut state = self.lock();
        state.hear();
        if state.ended {
            return Err(PollOutcome::Gone(state.close));
        }
        if confirmed == state.answers {
            if let Some(confirmed) = state.unconfirmed.take() {
                self.progress.add(confirmed.messages.len());
                state.account();
                state.wake_sink();
            }
        } else if confirmed.checked_add(1) == Some(state.answers) && state.unconfirmed.is_some() {
            return Err(PollOutcome::Frames(state.give()));
        } else {
            // The client lacks frames that are no longer kept.
            return Err(PollOutcome::Gone(state.close));
        }
        state.polls += 1;
        state.waiting += 1;
        Ok((state.polls, Waiting(self)))
    }

    /// Hands a frame to the session, as soon as there is room. False: the session is over.
    ///
    /// # Cancellation
    /// The frame is handed over or not.
    pub(super) async fn post(&self, frame: Bytes) -> bool {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if state.ended {
                    return false;
                }
                if state.incoming.len() < WAITING_FRAMES {
                    state.incoming.push_back(frame);
                    state.hear();
                    return true;
                }
            }
            changed.await;
        }
    }

    /// The piece of an answer that begins at `from`, which the network has room for: none at its end. A client that takes a large answer
    /// slowly makes progress, but not one that is given the same piece again.
    pub(super) fn piece(&self, giving: Giving, from: usize) -> Result<Option<Bytes>, Superseded> {
        let mut state = self.lock();
        state.requests += 1;
        let is_newest = state.givings == giving.number;
        let unconfirmed = state.unconfirmed.as_mut().filter(|_| is_newest).ok_or(Superseded)?;
        let end = unconfirmed.messages.len().min(from + PIECE);
        if end > unconfirmed.taken {
            unconfirmed.taken = end;
            self.progress.add(1);
        }
        // A copy, so that what the connection still holds of an answer does not keep the whole of it.
        let piece = &unconfirmed.messages[from..end];
        Ok((!piece.is_empty()).then(|| Bytes::copy_from_slice(piece)))
    }

    /// Ready when no request came for `limit`, by several looks.
    pub(super) async fn abandoned(&self, limit: Duration) {
        let (mut seen, mut quiet) = (0, 0);
        while quiet < PARTS {
            sleep(limit / PARTS).await;
            let state = self.lock();
            quiet = if state.waiting > 0 || state.requests != seen { 0 } else { quiet + 1 };
            seen = state.requests;
        }
    }

    /// Ready when the session has said its close and no poll took that for a moment.
    pub(super) async fn close_was_left(&self) -> Ended {
        self.closing.notified().await;
        sleep(CLOSE_WITHIN).await;
        self.lock().close.map_or(Ended::Gone, Ended::Closed)
    }

    /// The session is over: polls that wait are told.
    pub(super) fn end(&self, close: Option<Close>) {
        let mut state = self.lock();
        state.ended = true;
        state.close = state.close.or(close);
        state.forget();
        state.incoming.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the poll of that number is answered now, if anything.
    fn take(&mut self, number: u64) -> Option<PollOutcome> {
        if self.ended {
            return Some(PollOutcome::Gone(self.close));
        }
        if number != self.polls || self.unconfirmed.is_some() {
            return None;
        }
        let whole = self.flushed || self.close.is_some() || self.outgoing_bytes >= HIGH_WATER;
        if !self.outgoing.is_empty() && whole {
            let messages = messages(&self.outgoing);
            self.outgoing.clear();
            self.outgoing_bytes = 0;
            self.unconfirmed = Some(Unconfirmed { messages, taken: 0 });
            self.answers += 1;
            self.account();
            return Some(PollOutcome::Frames(self.give()));
        }
        if self.outgoing.is_empty() && self.close.is_some() {
            self.ended = true;
            self.wake_sink();
            return Some(PollOutcome::Gone(self.close));
        }
        None
    }

    /// Begins to give the answer that is not confirmed; one that is under way ends.
    fn give(&mut self) -> Giving {
        self.givings += 1;
        let bytes = self.unconfirmed.as_ref().map_or(0, |answer| answer.messages.len());
        Giving { answer: self.answers, buffered: bytes.min(QUEUED_PIECES * PIECE), number: self.givings }
    }

    fn hear(&mut self) {
        self.heard = true;
        self.requests += 1;
        if let Some(input) = self.input.take() {
            input.wake();
        }
    }

    fn wake_sink(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.wake();
        }
    }

    /// Forgets what was not taken.
    fn forget(&mut self) {
        self.outgoing.clear();
        self.outgoing_bytes = 0;
        self.unconfirmed = None;
        self.account();
    }

    fn account(&mut self) {
        self.share.hold(self.held() as u64);
    }

    fn held(&self) -> usize {
        self.outgoing_bytes + self.unconfirmed.as_ref().map_or(0, |answer| answer.messages.len())
    }

    fn pend_sink(&mut self, cx: &Context<'_>) -> Poll<Result<(), Infallible>> {
        self.sink = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The frames as texts of JSON, with commas between them. Each session encodes its own: it is made for clients that have no other way.
fn messages(frames: &VecDeque<Encoded>) -> Bytes {
    let bytes = frames.iter().map(|frame| frame.len() + frame.len() / 4).sum();
    let mut messages = Vec::with_capacity(bytes);
    for (n, frame) in frames.iter().enumerate() {
        if n > 0 {
            messages.push(b',');
        }
        let text = std::str::from_utf8(frame).expect("a text frame is UTF-8");
        serde_json::to_writer(&mut messages, text).expect("a text has a JSON form");
    }
    messages.shrink_to_fit();
    Bytes::from(messages)
}

/// A poll that waits.
struct Waiting<'a>(&'a Mailbox);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        state.requests += 1;
    }
}

/// The session's end of a mailbox.
#[derive(Debug)]
pub(super) struct SessionEnd(pub(super) Arc<Mailbox>);

impl Stream for SessionEnd {
    type Item = Received;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        let mut state = self.0.lock();
        if let Some(frame) = state.incoming.pop_front() {
            drop(state);
            self.0.changed.notify_waiters();
            return Poll::Ready(Some(match std::str::from_utf8(&frame) {
                _ if frame.len() > self.0.frame_bytes => Received::Fault(Close::TooBig),
                Ok(text) => Received::Text(text.to_owned()),
                Err(_) => Received::Fault(Close::InvalidUtf8),
            }));
        }
        if std::mem::take(&mut state.heard) {
            // A sign of life, which costs nothing: how often there is a poll is up to what it is answered.
            return Poll::Ready(Some(Received::Frames(0)));
        }
        state.input = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Sink<Sent> for SessionEnd {
    type Error = Infallible;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut state = self.0.lock();
        if state.held() < HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        let pending = state.pend_sink(cx);
        drop(state);
        self.0.changed.notify_waiters();
        pending
    }

    fn start_send(self: Pin<&mut Self>, item: Sent) -> Result<(), Infallible> {
        let mut state = self.0.lock();
        match item {
            Sent::Text(frame) => {
                state.flushed = false;
                state.outgoing_bytes += frame.framed_len();
                state.outgoing.push_back(frame);
                state.account();
            }
            Sent::Close(close) => {
                if matches!(close, Close::KeyWithdrawn | Close::TokenExpired | Close::TokenRevoked) {
                    state.forget();
                }
                state.close = Some(close);
                drop(state);
                self.0.closing.notify_one();
            }
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut state = self.0.lock();
        state.flushed = true;
        if state.ended || state.close.is_none() && state.held() < HIGH_WATER {
            drop(state);
            self.0.changed.notify_waiters();
            return Poll::Ready(Ok(()));
        }
        let pending = state.pend_sink(cx);
        drop(state);
        self.0.changed.notify_waiters();
        pending
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.poll_flush(cx)
    }
}

impl Transport for &mut SessionEnd {
    fn progress(&self) -> Progress {
        self.0.progress.clone()
    }
}
