//! Where tokens come from: one that never changes, or a source that is asked again when the server wants another.

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc};

use khala_core::Token;
use tokio::sync::Mutex;

use crate::error::Error;

type Asked = Pin<Box<dyn Future<Output = Result<Token, Box<dyn StdError + Send + Sync>>> + Send>>;

#[derive(Clone)]
enum Source {
    Asked(Arc<dyn Fn() -> Asked + Send + Sync>),
    Fixed(Token),
    None,
}

/// The token in use, and where the next one comes from.
#[derive(Clone)]
pub(crate) struct Tokens {
    source: Source,
    /// What the source said last; shared by every clone of a client.
    held: Arc<Mutex<Option<Token>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Asked(_) => "asked",
            Source::Fixed(_) => "fixed",
            Source::None => "none",
        };
        f.debug_struct("Tokens").field("source", &source).finish_non_exhaustive()
    }
}

impl Tokens {
    fn of(source: Source) -> Self {
        Self { source, held: Arc::default() }
    }

    pub(crate) fn none() -> Self {
        Self::of(Source::None)
    }

    pub(crate) fn fixed(token: Token) -> Self {
        Self::of(Source::Fixed(token))
    }

    pub(crate) fn asked<F, Fut>(source: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        Self::of(Source::Asked(Arc::new(move || Box::pin(source()))))
    }

    /// The token to send now; none where the client was given none.
    pub(crate) async fn current(&self) -> Result<Option<Token>, Error> {
        let ask = match &self.source {
            Source::None => return Ok(None),
            Source::Fixed(token) => return Ok(Some(token.clone())),
            Source::Asked(ask) => ask,
        };
        // Held across the wait, so that many requests at once ask for one token.
        let mut held = self.held.lock().await;
        if let Some(token) = &*held {
            return Ok(Some(token.clone()));
        }
        let token = ask().await.map_err(Error::Token)?;
        *held = Some(token.clone());
        Ok(Some(token))
    }

    /// Forgets `spent`, which the server no longer takes; says whether there can be another.
    pub(crate) async fn renew(&self, spent: Option<&Token>) -> bool {
        if !matches!(self.source, Source::Asked(_)) {
            return false;
        }
        let mut held = self.held.lock().await;
        // Somebody else may have renewed it in the meantime.
        if held.as_ref() == spent {
            *held = None;
        }
        true
    }
}
