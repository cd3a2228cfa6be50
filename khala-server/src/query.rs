//! Query parameters, each read once. An unknown or repeated one is refused: a misspelt `after` must not start a
//! reader at the wrong end without a word.

use std::{borrow::Cow, fmt::Display, num::NonZeroUsize, str::FromStr};

use khala_core::{Cursor, Epoch, Timestamp, Watermark, position::WholeNumber};

use crate::problem::Problem;

/// How many entries a page holds when nobody says.
const DEFAULT_LIMIT: NonZeroUsize = NonZeroUsize::new(200).expect("200 is not zero");
/// How many entries a page holds at most.
const MAX_LIMIT: usize = 1_000;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

fn fault(name: &str, what: impl Display) -> Problem {
    Problem::invalid("invalid_query", format!("{name} {what}")).with("field", name)
}

impl<'a> Query<'a> {
    /// The parameters of `query`, which may be those of `known` and no others.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut found: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let detail = match known {
                    [] => "there are no query parameters here".to_owned(),
                    known => format!("the query parameters here are {}", known.join(", ")),
                };
                return Err(Problem::invalid("invalid_query", detail).with("field", clip(&name)));
            }
            if found.iter().any(|(other, _)| *other == name) {
                return Err(fault(&name, "is given twice"));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// The parameter as a `T`, whose error says what is wrong with the value.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        let parse =
            |text: &str| text.parse().map_err(|wrong: T::Err| fault(name, format!("is wrong: {wrong}")));
        self.text(name).map(parse).transpose()
    }

    fn number(&self, name: &str, most: u64) -> Result<Option<u64>, Problem> {
        let read = |text: &str| {
            let number = text.parse().ok().map(WholeNumber::as_u64).filter(|number| *number <= most);
            number.ok_or_else(|| fault(name, format!("is not a whole number up to {most}")))
        };
        self.text(name).map(read).transpose()
    }

    /// The parameter as a watermark.
    pub(crate) fn watermark(&self, name: &str) -> Result<Option<Watermark>, Problem> {
        Ok(self.number(name, khala_core::position::MAX_POSITION)?.and_then(Watermark::new))
    }

    /// How many entries a page may hold.
    pub(crate) fn limit(&self) -> Result<NonZeroUsize, Problem> {
        self.at_most("limit", DEFAULT_LIMIT)
    }

    /// How many entries are wanted at most: a number from 1 to 1,000.
    pub(crate) fn at_most(&self, name: &str, usual: NonZeroUsize) -> Result<NonZeroUsize, Problem> {
        match self.number(name, MAX_LIMIT as u64)? {
            None => Ok(usual),
            Some(number) => usize::try_from(number)
                .ok()
                .and_then(NonZeroUsize::new)
                .ok_or_else(|| fault(name, format!("is a number from 1 to {MAX_LIMIT}"))),
        }
    }

    /// Whether something is wanted; not, if nothing is said.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(fault(name, "is neither true nor false")),
        }
    }

    /// When the update was published that the cursor `after` ends with: only beside that.
    pub(crate) fn published_at(&self) -> Result<Option<Timestamp>, Problem> {
        let published_at = self.number("published_at", khala_core::position::MAX_POSITION)?;
        if published_at.is_some() && self.text("after").is_none() {
            return Err(fault("published_at", "means nothing without after"));
        }
        Ok(published_at.map(Timestamp::from_millis))
    }

    /// The cursor of `watermark` and `epoch`: both or neither.
    pub(crate) fn cursor(&self, watermark: &str) -> Result<Option<Cursor>, Problem> {
        match (self.watermark(watermark)?, self.parsed::<Epoch>("epoch")?) {
            (Some(watermark), Some(epoch)) => Ok(Some(Cursor::new(epoch, watermark))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(fault(watermark, "needs the epoch that it belongs to")),
            (None, Some(_)) => Err(fault("epoch", format!("means nothing without {watermark}"))),
        }
    }
}

/// The start of a client's text, short enough to be sent back.
fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query<'_>, &'static str> {
        Query::parse(Some(text), &["after", "epoch", "limit"]).map_err(|problem| problem.code())
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        assert!(query("after=1&epoch=0000000000000001").is_ok());
        assert!(query("aftr=1").is_err());
        assert!(query("after=1&after=2").is_err());
    }

    #[test]
    fn a_cursor_is_both_or_neither() {
        let cursor = |text| query(text).unwrap().cursor("after").map_err(|problem| problem.code());
        assert_eq!(cursor(""), Ok(None));
        assert!(cursor("after=7&epoch=00000000000000ff").unwrap().is_some());
        for bad in ["after=7", "epoch=00000000000000ff", "after=&epoch=00000000000000ff", "after=+7&epoch=ff"]
        {
            assert!(cursor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_flag_is_true_or_false() {
        let plan = |text: &'static str| Query::parse(Some(text), &["plan"]).unwrap().flag("plan");
        let told = ["", "plan=false", "plan=true"].map(|text| plan(text).map_err(|problem| problem.code()));
        assert_eq!(told, [Ok(false), Ok(false), Ok(true)]);
        for bad in ["plan=", "plan=1", "plan=True"] {
            assert_eq!(plan(bad).unwrap_err().code(), "invalid_query", "{bad}");
        }
    }

    #[test]
    fn a_limit_is_within_bounds() {
        let limit =
            |text| query(text).unwrap().limit().map_err(|problem| problem.code()).map(NonZeroUsize::get);
        assert_eq!(limit(""), Ok(200));
        assert_eq!(limit("limit=1000"), Ok(1000));
        assert_eq!(limit("limit=5.0"), Ok(5));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=99999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
