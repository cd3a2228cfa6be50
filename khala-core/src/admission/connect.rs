//! The limits of connections: how much one connection, one subject and one address may do.
//!
//! # Invariants
//! What is refused takes nothing from any bucket.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::{
    book::Usage,
    limited::{Limited, LimitedBy},
    options::{AdmissionOptions, Limits},
    rate::{Bucket, Rate},
    shared::{Place, Shared, take_all},
};
use crate::{clock::Moment, wire::Code};

/// Lets connections in, and counts what those who share a subject or an address do. A clone is another handle.
#[derive(Clone)]
pub struct Admission {
    options: AdmissionOptions,
    /// None where nothing is shared.
    pub(super) shared: Option<Arc<Shared>>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(AdmissionOptions::default())
    }
}

impl Admission {
    /// Lets in what `options` allow.
    pub fn new(options: AdmissionOptions) -> Self {
        let shared =
            options.connections.is_some() || options.of_subjects().any() || options.of_addresses().any();
        Self { options, shared: shared.then(|| Arc::new(Shared::new(options))) }
    }

    /// Lets one connection of `subject` in, or says when to come back. Without an `address` no address is limited.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::TooManyConnections`]. It has taken nothing.
    pub fn connect(&self, subject: &str, address: Option<IpAddr>, now: Moment) -> Result<Admitted, Limited> {
        let place = match &self.shared {
            Some(shared) => Some(Shared::connect(shared, subject, address.map(host), now)?),
            None => None,
        };
        Ok(Admitted {
            join_rate: self.options.joins_per_connection,
            frame_rate: self.options.frames_per_connection,
            joins: Bucket::default(),
            frames: Bucket::default(),
            place,
        })
    }

    /// Whether `address` may try to connect now: whether its connects, successful and [failed](Self::failed), are within
    /// its rate. It takes nothing.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::TooManyConnections`].
    pub fn check_connect_rate(&self, address: Option<IpAddr>, now: Moment) -> Result<(), Limited> {
        let Some((shared, address, rate)) = self.address_rate(address) else { return Ok(()) };
        let mut guard = shared.lock();
        let state = &mut *guard;
        state.latest = now;
        shared.forget(state);
        let retry_after = state.addresses.entry(&address).connects.wait(rate, now);
        if retry_after.is_zero() {
            return Ok(());
        }
        Err(Limited { code: Code::TooManyConnections, retry_after, by: LimitedBy::Address })
    }

    /// Counts a try of `address` that was refused, as a connect is counted.
    pub fn failed(&self, address: Option<IpAddr>, now: Moment) {
        let Some((shared, address, rate)) = self.address_rate(address) else { return };
        let mut guard = shared.lock();
        let state = &mut *guard;
        state.latest = now;
        let connects = &mut state.addresses.entry(&address).connects;
        if connects.wait(rate, now).is_zero() {
            connects.take();
        }
        shared.forget(state);
    }

    fn address_rate(&self, address: Option<IpAddr>) -> Option<(&Shared, IpAddr, Rate)> {
        let shared = self.shared.as_deref()?;
        Some((shared, host(address?), shared.of_addresses.connects?))
    }
}

/// What counts as one address.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// A connection that was let in. Dropping it gives its places back.
#[derive(Debug)]
pub struct Admitted {
    join_rate: Option<Rate>,
    frame_rate: Option<Rate>,
    joins: Bucket,
    frames: Bucket,
    place: Option<Place>,
}

impl Admitted {
    /// A connection that nothing limits and that is counted nowhere.
    pub fn unlimited() -> Self {
        Self {
            join_rate: None,
            frame_rate: None,
            joins: Bucket::default(),
            frames: Bucket::default(),
            place: None,
        }
    }

    /// Lets one frame through, or says when to come back.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::FrameRateLimited`]. It has taken nothing.
    pub fn frame(&mut self, now: Moment) -> Result<(), Limited> {
        let own = self.frame_rate.map(|rate| (rate, &mut self.frames));
        through(
            Code::FrameRateLimited,
            now,
            own,
            self.place.as_ref(),
            |limits| limits.frames,
            |usage| &mut usage.frames,
        )
    }

    /// Lets one join through, or says when to come back.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::JoinRateLimited`]. It has taken nothing.
    pub fn join(&mut self, now: Moment) -> Result<(), Limited> {
        let own = self.join_rate.map(|rate| (rate, &mut self.joins));
        through(
            Code::JoinRateLimited,
            now,
            own,
            self.place.as_ref(),
            |limits| limits.joins,
            |usage| &mut usage.joins,
        )
    }
}

/// Takes one from the connection's bucket and from those that it shares, which takes the lock only if there are any.
fn through(
    code: Code,
    now: Moment,
    own: Option<(Rate, &mut Bucket)>,
    place: Option<&Place>,
    rate: fn(&Limits) -> Option<Rate>,
    bucket: fn(&mut Usage) -> &mut Bucket,
) -> Result<(), Limited> {
    let own = own.map(|(rate, bucket)| (LimitedBy::Connection, rate, bucket));
    let Some(place) = place else { return take_all(code, now, [own]) };
    let of_address = place.address.and_then(|address| Some((address, rate(&place.shared.of_addresses)?)));
    let of_subject =
        place.subject.as_ref().and_then(|subject| Some((subject, rate(&place.shared.of_subjects)?)));
    if of_address.is_none() && of_subject.is_none() {
        return take_all(code, now, [own]);
    }
    let state = &mut *place.shared.lock();
    state.latest = now;
    let address =
        of_address.map(|(address, rate)| (LimitedBy::Address, rate, bucket(state.addresses.entry(&address))));
    let subject =
        of_subject.map(|(subject, rate)| (LimitedBy::Subject, rate, bucket(state.subjects.entry(subject))));
    take_all(code, now, [address, own, subject])
}
