//! What a run is told as: a line for each fault, a table at the end, and JSON.

use std::{fmt, fs, path::Path, time::Duration};

use khala_scenarios::{
    checker,
    console::{Console, count, say, say_some},
};
use khala_testing::{During as _, Failure};
use serde::Serialize;

use crate::{
    Options,
    faults::Fault,
    model::{Counts, Reached},
};

/// A lag of which it is said whose it was.
const REMARKABLE_MS: u64 = 1_000;

/// What came of a fault.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) held_ms: u64,
    /// While it lasted, four times a second: how long the clients of the nodes that the fault spares took until they
    /// had everything that was acknowledged then.
    pub(crate) meanwhile: Option<Times>,
    /// From healing until something was published at every node, and by SQL.
    pub(crate) publishing_again_ms: u64,
    /// From healing until a client had all that was acknowledged when something had been published on every topic anew.
    pub(crate) caught_up: Times,
    /// From its first attempt, during the fault and the time after it.
    pub(crate) longest_publish_ms: u64,
}

/// Times of many clients.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Times {
    /// How many there are.
    times: usize,
    /// Clients that left their node before.
    left: usize,
    median_ms: u64,
    slowest_ms: u64,
    /// Who that was.
    slowest: Option<String>,
}

impl Times {
    pub(crate) fn of(reached: &Reached) -> Self {
        Self {
            times: reached.times.len(),
            left: reached.left,
            median_ms: Self::millis(reached.median()),
            slowest_ms: Self::millis(reached.slowest()),
            slowest: reached.who(),
        }
    }

    pub(crate) fn millis(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}", seconds(self.median_ms), seconds(self.slowest_ms))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, held_ms, meanwhile, publishing_again_ms, caught_up, .. } = self;
        write!(f, "{} for {} s", fault.title(), seconds(*held_ms))?;
        if let Some(meanwhile) = meanwhile {
            write!(f, "; meanwhile the others' clients lag by {meanwhile} s")?;
            if let (true, Some(who)) = (meanwhile.slowest_ms >= REMARKABLE_MS, &meanwhile.slowest) {
                write!(f, " ({who})")?;
            }
        }
        write!(
            f,
            "; published again after {} s, caught up after {caught_up} s",
            seconds(*publishing_again_ms)
        )
    }
}

/// A run.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) seed: u64,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) counts: Counts,
    /// What was compared and is not the same.
    pub(crate) differences: Vec<String>,
    /// What ended the run before its time.
    pub(crate) failure: Option<String>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(
        options: &'a Options,
        seed: u64,
        outcomes: Vec<Outcome>,
        counts: Counts,
        played: &Result<Vec<checker::Fault>, Failure>,
    ) -> Self {
        let differences = played.iter().flatten().map(checker::Fault::to_string).collect();
        let failure = played.as_ref().err().map(Failure::to_string);
        Self { options, seed, outcomes, counts, differences, failure }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.differences.is_empty() && self.failure.is_none()
    }

    pub(crate) fn tell(&self, console: &Console) {
        let Self { outcomes, counts, differences, failure, .. } = self;
        say(format_args!(
            "\n{:<44} {:>6} {:>15} {:>15} {:>15} {:>8}",
            "seconds; of clients: median / slowest",
            "held",
            "lag meanwhile",
            "publish again",
            "caught up",
            "publish"
        ));
        for outcome in outcomes {
            say(format_args!(
                "{:<44} {:>6} {:>15} {:>15} {:>15} {:>8}",
                outcome.fault.title(),
                seconds(outcome.held_ms),
                outcome.meanwhile.as_ref().map_or_else(|| "-".to_owned(), |times| times.to_string()),
                seconds(outcome.publishing_again_ms),
                outcome.caught_up.to_string(),
                seconds(outcome.longest_publish_ms),
            ));
        }
        say(format_args!(
            "\n(lag meanwhile: at any moment of the fault, until the clients of the nodes that it spares had all that was \
             acknowledged then. publish again: from \
             healing until every node, and SQL, took something. caught up: from healing until a client had all that was \
             acknowledged when every topic had been published to anew. publish: the longest one, with its retries.)\n\n\
             {} updates acknowledged, {} of their publishes stored by an attempt whose answer was lost; {} updates rolled \
             back. {} deliveries, {} more came again and were skipped; {} connections, {} joins that resumed; closed: {:?}; \
             refused: {:?}.",
            count(counts.updates),
            count(counts.duplicates),
            count(counts.rolled_back),
            count(counts.deliveries),
            count(counts.skipped),
            count(counts.connections),
            count(counts.resumed),
            counts.closed,
            counts.refused,
        ));
        let seconds = console.elapsed().as_secs_f64();
        if self.is_good() {
            say(format_args!(
                "\nNothing lost, nothing doubled, nothing reordered, nothing that was rolled back is seen: {}, {seconds:.0} s.",
                if outcomes.is_empty() { "rounds of faults".to_owned() } else { named(outcomes.len()) },
            ));
        }
        if !differences.is_empty() {
            say(format_args!("\nFAILED: {} differences after {seconds:.0} s.", differences.len()));
            say_some(differences);
        }
        if let Some(failure) = failure {
            say(format_args!("\nFAILED after {seconds:.0} s: {failure}"));
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).during("writing the report")?;
        fs::write(file, text + "\n").during(format_args!("writing {}", file.display()))
    }
}

fn named(faults: usize) -> String {
    if faults == 1 { "one fault".to_owned() } else { format!("{faults} faults") }
}

fn seconds(millis: u64) -> String {
    format!("{:.1}", Duration::from_millis(millis).as_secs_f64())
}
