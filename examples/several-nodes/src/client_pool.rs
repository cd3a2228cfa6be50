//! The clients: a few Node.js processes with many `phoenix` clients each, phoenix/clients.mjs.

use std::{path::Path, process::Stdio, sync::Arc};

use khala_scenarios::workspace::{Workspace, bare};
use khala_testing::{During as _, Failure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin},
    task::JoinSet,
};

use crate::model::Model;

/// What a process is told: whom it plays.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Where the nodes' sockets are.
    pub(crate) nodes: Vec<String>,
    pub(crate) topics: Vec<String>,
    pub(crate) token_file: String,
    pub(crate) seed: u64,
    /// How long a client stays at a node, on average.
    pub(crate) move_every_ms: u64,
    /// The number of each client, and the topics that it follows.
    pub(crate) clients: Vec<(usize, Vec<usize>)>,
}

/// What a process says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Applied(usize, usize, String, u64, Vec<String>),
    At(usize, usize),
    Fault(usize, String),
    Joined(bool),
    Left(usize, u16),
    Refused(String),
    Repeated(u64),
}

/// The clients, while they move.
#[derive(Debug)]
pub(crate) struct ClientPool {
    readers: JoinSet<Failure>,
    // A process ends when its standard input does.
    _inputs: Vec<ChildStdin>,
}

impl ClientPool {
    /// Starts a process for each plan.
    pub(crate) async fn start(
        workspace: &Workspace,
        model: &Arc<Model>,
        plans: Vec<Plan>,
    ) -> Result<Self, Failure> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("phoenix/clients.mjs");
        let mut pool = Self { readers: JoinSet::new(), _inputs: Vec::new() };
        for plan in plans {
            let mut node = bare(Path::new("node"), Path::new("."));
            node.arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(workspace.log("clients")?);
            let mut process = node.spawn().during("starting node")?;
            let mut input = process.stdin.take().ok_or_else(|| Failure::new("node has no standard input"))?;
            let mut line = serde_json::to_string(&plan).during("writing a plan")?;
            line.push('\n');
            input.write_all(line.as_bytes()).await.during("telling node the plan")?;
            pool._inputs.push(input);
            pool.readers.spawn(follow(process, Arc::clone(model)));
        }
        Ok(pool)
    }

    /// Ready when something is wrong with it. Cancel safe.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.readers.join_next().await {
            Some(Ok(failure)) => failure,
            Some(Err(panic)) => Failure::new(panic),
            None => Failure::new("there are no clients"),
        }
    }
}

async fn follow(mut process: Child, model: Arc<Model>) -> Failure {
    let Some(output) = process.stdout.take() else { return Failure::new("node has no standard output") };
    let mut lines = BufReader::new(output).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                if let Err(failure) = take(&model, &line) {
                    return failure;
                }
            }
            Ok(None) => return Failure::new("the clients ended by themselves; see clients.log"),
            Err(fault) => return Failure::new(format_args!("reading what the clients say: {fault}")),
        }
    }
}

fn take(model: &Model, line: &str) -> Result<(), Failure> {
    match serde_json::from_str(line).during(format_args!("reading {line:?}"))? {
        Said::Applied(client, topic, epoch, seq, payloads) => {
            if !model.applied(client, topic, &epoch, seq, &payloads) {
                return Err(Failure::new(format_args!("client {client} does not follow topic {topic}")));
            }
        }
        Said::At(client, node) => model.moved(client, Some(node)),
        Said::Fault(client, message) => {
            return Err(Failure::new(format_args!("client {client}: {message}")));
        }
        Said::Joined(resumed) => model.count(|counts| counts.resumed += u64::from(resumed)),
        Said::Left(client, code) => {
            model.moved(client, None);
            model.count(|counts| *counts.closed.entry(code).or_default() += 1);
        }
        Said::Refused(code) => {
            model.count(|counts| *counts.refused.entry(code).or_default() += 1);
        }
        Said::Repeated(updates) => model.count(|counts| counts.skipped += updates),
    }
    Ok(())
}
