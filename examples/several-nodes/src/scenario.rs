//! What happens in a run: the faults in turn, what is waited for after each, and what is compared.

mod soak;

use std::{sync::Arc, time::Duration};

use khala_scenarios::{
    checker::{self, Delivery},
    console::{Console, count},
    history::{Entry, Log, read_on},
    http::Client,
    rng::Rng,
};
use khala_testing::{During as _, Failure};
use tokio::{
    sync::{RwLock, watch::error::RecvError},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};

use crate::{
    Options,
    client_pool::{ClientPool, Plan},
    faults::Fault,
    model::{Answered, DOORS, Marked, Model, Reached, SQL},
    publishers::{Desk, OverHttp, index},
    report::{Outcome, Times},
    setting::{NODES, Setting},
    sql::BySql,
};

const TOPICS: usize = 12;
const TOPICS_PER_CLIENT: usize = 3;
/// Node.js processes that the clients are spread over.
const PROCESSES: usize = 3;
const HTTP_PUBLISHERS_PER_NODE: usize = 2;
const SQL_PUBLISHERS: usize = 2;
/// The longest pause of a publisher between two publishes.
const PAUSE: Duration = Duration::from_millis(250);
/// All is well before anything is broken.
const STEADY: Duration = Duration::from_secs(2);
/// How often during a fault it is asked who has everything.
const MARK_EVERY: Duration = Duration::from_millis(250);
/// Longer than any of the clients' own pauses, and time to spare.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those who take part, once they do.
#[derive(Debug)]
pub(crate) struct Scenario<'a> {
    options: &'a Options,
    console: Console,
    setting: Setting,
    model: Arc<Model>,
    busy: Arc<RwLock<()>>,
    clients: ClientPool,
    publishers: JoinSet<Failure>,
    rng: Rng,
}

