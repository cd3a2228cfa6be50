//! One connection with a server that keeps updates: what is to be sent waits until the socket takes it.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
};

use mio::{Registry, Token};

use crate::comparison::{
    load::{
        link::Link,
        marker::{Carry, Mark, Scanner},
    },
    wire::Step,
};

#[derive(Debug)]
pub(super) struct Line {
    link: Link,
    carry: Carry,
    out: Vec<u8>,
    written: usize,
    /// The end of what was answered last, for the error that says why.
    last: Vec<u8>,
}

impl Line {
    pub(super) fn connect(
        registry: &Registry,
        token: Token,
        address: SocketAddr,
        steps: Vec<Step>,
    ) -> io::Result<Self> {
        let link = Link::connect(registry, token, address, steps)?;
        Ok(Self { link, carry: Carry::default(), out: Vec::new(), written: 0, last: Vec::new() })
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// Where to put what is to be sent; [`flush`](Self::flush) sends it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match (&mut self.link.stream()).write(&self.out[self.written..]) {
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

    /// Reads until there is no more; `mark` hears of marks, `text` of all that is read once the line is open.
    pub(super) fn readable(
        &mut self,
        scanner: &mut Scanner,
        mut mark: impl FnMut(Mark),
        mut text: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        loop {
            let bytes = match scanner.read(self.link.stream(), &mut self.carry, &mut mark) {
                Ok([]) => {
                    return Err(io::Error::other(format!("closed by the server after: {}", self.words())));
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let emptied = bytes.len() < Scanner::room();
            self.last.clear();
            self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(1_024)..]);
            if self.link.is_open() {
                text(bytes);
            } else {
                self.link.hear(bytes)?;
            }
            if emptied {
                return Ok(());
            }
        }
    }

    /// What was answered last.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.last).into_owned()
    }
}
