//! A throw-away nginx.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::guardian::Guardian;

/// How long it may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An nginx of its own, with its files in a temporary folder. It needs no root.
#[derive(Debug)]
pub struct Nginx {
    folder: PathBuf,
    process: Child,
    // Declared last: it removes the folder that the process works in.
    _guardian: Guardian,
}

impl Nginx {
    /// With what stands in its `http` block, which has it listen on that port of the loopback address.
    pub fn start(http: &str, port: u16) -> Self {
        let folder = TempDir::with_prefix("khala-nginx-").expect("there is a temporary folder").keep();
        let mut guardian = Guardian::new(&folder);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {what};\n"))
            .collect();
        // One process, of the user that started it.
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log log;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{http}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), configuration).expect("the folder is ours");
        let mut nginx = Command::new(program());
        nginx.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "log"]);
        nginx.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = nginx.spawn();
        let process = process.unwrap_or_else(|fault| panic!("nginx: {fault}; run scripts/setup --tests"));
        guardian.guards(process.id());
        let mut nginx = Self { folder, process, _guardian: guardian };
        let patience = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = nginx.process.try_wait().expect("it is ours") {
                panic!("nginx ended ({status}): {}", nginx.log());
            }
            assert!(Instant::now() < patience, "nginx does not answer: {}", nginx.log());
            thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the system's packages put it, which is on no usual path; or else from the path.
fn program() -> &'static str {
    let packaged = "/usr/sbin/nginx";
    if Path::new(packaged).exists() { packaged } else { "nginx" }
}
