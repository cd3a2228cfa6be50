//! Where tokens come from: one that never changes, or a source that is asked for the next one before the one there
//! is runs out, and whenever the server wants another.
//!
//! # Invariants
//! Everybody who shares a client waits for the same answer of the source, and a source that fails, or has nothing new to say, is
//! asked again only after a wait.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use khala_core::{Timestamp, Token};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

use crate::{
    backoff::{Backoff, random},
    error::{Error, Refused},
    renewal::{FreshToken, Renewal, left},
};

type TokenFuture = Pin<Box<dyn Future<Output = Result<FreshToken, Box<dyn StdError + Send + Sync>>> + Send>>;

/// What a client was given.
#[derive(Clone)]
pub(crate) enum Source {
    Callback(Arc<dyn Fn() -> TokenFuture + Send + Sync>),
    Fixed(Token),
    None,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Callback(_) => "Callback(…)",
            Self::Fixed(_) => "Fixed(…)",
            Self::None => "None",
        })
    }
}

impl Source {
    pub(crate) fn asked<F, Fut, T>(source: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'static,
        T: Into<FreshToken>,
    {
        Self::Callback(Arc::new(move || {
            let asked = source();
            Box::pin(async move { asked.await.map(Into::into) })
        }))
    }
}

/// The token in use, and where the next one comes from; shared by every clone of a client.
#[derive(Clone)]
pub(crate) struct Tokens {
    source: Source,
    renewal: Renewal,
    backoff: Backoff,
    /// Held while the source is asked, so that many who want a token ask once.
    asking: Arc<Mutex<()>>,
    state: Arc<watch::Sender<State>>,
}

#[derive(Default)]
struct State {
    /// What the source said last.
    held: Option<Token>,
    /// When that runs out, if it is known.
    ends: Option<Instant>,
    /// When the source is to be asked for another.
    due: Option<Instant>,
    /// How often, since the server last took a token, the source failed, said nothing new, or gave what the server
    /// refused.
    failures: u32,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(source: Source, renewal: Renewal, backoff: Backoff) -> Self {
        Self { source, renewal, backoff, asking: Arc::default(), state: Arc::default() }
    }

    /// The token to send now; none where the client was given none.
    pub(crate) async fn current(&self) -> Result<Option<Token>, Error> {
        let ask = match &self.source {
            Source::None => return Ok(None),
            Source::Fixed(token) => return Ok(Some(token.clone())),
            Source::Callback(ask) => ask,
        };
        // A caller that has a token does not wait for the next one.
        if let Some(token) = self.held() {
            return Ok(Some(token));
        }
        let _asking = self.asking.lock().await;
        match self.held() {
            Some(token) => Ok(Some(token)),
            None => Ok(Some(self.hold(ask().await.map_err(Error::Token)?))),
        }
    }

    /// Forgets `spent`, which the server no longer takes; says whether there can be another.
    pub(crate) fn renew(&self, spent: Option<&Token>) -> bool {
        if !matches!(self.source, Source::Callback(_)) {
            return false;
        }
        self.state.send_if_modified(|state| {
            // Somebody else may have renewed it in the meantime.
            let forgets = state.held.is_some() && state.held.as_ref() == spent;
            if forgets {
                (state.held, state.ends, state.due) = (None, None, Some(Instant::now()));
            }
            forgets
        });
        true
    }

    /// Waits until there is another token than `than`, and asks the source for it when that is due. For ever, where
    /// there can be no other.
    ///
    /// Cancel safe; a source that is being asked is asked again by the next caller that waits.
    pub(crate) async fn another(self, than: Token) -> Token {
        let Source::Callback(ask) = &self.source else { return pending().await };
        let mut changes = self.state.subscribe();
        loop {
            let due = {
                let state = changes.borrow_and_update();
                if let Some(held) = state.held.as_ref().filter(|held| **held != than) {
                    return held.clone();
                }
                state.due
            };
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as this.
                _ = changes.changed() => continue,
                () = wait => {}
            }
            let _asking = self.asking.lock().await;
            if self.state.borrow().due != due {
                continue;
            }
            match ask().await {
                Ok(fresh) if fresh.token != than => return self.hold(fresh),
                Ok(_) => {
                    let wait = self.put_off(None);
                    tracing::warn!(?wait, "the source of tokens gives the same token again");
                }
                Err(cause) => {
                    let (error, wait) = (Error::Token(cause), self.put_off(None));
                    tracing::warn!(%error, ?wait, "the token could not be renewed before its end");
                }
            }
        }
    }

    /// The server took `token`; what it said about its end counts if it is earlier than what was known.
    pub(crate) fn taken(&self, token: &Token, ends: Option<Timestamp>) {
        let left = ends.map(|ends| ends.since(wall_clock())).filter(|left| !left.is_zero());
        let now = Instant::now();
        self.state.send_if_modified(|state| {
            if state.held.as_ref() != Some(token) {
                return false;
            }
            state.failures = 0;
            let Some((left, ends)) = left.and_then(|left| Some((left, now.checked_add(left)?))) else {
                return false;
            };
            if state.ends.is_some_and(|known| known <= ends) {
                return false;
            }
            let due = self.due(left, now);
            (state.ends, state.due) = (Some(ends), Some(state.due.map_or(due, |known| known.min(due))));
            true
        });
    }

    /// The server refused to go on with `token`, although the source just gave it: the source is asked again, after
    /// a while.
    pub(crate) fn refused(&self, token: &Token, refused: &Refused) {
        // All connections that share the token report the same about it; only the first report counts.
        if self.held().as_ref() == Some(token) {
            let wait = self.put_off(refused.retry_after);
            tracing::warn!(%refused, ?wait, "the fresh token was refused; the source is asked for another");
        }
    }

    fn held(&self) -> Option<Token> {
        self.state.borrow().held.clone()
    }

    fn hold(&self, fresh: FreshToken) -> Token {
        let (now, left) = (Instant::now(), left(&fresh, wall_clock()));
        self.state.send_modify(|state| {
            state.held = Some(fresh.token.clone());
            state.ends = left.and_then(|left| now.checked_add(left));
            state.due = left.map(|left| self.due(left, now));
        });
        fresh.token
    }

    fn due(&self, left: Duration, now: Instant) -> Instant {
        now + self.renewal.wait(left, random()).max(self.backoff.first)
    }

    /// Asks later; gives how much later.
    fn put_off(&self, at_least: Option<Duration>) -> Duration {
        let mut wait = Duration::ZERO;
        self.state.send_modify(|state| {
            state.failures = state.failures.saturating_add(1);
            wait = self.backoff.wait(state.failures, at_least, random());
            state.due = Some(Instant::now() + wait);
        });
        wait
    }
}

/// What the time is in the terms of a token's claims.
fn wall_clock() -> Timestamp {
    Timestamp::default().plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
