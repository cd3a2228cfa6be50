//! A pool of clients, in groups that are told together what to do, and waited for together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use khala_testing::{During as _, Failure, ensure};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    checker::Subscriber,
    client::{Client, Order},
    environment::Environment,
    observations::{Observations, Standing},
    phoenix::From,
    topics::{Topics, good},
};

/// How often those who wait look again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Clients of the same kind.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) clients: usize,
    /// What the system takes for a client that does not read, roughly. None: as the system has it.
    pub(crate) receive_buffer: Option<u32>,
    /// Told to pause, they stop one after the other over that time, and so at different updates.
    pub(crate) pause_over: Duration,
    /// How far behind each is when it has lost its first connection: the first that far, the last this far.
    pub(crate) rewind: (u64, u64),
    /// Where it joins first.
    pub(crate) from: From,
}

impl Group {
    pub(crate) fn of(clients: usize) -> Self {
        Self { clients, receive_buffer: None, pause_over: Duration::ZERO, rewind: (0, 0), from: From::Head }
    }
}

/// A pool of clients. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct ClientPool {
    observations: Arc<Observations>,
    orders: Vec<watch::Sender<Order>>,
    topics: Arc<Topics>,
    clients: JoinSet<(usize, Option<Subscriber>)>,
}

impl ClientPool {
    /// Starts the clients one after the other over `ramp`; they take the topics in turn.
    pub(crate) fn start(
        environment: &Environment,
        topics: &Arc<Topics>,
        groups: &[Group],
        payload_bytes: usize,
        ramp: Duration,
    ) -> Result<Self, Failure> {
        let all: usize = groups.iter().map(|group| group.clients).sum();
        let of_groups =
            groups.iter().enumerate().flat_map(|(at, group)| std::iter::repeat_n(at, group.clients));
        let standings = of_groups.enumerate().map(|(client, group)| Standing {
            group,
            topic: client % topics.count(),
            ..Standing::default()
        });
        let observations = Arc::new(Observations::new(standings.collect(), groups.len(), topics.count()));
        let orders: Vec<_> = groups.iter().map(|_| watch::Sender::new(Order::Read)).collect();
        let mut clients = JoinSet::new();
        for (index, standing) in observations.clients.iter().enumerate() {
            let Group { receive_buffer, pause_over, rewind, from, .. } = &groups[standing.group];
            let share = index as f64 / all.max(1) as f64;
            let client = Client {
                index,
                address: environment.address(),
                token: environment.token(&format!("client-{index}"))?,
                topics: Arc::clone(topics),
                topic: standing.topic,
                payload_bytes,
                receive_buffer: *receive_buffer,
                delay: ramp.mul_f64(share),
                pause_after: pause_over.mul_f64(share),
                rewind: (rewind.0 as f64 + (rewind.1 as f64 - rewind.0 as f64) * share) as u64,
                orders: orders[standing.group].subscribe(),
                observations: Arc::clone(&observations),
                from: from.clone(),
                given: None,
            };
            clients.spawn(client.live());
        }
        Ok(Self { observations, orders, topics: Arc::clone(topics), clients })
    }

    pub(crate) fn observations(&self) -> &Observations {
        &self.observations
    }

    /// Tells a group what to do.
    pub(crate) fn order(&self, group: usize, order: Order) {
        self.orders[group].send_replace(order);
    }

    /// Waits until `holds`; fails for a fault that any client found, and when it takes too long.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&Observations) -> bool,
    ) -> Result<(), Failure> {
        let until = Instant::now() + within;
        loop {
            self.check()?;
            if holds(&self.observations) {
                return Ok(());
            }
            ensure(Instant::now() < until, || {
                format!("waited {within:?} until {what}, which did not happen: {}", self.observations.words())
            })?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every client has joined that often, and is joined.
    pub(crate) async fn joined(&self, times: u32, within: Duration) -> Result<(), Failure> {
        let holds = |observations: &Observations| {
            observations.clients.iter().all(|client| client.is_joined() && client.joins() >= times)
        };
        self.until("everybody is joined", within, holds).await
    }

    /// Waits until every client of these groups has everything up to `heads`, by topic.
    pub(crate) async fn reached(
        &self,
        groups: &[usize],
        heads: &[u64],
        within: Duration,
    ) -> Result<(), Failure> {
        let there = |client: &Standing| client.watermark() >= heads[client.topic];
        let holds = |observations: &Observations| {
            observations.clients.iter().filter(|client| groups.contains(&client.group)).all(there)
        };
        self.until("everybody has everything", within, holds).await
    }

    /// Fails if any client has found a fault.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.observations.first_fault().map_or(Ok(()), |fault| Err(Failure::new(fault)))
    }

    /// Has everybody hang up, who are to have everything; fails if any client has found a fault, or was not given what was
    /// acknowledged.
    pub(crate) async fn leave(mut self) -> Result<Arc<Observations>, Failure> {
        for group in &self.orders {
            group.send_replace(Order::Leave);
        }
        let mut given: Vec<Vec<Subscriber>> = vec![Vec::new(); self.topics.count()];
        while let Some(left) = self.clients.join_next().await {
            let (topic, subscriber) = left.during("a client of the harness")?;
            given[topic].extend(subscriber);
        }
        self.check()?;
        for (topic, given) in given.iter().enumerate() {
            good(&self.topics.published(topic).verdict(given))?;
        }
        Ok(Arc::clone(&self.observations))
    }

    /// How many connections were tried so far.
    pub(crate) fn tries(&self) -> u64 {
        self.observations.tries.load(Ordering::Relaxed)
    }
}
