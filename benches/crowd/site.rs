//! Where a scenario takes place: the program under test, a folder, an address, settings, and tokens.

use std::{
    env,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    auth::TokenClaims,
    clock::{Clock as _, SystemClock},
};
use tempfile::TempDir;

use super::{
    failure::{During as _, Failure, ensure},
    http,
    metrics::Metrics,
    settings::{ADMIN_TOKEN, KEY, PREFIX, Settings},
};

/// No scenario lasts longer.
const TOKEN_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// The `khala-server` that a scenario is about.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// The one that was built in the same profile as this executable, of which cargo builds tests and benches.
    ///
    /// # Errors
    /// A [`Failure`] that says how to build it, if it is not there.
    pub fn beside_this() -> Result<Self, Failure> {
        let own = env::current_exe().during("finding this program's own folder")?;
        // target/<profile>/deps/<this>
        let profile = own.parent().and_then(Path::parent).map_or_else(PathBuf::new, Path::to_owned);
        let path = profile.join("khala-server");
        ensure(path.exists(), || {
            format!("there is no {}; build it first: cargo build -p khala-server", path.display())
        })?;
        Ok(Self { path })
    }

    /// Builds it for release, as a bench is, and gives that one.
    ///
    /// # Errors
    /// A [`Failure`] if it does not build.
    pub fn built_for_release() -> Result<Self, Failure> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "-p", "khala-server"]);
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        // What cargo says about this package would have build scripts of others run again.
        let of_this = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];
        for (name, _) in env::vars_os() {
            if of_this.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                cargo.env_remove(name);
            }
        }
        let built = cargo.status().during("running cargo")?;
        ensure(built.success(), || "khala-server does not build".to_owned())?;
        Self::beside_this()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The place of one scenario. Its folder goes with it.
#[derive(Debug)]
pub(super) struct Site {
    program: Program,
    folder: TempDir,
    database: PathBuf,
    address: SocketAddr,
    issuer: JwtIssuer,
}

impl Site {
    /// A place with these settings, whose database is in its own folder.
    pub(super) fn prepare(program: &Program, settings: &Settings) -> Result<Self, Failure> {
        Self::prepare_at(program, settings, |folder| folder.join("khala.db"))
    }

    /// The same with the database where `database` says.
    pub(super) fn prepare_at(
        program: &Program,
        settings: &Settings,
        database: impl FnOnce(&Path) -> PathBuf,
    ) -> Result<Self, Failure> {
        // Beside the build, where a disk is a disk.
        let beside = program.path.parent().and_then(Path::parent).unwrap_or_else(|| Path::new("."));
        let folder =
            tempfile::Builder::new().prefix("crowd-").tempdir_in(beside).during("making a folder")?;
        let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).during("making tokens")?;
        let database = database(folder.path());
        let site = Self { program: program.clone(), database, address: free_address()?, issuer, folder };
        let text = settings.to_toml(site.address, &site.database);
        std::fs::write(site.settings_file(), text).during("writing the settings")?;
        Ok(site)
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn settings_file(&self) -> PathBuf {
        self.folder.path().join("khala.toml")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// A token that opens every topic of a crowd to `subject`.
    pub(super) fn token(&self, subject: &str) -> Result<String, Failure> {
        let claims = TokenClaims::new(subject, ["khala:read", "khala:publish"]);
        let issued =
            self.issuer.sign(&claims, SystemClock::new().now(), TOKEN_FOR).during("making a token")?;
        Ok(issued.token.reveal().to_owned())
    }

    /// What the server counts.
    pub(super) async fn metrics(&self) -> Result<Metrics, Failure> {
        let answer = self.http()?.get("/metrics").await?.success()?;
        Ok(Metrics::parse(&String::from_utf8_lossy(&answer)))
    }

    /// Asks the server as its operator.
    pub(super) fn operator(&self) -> http::Client {
        http::Client::new(self.address, ADMIN_TOKEN.to_owned())
    }

    /// Asks the server as a reader and publisher.
    pub(super) fn http(&self) -> Result<http::Client, Failure> {
        Ok(http::Client::new(self.address, self.token("harness")?))
    }
}

/// The topics of a crowd.
pub(super) fn topics(count: usize) -> Vec<String> {
    (0..count.max(1)).map(|number| format!("{PREFIX}{number}")).collect()
}

/// A free port on the loopback address, below those that outgoing connections are given: while the server is down,
/// one of these could otherwise sit on its port, or a client be connected to itself. Scenarios of one process get
/// different ones.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 600) as u16 * 16;
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000).take(200);
    let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut free = addresses.filter(|address| TcpListener::bind(address).is_ok());
    free.next().ok_or_else(|| Failure::new(format_args!("none of 200 ports from {first} on is free")))
}
