//! Load for servers that keep what they are given: appenders, who wait for acknowledgements, and readers of history.
//!
//! # Invariants
//! An append counts when it was acknowledged, a read update when it came once and where it belongs; what should have come and did
//! not is lost.

mod appender;
pub(in crate::comparison) mod command;
mod line;
mod reader;

use std::{
    io,
    time::{Duration, Instant},
};

use khala_testing::{During as _, Failure, Histogram, ensure};
use mio::{Events, Poll, Token};

use self::{
    appender::Appender,
    command::{Again, Amount, Command, Open, Read, Work},
    line::Line,
    reader::Reader,
};
use super::{
    client_pool::PATIENCE,
    command::Done,
    marker::{Mark, Payload, Scanner},
};
use crate::comparison::{sample::Latency, wire::log::Log};

/// Servers have short queues for connections that were not accepted yet.
const AT_ONCE: usize = 100;

/// All connections, and what is being done.
#[derive(Debug)]
pub(super) struct LogClients {
    poll: Poll,
    events: Option<Events>,
    clock: Instant,
    scanner: Scanner,
    log: Box<dyn Log>,
    payload: Payload,
    appenders: Vec<Appender>,
    readers: Vec<Reader>,
    window: usize,
    topic: usize,
    /// The number of the next update.
    next: u32,
    task: Task,
}

/// What is counted for one piece of work.
#[derive(Debug, Default)]
struct Task {
    /// How many more updates may be sent.
    to_send: u64,
    read: Option<Read>,
    acknowledged: u64,
    delivered: u64,
    appends: Histogram,
    reads: Histogram,
    /// When it began, and when the last append was acknowledged.
    begin: u64,
    appended: u64,
    /// When something came last.
    progress: u64,
}

/// Does what is said, with the connections that there are.
pub(super) fn obey(clients: &mut Option<LogClients>, command: Command) -> Result<Done, Failure> {
    match (command, clients) {
        (Command::Open(open), clients) => {
            // Those before are closed first: a server may have few places.
            *clients = None;
            let begin = Instant::now();
            clients.insert(LogClients::new(&open)?).connect(&open)?;
            Ok(Done { wall_seconds: begin.elapsed().as_secs_f64(), ..Done::default() })
        }
        (Command::Work(_), None) => Err(Failure::new("nothing is open")),
        (Command::Work(work), Some(clients)) => clients.work(work),
    }
}

impl LogClients {
    fn new(open: &Open) -> Result<Self, Failure> {
        Ok(Self {
            poll: Poll::new().during("asking for epoll")?,
            events: None,
            clock: Instant::now(),
            scanner: Scanner::new(),
            log: open.protocol.clone().log(),
            payload: Payload::new(open.payload_bytes),
            appenders: Vec::new(),
            readers: Vec::new(),
            window: open.window.max(1),
            topic: open.append_to,
            next: 0,
            task: Task::default(),
        })
    }

    fn connect(&mut self, open: &Open) -> Result<(), Failure> {
        let &Open { appenders, readers, append_to, read_from, .. } = open;
        let (all, begin) = (appenders + readers, Instant::now());
        loop {
            let lines = self.appenders.iter().map(|appender| &appender.line);
            let ready = lines
                .chain(self.readers.iter().map(|reader| &reader.line))
                .filter(|line| line.is_open())
                .count();
            let begun = self.appenders.len() + self.readers.len();
            if ready == all {
                return Ok(());
            }
            for number in begun..all.min(ready + AT_ONCE) {
                let (address, steps) = match number.checked_sub(appenders) {
                    None => (self.log.appenders(), self.log.open_appender(number, append_to)),
                    Some(_) => (self.log.readers(), self.log.open_reader()),
                };
                let line = Line::connect(self.poll.registry(), Token(number), address, steps)
                    .during("connecting")?;
                match number.checked_sub(appenders) {
                    None => self.appenders.push(Appender::new(line, self.log.as_ref())),
                    Some(reader) => self.readers.push(Reader::new(line, reader, read_from)),
                }
            }
            self.take_turn(Duration::from_millis(100))?;
            ensure(begin.elapsed() < PATIENCE, || {
                format!("of {all} connections {ready} are answered, and no more")
            })?;
        }
    }

    fn work(&mut self, work: Work) -> Result<Done, Failure> {
        let begin = self.clock.elapsed().as_micros() as u64;
        let (to_send, until) = match work.append {
            None => (0, None),
            Some(Amount::Updates(updates)) => (updates, None),
            Some(Amount::Seconds(seconds)) => (u64::MAX, Some(begin + (seconds * 1e6) as u64)),
        };
        self.task = Task { to_send, read: work.read, begin, progress: begin, ..Task::default() };
        if let Some(read) = &work.read {
            let count = self.readers.len() as f64;
            for (place, reader) in self.readers.iter_mut().enumerate() {
                let after =
                    if let Again::Every(seconds) = read.again { seconds * place as f64 / count } else { 0.0 };
                reader.due = begin + (after * 1e6) as u64;
            }
        }
        self.begin_readers().during("reading")?;
        for number in 0..self.appenders.len() {
            self.fill(number).during("appending")?;
        }
        loop {
            self.take_turn(Duration::from_millis(10))?;
            let now = self.now();
            if until.is_some_and(|until| now >= until) {
                self.task.to_send = 0;
            }
            let appended =
                self.task.to_send == 0 && self.appenders.iter().all(|appender| appender.under_way() == 0);
            if appended && self.task.appended == 0 {
                self.task.appended = now;
            }
            if self.task.appended == 0 {
                self.begin_readers().during("reading")?;
            }
            // Who has begun once more comes to the end.
            let read = self.readers.iter().all(|reader| !reader.busy);
            if appended && read || now - self.task.progress > PATIENCE.as_micros() as u64 {
                break;
            }
        }
        self.done(work)
    }

