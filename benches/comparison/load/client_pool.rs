//! All connections of the generator, and one turn of its loop: what sockets are ready is read and counted.

use std::{
    io,
    time::{Duration, Instant},
};

use khala_testing::{During as _, Failure, Histogram, ensure};
use mio::{Events, Poll, Token, unix::SourceFd};
use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use super::{
    command::{Done, Open},
    link::Link,
    marker::{Carry, Mark, Payload, Scanner},
    publisher::Publisher,
};
use crate::comparison::{sample::Latency, wire::Wire};

/// Without any progress for so long, a command ends: what has not come by then is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

const TIMER: Token = Token(usize::MAX - 1);

#[derive(Debug)]
pub(super) struct Subscriber {
    topic: usize,
    link: Option<Link>,
    carry: Carry,
    /// The number of the update that is to come next.
    pub(super) next: u32,
    /// Whether it is ready and has what it missed.
    back: bool,
    /// What it was answered when it was ready, before it was cut.
    answer: Vec<u8>,
}

/// What the generator knows of a topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) published: u32,
    /// Who is to have its updates.
    pub(super) subscribers: u32,
    /// How many have an update, by the end of its number. Only where a window is kept, and there are several.
    pub(super) have: Vec<u32>,
}

/// What one command counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) disordered: u64,
    /// Updates that all of their subscribers have.
    pub(super) complete: u64,
    pub(super) latency: Histogram,
    /// How long subscribers took to be ready and up to date.
    back: Histogram,
}

#[derive(Debug)]
pub(super) struct ClientPool {
    poll: Poll,
    timer: OwnedFd,
    clock: Instant,
    scanner: Scanner,
    pub(super) wire: Box<dyn Wire>,
    pub(super) payload: Payload,
    subscribers: Vec<Subscriber>,
    pub(super) publisher: Option<Publisher>,
    pub(super) topics: Vec<Topic>,
    pub(super) counts: Counts,
    /// The topic of the next update.
    pub(super) turn: usize,
    at_once: usize,
    /// How many subscribers are ready.
    open: usize,
    /// How many of them are up to date.
    back: usize,
    /// When they began to connect.
    origin: u64,
    /// Made once.
    events: Option<Events>,
}