impl<'a> Scenario<'a> {
    /// Brings the clients and the publishers in.
    pub(crate) async fn begin(
        options: &'a Options,
        seed: u64,
        console: Console,
        setting: Setting,
    ) -> Result<Self, Failure> {
        let mut rng = Rng::new(seed);
        let topics: Vec<_> = (0..TOPICS).map(|number| format!("several:{number}")).collect();
        let follows: Vec<Vec<usize>> = (0..options.clients).map(|_| draw_topics(&mut rng)).collect();
        let http = NODES * HTTP_PUBLISHERS_PER_NODE;
        let sql = setting.postgres.as_ref().map_or(0, |_| SQL_PUBLISHERS);
        let names: Vec<_> = (0..http)
            .map(|number| format!("publisher {number} at node {}", number % NODES))
            .chain((0..sql).map(|number| format!("SQL publisher {number}")))
            .collect();
        let model = Arc::new(Model::new(topics.clone(), &names, &follows));

        let addresses = setting.addresses();
        let plan = |process| Plan {
            nodes: addresses.iter().map(|address| format!("ws://{address}/sync/v1")).collect(),
            topics: topics.clone(),
            token_file: setting.workspace.token_file().display().to_string(),
            seed,
            move_every_ms: options.move_every * 1000,
            clients: follows.iter().cloned().enumerate().skip(process).step_by(PROCESSES).collect(),
        };
        let clients =
            ClientPool::start(&setting.workspace, &model, (0..PROCESSES).map(plan).collect()).await?;

        let busy = Arc::default();
        let mut publishers = JoinSet::new();
        let desk =
            |number| Desk { number, model: Arc::clone(&model), busy: Arc::clone(&busy), seed, pause: PAUSE };
        for number in 0..http {
            let (workspace, nodes) = (Arc::clone(&setting.workspace), addresses.clone());
            let publisher = OverHttp { desk: desk(number), workspace, nodes, home: number % NODES };
            publishers.spawn(publisher.publish());
        }
        if let Some(postgres) = &setting.postgres {
            for number in http..http + sql {
                publishers.spawn(BySql { desk: desk(number), database: postgres.options()? }.publish());
            }
        }
        Ok(Self { options, console, setting, model, busy, clients, publishers, rng })
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Goes through all faults; each outcome is handed over as soon as it is there. Ends at the first difference, with
    /// all of those that there are.
    pub(crate) async fn play(&mut self, outcomes: &mut Vec<Outcome>) -> Result<Vec<checker::Fault>, Failure> {
        let faults = Fault::of(self.options);
        self.answered(Instant::now()).await?;
        self.reached(self.model.mark_all(Instant::now()), "at the start").await?;
        self.console.tell(format_args!(
            "{} clients follow {TOPICS} topics over {NODES} nodes, {} publishers publish at all of them",
            self.options.clients,
            self.publishers.len()
        ));
        for fault in faults {
            sleep(STEADY).await;
            let outcome = self.fault(fault).await.during(fault.title())?;
            self.console.tell(&outcome);
            outcomes.push(outcome);
            let found = self.compare().await.during(format_args!("after: {}", fault.title()))?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// One fault, from all being well to all being well.
    async fn fault(&mut self, fault: Fault) -> Result<Outcome, Failure> {
        let victim = index(&mut self.rng, NODES);
        let spared = fault.spared(victim);
        let injected = Instant::now();
        fault.inject(&mut self.setting, victim).await?;
        let held = Duration::from_secs(self.options.seconds_per_fault);
        let meanwhile = self.meanwhile(&spared, injected + held).await?;
        fault.heal(&mut self.setting, victim).await?;
        let healed = Instant::now();

        let publishing = self.answered(healed).await?;
        let after = self.reached(self.model.mark_all(healed), "after it was healed").await?;
        let longest_publish = self.model.longest_publish(injected);
        for server in &mut self.setting.servers {
            server.alive()?;
        }
        Ok(Outcome {
            fault,
            held_ms: Times::millis(healed - injected),
            meanwhile: meanwhile.as_ref().map(Times::of),
            publishing_again_ms: Times::millis(publishing),
            caught_up: Times::of(&after),
            longest_publish_ms: Times::millis(longest_publish),
        })
    }

    /// While a fault lasts: how long the clients of the nodes that it spares take for what is acknowledged.
    async fn meanwhile(&mut self, spared: &[usize], until: Instant) -> Result<Option<Reached>, Failure> {
        let mut marks = Vec::new();
        while Instant::now() < until {
            self.pass((until - Instant::now()).min(MARK_EVERY)).await?;
            if !spared.is_empty() {
                marks.push(self.model.mark_at(spared));
            }
        }
        let mut all = Reached::default();
        for mark in marks {
            all.join(self.reached(mark, "while it lasted, at the nodes that it spares").await?);
        }
        Ok((!spared.is_empty()).then_some(all))
    }

    /// Waits until something was acknowledged at every door, and then on every topic, that was begun after that moment.
    /// Says how long the former took.
    async fn answered(&mut self, since: Instant) -> Result<Duration, Failure> {
        let doors = if self.setting.postgres.is_some() { DOORS } else { SQL };
        let mut answered = self.model.answered();
        let is_open = |newest: &Option<Instant>| newest.is_some_and(|began| began >= since);
        let opened = async {
            answered.wait_for(|now| now.by_door[..doors].iter().all(is_open)).await?;
            let opened = since.elapsed();
            answered.wait_for(|now| now.by_topic.iter().all(is_open)).await?;
            Ok::<_, RecvError>(opened)
        };
        if let Some(opened) = self.guarded(opened).await? {
            return opened.during("waiting for acknowledgements");
        }
        let Answered { by_door, by_topic } = self.model.answered().borrow().clone();
        let door = |number| if number == SQL { "SQL".to_owned() } else { format!("node {number}") };
        let shut = (0..doors).filter(|number| !is_open(&by_door[*number])).map(door);
        let topics = self.model.topics().iter().zip(&by_topic).filter(|(_, newest)| !is_open(newest));
        let shut: Vec<_> = shut.chain(topics.map(|(topic, _)| topic.clone())).collect();
        Err(Failure::new(format_args!(
            "nothing that was published is acknowledged within {} s at: {}",
            PATIENCE.as_secs(),
            shut.join(", ")
        )))
    }

    /// Waits until a mark is reached.
    async fn reached(&mut self, mark: Marked, when: &str) -> Result<Reached, Failure> {
        let Marked { number, reached } = mark;
        if let Some(reached) = self.guarded(reached).await? {
            return reached.during("waiting for the clients");
        }
        let missing = self.model.missing(number);
        let shown: Vec<_> = missing.iter().take(10).map(String::as_str).collect();
        Err(Failure::new(format_args!(
            "{} topics of clients did not get within {} s what was acknowledged {when}:\n    {}",
            missing.len(),
            PATIENCE.as_secs(),
            shown.join("\n    ")
        )))
    }

    /// Lets everybody rest, and compares everything with everything else.
    async fn compare(&mut self) -> Result<Vec<checker::Fault>, Failure> {
        let (begun, busy) = (Instant::now(), Arc::clone(&self.busy));
        let Some(rest) = self.guarded(busy.write()).await? else {
            return Err(Failure::new("a publisher has no answer, although nothing is broken any more"));
        };
        self.reached(self.model.mark_all(Instant::now()), "when all publishers rest").await?;
        let rested = begun.elapsed();
        let journals = self.journals().await?;
        // Apart from the runtime's only thread, on which tokens are renewed meanwhile.
        let model = Arc::clone(&self.model);
        let found = spawn_blocking(move || model.check(journals)).await.during("comparing")?;
        drop(rest);
        let counts = self.model.counts();
        self.console.tell(format_args!(
            "everybody rests after {:.1} s; compared: {} updates, {} deliveries, {} differences",
            rested.as_secs_f64(),
            count(counts.updates),
            count(counts.deliveries),
            found.len()
        ));
        Ok(found)
    }

    /// Every topic as the nodes give it over HTTP, each page from another one.
    async fn journals(&self) -> Result<Vec<Log>, Failure> {
        let (addresses, token) = (self.setting.addresses(), self.setting.workspace.token()?);
        let mut logs = Vec::new();
        let mut asked = 0;
        for topic in self.model.topics() {
            let mut read: Vec<Entry> = Vec::new();
            loop {
                let address = addresses[asked % NODES];
                asked += 1;
                let client = Client::new(address, &*token);
                let Some(page) = read_on(&client, topic, &read).await.during(topic)? else {
                    return Err(Failure::new(format_args!("{address} gives no page of {topic}")));
                };
                if page.is_empty() {
                    break;
                }
                read.extend(page);
            }
            let name = "the journal over HTTP".to_owned();
            logs.push(Log { name, delivery: Delivery::ExactlyOnce, runs: vec![read] });
        }
        Ok(logs)
    }

    /// Lets time pass.
    async fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        self.guarded(sleep(time)).await.map(drop)
    }

    /// What comes of it; none if that takes too long. Fails as soon as somebody does.
    async fn guarded<T>(&mut self, wait: impl Future<Output = T>) -> Result<Option<T>, Failure> {
        tokio::select! {
            came = timeout(PATIENCE, wait) => Ok(came.ok()),
            failure = self.clients.failed() => Err(failure),
            Some(ended) = self.publishers.join_next() => match ended {
                Ok(failure) => Err(failure),
                Err(panic) => Err(Failure::new(panic)),
            },
        }
    }

    /// Ends the publishers and the clients; what they stood on is left.
    pub(crate) async fn end(mut self) -> Setting {
        self.publishers.shutdown().await;
        self.setting
    }
}

/// Some topics, each once.
fn draw_topics(rng: &mut Rng) -> Vec<usize> {
    let mut topics = Vec::new();
    while topics.len() < TOPICS_PER_CLIENT {
        let topic = index(rng, TOPICS);
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    topics
}