    /// Has every reader begin that is to.
    fn begin_readers(&mut self) -> io::Result<()> {
        let now = self.now();
        let Self { readers, log, task, .. } = self;
        let Some(read) = &task.read else { return Ok(()) };
        for reader in readers.iter_mut().filter(|reader| !reader.busy && reader.due <= now) {
            reader.due = match read.again {
                Again::AtOnce => now,
                Again::Every(seconds) => now.max(reader.due + (seconds * 1e6) as u64),
                Again::Never => u64::MAX,
            };
            reader.begin(log.as_ref(), read)?;
        }
        Ok(())
    }

    fn done(&mut self, work: Work) -> Result<Done, Failure> {
        let end = if work.append.is_some() { self.task.appended } else { self.now() };
        let wall_seconds = end.saturating_sub(self.task.begin) as f64 / 1e6;
        let Task { acknowledged, delivered, appends, reads, .. } = std::mem::take(&mut self.task);
        let under_way: usize = self.appenders.iter().map(Appender::under_way).sum();
        ensure(under_way == 0, || format!("{under_way} appends were not acknowledged"))?;
        let expected = work.read.map_or(0, |read| read.count);
        let missing =
            |reader: &Reader| if reader.busy { expected.saturating_sub(reader.received()) } else { 0 };
        let lost = self.readers.iter().map(missing).sum();
        self.readers.iter_mut().for_each(|reader| reader.busy = false);
        let disordered = self.readers.iter_mut().map(|reader| std::mem::take(&mut reader.disordered)).sum();
        Ok(Done {
            published: acknowledged,
            delivered,
            lost,
            disordered,
            wall_seconds,
            cpu_seconds: 0.0,
            latency: Latency::of(if work.append.is_some() { &appends } else { &reads }),
        })
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// Sends as many updates as fit into an appender's window.
    fn fill(&mut self, number: usize) -> io::Result<()> {
        let now = self.now();
        let Self { appenders, log, payload, window, topic, next, task, .. } = self;
        let appender = &mut appenders[number];
        let room = window.saturating_sub(appender.under_way()) as u64;
        let count = room.min(task.to_send);
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            let mark = Mark { due: now, number: *next };
            *next += 1;
            log.append(appender.line.out(), number, *topic, payload.marked(mark));
            appender.sends(now);
        }
        task.to_send -= count;
        appender.line.flush()
    }

    fn take_turn(&mut self, most: Duration) -> Result<(), Failure> {
        let mut events = self.events.take().unwrap_or_else(|| Events::with_capacity(1_024));
        match self.poll.poll(&mut events, Some(most)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(Failure::new(error)),
            _ => {}
        }
        for event in &events {
            let Token(number) = event.token();
            let (writable, readable) = (event.is_writable(), event.is_readable());
            match number.checked_sub(self.appenders.len()) {
                None => self
                    .appender_ready(number, writable, readable)
                    .during(format_args!("appender {number}"))?,
                Some(reader) => {
                    self.reader_ready(reader, writable, readable).during(format_args!("reader {reader}"))?;
                }
            }
        }
        self.events = Some(events);
        Ok(())
    }

    fn appender_ready(&mut self, number: usize, writable: bool, readable: bool) -> io::Result<()> {
        let Self { appenders, scanner, clock, task, .. } = self;
        let appender = &mut appenders[number];
        if writable {
            appender.line.writable()?;
        }
        if readable {
            let now = || clock.elapsed().as_micros() as u64;
            let more = appender.readable(scanner, now, &mut task.appends)?;
            if more > 0 {
                task.acknowledged += more;
                task.progress = now();
                self.fill(number)?;
            }
        }
        Ok(())
    }

    fn reader_ready(&mut self, number: usize, writable: bool, readable: bool) -> io::Result<()> {
        let Self { readers, scanner, clock, task, log, .. } = self;
        let reader = &mut readers[number];
        if writable {
            reader.line.writable()?;
        }
        if !readable {
            return Ok(());
        }
        let before = reader.received();
        reader.readable(log.as_ref(), task.read.as_ref(), scanner)?;
        let more = reader.received() - before;
        if more == 0 {
            return Ok(());
        }
        // What comes when nobody appends any more was not read beside appends.
        if task.appended == 0 || task.read.is_some_and(|read| read.again == Again::Never) {
            task.delivered += more;
        }
        task.progress = clock.elapsed().as_micros() as u64;
        let Some(read) = task.read.filter(|read| read.count == reader.received()) else { return Ok(()) };
        task.reads.add(task.progress - task.begin, 1);
        reader.busy = false;
        if read.again == Again::AtOnce && task.to_send > 0 {
            reader.begin(log.as_ref(), &read)?;
        }
        Ok(())
    }
}
