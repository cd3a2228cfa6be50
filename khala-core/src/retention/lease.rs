//! The lead of sweeps: taken before one, renewed while it goes on, and lost where that cannot be done in time.
//!
//! What must stay true: a sweep ends when another node may lead.

use std::{fmt::Display, time::Duration};

use super::{sweeper::Sweeper, sweeps::Lead};
use crate::{
    clock::{Moment, within},
    error::{Error, ErrorKind},
    update::Timestamp,
};

/// No lead is taken for longer than that at once, unless this node's own are.
const LEAD_MOST: Duration = Duration::from_secs(60 * 60);

impl Sweeper {
    /// Takes the lead. One that lasts longer than any does was taken by a clock that was ahead, and is over.
    pub(crate) async fn take_lead(&self, now: Timestamp, until: Timestamp) -> Result<Lead, Error> {
        let Self { node, sweeps, options, .. } = self;
        match sweeps.lead(node, now, until).await? {
            Lead::Theirs { until: theirs, .. } if theirs > now.plus(LEAD_MOST.max(2 * options.lead_for)) => {
                tracing::warn!("a lead of sweeps lasts longer than any does: it is taken over");
                sweeps.lead(node, theirs, until).await
            }
            lead => Ok(lead),
        }
    }

    /// Renews the lead for as long as it can; ready, with the reason, when it is lost.
    ///
    /// Whether it holds is judged here by how much time has passed since it was asked for, so that a step of this node's
    /// wall clock neither ends nor lengthens it. What the store has is a date, for the clocks of others: whichever of them is
    /// ahead takes a lead sooner, which costs a second sweep and nothing else.
    pub(crate) async fn keep_lead(&self, mut until: Moment) -> Error {
        let Self { node, sweeps, options, .. } = self;
        let lost = |why: &dyn Display| {
            Error::new(ErrorKind::Unavailable, "sweep", format!("the lead was lost: {why}"))
        };
        let third = (options.lead_for / 3).max(Duration::from_millis(1));
        loop {
            self.clock.sleep(third).await;
            let now = self.clock.read();
            let date = now.wall.plus(options.lead_for);
            let Some(led) = within(&*self.clock, third, sweeps.lead(node, now.wall, date)).await else {
                return lost(&"it could not be renewed in time");
            };
            match led {
                Ok(Lead::Mine) => {
                    until = now.steady.plus(options.lead_for);
                    self.set_leads_until(date);
                }
                Ok(Lead::Theirs { node, .. }) => return lost(&format!("{node} leads")),
                // It still holds; the next third may do better.
                Err(error) if self.clock.moment().plus(third) < until => {
                    tracing::debug!(%error, "the lead was not renewed")
                }
                Err(error) => return lost(&error),
            }
        }
    }
}
