//! A connection that reads history: from an update on to the last, asking again after each page where the server gives
//! pages, and once more from the beginning if it is to.

use std::io;

use super::{
    command::{Order, Read},
    line::Line,
};
use crate::comparison::{
    load::marker::{Mark, Scanner},
    wire::log::{Log, Request},
};

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) line: Line,
    number: usize,
    topic: usize,
    round: u32,
    received: u64,
    /// Whether it has asked for what it does not have yet.
    pub(super) busy: bool,
    /// When it is to begin next, in microseconds.
    pub(super) due: u64,
    /// What came although it was not the next, or came again.
    pub(super) disordered: u64,
    /// Which have come, where the order is not known.
    seen: Vec<bool>,
}

impl Reader {
    pub(super) fn new(line: Line, number: usize, topic: usize) -> Self {
        Self {
            line,
            number,
            topic,
            round: 0,
            received: 0,
            busy: false,
            due: 0,
            disordered: 0,
            seen: Vec::new(),
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Begins to read.
    pub(super) fn begin(&mut self, log: &dyn Log, read: &Read) -> io::Result<()> {
        self.received = 0;
        self.busy = true;
        self.seen = if read.order == Order::Any { vec![false; read.count as usize] } else { Vec::new() };
        self.ask(log, read)?;
        self.round += 1;
        Ok(())
    }

    fn ask(&mut self, log: &dyn Log, read: &Read) -> io::Result<()> {
        let Self { number, topic, round, received, .. } = *self;
        let request = Request { reader: number, round, topic, first: read.first, received };
        log.read(self.line.out(), request);
        self.line.flush()
    }

    /// Reads what has come, and asks for more where that has to be asked for.
    pub(super) fn readable(
        &mut self,
        log: &dyn Log,
        read: Option<&Read>,
        scanner: &mut Scanner,
    ) -> io::Result<()> {
        let Self { line, received, disordered, seen, .. } = self;
        let before = *received;
        let take = |mark: Mark| {
            let Some(read) = read else { return };
            let number = u64::from(mark.number);
            let fits = match read.order {
                Order::Any => {
                    seen.get_mut(number as usize).is_some_and(|seen| !std::mem::replace(seen, true))
                }
                Order::ByNumber => *received < read.count && number == read.first + *received,
            };
            if fits {
                *received += 1;
            } else {
                *disordered += 1;
            }
        };
        line.readable(scanner, take, |_| {})?;
        if let (Some(read), Some(page)) = (read, log.page())
            && self.received > before
            && self.received < read.count
            && self.received.is_multiple_of(page)
        {
            // The number of the round is that of the next one.
            self.ask(log, read)?;
        }
        Ok(())
    }
}
