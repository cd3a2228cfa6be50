//! What operators ask and order under `/internal/v1/khala/`, with a token of their own; each subject in a file of its own.

pub(crate) mod connections;
pub(crate) mod drain;
pub(crate) mod fanout;
mod order;
pub(crate) mod retention;
pub(crate) mod revocations;
mod rules;

pub(crate) use self::{
    connections::connections,
    drain::drain,
    fanout::{fanout_hooks, fanout_metrics},
    retention::{retention, sweep},
    revocations::{revocations, revoke},
};
