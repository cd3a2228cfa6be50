//! What the benches of the scenarios share: a runtime, the server built for release, and where figures go.

use std::{fmt::Display, process::ExitCode};

use khala_testing::{During as _, Failure, Program};
use serde::Serialize;

use super::report::write_json;

/// Runs scenarios one after the other, each under its name, on a server that is built for release; prints what was found,
/// and writes it as JSON below `target/crowd`.
///
/// The clients have two threads, as the machine that the figures are for has two cores, and share them with the server.
pub fn bench<P, R, F>(
    scenarios: impl IntoIterator<Item = (String, P)>,
    run: impl Fn(Program, P) -> F,
) -> ExitCode
where
    R: Display + Serialize,
    F: Future<Output = Result<R, Failure>>,
{
    match try_bench(scenarios, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn try_bench<P, R, F>(
    scenarios: impl IntoIterator<Item = (String, P)>,
    run: impl Fn(Program, P) -> F,
) -> Result<(), Failure>
where
    R: Display + Serialize,
    F: Future<Output = Result<R, Failure>>,
{
    let program = Program::built_for_release()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.during("starting a runtime")?;
    for (name, params) in scenarios {
        let report = runtime.block_on(run(program.clone(), params)).during(&name)?;
        let file = write_json(&program, &name, &report)?;
        tell(&format!("{report}as JSON: {}\n", file.display()));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "its figures are what a bench is run for")]
fn tell(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a bench that fails says why")]
fn tell_failure(failure: &Failure) {
    eprintln!("FAILED: {failure}");
}
