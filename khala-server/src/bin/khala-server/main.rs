//! The `khala-server` command: Khala on SQLite, for one node.
//!
//! With nothing configured it serves this machine only. Whatever is wrong with the settings is one line on standard
//! error and exit code 2.

mod key;
mod settings;
mod welcome;

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use khala_core::{JwtIssuer, JwtOptions, JwtVerifier, Khala};
use khala_server::{Server, serve};
use khala_store_sqlite::{SqliteOptions, SqliteStore};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::{TcpListener, lookup_host},
    runtime::Runtime,
    signal,
    time::interval,
};
use tracing_subscriber::EnvFilter;

use crate::{
    key::Key,
    settings::{LogFormat, LogSettings, Settings},
};

/// Upper bounds of the histograms of durations, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// How often the metrics recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Durable, resumable real-time sync, on one SQLite file.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file (TOML). Every setting is also a variable: limits.frame_bytes is KHALA_LIMITS__FRAME_BYTES.
    #[arg(long, env = "KHALA_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the settings in force as TOML, secrets masked.
    Config,
}

fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let done = Settings::load(config.as_deref(), std::env::vars_os()).and_then(|settings| match command {
        Some(Command::Config) => {
            // Whoever reads it may have read enough.
            let _ = std::io::stdout().lock().write_all(settings.to_toml().as_bytes());
            Ok(())
        }
        None => run(&settings),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let _ = writeln!(std::io::stderr(), "khala-server: {fault}");
            ExitCode::from(2)
        }
    }
}

fn run(settings: &Settings) -> Result<(), String> {
    start_log(&settings.log)?;
    let runtime = Runtime::new().map_err(|fault| format!("the runtime cannot be started: {fault}"))?;
    runtime.block_on(start(settings))
}

fn start_log(settings: &LogSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|fault| format!("the setting log.filter is wrong: {fault}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn start(settings: &Settings) -> Result<(), String> {
    let listen = &settings.listen;
    let addresses: Vec<SocketAddr> = lookup_host(listen)
        .await
        .map_err(|fault| format!("the setting listen is not an address and a port: {listen}: {fault}"))?
        .collect();
    let given = key::given(settings, &addresses)?;
    // First the port: a server that cannot have it leaves no files behind.
    let listener = TcpListener::bind(&*addresses).await.map_err(|fault| {
        format!("cannot listen on {listen}: {fault}; the setting listen (KHALA_LISTEN) chooses another")
    })?;
    let address = listener.local_addr().map_err(|fault| format!("cannot listen on {listen}: {fault}"))?;
    let key = match given {
        Some(key) => key,
        None => key::development(&settings.database)?,
    };
    let (verifier, issuer) = tokens(settings, &key)?;

    let database = &settings.database;
    let store = SqliteStore::open(database, SqliteOptions::new()).map_err(|fault| {
        let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the database {} cannot be opened: {fault}{cause}", database.display())
    })?;
    let khala = Khala::builder(Arc::new(store.clone()))
        .with_fanout(Arc::new(store))
        .with_sessions(settings.sync.options())
        .with_tail(settings.tail.options())
        .build();
    let metrics = record_metrics()?;
    let server = Server::builder(khala.clone(), Arc::new(verifier))
        .with_limits(settings.limits())
        .with_drain(Duration::from_secs(settings.drain_seconds.into()))
        .with_metrics(move || metrics.render())
        .build();

    let stop = Signals::new()?;
    welcome::print(address, database, &key, &issuer, khala.now());
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    serve(listener, server, stop.wait()).await;
    tracing::info!("stopped");
    Ok(())
}

fn tokens(settings: &Settings, key: &Key) -> Result<(JwtVerifier, JwtIssuer), String> {
    let auth = &settings.auth;
    let mut options = JwtOptions::default().with_leeway(Duration::from_secs(auth.leeway_seconds.into()));
    options.issuer.clone_from(&auth.issuer);
    options.audience.clone_from(&auth.audience);
    let both = || {
        let issuer = JwtIssuer::hs256(key.secret(), options.clone())?;
        Ok((JwtVerifier::hs256(key.secret(), options.clone())?, issuer))
    };
    both().map_err(|fault: khala_core::KeyError| format!("the key of [auth] cannot be used: {fault}"))
}

fn record_metrics() -> Result<PrometheusHandle, String> {
    let fault = |fault| format!("metrics cannot be recorded: {fault}");
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .map_err(fault)?
        .install_recorder()
        .map_err(fault)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// The signals that stop a server, listened for from here on.
struct Signals {
    #[cfg(unix)]
    interrupt: signal::unix::Signal,
    #[cfg(unix)]
    terminate: signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        #[cfg(unix)]
        let listen =
            |kind| signal::unix::signal(kind).map_err(|fault| format!("signals cannot be heard: {fault}"));
        Ok(Self {
            #[cfg(unix)]
            interrupt: listen(signal::unix::SignalKind::interrupt())?,
            #[cfg(unix)]
            terminate: listen(signal::unix::SignalKind::terminate())?,
        })
    }

    /// Ready at the first signal. A second one ends the process at once: what was acknowledged is stored.
    async fn wait(mut self) {
        self.next().await;
        tracing::info!("stopping; once more ends it at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = signal::ctrl_c().await;
    }
}
