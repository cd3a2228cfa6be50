//! How many files, and so sockets, a process may have open. What is raised here, child processes have too.

use khala_testing::{During as _, Failure, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for 5,000 connections and what a server has besides.
const NEEDED: u64 = 12_000;

/// Raises it as far as this process may.
pub(super) fn raise_limit() -> Result<(), Failure> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    ensure(maximum.is_none_or(|most| most >= NEEDED), || {
        format!("no more than {maximum:?} files may be open here; this needs {NEEDED} (ulimit -Hn)")
    })?;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).during("asking for more open files")
}
