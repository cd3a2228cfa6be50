//! The comparison by `cargo bench --bench comparison -- --quick`; `scripts/comparison` installs the competitors and runs this.

use std::process::ExitCode;

fn main() -> ExitCode {
    khala_benches::comparison::main()
}
