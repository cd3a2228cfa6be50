//! One client of a pool: connects, joins with its cursor, checks what it is sent, and comes back as `phoenix` does.
//!
//! # Invariants
//! What it was sent continues, without a hole and in order, from the watermark that it has. Whatever else arrives is written down
//! as a fault.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::{
    checker::{Delivery, Given, Subscriber},
    clock::micros,
    observations::{Observations, What},
    phoenix::{self, From, Heard},
    socket::{Frame, Refused, Socket},
    stamp,
    topics::Topics,
};

/// What a group of clients is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Read what comes.
    Read,
    /// Stop reading, and say nothing, as a page that is frozen.
    Pause,
    /// Hang up, for good.
    Leave,
}

/// A client before it begins.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    /// The topics of the scenario, and which of them it follows.
    pub(crate) topics: Arc<Topics>,
    pub(crate) topic: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) receive_buffer: Option<u32>,
    /// It begins after that long.
    pub(crate) delay: Duration,
    /// So long after it is told to pause it does.
    pub(crate) pause_after: Duration,
    /// Where it is when it has lost its first connection: that far behind what it has seen.
    pub(crate) rewind: u64,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) observations: Arc<Observations>,
    /// Where it joins.
    pub(crate) from: From,
    /// What it was given, from its first join on.
    pub(crate) given: Option<Subscriber>,
}

/// Why a connection is over.
enum End {
    Closed(Option<u16>),
    Left,
}

/// The one channel of a connection.
enum Channel {
    /// It waits for the answer to the join of that reference.
    Joining {
        reference: u64,
        until: Instant,
    },
    Joined {
        reference: u64,
    },
    /// It failed, and joins again then.
    Errored {
        again_at: Instant,
    },
}

