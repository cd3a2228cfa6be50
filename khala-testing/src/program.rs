//! The programs of this workspace that a test or a benchmark starts.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::failure::{During as _, Failure, ensure};

/// The `khala-server` that is tested or measured.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// The one that was built in the same profile as this executable, whichever kind of target that is.
    ///
    /// # Errors
    /// A [`Failure`] that says how to build it, if it is not there.
    pub fn of_this_profile() -> Result<Self, Failure> {
        let own = env::current_exe().during("finding this program's own folder")?;
        // target/<profile>/<this>, or target/<profile>/deps/<this>.
        let folders = own.ancestors().skip(1).take(2);
        let found = folders.map(|folder| folder.join("khala-server")).find(|path| path.exists());
        let path = found.ok_or_else(|| {
            Failure::new(format_args!(
                "there is no khala-server beside {}; build it first: cargo build -p khala-server",
                own.display()
            ))
        })?;
        Ok(Self { path })
    }

    /// Builds it for release, and gives that one.
    ///
    /// # Errors
    /// A [`Failure`] if it does not build.
    pub fn built_for_release() -> Result<Self, Failure> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "-p", "khala-server"]);
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        // What cargo says about the calling package would have build scripts of others run again.
        let of_caller = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];
        for (name, _) in env::vars_os() {
            if of_caller.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                cargo.env_remove(name);
            }
        }
        let built = cargo.status().during("running cargo")?;
        ensure(built.success(), || "khala-server does not build".to_owned())?;
        Self::of_this_profile()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The build's folder, where a disk is a disk.
    pub fn target(&self) -> &Path {
        self.path.parent().and_then(Path::parent).unwrap_or_else(|| Path::new("."))
    }
}
