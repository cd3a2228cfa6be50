//! A TCP proxy that fails as networks do: it refuses, it cuts, or it goes silent while everything looks well.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    thread,
};

/// A proxy on a port of the loopback address, before a server on another. It begins by passing everything on.
///
/// Its threads end with it, and its connections with them.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    switch: Arc<Switch>,
    listener: Option<thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Gone,
    Pass,
    Refuse,
    Silent,
}

#[derive(Debug)]
struct Switch {
    server: AtomicU16,
    state: Mutex<State>,
    turned: Condvar,
    accepted: AtomicUsize,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Both ends of each connection that is open.
    links: Vec<Arc<Link>>,
}

/// A connection of a client, and the one to the server that goes with it, once it is made.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: Mutex<Option<TcpStream>>,
    cut: AtomicBool,
}

impl Proxy {
    /// A proxy before the server on that port.
    pub fn before(server: u16) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let switch = Arc::new(Switch {
            server: server.into(),
            state: Mutex::new(State { mode: Mode::Pass, links: Vec::new() }),
            turned: Condvar::new(),
            accepted: AtomicUsize::new(0),
        });
        let thread = thread::spawn({
            let switch = Arc::clone(&switch);
            move || switch.listen(&listener)
        });
        Self { port, switch, listener: Some(thread) }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Passes everything on, and what was held back while it was silent first.
    pub fn pass(&self) {
        self.switch.turn(Mode::Pass);
    }

    /// Passes nothing on, neither bytes nor ends, in either direction: connections stay open, and new ones are accepted. So
    /// a network looks that has lost its way, or a server that has stopped.
    pub fn silent(&self) {
        self.switch.turn(Mode::Silent);
    }

    /// Cuts all connections, and closes new ones at once.
    pub fn refuse(&self) {
        self.switch.turn(Mode::Refuse);
        self.switch.cut();
    }

    /// Cuts the connections that there are. New ones fare as before.
    pub fn cut(&self) {
        self.switch.cut();
    }

    /// Takes connections to the server on that port from now on, and cuts those that there are.
    pub fn lead_to(&self, server: u16) {
        self.switch.server.store(server, Ordering::SeqCst);
        self.switch.cut();
    }

    /// How many connections it has accepted since it began.
    pub fn accepted(&self) -> usize {
        self.switch.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switch.turn(Mode::Gone);
        self.switch.cut();
        // It waits for somebody to come.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Switch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, mode: Mode) {
        self.lock().mode = mode;
        self.turned.notify_all();
    }

    fn cut(&self) {
        for link in self.lock().links.drain(..) {
            link.cut();
        }
        self.turned.notify_all();
    }

    fn listen(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let mut state = self.lock();
            let client = match (state.mode, client) {
                (Mode::Gone, _) => return,
                (Mode::Refuse, _) | (_, Err(_)) => continue,
                (Mode::Pass | Mode::Silent, Ok(client)) => client,
            };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let link = Arc::new(Link { client, server: Mutex::new(None), cut: false.into() });
            state.links.push(Arc::clone(&link));
            drop(state);
            let switch = Arc::clone(&self);
            thread::spawn(move || {
                // Whatever went wrong, the link is over.
                let _ = switch.carry(&link);
                link.cut();
                switch.lock().links.retain(|other| !Arc::ptr_eq(other, &link));
            });
        }
    }

    /// Carries both directions until both have ended. None: it could not be, or was cut.
    fn carry(self: &Arc<Self>, link: &Arc<Link>) -> Option<()> {
        self.wait(link)?;
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server.load(Ordering::SeqCst))).ok()?;
        for stream in [&link.client, &server] {
            stream.set_nodelay(true).ok()?;
        }
        let (up, down) = ((copy(&link.client)?, copy(&server)?), (copy(&server)?, copy(&link.client)?));
        *link.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        let upward = thread::spawn({
            let (switch, link) = (Arc::clone(self), Arc::clone(link));
            move || switch.pump(&link, up.0, up.1)
        });
        let carried = self.pump(link, down.0, down.1);
        upward.join().ok()?;
        carried
    }

    /// Carries one direction to its end.
    fn pump(&self, link: &Link, mut from: TcpStream, mut to: TcpStream) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            self.wait(link)?;
            let read = from.read(&mut buffer).unwrap_or(0);
            // It may have gone silent while this waited.
            self.wait(link)?;
            if read == 0 {
                return to.shutdown(Shutdown::Write).ok();
            }
            if to.write_all(&buffer[..read]).is_err() {
                return from.shutdown(Shutdown::Read).ok();
            }
        }
    }

    /// Waits while there is silence. None: the link was cut.
    fn wait(&self, link: &Link) -> Option<()> {
        let silent = |state: &mut State| state.mode == Mode::Silent && !link.is_cut();
        drop(self.turned.wait_while(self.lock(), silent).unwrap_or_else(PoisonError::into_inner));
        (!link.is_cut()).then_some(())
    }
}

impl Link {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        // What is closed already cannot be.
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(server) = &*self.server.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}

fn copy(stream: &TcpStream) -> Option<TcpStream> {
    stream.try_clone().ok()
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    /// A server that says back what it hears, for ever.
    fn parrot() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        port
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn heard(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        matches!(stream.read(&mut byte), Ok(1)).then_some(byte[0])
    }

    #[test]
    fn it_passes_goes_silent_cuts_and_refuses() {
        let proxy = Proxy::before(parrot());
        let mut stream = connect(&proxy);
        stream.write_all(b"a").unwrap();
        assert_eq!(heard(&mut stream), Some(b'a'));

        proxy.silent();
        stream.write_all(b"b").unwrap();
        let mut other = connect(&proxy);
        other.write_all(b"c").unwrap();
        for stream in [&mut stream, &mut other] {
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let silence = stream.read(&mut [0]).unwrap_err();
            assert!(
                matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                "{silence}"
            );
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        proxy.pass();
        assert_eq!((heard(&mut stream), heard(&mut other)), (Some(b'b'), Some(b'c')));

        proxy.cut();
        assert_eq!(heard(&mut stream), None);
        let mut again = connect(&proxy);
        again.write_all(b"d").unwrap();
        assert_eq!(heard(&mut again), Some(b'd'));

        proxy.refuse();
        assert_eq!(heard(&mut again), None);
        assert_eq!(heard(&mut connect(&proxy)), None);
        assert_eq!(proxy.accepted(), 3);
    }

    #[test]
    fn it_leads_elsewhere_from_one_moment_on() {
        let proxy = Proxy::before(parrot());
        let mut stream = connect(&proxy);
        stream.write_all(b"a").unwrap();
        assert_eq!(heard(&mut stream), Some(b'a'));

        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        proxy.lead_to(other.local_addr().unwrap().port());
        assert_eq!(heard(&mut stream), None);
        let mut again = connect(&proxy);
        other.accept().unwrap().0.write_all(b"b").unwrap();
        assert_eq!(heard(&mut again), Some(b'b'));
    }
}
