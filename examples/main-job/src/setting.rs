//! What this run has beside its workspace: its address and topic, and the commands of those who take part.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use khala_core::Topic;
use khala_scenarios::{
    server::Server,
    workspace::{Workspace, bare},
};
use khala_testing::{During as _, Failure, free_address};
use tokio::{process::Command, time::sleep};

/// How long a token is good: so short that every connection outlasts several.
const TOKEN_ENDS_AFTER: &str = "20s";
/// A reader of the token file finds a token that is hardly older than that.
const MINT_EVERY: Duration = Duration::from_secs(3);

/// The topics of builds are a class of their own: cargo prints hundreds of lines at once, some of them long, and a
/// reader that was away for a build has more to catch up with than the fallback's 500 updates.
const CLASSES: &str = r#"[{ name = "builds", pattern = "build:**", read = ["khala:read"], publish = ["khala:publish"],
    tier = "warm", publish_rate = "none", payload_bytes = "none", replay_budget = "none" }]"#;

/// The setting of a run.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) address: SocketAddr,
    pub(crate) topic: Topic,
    repository: PathBuf,
    subscriber: PathBuf,
}

impl Setting {
    pub(crate) async fn prepare() -> Result<Self, Failure> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !example.join("phoenix/node_modules/phoenix").exists() {
            return Err(Failure::new("the phoenix client is not installed; run scripts/setup"));
        }
        let setting = Self {
            workspace: Arc::new(Workspace::prepare("main-job")?),
            address: free_address(),
            topic: Topic::parse("build:repository:messages").during("naming the topic")?,
            repository: example.join("../.."),
            subscriber: example.join("phoenix/subscriber.mjs"),
        };
        setting.workspace.mint(TOKEN_ENDS_AFTER).await?;
        Ok(setting)
    }

    /// Mints for as long as it is waited for; ready when that fails.
    pub(crate) async fn keep_minting(&self) -> Failure {
        loop {
            sleep(MINT_EVERY).await;
            if let Err(failure) = self.workspace.mint(TOKEN_ENDS_AFTER).await {
                return failure;
            }
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.workspace.path("khala.db")
    }

    /// Keeps the folder, to be looked at, and says where it is. What cargo built is not worth its size.
    pub(crate) fn keep(self) -> Option<PathBuf> {
        let _ = fs::remove_dir_all(self.workspace.path("target"));
        Some(Arc::into_inner(self.workspace)?.keep())
    }

    /// Starts the server, on this run's address and file.
    pub(crate) fn server(&self) -> Result<Server, Failure> {
        let (workspace, address, database) = (Arc::clone(&self.workspace), self.address, self.database());
        Server::start("server", address, self.workspace.log_file("server"), move || {
            let mut server = workspace.server(address);
            server.env("KHALA_DATABASE", &database).env("KHALA_CLASSES", CLASSES);
            server
        })
    }

    /// The `khala` command, with what it needs to find the server, and where to find tokens.
    pub(crate) fn khala(&self, command: &str) -> Command {
        let mut khala = self.workspace.command("khala");
        khala.env("KHALA_URL", format!("http://{}", self.address));
        khala.args([command, self.topic.as_str(), "--token-file"]).arg(self.workspace.token_file());
        khala
    }

    /// The subscriber on the `phoenix` client, with that version of its serializer.
    pub(crate) fn phoenix(&self, version: &str, file: &Path) -> Command {
        let mut node = bare(Path::new("node"), &self.repository);
        node.arg(&self.subscriber)
            .arg(format!("ws://{}/sync/v1", self.address))
            .arg(self.topic.as_str())
            .arg(file)
            .arg(version)
            .arg(self.workspace.token_file());
        node
    }

    /// `cargo`, in the repository.
    pub(crate) fn cargo(&self) -> Command {
        bare(Path::new(&env::var_os("CARGO").unwrap_or_else(|| "cargo".into())), &self.repository)
    }

    /// How many connections the server says that it closed because their token had run out.
    pub(crate) fn expired(&self) -> Result<u64, Failure> {
        let said =
            fs::read_to_string(self.workspace.path("server.log")).during("reading the server's log")?;
        let closed = said.lines().filter(|line| line.contains("websocket closed"));
        Ok(closed.filter(|line| line.contains("token_expired")).count() as u64)
    }
}
