//! A throw-away nats-server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{free_port, guardian::Guardian};

/// How long a server may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it logs once it has reloaded.
const RELOADED: &str = "Reloaded server configuration";

/// A nats-server of its own. Without a configuration, everybody may do everything on it.
#[derive(Debug)]
pub struct Nats {
    port: u16,
    monitor: u16,
    folder: PathBuf,
    server: Mutex<Server>,
}

#[derive(Debug)]
struct Server {
    process: Option<Child>,
    // Declared last: it removes the folder that the process works in.
    guardian: Guardian,
}

impl Nats {
    /// A server as it comes.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server with this configuration, in the syntax of its file, beside its addresses.
    pub fn start_with(configuration: &str) -> Self {
        let folder = TempDir::with_prefix("khala-nats-").expect("there is a temporary folder").keep();
        let guardian = Guardian::new(&folder);
        let server = Mutex::new(Server { process: None, guardian });
        let nats = Self { port: free_port(), monitor: free_port(), folder, server };
        nats.configure(configuration);
        nats.restart();
        nats
    }

    /// Changes its configuration, for the next start.
    pub fn configure(&self, configuration: &str) {
        let addresses = format!("listen: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n", self.port, self.monitor);
        fs::write(self.folder.join("configuration"), addresses + configuration).expect("the folder is ours");
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A folder of its own, for files that its configuration names.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its monitor answers, as JSON: `/varz`, `/connz?subs=1`, `/subsz`.
    pub fn monitor(&self, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.monitor)).expect("it is monitored");
        stream.set_read_timeout(Some(PATIENCE)).expect("there is such a time");
        let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split_once("\r\n\r\n").expect("it speaks HTTP").1.to_owned()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        if let Some(mut process) = self.server().process.take() {
            process.kill().expect("it is ours");
            process.wait().expect("it is ours");
        }
    }

    /// Starts it again, after [`kill`](Self::kill), and waits until it answers.
    pub fn restart(&self) {
        let mut server = self.server();
        assert!(server.process.is_none(), "the server runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let mut command = Command::new(program());
        command.arg("-c").arg(self.folder.join("configuration")).current_dir(&self.folder);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.expect("the folder is ours"));
        let process = command.spawn();
        let mut process =
            process.unwrap_or_else(|fault| panic!("nats-server: {fault}; run scripts/setup --tests"));
        server.guardian.guards(process.id());
        let patience = Instant::now() + PATIENCE;
        while !self.answers() {
            if let Some(status) = process.try_wait().expect("it is ours") {
                panic!("nats-server ended ({status}): {}", self.log());
            }
            assert!(Instant::now() < patience, "nats-server does not answer: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        server.process = Some(process);
    }

    /// Has it read its configuration again, as it does on SIGHUP, and waits until it has.
    pub fn reload(&self) {
        let before = self.log().matches(RELOADED).count();
        let pid = self.server().process.as_ref().expect("the server runs").id();
        let told = Command::new(program()).arg("--signal").arg(format!("reload={pid}")).status();
        assert!(told.expect("it was started before").success(), "the server was not told to reload");
        let patience = Instant::now() + PATIENCE;
        while self.log().matches(RELOADED).count() == before {
            assert!(Instant::now() < patience, "nats-server does not reload: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return false };
        let mut first = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
            && stream.read_exact(&mut first).is_ok()
            && first == *b"INFO"
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Debian puts it where only root's path goes.
fn program() -> PathBuf {
    let packaged = PathBuf::from("/usr/sbin/nats-server");
    if packaged.exists() { packaged } else { PathBuf::from("nats-server") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_killed_and_comes_back_on_its_port() {
        let nats = Nats::start();
        assert!(nats.monitor("/varz").contains("server_id"));
        nats.kill();
        assert!(!nats.answers());
        nats.restart();
        assert!(nats.answers());
        let folder = nats.folder().to_owned();
        drop(nats);
        assert!(!folder.exists());
    }
}
