//! One connection of the generator: connected without waiting, and then led through the steps of its protocol.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};

use memchr::memmem;
use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::SockRef;

use crate::comparison::wire::Step;

#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    steps: VecDeque<Step>,
    /// Whether the first step was sent.
    begun: bool,
    /// What was answered to the step that was sent last.
    heard: Vec<u8>,
}

impl Link {
    pub(super) fn connect(
        registry: &Registry,
        token: Token,
        address: SocketAddr,
        steps: Vec<Step>,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // Closing cuts it, as a network would, and leaves no port waiting.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, steps: steps.into(), begun: false, heard: Vec::new() })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether all steps were taken.
    pub(super) fn is_open(&self) -> bool {
        self.steps.is_empty()
    }

    /// The answer to the last step.
    pub(super) fn answer(&self) -> &[u8] {
        &self.heard
    }

    /// To be called when the socket can be written to: begins, if that is still to be done.
    pub(super) fn writable(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(error),
        }
        self.begun = true;
        self.send()
    }

    /// Takes what was read while steps remain.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.heard.extend_from_slice(bytes);
        while let Some(step) = self.steps.front() {
            let Some(found) = memmem::find(&self.heard, step.until) else { return Ok(()) };
            let end = found + step.until.len();
            self.steps.pop_front();
            if self.steps.is_empty() {
                return Ok(());
            }
            self.heard.drain(..end);
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let Some(step) = self.steps.front() else { return Ok(()) };
        // A few hundred bytes on a socket that holds nothing else: the system takes them whole.
        self.stream.write_all(&step.send)
    }
}
