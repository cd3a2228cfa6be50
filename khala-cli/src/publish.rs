//! `khala publish`: one payload, or lines in; updates out, each stored once.
//!
//! One batch is under way at a time, because updates keep the order of their lines. A batch's dedup key is the run
//! id and the number of its first update. That makes a restarted run exact whatever the batches were: where the first
//! run's batch that began at the same update was another one, the server says which updates that one became. Their
//! number is its length; a batch of that length is the same one, and the next begins right after it, as it did then.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use khala_client::{Client, Error};
use khala_core::{
    Append, Batch, Conflict, DocKey, Kind, NewUpdate, Receipt, Topic, update::DedupKey, wire::Code,
};
use tokio::{
    io::{AsyncBufRead, BufReader},
    time::{Instant, timeout_at},
};

use crate::{
    duration::{Patience, patience},
    exit::Failure,
    input::{Input, Line, Shape},
    notice::Notices,
    output,
    server::Server,
};

/// Updates of one batch.
const MAX_UPDATES: usize = 200;
/// Bytes of one batch, unless one update alone is larger.
const MAX_BYTES: usize = 1 << 20;
/// How long a line waits for others to share its batch.
const LINGER: Duration = Duration::from_millis(5);

/// Publish one payload, or one for each line of standard input
///
/// Lines are published within milliseconds; lines that come faster are batched. While the server is away, or busy, the batch is
/// tried again under the same key, so that no line is stored twice. Where more comes than the topic's class allows, the command
/// goes on at the pace that the server sets. A line that is not JSON, or that the server
/// refuses, is named and ends the command with 65, after the lines before it were published. A byte order mark before the
/// first line is left out, and lines may end as on Windows. Ctrl-C ends the command with 130, and with the number of the first line that was
/// not acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala publish orders:7 '{\"a\":1}' --kind paid
  khala publish orders:7 '{\"a\":1}' --doc-key order/7 --dedup payment-4711
  khala publish orders:7 --doc-key order/7 --delete
  khala publish orders:7 '\"hello\"'
  khala publish orders:7 < orders.jsonl
  khala publish orders:7 --kind-field type --run-id night-1 < orders.jsonl
  tail -f app.log | jq -c --raw-input . | khala publish logs:app --kind line

`khala --help` lists the environment and the exit codes.")]
pub(crate) struct Publish {
    /// The topic
    topic: Topic,
    /// One payload, which is JSON; without it, and with `-`, lines are read from standard input
    #[arg(allow_negative_numbers = true, group = "one")]
    payload: Option<String>,
    /// What is one argument too many
    #[arg(hide = true, requires = "payload")]
    more: Vec<String>,
    /// The kind of the updates
    #[arg(long, default_value = "update")]
    kind: Kind,
    /// Make the payload the new state of the document of this key
    #[arg(long, value_name = "KEY", requires = "one", conflicts_with = "doc_key_field")]
    doc_key: Option<DocKey>,
    /// Delete the document that --doc-key names: the update has no payload, and is the newest of its document
    #[arg(long, group = "one", requires = "doc_key", conflicts_with_all = ["kind_field", "doc_key_field"])]
    delete: bool,
    /// The dedup key of the payload: published again with the same key, it is not stored again
    #[arg(long, value_name = "KEY", requires = "one")]
    dedup: Option<DedupKey>,
    /// Take the kind from this field of each line instead; the payload stays the whole line
    #[arg(long, value_name = "FIELD", conflicts_with = "kind")]
    kind_field: Option<String>,
    /// Make each line the new state of the document that this field names
    #[arg(long, value_name = "FIELD")]
    doc_key_field: Option<String>,
    /// A name for this input: with the same name, an interrupted publish can be repeated from the input's first line
    ///
    /// Lines that an earlier run with the same id has stored are then acknowledged and not stored again, however far
    /// that run came and wherever it was stopped. This is exact if the input begins with the same lines, and as long
    /// as the server remembers keys (at least 24 hours). Use an id for one input and one topic only. Without it, a
    /// run has a random id of its own.
    #[arg(long, value_name = "ID", value_parser = run_id)]
    run_id: Option<String>,
    /// How long to try again while the server is away or busy: 30s, 5m, …, or forever
    #[arg(long, value_parser = patience, default_value = "5m")]
    retry_for: Patience,
    /// Go on after a bad line, and say at the end how many there were
    #[arg(long)]
    skip_invalid: bool,
    /// Print a line of JSON for each acknowledged batch:
    /// `{"first_seq":1,"last_seq":2,"epoch":"…","lines":[1,2],"duplicate":false}`
    ///
    /// `lines` are the numbers of the first and the last line of the batch; blank and skipped lines between them are not part of it.
    /// `duplicate` says that the batch was stored before: by an earlier run, or by an attempt whose answer was lost. Publishing
    /// goes on when the reader of these lines is gone.
    #[arg(long)]
    ack: bool,
}

