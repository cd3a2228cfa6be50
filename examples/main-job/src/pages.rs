//! A subscriber over plain HTTP: it asks for the page after its cursor, again and again.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use main_job::{
    checker::{Delivery, Entry, Log},
    failure::{During as _, Failure},
    http,
};
use serde::Deserialize;
use serde_json::value::RawValue;
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

#[derive(Deserialize)]
struct Page {
    epoch: String,
    after: u64,
    updates: Vec<PageUpdate>,
}

#[derive(Deserialize)]
struct PageUpdate {
    seq: u64,
    payload: Box<RawValue>,
}

async fn follow(setting: Arc<Setting>, mut orders: Orders) -> Result<Ended, Failure> {
    let topic = setting.topic.as_str().replace('/', "%2F");
    let mut applied: Vec<Entry> = Vec::new();
    let mut counts = Counts::default();
    let mut reached = true;
    loop {
        let cursor = match applied.last() {
            Some(Entry { epoch: Some(epoch), seq, .. }) => format!("?after={seq}&epoch={epoch}"),
            _ => String::new(),
        };
        let path = format!("/v1/topics/{topic}/updates{cursor}");
        let fresh = match http::get(setting.address, &path, &setting.place.token()?).await {
            Ok((StatusCode::OK, body)) => {
                counts.connected += u64::from(!std::mem::replace(&mut reached, true));
                let Page { epoch, after, updates } =
                    serde_json::from_slice(&body).during("reading a page of history")?;
                let mark = applied.last().map_or(0, |last| last.seq);
                if after != mark {
                    return Err(Failure::new(format_args!(
                        "asked for what follows {mark}, given what follows {after}"
                    )));
                }
                let fresh = updates.len();
                applied.extend(updates.into_iter().map(|update| Entry {
                    epoch: Some(epoch.as_str().into()),
                    seq: update.seq,
                    payload: update.payload.get().into(),
                }));
                fresh
            }
            Ok((status, body)) if !status.is_server_error() => {
                let body = String::from_utf8_lossy(&body);
                return Err(Failure::new(format_args!("GET {path} was answered {status}: {body}")));
            }
            // It is being killed all the time.
            Ok(_) | Err(_) => {
                reached = false;
                0
            }
        };
        if fresh > 0 {
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
