//! Ends what a test started when the test's process ends, also by SIGKILL.
//!
//! A shell reads from a pipe that only this process holds the other end of. Each line is the process group that is to be
//! ended; at the end of the pipe, the last one is, and the folder goes with it.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Not `kill -KILL --`, which dash takes for a bad number.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
while read -r next; do group=$next; done
[ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null
[ -z "$1" ] || rm -rf -- "$1"
"#;

/// Watches over this process, and ends what it guards when this process ends, or it is dropped.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Without a folder that is to go with it.
    pub fn without_folder() -> Self {
        Self::new(Path::new(""))
    }

    /// Watches over this process; at its end, `folder` is removed.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(folder);
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(shell.spawn().expect("there is a shell"))
    }

    /// Ends that process group, and none that it was told before.
    pub fn guards(&mut self, group: u32) {
        let mut pipe = self.0.stdin.as_ref().expect("it is piped");
        writeln!(pipe, "{group}").expect("the guardian listens");
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It has nothing to say but that it is done.
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn what_it_guards_ends_with_it() {
        let mut guarded = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let mut guardian = Guardian::without_folder();
        guardian.guards(guarded.id());
        drop(guardian);
        assert_eq!(guarded.wait().unwrap().signal(), Some(9));
    }
}
