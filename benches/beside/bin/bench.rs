//! Khala beside floors and peers, in one run: fan-out, many topics, idle connections, a reconnect storm, appends, replays,
//! and two nodes.
//!
//! `scripts/beside` installs the peers and runs this; `cargo bench -p khala-benches --bench beside -- --quick` is a minute
//! of it, `-- --list` says what there is.

use std::process::ExitCode;

use khala_benches::beside::{self, Programs};

fn main() -> ExitCode {
    beside::bench(Programs::new(
        env!("CARGO_BIN_EXE_khala-load"),
        env!("CARGO_BIN_EXE_khala-floor"),
        env!("CARGO_BIN_EXE_khala-alone"),
    ))
}
