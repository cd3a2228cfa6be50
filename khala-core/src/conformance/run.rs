//! Running laws: a runtime for each, and the processes that laws J18, R6 and C9 kill.
//!
//! A victim is the test binary itself, started once more with only the ignored test of its name selected and
//! the store's place in the environment. It reports every acknowledgement on its standard output as it gets it,
//! so whatever the pipe holds once it is dead was acknowledged.

use std::{
    env, fmt,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    pin::Pin,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{runtime, task, time};

use super::harness::{Harness, Place};

/// No law takes this long on a store that answers: what still runs then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the victim finds the store that it is to open.
const PLACE: &str = "KHALA_CONFORMANCE_PLACE";

/// What the victim's lines begin with.
const REPORT: &str = "acknowledged: ";

tokio::task_local! {
    /// The module of the running test, where its victim stands too.
    static MODULE: &'static str;
}

/// One law, for callers that look at its outcome rather than have it as a test.
#[expect(clippy::exhaustive_structs, reason = "the table of laws is written out in the user's crate")]
pub struct Law<H> {
    /// The name of its function, which begins with its number.
    pub name: &'static str,
    /// Holds a fresh store to it, and panics where the store breaks it.
    pub check: fn(H) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<H> Law<H> {
    /// Its number, such as `J7`.
    pub fn number(&self) -> String {
        self.name.split('_').next().unwrap_or(self.name).to_uppercase()
    }
}

impl<H> fmt::Debug for Law<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Law").field(&self.name).finish()
    }
}

/// Holds a fresh store to one law. What `laws!` and its like expand to.
#[doc(hidden)]
pub fn run<H: Harness, F: Future<Output = ()>>(module: &'static str, name: &str, law: fn(H) -> F) {
    let runtime = runtime();
    let checked = MODULE.scope(module, async { law(H::fresh().await).await });
    let checked = runtime.block_on(async { time::timeout(PATIENCE, checked).await });
    if checked.is_err() {
        // Not waiting for the threads of a store that hangs.
        runtime.shutdown_background();
        panic!("{name}: hangs; stopped after {PATIENCE:?}");
    }
}

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("the operating system gives a few threads")
}

/// Says what a store cannot do, and so what a law did not look at.
pub(super) fn declared(law: &str, what: &str) {
    if let Ok(module) = MODULE.try_with(|module| *module) {
        // Past the capture of test output; who cannot read it loses nothing else.
        let _ = writeln!(
            io::stderr(),
            "{law}: the store of {module} declares that it does not {what}; not tested"
        );
    }
}

/// A process that works on a store until it is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// The law that kills it.
    pub(super) law: &'static str,
    /// The ignored test that it runs, which stands where the law's own does.
    pub(super) test: &'static str,
}

impl Victim {
    /// Lets it work on the store at `place`, kills it amid that with SIGKILL, and returns what had been acknowledged:
    /// the lines that it reported.
    ///
    /// Only in a test made by a macro of laws, because only there is a victim.
    pub(super) async fn killed_at_work(self, place: &Place, acknowledgements: usize) -> Vec<String> {
        let Self { law, test } = self;
        let Ok(module) = MODULE.try_with(|module| *module) else {
            panic!("{law}: a store that survives being killed is tested by a macro of laws");
        };
        let place = place.as_str().to_owned();
        let killed = task::spawn_blocking(move || kill(module, test, &place, acknowledgements)).await;
        let killed = killed.expect("the thread that watches the victim does not panic");
        killed.unwrap_or_else(|fault| panic!("{law}: no victim to kill: {fault}"))
    }
}

/// Says in the victim that something was acknowledged.
pub(super) fn report(acknowledged: &str) {
    let line = format!("{REPORT}{acknowledged}\n");
    io::stdout().lock().write_all(line.as_bytes()).expect("somebody reads the reports");
}

fn kill(module: &str, test: &str, place: &str, acknowledgements: usize) -> io::Result<Vec<String>> {
    // A test's name is its path without the crate.
    let name = match module.split_once("::") {
        Some((_, inner)) => format!("{inner}::{test}"),
        None => test.to_owned(),
    };
    let mut victim = Command::new(env::current_exe()?)
        .args([name.as_str(), "--exact", "--ignored", "--nocapture"])
        .env(PLACE, place)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let pipe = victim.stdout.take().ok_or_else(|| io::Error::other("the victim has no standard output"))?;
    let mut pipe = BufReader::new(pipe);
    let mut reported = Vec::new();
    let mut line = String::new();
    // A last line without its end was not reported.
    while pipe.read_line(&mut line)? > 0 && line.ends_with('\n') {
        // The test runner's own words may stand before the first report.
        if let Some((_, report)) = line.trim_end().split_once(REPORT) {
            reported.push(report.to_owned());
            if reported.len() == acknowledgements {
                victim.kill()?;
            }
        }
        line.clear();
    }
    let status = victim.wait()?;
    if reported.len() < acknowledgements {
        let found = reported.len();
        return Err(io::Error::other(format!("{name} ended after {found} acknowledgements: {status}")));
    }
    Ok(reported)
}

/// Works on the store that this process was started for; does nothing in any other.
pub(super) fn work<H: Harness>(work: impl AsyncFnOnce(H)) {
    if let Ok(place) = env::var(PLACE) {
        runtime().block_on(async { work(H::open(Place::new(place)).await).await });
    }
}
