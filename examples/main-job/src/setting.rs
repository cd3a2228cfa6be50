//! Where a run takes place: its folder, its address, its key, and the real programs that take part.

use std::{
    env,
    fs::{self, File, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use khala_core::Topic;
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use crate::failure::{During as _, Failure};

/// Read only by what this run starts, on the loopback address, for as long as it lasts.
const KEY: &str = "the key of the main job, as good as public";
/// How long a token is good: so short that every connection outlasts several.
const TOKEN_ENDS_AFTER: &str = "20s";
/// Whoever reads the token file finds one that is hardly older than that.
const MINT_EVERY: Duration = Duration::from_secs(3);

/// The topics of builds are a class of their own: cargo prints hundreds of lines at once, some of them long, and a
/// reader that was away for a build has more to catch up with than the fallback's 500 updates.
const CLASSES: &str = r#"[{ name = "builds", pattern = "build:**", read = ["khala:read"], publish = ["khala:publish"],
    tier = "warm", publish_per_second = "none", payload_bytes = "none", replay_budget = "none" }]"#;

/// The place of a run.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) folder: TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) topic: Topic,
    programs: PathBuf,
    subscriber: PathBuf,
}

impl Setting {
    pub(crate) async fn prepare() -> Result<Self, Failure> {
        let own = env::current_exe().during("finding this program's own folder")?;
        let programs = own.parent().map_or_else(PathBuf::new, Path::to_owned);
        for program in ["khala-server", "khala"] {
            if !programs.join(program).exists() {
                return Err(Failure::new(format_args!(
                    "there is no {program} beside this program; run scripts/demo, or first \
                     cargo build -p khala-server -p khala-cli -p main-job"
                )));
            }
        }
        let example = Path::new(env!("CARGO_MANIFEST_DIR"));
        let subscriber = example.join("phoenix/subscriber.mjs");
        if !example.join("phoenix/node_modules/phoenix").exists() {
            return Err(Failure::new("the phoenix client is not installed; run scripts/setup"));
        }
        // Beside the build, where there is room for another one, and where a disk is a disk.
        let beside = programs.parent().unwrap_or(&programs);
        let folder =
            tempfile::Builder::new().prefix("main-job-").tempdir_in(beside).during("making a folder")?;
        let setting = Self {
            folder,
            workspace: example.join("../.."),
            address: free_address()?,
            topic: Topic::parse("build:workspace:messages").during("naming the topic")?,
            programs,
            subscriber,
        };
        setting.mint().await?;
        Ok(setting)
    }

    /// Replaces the token file by one with a fresh token, as an agent beside an application would.
    async fn mint(&self) -> Result<(), Failure> {
        let mut khala = self.command("khala");
        khala
            .args(["token", "--sub", "main-job", "--ttl", TOKEN_ENDS_AFTER])
            .env("KHALA_AUTH__HS256_KEY", KEY);
        let minted = khala.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
        let minted = minted.during("running khala token")?;
        if !minted.status.success() {
            return Err(Failure::new(String::from_utf8_lossy(&minted.stderr).trim()));
        }
        let fresh = self.path("token.new");
        let written = fs::write(&fresh, minted.stdout).and_then(|()| fs::rename(fresh, self.token_file()));
        written.during("writing the token file")
    }

    /// Mints for as long as it is waited for; ready when that fails.
    pub(crate) async fn keep_minting(&self) -> Failure {
        loop {
            sleep(MINT_EVERY).await;
            if let Err(failure) = self.mint().await {
                return failure;
            }
        }
    }

    /// The file with the token of the moment.
    fn token_file(&self) -> PathBuf {
        self.path("token")
    }

    /// The token of the moment.
    pub(crate) fn token(&self) -> Result<String, Failure> {
        let token = fs::read_to_string(self.token_file()).during("reading the token file")?;
        Ok(token.trim().to_owned())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path("khala.db")
    }

    /// Keeps the folder, to be looked at, and says where it is. What cargo built is not worth its size.
    pub(crate) fn keep(mut self) -> PathBuf {
        let _ = fs::remove_dir_all(self.path("target"));
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The server, on this run's address, file and key.
    pub(crate) fn server(&self) -> Command {
        let mut server = self.command("khala-server");
        server
            .env("KHALA_LISTEN", self.address.to_string())
            .env("KHALA_DATABASE", self.database())
            .env("KHALA_AUTH__HS256_KEY", KEY)
            .env("KHALA_CLASSES", CLASSES);
        server
    }

    /// The `khala` command, with what it needs to find the server, and where to find tokens.
    pub(crate) fn khala(&self, command: &str) -> Command {
        let mut khala = self.command("khala");
        khala.env("KHALA_URL", format!("http://{}", self.address));
        khala.args([command, self.topic.as_str(), "--token-file"]).arg(self.token_file());
        khala
    }

    /// The subscriber on the `phoenix` client, with that version of its serializer.
    pub(crate) fn phoenix(&self, version: &str, file: &Path) -> Command {
        let mut node = bare(Path::new("node"), self.folder.path());
        node.arg(&self.subscriber)
            .arg(format!("ws://{}/sync/v1", self.address))
            .arg(self.topic.as_str())
            .arg(file)
            .arg(version)
            .arg(self.token_file());
        node
    }

    /// `cargo`, in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        bare(Path::new(&env::var_os("CARGO").unwrap_or_else(|| "cargo".into())), &self.workspace)
    }

    /// Where a program's standard error goes: added to a file of that name.
    pub(crate) fn log(&self, name: &str) -> Result<Stdio, Failure> {
        let path = self.path(&format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.map(File::into).during(format_args!("opening {}", path.display()))
    }

    /// The end of what a program said on standard error.
    pub(crate) fn last_words(&self, name: &str) -> String {
        let said = fs::read(self.path(&format!("{name}.log"))).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n    ")
    }

    /// How many connections the server says that it closed because their token had run out.
    pub(crate) fn expired(&self) -> Result<u64, Failure> {
        let said = fs::read_to_string(self.path("server.log")).during("reading the server's log")?;
        let closed = said.lines().filter(|line| line.contains("websocket closed"));
        Ok(closed.filter(|line| line.contains("token_expired")).count() as u64)
    }

    fn command(&self, program: &str) -> Command {
        bare(&self.programs.join(program), self.folder.path())
    }
}

/// A program that does not outlive this one's interest in it, and that no setting of the caller's reaches.
fn bare(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("KHALA_")) {
            command.env_remove(name);
        }
    }
    command
}

/// A free port on the loopback address, below those that outgoing connections are given: while the server is down,
/// one of these could otherwise sit on its port, or a client be connected to itself.
fn free_address() -> Result<SocketAddr, Failure> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let addresses = (first..first + 200).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut free = addresses.filter(|address| TcpListener::bind(address).is_ok());
    free.next().ok_or_else(|| Failure::new("no port from 20000 to 30200 is free"))
}
