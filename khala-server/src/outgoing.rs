//! The way out of a WebSocket: whole data frames go to the socket from the memory that all subscribers share,
//! between the control frames that the WebSocket library writes.
//!
//! The library would copy every frame into a buffer per connection, and keep that buffer at its largest size. What
//! must stay true: bytes of one frame are never interrupted by those of another, whoever wrote them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use khala_core::session::Progress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written before the next frame has to.
const HIGH_WATER: usize = 64 << 10;
/// Slices per write. Linux takes 1024; past some dozens nothing is gained.
const SLICES: usize = 32;

/// A text frame on its way: RFC 6455, section 5.2, unmasked because a server sends it.
#[derive(Debug)]
struct Outgoing {
    header: [u8; 10],
    header_len: usize,
    payload: Bytes,
    sent: usize,
}

impl Outgoing {
    fn text(payload: Bytes) -> Self {
        let mut header = [0; 10];
        header[0] = 0x81; // the final frame of a text message
        let length = payload.len();
        let header_len = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..=125), _) => {
                header[1] = short;
                2
            }
            (_, Ok(medium)) => {
                header[1] = 126;
                header[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                header[1] = 127;
                header[2..].copy_from_slice(&(length as u64).to_be_bytes());
                10
            }
        };
        Self { header, header_len, payload, sent: 0 }
    }

    fn left(&self) -> usize {
        self.header_len + self.payload.len() - self.sent
    }

    fn slices(&self) -> [&[u8]; 2] {
        let header = &self.header[self.sent.min(self.header_len)..self.header_len];
        [header, &self.payload[self.sent.saturating_sub(self.header_len)..]]
    }
}

/// A socket with a queue of frames before it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    io: S,
    queue: VecDeque<Outgoing>,
    queued: usize,
    /// Whether the library was in the middle of a frame when the socket took no more.
    interrupted: bool,
    progress: Progress,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, queue: VecDeque::new(), queued: 0, interrupted: false, progress: Progress::new() }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Whether the library has to finish a frame before anything else may be written.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Queues a text frame.
    pub(crate) fn push_text(&mut self, payload: Bytes) {
        let frame = Outgoing::text(payload);
        self.queued += frame.left();
        self.queue.push_back(frame);
    }

    /// Ready when another frame may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued >= HIGH_WATER {
            ready!(self.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            ready!(self.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for slice in
            self.queue.iter().flat_map(Outgoing::slices).filter(|slice| !slice.is_empty()).take(SLICES)
        {
            slices[count] = IoSlice::new(slice);
            count += 1;
        }
        let mut written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.progress.add(written);
        self.queued -= written;
        while let Some(first) = self.queue.front_mut() {
            let left = first.left();
            if written < left {
                first.sent += written;
                break;
            }
            written -= left;
            self.queue.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

/// What the library writes: control frames, each call with all that it has.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.interrupted {
            ready!(self.poll_write_queue(cx))?;
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.progress.add(written);
        self.interrupted = written < bytes.len();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes only what it has wholly written.
        ready!(self.poll_write_queue(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_header_has_the_shortest_length() {
        for (length, header_len) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = Outgoing::text(Bytes::from(vec![b'x'; length]));
            assert_eq!((frame.header_len, frame.left()), (header_len, header_len + length));
        }
    }

    #[tokio::test]
    async fn frames_stay_whole_through_the_narrowest_pipe() {
        let (near, mut far) = tokio::io::duplex(3);
        let mut wire = Wire::new(near);
        let progress = wire.progress();
        wire.push_text(Bytes::from_static(b"one"));
        wire.push_text(Bytes::from_static(b"three"));
        let write = async {
            // A control frame that the library writes now comes after what is queued.
            wire.write_all(b"\x8a\x00").await.unwrap();
            wire.push_text(Bytes::from_static(b"x"));
            wire.flush().await.unwrap();
            drop(wire);
        };
        let mut read = Vec::new();
        let (_, all) = tokio::join!(write, far.read_to_end(&mut read));
        all.unwrap();
        assert_eq!(read, b"\x81\x03one\x81\x05three\x8a\x00\x81\x01x");
        assert_eq!(progress.bytes(), read.len() as u64);
    }
}
