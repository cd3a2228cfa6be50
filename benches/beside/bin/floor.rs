//! The floor of `khala_benches::beside`: `khala-floor ADDRESS each|coalesced`.

use std::process::ExitCode;

use khala_benches::beside::floor;

fn main() -> ExitCode {
    floor::main()
}