fn run_id(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| text.to_owned())
        .ok_or_else(|| "an id is 1 to 200 visible ASCII characters without spaces".to_owned())
}

/// A line that waits to be acknowledged.
struct Waiting {
    line: u64,
    bytes: u64,
    update: NewUpdate,
}

/// Why no more lines come.
enum End {
    BadLine { line: u64, fault: String },
    Input,
    Unreadable(io::Error),
}

impl Publish {
    /// Whether there is one update, on the command line, and not lines of standard input.
    fn is_one(&self) -> Result<bool, Failure> {
        if !self.more.is_empty() {
            return Err(Failure::usage("give one payload within quotes, or lines on standard input"));
        }
        let one = self.delete || self.payload.as_deref().is_some_and(|payload| payload != "-");
        let of_other = match one {
            true => [("--run-id", self.run_id.is_some()), ("--skip-invalid", self.skip_invalid)],
            false => [("--doc-key", self.doc_key.is_some()), ("--dedup", self.dedup.is_some())],
        };
        match of_other.into_iter().find(|(_, given)| *given) {
            None => Ok(one),
            Some((option, _)) if one => Err(Failure::usage(format!(
                "{option} is for lines on standard input, and there is one payload"
            ))),
            Some((option, _)) => Err(Failure::usage(format!(
                "{option} is for one payload, and lines are read from standard input"
            ))),
        }
    }

    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let one = self.is_one()?;
        let notices = Arc::new(Notices::beside(if one { ProgressBar::hidden() } else { bar() }));
        let told = Arc::clone(&notices);
        let client = server
            .client(&notices, self.retry_for.0)
            .await?
            .on_retry(move |retry| {
                let paced = Code::PublishRateLimited.as_str();
                if retry.error.refused().is_some_and(|refused| refused.code == paced) {
                    told.paced(retry.error);
                } else {
                    told.trouble(retry.error, retry.wait);
                }
            })
            .build()?;
        match one {
            true => self.one(&client, &notices).await,
            false => self.lines(client, &notices).await,
        }
    }

    /// Publishes the payload of the command line.
    async fn one(self, client: &Client, notices: &Notices) -> Result<(), Failure> {
        let Self { topic, payload, kind, kind_field, doc_key, doc_key_field, delete, dedup, ack, .. } = self;
        let bad = |fault: String| Failure::bad_input(format!("the payload {fault}"));
        let update = match doc_key {
            Some(key) if delete => NewUpdate::tombstone(kind, key),
            key => {
                let text = payload.unwrap_or_default();
                let update = Shape { kind, kind_field, doc_key_field }.update(text.as_bytes());
                let update = update.and_then(|update| update.ok_or_else(|| "is empty".to_owned()));
                let update = update
                    .map_err(|fault| bad(format!("{fault}; text is JSON within quotes: '\"hello\"'")))?;
                key.into_iter().fold(update, NewUpdate::doc_key)
            }
        };
        let mut batch = Batch::new(vec![update]).map_err(|fault| bad(format!("makes no update: {fault}")))?;
        if let Some(key) = dedup {
            batch = batch.with_dedup(key);
        }
        let (receipt, duplicate) = match client.publish(&topic, batch).await {
            Ok(Append::Written(receipt)) => (receipt, false),
            Ok(Append::Duplicate(receipt)) => (receipt, true),
            Ok(Append::Conflict(conflict)) => {
                return Err(bad(format!("conflicts with what is stored: {conflict}")));
            }
            Err(Error::Refused(refused)) if matches!(refused.status, Some(400 | 413 | 422)) => {
                return Err(bad(format!("was refused: {} ({})", refused.message, refused.code)));
            }
            Err(error) => return Err(error.into()),
        };
        let before = if duplicate { ", as it was before under this dedup key" } else { "" };
        notices.inform(format_args!("{topic}: stored as update {}{before}", receipt.first));
        if ack { output::print(&acknowledgement(&receipt, (1, 1), duplicate)) } else { Ok(()) }
    }

    /// Publishes the lines of standard input.
    async fn lines(self, client: Client, notices: &Arc<Notices>) -> Result<(), Failure> {
        if io::stdin().is_terminal() {
            notices.inform(format_args!(
                "reading JSON from the terminal, a payload a line; Ctrl-D ends. A payload may also stand on the command line: \
                 khala publish {} '{{\"a\":1}}'",
                self.topic
            ));
        }
        let shape = Shape { kind: self.kind, kind_field: self.kind_field, doc_key_field: self.doc_key_field };
        let run_id = match self.run_id {
            Some(id) => id,
            None => random_id()?,
        };
        let mut publisher = Publisher {
            client,
            topic: self.topic,
            run_id,
            input: Input::new(BufReader::with_capacity(1 << 16, tokio::io::stdin()), shape),
            skip_invalid: self.skip_invalid,
            ack: self.ack,
            notices: Arc::clone(notices),
            waiting: VecDeque::new(),
            end: None,
            next: 1,
            published: 0,
            skipped: 0,
            most: MAX_UPDATES,
            repeats: None,
        };
        let result = tokio::select! {
            result = publisher.run() => result,
            () = interrupted() => Err(Failure::interrupted()),
        };
        notices.bar().finish_and_clear();
        let Publisher { published, skipped, waiting, .. } = publisher;
        let done = format!("published {}", output::counted(published, "update"));
        match result {
            Ok(()) if skipped > 0 => {
                notices.say(format_args!("{done}, skipped {}", output::counted(skipped, "bad line")));
                Ok(())
            }
            Ok(()) => {
                notices.inform(done);
                Ok(())
            }
            Err(failure) => Err(match waiting.front() {
                Some(Waiting { line, .. }) => {
                    failure.after(format_args!("{done}; line {line} is the first that was not acknowledged"))
                }
                None => failure.after(done),
            }),
        }
    }
}

