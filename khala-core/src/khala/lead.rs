//! The lead of sweeps: taken before one, renewed while it goes on, and lost where that cannot be done in time.
//!
//! What must stay true: a sweep ends when another node may lead.

use std::{fmt::Display, time::Duration};

use futures::{FutureExt as _, pin_mut, select_biased};

use super::{Khala, sweep::Sweeper};
use crate::{
    error::{Error, ErrorKind},
    retention::Lead,
    update::Timestamp,
};

/// No lead is taken for longer than that at once, unless this node's own are.
const LEAD_MOST: Duration = Duration::from_secs(60 * 60);

impl Khala {
    /// Takes the lead. One that lasts longer than any does was taken by a clock that was ahead, and is over.
    pub(super) async fn take_lead(&self, now: Timestamp, until: Timestamp) -> Result<Lead, Error> {
        let Sweeper { node, sweeps, options, .. } = &self.0.sweeper;
        match sweeps.lead(node, now, until).await? {
            Lead::Theirs { until: theirs, .. } if theirs > now.plus(LEAD_MOST.max(2 * options.lead_for)) => {
                tracing::warn!("a lead of sweeps lasts longer than any does: it is taken over");
                sweeps.lead(node, theirs, until).await
            }
            lead => Ok(lead),
        }
    }

    /// Renews the lead for as long as it can; ready, with the reason, when it is lost.
    pub(super) async fn keep_lead(&self, mut until: Timestamp) -> Error {
        let Sweeper { node, sweeps, options, .. } = &self.0.sweeper;
        let lost = |why: &dyn Display| {
            Error::new(ErrorKind::Unavailable, "sweep", format!("the lead was lost: {why}"))
        };
        let third = (options.lead_for / 3).max(Duration::from_millis(1));
        loop {
            self.clock().sleep(third).await;
            let now = self.now();
            let renewed = now.plus(options.lead_for);
            let (lead, patience) = (sweeps.lead(node, now, renewed).fuse(), self.clock().sleep(third).fuse());
            pin_mut!(lead, patience);
            let led = select_biased! {
                led = lead => led,
                () = patience => return lost(&"it could not be renewed in time"),
            };
            match led {
                Ok(Lead::Mine) => {
                    until = renewed;
                    self.0.sweeper.leads(until);
                }
                Ok(Lead::Theirs { node, .. }) => return lost(&format!("{node} leads")),
                // It still holds; the next third may do better.
                Err(error) if self.now().plus(third) < until => {
                    tracing::debug!(%error, "the lead was not renewed")
                }
                Err(error) => return lost(&error),
            }
        }
    }
}
