//! Handing over the next token on a connection that is open: when to send which, and what its answer means.
//!
//! # Invariants
//! One token at a time is on its way, and whatever becomes of it, the connection goes on with the one it has.

use std::{fmt, future::Future, pin::Pin};

use futures::future::pending;
use khala_core::{Timestamp, Token};
use tokio::time::{Instant, sleep_until};

use crate::{
    backoff::{Backoff, random},
    error::{Error, Refused},
    token::Tokens,
};

/// The token of one connection, and the next.
#[derive(Debug)]
pub(crate) struct Handover {
    tokens: Tokens,
    backoff: Backoff,
    /// What the connection has.
    token: Token,
    /// What the server refused on this connection after that.
    refused: Option<Token>,
    next: Next,
    /// How often in a row the server could not check it.
    failures: u32,
}

enum Next {
    /// The source gives another.
    Awaited(Pin<Box<dyn Future<Output = Token> + Send>>),
    /// To be sent at that moment.
    Due(Token, Instant),
    /// This server takes none.
    Never,
    /// Sent, and not answered.
    Sent(Token),
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awaited(_) => "Awaited",
            Self::Due(..) => "Due",
            Self::Never => "Never",
            Self::Sent(_) => "Sent",
        })
    }
}

impl Handover {
    /// For a connection that the server took `token` for.
    pub(crate) fn new(tokens: Tokens, backoff: Backoff, token: Token) -> Self {
        tokens.taken(&token, None);
        let next = Next::awaited(&tokens, &token);
        Self { tokens, backoff, token, refused: None, next, failures: 0 }
    }

    /// Waits until a token is to be sent, and gives it. Cancel safe.
    pub(crate) async fn due(&mut self) -> Token {
        loop {
            match &mut self.next {
                Next::Awaited(another) => self.next = Next::Due(another.as_mut().await, Instant::now()),
                Next::Due(token, moment) => {
                    sleep_until(*moment).await;
                    let token = token.clone();
                    self.next = Next::Sent(token.clone());
                    return token;
                }
                Next::Never | Next::Sent(_) => pending().await,
            }
        }
    }

    /// The server answered: taken, perhaps with the connection's new end, or refused.
    pub(crate) fn answered(&mut self, answer: Result<Option<Timestamp>, Refused>) {
        let Next::Sent(token) = &self.next else { return };
        let token = token.clone();
        let refused = match answer {
            Ok(ends) => {
                self.tokens.taken(&token, ends);
                (self.failures, self.refused) = (0, None);
                self.next = Next::awaited(&self.tokens, &token);
                self.token = token;
                return;
            }
            Err(refused) => refused,
        };
        if refused.wants_token() {
            self.tokens.refused(&token, &refused);
            self.next = Next::awaited(&self.tokens, &token);
            self.refused = Some(token);
            return;
        }
        let error = Error::Refused(refused);
        if error.is_retryable() {
            self.failures += 1;
            let wait = self.backoff.wait(self.failures, error.at_least(&self.backoff), random());
            tracing::warn!(%error, ?wait, "the fresh token was not taken yet");
            self.next = Next::Due(token, Instant::now() + wait);
        } else {
            tracing::warn!(%error, "the server takes no token on this connection, which ends with the one it has");
            self.next = Next::Never;
        }
    }

    /// Which token the server meant when it closed the connection for want of another.
    pub(crate) fn spent(&self) -> &Token {
        self.refused.as_ref().unwrap_or(&self.token)
    }
}

impl Next {
    fn awaited(tokens: &Tokens, than: &Token) -> Self {
        Self::Awaited(Box::pin(tokens.clone().another(than.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use khala_core::wire::Code;

    use super::*;
    use crate::{
        renewal::{FreshToken, Renewal},
        token::Source,
    };

    #[tokio::test]
    async fn what_was_refused_last_is_what_is_spent() {
        let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(2) };
        let count = AtomicU64::new(0);
        let source = Source::asked(move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let far = Timestamp::from_millis(1 << 52);
            std::future::ready(Ok(FreshToken::new(Token::new(number.to_string())).with_end(far)))
        });
        let renewal = Renewal { share: f64::MIN_POSITIVE, before: Duration::ZERO };
        let tokens = Tokens::new(source, renewal, backoff);
        let first = tokens.current().await.unwrap().unwrap();
        let mut handover = Handover::new(tokens.clone(), backoff, first.clone());
        let second = handover.due().await;
        assert_eq!((second.reveal(), handover.spent()), ("1", &first), "it is on its way");
        handover.answered(Err(Refused::of(Code::TokenNotYetValid, "")));
        assert_eq!(handover.spent(), &second);
        let third = handover.due().await;
        handover.answered(Ok(None));
        assert_eq!((third.reveal(), handover.spent()), ("2", &third));
        assert!(tokens.renew(Some(&first)));
        assert_eq!(tokens.current().await.unwrap(), Some(third), "the first was spent long ago");
    }
}
