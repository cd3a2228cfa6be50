//! A subscriber over plain HTTP: it asks for the page after its cursor, again and again.

use std::{sync::Arc, time::Duration};

use khala_scenarios::{
    checker::Delivery,
    history::{Entry, Log, read_on},
    http::Client,
};
use khala_testing::Failure;
use tokio::time::sleep;

use crate::{
    reader::{Counts, Ended, Orders, Reader},
    setting::Setting,
};

/// Polling is what this subscriber does: this often when there is nothing new, or nobody there.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Starts the subscriber.
pub(crate) fn start(setting: &Arc<Setting>) -> Reader {
    let setting = Arc::clone(setting);
    Reader::start("GET …/updates", move |orders| follow(setting, orders))
}

async fn follow(setting: Arc<Setting>, mut orders: Orders) -> Result<Ended, Failure> {
    let mut applied: Vec<Entry> = Vec::new();
    let mut counts = Counts::default();
    let mut reached = true;
    loop {
        let client = Client::new(setting.address, setting.workspace.token()?);
        let fresh = read_on(&client, setting.topic.as_str(), &applied).await?;
        let was_reached = std::mem::replace(&mut reached, fresh.is_some());
        counts.connected += u64::from(reached && !was_reached);
        let fresh = fresh.unwrap_or_default();
        if !fresh.is_empty() {
            applied.extend(fresh);
            orders.reached(applied.last().map_or(0, |last| last.seq));
            continue;
        }
        tokio::select! {
            () = sleep(POLL_EVERY) => {}
            () = orders.stop() => {
                let runs = vec![applied];
                let log = Log { name: orders.name().to_owned(), delivery: Delivery::ExactlyOnce, runs };
                return Ok(Ended { log, counts });
            }
        }
    }
}
