//! Who publishes by SQL: in a transaction of an application's own, which now and then takes its time to commit, or is
//! rolled back.

use std::time::Duration;

use khala_scenarios::rng::Rng;
use khala_testing::{During as _, Failure};
use sqlx::{
    Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    model::{Acknowledged, Lines, SQL},
    publishers::Desk,
};

/// A transaction that takes longer is given up and tried again: its database may be gone without a word.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One update per call, as an application would beside its own rows. A repeated key gives the first receipt.
const APPEND: &str = "SELECT outcome::text, epoch::text, first_seq, last_seq
     FROM khala.append(topic => $1, kind => 'several', payload => $2::json, dedup => $3)";

/// A publisher by SQL.
#[derive(Debug)]
pub(crate) struct BySql {
    pub(crate) desk: Desk,
    pub(crate) database: PgConnectOptions,
}

/// What a transaction is going to be.
struct Work {
    lines: Vec<Lines>,
    /// Between the appends and the end.
    pause: Duration,
    roll_back: bool,
}

impl BySql {
    /// Publishes for as long as it is waited for; ready when that fails.
    pub(crate) async fn publish(self) -> Failure {
        let mut rng = self.desk.rng();
        let mut connection = None;
        loop {
            let busy = self.desk.busy.read().await;
            let work = self.draw(&mut rng);
            if let Err(failure) = self.store(&work, &mut connection).await {
                return failure;
            }
            drop(busy);
            self.desk.rest(&mut rng).await;
        }
    }

    fn draw(&self, rng: &mut Rng) -> Work {
        // Mostly one topic. Two, in whatever order, may meet somebody who has them in the other one.
        let topics = if rng.number(0..=7) == 0 { 2 } else { 1 };
        let lines = (0..topics).map(|_| self.desk.write(rng, 3)).collect();
        let pause = if rng.number(0..=3) == 0 { rng.pause(500) } else { Duration::ZERO };
        Work { lines, pause, roll_back: rng.number(0..=4) == 0 }
    }

    /// Returns when the transaction is through, one way or the other.
    async fn store(&self, work: &Work, connection: &mut Option<PgConnection>) -> Result<(), Failure> {
        let Desk { number, model, .. } = &self.desk;
        let began = Instant::now();
        loop {
            let attempt = Instant::now();
            let done = timeout(COMMIT_WITHIN, self.attempt(work, connection)).await;
            match done {
                Ok(Ok(batches)) if work.roll_back => {
                    drop(batches);
                    for lines in &work.lines {
                        model.rolled_back(*number, lines);
                    }
                    return Ok(());
                }
                Ok(Ok(batches)) => {
                    for (topic, batch) in batches {
                        model.acknowledged(*number, topic, &batch, SQL, (began, attempt));
                    }
                    return Ok(());
                }
                Ok(Err(fault)) if !passes(&fault) => {
                    return Err(fault).during("SELECT khala.append(…)");
                }
                // Whether it was committed is not known; the keys make that no matter.
                Ok(Err(_)) | Err(_) => *connection = None,
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn attempt(
        &self,
        work: &Work,
        connection: &mut Option<PgConnection>,
    ) -> Result<Vec<(usize, Acknowledged)>, sqlx::Error> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(PgConnection::connect_with(&self.database).await?),
        };
        let mut batches = Vec::new();
        let mut transaction = connection.begin().await?;
        for Lines { topic, numbers, texts } in &work.lines {
            for (line, text) in (numbers[0]..).zip(texts) {
                let key = format!("several-{}-{topic}-{line}", self.desk.number);
                let row = sqlx::query(APPEND)
                    .bind(&self.desk.model.topics()[*topic])
                    .bind(&**text)
                    .bind(key)
                    .persistent(false)
                    .fetch_one(&mut *transaction)
                    .await?;
                batches.push((*topic, receipt(&row, line)?));
            }
        }
        sleep(work.pause).await;
        if work.roll_back {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
        Ok(batches)
    }
}

fn receipt(row: &PgRow, line: u64) -> Result<Acknowledged, sqlx::Error> {
    let seq = |name| -> Result<u64, sqlx::Error> {
        u64::try_from(row.try_get::<i64, _>(name)?).map_err(|fault| sqlx::Error::Decode(fault.into()))
    };
    let outcome: String = row.try_get("outcome")?;
    if !["written", "duplicate"].contains(&&*outcome) {
        return Err(sqlx::Error::Decode(
            format!("an append without a condition ended in {outcome:?}").into(),
        ));
    }
    Ok(Acknowledged {
        epoch: row.try_get("epoch")?,
        first_seq: seq("first_seq")?,
        last_seq: seq("last_seq")?,
        lines: [line, line],
        duplicate: outcome == "duplicate",
    })
}

/// Whether that is of the moment: the connection, a server that stops, starts or is a standby, a deadlock, a lock that
/// was waited for too long, a pooler that has nothing behind it.
fn passes(fault: &sqlx::Error) -> bool {
    const CLASSES: [&str; 6] = ["08", "25006", "40", "53", "55P03", "57"];
    match fault {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(fault) => {
            fault.code().is_some_and(|code| CLASSES.iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}
