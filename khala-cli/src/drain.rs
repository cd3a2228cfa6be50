//! `khala drain`: has a server's clients go elsewhere before it is stopped.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{admin, exit::Failure, output, server::Server};

/// How often it is asked who is left.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long last frames may take after the drain time.
const GRACE: Duration = Duration::from_secs(5);

/// Have a server's clients go to other nodes, before the server is stopped
///
/// From now on the server says that it is not ready, and takes no new WebSocket. After its readiness_grace_seconds the open
/// connections are told, and closed over its drain_seconds. The process goes on; stop it afterwards. A second order changes
/// nothing. It needs an admin token. It prints one JSON object: {"connections":12000,"drain_ms":25000,"already":false}.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala drain
  khala drain --wait && systemctl stop khala-server")]
pub(crate) struct Drain {
    /// Wait until the last connection is closed, and fail if that takes longer than the server said
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
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let begun: Begun = admin::read(&admin::call(server, Method::POST, "drain", Bytes::new()).await?)?;
        output::print(&(serde_json::to_string(&begun).expect("it has a JSON form") + "\n"))?;
        if self.wait { wait_until_over(server, Duration::from_millis(begun.drain_ms)).await } else { Ok(()) }
    }
}

async fn wait_until_over(server: &Server, drain: Duration) -> Result<(), Failure> {
    let until = Instant::now() + drain + GRACE;
    loop {
        let Left { open } =
            admin::read(&admin::call(server, Method::GET, "connections?limit=1", Bytes::new()).await?)?;
        if open == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Failure::refused(format!(
                "{open} connections are still open {} s after the order, which is the server's drain time and {} s more; \
                 `khala connections` lists them",
                (drain + GRACE).as_secs(),
                GRACE.as_secs()
            )));
        }
        sleep(ASK_EVERY).await;
    }
}
