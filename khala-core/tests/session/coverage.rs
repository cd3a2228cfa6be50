//! What the random schedules have seen: a proof that they go where it hurts.

use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! seen {
    ($(#[$doc:meta])* $set:ident: $($name:ident),* $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $set { $($name),* }

        impl $set {
            const ALL: &[Self] = &[$(Self::$name),*];

            fn counts() -> &'static [AtomicUsize] {
                static COUNTS: [AtomicUsize; $set::ALL.len()] = [const { AtomicUsize::new(0) }; $set::ALL.len()];
                &COUNTS
            }

            pub fn saw(self) {
                Self::counts()[self as usize].fetch_add(1, Ordering::Relaxed);
            }

            /// How often each was seen, and those that never were.
            pub fn seen() -> (Vec<(Self, usize)>, Vec<Self>) {
                let count = |what: Self| Self::counts()[what as usize].load(Ordering::Relaxed);
                let counts: Vec<_> = Self::ALL.iter().map(|what| (*what, count(*what))).collect();
                let never = counts.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what).collect();
                (counts, never)
            }
        }
    };
}

seen! {
    /// What `schedules.rs` and its pairs see.
    Saw: Blocked, BudgetExceeded, Deferred, Drained, Expired, Failure, Head, HintDropped, HintRepeated, Refreshed, RefreshRefused, Restart,
    Resumed, Snapshot, SnapshotLive, SnapshotPages, SnapshotRestarted, StaleJoin, StaleLive,
    TooManyTopics, TwoReasons, Unavailable, UnavailableLive, Wiped, Withdrawn,
}

seen! {
    /// What the model of `model.rs` sees.
    Met: AuthorizerDown, Blocked, ChannelRefused, ChannelUnavailable, ConnectRefused, Expired, ExpiredWhileBlocked,
    Forbidden, JoinUnavailable, KeyWithdrawn, KeyWithdrawnWhileBlocked, Polled, RefreshExpired, RefreshInvalid,
    RefreshKeyWithdrawn, RefreshOfAnother, RefreshRevoked, RefreshTaken, Rejoined, Revoked, RevokedByHint,
    RevokedByPoll, RevokedHere, RevokedJti, RevokedSid, RevokedSub, RevokedWhileBlocked, SparedBySub, Wider,
    Narrower, Survived,
}

pub fn saw(what: Saw) {
    what.saw();
}
