//! How many requests of one address and of one subject may be under way.

use std::net::IpAddr;

use http::StatusCode;
use khala_core::{
    admission::{Admission, AdmissionOptions, Admitted, Limited},
    clock::Moment,
};

use crate::{Limits, problem::Problem};

/// How many requests each address and each subject has under way.
#[derive(Debug)]
pub(crate) struct RequestLimits {
    of_addresses: Admission,
    of_subjects: Admission,
}

impl RequestLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let unlimited = AdmissionOptions::unlimited();
        Self {
            of_addresses: Admission::new(AdmissionOptions {
                connections_per_address: limits.requests_per_address,
                ..unlimited
            }),
            of_subjects: Admission::new(AdmissionOptions {
                connections_per_subject: limits.requests_per_subject,
                ..unlimited
            }),
        }
    }

    pub(crate) fn of_address(&self, address: Option<IpAddr>, now: Moment) -> Result<Admitted, Problem> {
        self.of_addresses
            .connect("", address, now)
            .map_err(|limited| too_many("this address has as many requests under way as it may", limited))
    }

    pub(crate) fn of_subject(&self, subject: &str, now: Moment) -> Result<Admitted, Problem> {
        self.of_subjects.connect(subject, None, now).map_err(|limited| {
            too_many("the token's subject has as many requests under way as it may", limited)
        })
    }
}

fn too_many(detail: &str, limited: Limited) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        .with_retry_after(limited.retry_after)
}