impl ClientPool {
    pub(super) fn new(open: &Open) -> Result<Self, Failure> {
        let poll = Poll::new().during("asking for epoll")?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK);
        let timer = timer.during("making a timer")?;
        let registry = poll.registry();
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, mio::Interest::READABLE)
            .during("making a timer")?;
        let topics = open.topics.max(1);
        let subscriber = |number| Subscriber {
            topic: number % topics,
            link: None,
            carry: Carry::default(),
            next: 0,
            back: false,
            answer: Vec::new(),
        };
        Ok(Self {
            poll,
            timer,
            clock: Instant::now(),
            scanner: Scanner::new(),
            wire: open.protocol.clone().wire(topics),
            payload: Payload::new(open.payload_bytes),
            subscribers: (0..open.subscribers).map(subscriber).collect(),
            publisher: None,
            topics: (0..topics).map(|_| Topic::default()).collect(),
            counts: Counts::default(),
            turn: 0,
            at_once: open.at_once.max(1),
            open: 0,
            back: 0,
            origin: 0,
            events: None,
        })
    }

    /// Microseconds on the clock of all marks.
    pub(super) fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    /// Connects everybody.
    pub(super) fn open(&mut self, open: &Open) -> Result<Done, Failure> {
        let begin = Instant::now();
        self.connect_all()?;
        if open.publishes {
            let token = Token(self.subscribers.len());
            let publisher = Publisher::connect(self.poll.registry(), token, self.wire.as_ref());
            self.publisher = Some(publisher.during("connecting the publisher")?);
            let since = Instant::now();
            while !self.publisher.as_ref().is_some_and(Publisher::is_open) {
                ensure(since.elapsed() < PATIENCE, || "the publisher is not answered".to_owned())?;
                self.take_turn(Duration::from_millis(10))?;
            }
        }
        Ok(Done { wall_seconds: begin.elapsed().as_secs_f64(), ..Done::default() })
    }

    /// Closes every subscriber's connection.
    pub(super) fn cut(&mut self) -> Done {
        let begin = Instant::now();
        for subscriber in &mut self.subscribers {
            if let Some(link) = subscriber.link.take() {
                subscriber.answer = link.answer().to_vec();
            }
            subscriber.carry = Carry::default();
            subscriber.back = false;
        }
        (self.open, self.back) = (0, 0);
        self.topics.iter_mut().for_each(|topic| topic.subscribers = 0);
        Done { wall_seconds: begin.elapsed().as_secs_f64(), ..Done::default() }
    }

    /// Connects every subscriber again, and waits until all are ready and have what they missed.
    pub(super) fn come_back(&mut self) -> Result<Done, Failure> {
        let begin = Instant::now();
        self.connect_all()?;
        let Counts { delivered, lost, disordered, back, .. } = std::mem::take(&mut self.counts);
        Ok(Done {
            delivered,
            lost,
            disordered,
            wall_seconds: begin.elapsed().as_secs_f64(),
            latency: Latency::of(&back),
            ..Done::default()
        })
    }

    fn connect_all(&mut self) -> Result<(), Failure> {
        self.counts = Counts::default();
        self.origin = self.now();
        let (mut since, mut before, mut begun) = (Instant::now(), (0, 0, 0), 0);
        while self.back < self.subscribers.len() {
            while begun < self.subscribers.len() && begun - self.open < self.at_once {
                self.connect(begun).during("connecting a subscriber")?;
                begun += 1;
            }
            self.take_turn(Duration::from_millis(100))?;
            let now = (self.open, self.back, self.counts.delivered);
            if now != before {
                (before, since) = (now, Instant::now());
            }
            ensure(since.elapsed() < PATIENCE, || {
                let Self { open, back, subscribers, .. } = self;
                format!(
                    "of {} subscribers {open} are ready, {back} up to date, and no more",
                    subscribers.len()
                )
            })?;
        }
        Ok(())
    }

    fn connect(&mut self, number: usize) -> io::Result<()> {
        let subscriber = &mut self.subscribers[number];
        let topic = subscriber.topic;
        let published = self.topics[topic].published;
        let resumed = (!subscriber.answer.is_empty())
            .then(|| self.wire.resume(topic, &subscriber.answer, subscriber.next))
            .flatten();
        let steps = resumed.unwrap_or_else(|| {
            // What was published before is gone.
            subscriber.next = published;
            self.wire.subscribe(topic)
        });
        let registry = self.poll.registry();
        subscriber.link = Some(Link::connect(registry, Token(number), self.wire.address(), steps)?);
        Ok(())
    }

    /// Has a turn at that moment, if not before.
    pub(super) fn wake_at(&self, micros: u64) -> Result<(), Failure> {
        // Zero would switch the timer off.
        let wait = micros.saturating_sub(self.now()).max(1);
        let it_value =
            Timespec { tv_sec: (wait / 1_000_000) as i64, tv_nsec: (wait % 1_000_000 * 1_000) as i64 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).during("setting the timer")?;
        Ok(())
    }

    /// Waits until something is ready, and takes it.
    pub(super) fn take_turn(&mut self, most: Duration) -> Result<(), Failure> {
        let mut events = self.events.take().unwrap_or_else(|| Events::with_capacity(8_192));
        match self.poll.poll(&mut events, Some(most)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(Failure::new(error)),
            _ => {}
        }
        for event in &events {
            let Token(number) = event.token();
            if event.token() == TIMER {
                // How often it went off does not matter.
                let _ = rustix::io::read(&self.timer, &mut [0_u8; 8]);
            } else if number < self.subscribers.len() {
                let taken = self.subscriber_ready(number, event.is_writable(), event.is_readable());
                taken.during(format_args!("subscriber {number}"))?;
            } else if let Some(publisher) = &mut self.publisher {
                if event.is_writable() {
                    publisher.writable().during("publishing")?;
                }
                if event.is_readable() {
                    publisher.readable(&mut self.scanner).during("publishing")?;
                }
            }
        }
        self.events = Some(events);
        Ok(())
    }

    fn subscriber_ready(&mut self, number: usize, writable: bool, readable: bool) -> io::Result<()> {
        let Self { subscribers, topics, counts, scanner, clock, .. } = self;
        let subscriber = &mut subscribers[number];
        // It was cut within this turn.
        let Some(link) = &mut subscriber.link else { return Ok(()) };
        if writable {
            link.writable()?;
        }
        let topic = &mut topics[subscriber.topic];
        if readable && subscriber.read(topic, counts, scanner, *clock)? {
            self.open += 1;
            topic.subscribers += 1;
        }
        if !subscriber.back && subscriber.is_open() && subscriber.next == topic.published {
            subscriber.back = true;
            self.back += 1;
            counts.back.add(clock.elapsed().as_micros() as u64 - self.origin, 1);
        }
        Ok(())
    }
}

impl Subscriber {
    fn is_open(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_open)
    }

    /// Reads until there is no more, and counts what it finds. Whether it became ready by that.
    fn read(
        &mut self,
        topic: &mut Topic,
        counts: &mut Counts,
        scanner: &mut Scanner,
        clock: Instant,
    ) -> io::Result<bool> {
        let Self { link: Some(link), carry, next, .. } = self else { return Ok(false) };
        let was_open = link.is_open();
        loop {
            let mut now = None;
            let read = scanner.read(link.stream(), carry, |mark| {
                let now = *now.get_or_insert_with(|| clock.elapsed().as_micros() as u64);
                counts.take(topic, next, mark, now);
            });
            let bytes = match read {
                Ok([]) => {
                    let said = String::from_utf8_lossy(link.answer());
                    return Err(io::Error::other(format!("closed by the server after {said:?}")));
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // Less than was asked for: the socket is empty.
            let emptied = bytes.len() < Scanner::room();
            if !link.is_open() {
                link.hear(bytes)?;
            }
            if emptied {
                break;
            }
        }
        Ok(!was_open && link.is_open())
    }
}

impl Counts {
    /// Counts an update that arrived at one subscriber of `topic`, who expects `next`.
    fn take(&mut self, topic: &mut Topic, next: &mut u32, mark: Mark, now: u64) {
        let Mark { due, number } = mark;
        if number < *next {
            self.disordered += 1;
            return;
        }
        self.lost += u64::from(number - *next);
        *next = number + 1;
        self.delivered += 1;
        self.latency.add(now.saturating_sub(due), 1);
        if topic.subscribers <= 1 {
            self.complete += 1;
        } else if !topic.have.is_empty() {
            let place = number as usize % topic.have.len();
            topic.have[place] += 1;
            if topic.have[place] == topic.subscribers {
                topic.have[place] = 0;
                self.complete += 1;
            }
        }
    }
}
