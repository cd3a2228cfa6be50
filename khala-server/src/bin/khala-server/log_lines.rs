//! Log lines on standard error, written by a thread of their own, many with one write.
//!
//! Logging never blocks: if nobody reads standard error, the pipe fills and only that thread stands still.
//!
//! # Invariants
//! Lines keep their order. No more than a bound of bytes waits; a line past it is dropped, and the number of dropped
//! lines is counted and logged as soon as there is room. Every wait for the writer is bounded, also at the end of the
//! process.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    mem, panic,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use khala_core::{health::panic_message, telemetry};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered. A warning is not kept waiting.
const GATHER: Duration = Duration::from_millis(5);
/// This many bytes are not gathered for longer.
const FULL: usize = 64 << 10;
/// Bytes that may wait for the writer. A warning may use as much again.
const MOST: usize = 1 << 20;
/// How long the end of the process waits for a reader.
const END: Duration = Duration::from_secs(1);

static LINES: Lines = Lines {
    waiting: Mutex::new(Waiting { text: Vec::new(), dropped: 0, idle: false, urgent: false, writing: false }),
    some: Condvar::new(),
    written: Condvar::new(),
};

struct Lines {
    waiting: Mutex<Waiting>,
    /// There is something to write.
    some: Condvar,
    /// All that waited is written.
    written: Condvar,
}

struct Waiting {
    text: Vec<u8>,
    /// Lines that found no room since this was last logged.
    dropped: u64,
    /// The writer waits for a line.
    idle: bool,
    /// A warning is among the lines.
    urgent: bool,
    /// The writer writes.
    writing: bool,
}

/// Starts the writer, and has panics logged.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start() -> io::Result<LogLines> {
    thread::Builder::new().name("khala-log".into()).spawn(|| {
        let mut text = Vec::new();
        loop {
            LINES.take(&mut text);
            // Nobody may be there to read it.
            let _ = io::stderr().lock().write_all(&text);
            text.clear();
            text.shrink_to(FULL);
            LINES.wrote();
        }
    })?;
    // The default hook writes to standard error itself, and would wait for its reader.
    panic::set_hook(Box::new(|panic| {
        let message = panic_message(panic.payload());
        let location = panic.location().map(tracing::field::display);
        let trace = Backtrace::capture();
        let backtrace =
            (trace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&trace));
        let thread = thread::current();
        tracing::error!(thread = thread.name(), location, backtrace, "panicked: {message}");
        if thread.name() == Some("main") {
            flush(); // The process ends.
        }
    }));
    Ok(LogLines)
}

/// Waits until what was logged is written, but not for long. For the end of the process.
pub(crate) fn flush() {
    let waiting = LINES.lock();
    let unwritten = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
    drop(LINES.written.wait_timeout_while(waiting, END, unwritten));
}

/// Writes `text` by `write`, and waits until that is done, but not for long: nobody may be there to read it.
pub(crate) fn write_briefly(write: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let spawned = thread::Builder::new().spawn(move || {
        let _ = write();
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = wait.recv_timeout(END);
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Swaps what waits for `text`, which is empty, once there is something.
    fn take(&self, text: &mut Vec<u8>) {
        let mut waiting = self.lock();
        while waiting.text.is_empty() {
            waiting.idle = true;
            waiting = self.some.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        let few = |waiting: &mut Waiting| !waiting.urgent && waiting.text.len() < FULL;
        let gathered = self.some.wait_timeout_while(waiting, GATHER, few);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        mem::swap(text, &mut waiting.text);
        waiting.urgent = false;
        waiting.writing = true;
    }

    /// What was taken is written.
    fn wrote(&self) {
        let dropped = mem::take(&mut self.lock().dropped);
        if dropped > 0 {
            tracing::warn!(lines = dropped, "log lines were dropped, because nobody read standard error");
        }
        self.lock().writing = false;
        self.written.notify_all();
    }
}

/// Where log lines are written to.
#[derive(Clone, Copy)]
pub(crate) struct LogLines;

/// One line on its way.
pub(crate) struct Line {
    urgent: bool,
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { urgent: *metadata.level() <= Level::WARN }
    }
}

impl Write for Line {
    /// Takes the line as a whole, or drops it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = LINES.lock();
        let most = if self.urgent { 2 * MOST } else { MOST };
        if waiting.text.len() + bytes.len() > most {
            waiting.dropped += 1;
            drop(waiting);
            telemetry::log_lines_dropped(1);
            return Ok(bytes.len());
        }
        waiting.text.extend_from_slice(bytes);
        let wake = waiting.idle || (self.urgent && !waiting.urgent) || waiting.text.len() >= FULL;
        waiting.urgent |= self.urgent;
        let wake = wake && !waiting.writing;
        waiting.idle = false;
        drop(waiting);
        if wake {
            LINES.some.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
