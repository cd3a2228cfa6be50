//! The journal itself, read from the SQLite file after the last server was killed: no server stands in between.

use khala_core::journal::{Journal as _, ReadFrom, ReadLimit, Replay};
use khala_scenarios::{
    checker::Delivery,
    history::{Entry, Log},
};
use khala_store_sqlite::SqliteStore;
use khala_testing::{During as _, Failure};

use crate::setting::Setting;

/// Everything that the topic holds.
pub(crate) async fn read(setting: &Setting) -> Result<Log, Failure> {
    let store = SqliteStore::open(setting.database()).during("opening the journal")?;
    let mut entries = Vec::new();
    let mut start = ReadFrom::Origin;
    loop {
        match store.read(&setting.topic, start, ReadLimit::PAGE).await.during("reading the journal")? {
            Replay::Page(page) => {
                entries.extend(page.updates.iter().map(|update| Entry {
                    epoch: Some(page.bounds.epoch.to_string().into()),
                    seq: update.seq.as_u64(),
                    payload: update.payload.as_str().into(),
                }));
                if page.is_complete() {
                    break;
                }
                start = ReadFrom::After(page.cursor());
            }
            Replay::Stale(stale) => {
                return Err(Failure::new(format_args!("the journal cannot be read on: {stale:?}")));
            }
        }
    }
    Ok(Log { name: "journal".to_owned(), delivery: Delivery::ExactlyOnce, runs: vec![entries] })
}
