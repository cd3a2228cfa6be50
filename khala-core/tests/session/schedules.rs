//! Ten thousand random schedules: whatever happens, what arrives is a gap-free, ordered continuation.

use std::time::Duration;

use khala_core::{
    DocKey, Kind, NewUpdate, Payload,
    wire::{JoinRequest, OnStale, Resume},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    coverage::Saw,
    pair::{Fate, World},
};

const TOPICS: &[&str] = &["a", "bb", "c:c", "dd:d"];
const CLIENTS: usize = 2;
/// Threads that search, each on its own.
const WORKERS: u32 = 2;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Authorizer {
        up: bool,
    },
    Connect {
        client: usize,
        seconds: u64,
    },
    /// So many replays are put off.
    Defer {
        replays: usize,
    },
    Disconnect {
        client: usize,
    },
    Down {
        client: usize,
        frames: usize,
    },
    Drain {
        client: usize,
        millis: u64,
    },
    Drive {
        client: usize,
        actions: usize,
    },
    Fail {
        reads: usize,
    },
    Hint {
        which: usize,
        fate: Fate,
    },
    Join {
        client: usize,
        topic: usize,
        request: Option<JoinRequest>,
    },
    Leave {
        client: usize,
        topic: usize,
    },
    /// Everybody does a little.
    Go {
        rounds: usize,
    },
    /// An update and a trim right up to it, so that whoever reads at that moment is left behind.
    Overtake {
        topic: usize,
    },
    Pass {
        millis: u64,
    },
    Publish {
        topic: usize,
        updates: Vec<(u8, bool)>,
        through: bool,
        announced: bool,
    },
    Read {
        client: usize,
        which: usize,
    },
    Refresh {
        client: usize,
    },
    Rejoin {
        client: usize,
    },
    Rest,
    Restart,
    Trim {
        topic: usize,
        keep: u64,
        through: bool,
    },
    Up {
        client: usize,
        frames: usize,
    },
    Verify {
        client: usize,
        seconds: Option<u64>,
    },
    Wipe,
}

/// Random bits, taken a few at a time.
struct Bits(u64);

