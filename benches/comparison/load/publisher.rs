//! The publisher's connection: what is to be published waits in a buffer until the socket takes it; answers are counted.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::SocketAddr,
};

use memchr::memmem;
use mio::{Registry, Token};

use super::{
    link::Link,
    marker::{Carry, Scanner},
    tally::Tally,
};
use crate::comparison::wire::{Update, Wire};

#[derive(Debug)]
pub(super) struct Publisher {
    registry: Registry,
    token: Token,
    address: SocketAddr,
    link: Link,
    /// Where each request takes a connection of its own: how many updates go into one, and those that wait.
    updates_a_connection: Option<usize>,
    requests: VecDeque<Vec<u8>>,
    /// Whether one of them is under way.
    asked: bool,
    out: Vec<u8>,
    written: usize,
    acknowledged: Option<Tally>,
    refusals: Vec<Tally>,
    /// The end of what was answered, for the error that says why.
    last: Vec<u8>,
}

impl Publisher {
    pub(super) fn connect(registry: &Registry, token: Token, wire: &dyn Wire) -> io::Result<Self> {
        let address = wire.publisher_address();
        Ok(Self {
            registry: registry.try_clone()?,
            token,
            address,
            link: Link::connect(registry, token, address, wire.open_publisher())?,
            updates_a_connection: wire.updates_a_connection(),
            requests: VecDeque::new(),
            asked: false,
            out: Vec::new(),
            written: 0,
            acknowledged: wire.acknowledgement().map(Tally::new),
            refusals: wire.refusals().iter().copied().map(Tally::new).collect(),
            last: Vec::new(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// How many updates were acknowledged, where the server does that.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.acknowledged.as_ref().map(Tally::count)
    }

    pub(super) fn publish(&mut self, wire: &dyn Wire, updates: &[Update<'_>]) {
        let Some(count) = self.updates_a_connection else {
            return wire.publish(&mut self.out, updates);
        };
        for updates in updates.chunks(count) {
            let mut request = Vec::new();
            wire.publish(&mut request, updates);
            self.requests.push_back(request);
        }
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.asked
            && let Some(request) = self.requests.pop_front()
        {
            self.link = Link::connect(&self.registry, self.token, self.address, Vec::new())?;
            self.asked = true;
            self.last.clear();
            (self.out, self.written) = (request, 0);
        }
        while self.written < self.out.len() {
            match self.link.stream().write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// To be called when the socket can be written to.
    pub(super) fn writable(&mut self) -> io::Result<()> {
        self.link.writable()?;
        self.flush()
    }

    /// Reads answers until there are no more, or the end, which may come with the last of them. Errors also where something
    /// was refused.
    pub(super) fn readable(&mut self, scanner: &mut Scanner) -> io::Result<()> {
        loop {
            // What a publisher is answered holds no marks that count.
            let bytes = match scanner.read(self.link.stream(), &mut Carry::default(), |_| {}) {
                Ok([]) if self.asked && self.last.starts_with(b"HTTP/1.1 200") => {
                    // That request was answered: on with the next.
                    self.asked = false;
                    return self.flush();
                }
                // Told again.
                Ok([]) if self.updates_a_connection.is_some() && !self.asked => return Ok(()),
                Ok([]) => {
                    return Err(io::Error::other(format!("closed by the server after: {}", self.words())));
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let was_open = self.link.is_open();
            self.last.clear();
            self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(1_024)..]);
            self.refusals.iter_mut().for_each(|tally| tally.hear(bytes));
            if let Some(acknowledged) = &mut self.acknowledged {
                acknowledged.hear(bytes);
            }
            if !was_open {
                self.link.hear(bytes)?;
            }
            if self.refusals.iter().any(|tally| tally.count() > 0) {
                return Err(io::Error::other(format!("an update was refused: {}", self.words())));
            }
        }
    }

    fn words(&self) -> String {
        let text = &self.last[memmem::rfind(&self.last, b"\n\n").unwrap_or(0)..];
        String::from_utf8_lossy(text).into_owned()
    }
}
