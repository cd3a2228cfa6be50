//! The environment of a scenario: the program under test, a folder, an address, settings, and tokens.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use khala_auth::{JwtIssuer, JwtOptions};
use khala_core::{
    auth::TokenClaims,
    clock::{Clock as _, SystemClock},
};
use khala_testing::{During as _, Failure, Program, free_address};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    http,
    metrics::Metrics,
    server::Server,
    settings::{ADMIN_TOKEN, KEY, Settings},
    small_disk::Entry,
    workspace::isolate,
};

/// No scenario lasts longer.
const TOKEN_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// The environment of one scenario. Its folder goes with it.
#[derive(Debug)]
pub(crate) struct Environment {
    program: Program,
    folder: TempDir,
    database: PathBuf,
    address: SocketAddr,
    issuer: JwtIssuer,
}

impl Environment {
    /// An environment with these settings, whose database is in its own folder.
    pub(crate) fn prepare(program: &Program, settings: &Settings) -> Result<Self, Failure> {
        Self::prepare_at(program, settings, |folder| folder.join("khala.db"))
    }

    /// The same with the database where `database` says.
    pub(crate) fn prepare_at(
        program: &Program,
        settings: &Settings,
        database: impl FnOnce(&Path) -> PathBuf,
    ) -> Result<Self, Failure> {
        // Beside the build, where a disk is a disk.
        let folder = tempfile::Builder::new()
            .prefix("scenario-")
            .tempdir_in(program.target())
            .during("making a folder")?;
        let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).during("making tokens")?;
        let database = database(folder.path());
        let environment =
            Self { program: program.clone(), database, address: free_address(), issuer, folder };
        let text = settings.to_toml(environment.address, &environment.database);
        std::fs::write(environment.settings_file(), text).during("writing the settings")?;
        Ok(environment)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.folder.path().join("khala.toml")
    }

    /// Starts the server, and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<Server, Failure> {
        let mut server = self.launch(None)?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts it where the files are those of a small disk, and waits until it answers: on a full disk it is not ready, and
    /// serves what it has.
    pub(crate) async fn start_within(&self, disk: Entry) -> Result<Server, Failure> {
        let mut server = self.launch(Some(disk))?;
        server.answers("/healthz").await?;
        Ok(server)
    }

    fn launch(&self, disk: Option<Entry>) -> Result<Server, Failure> {
        let (program, settings) = (self.program.path().to_owned(), self.settings_file());
        let folder = self.folder().to_owned();
        Server::start("the server", self.address, folder.join("server.log"), move || {
            let command = disk.map_or_else(|| Command::new(&program), |disk| disk.command(&program));
            let mut command = isolate(command, &folder);
            command.arg("--config").arg(&settings);
            command
        })
    }

    /// A token that opens every topic of a scenario to `subject`.
    pub(crate) fn token(&self, subject: &str) -> Result<String, Failure> {
        let claims = TokenClaims::new(subject, ["khala:read", "khala:publish"]);
        let issued =
            self.issuer.sign(&claims, SystemClock::new().now(), TOKEN_FOR).during("making a token")?;
        Ok(issued.token.reveal().to_owned())
    }

    /// What the server counts.
    pub(crate) async fn metrics(&self) -> Result<Metrics, Failure> {
        let answer = self.http()?.get("/metrics").await?.success()?;
        Ok(Metrics::parse(&String::from_utf8_lossy(&answer)))
    }

    /// Asks the server as its operator.
    pub(crate) fn operator(&self) -> http::Client {
        http::Client::new(self.address, ADMIN_TOKEN)
    }

    /// Asks the server as a reader and publisher.
    pub(crate) fn http(&self) -> Result<http::Client, Failure> {
        Ok(http::Client::new(self.address, self.token("harness")?))
    }
}
