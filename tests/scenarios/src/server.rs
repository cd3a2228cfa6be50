//! A server under fire: a process that is started, asked, told to stop, killed, and started again on the same port and storage.
//!
//! # Invariants
//! No server outlives its handle, or the process that has the handle.

use std::{
    fmt, fs,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use ::http::StatusCode;
use khala_testing::{
    During as _, Failure, Guardian, ensure,
    usage::{Processes, Usage},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::http::Client;

/// Recovery from any kill is expected to be far quicker.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A server process, and what it takes to start the next one.
pub struct Server {
    name: String,
    address: SocketAddr,
    log: PathBuf,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    process: Child,
    guardian: Guardian,
}

impl Server {
    /// Starts what `command` gives, which listens at that address. What it says on standard error is added to the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        name: impl Into<String>,
        address: SocketAddr,
        log: PathBuf,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let mut guardian = Guardian::without_folder();
        let process = launch(command(), &log, &mut guardian)?;
        Ok(Self { name: name.into(), address, log, command: Box::new(command), process, guardian })
    }

    /// As faults name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it is ready, and says how long that took.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn ready(&mut self) -> Result<Duration, Failure> {
        self.answers("/readyz").await
    }

    /// Waits until that path, which everybody may ask for, is answered with 200; says how long that took.
    ///
    /// # Errors
    /// It ended, or does not answer so in time.
    pub async fn answers(&mut self, path: &str) -> Result<Duration, Failure> {
        let started = Instant::now();
        let client = Client::new(self.address, "");
        let answers = async {
            while !client.get(path).await.is_ok_and(|answer| answer.status == StatusCode::OK) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            up = timeout(READY_WITHIN, answers) => up.map_err(|_| self.fault("does not answer"))?,
            _ = self.process.wait() => return Err(self.fault("ended by itself")),
        }
        Ok(started.elapsed())
    }

    /// The id of its process, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.process.id()
    }

    /// Its process, to be measured.
    ///
    /// # Errors
    /// It ended.
    pub fn processes(&self) -> Result<Processes, Failure> {
        let id = self.process.id().ok_or_else(|| self.fault("ended by itself"))?;
        Ok(Processes::new(vec![id]))
    }

    /// What it uses.
    ///
    /// # Errors
    /// It ended.
    pub fn usage(&self) -> Result<Usage, Failure> {
        self.processes()?.usage()
    }

    /// Looks whether it is there.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn alive(&mut self) -> Result<(), Failure> {
        match self.process.try_wait().during("looking at the server")? {
            None => Ok(()),
            Some(status) => Err(self.fault(&format!("ended by itself ({status})"))),
        }
    }

    /// Kills it as `kill -9` does. Returns when the process is gone, so that its port and its locks are free.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.alive()?;
        self.process.kill().await.during("killing the server")
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process = launch((self.command)(), &self.log, &mut self.guardian)?;
        Ok(())
    }

    /// Sends it a signal, as `STOP`.
    ///
    /// # Errors
    /// It is not there any more.
    pub async fn signal(&self, signal: &str) -> Result<(), Failure> {
        let id = self.process.id().ok_or_else(|| self.fault("ended by itself"))?;
        let sent = Command::new("kill").args(["-s", signal, &id.to_string()]).status().await;
        ensure(sent.during("sending a signal")?.success(), || self.words("ended by itself"))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        match timeout(within, self.process.wait()).await {
            Ok(status) => status.during("waiting for the server"),
            Err(_) => Err(self.fault(&format!("has not stopped within {within:?}"))),
        }
    }

    fn fault(&self, what: &str) -> Failure {
        Failure::new(self.words(what))
    }

    /// A fault of the server, with the end of what it logged.
    fn words(&self, what: &str) -> String {
        format!("{} {what}; its last words:\n    {}", self.name, last_words(&self.log))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The end of what a program said in a file.
pub fn last_words(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<_> = said.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n    ")
}

fn launch(mut command: Command, log: &Path, guardian: &mut Guardian) -> Result<Child, Failure> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.during(format_args!("opening {}", log.display()))?;
    // A group of its own, which the guardian ends if nobody is left who could.
    let process = command.stderr(file).process_group(0).spawn().during("starting khala-server")?;
    if let Some(group) = process.id() {
        guardian.guards(group);
    }
    Ok(process)
}
