//! The programs that a run needs, and where they are. One that is missing is an error that names it.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::crowd::{Failure, Program};

/// The programs of this package.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Programs {
    /// `khala-load`.
    pub load: PathBuf,
    /// `khala-floor`.
    pub floor: PathBuf,
    /// `khala-alone`.
    pub alone: PathBuf,
}

impl Programs {
    /// Those at these paths, as cargo tells them to benches and tests.
    pub fn new(load: impl Into<PathBuf>, floor: impl Into<PathBuf>, alone: impl Into<PathBuf>) -> Self {
        Self { load: load.into(), floor: floor.into(), alone: alone.into() }
    }
}

/// Everything that is started.
#[derive(Clone, Debug)]
pub struct Tools {
    pub(super) programs: Programs,
    pub(super) khala: Program,
}

impl Tools {
    /// Those programs, and that server.
    #[must_use]
    pub fn new(programs: Programs, khala: Program) -> Self {
        Self { programs, khala }
    }

    /// The build's folder.
    pub(super) fn target(&self) -> &Path {
        self.khala.path().parent().and_then(Path::parent).unwrap_or_else(|| Path::new("."))
    }

    /// The folder of small servers, and of what npm installed for them.
    pub(super) fn scripts() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("beside/peers")
    }

    /// That npm has installed what the small servers need.
    pub(super) fn npm_packages() -> Result<(), Failure> {
        let there = Self::scripts().join("node_modules/.package-lock.json").is_file();
        if there { Ok(()) } else { Err(missing("what peers/package.json names")) }
    }

    /// What npm installed a program as.
    pub(super) fn npm_program(name: &str) -> Result<PathBuf, Failure> {
        let path = Self::scripts().join("node_modules/.bin").join(name);
        path.canonicalize().map_err(|_| missing(name))
    }

    /// A program of the system. Servers may be where only root's path goes.
    pub(super) fn system_program(name: &str) -> Result<PathBuf, Failure> {
        let path = env::var_os("PATH").unwrap_or_default();
        let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let found =
            env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| missing(name))
    }

    /// A program that `scripts/beside` had cargo install below the build's folder.
    pub(super) fn installed_program(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.target().join("peers/bin").join(name);
        if path.is_file() { Ok(path) } else { Err(missing(name)) }
    }
}

fn missing(name: &str) -> Failure {
    Failure::new(format_args!(
        "{name} is missing: scripts/beside installs it; or leave it out with --without"
    ))
}