impl Client {
    /// Lives until it is told to leave; gives its topic and what it was given.
    pub(crate) async fn live(mut self) -> (usize, Option<Subscriber>) {
        let mut tries = 0;
        let mut wait = self.delay;
        loop {
            if wait > Duration::ZERO {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = left(&mut self.orders) => return (self.topic, self.given),
                }
            }
            self.observations.tries.fetch_add(1, Ordering::Relaxed);
            let opened = tokio::select! {
                opened = Socket::open(self.address, &self.token, self.receive_buffer) => opened,
                () = left(&mut self.orders) => return (self.topic, self.given),
            };
            match opened {
                Ok(socket) => {
                    tries = 0;
                    self.standing().connects.fetch_add(1, Ordering::AcqRel);
                    let end = self.follow(socket).await;
                    self.standing().joined.store(false, Ordering::Release);
                    match end {
                        End::Left => return (self.topic, self.given),
                        End::Closed(code) => self.note(What::Closed(code)),
                    }
                    self.fall_behind();
                }
                Err(Refused::Failed(kind)) => self.note(What::ConnectFailed(kind)),
                Err(Refused::Status(status)) => self.note(What::ConnectRefused(status)),
            }
            tries += 1;
            wait = phoenix::reconnect_after(tries);
        }
    }

    fn standing(&self) -> &super::observations::Standing {
        &self.observations.clients[self.index]
    }

    fn note(&self, what: What) {
        self.observations.note(self.index, what);
    }

    fn fault(&self, fault: &str) {
        self.observations.fault(self.index, fault);
    }

    /// Is where it was when it has lost its connection, or a part behind that, once; what it is to reach is ahead again.
    fn fall_behind(&mut self) {
        self.standing().reached_at.store(0, Ordering::Release);
        if let From::After { watermark, .. } = &mut self.from {
            *watermark = watermark.saturating_sub(std::mem::take(&mut self.rewind));
            self.observations.clients[self.index].watermark.store(*watermark, Ordering::Release);
        }
    }

    /// Serves one connection to its end.
    async fn follow(&mut self, mut socket: Socket) -> End {
        match self.follow_until_closed(&mut socket).await {
            Ok(end) => end,
            Err(fault) => {
                if fault.kind() == ErrorKind::InvalidData {
                    self.fault("the server broke the framing of WebSocket");
                }
                End::Closed(None)
            }
        }
    }

    async fn follow_until_closed(&mut self, socket: &mut Socket) -> io::Result<End> {
        let mut next_reference = 1;
        let mut rejoins = 0;
        let mut channel = self.join(socket, &mut next_reference).await?;
        let mut beat_at = Instant::now() + phoenix::HEARTBEAT_EVERY;
        let mut beat_unanswered = false;
        let mut order = *self.orders.borrow_and_update();
        // When it stops to read; nothing while it is not told to.
        let mut pause_at = (order == Order::Pause).then(|| Instant::now() + self.pause_after);
        let mut timer = pin!(sleep_until(beat_at));
        loop {
            let reads = pause_at.is_none_or(|at| Instant::now() < at);
            let due = [channel.due(), pause_at.filter(|_| reads)].into_iter().flatten().min();
            set(timer.as_mut(), due.map_or(beat_at, |due| due.min(beat_at)));
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    order = if changed.is_ok() { *self.orders.borrow_and_update() } else { Order::Leave };
                    if order == Order::Leave {
                        // It may be gone already.
                        let _ = socket.close().await;
                        return Ok(End::Left);
                    }
                    let paused = pause_at.is_some();
                    pause_at = (order == Order::Pause).then(|| Instant::now() + self.pause_after);
                    if paused && order == Order::Read {
                        // It is due, as a timer is when a page is no longer frozen; the answer to the one before has yet
                        // to be read.
                        (beat_at, beat_unanswered) = (Instant::now(), false);
                    }
                }
                () = timer.as_mut() => {
                    let now = Instant::now();
                    if pause_at.is_some_and(|at| at <= now) {
                        beat_at = beat_at.max(now + Duration::from_secs(1));
                        channel.put_off(now + Duration::from_secs(1));
                        continue;
                    }
                    if beat_at <= now {
                        if beat_unanswered {
                            self.note(What::HeartbeatUnanswered);
                            return Ok(End::Closed(None));
                        }
                        socket.send(&phoenix::heartbeat(next_reference)).await?;
                        next_reference += 1;
                        (beat_at, beat_unanswered) = (now + phoenix::HEARTBEAT_EVERY, true);
                    }
                    match channel {
                        Channel::Joining { reference, until } if until <= now => {
                            self.note(What::JoinUnanswered);
                            socket.send(&phoenix::leave(reference, next_reference, self.topics.name(self.topic))).await?;
                            next_reference += 1;
                            rejoins += 1;
                            channel = Channel::Errored { again_at: now + phoenix::rejoin_after(rejoins) };
                        }
                        Channel::Errored { again_at } if again_at <= now => {
                            channel = self.join(socket, &mut next_reference).await?;
                        }
                        _ => {}
                    }
                }
                readable = socket.readable(), if reads => {
                    readable?;
                    let now = micros();
                    let (mut closed, mut ping) = (None, None);
                    socket.read(|frame| match frame {
                        Frame::Text(text) if stamp::is_batch(text) => self.take_batch(text, now),
                        Frame::Text(text) => match phoenix::read(text) {
                            Ok(Heard::Beat) => beat_unanswered = false,
                            Ok(heard) => self.hear(heard, &mut channel, &mut rejoins),
                            Err(fault) => self.fault(&fault),
                        },
                        Frame::Close(code) => closed = Some(code),
                        Frame::Ping(payload) => ping = Some(payload.to_vec()),
                    })?;
                    if let Some(payload) = ping {
                        socket.pong(&payload).await?;
                    }
                    if let Some(code) = closed {
                        // The server may not wait for it.
                        let _ = socket.close().await;
                        return Ok(End::Closed(code));
                    }
                }
            }
        }
    }

    async fn join(&self, socket: &mut Socket, next_reference: &mut u64) -> io::Result<Channel> {
        let reference = *next_reference;
        *next_reference += 1;
        socket.send(&phoenix::join(reference, self.topics.name(self.topic), &self.from)).await?;
        Ok(Channel::Joining { reference, until: Instant::now() + phoenix::JOIN_WITHIN })
    }

    fn hear(&mut self, heard: Heard, channel: &mut Channel, rejoins: &mut u32) {
        let own = match channel {
            Channel::Joining { reference, .. } | Channel::Joined { reference } => Some(*reference),
            Channel::Errored { .. } => None,
        };
        match heard {
            Heard::Joined { reference, epoch, after, .. } if own == Some(reference) => {
                if let From::After { epoch: old, watermark } = &self.from
                    && (*old != epoch || *watermark != after)
                {
                    let fault =
                        format!("came back at {watermark} of {old}, and was joined at {after} of {epoch}");
                    self.fault(&fault);
                }
                self.from = From::After { epoch, watermark: after };
                match &mut self.given {
                    // What comes may begin with what it had before.
                    Some(given) => given.restarted(),
                    None => {
                        let name = format!("client {}", self.index);
                        self.given = Some(Subscriber::starting_after(name, Delivery::AtLeastOnce, after));
                    }
                }
                (*channel, *rejoins) = (Channel::Joined { reference }, 0);
                let now = micros();
                self.observations.advance(self.index, after, now);
                let standing = self.standing();
                standing.joined_at.store(now, Ordering::Release);
                standing.joined.store(true, Ordering::Release);
                standing.joins.fetch_add(1, Ordering::AcqRel);
                self.note(What::Joined);
            }
            Heard::Refused { reference, code, retry_after_ms } if own == Some(reference) => {
                if code == "stale_cursor" {
                    self.fault("its cursor is stale, and nothing was trimmed past it");
                }
                self.note(What::JoinRefused { code, retry_after_ms });
                *rejoins += 1;
                *channel = Channel::Errored { again_at: Instant::now() + phoenix::rejoin_after(*rejoins) };
            }
            Heard::Ended { .. } if matches!(channel, Channel::Joined { .. }) => {
                self.note(What::ChannelEnded);
                self.standing().joined.store(false, Ordering::Release);
                *rejoins += 1;
                *channel = Channel::Errored { again_at: Instant::now() + phoenix::rejoin_after(*rejoins) };
            }
            Heard::Error { code } => self.fault(&format!("was told of the error {code}")),
            Heard::Drain { .. } => self.note(What::Drain),
            // Of a join that was given up, or of no consequence.
            Heard::Beat
            | Heard::Ended { .. }
            | Heard::Joined { .. }
            | Heard::Nothing
            | Heard::Refused { .. } => {}
        }
    }

    /// Takes in a batch: new updates are counted, with how late they are.
    fn take_batch(&mut self, frame: &[u8], now: u64) {
        let (From::After { watermark, epoch }, Some(given)) = (&mut self.from, &mut self.given) else {
            return self.observations.fault(self.index, "was sent a batch before any join was answered");
        };
        let standing = &self.observations.clients[self.index];
        let before = *watermark;
        let (mut new, mut repeated) = (0, 0);
        // Updates that were due together are counted together.
        let mut run: Option<(stamp::Stamp, u64)> = None;
        let count = |run: Option<(stamp::Stamp, u64)>| {
            if let Some((stamp, times)) = run {
                let mut latency = self.observations.latency(standing.group, stamp.lane.into());
                latency.add(now.saturating_sub(stamp.due), times);
            }
        };
        let mut published = self.topics.published(self.topic);
        let read = stamp::read_batch(frame, self.payload_bytes, |seq, stamp, payload| {
            if seq <= before {
                if repeated == 0 {
                    given.restarted();
                }
                repeated += 1;
            }
            given.given(&mut published, Given { epoch: Some(epoch), seq, payload });
            if seq <= before {
                return;
            }
            new += 1;
            match &mut run {
                Some((last, times)) if (last.due, last.lane) == (stamp.due, stamp.lane) => *times += 1,
                _ => count(run.replace((stamp, 1))),
            }
        });
        drop(published);
        count(run);
        if let Some(fault) = given.first_fault() {
            self.observations.fault(self.index, &fault.kind.to_string());
        }
        match read {
            Ok(batch) => {
                *watermark = before.max(batch.last);
                self.observations.updates.fetch_add(new, Ordering::Relaxed);
                self.observations.repeated.fetch_add(repeated, Ordering::Relaxed);
                self.observations.advance(self.index, *watermark, now);
            }
            Err(fault) => self.observations.fault(self.index, &fault),
        }
    }
}

