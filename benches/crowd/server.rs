//! The server as a process of its own: started, asked, stopped, killed, and started again on the same port and file.
//!
//! # Invariants
//! No server outlives its handle.

use std::{
    env,
    fs::{self, OpenOptions},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use hyper::StatusCode;
use khala_testing::{
    During as _, Failure, ensure,
    usage::{Processes, Usage},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{metrics::Metrics, namespace::Namespace, site::Site};

/// Starting is expected to be far quicker.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    site: Arc<Site>,
    child: Child,
    id: u32,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(site: &Arc<Site>) -> Result<Self, Failure> {
        Self::launch(site, Command::new(site.program().path()), "/readyz").await
    }

    /// Starts it where the files are those of `namespace`, and waits until it answers: on a full disk it is not ready, and
    /// serves what it has.
    pub(super) async fn start_within(site: &Arc<Site>, namespace: &Namespace) -> Result<Self, Failure> {
        let mut command = namespace.command();
        command.arg(site.program().path());
        Self::launch(site, command, "/healthz").await
    }

    async fn launch(site: &Arc<Site>, mut command: Command, up: &str) -> Result<Self, Failure> {
        let log = OpenOptions::new().create(true).append(true).open(site.log_file());
        let log = log.during("opening the server's log")?;
        command.arg("--config").arg(site.settings_file());
        command.current_dir(site.folder()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // No setting of the caller's reaches it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KHALA_")) {
            command.env_remove(name);
        }
        let child = command.kill_on_drop(true).spawn().during("starting khala-server")?;
        let id = child.id().ok_or_else(|| Failure::new("khala-server ended at once"))?;
        let mut server = Self { site: Arc::clone(site), child, id };
        server.answers(up).await?;
        Ok(server)
    }

    /// Waits until that path is answered with 200.
    async fn answers(&mut self, path: &str) -> Result<(), Failure> {
        let mut client = self.site.http()?;
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().during("looking at the server")? {
                return Err(self.fault(&format!("ended by itself ({status})")));
            }
            if client.get(path).await.is_ok_and(|answer| answer.status == StatusCode::OK) {
                return Ok(());
            }
            ensure(Instant::now() < until, || self.words("is not up"))?;
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its process.
    pub(super) fn processes(&self) -> Processes {
        Processes::new(vec![self.id])
    }

    pub(super) fn usage(&self) -> Result<Usage, Failure> {
        self.processes().usage()
    }

    /// What it counts.
    pub(super) async fn metrics(&self) -> Result<Metrics, Failure> {
        self.site.metrics().await
    }

    /// Tells it to stop, and does not wait.
    pub(super) async fn terminate(&self) -> Result<(), Failure> {
        let sent = Command::new("kill").args(["-s", "TERM", &self.id.to_string()]).status().await;
        ensure(sent.during("running kill")?.success(), || self.words("cannot be told to stop"))
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(mut self, within: Duration) -> Result<ExitStatus, Failure> {
        match timeout(within, self.child.wait()).await {
            Ok(status) => status.during("waiting for the server"),
            Err(_) => Err(self.fault(&format!("has not stopped within {within:?}"))),
        }
    }

    /// Kills it as `kill -9` does. Returns when the process is gone, so that its port and its locks are free.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        if let Some(status) = self.child.try_wait().during("looking at the server")? {
            return Err(self.fault(&format!("ended by itself ({status})")));
        }
        self.child.kill().await.during("killing the server")
    }

    fn fault(&self, what: &str) -> Failure {
        Failure::new(self.words(what))
    }

    /// A fault of the server, with the end of what it logged.
    fn words(&self, what: &str) -> String {
        let said = fs::read(self.site.log_file()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
        format!("the server {what}; its last words:\n    {last}")
    }
}
