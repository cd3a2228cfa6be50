//! One topic that `khala tail` follows: what of it was printed, and the cursor of that.
//!
//! # Invariants
//! Lines are written, then flushed, then their cursor is stored. What is killed in between prints some lines again, and never leaves
//! one out.

use std::time::Duration;

use khala_client::{
    Error,
    connection::{ConnectionEvent, Snapshot},
};
use khala_core::{
    Cursor, Timestamp, Topic, Update, Watermark,
    wire::{Joined, StaleCursor},
};
use tokio::time::Instant;

use crate::{
    cursor_file::{CursorFile, Place},
    exit::Failure,
    lines::Lines,
    notice::Notices,
    output,
    printer::{Printer, Then},
};

/// How long a cursor that moves on and on is left unstored: each time waits for the disk.
const STORE_EVERY: Duration = Duration::from_millis(20);

/// What all topics of a command share.
pub(crate) struct Shared {
    pub(crate) printer: Printer,
    pub(crate) lines: Lines,
    pub(crate) notices: Notices,
    /// The server's address.
    pub(crate) server: String,
    /// How long to try again while the server is away.
    pub(crate) retry_for: Option<Duration>,
    /// Whether a topic ends at the head of its first join.
    pub(crate) until_head: bool,
}

/// A topic.
pub(crate) struct Follower {
    pub(crate) topic: Topic,
    file: Option<CursorFile>,
    /// Of what was printed.
    place: Option<Place>,
    stored: Option<Place>,
    store_at: Option<Instant>,
    /// The head at the first join.
    target: Option<Cursor>,
    trouble_since: Option<Instant>,
    /// Documents of the snapshot that is printed.
    documents: usize,
}

impl Follower {
    /// A topic that goes on from `kept`, which is in the file.
    pub(crate) fn new(topic: Topic, file: Option<CursorFile>, kept: Option<Place>) -> Self {
        Self {
            topic,
            file,
            place: kept,
            stored: kept,
            store_at: None,
            target: None,
            trouble_since: None,
            documents: 0,
        }
    }

    /// When the cursor is to be stored.
    pub(crate) fn store_at(&self) -> Option<Instant> {
        self.store_at
    }

    pub(crate) async fn handle(
        &mut self,
        event: ConnectionEvent,
        shared: &mut Shared,
    ) -> Result<Then, Failure> {
        match event {
            ConnectionEvent::Joined { joined, resumed } => Ok(self.joined(&joined, resumed, shared)),
            ConnectionEvent::Reconnecting { error, wait, .. } => self.lost(error, wait, shared),
            ConnectionEvent::Snapshot(snapshot) => self.snapshot(&snapshot, shared).await,
            ConnectionEvent::Stale(stale) => Err(explain(&stale)),
            ConnectionEvent::Updates(arrived) => self.updates(&arrived.updates, arrived.cursor, shared).await,
            _ => Ok(Then::GoOn),
        }
    }

    fn joined(&mut self, joined: &Joined, resumed: bool, shared: &Shared) -> Then {
        self.trouble_since = None;
        let (topic, notices) = (&self.topic, &shared.notices);
        if let Some(stale) = &joined.stale {
            notices.say(format_args!("{topic}: {}; starting again from a snapshot", stale.message));
        }
        if self.target.is_none() {
            notices.inform(format_args!("{}", following(topic, &shared.server, joined)));
        }
        if joined.snapshot {
            self.target = Some(Cursor::new(joined.epoch, joined.head));
            return Then::GoOn;
        }
        if resumed {
            notices.relief(format_args!("{topic}: resumed after {}", joined.after));
        } else {
            notices.relief(format_args!("{topic}: joined"));
        }
        self.target.get_or_insert_with(|| Cursor::new(joined.epoch, joined.head));
        // From the head, too, a restart goes on from here.
        let cursor = Cursor::new(joined.epoch, joined.after);
        let known = self.place.filter(|place| place.cursor == cursor);
        self.moved(cursor, known.and_then(|place| place.published_at), shared)
    }