impl Channel {
    /// When something is to be done about it.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Joining { until, .. } => Some(*until),
            Self::Joined { .. } => None,
            Self::Errored { again_at } => Some(*again_at),
        }
    }

    /// Nothing is done about it before then.
    fn put_off(&mut self, moment: Instant) {
        match self {
            Self::Joining { until: due, .. } | Self::Errored { again_at: due } => *due = moment.max(*due),
            Self::Joined { .. } => {}
        }
    }
}

/// Ready once the client is told to leave.
async fn left(orders: &mut watch::Receiver<Order>) {
    // A pool that gives no orders any more is gone.
    let _ = orders.wait_for(|order| *order == Order::Leave).await;
}

/// Sets a timer that may have been set to the same moment already.
fn set(timer: Pin<&mut Sleep>, moment: Instant) {
    if timer.deadline() != moment {
        timer.reset(moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observations::Standing, stamp::Stamp};

    const BYTES: usize = 100;

    fn client(from: From) -> Client {
        Client {
            index: 0,
            address: ([127, 0, 0, 1], 1).into(),
            token: String::new(),
            topics: Arc::new(Topics::new(1)),
            topic: 0,
            payload_bytes: BYTES,
            receive_buffer: None,
            delay: Duration::ZERO,
            pause_after: Duration::ZERO,
            rewind: 0,
            orders: watch::channel(Order::Read).1,
            observations: Arc::new(Observations::new(vec![Standing::default()], 1, 1)),
            given: matches!(from, From::After { .. })
                .then(|| Subscriber::starting_after("client 0", Delivery::AtLeastOnce, 4)),
            from,
        }
    }

    fn at(watermark: u64) -> From {
        From::After { epoch: "e".to_owned(), watermark }
    }

    /// A batch of updates that were due at 1,000, in the first lane.
    fn batch(after: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let mut frame = format!(
            r#"[null,null,"scenario:0","sync:update_batch",{{"after":{after},"head":9,"replay_complete":true,"updates":["#
        )
        .into_bytes();
        for seq in seqs {
            frame.extend_from_slice(format!(r#"{{"seq":{seq},"kind":"load","payload":"#).as_bytes());
            Stamp { due: 1_000, lane: 0, number: seq }.write(&mut frame, BYTES);
            frame.extend_from_slice(br#","published_at":1},"#);
        }
        frame.pop();
        frame.extend_from_slice(b"]}]");
        frame
    }

    fn joined(after: u64, epoch: &str) -> Heard {
        Heard::Joined { reference: 1, epoch: epoch.to_owned(), after, head: 9 }
    }

    fn joining() -> Channel {
        Channel::Joining { reference: 1, until: Instant::now() }
    }

    #[test]
    fn what_continues_is_taken_and_what_was_seen_is_counted_apart() {
        let mut client = client(at(4));
        client.take_batch(&batch(4, 5..=6), 1_500);
        client.take_batch(&batch(5, 6..=8), 1_700);
        client.take_batch(&batch(3, 4..=5), 1_800);
        let observations = &client.observations;
        assert_eq!((client.from, observations.first_fault()), (at(8), None));
        assert_eq!(observations.clients[0].watermark(), 8);
        let counts =
            [&observations.updates, &observations.repeated].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [4, 3]);
        let latency = observations.latency(0, 0);
        // A latency is kept to about one percent.
        assert!(latency.count() == 4 && (700..=707).contains(&latency.max()), "{latency:?}");
    }

    #[test]
    fn a_hole_between_batches_is_a_fault() {
        let mut client = client(at(4));
        client.take_batch(&batch(5, 6..=6), 0);
        let fault = client.observations.first_fault().unwrap();
        assert!(fault.contains("update 6 comes after 4"), "{fault}");
    }

    #[test]
    fn a_batch_before_the_first_answer_is_a_fault() {
        let mut client = client(From::Head);
        client.take_batch(&batch(4, 5..=5), 0);
        assert!(client.observations.first_fault().unwrap().contains("before any join"));
    }

    #[test]
    fn a_join_elsewhere_than_at_the_cursor_is_a_fault() {
        for (after, epoch, faulty) in [(4, "e", false), (5, "e", true), (3, "e", true), (4, "f", true)] {
            let mut client = client(at(4));
            client.hear(joined(after, epoch), &mut joining(), &mut 0);
            assert_eq!(client.observations.first_fault().is_some(), faulty, "at {after} of {epoch}");
        }
        let mut client = client(From::Head);
        let mut channel = joining();
        client.hear(joined(7, "e"), &mut channel, &mut 0);
        assert!(matches!(channel, Channel::Joined { reference: 1 }));
        assert_eq!((client.from, client.observations.first_fault()), (at(7), None));
    }

    #[test]
    fn who_is_put_off_joins_later_and_a_stale_cursor_is_a_fault() {
        let refused =
            |code: &str| Heard::Refused { reference: 1, code: code.to_owned(), retry_after_ms: Some(70) };
        let mut client = client(at(4));
        let (mut channel, mut rejoins) = (joining(), 0);
        client.hear(refused("replay_deferred"), &mut channel, &mut rejoins);
        assert!(matches!(channel, Channel::Errored { .. }));
        assert_eq!((rejoins, client.observations.first_fault()), (1, None));
        client.hear(refused("stale_cursor"), &mut joining(), &mut rejoins);
        assert!(client.observations.first_fault().unwrap().contains("stale"));
    }
}
