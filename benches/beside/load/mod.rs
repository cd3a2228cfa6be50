//! The load generator: a process of its own and one thread, which holds all subscribers and the publisher.
//!
//! It reads all sockets into one buffer, parses nothing, and knows updates by the mark in each payload, so that it costs little
//! and the same beside every server.
//!
//! # Invariants
//! A subscriber's count is exact. Every update of its topic comes once and in order, or is counted as lost or disordered.

pub(super) mod command;
mod crowd;
mod link;
pub(super) mod log;
mod marker;
mod publisher;
mod run;
mod tally;

use std::{
    io::{self, BufRead as _, Write as _},
    process::ExitCode,
};

use self::{
    command::{Answer, Command, Done},
    crowd::Crowd,
};
use super::{
    files,
    usage::{Processes, Usage},
};
use crate::crowd::Failure;

/// What the generator's program does: commands from standard input, a line each, until that ends.
#[must_use]
pub fn main() -> ExitCode {
    let (mut crowd, mut desk) = (None, None);
    for line in io::stdin().lock().lines() {
        let answer = line.map_err(Failure::new).and_then(|line| obey(&mut crowd, &mut desk, &line));
        let answer = match answer {
            Ok(done) => Answer::Done(done),
            Err(failure) => Answer::Failed(failure.to_string()),
        };
        let mut text = serde_json::to_vec(&answer).expect("an answer is JSON");
        text.push(b'\n');
        if io::stdout().lock().write_all(&text).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn obey(crowd: &mut Option<Crowd>, desk: &mut Option<log::Desk>, line: &str) -> Result<Done, Failure> {
    let command: Command = serde_json::from_str(line).map_err(Failure::new)?;
    let own = Processes::this();
    let before = own.usage()?;
    let mut done = match (command, crowd) {
        (Command::Log(command), _) => log::obey(desk, command)?,
        (Command::Open(open), crowd) => {
            files::raise_limit()?;
            crowd.insert(Crowd::new(&open)?).open(&open)?
        }
        (_, None) => return Err(Failure::new("nothing is open")),
        (Command::Publish(publish), Some(crowd)) => crowd.publish(publish)?,
        (Command::Cut, Some(crowd)) => crowd.cut(),
        (Command::Return, Some(crowd)) => crowd.come_back()?,
    };
    done.cpu_seconds = Usage::cpu_between(&before, &own.usage()?).as_secs_f64();
    Ok(done)
}
