//! How much one connection, one principal and one address may do, and how much old history a node reads at once.
//!
//! Nothing here knows the time or a socket: the moment is an argument. What must stay true: over any time a bucket
//! lets through at most its burst and what its rate makes of that time; what is refused takes nothing from any
//! bucket; and what has refilled and holds no place is forgotten, so memory follows those who are here.

mod book;
mod gate;
mod options;
mod rate;
mod shared;
mod turns;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

pub(crate) use self::{book::Book, rate::Bucket};
use self::{
    book::Usage,
    options::Limits,
    shared::{Place, Shared},
};
pub(crate) use self::{
    gate::Gate,
    turns::{Turn, Turns, Waiter},
};
pub use self::{gate::ReplayOptions, options::AdmissionOptions, rate::Rate};
use crate::{update::Timestamp, wire::Code};

/// Whose limit it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitedBy {
    /// The address's: everybody's behind it.
    Address,
    /// The connection's own.
    Connection,
    /// The server's: of all who come to it.
    Node,
    /// The principal's: of all its connections.
    Principal,
}

impl LimitedBy {
    /// As it is in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Connection => "connection",
            Self::Node => "node",
            Self::Principal => "principal",
        }
    }
}

/// Why something was not let through, and when to come back. Its `Display` names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limited {
    /// The reason: [`Code::TooManyConnections`], [`Code::JoinRateLimited`], [`Code::FrameRateLimited`] or
    /// [`Code::ReplayDeferred`].
    pub code: Code,
    /// After that long, in whole milliseconds, it is let through if nobody else of the same principal or address took
    /// the place. Where connections open at once are limited it is a second, as nobody knows when one ends.
    pub retry_after: Duration,
    /// Whose limit it was; of several, the one with the longest wait.
    pub by: LimitedBy,
}

impl Limited {
    /// A replay that the host of a session puts off.
    pub fn replay_deferred(retry_after: Duration) -> Self {
        Self { code: Code::ReplayDeferred, retry_after, by: LimitedBy::Node }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.by {
            LimitedBy::Address => "this address",
            LimitedBy::Connection => "this connection",
            LimitedBy::Node => "this server",
            LimitedBy::Principal => "the token's holder",
        };
        let what = match self.code {
            Code::FrameRateLimited => "sends frames too fast",
            Code::JoinRateLimited => "joins too often",
            Code::ReplayDeferred => "replays as much history as it may",
            _ if self.by == LimitedBy::Node => "has as many connections as it may",
            _ => "opens too many connections",
        };
        write!(f, "{whose} {what}: try again in {} ms", self.retry_after.as_millis())
    }
}

impl std::error::Error for Limited {}

