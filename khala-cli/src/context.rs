//! Contexts: servers with a name, kept in a file, and `khala context`, which keeps them.
//!
//! # Invariants
//! No token is in the file: it says where each token comes from. The file is replaced as a whole or not at all.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use etcetera::{BaseStrategy as _, base_strategy::choose_base_strategy};
use khala_client::Client;
use serde::{Deserialize, Serialize};

use crate::{
    exit::Failure,
    file::{self, Replaced},
    notice, output,
    server::Server,
    source::Source,
};

/// A server, and where the tokens for it come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admin_token: Option<Source>,
}

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The context that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    contexts: BTreeMap<String, Context>,
}

/// Where the file stands; none on a machine that gives its user no home.
fn path() -> Option<PathBuf> {
    choose_base_strategy().ok().map(|base| base.config_dir().join("khala").join("contexts.toml"))
}

impl Contexts {
    /// The contexts that there are; none where there is no file.
    pub(crate) fn load() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        let shown = path.display();
        match file::read_text(&path) {
            Ok(text) => toml::from_str(&text).map_err(|fault| {
                let fault = fault.to_string();
                Failure::usage(format!(
                    "the contexts in {shown} cannot be used: {}",
                    fault.trim_end().replace('\n', "; ")
                ))
            }),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(Failure::unreadable(format_args!("the contexts in {shown}"), &cause)),
        }
    }

    fn store(&self) -> Result<(), Failure> {
        let path = path().ok_or_else(|| {
            Failure::usage(
                "there is no folder for contexts, because this user has no home; set XDG_CONFIG_HOME",
            )
        })?;
        let text = toml::to_string(self).expect("contexts have a TOML form");
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| Replaced::at(&path))
            .and_then(|file| file.private().write(text.as_bytes()));
        written.map_err(|cause| {
            Failure::io(format!("the contexts in {} cannot be written: {cause}", path.display()))
        })
    }

    /// The context of that name.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let there = match names.is_empty() {
                true => "there is none yet; `khala context add` adds one".to_owned(),
                false => format!("there is {}", names.join(", ")),
            };
            Failure::usage(format!("there is no context {name}: {there}"))
        })
    }

    /// The context that is used where none is named.
    pub(crate) fn current(&self) -> Result<Option<&Context>, Failure> {
        self.current.as_deref().map(|name| self.get(name)).transpose()
    }
}

const EXAMPLES: &str = "\
Examples:
  khala context add local --url http://127.0.0.1:4510 --use
  khala context add prod --url https://khala.example --token-env PROD_TOKEN
  khala context ls
  khala --context prod topics";

/// Keep servers by name, with where their tokens come from
///
/// The file is contexts.toml in the folder khala of the user's configuration ($XDG_CONFIG_HOME, usually ~/.config). It holds no
/// token: each token is read from its file, variable or command when it is needed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ContextCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Box<Add>),
    Ls(Ls),
    Rm(Rm),
    Show(Show),
    Use(Use),
}

impl ContextCommand {
    pub(crate) fn run(self, server: &Server) -> Result<(), Failure> {
        match self.command {
            Command::Add(add) => add.run(server),
            Command::Ls(ls) => ls.run(),
            Command::Rm(rm) => rm.run(),
            Command::Show(show) => show.run(server),
            Command::Use(chosen) => chosen.run(),
        }
    }
}

/// Add a server, and where its tokens come from
///
/// --url and --token-file are global options. A token comes from a file, a variable or a command, and an admin token likewise.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala context add local --url http://127.0.0.1:4510 --use
  khala context add stage --url https://stage.example --token-file stage.token
  khala context add ci --url https://ci.example --token-env CI_KHALA_TOKEN
  khala context add prod --url https://khala.example \\
      --token-command 'vault read -field=token khala' --admin-token-env ADMIN")]
