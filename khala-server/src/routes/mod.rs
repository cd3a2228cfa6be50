//! The routes, one file for each kind.

pub(crate) mod admin;
pub(crate) mod batch;
pub(crate) mod documents;
pub(crate) mod health;
pub(crate) mod history;
mod lines;
pub(crate) mod mint;
pub(crate) mod publish;
pub(crate) mod stream;

pub(crate) use self::{
    admin::{connections, drain, fanout_hooks, fanout_metrics, retention, revocations, revoke, sweep},
    documents::{document, snapshot},
    health::{health, metrics, ready},
    history::{bounds, topics, updates},
    mint::mint,
    publish::{publish, publish_to},
    stream::publish_stream,
};