impl Bits {
    fn below(&mut self, end: u64) -> usize {
        let taken = self.0 % end;
        self.0 /= end;
        usize::try_from(taken).unwrap()
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Most of the time it is about the first topic, so that things meet.
    fn topic(&mut self) -> usize {
        [0, 0, 0, 0, 1, 2, 3][self.below(7)]
    }

    fn request(&mut self) -> JoinRequest {
        let resume = [Resume::Snapshot, Resume::Floor, Resume::Head][self.below(3)];
        let on_stale = [OnStale::Snapshot, OnStale::Error][self.below(2)];
        JoinRequest { resume, on_stale, published_at: None }
    }
}

/// A step out of one number: a strategy for each field would cost more than running the schedule does.
fn step() -> impl Strategy<Value = Step> {
    any::<u64>().prop_map(|number| {
        let mut bits = Bits(number);
        let (kind, client) = (bits.below(73), bits.below(CLIENTS as u64));
        match kind {
            0..2 => Step::Rest,
            2..7 => Step::Go { rounds: 1 + bits.below(4) },
            7..13 => {
                let topic = bits.topic();
                let (through, announced) = (bits.flag(), bits.flag());
                let update = |bits: &mut Bits| (u8::try_from(bits.below(7)).unwrap(), bits.flag());
                let updates = (0..=bits.below(6)).map(|_| update(&mut bits)).collect();
                Step::Publish { topic, updates, through, announced }
            }
            13..18 => Step::Up { client, frames: 1 + bits.below(3) },
            18..25 => Step::Drive { client, actions: 1 + bits.below(5) },
            25..32 => Step::Read { client, which: bits.below(3) },
            32..37 => Step::Down { client, frames: 1 + bits.below(3) },
            37..43 => {
                let request = bits.flag().then(|| bits.request());
                Step::Join { client, topic: bits.topic(), request }
            }
            43..48 => {
                let fate = [Fate::Delivered, Fate::Delivered, Fate::Dropped, Fate::Repeated][bits.below(4)];
                Step::Hint { which: bits.below(64), fate }
            }
            48..51 => Step::Pass { millis: bits.below(3_000) as u64 },
            51 => Step::Overtake { topic: bits.topic() },
            52..54 => Step::Trim { topic: bits.topic(), keep: bits.below(6) as u64, through: bits.flag() },
            54..57 => Step::Connect { client, seconds: 1 + bits.below(40) as u64 },
            57 => Step::Rejoin { client },
            58 => Step::Leave { client, topic: bits.topic() },
            59 => Step::Disconnect { client },
            60 => Step::Fail { reads: bits.below(4) },
            61 => Step::Drain { client, millis: bits.below(4_000) as u64 },
            62 => Step::Restart,
            63 => Step::Wipe,
            64..67 => Step::Refresh { client },
            67..70 => {
                let seconds = 1 + bits.below(40) as u64;
                Step::Verify { client, seconds: bits.flag().then_some(seconds) }
            }
            70 => Step::Authorizer { up: false },
            71 => Step::Defer { replays: 1 + bits.below(3) },
            _ => Step::Authorizer { up: true },
        }
    })
}

/// A document's new state, its tombstone, or an update that is about no document.
fn update((key, deleted): (u8, bool)) -> NewUpdate {
    let kind = Kind::parse("k").unwrap();
    match key {
        0 => NewUpdate::new(kind, Payload::parse(r#"{"plain":true}"#).unwrap()),
        _ => {
            let doc_key = DocKey::parse(&format!("d{key}")).unwrap();
            if deleted && key < 4 {
                NewUpdate::tombstone(kind, doc_key)
            } else {
                NewUpdate::new(kind, Payload::parse("[1, 2]").unwrap()).doc_key(doc_key)
            }
        }
    }
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Authorizer { up } => self.authorizer(up),
            Step::Connect { client, seconds } => self.connect(client, Duration::from_secs(seconds)),
            Step::Defer { replays } => self.defer(replays),
            Step::Disconnect { client } => self.disconnect(client),
            Step::Down { client, frames } => _ = self.down(client, frames),
            Step::Drain { client, millis } => self.drain(client, Duration::from_millis(millis)),
            Step::Drive { client, actions } => _ = self.drive(client, actions),
            Step::Fail { reads } => self.store.fail(reads),
            Step::Hint { which, fate } => self.hint(which, fate),
            Step::Join { client, topic, request } => self.join(client, topic, request),
            Step::Leave { client, topic } => self.leave(client, topic),
            Step::Go { rounds } => self.go(rounds),
            Step::Overtake { topic } => {
                self.publish(topic, &[update((4, false))], false, false);
                self.trim(topic, 0, false);
            }
            Step::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Step::Publish { topic, updates, through, announced } => {
                let updates: Vec<_> = updates.into_iter().map(update).collect();
                self.publish(topic, &updates, through, announced);
            }
            Step::Read { client, which } => _ = self.read(client, which),
            Step::Refresh { client } => self.refresh(client),
            Step::Rejoin { client } => self.rejoin(client),
            Step::Rest => {
                self.heartbeats();
                self.rest();
            }
            Step::Restart => self.restart(),
            Step::Trim { topic, keep, through } => self.trim(topic, keep, through),
            Step::Up { client, frames } => _ = self.up(client, frames),
            Step::Verify { client, seconds } => {
                self.verify(client, seconds.map(Duration::from_secs));
            }
            Step::Wipe => self.wipe(),
        }
    }
}

/// One schedule, from the first connection until everybody has everything.
fn run(pauses: u64, steps: Vec<Step>) {
    let mut world = World::new(TOPICS, CLIENTS);
    // Half of all schedules read at once, so that their shrunken form is simple.
    world.store.pause(if pauses.is_multiple_of(2) { 0 } else { pauses });
    for client in 0..CLIENTS {
        world.connect(client, Duration::from_secs(30));
        world.join(client, 0, Some(JoinRequest::default()));
    }
    for step in steps {
        world.step(step);
    }
    world.settle();
}

#[test]
fn what_arrives_is_a_gap_free_ordered_continuation() {
    // `PROPTEST_CASES` asks for fewer, or for more.
    let mut config = Config { max_shrink_iters: 4_000, failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 10_000;
    }
    let thorough = config.cases >= 10_000;
    config.cases = config.cases.div_ceil(WORKERS);
    let search = || {
        let schedule = (any::<u64>(), prop::collection::vec(step(), 10..60));
        let checked = |(pauses, steps)| {
            run(pauses, steps);
            Ok(())
        };
        TestRunner::new(config.clone()).run(&schedule, checked).map_err(|fault| fault.to_string())
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(search)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for fault in found {
        if let Err(fault) = fault {
            panic!("{fault}");
        }
    }
    let (counts, never) = Saw::seen();
    assert!(!thorough || never.is_empty(), "the schedules never came to {never:?}; they saw {counts:?}");
}
