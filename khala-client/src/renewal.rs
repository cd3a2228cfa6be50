//! When to ask for the next token: what a token says about its own end, and how long before it. Pure: the time and
//! the randomness are arguments.
//!
//! Nothing is verified here. A token that is wrong about its end is only replaced at the wrong time: the server
//! holds to its own reading of it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use khala_core::{Timestamp, Token, auth::IssuedToken};
use serde::Deserialize;

use crate::backoff::unit;

/// No wait is longer, so that no moment is past what a clock can count.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a source of tokens gives: a token and, where the token does not say it itself, its end.
///
/// A [`Token`] becomes one by itself, so a source of JSON Web Tokens need not know this type: their `exp` is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreshToken {
    /// The token.
    pub token: Token,
    /// When it runs out. Of this and the `exp` of a JSON Web Token, the earlier counts.
    pub ends: Option<Timestamp>,
}

impl FreshToken {
    /// A token whose end stands in it, or is not known.
    pub fn new(token: Token) -> Self {
        Self { token, ends: None }
    }

    /// Says when it runs out.
    #[must_use]
    pub fn with_end(mut self, moment: Timestamp) -> Self {
        self.ends = Some(moment);
        self
    }
}

impl From<Token> for FreshToken {
    fn from(token: Token) -> Self {
        Self::new(token)
    }
}

impl From<IssuedToken> for FreshToken {
    fn from(issued: IssuedToken) -> Self {
        Self::new(issued.token).with_end(issued.expires_at)
    }
}

/// What of a token's claims is read; RFC 7519 lets both be fractions of seconds.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
}

impl Claims {
    fn of(token: &Token) -> Option<Self> {
        let mut parts = token.reveal().split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

fn moment(seconds: f64) -> Option<Timestamp> {
    Some(Timestamp::default().plus(Duration::try_from_secs_f64(seconds).ok()?))
}

/// How long a token that the source just gave will last; none if that is not known.
///
/// It never lasts longer than from its issue to its end. A clock by which it has ended already is wrong, or the
/// token was old: then that whole time counts, and the server says what is true.
pub(crate) fn left(fresh: &FreshToken, now: Timestamp) -> Option<Duration> {
    let claims = Claims::of(&fresh.token);
    let claim = |read: fn(&Claims) -> Option<f64>| claims.as_ref().and_then(read).and_then(moment);
    let end = [fresh.ends, claim(|claims| claims.exp)].into_iter().flatten().min()?;
    let whole = claim(|claims| claims.iat).map(|issued| end.since(issued)).filter(|whole| !whole.is_zero());
    match end.since(now) {
        Duration::ZERO => whole,
        left => Some(whole.map_or(left, |whole| left.min(whole))),
    }
}

/// How early the next token is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Renewal {
    /// After which share of the time that is left, between 0 and 1.
    pub(crate) share: f64,
    /// How long before the end at the latest, where that leaves half of the time.
    pub(crate) before: Duration,
}

impl Renewal {
    /// How long to wait with asking, for a token that lasts that much longer. Up to a tenth sooner than it must be.
    pub(crate) fn wait(&self, left: Duration, random: u64) -> Duration {
        let left = left.min(LONGEST);
        let latest = left.saturating_sub(self.before).max(left / 2);
        left.mul_f64(self.share).min(latest).mul_f64(1.0 - unit(random) / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jwt(claims: &str) -> FreshToken {
        Token::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))).into()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_token_lasts_as_long_as_it_or_its_source_says() {
        let seconds = |fresh: &FreshToken, now| left(fresh, at(now)).map(|left| left.as_secs());
        let dated = jwt(r#"{"exp":160,"iat":100.0,"sub":"ada"}"#);
        assert_eq!(seconds(&dated, 100), Some(60));
        assert_eq!(seconds(&dated, 150), Some(10));
        assert_eq!(seconds(&dated.clone().with_end(at(155)), 150), Some(5), "the earlier end counts");
        assert_eq!(seconds(&dated.clone().with_end(at(999)), 150), Some(10));
        // The clock is behind, and far ahead.
        assert_eq!(seconds(&dated, 10), Some(60));
        assert_eq!(seconds(&dated, 5000), Some(60));
        assert_eq!(seconds(&jwt(r#"{"exp":160}"#), 100), Some(60));
        assert_eq!(seconds(&jwt(r#"{"exp":160}"#), 200), None);
        let opaque = FreshToken::from(Token::new("opaque"));
        assert_eq!(seconds(&opaque, 1), None);
        assert_eq!(seconds(&opaque.with_end(at(9)), 1), Some(8));
    }

    #[test]
    fn what_is_no_jwt_has_no_end() {
        for claims in ["", "[]", "7", r#"{"exp":"160"}"#, r#"{"exp":-1}"#, r#"{"exp":1e300}"#, r#"{"iat":5}"#]
        {
            assert_eq!(left(&jwt(claims), at(1)), None, "{claims}");
        }
        for text in ["", "a.b", "a.b.c", "a.b.c.d", "..", "ä.ä.ä"] {
            assert_eq!(left(&Token::new(text).into(), at(1)), None, "{text}");
        }
    }

    #[test]
    fn long_lives_end_well_before_and_short_ones_by_half() {
        let usual = Renewal { share: 0.8, before: Duration::from_secs(30) };
        let latest = |seconds| usual.wait(Duration::from_secs(seconds), 0).as_secs_f64();
        assert_eq!([3600, 100, 40, 2].map(latest), [2880.0, 70.0, 20.0, 1.0]);
    }

    proptest! {
        #[test]
        fn asking_comes_before_the_end(millis: u64, before: u64, share in 0.001f64..0.999, random: u64) {
            let (left, before) = (Duration::from_millis(millis), Duration::from_millis(before));
            let wait = Renewal { share, before }.wait(left, random);
            prop_assert!(wait <= left.mul_f64(share) + Duration::from_nanos(1) && wait <= LONGEST);
            if before <= left / 2 {
                prop_assert!(wait + before <= left + Duration::from_nanos(1));
            }
        }
    }
}
