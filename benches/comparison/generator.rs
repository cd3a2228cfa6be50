//! The handle of the load generator's process.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use khala_testing::{
    During as _, Failure,
    usage::{Machine, Usage},
};

use super::{
    load::command::{self as told, Answer, Done},
    sample::Sample,
    server::Server,
    tools::Tools,
};

/// A generator that waits for commands, and ends with this handle.
#[derive(Debug)]
pub(super) struct Generator {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Generator {
    pub(super) fn start(tools: &Tools) -> Result<Self, Failure> {
        let mut command = Command::new(&tools.own);
        let child = command.arg("load").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.during("starting the load generator")?;
        let commands = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, commands, answers })
    }

    /// Has something done, and waits until it is.
    pub(super) fn ask(&mut self, command: &told::Command) -> Result<Done, Failure> {
        let mut text = serde_json::to_vec(command).during("writing a command")?;
        text.push(b'\n');
        self.commands.write_all(&text).during("telling the load generator")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).during("hearing the load generator")?;
        match serde_json::from_str(&answer).during("the load generator has ended")? {
            Answer::Done(done) => Ok(done),
            Answer::Failed(why) => Err(Failure::new(why)),
        }
    }

    /// Has something done, and measures `server` meanwhile. The units of work are what was delivered.
    pub(super) fn measure(&mut self, server: &Server, command: &told::Command) -> Result<Sample, Failure> {
        let (before, machine) = (server.usage()?, Machine::now());
        let done = self.ask(command)?;
        let (after, stolen) = (server.usage()?, machine.stolen_since());
        Ok(Sample {
            units: done.delivered,
            server_cpu_seconds: Usage::cpu_between(&before, &after).as_secs_f64(),
            load_cpu_seconds: done.cpu_seconds,
            wall_seconds: done.wall_seconds,
            latency: done.latency,
            resident_bytes: after.resident,
            peak_bytes: after.peak,
            stolen,
            lost: done.lost + done.disordered,
            extras: [("published".to_owned(), done.published as f64)].into(),
        })
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
