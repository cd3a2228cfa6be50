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

use bytes::{Buf as _, Bytes};
use khala_core::session::Progress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written before the next frame has to.
const HIGH_WATER: usize = 64 << 10;
/// Slices per write. Linux takes 1024; past some dozens nothing is gained.
const SLICES: usize = 32;

/// A socket with a queue of frames before it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    io: S,
    /// Frames with their headers; of the first, what is left of it.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Whether the library was in the middle of a frame when the socket took no more.
    interrupted: bool,
    /// Whether the library has something left to write.
    waits: bool,
    progress: Progress,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            io,
            queue: VecDeque::with_capacity(1),
            queued: 0,
            interrupted: false,
            waits: false,
            progress: Progress::new(),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Whether the library has to finish a frame before anything else may be written.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Whether the library has to be told to flush, for it wrote something that was not taken.
    pub(crate) fn has_library_waiting(&self) -> bool {
        self.waits
    }

    /// Queues a frame, with its header.
    pub(crate) fn push(&mut self, framed: Bytes) {
        self.queued += framed.len();
        self.queue.push_back(framed);
    }

    /// Ready when another frame may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued >= HIGH_WATER {
            ready!(self.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when nothing waits.
    pub(crate) fn poll_write_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            ready!(self.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = Pin::new(&mut self.io);
        let written = match self.queue.make_contiguous() {
            [] => return Poll::Ready(Ok(())),
            // One slice is cheaper for the system than a list of one.
            [only] => io.poll_write(cx, only),
            many => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = many.len().min(SLICES);
                for (slice, frame) in slices.iter_mut().zip(&*many) {
                    *slice = IoSlice::new(frame);
                }
                io.poll_write_vectored(cx, &slices[..count])
            }
        };
        let mut written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.progress.add(written);
        self.queued -= written;
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
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
        self.waits = true;
        if !self.interrupted {
            ready!(self.poll_write_queue(cx))?;
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.progress.add(written);
        self.interrupted = written < bytes.len();
        self.waits = self.interrupted;
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

    #[tokio::test]
    async fn frames_stay_whole_through_the_narrowest_pipe() {
        let (near, mut far) = tokio::io::duplex(3);
        let mut wire = Wire::new(near);
        let progress = wire.progress();
        wire.push(Bytes::from_static(b"\x81\x03one"));
        wire.push(Bytes::from_static(b"\x81\x05three"));
        let write = async {
            // A control frame that the library writes now comes after what is queued.
            wire.write_all(b"\x8a\x00").await.unwrap();
            wire.push(Bytes::from_static(b"\x81\x01x"));
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
