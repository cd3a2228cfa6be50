//! Standard output of a command that goes on until it is told to stop: whole lines, flushed, and counted.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt as _, Stdout},
    sync::mpsc,
    time::timeout,
};

use crate::{exit::Failure, output};

/// How long lines that are being written may take once the command was told to stop.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    End,
    GoOn,
}

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Printer {
    stdout: Stdout,
    /// What is to be written next.
    pub(crate) buffer: Vec<u8>,
    stop: mpsc::Receiver<()>,
    /// Whether it was told to stop, or nobody reads any more.
    over: bool,
    /// Lines that may still be printed.
    left: Option<u64>,
}

impl Printer {
    /// Prints as many lines as `left` says, until Ctrl-C or SIGTERM.
    pub(crate) fn new(left: Option<u64>) -> Result<Self, Failure> {
        Ok(Self { stdout: tokio::io::stdout(), buffer: Vec::new(), stop: stop_signals()?, over: false, left })
    }

    /// Waits until the command is told to stop. Cancel safe.
    pub(crate) async fn stopped(&mut self) {
        self.stop.recv().await;
    }

    /// Whether nothing more is to be printed.
    pub(crate) fn is_over(&self) -> bool {
        self.over || self.left == Some(0)
    }

    /// How many of these lines may be printed.
    pub(crate) fn room(&self, lines: usize) -> usize {
        self.left.map_or(lines, |left| usize::try_from(left).unwrap_or(usize::MAX).min(lines))
    }

    /// Writes and flushes what is in the buffer: that many lines. Ends if nobody reads it any more, or the command is told to stop
    /// and the lines are not taken.
    pub(crate) async fn print(&mut self, lines: usize) -> Result<Then, Failure> {
        let write = async {
            self.stdout.write_all(&self.buffer).await?;
            self.stdout.flush().await
        };
        let mut write = pin!(write);
        let written = tokio::select! {
            biased;
            written = &mut write => written,
            _ = self.stop.recv() => {
                self.over = true;
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
            Err(cause) if cause.kind() == ErrorKind::BrokenPipe => {
                self.over = true;
                return Ok(Then::End);
            }
            Err(cause) => return Err(output::unwritable(&cause)),
        }
        if let Some(left) = &mut self.left {
            *left -= lines as u64;
        }
        Ok(Then::GoOn)
    }
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