    fn lost(&mut self, error: Error, wait: Duration, shared: &Shared) -> Result<Then, Failure> {
        let since = *self.trouble_since.get_or_insert_with(Instant::now);
        if let Some(most) = shared.retry_for
            && since.elapsed() + wait > most
        {
            return Err(error.into());
        }
        shared.notices.trouble(&error, wait);
        Ok(Then::GoOn)
    }

    async fn updates(
        &mut self,
        updates: &[Update],
        cursor: Cursor,
        shared: &mut Shared,
    ) -> Result<Then, Failure> {
        let printer = &mut shared.printer;
        let shown = &updates[..printer.room(updates.len())];
        let Some(last) = shown.last() else { return Ok(Then::End) };
        for update in shown {
            shared.lines.update(&mut printer.buffer, &self.topic, update);
        }
        if printer.print(shown.len()).await? == Then::End {
            return Ok(Then::End);
        }
        Ok(self.moved(Cursor::new(cursor.epoch, last.seq.watermark()), Some(last.published_at), shared))
    }

    async fn snapshot(&mut self, snapshot: &Snapshot, shared: &mut Shared) -> Result<Then, Failure> {
        let Snapshot { at, first, documents, complete, .. } = snapshot;
        let printer = &mut shared.printer;
        let shown = &documents[..printer.room(documents.len())];
        for document in shown {
            shared.lines.document(&mut printer.buffer, &self.topic, *at, document);
        }
        let whole = *complete && shown.len() == documents.len();
        if whole {
            shared.lines.snapshot_complete(&mut printer.buffer, &self.topic, *at);
        }
        let then = printer.print(shown.len()).await?;
        self.documents = if *first { 0 } else { self.documents } + shown.len();
        if !whole {
            return Ok(if printer.is_over() { Then::End } else { then });
        }
        shared.notices.inform(format_args!(
            "{}: the snapshot is complete: {} as of update {}",
            self.topic,
            output::counted(self.documents as u64, "document"),
            at.watermark
        ));
        // Only now: a snapshot that was printed in part is printed again.
        let newest = documents.iter().find(|document| document.seq.watermark() == at.watermark);
        let moved = self.moved(*at, newest.map(|document| document.published_at), shared);
        Ok(if then == Then::End { then } else { moved })
    }

    /// Everything up to `cursor` is printed, which ends with what was published at that moment.
    fn moved(&mut self, cursor: Cursor, published_at: Option<Timestamp>, shared: &Shared) -> Then {
        self.place = Some(Place { cursor, published_at });
        if self.file.is_some() {
            self.store_at.get_or_insert_with(|| Instant::now() + STORE_EVERY);
        }
        let reached = |target: Cursor| cursor.epoch != target.epoch || cursor.watermark >= target.watermark;
        let at_head = shared.until_head && self.target.is_some_and(reached);
        if at_head || shared.printer.is_over() { Then::End } else { Then::GoOn }
    }

    /// Keeps the cursor of what was printed.
    pub(crate) fn store(&mut self) -> Result<(), Failure> {
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

/// What is followed, and from where.
fn following(topic: &Topic, server: &str, joined: &Joined) -> String {
    let Joined { epoch, after, head, .. } = joined;
    let from = match (joined.snapshot, after.distance_to(*head)) {
        (true, _) => "beginning with a snapshot".to_owned(),
        (false, 0) if *head == Watermark::ORIGIN => "a topic without updates as yet".to_owned(),
        (false, 0) => "new updates only".to_owned(),
        (false, 1) => "beginning with the newest update".to_owned(),
        (false, missed) => format!("beginning with the {missed} updates that are there"),
    };
    format!("following {topic} at {server}, {from} (epoch {epoch}, watermark {after}, head {head})")
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
