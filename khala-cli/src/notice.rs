//! What a person is told while a command runs: on standard error, a line at a time, never in between the parts of a
//! progress bar, and not again for every attempt.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, Once, PoisonError},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use khala_client::Error;

/// How often the same trouble is told of.
const AGAIN: Duration = Duration::from_secs(10);

/// Says something on standard error. Nobody may be there to read it, and the disk that it goes to may be full: that
/// ends no command.
pub(crate) fn tell(what: impl fmt::Display) {
    // As one text, so that lines of several processes do not mix.
    let _ = std::io::stderr().write_all(format!("khala: {what}\n").as_bytes());
}

/// Where notices go.
#[derive(Debug)]
pub(crate) struct Notices {
    bar: ProgressBar,
    /// When trouble was told of last, as long as it lasts.
    told: Mutex<Option<Instant>>,
    /// Whether it was said that the server sets the pace.
    paced: Once,
}

impl Notices {
    /// Notices beside a bar, which may be hidden.
    pub(crate) fn beside(bar: ProgressBar) -> Self {
        Self { bar, told: Mutex::default(), paced: Once::new() }
    }

    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    pub(crate) fn say(&self, what: impl fmt::Display) {
        self.bar.suspend(|| tell(what));
    }

    /// Says what a person at a terminal wants to know, and a log need not hold.
    pub(crate) fn inform(&self, what: impl fmt::Display) {
        if std::io::stderr().is_terminal() {
            self.say(what);
        }
    }

    /// Something failed and is tried again.
    pub(crate) fn trouble(&self, error: &Error, wait: Duration) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= AGAIN) {
            *told = Some(Instant::now());
            self.say(format_args!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
        }
    }

    /// The server takes no more for now, as it may again and again: that is no trouble, and said once.
    pub(crate) fn paced(&self, error: &Error) {
        self.paced.call_once(|| self.say(format_args!("{error}; going on at that pace")));
    }

    /// It works again, if there was trouble.
    pub(crate) fn relief(&self, what: impl fmt::Display) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.take().is_some() {
            self.say(what);
        }
    }
}
