//! What happens in a run, and when the server dies in it.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use khala_scenarios::{
    checker::{Acknowledgement, Limits, Order, Published},
    console::{Console, count, say},
    history::Log,
    rng::Rng,
    server::Server,
};
use khala_testing::{During as _, Failure};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    journal, pages, phoenix,
    producer::{Acknowledged, Produced, Producer, Progress},
    reader::{Counts, Killer, Reader},
    setting::Setting,
    tail,
};

/// The first builds of a crate can print nothing for that long.
const LINES_WITHIN: Duration = Duration::from_secs(15);
/// A first build of the whole workspace, on a slow machine that is busy with everything else here.
const BUILT_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The longest wait of any client before it tries again, and time to spare.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(120);

/// A run, planned.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    /// What the producer builds; nothing is the workspace.
    pub(crate) packages: Vec<String>,
    pub(crate) console: Console,
}

/// What a run leaves to be checked and told.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) published: Published,
    pub(crate) batches: u64,
    /// Of these, those that an attempt whose answer was lost had stored.
    pub(crate) duplicates: u64,
    /// Connections that the server closed because their token had run out.
    pub(crate) expired: u64,
    /// What each claims to have; the first is the journal.
    pub(crate) logs: Vec<Log>,
    /// What each went through, in the same order.
    pub(crate) counts: Vec<Counts>,
    pub(crate) builds: u64,
}

/// When the server is killed.
enum Moment {
    /// While something is being published.
    Busy { lines: u64, then: Duration },
    /// Before it has started.
    Starting { then: Duration },
    /// Whatever it is doing.
    Whenever { then: Duration },
}

impl Moment {
    fn draw(rng: &mut Rng) -> Self {
        match rng.number(0..=3) {
            0 => Self::Starting { then: rng.pause(60) },
            1 => Self::Whenever { then: rng.pause(2_000) },
            _ => Self::Busy { lines: rng.number(1..=30), then: rng.pause(30) },
        }
    }
}

impl Scenario {
    pub(crate) async fn play(&self, setting: &Arc<Setting>) -> Result<Played, Failure> {
        let Self { kills, seed, packages, console } = self;
        let built = if packages.is_empty() { "this workspace".to_owned() } else { packages.join(" and ") };
        say(format_args!(
            "Khala's main job: what cargo prints while it builds {built} is published and followed, \n\
             and the server is killed with SIGKILL {kills} times (--seed {seed}).\n"
        ));
        let mut server = setting.server()?;
        let ready = server.ready().await?;
        console.tell(format_args!(
            "khala-server answers on {} after {} ms",
            setting.address,
            ready.as_millis()
        ));

        let mut readers = [
            phoenix::start(setting, "phoenix, V2", "2.0.0"),
            phoenix::start(setting, "phoenix, V1", "1.0.0"),
            tail::start(setting),
            pages::start(setting),
        ];
        console
            .tell("4 subscribers follow: the phoenix client in Node.js (V2 and V1), khala tail, HTTP pages");
        let mut producer = Producer::start(setting, packages.clone());
        console
            .tell(format_args!("cargo build --message-format=json | khala publish {} --ack", setting.topic));

        let killers: Vec<_> = [&readers[2], &readers[0]].map(Reader::killer).into();
        let mut progress = producer.progress();
        let failing = select_all(readers.iter_mut().map(|reader| Box::pin(reader.failed())));
        tokio::select! {
            killed = self.kill(&mut server, &killers, &mut progress) => killed?,
            failure = producer.failed() => return Err(failure),
            (failure, _, _) = failing => return Err(failure),
        }

        console.tell("no more kills; the build that runs is the last one");
        let produced = producer.finish().await?;
        let head = produced.acknowledged.last().map_or(0, |last| last.last_seq);
        console.tell(format_args!("all {} lines are acknowledged", count(produced.lines.len() as u64)));
        for reader in &mut readers {
            timeout(CAUGHT_UP_WITHIN, reader.catch_up(head))
                .await
                .during("waiting for the subscribers")??;
        }
        console.tell(format_args!("every subscriber has applied update {}", count(head)));

        let mut counts = vec![Counts::default()];
        let mut logs = Vec::new();
        for reader in readers {
            let ended = reader.stop().await?;
            logs.push(ended.log);
            counts.push(ended.counts);
        }
        server.kill().await?;
        logs.insert(0, journal::read(setting).await?);
        // Everything that cargo printed, so that every byte of it is compared.
        let mut published = Published::new(Limits { payload_bytes: usize::MAX });
        let publisher = published.publisher("publisher", Order::Submitted);
        for line in &produced.lines {
            published.submit(publisher, line.as_bytes());
        }
        let Produced { acknowledged, .. } = produced;
        for Acknowledged { epoch, first_seq, last_seq, lines, .. } in &acknowledged {
            let acknowledgement = Acknowledgement { epoch, seqs: [*first_seq, *last_seq], numbers: *lines };
            published.acknowledge(publisher, acknowledgement);
        }
        let batches = acknowledged.len() as u64;
        let duplicates = acknowledged.iter().filter(|batch| batch.duplicate).count() as u64;
        let expired = setting.expired()?;
        let builds = progress.borrow().builds;
        Ok(Played { published, batches, duplicates, expired, logs, counts, builds })
    }

