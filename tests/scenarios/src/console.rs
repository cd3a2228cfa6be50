//! What the person at the terminal sees: one line for each thing that happens, with the time since the start.

use std::{fmt::Display, process::ExitCode, time::Duration};

use khala_testing::Failure;
use tokio::time::Instant;

/// More differences than that are no longer read.
const SHOWN: usize = 10;

/// Tells what happens.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    started: Instant,
}

impl Console {
    /// The run starts now.
    pub fn begin() -> Self {
        Self { started: Instant::now() }
    }

    /// How long ago that was.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something happened now.
    pub fn tell(&self, what: impl Display) {
        say(format_args!("{:7.1} s  {what}", self.elapsed().as_secs_f64()));
    }
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "what it prints is what it is run for")]
pub fn say(line: impl Display) {
    println!("{line}");
}

/// Prints as many of these as are read, a line each, and how many more there are.
pub fn say_some(lines: &[impl Display]) {
    for line in lines.iter().take(SHOWN) {
        say(format_args!("  {line}"));
    }
    if lines.len() > SHOWN {
        say(format_args!("  … and {} more", lines.len() - SHOWN));
    }
}

/// How a run ends that says whether nothing was wrong, or could not be made.
pub fn exit_code(ran: Result<bool, Failure>) -> ExitCode {
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            say(format_args!("\nThe run could not be made: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// A number as people read it: 12,345.
pub fn count(number: u64) -> String {
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
