//! The `khala` command: publish, tail, topics, token, key, revoke, retention, drain.
//!
//! This file says what there is to ask for; each command has a file of its own. Standard output carries data and
//! nothing else, standard error what a person should know, and the exit code what a script should.

mod admin;
mod connection;
mod cursor_file;
mod drain;
mod duration;
mod exit;
mod file;
mod input;
mod key;
mod key_file;
mod mint;
mod moment;
mod notice;
mod output;
mod pem;
mod publish;
mod retention;
mod revoke;
mod tail;
mod topics;

use std::io::{ErrorKind, Write as _};

use clap::{Parser, Subcommand, error::ErrorKind as Asked};

use crate::exit::Failure;

/// Publish to Khala's topics, follow them, and say who may.
#[derive(Debug, Parser)]
#[command(name = "khala", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Drain(drain::Drain),
    Key(key::Keys),
    Publish(publish::Publish),
    Retention(retention::Retention),
    Revoke(revoke::Revoke),
    Tail(tail::Tail),
    Token(mint::Mint),
    Topics(topics::Topics),
}

fn main() {
    let done = match Cli::try_parse() {
        Ok(Cli { command }) => run(command).map(|()| 0),
        Err(said) => say(&said),
    };
    let code = done.unwrap_or_else(|failure| {
        notice::tell(&failure);
        failure.code()
    });
    // A read of standard input or a write to a full pipe may hang in a thread of the runtime: exit past it.
    std::process::exit(code);
}

/// Prints the help or the version that was asked for, or what is wrong with the command line.
fn say(said: &clap::Error) -> Result<i32, Failure> {
    let printed = said.print().and_then(|()| std::io::stdout().flush());
    let asked_for = matches!(said.kind(), Asked::DisplayHelp | Asked::DisplayVersion);
    match printed {
        Err(cause) if asked_for && cause.kind() != ErrorKind::BrokenPipe => Err(output::unwritable(&cause)),
        _ => Ok(said.exit_code()),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    // Two workers, so that heartbeats go on whatever the command itself waits for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|cause| Failure::io(format!("no threads are to be had: {cause}")))?;
    let result = match command {
        Command::Drain(drain) => runtime.block_on(drain.run()),
        Command::Key(keys) => keys.run(),
        Command::Publish(publish) => runtime.block_on(publish.run()),
        Command::Retention(retention) => runtime.block_on(retention.run()),
        Command::Revoke(revoke) => runtime.block_on(revoke.run()),
        Command::Tail(tail) => runtime.block_on(tail.run()),
        Command::Token(mint) => mint.run(),
        Command::Topics(topics) => runtime.block_on(topics.run()),
    };
    runtime.shutdown_background();
    result
}
