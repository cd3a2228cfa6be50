//! `khala drain`: has a server's clients go elsewhere before it is stopped.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{
    admin::{self, Admin},
    exit::Failure,
    output,
};

/// How often it is asked who is left.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long last frames may take after the drain time.
const GRACE: Duration = Duration::from_secs(5);

/// Have a server's clients go elsewhere, before it is stopped.
///
/// From now on it says that it is not ready and takes no new WebSocket; after its readiness_grace_seconds those that are open are
/// told and closed over its drain_seconds. The process goes on, and is for whoever ordered this to stop. Asking again
/// changes nothing. It prints one JSON object: {"connections":12000,"drain_ms":25000,"already":false}.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    admin: Admin,
    /// Wait until the last one is closed, and fail if that takes longer than the server said
    #[arg(long)]
    wait: bool,
}

#[derive(Deserialize, Serialize)]
struct Begun {
    connections: u64,
    drain_ms: u64,
    already: bool,
}

#[derive(Deserialize)]
struct Left {
    open: u64,
}

impl Drain {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let begun: Begun = admin::read(&self.admin.call(Method::POST, "drain", Bytes::new()).await?)?;
        output::print(&(serde_json::to_string(&begun).expect("it has a JSON form") + "\n"))?;
        if self.wait { self.wait_until_over(Duration::from_millis(begun.drain_ms)).await } else { Ok(()) }
    }

    async fn wait_until_over(&self, drain: Duration) -> Result<(), Failure> {
        let until = Instant::now() + drain + GRACE;
        loop {
            let Left { open } =
                admin::read(&self.admin.call(Method::GET, "connections?limit=1", Bytes::new()).await?)?;
            if open == 0 {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Failure::refused(format!("{open} connections are open after the drain time")));
            }
            sleep(ASK_EVERY).await;
        }
    }
}
