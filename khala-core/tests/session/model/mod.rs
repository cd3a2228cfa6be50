//! The model of who may receive what: random connects, joins, refreshes, revocations and failures over the real handle
//! and driver, held against an oracle that knows nothing of them but what was asked for and what came out.
//!
//! What must hold: no update after a grant's end, after this node has read of its revocation, or on a topic that the
//! present grant does not cover; no connection or channel ends for nothing; whoever still may has everything.

mod oracle;
mod world;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use self::world::{LINES, World};
use crate::coverage::Met;

const WORKERS: u32 = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Authorizer { up: bool },
    Block { line: usize },
    Connect { line: usize, subject: usize, topics: usize, key: usize, millis: u64, old: Option<usize> },
    Join { line: usize, topic: usize },
    Key { key: usize, withdrawn: bool },
    Leave { line: usize, topic: usize },
    Log { up: bool },
    Pass { ticks: usize },
    Publish { topic: usize, updates: usize, announced: bool },
    Read { line: usize, frames: usize },
    Refresh { line: usize, fresh: Fresh },
    Rejoin { line: usize },
    Revoke { line: usize, by: usize, here: bool, hinted: bool },
}

/// Which token is handed over.
#[derive(Clone, Copy, Debug)]
enum Fresh {
    Another,
    Expired,
    None,
    Old(usize),
    Same { topics: usize, millis: u64, key: usize },
}

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

    fn lifetime(&mut self) -> u64 {
        [300, 1_000, 2_500, 6_000, 60_000, 60_000, 60_000][self.below(7)]
    }
}

fn step() -> impl Strategy<Value = Step> {
    any::<u64>().prop_map(|number| {
        let mut bits = Bits(number);
        let (kind, line) = (bits.below(64), bits.below(LINES as u64));
        match kind {
            0..10 => Step::Pass { ticks: 1 + bits.below(20) },
            10..24 => Step::Publish {
                topic: bits.below(3),
                updates: 1 + bits.below(5),
                announced: bits.below(4) > 0,
            },
            24..33 => Step::Connect {
                line,
                subject: bits.below(2),
                topics: 7 - bits.below(8),
                key: bits.below(2),
                millis: bits.lifetime(),
                old: (bits.below(4) == 0).then(|| bits.below(64)),
            },
            33..41 => Step::Join { line, topic: bits.below(3) },
            41 => Step::Leave { line, topic: bits.below(3) },
            42..51 => {
                let fresh = match bits.below(12) {
                    0 => Fresh::Another,
                    1 => Fresh::Expired,
                    2 => Fresh::None,
                    3..5 => Fresh::Old(bits.below(64)),
                    _ => Fresh::Same { topics: bits.below(8), millis: bits.lifetime(), key: bits.below(2) },
                };
                Step::Refresh { line, fresh }
            }
            51..54 => Step::Revoke { line, by: bits.below(3), here: bits.below(3) == 0, hinted: bits.flag() },
            54 => Step::Authorizer { up: false },
            55 => Step::Authorizer { up: true },
            56 => Step::Log { up: bits.flag() },
            57 => Step::Key { key: bits.below(2), withdrawn: bits.flag() },
            58..60 => Step::Block { line },
            60..62 => Step::Read { line, frames: [1, 2, usize::MAX, usize::MAX][bits.below(4)] },
            _ => Step::Rejoin { line },
        }
    })
}

#[test]
fn nobody_receives_what_is_not_theirs_and_nobody_else_loses_anything() {
    let mut config = Config { max_shrink_iters: 4_000, failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 400;
    }
    let thorough = config.cases >= 400;
    config.cases = config.cases.div_ceil(WORKERS);
    let search = || {
        let checked = |steps: Vec<Step>| {
            let mut world = World::new();
            for step in steps {
                world.step(step);
            }
            world.settle();
            Ok(())
        };
        let schedule = prop::collection::vec(step(), 20..120);
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
    let (counts, never) = Met::seen();
    assert!(!thorough || never.is_empty(), "the model never came to {never:?}; it met {counts:?}");
}
