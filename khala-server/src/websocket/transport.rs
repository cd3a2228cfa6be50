//! A WebSocket as the core's transport: text in, text out, and every broken rule as the close that answers it.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use khala_core::{
    connection::{Progress, Received, Sent, Transport},
    wire::Close,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::frame_queue::Wire;

/// Bytes that the socket is read with, which each connection holds. Clients say little, and seldom; who has sent something
/// larger, as a fresh token, holds as much until it goes.
const READ_BUFFER: usize = 512;
/// Bytes of control frames that may wait: pongs and a close.
const CONTROL_BUFFER: usize = 4 << 10;
/// How long a closed connection is still read from. Without it, what the client has under way would make the
/// network drop the close frame that says why.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that it is read for at most.
const LINGER_BYTES: usize = 1 << 20;

/// A WebSocket connection after its handshake, the server's end.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    frames: WebSocketStream<Wire<S>>,
    progress: Progress,
    client_code: Option<u16>,
    /// Whether the library was given a close.
    closing: bool,
    /// What was received and comes after the frames beside it.
    held: Option<Option<Received>>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> WebSocket<S> {
    /// Speaks over `io`, of which `read` was read already, and takes messages of at most `frame_bytes`.
    pub(crate) async fn new(io: S, read: Bytes, frame_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_BUFFER)
            .max_message_size(Some(frame_bytes))
            .max_frame_size(Some(frame_bytes));
        // Copied, for it lies in a larger buffer that would live as long as the connection.
        let read = read.to_vec();
        let mut wire = Wire::new(io);
        wire.received(&read);
        let progress = wire.progress();
        let frames = WebSocketStream::from_partially_read(wire, read, Role::Server, Some(config)).await;
        Self { frames, progress, client_code: None, closing: false, held: None }
    }

    /// The code that the client closed with, if it did.
    pub(crate) fn client_code(&self) -> Option<u16> {
        self.client_code
    }

    /// Says that nothing more comes, and reads on for a moment until the client is gone.
    pub(crate) async fn finish(mut self) {
        let part = async {
            let io = self.frames.get_mut().io();
            io.shutdown().await?;
            let (mut rest, mut left) = ([0; 1024], LINGER_BYTES);
            while left > 0 {
                match io.read(&mut rest).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        };
        // However it ends, it is over.
        let _ = timeout(LINGER, part).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for WebSocket<S> {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(held);
        }
        let received = self.poll_message(cx);
        // What the library takes without a word is charged before what it hands over.
        match self.frames.get_mut().take_unseen() {
            0 => received,
            frames => {
                if let Poll::Ready(received) = received {
                    self.held = Some(received);
                }
                Poll::Ready(Some(Received::Frames(frames)))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> WebSocket<S> {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        loop {
            let received = match ready!(self.frames.poll_next_unpin(cx)) {
                None => None,
                Some(Ok(Message::Text(text))) => Some(Received::Text(text.as_str().to_owned())),
                Some(Ok(Message::Binary(_))) => Some(Received::Binary),
                Some(Ok(Message::Close(frame))) => {
                    self.client_code = frame.map(|frame| frame.code.into());
                    continue; // The next turn answers it, and ends.
                }
                Some(Ok(_)) => continue, // A ping is answered by the library.
                Some(Err(Error::Capacity(_))) => Some(Received::Fault(Close::TooBig)),
                Some(Err(Error::Utf8(_))) => Some(Received::Fault(Close::InvalidUtf8)),
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => None,
                Some(Err(Error::Protocol(_))) => Some(Received::Fault(Close::ProtocolError)),
                Some(Err(_)) => None,
            };
            return Poll::Ready(received);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Sink<Sent> for WebSocket<S> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.frames.get_ref().is_interrupted() {
            ready!(self.frames.poll_flush_unpin(cx))?;
        }
        self.frames.get_mut().poll_room(cx).map_err(Error::Io)
    }

    fn start_send(mut self: Pin<&mut Self>, item: Sent) -> Result<(), Error> {
        match item {
            Sent::Text(text) => {
                self.frames.get_mut().push(text.into_framed());
                Ok(())
            }
            Sent::Close(close) => {
                self.closing = true;
                let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
                self.frames.start_send_unpin(Message::Close(Some(frame)))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A pong the library flushes by itself where it reads, unless the socket is full then.
        if self.closing || self.frames.get_ref().has_library_waiting() {
            return self.frames.poll_flush_unpin(cx);
        }
        self.frames.get_mut().poll_write_queue(cx).map_err(Error::Io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        pin!(&mut self.frames).poll_close(cx)
    }
}

/// Borrowed, so that the connection can still be ended properly when the session is done with it.
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for &mut WebSocket<S> {
    fn progress(&self) -> Progress {
        self.progress.clone()
    }
}
