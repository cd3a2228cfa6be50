//! A crowd of clients, in groups that are told together what to do, and waited for together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use khala_testing::{Failure, ensure};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    client::{Client, Order},
    ledger::{Ledger, Standing},
    phoenix::From,
    site::Site,
};

/// How often those who wait look again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Clients of the same kind.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) clients: usize,
    /// What the system takes for a client that does not read, roughly. None: as the system has it.
    pub(super) receive_buffer: Option<u32>,
    /// Told to pause, they stop one after the other over that time, and so at different updates.
    pub(super) pause_over: Duration,
    /// How far behind each is when it has lost its first connection: the first that far, the last this far.
    pub(super) rewind: (u64, u64),
    /// Where it joins first.
    pub(super) from: From,
}

impl Group {
    pub(super) fn of(clients: usize) -> Self {
        Self { clients, receive_buffer: None, pause_over: Duration::ZERO, rewind: (0, 0), from: From::Head }
    }
}

/// A crowd. Dropping it hangs up.
#[derive(Debug)]
pub(super) struct Swarm {
    ledger: Arc<Ledger>,
    orders: Vec<watch::Sender<Order>>,
    clients: JoinSet<()>,
}

impl Swarm {
    /// Starts the clients one after the other over `ramp`; they take the topics in turn.
    pub(super) fn start(
        site: &Site,
        topics: &[String],
        groups: &[Group],
        payload_bytes: usize,
        ramp: Duration,
    ) -> Result<Self, Failure> {
        let all: usize = groups.iter().map(|group| group.clients).sum();
        let of_groups =
            groups.iter().enumerate().flat_map(|(at, group)| std::iter::repeat_n(at, group.clients));
        let standings = of_groups.enumerate().map(|(client, group)| Standing {
            group,
            topic: client % topics.len(),
            ..Standing::default()
        });
        let ledger = Arc::new(Ledger::new(standings.collect(), groups.len(), topics.len()));
        let orders: Vec<_> = groups.iter().map(|_| watch::Sender::new(Order::Read)).collect();
        let mut clients = JoinSet::new();
        for (index, standing) in ledger.clients.iter().enumerate() {
            let Group { receive_buffer, pause_over, rewind, from, .. } = &groups[standing.group];
            let share = index as f64 / all.max(1) as f64;
            let client = Client {
                index,
                address: site.address(),
                token: site.token(&format!("client-{index}"))?,
                topic: topics[standing.topic].clone(),
                payload_bytes,
                receive_buffer: *receive_buffer,
                delay: ramp.mul_f64(share),
                pause_after: pause_over.mul_f64(share),
                rewind: (rewind.0 as f64 + (rewind.1 as f64 - rewind.0 as f64) * share) as u64,
                orders: orders[standing.group].subscribe(),
                ledger: Arc::clone(&ledger),
                from: from.clone(),
            };
            clients.spawn(client.live());
        }
        Ok(Self { ledger, orders, clients })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Tells a group what to do.
    pub(super) fn order(&self, group: usize, order: Order) {
        self.orders[group].send_replace(order);
    }

    /// Waits until `holds`; fails for a fault that any client found, and when it takes too long.
    pub(super) async fn until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&Ledger) -> bool,
    ) -> Result<(), Failure> {
        let until = Instant::now() + within;
        loop {
            self.check()?;
            if holds(&self.ledger) {
                return Ok(());
            }
            ensure(Instant::now() < until, || {
                format!("waited {within:?} in vain until {what}: {}", self.ledger.words())
            })?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every client has joined that often, and is joined.
    pub(super) async fn joined(&self, times: u32, within: Duration) -> Result<(), Failure> {
        let holds = |ledger: &Ledger| {
            ledger.clients.iter().all(|client| client.is_joined() && client.joins() >= times)
        };
        self.until("everybody is joined", within, holds).await
    }

    /// Waits until every client of these groups has everything up to `heads`, by topic.
    pub(super) async fn reached(
        &self,
        groups: &[usize],
        heads: &[u64],
        within: Duration,
    ) -> Result<(), Failure> {
        let there = |client: &Standing| client.watermark() >= heads[client.topic];
        let holds = |ledger: &Ledger| {
            ledger.clients.iter().filter(|client| groups.contains(&client.group)).all(there)
        };
        self.until("everybody has everything", within, holds).await
    }

    /// Fails if any client has found a fault.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.ledger.first_fault().map_or(Ok(()), |fault| Err(Failure::new(fault)))
    }

    /// Has everybody hang up; fails if any client has found a fault.
    pub(super) async fn leave(mut self) -> Result<Arc<Ledger>, Failure> {
        for group in &self.orders {
            group.send_replace(Order::Leave);
        }
        while let Some(left) = self.clients.join_next().await {
            ensure(left.is_ok(), || format!("a client of the harness panicked: {left:?}"))?;
        }
        self.check()?;
        Ok(Arc::clone(&self.ledger))
    }

    /// How many connections were tried so far.
    pub(super) fn tries(&self) -> u64 {
        self.ledger.tries.load(Ordering::Relaxed)
    }
}