    /// Kills the server as often as planned, half of it during the first build, half in the storms after it; and
    /// now and then a subscriber.
    async fn kill(
        &self,
        server: &mut Server,
        killers: &[Killer],
        progress: &mut watch::Receiver<Progress>,
    ) -> Result<(), Failure> {
        let mut rng = Rng::new(self.seed);
        let mut ready = true;
        // A kill before there is anything to lose would show little.
        let begun = timeout(BUILT_WITHIN, progress.wait_for(|now| now.acknowledged > 0)).await;
        begun.during("waiting for the first update")?.during("waiting for the first update")?;
        for kill in 1..=self.kills {
            if kill == self.kills.div_ceil(2) + 1 {
                self.first_build(progress).await?;
            }
            let then = match Moment::draw(&mut rng) {
                Moment::Starting { then } => then,
                Moment::Busy { then, .. } | Moment::Whenever { then } if !ready => then,
                Moment::Whenever { then } => then,
                Moment::Busy { lines, then } => {
                    let from = progress.borrow().lines;
                    // With nothing to wait for any more it is a moment like any other.
                    let _ = timeout(LINES_WITHIN, progress.wait_for(|now| now.lines >= from + lines)).await;
                    then
                }
            };
            sleep(then).await;
            let Progress { lines, acknowledged, .. } = *progress.borrow();
            server.kill().await?;
            server.restart()?;
            let also = killers.get(usize::try_from(kill % 3).unwrap_or_default());
            if let Some(killer) = also {
                sleep(rng.pause(100)).await;
                killer.kill();
            }
            ready = rng.number(0..=4) > 0 || kill == self.kills;
            let back = match ready {
                true => format!("back after {:4} ms", server.ready().await?.as_millis()),
                false => "killed again before it is back".to_owned(),
            };
            self.console.tell(format_args!(
                "kill {kill:2} of {}: {} lines read, {} acknowledged; {back}{}",
                self.kills,
                count(lines),
                count(acknowledged),
                also.map(|killer| format!("; {} killed, too", killer.name())).unwrap_or_default(),
            ));
        }
        Ok(())
    }

    async fn first_build(&self, progress: &mut watch::Receiver<Progress>) -> Result<(), Failure> {
        if progress.borrow().builds == 0 {
            self.console.tell("the other half of the kills comes when the first build is through");
        }
        let built = timeout(BUILT_WITHIN, progress.wait_for(|now| now.builds > 0)).await;
        let lines = built.during("waiting for the first build")?.during("waiting for the first build")?.lines;
        self.console.tell(format_args!(
            "the first build is through after {} lines; from here on, builds print all of theirs at once",
            count(lines)
        ));
        Ok(())
    }
}
