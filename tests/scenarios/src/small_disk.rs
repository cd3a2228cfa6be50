//! A small disk of its own for one server: a tmpfs that only processes of a private mount namespace see.
//!
//! A shell holds the namespace, and with it the disk, while servers come and go. As root that is all; anybody else needs a user
//! namespace around it, which some systems forbid.
//!
//! # Invariants
//! Where it is not permitted the scenario fails and says so, it is never passed over.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use khala_testing::{During as _, Failure, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// Mounts the disk, says so, and waits until nobody holds the other end.
const HOLD: &str = r#"mount -t tmpfs -o "size=$2" khala-scenario "$1" && echo mounted && read -r _"#;

/// A mount namespace with a small disk.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    /// The shell that holds it.
    id: u32,
    _holder: Child,
    /// Closed at the end, which ends the shell however this process ends.
    _line: ChildStdin,
    of_root: bool,
    disk: PathBuf,
}

impl SmallDisk {
    /// Makes a namespace in which the folder `disk`, which is there, has `bytes` of room.
    pub(crate) async fn with_disk(disk: &Path, bytes: u64) -> Result<Self, Failure> {
        let of_root = fs::metadata("/proc/self").during("finding out who this is")?.uid() == 0;
        let how = if of_root {
            ["--mount"].as_slice()
        } else {
            ["--mount", "--user", "--map-root-user"].as_slice()
        };
        let mut holder = Command::new("unshare")
            .args(how)
            .args(["--propagation", "private", "sh", "-c", HOLD, "sh"])
            .arg(disk)
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .during("running unshare, of util-linux, which the scenario of a full disk needs")?;
        let pipes = (holder.stdin.take(), holder.stdout.take(), holder.stderr.take(), holder.id());
        let (Some(line), Some(output), Some(mut faults), Some(id)) = pipes else {
            return Err(Failure::new("unshare ended at once"));
        };
        let mut said = String::new();
        let mut output = BufReader::new(output);
        let read =
            timeout(READY_WITHIN, output.read_line(&mut said)).await.during("waiting for a small disk")?;
        read.during("waiting for a small disk")?;
        if said.trim() != "mounted" {
            let mut fault = String::new();
            // Whatever it says helps.
            let _ = timeout(READY_WITHIN, faults.read_to_string(&mut fault)).await;
            return Err(Failure::new(format_args!(
                "no small disk can be mounted, which the scenario of a full disk needs: {}. Run it as root, or where \
                 user namespaces are permitted (sysctl kernel.unprivileged_userns_clone, \
                 kernel.apparmor_restrict_unprivileged_userns)",
                fault.trim(),
            )));
        }
        Ok(Self { id, _holder: holder, _line: line, of_root, disk: disk.to_owned() })
    }

    /// How a process gets to see the disk.
    pub(crate) fn entry(&self) -> Entry {
        let Self { id, of_root, .. } = *self;
        Entry { id, of_root }
    }

    /// The disk, as this process can reach it.
    fn reach(&self) -> PathBuf {
        let within = self.disk.strip_prefix("/").unwrap_or(&self.disk);
        Path::new("/proc").join(self.id.to_string()).join("root").join(within)
    }

    /// Puts a file of that size on the disk.
    pub(crate) fn fill(&self, name: &str, bytes: usize) -> Result<(), Failure> {
        fs::write(self.reach().join(name), vec![b'.'; bytes]).during("putting a file on the small disk")
    }

    /// Fills whatever room is left with a file; says how much that was.
    pub(crate) fn fill_up(&self, name: &str) -> Result<u64, Failure> {
        let path = self.reach().join(name);
        let mut file = fs::File::create(&path).during("putting a file on the small disk")?;
        let block = [b'.'; 4_096];
        loop {
            match io::Write::write(&mut file, &block) {
                Ok(0) => break,
                Ok(_) => {}
                Err(fault) if fault.kind() == io::ErrorKind::StorageFull => break,
                Err(fault) => return Err(fault).during("filling the small disk"),
            }
        }
        Ok(fs::metadata(&path).during("filling the small disk")?.len())
    }

    /// Takes that file away.
    pub(crate) fn free(&self, name: &str) -> Result<(), Failure> {
        fs::remove_file(self.reach().join(name)).during("freeing the small disk")
    }

    /// The bytes of all files on the disk.
    pub(crate) fn used(&self) -> Result<u64, Failure> {
        let mut used = 0;
        for entry in fs::read_dir(self.reach()).during("looking at the small disk")? {
            let entry = entry.and_then(|entry| entry.metadata()).during("looking at the small disk")?;
            used += entry.blocks() * 512;
        }
        ensure(used > 0, || "the small disk cannot be seen from here".to_owned())?;
        Ok(used)
    }
}

/// How a process gets to see a small disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    id: u32,
    of_root: bool,
}

impl Entry {
    /// A command that runs that program where the disk is, in the same process.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.id.to_string(), "--mount"]);
        if !self.of_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}
