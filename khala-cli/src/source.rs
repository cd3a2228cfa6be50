//! Where a token comes from: a file, a variable of the environment, or a command that prints it.
//!
//! # Invariants
//! A token is in no output. A command that prints one reads nothing of this command's standard input.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use khala_client::ClientBuilder;
use khala_core::Token;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{exit::Failure, file};

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// What this command of the shell prints.
    Command(String),
    /// The value of this variable.
    Env(String),
    /// The content of this file.
    File(PathBuf),
}

impl Source {
    /// The token. `what` names it where it is not to be had.
    pub(crate) async fn read(&self, what: &str) -> Result<Token, Failure> {
        let (text, from) = match self {
            Self::Command(command) => {
                (printed(command, what).await?, format!("{what} of the command `{command}`"))
            }
            Self::Env(name) => {
                let value = env::var(name).map_err(|_| {
                    Failure::usage(format!(
                        "the {what} is to be in the environment's {name}, which is not set"
                    ))
                })?;
                (value, format!("{what} in the environment's {name}"))
            }
            Self::File(path) => (content(path, what)?, format!("{what} file {}", path.display())),
        };
        match text.trim() {
            "" => Err(Failure::usage(format!("the {from} is empty"))),
            token => Ok(Token::new(token)),
        }
    }

    /// Builds the client with these tokens: the first one is read now, so that a fault is told before anything is tried, and the next
    /// one when that has expired.
    pub(crate) async fn give_to(
        self,
        client: ClientBuilder,
        what: &'static str,
    ) -> Result<ClientBuilder, Failure> {
        let first = self.read(what).await?;
        if let Self::Env(_) = self {
            // It does not change while this runs.
            return Ok(client.token(first));
        }
        let (first, source) = (Mutex::new(Some(first)), Arc::new(self));
        Ok(client.token_from(move || {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let source = Arc::clone(&source);
            async move {
                match first {
                    Some(token) => Ok(token),
                    None => source.read(what).await.map_err(Into::into),
                }
            }
        }))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "command {command}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

fn content(path: &Path, what: &str) -> Result<String, Failure> {
    file::read_text(path)
        .map_err(|cause| Failure::unreadable(format_args!("the {what} file {}", path.display()), &cause))
}

/// What a command of the shell prints. What it says on standard error is the person's to read.
async fn printed(command: &str, what: &str) -> Result<String, Failure> {
    let fault = |fault: String| Failure::usage(format!("the {what} command `{command}` {fault}"));
    let [shell, flag] = if cfg!(windows) { ["cmd", "/C"] } else { ["sh", "-c"] };
    let ran = Command::new(shell)
        .args([flag, command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|cause| fault(format!("cannot be run: {cause}")))?;
    if !ran.status.success() {
        return Err(fault(format!("failed with {}", ran.status)));
    }
    String::from_utf8(ran.stdout).map_err(|_| fault("prints no UTF-8".to_owned()))
}
