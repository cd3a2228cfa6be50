//! Whether the journal can be written, asked once for all who want to know.

use std::sync::{Mutex, PoisonError};

use khala_core::{Error, ErrorKind, Khala, journal::Journal as _};
use tokio::sync::watch;

/// What a probe found, once it has.
type Probed = Option<Result<(), Error>>;

/// The question whether the journal can be written, asked once for all who want to know at the same time. A check that
/// has stopped waiting leaves it to the next one.
#[derive(Debug, Default)]
pub(crate) struct WriteProbe(Mutex<Option<watch::Receiver<Probed>>>);

impl WriteProbe {
    pub(crate) async fn ask(&self, khala: &Khala) -> Result<(), Error> {
        let mut answer = self.running(khala);
        let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Internal,
                "readiness",
                "the question whether the journal can be written panicked",
            ))
        })
    }

    fn running(&self, khala: &Khala) -> watch::Receiver<Option<Result<(), Error>>> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = |answer: &&watch::Receiver<Option<Result<(), Error>>>| {
            answer.borrow().is_none() && answer.has_changed().is_ok()
        };
        if let Some(answer) = running.as_ref().filter(under_way) {
            return answer.clone();
        }
        let (answers, answer) = watch::channel(None);
        let khala = khala.clone();
        tokio::spawn(async move { answers.send_replace(Some(khala.journal().check_writable().await)) });
        running.insert(answer).clone()
    }
}
