//! The laws of a journal, of its documents, of revocations, of sweeps and of checkpoints, as tests for any implementer.
//!
//! Each law is a sentence, a number and a function of the same name; [`laws!`](crate::laws) turns those of a journal
//! and its documents into tests of one store, [`revocation_laws!`](crate::revocation_laws) those of revocations,
//! [`sweep_laws!`](crate::sweep_laws) those of who sweeps, and [`checkpoint_laws!`](crate::checkpoint_laws) those of
//! checkpoints. There is one table of each, so a new law reaches every store and nobody picks a subset: what a store
//! cannot do it declares in its [`Capabilities`], which the laws that it affects print.
//!
//! A store passes when every law passes, many times over: the laws about concurrency are real races.

#![expect(clippy::disallowed_methods, reason = "laws are tests: they race real tasks against each other")]

pub mod append;
pub mod checkpoints;
pub mod cursors;
pub mod documents;
pub mod due;
pub mod durability;
mod harness;
mod in_turn;
pub mod order;
mod race;
pub mod revocations;
mod run;
mod subject;
pub mod sweeps;
mod table;
mod tailed;
pub mod topics;
pub mod trim;

#[doc(hidden)]
pub use self::run::run;
#[doc(hidden)]
pub use self::table::{advancing_victim, revoking_victim, victim};
pub use self::{
    harness::{Capabilities, CheckpointsHarness, Harness, Place, RevocationsHarness, SweepsHarness},
    in_turn::{InTurn, Ways},
    run::Law,
    table::{checkpoint_laws, laws, revocation_laws, sweep_laws},
    tailed::Tailed,
};
