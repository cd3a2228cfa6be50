//! A throw-away PostgreSQL cluster, and fresh databases in it.

use std::{
    env,
    fs::{self, Permissions},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{free_port, guardian::Guardian};

/// The user that PostgreSQL runs as where the tests run as root, which it refuses.
const NOBODY: u32 = 65_534;
/// How long a cluster may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL cluster of its own, reachable by the user `khala` without a password.
#[derive(Debug)]
pub struct Cluster {
    port: u16,
    data: PathBuf,
    settings: Vec<String>,
    databases: AtomicU32,
    server: Mutex<Server>,
}

#[derive(Debug)]
struct Server {
    process: Option<Child>,
    // Declared last: it removes the folder that the process works in.
    guardian: Guardian,
}

impl Cluster {
    /// A cluster without syncs: fast, and as safe as the operating system.
    pub fn start() -> Self {
        Self::start_with(&["fsync=off", "full_page_writes=off"])
    }

    /// A cluster with these settings, each `name=value`, beside those of a real installation.
    pub fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self::start_filled(settings, |data| {
            run(command(&program("initdb"), data)
                .args([
                    "--no-sync",
                    "--auth=trust",
                    "--username=khala",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--pgdata",
                ])
                .arg(data));
        })
    }

    /// A standby of this cluster, which streams what is written here. From now on, a commit here is acknowledged only
    /// when the standby has it on its disk.
    pub fn standby(&self) -> Self {
        let standby = Self::start_filled(self.settings.clone(), |data| {
            run(command(&program("pg_basebackup"), data)
                .args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "--dbname"])
                .arg(self.url("postgres"))
                .arg("--pgdata")
                .arg(data));
        });
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        let patience = Instant::now() + PATIENCE;
        while self.sql("postgres", "SELECT sync_state FROM pg_stat_replication") != "sync" {
            assert!(Instant::now() < patience, "the standby does not stream: {}", standby.log());
            thread::sleep(Duration::from_millis(20));
        }
        standby
    }

    /// Makes this standby a cluster that takes writes; returns when it does.
    pub fn promote(&self) {
        let promoted = self.sql("postgres", "SELECT pg_promote()");
        assert_eq!(promoted, "t", "the standby is not promoted: {}", self.log());
    }

    /// A cluster whose empty folder is filled by `fill`.
    fn start_filled(settings: Vec<String>, fill: impl FnOnce(&Path)) -> Self {
        let folder = room("khala-pg-");
        let data = folder.join("data");
        fs::create_dir(&data).expect("the folder is ours");
        give_away(&data);
        // What only its owner may read, or PostgreSQL refuses it.
        fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("the folder is ours");
        let guardian = Guardian::new(&folder);
        fill(&data);
        let cluster = Self {
            port: free_port(),
            data,
            settings,
            databases: AtomicU32::new(0),
            server: Mutex::new(Server { process: None, guardian }),
        };
        cluster.restart();
        cluster
    }

    /// The one cluster that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(&["fsync=off", "full_page_writes=off", "max_connections=500"]))
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The address of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://khala@127.0.0.1:{}/{database}", self.port)
    }

    /// The address of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}_{}", std::process::id(), self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// What `psql` prints for these statements: rows as lines, columns parted by `|`.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"]).arg(self.url(database));
        run(psql.args(["-c", statements])).trim_end().to_owned()
    }

    /// Kills every process of it with SIGKILL.
    pub fn kill(&self) {
        let mut server = self.server();
        if let Some(mut process) = server.process.take() {
            let group = format!("-{}", process.id());
            run(Command::new("kill").args(["-KILL", "--", &group]));
            process.wait().expect("it is ours");
        }
    }

    /// Starts it again, after [`kill`](Self::kill), and waits until it answers.
    pub fn restart(&self) {
        let mut server = self.server();
        assert!(server.process.is_none(), "the cluster runs already");
        let mut postgres = command(&program("postgres"), &self.data);
        postgres.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        let sockets = format!("unix_socket_directories={}", self.data.display());
        for setting in ["listen_addresses=127.0.0.1", &sockets]
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            postgres.args(["-c", setting]);
        }
        postgres.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let patience = Instant::now() + PATIENCE;
        let process = loop {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.data.with_file_name("log"));
            postgres.stderr(log.expect("the folder is ours"));
            let logged = self.log().len();
            let mut process = postgres.spawn().expect("postgres starts");
            server.guardian.guards(process.id());
            let ended = loop {
                if self.answers() {
                    break None;
                }
                if let Some(status) = process.try_wait().expect("it is ours") {
                    break Some(status);
                }
                assert!(Instant::now() < patience, "postgres does not answer: {}", self.log());
                thread::sleep(Duration::from_millis(20));
            };
            let Some(status) = ended else { break process };
            // The last of the processes that were killed may take a moment to let go of their memory.
            let in_use = self.log().get(logged..).is_some_and(|new| new.contains("is still in use"));
            assert!(in_use && Instant::now() < patience, "postgres ended ({status}): {}", self.log());
        };
        server.process = Some(process);
    }

    /// Starts it again if it has ended by itself, as it may on a full disk.
    pub fn ensure_running(&self) {
        let mut server = self.server();
        let ended = |process: &mut Child| process.try_wait().expect("it is ours").is_some();
        if server.process.as_mut().is_none_or(ended) {
            server.process = None;
            drop(server);
            self.restart();
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.with_file_name("log")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
            && Command::new(program("psql"))
                .args(["-X", "-q", "-d", &self.url("postgres"), "-c", "SELECT 1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One of PostgreSQL's programs: of the newest version that the system's packages have, or else from the path.
pub fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin").join(name)))
        .filter(|(_, path)| path.exists())
        .max();
    newest.map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

/// A temporary folder that PostgreSQL and what belongs to it may write to.
pub(crate) fn room(prefix: &str) -> PathBuf {
    let folder = TempDir::with_prefix(prefix).expect("there is a temporary folder").keep();
    give_away(&folder);
    folder
}

fn give_away(folder: &Path) {
    if is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may give its folders away");
    }
}

/// A program that works in that folder, as a user that it accepts.
pub(crate) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").map_or_else(
        |_| env::var("USER").is_ok_and(|user| user == "root"),
        |own| std::os::unix::fs::MetadataExt::uid(&own) == 0,
    )
}

fn run(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|fault| panic!("{command:?}: {fault}; run scripts/setup --tests"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_killed_and_keeps_what_was_committed() {
        let cluster = Cluster::start();
        let url = cluster.database();
        let database = url.rsplit('/').next().unwrap();
        cluster.sql(database, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
        cluster.kill();
        cluster.restart();
        assert_eq!(cluster.sql(database, "SELECT n FROM t"), "7");
        let folder = cluster.data().parent().unwrap().to_owned();
        drop(cluster);
        assert!(!folder.exists());
    }

    #[test]
    fn a_standby_has_what_was_committed_when_it_takes_over() {
        let cluster = Cluster::start();
        let url = cluster.database();
        let database = url.rsplit('/').next().unwrap();
        let standby = cluster.standby();
        cluster.sql(database, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
        cluster.kill();
        standby.promote();
        assert_eq!(standby.sql(database, "INSERT INTO t VALUES (8) RETURNING (SELECT n FROM t)"), "7");
    }
}
