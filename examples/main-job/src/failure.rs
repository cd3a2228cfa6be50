//! Why a run ends early: one line for the person who started it.

use std::fmt::{self, Debug, Display};

/// What went wrong outside of what the checker checks.
pub struct Failure(String);

impl Failure {
    /// What the person is to read.
    pub fn new(message: impl Display) -> Self {
        Self(message.to_string())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was being done when something failed.
pub trait During<T> {
    /// The same, with what was being done before the cause.
    ///
    /// # Errors
    /// Where there was one.
    fn during(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|cause| Failure(format!("{what}: {cause}")))
    }
}
