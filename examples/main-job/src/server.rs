//! The server under fire: killed with SIGKILL, and started again on the same port and file.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};

use crate::{
    failure::{During as _, Failure},
    http,
    setting::Setting,
};

/// Recovery from any kill is expected to be far quicker.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A server process, and what it takes to start the next one.
#[derive(Debug)]
pub(crate) struct Server {
    setting: Arc<Setting>,
    process: Child,
}

impl Server {
    pub(crate) fn start(setting: &Arc<Setting>) -> Result<Self, Failure> {
        Ok(Self { setting: Arc::clone(setting), process: launch(setting)? })
    }

    /// Waits until it answers, and says how long that took.
    pub(crate) async fn ready(&mut self) -> Result<Duration, Failure> {
        let started = Instant::now();
        let (address, token) = (self.setting.address, self.setting.token()?);
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

    /// Kills it. Returns when the process is gone, so that its port and its locks are free.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        if self.process.try_wait().during("looking at the server")?.is_some() {
            return Err(self.fault("ended by itself"));
        }
        self.process.kill().await.during("killing the server")
    }

    pub(crate) async fn kill_and_restart(&mut self) -> Result<(), Failure> {
        self.kill().await?;
        self.process = launch(&self.setting)?;
        Ok(())
    }

    fn fault(&self, what: &str) -> Failure {
        Failure::new(format_args!(
            "the server {what}; its last words:\n    {}",
            self.setting.last_words("server")
        ))
    }
}

fn launch(setting: &Setting) -> Result<Child, Failure> {
    setting.server().stderr(setting.log("server")?).spawn().during("starting khala-server")
}
