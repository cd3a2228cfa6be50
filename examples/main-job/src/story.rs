//! What the person at the terminal sees: one line for each thing that happens, with the time since the start.

use std::{fmt::Display, time::Duration};

use tokio::time::Instant;

/// Tells what happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    started: Instant,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something happened now.
    pub(crate) fn tell(&self, what: impl Display) {
        say(format_args!("{:7.1} s  {what}", self.elapsed().as_secs_f64()));
    }
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "what it prints is what it is run for")]
pub(crate) fn say(line: impl Display) {
    println!("{line}");
}

/// A number as people read it: 12,345.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0, 7, 999, 1_000, 123_456, 1_234_567];
        assert_eq!(numbers.map(super::count), ["0", "7", "999", "1,000", "123,456", "1,234,567"]);
    }
}
