//! The comparison's own program: its processes are this program with another subcommand. See [`khala_benches::comparison`].

use std::process::ExitCode;

fn main() -> ExitCode {
    khala_benches::comparison::main()
}
