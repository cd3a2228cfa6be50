//! What a server gives away: its log at the finest level, its metrics, its answers. And the search for a token in it.
//!
//! All of it is kept per thread, as each test with its server and its clients runs on one.

use std::{
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, Once},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::subscriber::DefaultGuard;
use tracing_log::LogTracer;
use tracing_subscriber::{Layer as _, filter::filter_fn, fmt, layer::SubscriberExt as _, registry};

/// The lines of a log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes this thread's log at TRACE from now on, without a filter or with that of [`khala_server::may_be_logged`].
pub(crate) fn log(filtered: bool) -> (Lines, DefaultGuard) {
    // As a server's subscriber does: the WebSocket library writes lines of `log`.
    static BRIDGE: Once = Once::new();
    BRIDGE.call_once(|| {
        LogTracer::init().unwrap();
        // With one subscriber alone, a place in the code that a thread without any comes by first stays silent for all.
        tracing::subscriber::set_global_default(registry()).unwrap();
    });
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = fmt::layer()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .with_filter(filter_fn(move |line| !filtered || khala_server::may_be_logged(line)));
    (lines, tracing::subscriber::set_default(registry().with(layer)))
}

/// The metrics of this thread, as long as the recorder of [`recorder`] is its own.
#[derive(Clone)]
pub(crate) struct Metrics(PrometheusHandle);

impl Metrics {
    pub(crate) fn text(&self) -> String {
        self.0.render()
    }

    /// All refusals, and those of that code on that surface.
    pub(crate) fn refusals(&self, code: &str, on: &str) -> (u64, u64) {
        let (code, on) = (format!("code=\"{code}\""), format!("operation=\"{on}\""));
        let (mut all, mut these) = (0, 0);
        for line in self.text().lines().filter(|line| line.starts_with("khala_refusals_total{")) {
            let count: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            all += count;
            if line.contains(&code) && line.contains(&on) {
                these += count;
            }
        }
        (all, these)
    }

    /// Connections that were closed for that reason.
    pub(crate) fn closes(&self, reason: &str) -> u64 {
        let line = format!("khala_closes_total{{reason=\"{reason}\"}} ");
        self.text().lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}

/// A recorder, to be made this thread's own with [`metrics::set_default_local_recorder`].
pub(crate) fn recorder() -> (metrics_exporter_prometheus::PrometheusRecorder, Metrics) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = Metrics(recorder.handle());
    (recorder, metrics)
}

/// Every form of a token that must not be seen: as it is, its claims, its signature, and each of them encoded.
fn forms(token: &str) -> Vec<String> {
    // What is shorter than that is found by chance, and is no secret. A header is no secret either.
    let parts = token.split('.').skip(1).filter(|part| part.len() >= 16);
    let whole = (token.len() >= 6).then_some(token);
    let mut forms = Vec::new();
    for text in whole.into_iter().chain(parts) {
        let mut hex = String::new();
        let mut percent = String::new();
        for byte in text.bytes() {
            write!(hex, "{byte:02x}").unwrap();
            if byte.is_ascii_alphanumeric() {
                percent.push(char::from(byte));
            } else {
                write!(percent, "%{byte:02X}").unwrap();
            }
        }
        forms.extend([
            text.to_owned(),
            percent,
            STANDARD_NO_PAD.encode(text),
            URL_SAFE_NO_PAD.encode(text),
            hex,
        ]);
    }
    forms
}

/// Whether the token, or a part of it that matters, is in the text in any form.
pub(crate) fn holds(text: &str, token: &str) -> bool {
    forms(token).iter().any(|form| text.contains(form))
}

/// Checks that no token is in the text in any form.
#[track_caller]
pub(crate) fn assert_hides(what: &str, text: &str, tokens: &[String]) {
    for token in tokens {
        let at = forms(token).iter().find_map(|form| text.find(form));
        if let Some(at) = at {
            let from = text.floor_char_boundary(at.saturating_sub(200));
            panic!("a token is in {what}: …{}", &text[from..text.ceil_char_boundary(at + 200)]);
        }
    }
}
