//! The server under fire: killed with SIGKILL, and started again on the same port and storage.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use ::http::StatusCode;
use khala_testing::Guardian;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    failure::{During as _, Failure},
    http,
    place::Place,
};

/// Recovery from any kill is expected to be far quicker.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A server process, and what it takes to start the next one.
pub struct Server {
    place: Arc<Place>,
    name: String,
    address: SocketAddr,
    set: Box<dyn Fn(&mut Command) + Send + Sync>,
    process: Child,
    guardian: Guardian,
}

impl Server {
    /// Starts a server on that address; `set` gives it its settings. It logs under its name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        place: &Arc<Place>,
        name: &str,
        address: SocketAddr,
        set: impl Fn(&mut Command) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let mut guardian = Guardian::without_folder();
        let process = launch(place, name, address, &set, &mut guardian)?;
        Ok(Self {
            place: Arc::clone(place),
            name: name.to_owned(),
            address,
            set: Box::new(set),
            process,
            guardian,
        })
    }

    /// As its log is named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it answers, and says how long that took.
    ///
    /// # Errors
    /// It ended, or does not answer in time.
    pub async fn ready(&mut self) -> Result<Duration, Failure> {
        let started = Instant::now();
        let (address, token) = (self.address, self.place.token()?);
        let answers = async {
            loop {
                if let Ok((StatusCode::OK, _)) = http::get(address, "/readyz", &token).await {
                    return;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            ready = timeout(READY_WITHIN, answers) => {
                ready.map_err(|_| self.fault("does not answer"))?;
            }
            _ = self.process.wait() => return Err(self.fault("ended by itself")),
        }
        Ok(started.elapsed())
    }

    /// The id of its process, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.process.id()
    }

    /// Looks whether it is there.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn alive(&mut self) -> Result<(), Failure> {
        match self.process.try_wait().during("looking at the server")? {
            None => Ok(()),
            Some(_) => Err(self.fault("ended by itself")),
        }
    }

    /// Kills it. Returns when the process is gone, so that its port and its locks are free.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.alive()?;
        self.process.kill().await.during("killing the server")
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process = launch(&self.place, &self.name, self.address, &self.set, &mut self.guardian)?;
        Ok(())
    }

    /// Sends it a signal, as `STOP`.
    ///
    /// # Errors
    /// It is not there any more.
    pub async fn signal(&self, signal: &str) -> Result<(), Failure> {
        let id = self.process.id().ok_or_else(|| self.fault("ended by itself"))?;
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status().await;
        if sent.during("sending a signal")?.success() { Ok(()) } else { Err(self.fault("ended by itself")) }
    }

    fn fault(&self, what: &str) -> Failure {
        let Self { name, place, .. } = self;
        Failure::new(format_args!("{name} {what}; its last words:\n    {}", place.last_words(name)))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn launch(
    place: &Place,
    name: &str,
    address: SocketAddr,
    set: &dyn Fn(&mut Command),
    guardian: &mut Guardian,
) -> Result<Child, Failure> {
    let mut command = place.server(address);
    set(&mut command);
    // A group of its own, which the guardian ends if nobody is left who could.
    let process =
        command.stderr(place.log(name)?).process_group(0).spawn().during("starting khala-server")?;
    if let Some(group) = process.id() {
        guardian.guards(group);
    }
    Ok(process)
}
