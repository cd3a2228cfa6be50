//! A request body as lines, taken as they arrive.
//!
//! # Invariants
//! No more is held than one line and what came with its end. All of it counts in the memory budget, past which what has come
//! waits and no more is read; a body of which nothing comes asks for no memory. A body that breaks off gives no last line, for
//! nobody knows whether that was whole.

use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use khala_core::budget::{MemoryBudget, MemoryPart, MemoryShare};
use memchr::memchr;
use tokio::time::{Instant, sleep};

use crate::request::{MEMORY_AGAIN, MEMORY_WAIT};

/// Why there is no next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFault {
    /// The body ended before it was whole.
    Broken,
    /// There was no memory for more of it.
    NoMemory,
    /// The line is longer than it may be.
    TooLong,
}

pub(crate) struct Lines {
    body: Body,
    /// What has come and waits for memory.
    come: Option<Bytes>,
    buffer: BytesMut,
    /// How many bytes of the buffer are known to end no line.
    seen: usize,
    most: usize,
    end: Option<End>,
    memory: MemoryBudget,
    /// What the buffer takes, and what waits.
    share: MemoryShare,
    waiting: Option<Waiting>,
}

/// A wait for memory.
struct Waiting {
    since: Instant,
    /// When it was last gone on with: those who ask for lines may have other things to do meanwhile.
    seen: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Broken,
    NoMemory,
    Whole,
}

impl Lines {
    /// The lines of `body`, each of at most `most` bytes.
    pub(crate) fn new(body: Body, most: usize, memory: &MemoryBudget) -> Self {
        Self {
            body,
            come: None,
            buffer: BytesMut::new(),
            seen: 0,
            most,
            end: None,
            memory: memory.clone(),
            share: memory.share(MemoryPart::Bodies),
            waiting: None,
        }
    }

