//! The `khala-server` command: Khala on an SQLite file, or on PostgreSQL for several nodes.
//!
//! With nothing configured, or with `--dev`, it serves this machine only. Whatever is wrong with the settings is one line on standard
//! error and exit code 2.

mod access;
mod commands;
mod key;
mod log_writer;
mod settings;
mod store;
mod welcome;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand, error::ErrorKind};
use khala_auth::JwtVerifier;
use khala_auth::sources::KeyChange;
use khala_core::{
    admission::Rate,
    class::{Classes, Retain},
    clock::SystemClock,
    health::{Condition, Health, supervise},
    telemetry,
};
use khala_server::{Server, may_be_logged, serve};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    runtime::Runtime,
    signal,
    sync::Mutex,
    time::interval,
};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    access::{Gates, Keys, Reload},
    settings::{LogFormat, LogSettings, Settings},
};

/// Upper bounds of the histogram of appends that share a transaction.
const APPEND_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];
/// Upper bounds of the histogram of sweeps, in seconds: they go on in the background.
const SWEEP_BUCKETS: [f64; 8] = [0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];
/// Upper bounds of the other histograms, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// How many connections may wait to be accepted. After a restart all clients come at once; the system drops the first
/// packet of those that find no room, and each tries again a second later, then two, then four. Linux cuts it down to
/// net.core.somaxconn, which is the same number.
const BACKLOG: u32 = 4_096;
/// How often the metrics recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Durable, resumable real-time sync, on an SQLite file or on PostgreSQL.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  khala-server                                      serve for development, from khala.db in this folder
  khala-server --config /etc/khala/khala.toml       serve with the settings of a file
  KHALA_LISTEN=127.0.0.1:4511 khala-server --dev    serve for development, on another port
  khala-server --config khala.toml config           print the settings in force
  khala-server migrate --check                      compare the tables with this version
  khala-server new-epochs --yes                     after a restore from a backup

docs/server.md lists every setting, metric and exit code."
)]
struct Arguments {
    /// The settings file (TOML). Every setting is also an environment variable: limits.frame_bytes is
    /// KHALA_LIMITS__FRAME_BYTES.
    #[arg(long, env = "KHALA_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Serves for development, on this machine only: makes a key, trusts it, and prints a token. Without any setting, the
    /// server does the same.
    #[arg(long)]
    dev: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the settings in force as TOML, with secrets masked.
    Config,
    /// Creates or updates Khala's tables in the database.
    Migrate {
        /// Only prints each difference on a line of its own. The exit code is 0 if there is no difference, 1 if there is
        /// one, and 2 if the command cannot find out.
        #[arg(long)]
        check: bool,
    },
    /// Gives every topic a new epoch, after a restore from a backup and with every server stopped. Subscribers that have
    /// seen updates which the backup lacks then notice, and start again.
    NewEpochs {
        /// Confirms that a backup was restored and that every server is stopped.
        #[arg(long)]
        yes: bool,
    },
}

fn main() -> ExitCode {
    let Arguments { config, dev, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(said) => return say(&said),
    };
    let done = Settings::load(config.as_deref(), std::env::vars_os()).and_then(|settings| match command {
        Some(Command::Config) => Ok(commands::say(&settings.to_toml(), ExitCode::SUCCESS)),
        Some(Command::Migrate { check: true }) => runtime()?.block_on(commands::check(&settings)),
        Some(Command::Migrate { check: false }) => runtime()?.block_on(commands::migrate(&settings)),
        Some(Command::NewEpochs { yes }) => runtime()?.block_on(commands::new_epochs(&settings, yes)),
        None => run(&settings, dev),
    });
    log_writer::flush();
    match done {
        Ok(code) => code,
        Err(fault) => {
            log_writer::write_briefly(move || writeln!(io::stderr(), "khala-server: {fault}"));
            ExitCode::from(2)
        }
    }
}

/// Prints the help or the version that was asked for, or what is wrong with the command line.
fn say(said: &clap::Error) -> ExitCode {
    let printed = said.print();
    match said.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            commands::written(printed.and_then(|()| io::stdout().flush()), ExitCode::SUCCESS)
        }
        _ => ExitCode::from(2),
    }
}

fn run(settings: &Settings, dev: bool) -> Result<ExitCode, String> {
    start_log(&settings.log)?;
    runtime()?.block_on(start(settings, dev))?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<Runtime, String> {
    Runtime::new().map_err(|fault| format!("the runtime cannot be started: {fault}"))
}

fn start_log(settings: &LogSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|fault| format!("the setting log.filter is wrong: {fault}"))?;
    let writer = log_writer::start().map_err(|fault| format!("the log cannot be started: {fault}"))?;
    let lines = fmt::layer().with_writer(writer);
    let lines = match settings.format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines.with_filter(filter_fn(may_be_logged))).init();
    Ok(())
}

