//! The floor of fan-out: one thread that writes frames, encoded once, to WebSockets. It stores nothing, checks nothing and
//! keeps no history; nobody who delivers each update with a write of its own can do it for much less.
//!
//! A subscriber asks for `/subscribe/<topic>`, the publisher for `/publish`, and sends lines of a topic, a blank, and a
//! payload. What a socket does not take at once waits for it, without bound.

use std::{
    convert::Infallible,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

use memchr::{memchr, memmem};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const LISTENER: Token = Token(usize::MAX - 1);
const BUFFER: usize = 256 << 10;
/// What a client that does not look at it is answered.
const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    role: Role,
    /// Of the publisher: the beginning of a line. Before there is a role: of the request.
    input: Vec<u8>,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Publisher,
    Subscriber(usize),
    Unknown,
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn send_rest(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.unsent);
        if rest.is_empty() { Ok(()) } else { self.send(&rest) }
    }
}

/// Who follows a topic, and what is to be written to all of them.
#[derive(Debug, Default)]
struct Topic {
    subscribers: Vec<usize>,
    frames: Vec<u8>,
}

struct Floor {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    topics: Vec<Topic>,
    coalesced: bool,
    /// Topics with frames.
    moved: Vec<usize>,
}

/// Serves at that address until it fails; coalesced, with one write for all that is there for a subscriber.
pub(super) fn serve(address: SocketAddr, coalesced: bool) -> io::Result<Infallible> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor =
        Floor { connections: Vec::new(), free: Vec::new(), topics: Vec::new(), coalesced, moved: Vec::new() };
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; BUFFER];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                floor.accept(&listener, &poll)?;
                continue;
            }
            let Token(number) = event.token();
            let mut kept = Ok(true);
            if event.is_writable()
                && let Some(connection) = &mut floor.connections[number]
            {
                kept = connection.send_rest().map(|()| true);
            }
            if event.is_readable() && kept.is_ok() {
                kept = floor.read(number, &mut buffer);
            }
            if !matches!(kept, Ok(true)) {
                floor.close(number);
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or(self.connections.len());
            poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            let connection =
                Connection { stream, role: Role::Unknown, input: Vec::new(), unsent: Vec::new() };
            match self.connections.get_mut(number) {
                Some(place) => *place = Some(connection),
                None => self.connections.push(Some(connection)),
            }
        }
        Ok(())
    }

    fn close(&mut self, number: usize) {
        let Some(connection) = self.connections[number].take() else { return };
        self.free.push(number);
        if let Role::Subscriber(topic) = connection.role {
            self.topics[topic].subscribers.retain(|subscriber| *subscriber != number);
        }
    }

    /// Reads all that is there. Whether the connection stays.
    fn read(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let Some(connection) = &mut self.connections[number] else { return Ok(true) };
            let read = match connection.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            match connection.role {
                Role::Publisher => self.publish(number, &buffer[..read])?,
                Role::Subscriber(_) => {}
                Role::Unknown => {
                    connection.input.extend_from_slice(&buffer[..read]);
                    self.welcome(number)?;
                }
            }
            if read < buffer.len() {
                break;
            }
        }
        self.write_moved()?;
        Ok(true)
    }

    fn welcome(&mut self, number: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        if memmem::find(&connection.input, b"\r\n\r\n").is_none() {
            return Ok(());
        }
        let request = String::from_utf8_lossy(&connection.input).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        connection.role = match path.strip_prefix("/subscribe/").map(str::parse) {
            Some(Ok(topic)) => Role::Subscriber(topic),
            _ => Role::Publisher,
        };
        connection.input = Vec::new();
        connection.send(UPGRADED)?;
        if let Role::Subscriber(topic) = connection.role {
            if self.topics.len() <= topic {
                self.topics.resize_with(topic + 1, Topic::default);
            }
            self.topics[topic].subscribers.push(number);
        }
        Ok(())
    }

    fn publish(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        let mut input = std::mem::take(&mut connection.input);
        input.extend_from_slice(bytes);
        let mut rest = &input[..];
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            let Some(blank) = memchr(b' ', line) else { continue };
            let topic = std::str::from_utf8(&line[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
            let Some(number) = topic.filter(|topic| *topic < self.topics.len()) else { continue };
            let topic = &mut self.topics[number];
            if topic.frames.is_empty() {
                self.moved.push(number);
            }
            encode(&mut topic.frames, &line[blank + 1..]);
            if !self.coalesced {
                self.write_moved()?;
            }
        }
        let rest = rest.to_vec();
        if let Some(connection) = &mut self.connections[number] {
            connection.input = rest;
        }
        Ok(())
    }

    fn write_moved(&mut self) -> io::Result<()> {
        while let Some(topic) = self.moved.pop() {
            let topic = &mut self.topics[topic];
            for subscriber in &topic.subscribers {
                if let Some(connection) = &mut self.connections[*subscriber] {
                    // One that is gone is noticed when it is read.
                    let _ = connection.send(&topic.frames);
                }
            }
            topic.frames.clear();
        }
        Ok(())
    }
}

/// A frame of text, from a server.
fn encode(out: &mut Vec<u8>, payload: &[u8]) {
    out.push(0x81);
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}
