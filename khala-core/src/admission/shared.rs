//! What the connections of one subject, or of one address, share, and the places that they hold in it.
//!
//! It is locked for a moment only.
//!
//! # Invariants
//! A place that is dropped is given back.

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    book::{Book, Usage},
    limited::{Limited, LimitedBy},
    options::{AdmissionOptions, Limits},
    rate::{Bucket, Rate},
};
use crate::{clock::Moment, wire::Code};

/// The wait that is told where the number of open connections is the limit.
pub(super) const PLACE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where an admitted connection is counted.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    /// None where subjects are not limited.
    pub(super) subject: Option<Arc<str>>,
    /// None where addresses are not limited, or it has none.
    pub(super) address: Option<IpAddr>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("subject", &self.subject)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.open -= 1;
        if let Some(subject) = &self.subject {
            state.subjects.leave(subject);
        }
        if let Some(address) = &self.address {
            state.addresses.leave(address);
        }
        self.shared.forget(&mut state);
    }
}

/// What connections share: the limits of subjects and addresses, and what they have taken.
pub(super) struct Shared {
    connections: Option<NonZeroU32>,
    pub(super) of_subjects: Limits,
    pub(super) of_addresses: Limits,
    state: Mutex<State>,
}

pub(super) struct State {
    /// Connections that are open.
    open: u64,
    pub(super) subjects: Book<Arc<str>, Usage>,
    pub(super) addresses: Book<IpAddr, Usage>,
    /// The time as the latest call told it, for a drop, which is told none.
    pub(super) latest: Moment,
}

impl Shared {
    pub(super) fn new(options: AdmissionOptions) -> Self {
        Self {
            connections: options.connections,
            of_subjects: options.of_subjects(),
            of_addresses: options.of_addresses(),
            state: Mutex::new(State {
                open: 0,
                subjects: Book::new(),
                addresses: Book::new(),
                latest: Moment::from_millis(0),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole, or leaves a count that is too high for one connection at most.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect(
        this: &Arc<Self>,
        subject: &str,
        address: Option<IpAddr>,
        now: Moment,
    ) -> Result<Place, Limited> {
        let subject: Option<Arc<str>> = this.of_subjects.any().then(|| subject.into());
        let address = address.filter(|_| this.of_addresses.any());
        let mut guard = this.lock();
        let state = &mut *guard;
        state.latest = now;
        this.forget(state);

        if this.connections.is_some_and(|most| state.open >= u64::from(most.get())) {
            let (code, retry_after) = (Code::TooManyConnections, PLACE_RETRY_AFTER);
            return Err(Limited { code, retry_after, by: LimitedBy::Node });
        }
        let mut by_address = address.as_ref().map(|address| state.addresses.entry(address));
        let mut by_subject = subject.as_ref().map(|subject| state.subjects.entry(subject));
        for (by, limits, usage) in [
            (LimitedBy::Address, this.of_addresses, &by_address),
            (LimitedBy::Subject, this.of_subjects, &by_subject),
        ] {
            if let (Some(most), Some(usage)) = (limits.connections, usage)
                && usage.open >= u64::from(most.get())
            {
                return Err(Limited { code: Code::TooManyConnections, retry_after: PLACE_RETRY_AFTER, by });
            }
        }
        let of_address = this.of_addresses.connects.zip(by_address.as_deref_mut());
        let of_subject = this.of_subjects.connects.zip(by_subject.as_deref_mut());
        take_all(
            Code::TooManyConnections,
            now,
            [
                of_address.map(|(rate, usage)| (LimitedBy::Address, rate, &mut usage.connects)),
                of_subject.map(|(rate, usage)| (LimitedBy::Subject, rate, &mut usage.connects)),
            ],
        )?;
        for usage in [by_address, by_subject].into_iter().flatten() {
            usage.open += 1;
        }
        state.open += 1;
        drop(guard);
        Ok(Place { shared: Arc::clone(this), subject, address })
    }

    pub(super) fn forget(&self, state: &mut State) {
        state.subjects.forget(|usage| usage.is_spent(self.of_subjects, state.latest));
        state.addresses.forget(|usage| usage.is_spent(self.of_addresses, state.latest));
    }
}

/// A bucket to ask, with its rate and whose it is.
pub(super) type LimitCheck<'a> = Option<(LimitedBy, Rate, &'a mut Bucket)>;

/// Takes one from each bucket, or from none: then the longest wait is told.
pub(super) fn take_all<const N: usize>(
    code: Code,
    now: Moment,
    mut asked: [LimitCheck<'_>; N],
) -> Result<(), Limited> {
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
