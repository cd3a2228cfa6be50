//! `khala completion`: what a shell needs to complete this command.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::{exit::Failure, output};

/// Print what a shell needs to complete commands, options and their values
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala completion bash > ~/.local/share/bash-completion/completions/khala
  khala completion zsh > ~/.zfunc/_khala
  khala completion fish > ~/.config/fish/completions/khala.fish

For zsh, ~/.zfunc has to be in $fpath before compinit runs.")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

/// What stands for the names of contexts in a script, and what prints them: the name is the first text of each JSON line.
const NAMES: (&str, &str) = ("THE_CONTEXTS", "$(khala context ls 2>/dev/null | cut -d'\"' -f4)");

impl Completion {
    pub(crate) fn run(self, mut command: Command) -> Result<(), Failure> {
        if self.shell == Shell::Bash {
            command = command.mut_arg("context", |context| context.value_parser([NAMES.0]));
        }
        let mut out = Vec::new();
        generate(self.shell, &mut command, "khala", &mut out);
        output::print(&String::from_utf8_lossy(&out).replace(NAMES.0, NAMES.1))
    }
}