struct Add {
    /// The name: letters, digits, `.`, `_` and `-`
    #[arg(value_parser = name)]
    name: String,
    /// The variable of the environment that holds the token
    #[arg(long, value_name = "VARIABLE")]
    token_env: Option<String>,
    /// The command that prints the token, run by `sh -c`
    #[arg(long, value_name = "COMMAND")]
    token_command: Option<String>,
    /// The variable of the environment that holds the admin token
    #[arg(long, value_name = "VARIABLE")]
    admin_token_env: Option<String>,
    /// The command that prints the admin token, run by `sh -c`
    #[arg(long, value_name = "COMMAND")]
    admin_token_command: Option<String>,
    /// Replace a context that has this name already
    #[arg(long)]
    force: bool,
    /// Make it the current context, which is used where none is named
    #[arg(long = "use")]
    current: bool,
}

fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = (1..=100).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(good);
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "a name is 1 to 100 letters, digits, `.`, `_` and `-`".to_owned())
}

/// The one source that is given; `option` is the beginning of its options' names.
fn source(
    option: &str,
    file: Option<&PathBuf>,
    variable: Option<String>,
    command: Option<String>,
) -> Result<Option<Source>, Failure> {
    match (file, variable, command) {
        (None, None, None) => Ok(None),
        (Some(file), None, None) => {
            // A path that stays true in another folder.
            let whole = std::path::absolute(file);
            let whole =
                whole.map_err(|cause| Failure::usage(format!("{} is no path: {cause}", file.display())))?;
            Ok(Some(Source::File(whole)))
        }
        (None, Some(name), None) => Ok(Some(Source::Env(name))),
        (None, None, Some(command)) => Ok(Some(Source::Command(command))),
        _ => Err(Failure::usage(format!("give one of {option}-file, {option}-env and {option}-command"))),
    }
}

impl Add {
    fn run(self, server: &Server) -> Result<(), Failure> {
        let name = self.name;
        if server.token.is_some() {
            return Err(Failure::usage(
                "a context keeps no token itself; say where it comes from: --token-file, --token-env or --token-command",
            ));
        }
        let url = server.url.clone().ok_or_else(|| {
            Failure::usage(format!("say where the server is: khala context add {name} --url https://…"))
        })?;
        // The address is checked now, and not when the context is used.
        Client::builder(&url).build()?;
        let context = Context {
            url: url.trim_end_matches('/').to_owned(),
            token: source("--token", server.token_file.as_ref(), self.token_env, self.token_command)?,
            admin_token: source(
                "--admin-token",
                server.admin_token_file.as_ref(),
                self.admin_token_env,
                self.admin_token_command,
            )?,
        };
        let mut contexts = Contexts::load()?;
        if let Some(old) = contexts.contexts.get(&name)
            && *old != context
            && !self.force
        {
            return Err(Failure::usage(format!(
                "there is a context {name} already, for {}; --force replaces it with {}",
                old.url, context.url
            )));
        }
        contexts.contexts.insert(name.clone(), context);
        if self.current {
            contexts.current = Some(name.clone());
        }
        contexts.store()?;
        let next = match contexts.current == Some(name.clone()) {
            true => "it is the current context".to_owned(),
            false => format!("`khala context use {name}` makes it the current one"),
        };
        notice::tell(format_args!("added the context {name}; {next}"));
        Ok(())
    }
}

/// List the contexts; a star marks the current one
///
/// On a terminal a table; else, and with --json, one JSON object a line: {"name":"…","current":true,"url":"…"}, with "token" and
/// "admin_token", which say where those come from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala context ls
  khala context ls --json")]
struct Ls {
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
}

impl Ls {
    fn run(self) -> Result<(), Failure> {
        let contexts = Contexts::load()?;
        if contexts.contexts.is_empty() {
            notice::tell("there is no context yet; `khala context add` adds one");
        }
        let lines: Vec<_> = contexts.contexts.keys().filter_map(|name| contexts.line(name).ok()).collect();
        print(&lines, self.json)
    }
}

/// A context as it is shown.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    current: bool,
    #[serde(flatten)]
    context: &'a Context,
}

