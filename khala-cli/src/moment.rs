//! Moments on the command line: an RFC 3339 date and time, or a duration from now; and how they are shown.

use std::time::Duration;

use khala_core::Timestamp;

use crate::duration::duration;

const DAY: i64 = 86_400;

/// A moment, or how far it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    In(Duration),
}

impl Moment {
    pub(crate) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::In(duration) => now.plus(duration),
        }
    }
}

pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    let parsed = rfc3339(text).map(Moment::At);
    parsed.or_else(|| duration(text).ok().map(Moment::In)).ok_or_else(|| {
        "write a moment (2026-12-31T18:00:00Z) or a duration from now (30s, 5m, 12h, 2d)".to_owned()
    })
}

/// RFC 3339, section 5.6, from 1970 on. A leap second is the one after it; parts of a millisecond are dropped.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = parts(date, b'-', [4, 2, 2])?;
    let [hour, minute, second] = parts(time, b':', [2, 2, 2])?;
    let (millis, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, zone) = rest.split_at(digits);
            let padded: String = fraction.chars().chain("000".chars()).take(3).collect();
            (if digits == 0 { None } else { padded.parse::<i64>().ok() }?, zone)
        }
    };
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let [hours, minutes] = parts(zone, b':', [2, 2])?;
            let offset = hours * 60 + minutes;
            if hours > 23 || minutes > 59 {
                return None;
            }
            if sign == "+" { offset } else { -offset }
        }
        _ => return None,
    };
    let valid = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !valid {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * DAY + (hour * 60 + minute - offset) * 60 + second;
    u64::try_from(seconds * 1000 + millis).ok().map(Timestamp::from_millis)
}

/// Numbers with exactly that many digits, with `between` between them.
fn parts<const N: usize>(text: &str, between: u8, digits: [usize; N]) -> Option<[i64; N]> {
    let mut rest = text.as_bytes();
    let mut numbers = [0; N];
    for (at, (number, digits)) in numbers.iter_mut().zip(digits).enumerate() {
        if at > 0 {
            rest = rest.strip_prefix(&[between])?;
        }
        let (these, others) = rest.split_at_checked(digits)?;
        for digit in these {
            *number = *number * 10 + i64::from(char::from(*digit).to_digit(10)?);
        }
        rest = others;
    }
    rest.is_empty().then_some(numbers)
}

fn days_of(year: i64, month: i64) -> i64 {
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_since_1970(next.0, next.1, 1) - days_since_1970(year, month, 1)
}

/// Days in the proleptic Gregorian calendar; years begin in March, so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// The moment as RFC 3339 writes it, in UTC, to the second.
pub(crate) fn shown(moment: Timestamp) -> String {
    let seconds = i64::try_from(moment.as_millis() / 1000).unwrap_or(i64::MAX);
    let (days, seconds) = (seconds / DAY, seconds % DAY);
    // An estimate that is at most one year too late, and from there by the calendar.
    let mut year = 1970 + days / 365;
    while days_since_1970(year, 1, 1) > days {
        year -= 1;
    }
    let mut month = 12;
    while days_since_1970(year, month, 1) > days {
        month -= 1;
    }
    let day = days - days_since_1970(year, month, 1) + 1;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            let read = Moment::At(Timestamp::from_millis(seconds * 1000));
            assert_eq!(moment(text), Ok(read), "{text}");
            assert_eq!(shown(Timestamp::from_millis(seconds * 1000 + 999)), text);
        }
        for day in 0..=40_000 {
            let at = Timestamp::from_millis(day * 86_400_000);
            assert_eq!(moment(&shown(at)), Ok(Moment::At(at)));
        }
        let noon = moment("2026-12-01T12:00:00Z");
        for text in [
            "2026-12-01t12:00:00z",
            "2026-12-01 12:00:00.0009Z",
            "2026-12-01T14:00:00+02:00",
            "2026-12-01T06:30:00-05:30",
            "2026-12-01T11:59:60Z",
        ] {
            assert_eq!(moment(text), noon, "{text}");
        }
        assert_eq!(moment("2d"), Ok(Moment::In(Duration::from_secs(2 * 86_400))));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-12-01",
            "2026-12-01T12:00:00",
            "2026-12-01T12:00:00.Z",
            "2026-12-01T12:00:00+2:00",
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
    }
}
