//! Which log lines may be written at all, whatever level is asked for.
//!
//! Khala's own lines never hold a token. The WebSocket library's do: below `INFO` it writes out every message that it
//! receives, and a client hands over its fresh token in one.

use tracing::{Level, Metadata};

/// The libraries that write out what clients send, by the start of their lines' targets.
const WRITE_OUT: [&str; 2] = ["tokio_tungstenite", "tungstenite"];

/// Whether a log line may be written: false for the lines in which a library writes out what clients send.
///
/// An application that mounts the service filters its log by this, beside the levels that it sets; `khala-server` does
/// so by itself.
///
/// ```
/// # use tracing_subscriber::{Layer as _, filter, fmt, layer::SubscriberExt as _, registry};
/// let lines = fmt::layer().with_filter(filter::filter_fn(khala_server::may_be_logged));
/// let subscriber = registry().with(lines);
/// ```
pub fn may_be_logged(line: &Metadata<'_>) -> bool {
    let target = line.target();
    let written_out = WRITE_OUT.iter().any(|library| {
        target.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    !written_out || *line.level() <= Level::INFO
}