impl Contexts {
    fn line<'a>(&'a self, name: &'a str) -> Result<Line<'a>, Failure> {
        Ok(Line { name, current: self.current.as_deref() == Some(name), context: self.get(name)? })
    }
}

/// Prints contexts as a table for a person, else as JSON lines.
fn print(lines: &[Line<'_>], json: bool) -> Result<(), Failure> {
    if output::wants_json(json) {
        let json = |line| serde_json::to_string(line).expect("a context has a JSON form") + "\n";
        return output::print(&lines.iter().map(json).collect::<String>());
    }
    let source = |source: &Option<Source>| source.as_ref().map_or_else(|| "-".to_owned(), Source::to_string);
    let row = |Line { name, current, context }: &Line<'_>| {
        [
            if *current { "*" } else { "" }.to_owned(),
            (*name).to_owned(),
            context.url.clone(),
            source(&context.token),
            source(&context.admin_token),
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    output::print(&output::table(["", "NAME", "URL", "TOKEN", "ADMIN TOKEN"], &rows))
}

/// Show one context: the current one, or that of the name
///
/// The output is that of `khala context ls` with one context.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala context show
  khala context show prod")]
struct Show {
    /// The name; without it, the current context
    name: Option<String>,
    /// JSON, on a terminal too
    #[arg(long)]
    json: bool,
}

impl Show {
    fn run(self, server: &Server) -> Result<(), Failure> {
        let contexts = Contexts::load()?;
        let name = self.name.or_else(|| server.named_context()).or_else(|| contexts.current.clone()).ok_or_else(|| {
            Failure::usage("there is no current context; `khala context use` chooses one of those that `khala context ls` lists")
        })?;
        print(&[contexts.line(&name)?], self.json)
    }
}

/// Make a context the current one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala context use prod")]
struct Use {
    /// The name
    name: String,
}

impl Use {
    fn run(self) -> Result<(), Failure> {
        let mut contexts = Contexts::load()?;
        let url = contexts.get(&self.name)?.url.clone();
        contexts.current = Some(self.name.clone());
        contexts.store()?;
        notice::tell(format_args!("{} ({url}) is the current context", self.name));
        Ok(())
    }
}

/// Remove a context
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala context rm stage")]
struct Rm {
    /// The name
    name: String,
}

impl Rm {
    fn run(self) -> Result<(), Failure> {
        let mut contexts = Contexts::load()?;
        contexts.get(&self.name)?;
        contexts.contexts.remove(&self.name);
        let was_current = contexts.current.as_ref() == Some(&self.name);
        if was_current {
            contexts.current = None;
        }
        contexts.store()?;
        let rest = if was_current { ", which was the current one; there is none now" } else { "" };
        notice::tell(format_args!("removed the context {}{rest}", self.name));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_a_person_would_write() {
        let text = "current = \"prod\"\n\n[contexts.local]\nurl = \"http://127.0.0.1:4510\"\n\n[contexts.prod]\n\
                    url = \"https://khala.example\"\n\n[contexts.prod.token]\ncommand = \"vault read khala\"\n";
        let contexts: Contexts = toml::from_str(text).unwrap();
        assert_eq!(contexts.current().unwrap().unwrap().url, "https://khala.example");
        assert_eq!(toml::to_string(&contexts).unwrap(), text);
        let short: Contexts = toml::from_str(
            "current = \"prod\"\n[contexts]\nlocal = { url = \"http://127.0.0.1:4510\" }\n\
             prod = { url = \"https://khala.example\", token = { command = \"vault read khala\" } }",
        )
        .unwrap();
        assert_eq!(short, contexts);
        assert!(
            toml::from_str::<Contexts>("[contexts.a]\nurl = \"\"\ntoken = { text = \"secret\" }").is_err()
        );
        assert!(contexts.get("dev").unwrap_err().to_string().contains("local, prod"));
        for bad in ["", "-a", "a b", "a/b", "é"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name("prod-2.eu_west").is_ok());
    }
}
