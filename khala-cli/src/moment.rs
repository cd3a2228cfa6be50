//! Moments on the command line, and how they are shown to a person: in one form. Programs get milliseconds since 1970, in JSON.

use std::time::Duration;

use jiff::{civil, tz::TimeZone};
use khala_core::Timestamp;

use crate::duration::duration;

/// A moment, or how far it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    In(Duration),
}

impl Moment {
    /// The moment, where a duration counts from now on.
    pub(crate) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::In(duration) => now.plus(duration),
        }
    }

    /// The moment, where a duration counts back from now.
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::In(duration) => {
                let back = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(back))
            }
        }
    }
}

/// Reads a moment to come: RFC 3339, or a duration from now.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    let parsed = rfc3339(text).map(Moment::At);
    parsed.or_else(|| duration(text).ok().map(Moment::In)).ok_or_else(|| {
        "write a moment (2026-12-31T18:00:00Z) or a duration from now (30s, 5m, 12h, 2d)".to_owned()
    })
}

/// Reads a moment that is past: how long ago, RFC 3339, or a date, with or without a time, of the local time zone.
pub(crate) fn since(text: &str) -> Result<Moment, String> {
    let parsed = duration(text)
        .ok()
        .map(Moment::In)
        .or_else(|| rfc3339(text).or_else(|| local_date(text)).map(Moment::At));
    parsed.ok_or_else(|| {
        "write how long ago (30s, 10m, 12h, 2d), a date (2026-12-01, 2026-12-01T18:00) or a moment (2026-12-01T18:00:00Z)"
            .to_owned()
    })
}

/// RFC 3339, section 5.6, from 1970 on. Parts of a millisecond are dropped.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp::from_millis)
}

fn local_date(text: &str) -> Option<Timestamp> {
    let date: civil::DateTime = text.parse().ok()?;
    let moment = date.to_zoned_datetime(TimeZone::system()).ok()?.timestamp();
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp::from_millis)
}

fn timestamp(moment: Timestamp) -> jiff::Timestamp {
    let millis = i64::try_from(moment.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}

/// The moment as every command shows it to a person: in the local time zone, to the millisecond.
pub(crate) fn local(moment: Timestamp) -> String {
    timestamp(moment).to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_shown() {
        // As `date --date=… +%s` has them.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-12-31T18:00:00Z", 1_798_740_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            let read = Moment::At(Timestamp::from_millis(seconds * 1000));
            assert_eq!(moment(text), Ok(read), "{text}");
            assert_eq!(since(text), Ok(read), "{text}");
        }
        let noon = moment("2026-12-01T12:00:00Z");
        for text in [
            "2026-12-01t12:00:00z",
            "2026-12-01 12:00:00.0009Z",
            "2026-12-01T14:00:00+02:00",
            "2026-12-01T06:30:00-05:30",
        ] {
            assert_eq!(moment(text), noon, "{text}");
        }
        assert_eq!(moment("2d"), Ok(Moment::In(Duration::from_secs(2 * 86_400))));
        let now = Timestamp::from_millis(100_000);
        assert_eq!(since("1m").unwrap().before(now), Timestamp::from_millis(40_000));
        assert_eq!(since("1d").unwrap().before(now), Timestamp::from_millis(0));
        assert!(matches!(since("2026-12-01"), Ok(Moment::At(_))));
        assert_eq!(since("2026-12-01"), since("2026-12-01T00:00:00"));
        let Ok(Moment::At(noon)) = since("2026-12-01 12:00:00.250") else { panic!("it is a moment") };
        assert_eq!(local(noon), "2026-12-01 12:00:00.250", "both are of the local time zone");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-12-01",
            "2026-12-01T12:00:00",
            "2026-12-01T12:00:00.Z",
            "2026-12-01T12:00:00Zed",
            "2026-13-01T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2026-12-00T12:00:00Z",
            "2026-12-01T24:00:00Z",
            "2026-12-01T12:60:00Z",
            "+026-12-01T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-12-01T1é:00:00Z",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
        for text in ["", "yesterday", "-10m", "2026-02-29", "10"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
