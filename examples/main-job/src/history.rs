//! A topic's history over HTTP, page by page.

use std::{net::SocketAddr, sync::Arc};

use ::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    checker::Entry,
    failure::{During as _, Failure},
    http,
};

#[derive(Deserialize)]
struct Page {
    epoch: Arc<str>,
    after: u64,
    updates: Vec<PageUpdate>,
}

#[derive(Deserialize)]
struct PageUpdate {
    seq: u64,
    payload: Box<RawValue>,
}

/// What follows `read`: nothing, where there is nothing new; none, where no server answers that could know.
///
/// # Errors
/// The answer is a refusal, or no page of that place.
pub async fn read_on(
    address: SocketAddr,
    topic: &str,
    read: &[Entry],
    token: &str,
) -> Result<Option<Vec<Entry>>, Failure> {
    let topic = topic.replace('/', "%2F");
    let cursor = match read.last() {
        Some(Entry { epoch: Some(epoch), seq, .. }) => format!("?after={seq}&epoch={epoch}"),
        _ => String::new(),
    };
    let path = format!("/v1/topics/{topic}/updates{cursor}");
    match http::get(address, &path, token).await {
        Ok((StatusCode::OK, body)) => {
            let Page { epoch, after, updates } =
                serde_json::from_slice(&body).during("reading a page of history")?;
            let mark = read.last().map_or(0, |last| last.seq);
            if after != mark {
                return Err(Failure::new(format_args!(
                    "asked for what follows {mark}, given what follows {after}"
                )));
            }
            let entry = |PageUpdate { seq, payload }| Entry {
                epoch: Some(Arc::clone(&epoch)),
                seq,
                payload: payload.get().into(),
            };
            Ok(Some(updates.into_iter().map(entry).collect()))
        }
        Ok((status, body)) if !status.is_server_error() => {
            let body = String::from_utf8_lossy(&body);
            Err(Failure::new(format_args!("GET {path} was answered {status}: {body}")))
        }
        // It may be in the middle of being killed.
        Ok(_) | Err(_) => Ok(None),
    }
}
