//! Log lines on standard error, many with one write: each request has a line, which would be a system call each.
//!
//! What must stay true: lines keep their order; a warning, with all that was before it, is written before whoever warns goes
//! on; other lines are written within a few milliseconds, or when the process ends by itself; and where nobody reads
//! them, no more than a bound waits, and whoever logs is held up, as without this.

use std::{
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// So many bytes are not gathered for longer.
const MOST: usize = 64 << 10;

static LINES: Lines = Lines {
    waiting: Mutex::new(Waiting { text: Vec::new(), idle: false, gathering: false }),
    some: Condvar::new(),
};

struct Lines {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

struct Waiting {
    text: Vec<u8>,
    /// The thread that writes waits for a line.
    idle: bool,
    /// There is such a thread.
    gathering: bool,
}

/// Starts to gather lines. Where that cannot be, each is written by itself.
pub(crate) fn start() -> LogLines {
    let started = thread::Builder::new().name("khala-log".into()).spawn(|| {
        loop {
            let mut waiting = LINES.waiting();
            while waiting.text.is_empty() {
                waiting.idle = true;
                waiting = LINES.some.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.idle = false;
            drop(waiting);
            thread::sleep(GATHER);
            let _ = LINES.waiting().write();
        }
    });
    LINES.waiting().gathering = started.is_ok();
    LogLines
}

/// Writes what waits. For the end of the process.
pub(crate) fn flush() {
    // Nobody may be there to read it.
    let _ = LINES.waiting().write();
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn write(&mut self) -> io::Result<()> {
        let written = io::stderr().lock().write_all(&self.text);
        self.text.clear();
        written
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
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = LINES.waiting();
        waiting.text.extend_from_slice(bytes);
        if self.urgent || !waiting.gathering || waiting.text.len() >= MOST {
            waiting.write()?;
        } else if waiting.idle {
            waiting.idle = false;
            drop(waiting);
            LINES.some.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        LINES.waiting().write()
    }
}
