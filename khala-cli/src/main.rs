//! The `khala` command: publish, tail and the rest of what is done to topics, keys, tokens and servers at a terminal.
//!
//! This file says what there is to ask for; each command has a file of its own. Standard output carries data and
//! nothing else, standard error what a person should know, and the exit code what a script should.

mod admin;
mod completion;
mod connections;
mod context;
mod cursor_file;
mod documents;
mod drain;
mod duration;
mod exit;
mod file;
mod follower;
mod input;
mod json;
mod key;
mod key_file;
mod lines;
mod mint;
mod moment;
mod notice;
mod output;
mod pem;
mod printer;
mod publish;
mod retention;
mod revoke;
mod server;
mod source;
mod start;
mod stats;
mod tail;
mod topics;

use std::{
    ffi::OsString,
    io::{ErrorKind, Write as _},
};

use clap::{
    ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum as _,
    error::ErrorKind as Asked,
};

use crate::{exit::Failure, server::Server};

/// Publish to topics, follow them, and manage access
#[derive(Debug, Parser)]
#[command(name = "khala", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: Server,
    /// When to use colours
    ///
    /// `auto` uses them on a terminal, unless NO_COLOR is set. `always` colours readable output (--pretty, for one) in a pipe too; JSON
    /// lines have no colours.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = server::GLOBAL)]
    color: ColorChoice,
}

/// In the order in which a person meets them.
#[derive(Debug, Subcommand)]
enum Command {
    Publish(publish::Publish),
    Tail(tail::Tail),
    Documents(documents::Documents),
    Topics(topics::Topics),
    Token(mint::Mint),
    Key(key::Keys),
    Revoke(revoke::Revoke),
    Connections(connections::Connections),
    Stats(stats::Stats),
    Retention(retention::Retention),
    Drain(drain::Drain),
    Context(context::ContextCommand),
    Completion(completion::Completion),
}

fn main() {
    let command = Cli::command().color(color(std::env::args_os()));
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let done = match parsed {
        Ok(cli) => run(cli).map(|()| 0),
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

/// What --color says, which counts for the help too, and for what is wrong with the command line.
fn color(arguments: impl Iterator<Item = OsString>) -> ColorChoice {
    let mut chosen = ColorChoice::Auto;
    let mut arguments =
        arguments.map(|argument| argument.to_string_lossy().into_owned()).take_while(|text| text != "--");
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--color") {
            Some("") => arguments.next(),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        chosen = value.and_then(|value| ColorChoice::from_str(&value, false).ok()).unwrap_or(chosen);
    }
    chosen
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, server, color } = cli;
    match color {
        ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        ColorChoice::Auto => anstream::ColorChoice::Auto.write_global(),
        ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    // Two workers, so that heartbeats go on whatever the command itself waits for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|cause| Failure::io(format!("no threads are to be had: {cause}")))?;
    let server = &server;
    let result = match command {
        Command::Completion(completion) => completion.run(Cli::command()),
        Command::Connections(connections) => runtime.block_on(connections.run(server)),
        Command::Context(context) => context.run(server),
        Command::Documents(documents) => runtime.block_on(documents.run(server)),
        Command::Drain(drain) => runtime.block_on(drain.run(server)),
        Command::Key(keys) => keys.run(),
        Command::Publish(publish) => runtime.block_on(publish.run(server)),
        Command::Retention(retention) => runtime.block_on(retention.run(server)),
        Command::Revoke(revoke) => runtime.block_on(revoke.run(server)),
        Command::Stats(stats) => runtime.block_on(stats.run(server)),
        Command::Tail(tail) => runtime.block_on(tail.run(server)),
        Command::Token(mint) => mint.run(),
        Command::Topics(topics) => runtime.block_on(topics.run(server)),
    };
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Every command of `command`, with the words that lead to it.
    fn commands(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        found.push((path.to_owned(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            commands(sub, &format!("{path} {}", sub.get_name()), found);
        }
    }

    /// The words of each `khala` in a line of the shell.
    fn calls(line: &str) -> Vec<Vec<String>> {
        let words = shlex::split(line).unwrap_or_else(|| panic!("{line} is no command"));
        let is_end = |word: &String| matches!(&**word, "|" | ">" | ">>" | "<" | "&&");
        let parts = words.split(is_end);
        parts.filter(|part| part.first().is_some_and(|first| first == "khala")).map(<[_]>::to_vec).collect()
    }

    #[test]
    fn every_help_has_examples_and_every_example_parses() {
        let mut found = Vec::new();
        commands(&Cli::command(), "khala", &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for (path, mut command) in found {
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{path}: {help}"));
            let examples = examples.split("\n\n").next().unwrap();
            // In a window of the usual width nothing is broken.
            assert!(examples.lines().all(|line| line.len() <= 79), "{path}: {examples}");
            let examples = examples.replace("\\\n", "");
            let calls: Vec<_> = examples.lines().flat_map(calls).collect();
            assert!(!calls.is_empty(), "{path}: {examples}");
            for call in calls {
                let parsed = Cli::try_parse_from(&call);
                let asked = parsed.as_ref().is_err_and(|said| said.kind() == Asked::DisplayHelp);
                assert!(parsed.is_ok() || asked, "{path}: {call:?}: {parsed:?}");
                assert!(
                    path == "khala" || call.join(" ").contains(&path["khala ".len()..]),
                    "{path}: {call:?}"
                );
            }
        }
    }

    #[test]
    fn colours_are_chosen_before_anything_is_parsed() {
        let chosen = |text: &str| color(text.split(' ').map(OsString::from));
        assert_eq!(chosen("khala tail --color never --help"), ColorChoice::Never);
        assert_eq!(chosen("khala --color=always tail"), ColorChoice::Always);
        assert_eq!(chosen("khala --color=blue -- --color never"), ColorChoice::Auto);
        assert_eq!(chosen("khala --color"), ColorChoice::Auto);
    }
}
