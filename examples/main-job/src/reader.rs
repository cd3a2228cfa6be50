//! A subscriber of any kind: a task that is told to be killed or to stop, and says how far it got.

use std::{future::Future, process::Stdio, time::Duration};

use khala_scenarios::history::Log;
use khala_testing::{During as _, Failure};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

/// A process that was told to end, by SIGKILL or otherwise, is expected to be gone far sooner.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A subscriber that runs.
#[derive(Debug)]
pub(crate) struct Reader {
    name: &'static str,
    reached: watch::Receiver<u64>,
    kill: mpsc::UnboundedSender<()>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Ended, Failure>>,
}

/// What a subscriber leaves.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) log: Log,
    pub(crate) counts: Counts,
}

/// What a subscriber went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// How often its process was killed.
    pub(crate) killed: u64,
    /// How often it found the server again.
    pub(crate) connected: u64,
    /// How often the answer to a join continued from its cursor; none where nobody joins, or it is not said.
    pub(crate) resumed: Option<u64>,
    /// How often it handed a fresh token over on the connection that it had; none where that is not said.
    pub(crate) refreshed: Option<u64>,
    /// Updates that came again and that it skipped itself.
    pub(crate) skipped: u64,
}

/// Kills a subscriber's process, which is then started again.
#[derive(Clone, Debug)]
pub(crate) struct Killer {
    name: &'static str,
    kill: mpsc::UnboundedSender<()>,
}

/// The subscriber's side of what it is told.
#[derive(Debug)]
pub(crate) struct Orders {
    name: &'static str,
    reached: watch::Sender<u64>,
    kill: mpsc::UnboundedReceiver<()>,
    stop: watch::Receiver<bool>,
}

impl Reader {
    pub(crate) fn start<F>(name: &'static str, follow: impl FnOnce(Orders) -> F) -> Self
    where
        F: Future<Output = Result<Ended, Failure>> + Send + 'static,
    {
        let (kill, killed) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let (reach, reached) = watch::channel(0);
        let task = tokio::spawn(follow(Orders { name, reached: reach, kill: killed, stop: stopped }));
        Self { name, reached, kill, stop, task }
    }

    pub(crate) fn killer(&self) -> Killer {
        Killer { name: self.name, kill: self.kill.clone() }
    }

    /// Waits until it has applied everything up to `head`.
    pub(crate) async fn catch_up(&mut self, head: u64) -> Result<(), Failure> {
        let caught_up = self.reached.wait_for(|reached| *reached >= head).await.is_ok();
        if caught_up { Ok(()) } else { Err(self.failed().await) }
    }

    /// Ready when it ends, which by itself it never should. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        let name = self.name;
        match (&mut self.task).await {
            Ok(Ok(_)) => Failure::new(format_args!("{name} ended by itself")),
            Ok(Err(failure)) => Failure::new(format_args!("{name}: {failure}")),
            Err(panic) => Failure::new(format_args!("{name}: {panic}")),
        }
    }

    pub(crate) async fn stop(mut self) -> Result<Ended, Failure> {
        let _ = self.stop.send(true);
        let ended =
            timeout(GONE_WITHIN, &mut self.task).await.during(format_args!("stopping {}", self.name))?;
        ended.during(self.name)?.during(self.name)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // With the task goes its process.
        self.task.abort();
    }
}

impl Killer {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn kill(&self) {
        // If it is not there any more, `failed` says why.
        let _ = self.kill.send(());
    }
}

impl Orders {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn reached(&self, watermark: u64) {
        self.reached
            .send_if_modified(|reached| std::mem::replace(reached, watermark.max(*reached)) < watermark);
    }

    /// Ready when it is to stop, or nobody is interested any more. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// Runs a process again and again, killed as often as ordered, until told to stop; says how often it was killed.
    /// `line` is given the number of the run and each whole line of standard output, and returns how far that is.
    pub(crate) async fn run_process(
        &mut self,
        command: impl Fn() -> Result<Command, Failure> + Send,
        mut line: impl FnMut(u64, &str) -> Result<Option<u64>, Failure> + Send,
    ) -> Result<u64, Failure> {
        let mut killed = 0;
        loop {
            let mut process = command()?
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .during(format_args!("starting {}", self.name))?;
            let stdin: Option<ChildStdin> = process.stdin.take();
            let stdout = process.stdout.take().ok_or_else(|| Failure::new("it has no standard output"))?;
            let mut lines = lines(stdout);
            let stopped = loop {
                let text = tokio::select! {
                    text = lines.recv() => text,
                    Some(()) = self.kill.recv() => break false,
                    _ = self.stop.wait_for(|stop| *stop) => break true,
                };
                let Some(text) = text else {
                    let status = process.wait().await.during("waiting for its end")?;
                    return Err(Failure::new(format_args!("it ended by itself with {status}")));
                };
                if let Some(watermark) = line(killed, &text)? {
                    self.reached(watermark);
                }
            };
            if stopped {
                // The process that listens takes the end of its input for the end of its work.
                drop(stdin);
                if timeout(Duration::from_millis(500), process.wait()).await.is_err() {
                    process.kill().await.during("ending it")?;
                }
            } else {
                process.kill().await.during("killing it")?;
            }
            // What it had written before is written.
            while let Some(text) = lines.recv().await {
                if let Some(watermark) = line(killed, &text)? {
                    self.reached(watermark);
                }
            }
            if stopped {
                return Ok(killed);
            }
            killed += 1;
        }
    }
}

/// The whole lines of a process. What SIGKILL cut off in the middle of a line was not said.
fn lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut stdout = BufReader::new(stdout);
        let mut bytes = Vec::new();
        while stdout.read_until(b'\n', &mut bytes).await.is_ok() && bytes.pop() == Some(b'\n') {
            // What is not UTF-8 is not JSON either, and is refused as such.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if sender.send(text).await.is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receiver
}
