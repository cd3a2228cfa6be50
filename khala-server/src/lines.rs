//! A request body as lines, taken as they arrive.
//!
//! What must stay true: no more is held than one line and what came with its end, all of it counts in the memory budget,
//! past which no more is read; and a body that breaks off gives no
//! last line, for nobody knows whether that was whole.

use std::{error::Error as StdError, pin::Pin};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use khala_core::{MemoryBudget, MemoryPart, MemoryShare};
use memchr::memchr;
use tokio::time::{Instant, sleep};

use crate::body::{MEMORY_AGAIN, MEMORY_WAIT};

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

pub(crate) struct Lines<B> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    /// So many bytes of the buffer are known to end no line.
    seen: usize,
    most: usize,
    end: Option<End>,
    memory: MemoryBudget,
    /// What the buffer takes.
    share: MemoryShare,
    /// Until when it waits for memory, while there is none.
    waits_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Broken,
    NoMemory,
    Whole,
}

impl<B> Lines<B>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// The lines of `body`, each of at most `most` bytes.
    pub(crate) fn new(body: B, most: usize, memory: &MemoryBudget) -> Self {
        Self {
            body: Box::pin(body),
            buffer: BytesMut::new(),
            seen: 0,
            most,
            end: None,
            memory: memory.clone(),
            share: memory.share(MemoryPart::Bodies),
            waits_until: None,
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
        while self.memory.is_spent() {
            if Instant::now() >= *self.waits_until.get_or_insert_with(|| Instant::now() + MEMORY_WAIT) {
                self.end = Some(End::NoMemory);
                return;
            }
            sleep(MEMORY_AGAIN).await;
        }
        self.waits_until = None;
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.put(data);
                    self.share.hold(self.buffer.capacity() as u64);
                }
            }
            Some(Err(_)) => self.end = Some(End::Broken),
            None => self.end = Some(End::Whole),
        }
    }

    /// Takes what still comes and forgets it.
    pub(crate) async fn discard(&mut self) {
        self.buffer = BytesMut::new();
        self.share.hold(0);
        while let Some(Ok(_)) = self.body.frame().await {}
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn lines(
        pieces: &[&'static str],
        most: usize,
    ) -> Lines<impl Body<Data = Bytes, Error = Infallible> + use<>> {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
        Lines::new(StreamBody::new(stream::iter(pieces)), most, &MemoryBudget::new(None))
    }

    async fn all(mut lines: Lines<impl Body<Data = Bytes, Error = Infallible> + Send>) -> Vec<String> {
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
        let pieces = [Ok(Frame::data(Bytes::from_static(b"a\n{}"))), Err(io::Error::other("gone"))];
        let mut lines = Lines::new(StreamBody::new(stream::iter(pieces)), 9, &MemoryBudget::new(None));
        assert_eq!(lines.next().await, Some(Ok(Bytes::from_static(b"a"))));
        assert_eq!(lines.next().await, Some(Err(LineFault::Broken)));
    }
}
