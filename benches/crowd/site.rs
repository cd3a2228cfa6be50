//! Where a scenario takes place: the program under test, a folder, an address, settings, and tokens.

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

use super::{
    http,
    metrics::Metrics,
    settings::{ADMIN_TOKEN, KEY, PREFIX, Settings},
};

/// No scenario lasts longer.
const TOKEN_FOR: Duration = Duration::from_secs(12 * 60 * 60);

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
        let folder = tempfile::Builder::new()
            .prefix("crowd-")
            .tempdir_in(program.target())
            .during("making a folder")?;
        let issuer = JwtIssuer::hs256(KEY.as_bytes(), JwtOptions::default()).during("making tokens")?;
        let database = database(folder.path());
        let site = Self { program: program.clone(), database, address: free_address(), issuer, folder };
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
