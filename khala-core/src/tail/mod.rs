//! The tail: the hot end of every followed topic in memory, over any journal, itself a journal of the same laws.
//!
//! It is filled by reading the journal, and by what is appended through it once the journal has acknowledged that; never
//! by what was announced: an announcement only says that there is something to read. However many subscribers wait for an
//! update, one of them reads it and all share the page. A journal that went back is believed (`regression.rs`).

mod alarm;
mod appended;
mod entry;
mod held;
mod history;
mod journal;
mod lookup;
mod mark;
mod moments;
mod options;
mod page;
mod reads;
mod regression;
mod replay_cache;
mod ring;

pub(crate) use self::{alarm::Alarm, held::HeldTopic};
pub use self::{
    journal::TailJournal,
    lookup::{CacheLookup, FollowResult, Freshness},
    options::TailOptions,
    page::SharedPage,
};
