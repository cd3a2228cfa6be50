//! What is done to the nodes and to what they stand on, and undone.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueEnum;
use khala_testing::{During as _, Failure};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    Fanout, Options, Store,
    setting::{Middle, NODES, Postgres, Setting},
};

/// One thing that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// A server is killed, and started again
    KillServer,
    /// A server stands still (SIGSTOP), and goes on
    PauseServer,
    /// PostgreSQL is killed, all of it, and started again
    KillPostgres,
    /// Connections for LISTEN are cut, and closed as soon as they are made
    DropListen,
    /// Connections for LISTEN stay open, are accepted, and carry nothing
    SilentListen,
    /// NATS is killed, and started again
    KillNats,
    /// Connections to NATS stay open, are accepted, and carry nothing
    SilentNats,
    /// PostgreSQL is killed for good; its standby takes over
    Failover,
    /// The file system under PostgreSQL is full, and empties
    FillDisk,
}

impl Fault {
    /// Those that a run of these options goes through, in their order.
    pub(crate) fn of(options: &Options) -> Vec<Self> {
        if !options.faults.is_empty() {
            return options.faults.clone();
        }
        if options.failover {
            return vec![Self::Failover];
        }
        let fits = |fault: &Self| match fault {
            Self::KillServer | Self::PauseServer => true,
            Self::KillPostgres => options.store == Store::Postgres,
            Self::DropListen | Self::SilentListen => {
                options.store == Store::Postgres && options.fanout == Fanout::Postgres
            }
            Self::KillNats | Self::SilentNats => options.fanout == Fanout::Nats,
            Self::Failover => false,
            Self::FillDisk => options.disk.is_some(),
        };
        Self::value_variants().iter().copied().filter(fits).collect()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::KillServer => "a server is killed",
            Self::PauseServer => "a server stands still",
            Self::KillPostgres => "PostgreSQL is killed",
            Self::DropListen => "LISTEN is cut off",
            Self::SilentListen => "LISTEN falls silent",
            Self::KillNats => "NATS is killed",
            Self::SilentNats => "NATS falls silent",
            Self::Failover => "PostgreSQL is lost, its standby takes over",
            Self::FillDisk => "PostgreSQL's disk is full",
        }
    }

    /// The nodes whose clients have to get everything all the while; none where there is no database meanwhile.
    pub(crate) fn spared(self, victim: usize) -> Vec<usize> {
        match self {
            Self::KillServer | Self::PauseServer => (0..NODES).filter(|node| *node != victim).collect(),
            Self::DropListen | Self::SilentListen | Self::KillNats | Self::SilentNats => (0..NODES).collect(),
            Self::Failover | Self::FillDisk | Self::KillPostgres => Vec::new(),
        }
    }

    /// Does it. The victim is a node, where it is a node's fault.
    pub(crate) async fn inject(self, setting: &mut Setting, victim: usize) -> Result<(), Failure> {
        match self {
            Self::KillServer => setting.servers[victim].kill().await?,
            Self::PauseServer => setting.servers[victim].signal("STOP").await?,
            Self::KillPostgres | Self::Failover => {
                let cluster = Arc::clone(&postgres(setting)?.cluster);
                spawn_blocking(move || cluster.kill()).await.during("killing PostgreSQL")?;
            }
            Self::FillDisk => {
                let ballast = ballast(setting)?;
                spawn_blocking(move || fill(&ballast)).await.during("filling the disk")??;
            }
            Self::DropListen => postgres(setting)?.listen.refuse(),
            Self::SilentListen => postgres(setting)?.listen.silent(),
            Self::KillNats => {
                let nats = Arc::clone(&nats(setting)?.nats);
                spawn_blocking(move || nats.kill()).await.during("killing NATS")?;
            }
            Self::SilentNats => nats(setting)?.way.silent(),
        }
        Ok(())
    }

    /// Undoes it, as far as that is for others to do than the nodes and clients.
    pub(crate) async fn heal(self, setting: &mut Setting, victim: usize) -> Result<(), Failure> {
        match self {
            Self::KillServer => setting.servers[victim].restart()?,
            Self::PauseServer => setting.servers[victim].signal("CONT").await?,
            Self::KillPostgres => {
                let cluster = Arc::clone(&postgres(setting)?.cluster);
                spawn_blocking(move || cluster.restart()).await.during("starting PostgreSQL")?;
            }
            Self::FillDisk => {
                fs::remove_file(ballast(setting)?).during("emptying the disk")?;
                let cluster = Arc::clone(&postgres(setting)?.cluster);
                spawn_blocking(move || cluster.ensure_running()).await.during("starting PostgreSQL")?;
            }
            Self::DropListen | Self::SilentListen => postgres(setting)?.listen.pass(),
            Self::KillNats => {
                let nats = Arc::clone(&nats(setting)?.nats);
                spawn_blocking(move || nats.restart()).await.during("starting NATS")?;
            }
            Self::SilentNats => nats(setting)?.way.pass(),
            Self::Failover => {
                let Postgres { standby, listen, way, .. } = postgres(setting)?;
                let standby = standby.as_ref().ok_or_else(|| Failure::new("there is no standby"))?;
                let port = standby.port();
                let promoted = Arc::clone(standby);
                spawn_blocking(move || promoted.promote()).await.during("promoting the standby")?;
                listen.lead_to(port);
                way.lead_to(port);
            }
        }
        Ok(())
    }
}

fn postgres(setting: &Setting) -> Result<&Postgres, Failure> {
    setting.postgres.as_ref().ok_or_else(|| Failure::new("there is no PostgreSQL in this run"))
}

/// What the small disk is filled up with.
fn ballast(setting: &Setting) -> Result<PathBuf, Failure> {
    let disk = setting.disk.as_ref().ok_or_else(|| Failure::new("there is no small disk; give --disk"))?;
    Ok(disk.join("ballast"))
}

/// Writes until there is no more room.
fn fill(ballast: &Path) -> Result<(), Failure> {
    let mut file = File::create(ballast).during("making the ballast")?;
    // Smaller pieces at the end, so that nothing else finds room.
    for piece in [1 << 20, 4 << 10] {
        let zeros = vec![0; piece];
        loop {
            match file.write_all(&zeros) {
                Ok(()) => {}
                Err(fault) if fault.kind() == ErrorKind::StorageFull => break,
                Err(fault) => return Err(fault).during("filling the disk"),
            }
        }
    }
    Ok(())
}

fn nats(setting: &Setting) -> Result<&Middle, Failure> {
    setting.nats.as_ref().ok_or_else(|| Failure::new("there is no NATS in this run; give --fanout nats"))
}