async fn start(settings: &Settings, dev: bool) -> Result<(), String> {
    let listen = &settings.listen;
    let addresses: Vec<SocketAddr> = lookup_host(listen)
        .await
        .map_err(|fault| format!("the setting listen is not an address and a port: {listen}: {fault}"))?
        .collect();
    let gates = Gates::new(settings)?;
    let given = key::given(settings, dev, &addresses)?;
    // First the port: a server that cannot have it leaves no files behind.
    let listener = bind(&addresses).map_err(|fault| {
        format!("cannot listen on {listen}: {fault}; the setting listen (KHALA_LISTEN) chooses another")
    })?;
    let address = listener.local_addr().map_err(|fault| format!("cannot listen on {listen}: {fault}"))?;
    let key = match given {
        Some(key) => key,
        None => key::development(&settings.database)?,
    };
    // Before anything is counted.
    let health = Health::new();
    let metrics = record_metrics(&health, &gates.classes)?;
    log_writer::report_to(&health);
    let keys = Keys::new(settings, &key)?;
    keys.report_to(&health);
    let verifier = JwtVerifier::new(Arc::new(keys.ring.clone()), keys.options.clone());

    let database = &settings.database;
    let store::Opened { mut khala, watched } = store::open(settings, &health).await?;
    if let Some(node) = settings.node.clone() {
        khala = khala.with_node(node);
    }
    let khala = khala
        .with_health(health.clone())
        .with_sweep(settings.sweep)
        .with_sessions(settings.session)
        .with_tail(settings.tail)
        .with_memory(settings.memory())
        .with_admission(settings.admission)
        .with_replays(settings.replay)
        .with_verifier(Arc::new(verifier))
        .with_classes(gates.classes.clone())
        .build();
    let handle = khala.clone();
    let _listening = keys.ring.listen(move |change| match change {
        KeyChange::Trusted(kid) => handle.access().trust_key(kid),
        KeyChange::Distrusted(kid) => handle.access().distrust_key(kid),
        _ => {}
    });
    let server = Server::builder(khala.clone())
        .with_limits(settings.limits())
        .with_drain(settings.drain)
        .with_readiness_grace(settings.readiness_grace)
        .with_notes({
            let watched = watched.clone();
            move || watched.notes()
        })
        .with_metrics(move || {
            watched.report();
            metrics.render()
        });
    tell_classes(&gates.classes);
    let mut server = gates.guard(server);
    if let Some(prefix) = settings.path_prefix.clone() {
        server = server.with_path_prefix(prefix);
    }
    if let Some(every) = settings.sweep_interval {
        server = server.with_sweep_every(every);
    }
    let reload = keys.reloads();
    if let Some(mint) = keys.mint {
        server = server.with_mint(mint);
    }
    let server = server.build();

    let stop = Signals::new()?;
    reload_on_hangup(reload, &health)?;
    welcome::print(address, database, &key, &keys.options, khala.now())?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    serve(listener, server, stop.wait()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Says which placeholders bind and which are free: a misspelt one would open a topic to everybody, and be seen here.
/// And which rules are in force, where nothing is set too.
fn tell_classes(classes: &Classes) {
    for class in classes.iter() {
        let (bound, free): (Vec<&str>, Vec<&str>) =
            class.pattern.placeholders().partition(|name| classes.binds(name));
        let (bound, free) = (bound.join(" "), free.join(" "));
        let Retain { age, updates, bytes, tombstones, .. } = class.retain;
        tracing::info!(
            class = class.name, pattern = %class.pattern, bound, free, tier = class.tier.as_str(),
            replay_budget = said(class.replay_budget),
            publish_per_second = said(class.publish_rate.map(Rate::per_second)),
            payload_bytes = said(class.payload_bytes),
            inline_bytes = said(class.inline_bytes),
            hashes = class.hashes,
            retain.age_seconds = said(age.map(|age| age.as_secs())),
            retain.updates = said(updates),
            retain.bytes = said(bytes),
            retain.tombstones_seconds = said(tombstones.map(|age| age.as_secs())),
            "topic class"
        );
    }
}

/// A limit as it is set.
fn said(limit: Option<impl Display>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

/// Listens on the first of the addresses that can be had.
fn bind(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut fault = io::Error::new(io::ErrorKind::AddrNotAvailable, "it names no address");
    for address in addresses {
        match bind_one(*address) {
            Ok(listener) => return Ok(listener),
            Err(cannot) => fault = cannot,
        }
    }
    Err(fault)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart does not wait for the connections of before to time out. On Windows it means something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn record_metrics(health: &Health, classes: &Classes) -> Result<PrometheusHandle, String> {
    let fault = |fault| format!("metrics cannot be recorded: {fault}");
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .map_err(fault)?
        .set_buckets_for_metric(Matcher::Full(telemetry::COMMIT_APPENDS.to_owned()), &APPEND_BUCKETS)
        .map_err(fault)?
        .set_buckets_for_metric(Matcher::Full(telemetry::SWEEP_SECONDS.to_owned()), &SWEEP_BUCKETS)
        .map_err(fault)?
        .install_recorder()
        .map_err(fault)?;
    telemetry::describe(classes);
    let upkeep = handle.clone();
    let part = health.part("metrics_upkeep");
    tokio::spawn(async move {
        let tidy = || async {
            let mut ticks = interval(UPKEEP);
            loop {
                ticks.tick().await;
                upkeep.run_upkeep();
            }
        };
        supervise(&part, &SystemClock::new(), Condition::Degraded, tidy).await;
    });
    Ok(handle)
}

/// Reads the keys again at each SIGHUP, which does not end the process.
#[cfg(unix)]
fn reload_on_hangup(reload: Reload, health: &Health) -> Result<(), String> {
    let hangup = signal::unix::signal(signal::unix::SignalKind::hangup());
    let hangup = hangup.map_err(|fault| format!("signals cannot be heard: {fault}"))?;
    let (hangup, part) = (Mutex::new(hangup), health.part("reload"));
    tokio::spawn(async move {
        let listen = || async {
            while hangup.lock().await.recv().await.is_some() {
                tracing::info!("reading the keys again");
                reload.all().await;
            }
        };
        supervise(&part, &SystemClock::new(), Condition::Degraded, listen).await;
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_on_hangup(_: Reload, _: &Health) -> Result<(), String> {
    Ok(())
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
            log_writer::flush();
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
