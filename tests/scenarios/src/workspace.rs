//! The workspace of a run: its folder, its key and tokens, and the real programs that take part.

use std::{
    env,
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use khala_testing::{During as _, Failure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::server;

/// Read only by what this run starts, on the loopback address, for as long as it lasts.
const KEY: &str = "the key of the main job, as good as public";

/// The workspace of a run.
#[derive(Debug)]
pub struct Workspace {
    name: &'static str,
    folder: TempDir,
    programs: PathBuf,
}

impl Workspace {
    /// A workspace of that name, with a folder of its own beside the build.
    ///
    /// # Errors
    /// The programs are not built, or there is no room.
    pub fn prepare(name: &'static str) -> Result<Self, Failure> {
        let own = env::current_exe().during("finding this program's own folder")?;
        let programs = own.parent().map_or_else(PathBuf::new, Path::to_owned);
        for program in ["khala-server", "khala"] {
            if !programs.join(program).exists() {
                return Err(Failure::new(format_args!(
                    "there is no {program} beside this program; first \
                     cargo build -p khala-server -p khala-cli -p {name}"
                )));
            }
        }
        // Beside the build, where there is room for another one, and where a disk is a disk.
        let beside = programs.parent().unwrap_or(&programs);
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(beside);
        Ok(Self { name, folder: folder.during("making a folder")?, programs })
    }

    /// A file or folder of that name in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Keeps the folder, to be looked at, and says where it is.
    pub fn keep(mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// One of the programs that were built with this one.
    pub fn command(&self, program: &str) -> Command {
        bare(&self.programs.join(program), self.folder.path())
    }

    /// A server on that address, which knows this workspace's key.
    pub fn server(&self, address: SocketAddr) -> Command {
        let mut server = self.command("khala-server");
        server.env("KHALA_LISTEN", address.to_string()).env("KHALA_AUTH__HS256_KEY", KEY);
        server
    }

    /// Replaces the token file by one with a fresh token, as an agent beside an application would. It is good for so
    /// long, as in `20s`.
    ///
    /// # Errors
    /// `khala token` fails, or the file cannot be written.
    pub async fn mint(&self, ttl: &str) -> Result<(), Failure> {
        let mut khala = self.command("khala");
        khala.args(["token", "--sub", self.name, "--ttl", ttl]).env("KHALA_AUTH__HS256_KEY", KEY);
        self.keep_token(khala).await
    }

    /// The same with the HS256 key of that name in a JWK Set, which a server trusts by its `auth.keys_file`.
    ///
    /// # Errors
    /// `khala token` fails, or the file cannot be written.
    pub async fn mint_with(&self, keys: &Path, kid: &str, ttl: &str) -> Result<(), Failure> {
        let mut khala = self.command("khala");
        khala.args(["token", "--sub", self.name, "--ttl", ttl, "--kid", kid, "--key-file"]).arg(keys);
        self.keep_token(khala).await
    }

    async fn keep_token(&self, mut khala: Command) -> Result<(), Failure> {
        let minted = khala.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
        let minted = minted.during("running khala token")?;
        if !minted.status.success() {
            return Err(Failure::new(String::from_utf8_lossy(&minted.stderr).trim()));
        }
        let fresh = self.path("token.new");
        let written = fs::write(&fresh, minted.stdout).and_then(|()| fs::rename(fresh, self.token_file()));
        written.during("writing the token file")
    }

    /// The file with the token of the moment.
    pub fn token_file(&self) -> PathBuf {
        self.path("token")
    }

    /// The token of the moment.
    ///
    /// # Errors
    /// None was minted.
    pub fn token(&self) -> Result<String, Failure> {
        let token = fs::read_to_string(self.token_file()).during("reading the token file")?;
        Ok(token.trim().to_owned())
    }

    /// The file that a program's standard error is added to, by the program's name.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// Where a program's standard error goes: added to that file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn log(&self, name: &str) -> Result<Stdio, Failure> {
        let path = self.log_file(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.map(File::into).during(format_args!("opening {}", path.display()))
    }

    /// The end of what a program said on standard error.
    pub fn last_words(&self, name: &str) -> String {
        server::last_words(&self.log_file(name))
    }
}

/// A program that does not outlive this one's interest in it, and that no setting of the caller's reaches.
pub fn bare(program: &Path, folder: &Path) -> Command {
    isolate(Command::new(program), folder)
}

/// The same for a command that has a program already.
pub(crate) fn isolate(mut command: Command, folder: &Path) -> Command {
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("KHALA_")) {
            command.env_remove(name);
        }
    }
    command
}