    /// The next line, without its end; none after the last. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, LineFault>> {
        loop {
            if let Some(line) = self.next_here() {
                return Some(line);
            }
            match self.end {
                Some(End::Broken) => return Some(Err(LineFault::Broken)),
                Some(End::NoMemory) => return Some(Err(LineFault::NoMemory)),
                Some(End::Whole) => {
                    self.seen = 0;
                    return (!self.buffer.is_empty()).then(|| Ok(self.buffer.split().freeze()));
                }
                None => self.fill().await,
            }
        }
    }

    /// The next line, if all of it has come.
    pub(crate) fn next_here(&mut self) -> Option<Result<Bytes, LineFault>> {
        let Some(more) = memchr(b'\n', &self.buffer[self.seen..]) else {
            self.seen = self.buffer.len();
            return (self.seen > self.most).then_some(Err(LineFault::TooLong));
        };
        let end = self.seen + more;
        self.seen = 0;
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end);
        Some(if end > self.most { Err(LineFault::TooLong) } else { Ok(line.freeze()) })
    }

    /// Waits until more has come, or the end. Cancel safe.
    pub(crate) async fn fill(&mut self) {
        if self.come.is_none() {
            match self.body.frame().await {
                Some(Ok(frame)) => self.come = frame.into_data().ok(),
                Some(Err(_)) => self.end = Some(End::Broken),
                None => self.end = Some(End::Whole),
            }
        }
        let Some(come) = &self.come else { return };
        self.share.hold((self.buffer.capacity() + come.remaining()) as u64);
        while self.memory.is_spent() {
            if self.has_waited() {
                self.end = Some(End::NoMemory);
                return;
            }
            sleep(MEMORY_AGAIN).await;
        }
        self.waiting = None;
        if let Some(come) = self.come.take() {
            self.buffer.put(come);
            self.share.hold(self.buffer.capacity() as u64);
        }
    }

    /// Whether it has waited for memory for as long as it may. A wait that was left for longer than that begins anew.
    fn has_waited(&mut self) -> bool {
        let now = Instant::now();
        let left = self.waiting.take().filter(|waiting| now - waiting.seen <= MEMORY_WAIT);
        let since = left.map_or(now, |waiting| waiting.since);
        self.waiting = Some(Waiting { since, seen: now });
        now - since >= MEMORY_WAIT
    }

    /// Takes what still comes and forgets it.
    pub(crate) async fn discard(&mut self) {
        (self.come, self.buffer) = (None, BytesMut::new());
        self.share.hold(0);
        while let Some(Ok(_)) = self.body.frame().await {}
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use futures::{
        StreamExt as _,
        channel::mpsc::{UnboundedSender, unbounded},
        stream,
    };
    use tokio::time::timeout;

    use super::*;

    fn lines(pieces: &[&'static str], most: usize) -> Lines {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, Infallible>(*piece)).collect();
        Lines::new(Body::from_stream(stream::iter(pieces)), most, &MemoryBudget::new(None))
    }

    async fn all(mut lines: Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => all.push(String::from_utf8(line.to_vec()).unwrap()),
                Err(fault) => {
                    all.push(format!("{fault:?}"));
                    break;
                }
            }
        }
        all
    }

    #[tokio::test]
    async fn lines_are_the_same_however_they_arrive() {
        let text = "ab\n\ncd\r\ne";
        let expected = ["ab", "", "cd\r", "e"];
        assert_eq!(all(lines(&[text], 3)).await, expected);
        let bytes: Vec<&'static str> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(all(lines(&bytes, 3)).await, expected);
        assert_eq!(all(lines(&["ab\n"], 3)).await, ["ab"], "nothing follows the last end");
        assert_eq!(all(lines(&[], 3)).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_line_has_a_length_whether_it_ends_or_not() {
        for pieces in [["abc\nabcd", "\nx"], ["abc\nab", "cd"], ["abc\nabcdefgh", ""]] {
            assert_eq!(all(lines(&pieces, 3)).await, ["abc", "TooLong"], "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn what_breaks_off_is_no_line() {
        let pieces = [Ok("a\n{}"), Err(io::Error::other("gone"))];
        let mut lines = Lines::new(Body::from_stream(stream::iter(pieces)), 9, &MemoryBudget::new(None));
        assert_eq!(lines.next().await, Some(Ok(Bytes::from_static(b"a"))));
        assert_eq!(lines.next().await, Some(Err(LineFault::Broken)));
    }

    /// Lines of what is sent, and a share that leaves no room for them.
    fn without_memory() -> (UnboundedSender<&'static str>, Lines, MemoryShare) {
        let memory = MemoryBudget::new(Some(1 << 20));
        let mut others = memory.share(MemoryPart::Frames);
        others.hold(1 << 20);
        let (sender, pieces) = unbounded();
        let pieces = pieces.map(Ok::<_, Infallible>);
        (sender, Lines::new(Body::from_stream(pieces), 9, &memory), others)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_memory_only_with_what_has_come() {
        let (sender, mut lines, _others) = without_memory();
        for _ in 0..10 {
            assert!(timeout(MEMORY_WAIT / 2, lines.next()).await.is_err(), "nothing has come");
        }
        sender.unbounded_send("a\n").unwrap();
        let began = Instant::now();
        // The future that waits is dropped again and again.
        let fault = loop {
            if let Ok(line) = timeout(MEMORY_AGAIN / 2, lines.next()).await {
                break line;
            }
        };
        assert_eq!(fault, Some(Err(LineFault::NoMemory)));
        assert!((MEMORY_WAIT..MEMORY_WAIT * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_memory_that_was_left_begins_anew() {
        let (sender, mut lines, mut others) = without_memory();
        sender.unbounded_send("a\n").unwrap();
        assert!(timeout(MEMORY_WAIT / 2, lines.next()).await.is_err(), "it waits");
        sleep(MEMORY_WAIT * 10).await;
        assert!(timeout(MEMORY_WAIT / 2, lines.next()).await.is_err(), "it waits for a second again");
        others.hold(0);
        assert_eq!(lines.next().await, Some(Ok(Bytes::from_static(b"a"))));
    }
}
