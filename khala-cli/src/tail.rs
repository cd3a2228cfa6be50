//! `khala tail`: a topic's updates as lines, each at least once, across reconnects and restarts.
//!
//! The order that makes it so: lines are written, then flushed, then their cursor is stored. What is killed in
//! between prints some lines again, and never leaves one out.

use std::{
    io::{self, ErrorKind, Write as _},
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use khala_client::{
    Error,
    connection::{ConnectionEvent, ConnectionEvents, Snapshot},
};
use khala_core::{
    Cursor, Timestamp, Topic, Update,
    wire::{JoinRequest, Joined, OnStale, Resume, StaleCursor, write_update},
};
use tokio::{
    io::{AsyncWriteExt as _, Stdout},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    connection::Connection,
    cursor_file::{CursorFile, Found, Place},
    duration::{Patience, patience},
    exit::Failure,
    notice::Notices,
    output,
};

/// How long a cursor that moves on and on is left unstored: each time waits for the disk.
const STORE_EVERY: Duration = Duration::from_millis(20);
/// How long lines that are being written may take once the command was told to stop.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Print a topic's updates, one a line, and follow it.
///
/// A line is an update: {"seq":1,"kind":"…","payload":…,"published_at":…} and, where it has them, doc_key,
/// doc_version, payload_hash and deleted. The payload is printed byte for byte as it was published, except that the line
/// breaks between its parts are left out.
///
/// A document of a snapshot is a line {"snapshot":{"epoch":"…","watermark":7,"document":{…}}}, its document shaped
/// like an update; after the last one comes {"snapshot":{"epoch":"…","watermark":7,"complete":true}}. A line of another
/// epoch or watermark begins another snapshot, and what came before it no longer counts.
///
/// The command reconnects and resumes by itself. It ends with 0 when it is interrupted, when its standard output is
/// closed, and when --until-head or --count is reached.
#[derive(Debug, Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Tail {
    /// The topic
    topic: Topic,
    #[command(flatten)]
    connection: Connection,
    /// Keep the cursor in this file, and start from it if it is there
    ///
    /// It is written after the lines were, so a line may be printed again after a crash, and none is left out. It is
    /// replaced as a whole, and holds {"topic":"…","epoch":"…","watermark":7,"published_at":…}: the last is that of the last line, and shows when the
    /// server was restored from a backup. Where a symbolic link leads to the file,
    /// the link stays. A file that cannot be replaced, as one that is mounted by itself in a container, is written in
    /// place. A file that cannot be written is said before the first line.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// Where to start without a cursor: the oldest update that is kept, only what is new, or the documents and then
    /// what is new
    #[arg(long, value_enum, default_value = "head")]
    from: From,
    /// What to do when the cursor is stale: end with 3, or start again from a snapshot
    #[arg(long, value_enum, default_value = "error")]
    on_stale: Stale,
    /// End once everything is printed that was there when the command joined
    #[arg(long)]
    until_head: bool,
    /// End after that many updates and documents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long to try again while the server is away: 30s, 5m, …, or forever
    #[arg(long, value_parser = patience, default_value = "forever")]
    retry_for: Patience,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Floor,
    Head,
    Snapshot,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stale {
    Error,
    Snapshot,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Then {
    End,
    GoOn,
}

impl Tail {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let notices = Notices::beside(ProgressBar::hidden());
        let client = self.connection.client(&notices)?.build()?;
        let topic = self.topic.clone();
        let file = self.cursor_file.map(|path| CursorFile::open(path, topic)).transpose()?;
        let kept = match file.as_ref().map(CursorFile::load).transpose()? {
            Some(Found::Cursor(place)) => Some(place),
            Some(Found::Empty) => {
                notices.say("the cursor file is empty; starting where --from says");
                None
            }
            Some(Found::NoFile) | None => None,
        };
        let resume = match (kept, self.from) {
            (Some(place), _) => Resume::After(place.cursor),
            (None, From::Floor) => Resume::Floor,
            (None, From::Head) => Resume::Head,
            (None, From::Snapshot) => Resume::Snapshot,
        };
        let published_at = kept.and_then(|place| place.published_at);
        let on_stale = match self.on_stale {
            Stale::Error => OnStale::Error,
            Stale::Snapshot => OnStale::Snapshot,
        };
        let stop = stop_signals()?;
        let mut printer = Printer {
            notices,
            stdout: tokio::io::stdout(),
            buffer: Vec::new(),
            file,
            stop,
            stopped: false,
            place: kept,
            stored: kept,
            store_at: None,
            until_head: self.until_head,
            target: None,
            left: self.count,
            trouble_since: None,
            retry_for: self.retry_for.0,
        };
        let mut subscription =
            client.connection_events(&self.topic, JoinRequest { resume, on_stale, published_at });
        let ended = printer.run(&mut subscription).await;
        // However it ends, what was printed is not printed again.
        let stored = printer.store();
        ended.and(stored)
    }
}

struct Printer {
    notices: Notices,
    stdout: Stdout,
    buffer: Vec<u8>,
    file: Option<CursorFile>,
    stop: mpsc::Receiver<()>,
    stopped: bool,
    /// Of what was printed.
    place: Option<Place>,
    stored: Option<Place>,
    store_at: Option<Instant>,
    until_head: bool,
    /// The head at the first join.
    target: Option<Cursor>,
    /// Lines that may still be printed.
    left: Option<u64>,
    trouble_since: Option<Instant>,
    retry_for: Option<Duration>,
}

impl Printer {
    async fn run(&mut self, subscription: &mut ConnectionEvents) -> Result<(), Failure> {
        while !self.stopped {
            let store_at = self.store_at;
            let event = tokio::select! {
                biased;
                _ = self.stop.recv() => return Ok(()),
                () = sleep_until(store_at.unwrap_or_else(Instant::now)), if store_at.is_some() => {
                    self.store()?;
                    continue;
                }
                event = subscription.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            if self.handle(event?).await? == Then::End {
                break;
            }
        }
        Ok(())
    }

    async fn handle(&mut self, event: ConnectionEvent) -> Result<Then, Failure> {
        match event {
            ConnectionEvent::Joined { joined, resumed } => Ok(self.joined(&joined, resumed)),
            ConnectionEvent::Reconnecting { error, wait, .. } => self.lost(error, wait),
            ConnectionEvent::Snapshot(snapshot) => self.snapshot(&snapshot).await,
            ConnectionEvent::Stale(stale) => Err(explain(&stale)),
            ConnectionEvent::Updates(arrived) => self.updates(&arrived.updates, arrived.cursor).await,
            _ => Ok(Then::GoOn),
        }
    }

    fn joined(&mut self, joined: &Joined, resumed: bool) -> Then {
        self.trouble_since = None;
        if let Some(stale) = &joined.stale {
            self.notices.say(format_args!("{}; starting again from a snapshot", stale.message));
        }
        if joined.snapshot {
            self.target = Some(Cursor::new(joined.epoch, joined.head));
            return Then::GoOn;
        }
        if resumed {
            self.notices.relief(format_args!("resumed after {}", joined.after));
        } else {
            self.notices.relief("joined");
        }
        self.target.get_or_insert_with(|| Cursor::new(joined.epoch, joined.head));
        // From the head, too, a restart goes on from here.
        let cursor = Cursor::new(joined.epoch, joined.after);
        let known = self.place.filter(|place| place.cursor == cursor);
        self.moved(cursor, known.and_then(|place| place.published_at))
    }

    fn lost(&mut self, error: Error, wait: Duration) -> Result<Then, Failure> {
        let since = *self.trouble_since.get_or_insert_with(Instant::now);
        if self.retry_for.is_some_and(|most| since.elapsed() + wait > most) {
            return Err(error.into());
        }
        self.notices.trouble(&error, wait);
        Ok(Then::GoOn)
    }

    async fn updates(&mut self, updates: &[Update], cursor: Cursor) -> Result<Then, Failure> {
        let shown = &updates[..self.room(updates.len())];
        let Some(last) = shown.last() else { return Ok(Then::End) };
        for update in shown {
            write_in_line(&mut self.buffer, update);
            self.buffer.push(b'\n');
        }
        if self.print(shown.len()).await? == Then::End {
            return Ok(Then::End);
        }
        Ok(self.moved(Cursor::new(cursor.epoch, last.seq.watermark()), Some(last.published_at)))
    }

    async fn snapshot(&mut self, snapshot: &Snapshot) -> Result<Then, Failure> {
        let Cursor { epoch, watermark } = snapshot.at;
        let shown = &snapshot.documents[..self.room(snapshot.documents.len())];
        for document in shown {
            self.head_of_snapshot(snapshot.at);
            self.buffer.extend_from_slice(b"\"document\":");
            write_in_line(&mut self.buffer, document);
            self.buffer.extend_from_slice(b"}}\n");
        }
        let whole = snapshot.complete && shown.len() == snapshot.documents.len();
        if whole {
            self.head_of_snapshot(snapshot.at);
            self.buffer.extend_from_slice(b"\"complete\":true}}\n");
        }
        let then = self.print(shown.len()).await?;
        if !whole {
            return Ok(if self.left == Some(0) { Then::End } else { then });
        }
        // Only now: a snapshot that was printed in part is printed again.
        let newest = snapshot.documents.iter().find(|document| document.seq.watermark() == watermark);
        let moved = self.moved(Cursor::new(epoch, watermark), newest.map(|document| document.published_at));
        Ok(if then == Then::End { then } else { moved })
    }

    fn head_of_snapshot(&mut self, at: Cursor) {
        let Cursor { epoch, watermark } = at;
        write!(self.buffer, "{{\"snapshot\":{{\"epoch\":\"{epoch}\",\"watermark\":{watermark},")
            .expect("a Vec takes every write");
    }

    /// How many of these lines may be printed.
    fn room(&self, lines: usize) -> usize {
        self.left.map_or(lines, |left| usize::try_from(left).unwrap_or(usize::MAX).min(lines))
    }

    /// Writes and flushes what is in the buffer. Ends if nobody reads it any more, or the command is told to stop.
    async fn print(&mut self, lines: usize) -> Result<Then, Failure> {
        let write = async {
            self.stdout.write_all(&self.buffer).await?;
            self.stdout.flush().await
        };
        let mut write = pin!(write);
        let written = tokio::select! {
            biased;
            written = &mut write => written,
            _ = self.stop.recv() => {
                self.stopped = true;
                // What is being read at this moment need not be printed again.
                match timeout(LAST_WRITE, write).await {
                    Ok(written) => written,
                    Err(_) => return Ok(Then::End),
                }
            }
        };
        self.buffer.clear();
        match written {
            Ok(()) => {}
            Err(cause) if cause.kind() == ErrorKind::BrokenPipe => return Ok(Then::End),
            Err(cause) => return Err(output::unwritable(&cause)),
        }
        if let Some(left) = &mut self.left {
            *left -= lines as u64;
        }
        Ok(Then::GoOn)
    }

    /// Everything up to `cursor` is printed, which ends with what was published at that moment.
    fn moved(&mut self, cursor: Cursor, published_at: Option<Timestamp>) -> Then {
        self.place = Some(Place { cursor, published_at });
        if self.file.is_some() {
            self.store_at.get_or_insert_with(|| Instant::now() + STORE_EVERY);
        }
        let reached = |target: Cursor| cursor.epoch != target.epoch || cursor.watermark >= target.watermark;
        let at_head = self.until_head && self.target.is_some_and(reached);
        if at_head || self.left == Some(0) { Then::End } else { Then::GoOn }
    }

    fn store(&mut self) -> Result<(), Failure> {
        self.store_at = None;
        if let (Some(file), Some(place)) = (&self.file, self.place)
            && self.stored != Some(place)
        {
            file.store(place)?;
            self.stored = Some(place);
        }
        Ok(())
    }
}

/// Writes an update without the line breaks that its payload may have. JSON has them between its tokens only: within a
/// text they are escaped.
fn write_in_line(out: &mut Vec<u8>, update: &Update) {
    let start = out.len();
    write_update(out, update);
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let Some(first) = out[start..].iter().position(is_break).map(|at| start + at) else { return };
    let mut end = first;
    for at in first..out.len() {
        if !is_break(&out[at]) {
            out[end] = out[at];
            end += 1;
        }
    }
    out.truncate(end);
}

fn explain(stale: &StaleCursor) -> Failure {
    let reasons: Vec<_> = stale.reason_codes.iter().map(|reason| reason.as_str()).collect();
    Failure::stale(format!(
        "the cursor is stale: {} ({}); --on-stale snapshot starts again from a snapshot, and without the cursor file \
         --from floor from the oldest update that is kept",
        stale.message,
        reasons.join(", ")
    ))
}

/// Hears of Ctrl-C, and where there is such a thing of SIGTERM.
fn stop_signals() -> Result<mpsc::Receiver<()>, Failure> {
    let (sender, stop) = mpsc::channel(1);
    let fault = |cause: io::Error| Failure::io(format!("signals cannot be heard: {cause}"));
    #[cfg(unix)]
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(fault)?;
    #[cfg(unix)]
    let mut interrupt =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(fault)?;
    tokio::spawn(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await.map_err(fault);
        let _ = sender.send(()).await;
    });
    Ok(stop)
}
