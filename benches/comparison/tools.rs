//! The programs that a run needs, and where they are. One that is missing is an error that names it.

use std::{
    env,
    path::{Path, PathBuf},
};

use khala_testing::{Failure, Program};

/// Everything that is started.
#[derive(Clone, Debug)]
pub struct Tools {
    /// This program, which is the load, the floor, and what is embedded.
    pub(super) own: PathBuf,
    pub(super) khala: Program,
}

impl Tools {
    /// The program `khala-comparison`, at its path, and that server.
    #[must_use]
    pub fn new(own: PathBuf, khala: Program) -> Self {
        Self { own, khala }
    }

    /// The build's folder.
    pub(super) fn target(&self) -> &Path {
        self.khala.target()
    }

    /// The folder of small servers, and of what npm installed for them.
    pub(super) fn scripts() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("comparison/npm")
    }

    /// That npm has installed what the small servers need.
    pub(super) fn npm_packages() -> Result<(), Failure> {
        let there = Self::scripts().join("node_modules/.package-lock.json").is_file();
        if there { Ok(()) } else { Err(missing("what npm/package.json names")) }
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

    /// A program that `scripts/comparison` installed below the build's folder.
    pub(super) fn installed_program(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.target().join("competitors/bin").join(name);
        if path.is_file() { Ok(path) } else { Err(missing(name)) }
    }
}

fn missing(name: &str) -> Failure {
    Failure::new(format_args!(
        "{name} is missing: scripts/comparison installs it; or leave it out with --without"
    ))
}
