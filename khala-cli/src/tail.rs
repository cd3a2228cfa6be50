//! `khala tail`: updates of topics as lines, each at least once, across reconnects and restarts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures::{
    StreamExt as _,
    stream::{SelectAll, abortable},
};
use indicatif::ProgressBar;
use khala_client::Client;
use khala_core::{
    Topic,
    wire::{JoinRequest, OnStale, Resume},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    cursor_file::{CursorFile, Found, Place},
    duration::{Patience, number, patience},
    exit::Failure,
    follower::{Follower, Shared},
    lines::Shape,
    notice::Notices,
    printer::{Printer, Then},
    server::Server,
    start::StartAt,
};

/// Print updates of topics, one a line, and follow them
///
/// On a terminal a line is readable: the local time, the seq, the kind, the document's key and the payload. Else, and with --json, a
/// line is a JSON object: {"seq":1,"kind":"…","payload":…,"published_at":…} and, where the update has them, doc_key, doc_version,
/// payload_hash and deleted. The payload is printed byte for byte as it was published, except that the line breaks between its parts
/// are left out. Of several topics, each line begins with its topic: "topic" is the first member of the object.
///
/// A document of a snapshot is a JSON line {"snapshot":{"epoch":"…","watermark":7,"document":{…}}}, its document shaped
/// like an update; after the last document comes {"snapshot":{"epoch":"…","watermark":7,"complete":true}}. A line of another
/// epoch or watermark begins another snapshot, and the documents before it no longer count.
///
/// The command says on standard error what it follows and from where, if that is a terminal. It reconnects and resumes by itself. It
/// ends with 0 when it is interrupted, when its standard output is closed, and when --until-head or --count is reached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala tail orders:7
  khala tail orders:7 --since 10m
  khala tail orders:7 --last 5 --pretty
  khala tail orders:7 orders:8 --from floor
  khala tail orders:7 --from floor --until-head --raw | jq .total
  khala tail orders:7 --from floor --cursor-file orders.cursor >> copy.jsonl

`khala --help` lists the environment and the exit codes.")]
pub(crate) struct Tail {
    /// The topics, each followed over a connection of its own
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<Topic>,
    #[command(flatten)]
    start: StartAt,
    #[command(flatten)]
    shape: Shape,
    /// Keep the cursor of the one topic in this file, and start from it if it is there
    ///
    /// The file is written after the lines were, so a line may be printed again after a crash, and no line is left out. It is
    /// replaced as a whole, and holds {"topic":"…","epoch":"…","watermark":7,"published_at":…}. The last field is that of the last line, and
    /// shows when the server was restored from a backup. Where a symbolic link leads to the file,
    /// the link stays. A file that cannot be replaced, such as one that is mounted by itself in a container, is written in
    /// place. If the file cannot be written, the command fails before the first line.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// What to do when the cursor is stale: end with 3, or start again from a snapshot
    #[arg(long, value_enum, default_value = "error")]
    on_stale: Stale,
    /// What the command does anyway: it is accepted because the `tail` of files has it
    #[arg(short = 'f', id = "follow", hide = true)]
    _follow: bool,
    /// End once everything is printed that was there when the command joined
    #[arg(long, conflicts_with = "follow")]
    until_head: bool,
    /// End after that many updates and documents
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX), allow_hyphen_values = true)]
    count: Option<u64>,
    /// How long to try again while the server is away: 30s, 5m, …, or forever
    #[arg(long, value_parser = patience, default_value = "forever")]
    retry_for: Patience,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stale {
    Error,
    Snapshot,
}

impl Tail {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        self.check()?;
        let notices = Notices::beside(ProgressBar::hidden());
        let client = server.client(&notices, self.retry_for.0).await?.build()?;
        let (mut followers, mut requests) = (Vec::new(), Vec::new());
        for topic in &self.topics {
            let path = self.cursor_file.clone();
            let file = path.map(|path| CursorFile::open(path, topic.clone())).transpose()?;
            let kept = match file.as_ref().map(CursorFile::load).transpose()? {
                Some(Found::Cursor(place)) => Some(place),
                Some(Found::Empty) => {
                    notices.say("the cursor file is empty; starting where the options say");
                    None
                }
                Some(Found::NoFile) | None => None,
            };
            requests.push(self.request(&client, topic, kept, &notices).await?);
            followers.push(Follower::new(topic.clone(), file, kept));
        }
        let mut shared = Shared {
            printer: Printer::new(self.count)?,
            lines: self.shape.lines(&self.topics),
            notices,
            server: client.to_string(),
            retry_for: self.retry_for.0,
            until_head: self.until_head,
        };
        let ended = follow(&client, &mut followers, requests, &mut shared).await;
        // However it ends, what was printed is not printed again.
        let stored = followers.iter_mut().try_for_each(Follower::store);
        ended.and(stored)
    }

    fn check(&self) -> Result<(), Failure> {
        let twice = self.topics.iter().enumerate().find(|(at, topic)| self.topics[..*at].contains(topic));
        if let Some((_, topic)) = twice {
            return Err(Failure::usage(format!("the topic {topic} is given twice; give it once")));
        }
        match &self.cursor_file {
            Some(path) if self.topics.len() > 1 => Err(Failure::usage(format!(
                "the cursor file {} holds the cursor of one topic, and {} are given; run one `khala tail` with a file of its own \
                 for each topic",
                path.display(),
                self.topics.len()
            ))),
            _ => Ok(()),
        }
    }

    async fn request(
        &self,
        client: &Client,
        topic: &Topic,
        kept: Option<Place>,
        notices: &Notices,
    ) -> Result<JoinRequest, Failure> {
        let resume = match kept {
            Some(place) => Resume::After(place.cursor),
            None => self.start.resume(client, topic, notices).await?,
        };
        let on_stale = match self.on_stale {
            Stale::Error => OnStale::Error,
            Stale::Snapshot => OnStale::Snapshot,
        };
        Ok(JoinRequest { resume, on_stale, published_at: kept.and_then(|place| place.published_at) })
    }
}

/// Follows all topics until each has ended, or the command is told to stop.
async fn follow(
    client: &Client,
    followers: &mut [Follower],
    requests: Vec<JoinRequest>,
    shared: &mut Shared,
) -> Result<(), Failure> {
    let (mut events, mut handles) = (SelectAll::new(), Vec::new());
    for (at, (follower, request)) in followers.iter().zip(requests).enumerate() {
        let (stream, handle) = abortable(client.connection_events(&follower.topic, request));
        events.push(stream.map(move |event| (at, event)));
        handles.push(handle);
    }
    while !shared.printer.is_over() {
        let store_at = followers.iter().filter_map(Follower::store_at).min();
        let next = tokio::select! {
            biased;
            () = shared.printer.stopped() => return Ok(()),
            () = sleep_until(store_at.unwrap_or_else(Instant::now)), if store_at.is_some() => {
                followers.iter_mut().try_for_each(Follower::store)?;
                continue;
            }
            next = events.next() => next,
        };
        let Some((at, event)) = next else { break };
        let follower = &mut followers[at];
        let handled = match event {
            Ok(event) => follower.handle(event, shared).await,
            Err(error) => Err(error.into()),
        };
        let then = handled.map_err(|failure| match handles.len() {
            1 => failure,
            _ => failure.after(format_args!("the topic {}", follower.topic)),
        })?;
        if then == Then::End {
            // Its connection is closed; the other topics go on.
            handles[at].abort();
        }
    }
    Ok(())
}
