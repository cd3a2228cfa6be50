//! The client's end of a WebSocket (RFC 6455), as little of it as the clients need: no buffer of its own while nothing is
//! half read, and frames handed over where they lie.
//!
//! # Invariants
//! While nobody reads, nothing is taken from the system's socket.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Bytes that are read at once, shared by all sockets of a thread.
const SCRATCH: usize = 256 << 10;
/// What a socket keeps of its memory for half frames.
const KEPT: usize = 4 << 10;
/// The largest frame that a server sends: less than 1 MiB, unless one update alone is larger.
const LARGEST: usize = 16 << 20;
/// A browser waits longer; a handshake that takes that long is a fault of the server all the same.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(60);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// What a server sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Close(Option<u16>),
    Ping(&'a [u8]),
    Text(&'a [u8]),
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nobody listens, or the connection was cut.
    Failed(ErrorKind),
    /// The handshake was answered with this status.
    Status(u16),
}

impl From<io::Error> for Refused {
    fn from(fault: io::Error) -> Self {
        Self::Failed(fault.kind())
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// The start of a frame whose end has not come yet.
    half: Vec<u8>,
}

impl Socket {
    /// Opens one. With `receive_buffer`, the system takes hardly more than that while nobody reads.
    pub(crate) async fn open(
        address: SocketAddr,
        token: &str,
        receive_buffer: Option<u32>,
    ) -> Result<Self, Refused> {
        match timeout(HANDSHAKE_WITHIN, Self::shake_hands(address, token, receive_buffer)).await {
            Ok(opened) => opened,
            Err(_) => Err(Refused::Failed(ErrorKind::TimedOut)),
        }
    }

    async fn shake_hands(
        address: SocketAddr,
        token: &str,
        receive_buffer: Option<u32>,
    ) -> Result<Self, Refused> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /sync/v1/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut head).await? == 0 {
                return Err(Refused::Failed(ErrorKind::UnexpectedEof));
            }
        };
        let status =
            std::str::from_utf8(&head[..end]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
        match status {
            Some(101) => Ok(Self { stream, half: head.split_off(end) }),
            Some(status) => Err(Refused::Status(status)),
            None => Err(Refused::Failed(ErrorKind::InvalidData)),
        }
    }

    /// Sends a text frame. What a client says is short: it fits into the socket, or the connection is broken.
    pub(crate) async fn send(&mut self, text: &str) -> io::Result<()> {
        self.send_frame(0x1, text.as_bytes()).await
    }

    /// Answers a ping.
    pub(crate) async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.send_frame(0xA, payload).await
    }

    /// Answers a close, or asks for one.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.send_frame(0x8, &1_000_u16.to_be_bytes()).await
    }

    async fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        // Masks keep proxies from being misled by scripts; there are neither here, and any mask will do.
        const MASK: [u8; 4] = *b"khal";
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(payload.len()) {
            Ok(short @ ..=125) => frame.push(0x80 | short),
            _ => {
                let length = u16::try_from(payload.len()).map_err(|_| ErrorKind::InvalidInput)?;
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).await
    }

    /// Waits until something can be read. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.half_frame_is_whole() { Ok(()) } else { self.stream.readable().await }
    }

    /// Whether the handshake's answer brought a frame with it.
    fn half_frame_is_whole(&self) -> bool {
        matches!(first(&self.half), Ok(Some(_)))
    }

    /// Takes what can be read without waiting, and hands over every frame that is whole.
    ///
    /// # Errors
    /// The connection's end (`UnexpectedEof`), its failure, and what a server must not send (`InvalidData`).
    pub(crate) fn read(&mut self, mut take: impl FnMut(Frame<'_>)) -> io::Result<()> {
        if self.half_frame_is_whole() {
            return self.take_half(&mut take);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let read = match self.stream.try_read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(fault) => return Err(fault),
            };
            if self.half.is_empty() {
                let taken = take_whole(&buffer[..read], &mut take)?;
                self.half.extend_from_slice(&buffer[taken..read]);
                Ok(())
            } else {
                self.half.extend_from_slice(&buffer[..read]);
                self.take_half(&mut take)
            }
        })
    }

    fn take_half(&mut self, take: &mut impl FnMut(Frame<'_>)) -> io::Result<()> {
        let taken = take_whole(&self.half, take)?;
        self.half.drain(..taken);
        if self.half.is_empty() {
            self.half.shrink_to(KEPT);
        }
        Ok(())
    }
}

/// Hands over every whole frame that `bytes` starts with; says how many bytes they were.
fn take_whole(bytes: &[u8], take: &mut impl FnMut(Frame<'_>)) -> io::Result<usize> {
    let mut taken = 0;
    while let Some((frame, length)) = first(&bytes[taken..])? {
        take(frame);
        taken += length;
    }
    Ok(taken)
}

/// The frame that `bytes` starts with, if it is whole, and its length.
fn first(bytes: &[u8]) -> io::Result<Option<(Frame<'_>, usize)>> {
    let [kind, short, rest @ ..] = bytes else { return Ok(None) };
    let (head, length) = match short {
        126 => match rest.first_chunk() {
            Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX)),
            None => return Ok(None),
        },
        // A masked frame is none of a server's.
        128.. => return Err(ErrorKind::InvalidData.into()),
        short => (2, usize::from(*short)),
    };
    if length > LARGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let Some(payload) = bytes.get(head..head + length) else { return Ok(None) };
    let frame = match kind {
        0x81 => Frame::Text(payload),
        0x88 => Frame::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
        0x89 => Frame::Ping(payload),
        // Fragments and binary frames are none of this server's.
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    Ok(Some((frame, head + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let mut bytes = b"\x81\x02hi\x88\x04\x03\xf4no\x81\x7e\x01\x00".to_vec();
        bytes.extend([b'x'; 256]);
        for cut in 0..=bytes.len() {
            let mut seen = Vec::new();
            let mut take = |frame: Frame<'_>| {
                seen.push(match frame {
                    Frame::Close(code) => format!("close {code:?}"),
                    Frame::Ping(_) => "ping".to_owned(),
                    Frame::Text(text) => format!("text {}", text.len()),
                });
            };
            let taken = take_whole(&bytes[..cut], &mut take).unwrap();
            let rest = take_whole(&bytes[taken..], &mut take).unwrap();
            assert_eq!(taken + rest, bytes.len());
            assert_eq!(seen, ["text 2", "close Some(1012)", "text 256"], "cut at {cut}");
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_a_fault() {
        for bytes in [b"\x82\x01x".as_slice(), b"\x01\x01x", b"\x81\x81maskx", b"\x81\x7f\xff\0\0\0\0\0\0\0"]
        {
            assert_eq!(first(bytes).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
