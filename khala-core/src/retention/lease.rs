//! The lead of sweeps: taken before one, renewed while it goes on, and lost where that cannot be done in time.
//!
//! What must stay true: a sweep ends when another node may lead.

use std::{fmt::Display, time::Duration};

use super::{sweeper::Sweeper, sweeps::Lease};
use crate::{
    clock::{Moment, within},
    error::{Error, ErrorKind},
    update::Timestamp,
};

/// No lead is taken for longer than that at once, unless this node's own are.
const LEAD_MOST: Duration = Duration::from_secs(60 * 60);

impl Sweeper {
    /// Takes the lead. One that lasts longer than any does was taken by a clock that was ahead, and is over.
    pub(crate) async fn take_lease(&self, now: Timestamp, until: Timestamp) -> Result<Lease, Error> {
        let Self { node, sweeps, options, .. } = self;
        match sweeps.try_acquire(node, now, until).await? {
            Lease::HeldBy { until: theirs, .. }
                if theirs > now.plus(LEAD_MOST.max(2 * options.lease_duration)) =>
            {
                tracing::warn!("a lead of sweeps lasts longer than any does: it is taken over");
                sweeps.try_acquire(node, theirs, until).await
            }
            lead => Ok(lead),
        }
    }

    /// Renews the lead for as long as it can; ready, with the reason, when it is lost.
    ///
    /// Whether it holds is judged here by how much time has passed since it was asked for, so that a step of this node's
    /// wall clock neither ends nor lengthens it. What the store has is a date, for the clocks of others: whichever of them is
    /// ahead takes a lead sooner, which costs a second sweep and nothing else.
    pub(crate) async fn keep_lease(&self, mut until: Moment) -> Error {
        let Self { node, sweeps, options, .. } = self;
        let lost = |why: &dyn Display| {
            Error::new(ErrorKind::Unavailable, "sweep", format!("the lead was lost: {why}"))
        };
        let third = (options.lease_duration / 3).max(Duration::from_millis(1));
        loop {
            self.clock.sleep(third).await;
            let now = self.clock.read();
            let date = now.wall.plus(options.lease_duration);
            let Some(led) = within(&*self.clock, third, sweeps.try_acquire(node, now.wall, date)).await
            else {
                return lost(&"it could not be renewed in time");
            };
            match led {
                Ok(Lease::Held) => {
                    until = now.steady.plus(options.lease_duration);
                    self.set_leads_until(date);
                }
                Ok(Lease::HeldBy { node, .. }) => return lost(&format!("{node} leads")),
                // It still holds; the next third may do better.
                Err(error) if self.clock.moment().plus(third) < until => {
                    tracing::debug!(%error, "the lead was not renewed")
                }
                Err(error) => return lost(&error),
            }
        }
    }
}
