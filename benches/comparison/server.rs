//! A server under test: one or several processes in a folder of their own, which end with their handle.

use std::{
    env,
    fmt::Debug,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use khala_testing::{
    During as _, Failure, ensure,
    usage::{Processes, Usage},
};
use tempfile::TempDir;

/// Starting is expected to be far quicker.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Processes that are started, measured and ended together.
#[derive(Debug)]
pub(super) struct Server {
    children: Vec<Child>,
    /// Processes that something else started and ends, and their owners.
    guests: Vec<(u32, Box<dyn Debug>)>,
    folder: TempDir,
}

impl Server {
    /// No process yet; a folder below `target`, where a disk is a disk.
    pub(super) fn new(target: &Path) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("comparison-").tempdir_in(target);
        Ok(Self { children: Vec::new(), guests: Vec::new(), folder: folder.during("making a folder")? })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into its folder.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<std::path::PathBuf, Failure> {
        let path = self.folder().join(name);
        fs::write(&path, text).during(format_args!("writing {name}"))?;
        Ok(path)
    }

    /// Starts a process, and waits until something listens at `address`.
    pub(super) fn start(&mut self, mut command: Command, address: SocketAddr) -> Result<(), Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = self.folder().join(format!("{}.log", self.children.len()));
        let out = File::create(&log).during("making a log")?;
        let err = out.try_clone().during("making a log")?;
        command.current_dir(self.folder()).stdin(Stdio::null()).stdout(out).stderr(err);
        // No setting of the caller's reaches it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KHALA_")) {
            command.env_remove(name);
        }
        self.children.push(command.spawn().during(format_args!("starting {name}"))?);
        let child = self.children.last_mut().expect("it was just pushed");
        let last_words = || {
            let said = fs::read(&log).unwrap_or_default();
            String::from_utf8_lossy(&said[said.len().saturating_sub(2_000)..]).into_owned()
        };
        let until = Instant::now() + READY_WITHIN;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait().during("looking at a server")? {
                return Err(Failure::new(format_args!("{name} ended ({status}): {}", last_words())));
            }
            ensure(Instant::now() < until, || format!("{name} does not listen: {}", last_words()))?;
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What all its processes use.
    pub(super) fn usage(&self) -> Result<Usage, Failure> {
        let guests = self.guests.iter().map(|(id, _)| *id);
        Processes::new(self.children.iter().map(Child::id).chain(guests).collect()).usage()
    }

    /// Measures that process, too, which ends with `owner`.
    pub(super) fn add(&mut self, id: u32, owner: impl Debug + 'static) {
        self.guests.push((id, Box::new(owner)));
    }

    /// Ends what was started, as an operator would; its folder stays, and it can be started again.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        for child in &self.children {
            let id = rustix::process::Pid::from_child(child);
            // One that has ended need not be told.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + READY_WITHIN;
        for mut child in self.children.drain(..) {
            while child.try_wait().during("looking at a server")?.is_none() {
                if Instant::now() > until {
                    child.kill().during("ending a server")?;
                }
                sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // One that has ended cannot be killed, which is as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
