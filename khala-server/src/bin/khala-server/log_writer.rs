//! Log lines on standard error, written by a thread of their own, many with one write.
//!
//! Logging never blocks: if nobody reads standard error, the pipe fills and only that thread stands still.
//!
//! # Invariants
//! Lines keep their order. No more than a bound of bytes waits; a line past it is dropped, and the number of dropped
//! lines is counted and logged as soon as there is room. Every wait for the writer is bounded, also at the end of the
//! process. A writer that panics is started again, and only what it was about to write is lost.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    mem,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use khala_core::{
    health::{Condition, Health, Part, panic_message},
    telemetry,
};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered. A warning is not kept waiting.
const GATHER: Duration = Duration::from_millis(5);
/// This many bytes are not gathered for longer.
const FULL: usize = 64 << 10;
/// Bytes that may wait for the writer. With warnings, twice as many may wait.
const MOST: usize = 1 << 20;
/// How long the end of the process waits for a reader.
const END: Duration = Duration::from_secs(1);
/// How long a writer that panicked rests.
const REST: Duration = Duration::from_millis(100);

static LINES: Lines = Lines::new();
/// What the writer reports to, once there is a health.
static PART: OnceLock<Part> = OnceLock::new();

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
    let writer = thread::Builder::new().name("khala-log".into());
    // Nobody may be there to read it.
    writer.spawn(|| LINES.keep_writing(|text| drop(io::stderr().lock().write_all(text))))?;
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

/// From now on the writer reports to `health`, which `/readyz` shows.
pub(crate) fn report_to(health: &Health) {
    let _ = PART.set(health.part("log_writer"));
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
    const fn new() -> Self {
        let waiting = Waiting { text: Vec::new(), dropped: 0, idle: false, urgent: false, writing: false };
        Self { waiting: Mutex::new(waiting), some: Condvar::new(), written: Condvar::new() }
    }

    /// Writes what comes, for ever.
    fn keep_writing(&self, mut write: impl FnMut(&[u8])) {
        loop {
            let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.write_lines(&mut write))) else {
                continue;
            };
            // It may have panicked between taking and having written, and nobody would wake it.
            self.lock().writing = false;
            if let Some(part) = PART.get() {
                part.restarts(Some(panic_message(&*panic)), Condition::Degraded);
                thread::sleep(REST);
                part.healthy();
            } else {
                thread::sleep(REST);
            }
        }
    }

    fn write_lines(&self, write: &mut impl FnMut(&[u8])) {
        let mut text = Vec::new();
        loop {
            self.take(&mut text);
            write(&text);
            text.clear();
            text.shrink_to(FULL);
            self.wrote();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the line as a whole, or drops it.
    fn put(&self, line: &[u8], urgent: bool) {
        let mut waiting = self.lock();
        let most = if urgent { 2 * MOST } else { MOST };
        if waiting.text.len() + line.len() > most {
            waiting.dropped += 1;
            drop(waiting);
            telemetry::log_lines_dropped(1);
            return;
        }
        waiting.text.extend_from_slice(line);
        let wake = waiting.idle || (urgent && !waiting.urgent) || waiting.text.len() >= FULL;
        waiting.urgent |= urgent;
        let wake = wake && !waiting.writing;
        waiting.idle = false;
        drop(waiting);
        if wake {
            self.some.notify_one();
        }
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
        LINES.put(bytes, self.urgent);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_panics_writes_the_lines_that_come_after_it() {
        static OWN: Lines = Lines::new();
        let (sender, written) = mpsc::channel();
        thread::spawn(|| {
            OWN.keep_writing(move |text| {
                let text = String::from_utf8(text.to_vec()).unwrap();
                sender.send(text.clone()).unwrap();
                assert!(text != "bad", "on purpose");
            });
        });
        for line in ["1", "bad", "2", "bad", "3"] {
            // It waits, and has to be woken.
            while !OWN.lock().idle {
                thread::sleep(Duration::from_millis(1));
            }
            OWN.put(line.as_bytes(), true);
            assert_eq!(written.recv_timeout(Duration::from_secs(30)).as_deref(), Ok(line));
        }
    }
}
