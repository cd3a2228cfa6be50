//! The load generator: a process of its own and one thread, which holds all subscribers and the publisher.
//!
//! It reads all sockets into one buffer, parses nothing, and knows updates by the mark in each payload, so that it costs little
//! and the same beside every server.
//!
//! # Invariants
//! A subscriber's count is exact. Every update of its topic comes once and in order, or is counted as lost or disordered.

mod client_pool;
pub(super) mod command;
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

use khala_testing::{
    Failure,
    usage::{Processes, Usage},
};

use self::{
    client_pool::ClientPool,
    command::{Answer, Command, Done},
};
use super::files;

/// Obeys commands from standard input, a line each, until that ends.
pub(super) fn run() -> ExitCode {
    let (mut pool, mut clients) = (None, None);
    for line in io::stdin().lock().lines() {
        let answer = line.map_err(Failure::new).and_then(|line| obey(&mut pool, &mut clients, &line));
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

fn obey(
    pool: &mut Option<ClientPool>,
    clients: &mut Option<log::LogClients>,
    line: &str,
) -> Result<Done, Failure> {
    let command: Command = serde_json::from_str(line).map_err(Failure::new)?;
    let own = Processes::this();
    let before = own.usage()?;
    let mut done = match (command, pool) {
        (Command::Log(command), _) => log::obey(clients, command)?,
        (Command::Open(open), pool) => {
            files::raise_limit()?;
            pool.insert(ClientPool::new(&open)?).open(&open)?
        }
        (_, None) => return Err(Failure::new("nothing is open")),
        (Command::Publish(publish), Some(pool)) => pool.publish(publish)?,
        (Command::Cut, Some(pool)) => pool.cut(),
        (Command::Return, Some(pool)) => pool.come_back()?,
    };
    done.cpu_seconds = Usage::cpu_between(&before, &own.usage()?).as_secs_f64();
    Ok(done)
}
