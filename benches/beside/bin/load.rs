//! The load generator of `khala_benches::beside`: commands on standard input, answers on standard output, a line of JSON each.

use std::process::ExitCode;

use khala_benches::beside::load;

fn main() -> ExitCode {
    load::main()
}
