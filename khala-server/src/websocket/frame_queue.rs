//! The way out of a WebSocket: whole data frames go to the socket from the memory that all subscribers share,
//! between the control frames that the WebSocket library writes. On the way in, frames that the library takes without a word
//! are counted, so that each can be charged.
//!
//! The library would copy every frame into a buffer per connection, and keep that buffer at its largest size.
//!
//! # Invariants
//! Bytes of one frame are never interrupted by those of another frame.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use khala_core::connection::Progress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written before the next frame has to.
const HIGH_WATER: usize = 64 << 10;
/// Slices per write. Linux takes 1024; past some dozens nothing is gained.
const SLICES: usize = 32;

/// Frames that nobody has seen, after which no more is read until they were charged.
const UNSEEN: u32 = 256;

/// Finds the frames in what a client sends (RFC 6455, section 5.2), and looks at nothing but their heads.
#[derive(Debug, Default)]
struct FrameHeads {
    /// What has come of the next head, but for its mask.
    head: [u8; 10],
    have: usize,
    /// Bytes until that head begins.
    skip: u64,
}

impl FrameHeads {
    /// How many frames begin in `bytes` that end no message: control frames, and fragments but for the last of each.
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut frames = 0;
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            let Some((byte, rest)) = bytes[skipped..].split_first() else { return frames };
            self.head[self.have] = *byte;
            self.have += 1;
            bytes = rest;
            if self.have < 2 {
                continue;
            }
            let (short, masked) = (self.head[1] & 0x7f, self.head[1] & 0x80 != 0);
            let wide = match short {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if self.have < 2 + wide {
                continue;
            }
            let length = match wide {
                0 => short.into(),
                _ => self.head[2..2 + wide].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
            };
            self.skip = length.saturating_add(if masked { 4 } else { 0 });
            self.have = 0;
            let (last, control) = (self.head[0] & 0x80 != 0, self.head[0] & 0x08 != 0);
            frames += u32::from(control || !last);
        }
    }
}

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
    heads: FrameHeads,
    /// Frames that the library takes without a word, and that nobody has asked for yet.
    unseen: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Self {
        Self {
            heads: FrameHeads::default(),
            unseen: 0,
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

    /// The socket itself, for its last bytes.
    pub(crate) fn io(&mut self) -> &mut S {
        &mut self.io
    }

    /// Counts what came in.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.unseen += self.heads.count(bytes);
    }

    /// How many frames beside whole messages came in since this was last asked.
    pub(crate) fn take_unseen(&mut self) -> u32 {
        mem::take(&mut self.unseen)
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
        if self.unseen >= UNSEEN {
            // The library would go on reading them for as long as there are any.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.received(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
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

    #[test]
    fn frames_are_counted_however_they_arrive() {
        let frame = |head: u8, length: usize, masked: bool| {
            let mut frame = vec![head];
            let mask = if masked { 0x80 } else { 0 };
            match length {
                ..=125 => frame.push(mask | length as u8),
                126..=0xffff => {
                    frame.push(mask | 126);
                    frame.extend((length as u16).to_be_bytes());
                }
                _ => {
                    frame.push(mask | 127);
                    frame.extend((length as u64).to_be_bytes());
                }
            }
            frame.extend(vec![0x89; length + if masked { 4 } else { 0 }]);
            frame
        };
        let sent = [
            frame(0x89, 0, true),
            frame(0x81, 5, true),
            frame(0x01, 0, true),
            frame(0x00, 300, true),
            frame(0x8a, 125, false),
            frame(0x80, 70_000, true),
            frame(0x88, 2, true),
        ]
        .concat();
        for step in [1, 2, 3, 7, 100, sent.len()] {
            let mut heads = FrameHeads::default();
            let frames: u32 = sent.chunks(step).map(|chunk| heads.count(chunk)).sum();
            assert_eq!(frames, 5, "{step}");
        }
    }

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