/// Lets connections in, and counts what those who share a principal or an address do. A clone is another handle.
#[derive(Clone)]
pub struct Admission {
    options: AdmissionOptions,
    /// None where nothing is shared.
    shared: Option<Arc<Shared>>,
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
            options.connections.is_some() || options.of_principals().any() || options.of_addresses().any();
        Self { options, shared: shared.then(|| Arc::new(Shared::new(options))) }
    }

    /// Lets one connection of `principal` in, or says when to come back. Without an `address` no address is limited.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::TooManyConnections`]. It has taken nothing.
    pub fn connect(
        &self,
        principal: &str,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Admitted, Limited> {
        let place = match &self.shared {
            Some(shared) => Some(Shared::connect(shared, principal, address.map(host), now)?),
            None => None,
        };
        Ok(Admitted { options: self.options, joins: Bucket::default(), frames: Bucket::default(), place })
    }

    /// Whether `address` may try to connect now: whether its connects, good and [in vain](Self::failed), are within
    /// its rate. It takes nothing.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::TooManyConnections`].
    pub fn may_try(&self, address: Option<IpAddr>, now: Timestamp) -> Result<(), Limited> {
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
    pub fn failed(&self, address: Option<IpAddr>, now: Timestamp) {
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
    options: AdmissionOptions,
    joins: Bucket,
    frames: Bucket,
    place: Option<Place>,
}

impl Admitted {
    /// A connection that nothing limits and that is counted nowhere.
    pub fn unlimited() -> Self {
        Self {
            options: AdmissionOptions::unlimited(),
            joins: Bucket::default(),
            frames: Bucket::default(),
            place: None,
        }
    }

    /// Lets one frame through, or says when to come back.
    ///
    /// # Errors
    /// [`Limited`] with [`Code::FrameRateLimited`]. It has taken nothing.
    pub fn frame(&mut self, now: Timestamp) -> Result<(), Limited> {
        let own = self.options.frames_per_connection.map(|rate| (rate, &mut self.frames));
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
    pub fn join(&mut self, now: Timestamp) -> Result<(), Limited> {
        let own = self.options.joins_per_connection.map(|rate| (rate, &mut self.joins));
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

/// A bucket to ask, with its rate and whose it is.
type Asked<'a> = Option<(LimitedBy, Rate, &'a mut Bucket)>;

/// Takes one from each bucket, or from none: then the longest wait is told.
fn take_all<const N: usize>(code: Code, now: Timestamp, mut asked: [Asked<'_>; N]) -> Result<(), Limited> {
    let mut longest: Option<Limited> = None;
    for (by, rate, bucket) in asked.iter_mut().flatten() {
        let retry_after = bucket.wait(*rate, now);
        if retry_after > longest.as_ref().map_or(Duration::ZERO, |limited| limited.retry_after) {
            longest = Some(Limited { code, retry_after, by: *by });
        }
    }
    if let Some(limited) = longest {
        return Err(limited);
    }
    for (_, _, bucket) in asked.into_iter().flatten() {
        bucket.take();
    }
    Ok(())
}

/// Takes one from the connection's bucket and from those that it shares, which takes the lock only if there are any.
fn through(
    code: Code,
    now: Timestamp,
    own: Option<(Rate, &mut Bucket)>,
    place: Option<&Place>,
    rate: fn(&Limits) -> Option<Rate>,
    bucket: fn(&mut Usage) -> &mut Bucket,
) -> Result<(), Limited> {
    let own = own.map(|(rate, bucket)| (LimitedBy::Connection, rate, bucket));
    let Some(place) = place else { return take_all(code, now, [own]) };
    let of_address = place.address.and_then(|address| Some((address, rate(&place.shared.of_addresses)?)));
    let of_principal =
        place.principal.as_ref().and_then(|principal| Some((principal, rate(&place.shared.of_principals)?)));
    if of_address.is_none() && of_principal.is_none() {
        return take_all(code, now, [own]);
    }
    let state = &mut *place.shared.lock();
    state.latest = now;
    let address =
        of_address.map(|(address, rate)| (LimitedBy::Address, rate, bucket(state.addresses.entry(&address))));
    let principal = of_principal
        .map(|(principal, rate)| (LimitedBy::Principal, rate, bucket(state.principals.entry(principal))));
    take_all(code, now, [address, own, principal])
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::{
        rate::tests::{at, rates},
        shared::PLACE_RETRY_AFTER,
        *,
    };

    fn some(number: u32) -> Option<NonZeroU32> {
        Some(NonZeroU32::new(number).unwrap())
    }

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        Some(rate::tests::rate(per_second, burst))
    }

    fn none() -> AdmissionOptions {
        AdmissionOptions::unlimited()
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn connect(admission: &Admission, principal: &str, from: &str) -> Result<Admitted, Limited> {
        admission.connect(principal, address(from), at(0))
    }

    fn known(admission: &Admission) -> (usize, usize) {
        let state = admission.shared.as_ref().unwrap().lock();
        assert_eq!(state.principals.entries.len(), state.principals.queue.len());
        assert_eq!(state.addresses.entries.len(), state.addresses.queue.len());
        (state.principals.entries.len(), state.addresses.entries.len())
    }

    fn limited(code: Code, by: LimitedBy, millis: u64) -> Limited {
        Limited { code, retry_after: Duration::from_millis(millis), by }
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate() {
        let admission = Admission::new(none().with_frames_per_connection(rate(10, 3)));
        let mut admitted = admission.connect("ada", None, at(0)).unwrap();
        for _ in 0..3 {
            admitted.frame(at(0)).unwrap();
        }
        let refused = admitted.frame(at(0)).unwrap_err();
        assert_eq!(refused, limited(Code::FrameRateLimited, LimitedBy::Connection, 100));
        assert_eq!(refused.to_string(), "this connection sends frames too fast: try again in 100 ms");
        assert!(admitted.frame(at(99)).is_err());
        admitted.frame(at(100)).unwrap();
        assert!(admitted.frame(at(100)).is_err());
        admitted.join(at(100)).unwrap();
    }

    #[test]
    fn the_defaults_limit_a_connection_only() {
        let admission = Admission::default();
        assert!(admission.shared.is_none());
        let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
        for _ in 0..2_048 {
            admitted.join(at(0)).unwrap();
        }
        assert_eq!(admitted.join(at(0)), Err(limited(Code::JoinRateLimited, LimitedBy::Connection, 5)));
        for _ in 0..8_192 {
            admitted.frame(at(0)).unwrap();
        }
        assert_eq!(admitted.frame(at(0)), Err(limited(Code::FrameRateLimited, LimitedBy::Connection, 2)));
        let mut free = Admitted::unlimited();
        for _ in 0..10_000 {
            free.frame(at(0)).and_then(|()| free.join(at(0))).unwrap();
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Admission::new(
            none().with_connections_per_principal(some(2)).with_connections_per_address(some(3)),
        );
        let full = |by| Some(limited(Code::TooManyConnections, by, 1_000));
        let first = connect(&admission, "ada", "192.0.2.1").unwrap();
        let _second = connect(&admission, "ada", "192.0.2.2").unwrap();
        assert_eq!(connect(&admission, "ada", "192.0.2.3").err(), full(LimitedBy::Principal));
        drop(first);
        let _third = connect(&admission, "ada", "192.0.2.1").unwrap();
        let _fourth = connect(&admission, "bob", "192.0.2.1").unwrap();
        let fifth = connect(&admission, "bob", "192.0.2.1").unwrap();
        assert_eq!(connect(&admission, "eve", "192.0.2.1").err(), full(LimitedBy::Address));
        drop(fifth);
        connect(&admission, "eve", "192.0.2.1").unwrap();
        // Who comes from nowhere fills no address.
        let _sixth = admission.connect("bob", None, at(0)).unwrap();
        assert_eq!(admission.connect("bob", None, at(0)).err(), full(LimitedBy::Principal));
    }

    #[test]
    fn all_together_have_a_limit_too() {
        let admission = Admission::new(none().with_connections(some(2)));
        let full = Some(limited(Code::TooManyConnections, LimitedBy::Node, 1_000));
        let first = connect(&admission, "ada", "192.0.2.1").unwrap();
        let _second = connect(&admission, "bob", "192.0.2.2").unwrap();
        assert_eq!(connect(&admission, "eve", "192.0.2.3").err(), full);
        drop(first);
        let _third = connect(&admission, "eve", "192.0.2.3").unwrap();
        assert_eq!(admission.connect("eve", None, at(0)).err(), full);
    }

    #[test]
    fn what_is_one_address() {
        let admission = Admission::new(none().with_connections_per_address(some(1)));
        let _one = connect(&admission, "ada", "2001:db8:1:2:3:4:5:6").unwrap();
        assert!(connect(&admission, "ada", "2001:db8:1:2:ffff::1").is_err());
        let _two = connect(&admission, "ada", "2001:db8:1:3::1").unwrap();
        let _three = connect(&admission, "ada", "::ffff:192.0.2.1").unwrap();
        assert!(connect(&admission, "ada", "192.0.2.1").is_err());
        let _four = connect(&admission, "ada", "::ffff:192.0.2.2").unwrap();
    }

    #[test]
    fn connects_joins_and_frames_are_shared_by_principal_and_by_address() {
        let admission = Admission::new(
            none()
                .with_connects_per_principal(rate(1, 2))
                .with_connects_per_address(rate(2, 3))
                .with_joins_per_principal(rate(1, 2))
                .with_frames_per_address(rate(1, 2)),
        );
        let mut one = connect(&admission, "ada", "192.0.2.1").unwrap();
        let mut two = connect(&admission, "ada", "192.0.2.1").unwrap();
        let too_many = |by, millis| Some(limited(Code::TooManyConnections, by, millis));
        assert_eq!(connect(&admission, "ada", "192.0.2.1").err(), too_many(LimitedBy::Principal, 1_000));
        let mut bob = connect(&admission, "bob", "192.0.2.1").unwrap();
        assert_eq!(connect(&admission, "eve", "192.0.2.1").err(), too_many(LimitedBy::Address, 500));

        one.join(at(0)).unwrap();
        two.join(at(0)).unwrap();
        let refused = limited(Code::JoinRateLimited, LimitedBy::Principal, 1_000);
        assert_eq!(one.join(at(0)), Err(refused));
        assert_eq!(refused.to_string(), "the token's holder joins too often: try again in 1000 ms");
        bob.join(at(0)).unwrap();

        one.frame(at(0)).unwrap();
        bob.frame(at(0)).unwrap();
        assert_eq!(two.frame(at(0)), Err(limited(Code::FrameRateLimited, LimitedBy::Address, 1_000)));
        // Coming back does not help: the bucket is not the connection's.
        drop((one, two, bob));
        let mut again = admission.connect("ada", address("192.0.2.1"), at(999)).err();
        assert_eq!(again.take(), too_many(LimitedBy::Principal, 1));
        let mut again = admission.connect("eve", address("192.0.2.1"), at(999)).unwrap();
        assert_eq!(again.frame(at(999)), Err(limited(Code::FrameRateLimited, LimitedBy::Address, 1)));
    }

    #[test]
    fn who_tries_in_vain_uses_up_the_rate_of_its_address() {
        let admission = Admission::new(none().with_connects_per_address(rate(1, 2)));
        let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..2 {
            admission.may_try(here, at(0)).unwrap();
            admission.failed(here, at(0));
        }
        let refused = limited(Code::TooManyConnections, LimitedBy::Address, 1_000);
        assert_eq!(admission.may_try(here, at(0)), Err(refused));
        assert!(admission.connect("ada", here, at(0)).is_err(), "good or in vain, it is one rate");
        assert_eq!(admission.may_try(here, at(1_000)), Ok(()));
        assert_eq!((admission.may_try(there, at(0)), admission.may_try(None, at(0))), (Ok(()), Ok(())));
        for host in 0..5_000_u32 {
            let guesser = Some(IpAddr::from(host.to_be_bytes()));
            admission.failed(guesser, at(u64::from(host) * 10_000));
        }
        assert!(known(&admission).1 < 10, "who has gone is forgotten");
    }

    #[test]
    fn what_is_refused_takes_from_no_bucket() {
        let admission = Admission::new(
            none()
                .with_connections_per_principal(some(1))
                .with_connects_per_principal(rate(1, 2))
                .with_connects_per_address(rate(1, 2))
                .with_frames_per_connection(rate(1, 1))
                .with_frames_per_principal(rate(1, 3))
                .with_frames_per_address(rate(1, 3)),
        );
        let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
        for _ in 0..10 {
            assert_eq!(connect(&admission, "ada", "192.0.2.1").unwrap_err().retry_after, PLACE_RETRY_AFTER);
        }
        // The address has one connect left.
        let mut bob = connect(&admission, "bob", "192.0.2.1").unwrap();
        for _ in 0..10 {
            assert_eq!(connect(&admission, "eve", "192.0.2.1").unwrap_err().by, LimitedBy::Address);
        }
        let mut eve = connect(&admission, "eve", "192.0.2.2").unwrap();

        admitted.frame(at(0)).unwrap();
        for _ in 0..10 {
            assert_eq!(admitted.frame(at(0)).unwrap_err().by, LimitedBy::Connection);
        }
        bob.frame(at(0)).unwrap();
        eve.frame(at(0)).unwrap();
        drop(admitted);
        let mut back = admission.connect("ada", address("192.0.2.3"), at(0)).unwrap();
        back.frame(at(0)).unwrap();
    }

    #[test]
    fn no_lock_where_nothing_of_the_kind_is_shared() {
        let admission =
            Admission::new(none().with_connections_per_principal(some(9)).with_joins_per_address(rate(1, 9)));
        let shared = admission.shared.as_ref().unwrap();
        let mut admitted = connect(&admission, "ada", "192.0.2.1").unwrap();
        admitted.frame(at(1)).unwrap();
        assert_eq!(shared.lock().latest, at(0), "a frame took the lock");
        admitted.join(at(2)).unwrap();
        assert_eq!(shared.lock().latest, at(2));
        let mut nowhere = admission.connect("ada", None, at(3)).unwrap();
        nowhere.join(at(4)).unwrap();
        assert_eq!(shared.lock().latest, at(3), "a join without an address took the lock");
    }

    #[test]
    fn a_million_come_and_go_and_are_forgotten() {
        let admission = Admission::new(
            none()
                .with_connections_per_principal(some(1))
                .with_connects_per_principal(rate(100, 1))
                .with_connects_per_address(rate(100, 5)),
        );
        let stays = connect(&admission, "stays", "198.51.100.1").unwrap();
        for number in 0..1_000_000_u32 {
            let from = IpAddr::from(number.to_be_bytes());
            let now = at(u64::from(number));
            drop(admission.connect(&number.to_string(), Some(from), now).unwrap());
            if number % 1_000 == 0 {
                let (principals, addresses) = known(&admission);
                assert!(principals < 64 && addresses < 64, "{principals} {addresses}");
            }
        }
        assert_eq!(connect(&admission, "stays", "198.51.100.1").unwrap_err().by, LimitedBy::Principal);
        drop(stays);
        for _ in 0..64 {
            let _ = admission.connect("last", None, at(2_000_000));
        }
        assert_eq!(known(&admission), (1, 0));
    }

    #[test]
    fn a_crowd_that_left_is_forgotten_by_whoever_comes_next() {
        let admission = Admission::new(none().with_connections_per_principal(some(1)));
        let crowd: Vec<_> =
            (0..50_000).map(|number| admission.connect(&number.to_string(), None, at(0)).unwrap()).collect();
        assert_eq!(known(&admission).0, 50_000);
        drop(crowd);
        // The rest is found by those who come later.
        for _ in 0..known(&admission).0 {
            drop(admission.connect("late", None, at(0)).unwrap());
        }
        assert!(known(&admission).0 <= 1, "{}", known(&admission).0);
        let state = admission.shared.as_ref().unwrap().lock();
        assert!(state.principals.entries.capacity() <= 2 * book::SMALL);
        assert!(state.principals.queue.capacity() <= 2 * book::SMALL);
    }

    #[test]
    fn threads_share_what_they_share() {
        let admission = Admission::new(none().with_frames_per_principal(rate(1, 1_000)));
        let through: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let mut admitted = admission.clone().connect("ada", None, at(0)).unwrap();
                    scope.spawn(move || (0..1_000).filter(|_| admitted.frame(at(0)).is_ok()).count())
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(through, 1_000);
    }

    proptest! {
        #[test]
        fn whoever_is_refused_by_several_waits_for_all(
            connection in rates(), principal in rates(), address_rate in rates(),
            steps in prop::collection::vec((0..50_u64, 0..2_usize), 1..120),
        ) {
            let admission = Admission::new(
                none()
                    .with_frames_per_connection(Some(connection))
                    .with_frames_per_principal(Some(principal))
                    .with_frames_per_address(Some(address_rate)),
            );
            let mut pair = [(); 2].map(|()| connect(&admission, "ada", "192.0.2.1").unwrap());
            let mut now = at(0);
            for (step, which) in steps {
                now = now.plus(Duration::from_millis(step));
                if let Err(refused) = pair[which].frame(now) {
                    now = now.plus(refused.retry_after);
                    prop_assert_eq!(pair[which].frame(now), Ok(()));
                }
            }
        }
    }
}
