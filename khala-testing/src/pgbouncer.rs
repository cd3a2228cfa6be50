//! A throw-away pgbouncer in transaction mode, in front of a cluster.
//!
//! Between two transactions of a client its session is somebody else's: what was set, listened to or prepared in it is
//! gone, or is there without having been asked for.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    free_port,
    guardian::Guardian,
    postgres::{command, room},
};

/// How long it may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pgbouncer that hands out its connections to the server transaction by transaction.
#[derive(Debug)]
pub struct Pgbouncer {
    port: u16,
    folder: PathBuf,
    process: Child,
    // Declared last: it removes the folder that the process works in.
    _guardian: Guardian,
}

impl Pgbouncer {
    /// In front of the PostgreSQL server on that port, with that many connections to it for each database.
    pub fn start(server: u16, connections: u16) -> Self {
        let folder = room("khala-pgbouncer-");
        let mut guardian = Guardian::new(&folder);
        let port = free_port();
        let settings = folder.join("pgbouncer.ini");
        // A server that was restarted is tried again after a second, not after fifteen. The last line is for clients
        // that set it at the start, as sqlx does; without it they are turned away.
        let text = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server} user=khala\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {connections}\n\
             max_client_conn = 1000\n\
             server_login_retry = 1\n\
             ignore_startup_parameters = extra_float_digits\n"
        );
        fs::write(&settings, text).expect("the folder is ours");
        let log = fs::File::create(folder.join("log")).expect("the folder is ours");
        let mut pgbouncer = command(Path::new(program()), &folder);
        pgbouncer.arg(&settings).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = pgbouncer
            .spawn()
            .unwrap_or_else(|fault| panic!("{pgbouncer:?}: {fault}; run scripts/setup --tests"));
        guardian.guards(process.id());
        let patience = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            if let Some(status) = process.try_wait().expect("it is ours") {
                panic!("pgbouncer ended ({status}): {}", log());
            }
            assert!(Instant::now() < patience, "pgbouncer does not answer: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        Self { port, folder, process, _guardian: guardian }
    }

    /// The address of one of the server's databases, through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://khala@127.0.0.1:{}/{database}", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the system's packages put it, which is on no usual path; or else from the path.
fn program() -> &'static str {
    let packaged = "/usr/sbin/pgbouncer";
    if Path::new(packaged).exists() { packaged } else { "pgbouncer" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cluster;

    #[test]
    fn what_a_client_sets_is_left_to_the_next() {
        let cluster = Cluster::shared();
        let url = cluster.database();
        let database = url.rsplit('/').next().unwrap();
        let pgbouncer = Pgbouncer::start(cluster.port(), 1);
        let psql = |statement: &str| {
            let mut psql = std::process::Command::new(crate::postgres::program("psql"));
            psql.args(["-X", "-q", "-A", "-t", "-d", &pgbouncer.url(database), "-c", statement]);
            let output = psql.output().unwrap();
            assert!(output.status.success(), "{output:?} {}", pgbouncer.log());
            String::from_utf8(output.stdout).unwrap()
        };
        psql("SET statement_timeout = '7s'");
        assert_eq!(psql("SHOW statement_timeout"), "7s\n", "another client, the same session");
    }
}
