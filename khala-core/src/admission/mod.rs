//! Admission: how much one connection, one subject and one address may do.
//!
//! Nothing here knows the time or a socket: the moment is an argument.
//!
//! # Invariants
//! Over any time a bucket lets through at most its burst and what its rate makes of that time. What is refused takes nothing from
//! any bucket. What has refilled and holds no place is forgotten, so that memory follows the clients that are here.

mod book;
mod connect;
mod limited;
mod options;
mod publishers;
mod rate;
mod shared;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::rate::tests as rate_tests;
pub(crate) use self::{book::Book, publishers::Publishers, rate::Bucket};
pub use self::{
    connect::{Admission, Admitted},
    limited::{Limited, LimitedBy},
    options::AdmissionOptions,
    rate::Rate,
};
