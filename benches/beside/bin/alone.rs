//! What of `khala_benches::beside` needs no server: one order in JSON as its argument, figures on standard output.

use std::process::ExitCode;

use khala_benches::beside::alone;

fn main() -> ExitCode {
    alone::main()
}
