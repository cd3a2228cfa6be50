//! A connection that appends: it has a fixed number of updates under way, and sends the next when one is acknowledged.

use std::{collections::VecDeque, io};

use khala_testing::Histogram;

use super::line::Line;
use crate::comparison::{
    load::{marker::Scanner, tally::Tally},
    wire::log::Log,
};

#[derive(Debug)]
pub(super) struct Appender {
    pub(super) line: Line,
    acknowledged: Tally,
    refusals: Vec<Tally>,
    /// When each of those under way was sent, in microseconds. They are answered in their order.
    sent: VecDeque<u64>,
    answered: u64,
}

impl Appender {
    pub(super) fn new(line: Line, log: &dyn Log) -> Self {
        Self {
            line,
            acknowledged: Tally::new(log.acknowledgement()),
            refusals: log.refusals().iter().copied().map(Tally::new).collect(),
            sent: VecDeque::new(),
            answered: 0,
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn sends(&mut self, now: u64) {
        self.sent.push_back(now);
    }

    /// Reads what was answered; gives how many updates were acknowledged. Errors where one was refused.
    pub(super) fn readable(
        &mut self,
        scanner: &mut Scanner,
        now: impl FnOnce() -> u64,
        latency: &mut Histogram,
    ) -> io::Result<u64> {
        let Self { line, acknowledged, refusals, .. } = self;
        line.readable(
            scanner,
            |_| {},
            |bytes| {
                acknowledged.hear(bytes);
                refusals.iter_mut().for_each(|tally| tally.hear(bytes));
            },
        )?;
        if self.refusals.iter().any(|tally| tally.count() > 0) {
            return Err(io::Error::other(format!("an update was refused: {}", self.line.words())));
        }
        let more = self.acknowledged.count() - self.answered;
        if more > 0 {
            self.answered += more;
            let now = now();
            for _ in 0..more {
                let Some(sent) = self.sent.pop_front() else {
                    return Err(io::Error::other("more was acknowledged than was sent"));
                };
                latency.add(now.saturating_sub(sent), 1);
            }
        }
        Ok(more)
    }
}
