//! Numbers and durations on the command line: `250ms`, `30s`, `5m`, `12h`, `2d`, and where it makes sense `forever`.

use std::{ops::RangeInclusive, time::Duration};

/// A duration, or no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(pub(crate) Option<Duration>);

/// Reads a number of that range.
pub(crate) fn number(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| match (range.start(), range.end()) {
            (from, &u64::MAX) => format!("write a number from {from}"),
            (from, to) => format!("write a number from {from} to {to}"),
        })
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit: 250ms, 30s, 5m, 12h, 2d".to_owned()),
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a number and a unit: 250ms, 30s, 5m, 12h, 2d".to_owned())
}

pub(crate) fn patience(text: &str) -> Result<Patience, String> {
    match text {
        "forever" => Ok(Patience(None)),
        _ => duration(text).map(|most| Patience(Some(most))).map_err(|fault| format!("{fault}, or forever")),
    }
}

/// Milliseconds, in the largest unit that they are whole in.
pub(crate) fn shown(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in
            ["", "5", "s", "-1s", "1.5s", "5 s", "5min", "99999999999999999999s", "9999999999999999999d"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(patience("forever"), Ok(Patience(None)));
    }

    #[test]
    fn numbers_have_a_range() {
        assert_eq!((number(0..=u64::MAX)("0"), number(1..=9)("9")), (Ok(0), Ok(9)));
        for bad in ["abc", "-1", "", "1.5"] {
            assert_eq!(number(0..=u64::MAX)(bad).unwrap_err(), "write a number from 0");
        }
        assert_eq!(number(1..=1000)("1001").unwrap_err(), "write a number from 1 to 1000");
    }

    #[test]
    fn durations_are_short() {
        let durations = [0, 1, 1_500, 2_000, 120_000, 7_200_000, 172_800_000].map(shown);
        assert_eq!(durations, ["0s", "1ms", "1500ms", "2s", "2m", "2h", "2d"]);
    }
}
