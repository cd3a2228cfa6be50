//! The producer: what `cargo build --message-format=json` prints, published line by line while it runs.
//!
//! The first build starts from nothing and is slow and quiet; the builds after it find everything built, and print
//! hundreds of lines at once. Both go through one `khala publish`, which lives as long as the run.

use std::{process::Stdio, sync::Arc};

use khala_testing::{During as _, Failure};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin},
    sync::watch,
    task::JoinHandle,
};

use crate::setting::Setting;

/// A producer that runs.
#[derive(Debug)]
pub(crate) struct Producer {
    progress: watch::Receiver<Progress>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Produced, Failure>>,
}

/// How far it got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Lines that cargo printed.
    pub(crate) lines: u64,
    /// Updates that the publisher was told are stored.
    pub(crate) acknowledged: u64,
    /// Builds that ended.
    pub(crate) builds: u64,
}

/// A batch that the publisher was told is stored.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Acknowledged {
    pub(crate) epoch: String,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// The numbers of its first and last line, from one.
    pub(crate) lines: [u64; 2],
    /// It had been stored by an attempt whose answer was lost.
    pub(crate) duplicate: bool,
}

/// What it leaves.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) lines: Vec<Arc<str>>,
    pub(crate) acknowledged: Vec<Acknowledged>,
}

impl Producer {
    /// Starts to build what `packages` names; the workspace, if that is nothing.
    pub(crate) fn start(setting: &Arc<Setting>, packages: Vec<String>) -> Self {
        let (progress, receiver) = watch::channel(Progress::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(produce(Arc::clone(setting), packages, progress, stopped));
        Self { progress: receiver, stop, task }
    }

    /// How far it got, now and from now on. Closed when it ended.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Ready when it ends, which it should not without being told. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        match (&mut self.task).await {
            Ok(Ok(_)) => Failure::new("the producer ended by itself"),
            Ok(Err(failure)) => failure,
            Err(panic) => Failure::new(panic),
        }
    }

    /// Lets the build that runs end, and waits until every line is acknowledged.
    pub(crate) async fn finish(mut self) -> Result<Produced, Failure> {
        let _ = self.stop.send(true);
        (&mut self.task).await.during("the producer")?
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // With the task go its processes.
        self.task.abort();
    }
}

async fn produce(
    setting: Arc<Setting>,
    packages: Vec<String>,
    progress: watch::Sender<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Produced, Failure> {
    let mut publisher = setting
        .khala("publish")
        .args(["--kind", "cargo", "--ack", "--retry-for", "2m"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(setting.workspace.log("publish")?)
        .spawn()
        .during("starting khala publish")?;
    let mut stdin =
        publisher.stdin.take().ok_or_else(|| Failure::new("khala publish has no standard input"))?;
    let mut lines = Vec::new();
    let publish = async {
        loop {
            build(&setting, &packages, &mut stdin, &mut lines, &progress).await?;
            progress.send_modify(|progress| progress.builds += 1);
            if *stop.borrow() {
                drop(stdin);
                return Ok(lines);
            }
        }
    };
    let acknowledge = acknowledgements(&mut publisher, &progress);
    // Whichever fails first ends both.
    let (lines, acknowledged) = tokio::try_join!(publish, acknowledge).map_err(|failure: Failure| {
        Failure::new(format_args!(
            "{failure}; khala publish's last words:\n    {}",
            setting.workspace.last_words("publish")
        ))
    })?;
    let status = publisher.wait().await.during("waiting for khala publish")?;
    if !status.success() {
        let said = setting.workspace.last_words("publish");
        return Err(Failure::new(format_args!("khala publish ended with {status}:\n    {said}")));
    }
    Ok(Produced { lines, acknowledged })
}

/// One build, each line of it published as it comes.
async fn build(
    setting: &Setting,
    packages: &[String],
    publisher: &mut ChildStdin,
    lines: &mut Vec<Arc<str>>,
    progress: &watch::Sender<Progress>,
) -> Result<(), Failure> {
    let mut cargo = setting.cargo();
    cargo
        .args(["build", "--message-format=json", "--locked", "--target-dir"])
        .arg(setting.workspace.path("target"));
    match packages {
        [] => drop(cargo.arg("--workspace")),
        packages => drop(cargo.args(packages.iter().flat_map(|package| ["--package", package]))),
    }
    let mut cargo = cargo
        .stdout(Stdio::piped())
        .stderr(setting.workspace.log("cargo")?)
        .spawn()
        .during("starting cargo build")?;
    let stdout = cargo.stdout.take().ok_or_else(|| Failure::new("cargo has no standard output"))?;
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut bytes = Vec::new();
        if stdout.read_until(b'\n', &mut bytes).await.during("reading what cargo prints")? == 0 {
            break;
        }
        let line = String::from_utf8(bytes).during("reading what cargo prints")?;
        publisher.write_all(line.as_bytes()).await.during("handing a line to khala publish")?;
        lines.push(line.trim_end_matches('\n').into());
        progress.send_modify(|progress| progress.lines += 1);
    }
    let status = cargo.wait().await.during("waiting for cargo build")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format_args!(
        "cargo build ended with {status}:\n    {}",
        setting.workspace.last_words("cargo")
    )))
}

async fn acknowledgements(
    publisher: &mut Child,
    progress: &watch::Sender<Progress>,
) -> Result<Vec<Acknowledged>, Failure> {
    let stdout =
        publisher.stdout.take().ok_or_else(|| Failure::new("khala publish has no standard output"))?;
    let mut stdout = BufReader::new(stdout).lines();
    let mut acknowledged: Vec<Acknowledged> = Vec::new();
    while let Some(line) = stdout.next_line().await.during("reading an acknowledgement")? {
        let batch: Acknowledged = serde_json::from_str(&line).during(format_args!("reading {line:?}"))?;
        progress.send_modify(|progress| progress.acknowledged = batch.last_seq);
        acknowledged.push(batch);
    }
    Ok(acknowledged)
}