struct Publisher<R> {
    client: Client,
    topic: Topic,
    run_id: String,
    input: Input<R>,
    skip_invalid: bool,
    ack: bool,
    notices: Arc<Notices>,
    /// Read and not acknowledged, in order.
    waiting: VecDeque<Waiting>,
    end: Option<End>,
    /// The number of the first update that waits, from one. Updates that the server refused have a number too.
    next: u64,
    /// How many updates were acknowledged.
    published: u64,
    /// How many lines were skipped.
    skipped: u64,
    /// Updates of the next batch; less than usual while a bad one is being looked for.
    most: usize,
    /// How many updates an earlier run's batch under the next key has.
    repeats: Option<usize>,
}

impl<R: AsyncBufRead + Unpin> Publisher<R> {
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            self.fill().await;
            if self.waiting.is_empty() {
                return match self.end.take() {
                    Some(End::BadLine { line, fault }) => Err(Failure::bad_input(format!(
                        "line {line} {fault}; --skip-invalid goes on after it"
                    ))),
                    Some(End::Unreadable(cause)) => {
                        Err(Failure::io(format!("standard input cannot be read: {cause}")))
                    }
                    Some(End::Input) | None => Ok(()),
                };
            }
            self.publish().await?;
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.update.size()).sum()
    }

    /// Whether nothing more is read before something is published.
    fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_UPDATES || self.waiting_bytes() >= MAX_BYTES
    }

    /// Reads until a batch is full, or nothing more comes for now. Waits for the first line only.
    async fn fill(&mut self) {
        let mut bytes = self.waiting_bytes();
        let mut until = None;
        while self.end.is_none() && self.waiting.len() < MAX_UPDATES && bytes < MAX_BYTES {
            let next = match until {
                None if self.waiting.is_empty() => self.input.next().await,
                _ => {
                    let until = *until.get_or_insert_with(|| Instant::now() + LINGER);
                    match timeout_at(until, self.input.next()).await {
                        Ok(next) => next,
                        Err(_) => return,
                    }
                }
            };
            match next {
                Ok(Some(Line { number, bytes: length, update: Ok(update) })) => {
                    bytes += update.size();
                    self.waiting.push_back(Waiting { line: number, bytes: length, update });
                }
                Ok(Some(Line { number, update: Err(fault), .. })) => self.bad_line(number, fault),
                Ok(None) => self.end = Some(End::Input),
                Err(cause) => self.end = Some(End::Unreadable(cause)),
            }
        }
    }

    fn bad_line(&mut self, line: u64, fault: String) {
        if self.skip_invalid {
            self.skipped += 1;
            self.notices.say(format_args!("line {line} {fault}; skipped"));
        } else {
            self.end = Some(End::BadLine { line, fault });
        }
    }

    async fn publish(&mut self) -> Result<(), Failure> {
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.update.size();
            bytes <= MAX_BYTES
        };
        let count = match self.repeats.take() {
            Some(count) => count,
            None => self.waiting.iter().take(self.most).take_while(fits).count().max(1),
        };
        // An earlier run's batch was read within the same bounds, so there is room for all of it.
        while self.waiting.len() < count {
            if self.end.is_some() || self.is_full() {
                return Err(self.not_its_input());
            }
            self.fill().await;
        }
        let updates = self.waiting.iter().take(count).map(|waiting| waiting.update.clone()).collect();
        let key = DedupKey::parse(&format!("{}:{}", self.run_id, self.next));
        let key = key.map_err(|fault| Failure::usage(fault.to_string()))?;
        let batch =
            Batch::new(updates).map_err(|fault| Failure::bad_input(fault.to_string()))?.with_dedup(key);
        match self.client.publish(&self.topic, batch).await {
            Ok(Append::Written(receipt)) if length_of(&receipt) != count as u64 => Err(Error::Protocol(
                format!("the server acknowledged {} updates where {count} were sent", length_of(&receipt)),
            )
            .into()),
            Ok(Append::Written(receipt)) => self.acknowledged(receipt, false).await,
            Ok(Append::Duplicate(receipt)) => self.acknowledged(receipt, true).await,
            Ok(Append::Conflict(Conflict::Dedup { first })) => {
                let stored = usize::try_from(length_of(&first)).unwrap_or(usize::MAX);
                if stored == count {
                    return Err(self.not_its_input());
                }
                self.repeats = Some(stored);
                Ok(())
            }
            Ok(Append::Conflict(conflict)) => {
                self.refused(count, format!("conflicts with what is stored: {conflict}"));
                Ok(())
            }
            Err(Error::Refused(refused)) if matches!(refused.status, Some(400 | 413 | 422)) => {
                self.refused(count, format!("was refused: {} ({})", refused.message, refused.code));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what a receipt covers off the queue. That of an earlier run may cover less than was sent, and more.
    async fn acknowledged(&mut self, receipt: Receipt, duplicate: bool) -> Result<(), Failure> {
        let count = length_of(&receipt);
        let mut lines = None;
        for _ in 0..count {
            while self.waiting.is_empty() && self.end.is_none() {
                self.fill().await;
            }
            let Some(Waiting { line, bytes, .. }) = self.waiting.pop_front() else {
                return Err(self.not_its_input());
            };
            lines = Some((lines.map_or(line, |(first, _)| first), line));
            self.notices.bar().inc(bytes);
        }
        self.next += count;
        self.published += count;
        self.most = (self.most * 2).min(MAX_UPDATES);
        self.notices.bar().set_message(format!("{} acknowledged", output::counted(self.published, "update")));
        self.notices.relief("the server answers again");
        match lines.filter(|_| self.ack) {
            Some(lines) => self.print_ack(&receipt, lines, duplicate),
            None => Ok(()),
        }
    }

    fn not_its_input(&self) -> Failure {
        Failure::bad_input(format!(
            "an earlier run with the id {} has stored other updates than these lines: this is not its input",
            self.run_id
        ))
    }

    fn print_ack(&self, receipt: &Receipt, lines: (u64, u64), duplicate: bool) -> Result<(), Failure> {
        let line = acknowledgement(receipt, lines, duplicate);
        self.notices.bar().suspend(|| output::print(&line))
    }

    /// The server stored nothing of this batch, because of at least one update in it: looks for the first such one.
    fn refused(&mut self, count: usize, fault: String) {
        if count > 1 {
            self.most = count / 2;
            return;
        }
        let Some(Waiting { line, .. }) = self.waiting.pop_front() else { return };
        self.next += 1;
        self.bad_line(line, fault);
        if !self.skip_invalid {
            self.waiting.clear();
        }
    }
}

/// The line of an acknowledged batch.
fn acknowledgement(receipt: &Receipt, (from, to): (u64, u64), duplicate: bool) -> String {
    let Receipt { epoch, first, last } = receipt;
    format!(
        "{{\"first_seq\":{first},\"last_seq\":{last},\"epoch\":\"{epoch}\",\"lines\":[{from},{to}],\"duplicate\":{duplicate}}}\n"
    )
}

fn length_of(receipt: &Receipt) -> u64 {
    receipt.last.as_u64() - receipt.first.as_u64() + 1
}

/// Waits for Ctrl-C; for ever where it cannot be heard, and then ends the process as usual.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

fn random_id() -> Result<String, Failure> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|cause| Failure::io(format!("there is no randomness: {cause}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

/// A progress bar, on a terminal: with an end if standard input has one, and none while a person types.
fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() || io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match input_length() {
        Some(length) => (ProgressBar::new(length), "{wide_bar} {percent:>3}% {bytes_per_sec} {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the templates are constants, and good");
    bar.with_style(style)
}

/// How long standard input is, where it is a file.
#[cfg(unix)]
fn input_length() -> Option<u64> {
    use std::os::fd::AsFd as _;

    let own = io::stdin().as_fd().try_clone_to_owned().ok()?;
    let metadata = std::fs::File::from(own).metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// How long standard input is, where it is a file.
#[cfg(not(unix))]
fn input_length() -> Option<u64> {
    None
}
