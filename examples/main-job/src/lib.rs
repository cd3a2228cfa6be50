//! What the runs that fight for Khala's promises share: where they take place, the server that they kill, and the
//! checker that compares what everybody ended up with.
//!
//! It shares no code with khala-client, so that the two do not agree by being wrong together.
//!
//! # Invariants
//! What a run starts ends with it, however it ends.

#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "the words of two examples, which are built together"
)]

pub mod chance;
pub mod checker;
pub mod failure;
pub mod history;
pub mod http;
pub mod place;
pub mod server;
pub mod story;

use std::process::ExitCode;

use crate::{failure::Failure, story::say};

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
