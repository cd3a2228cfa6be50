//! Why something was refused: the one type that every surface answers from, so that codes and texts are decided once.
//!
//! # Invariants
//! No text names a file or a host, as an [`Error`] may: anybody may read it.

use std::time::Duration;

use crate::{
    admission::{Limited, Rate},
    auth::Denied,
    class::Tier,
    error::{Error, ErrorKind},
    update::PayloadHash,
    wire::Code,
};

/// How long to wait when nothing tells better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was not carried out: a code for machines, a detail for people, and when to try again. Every surface (HTTP, the
/// WebSocket, an application's own) answers from it.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "a host must answer every refusal")]
pub enum Refusal {
    /// The grant does not allow it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The store failed.
    #[error(transparent)]
    Failed(#[from] Error),
    /// A hash that the publisher gave is not that of its payload, in a class whose updates carry hashes.
    #[error(
        "payload_hash of update {index} is not that of its payload: {} (RFC 8785)",
        found.as_ref().map_or("it has no canonical form", PayloadHash::as_str)
    )]
    HashMismatch {
        /// Which update of the batch, from zero.
        index: usize,
        /// The hash of its payload; none where it has none.
        found: Option<PayloadHash>,
    },
    /// More is asked for than one subject, or one address, may.
    #[error("{0}")]
    Limited(Limited),
    /// A frame or a request breaks the protocol.
    #[error("{detail}")]
    Protocol {
        /// The rule.
        code: Code,
        /// What broke it.
        detail: String,
        /// When the same is let through.
        retry_after: Option<Duration>,
    },
    /// More is published than may be.
    #[error(transparent)]
    PublishLimited(#[from] PublishLimited),
}

impl From<Limited> for Refusal {
    fn from(limited: Limited) -> Self {
        Self::Limited(limited)
    }
}

impl Refusal {
    /// The refusal of a frame or a request that breaks the protocol.
    pub fn protocol(code: Code, detail: impl Into<String>) -> Self {
        Self::Protocol { code, detail: detail.into(), retry_after: None }
    }

    /// What a machine acts on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code().as_str(),
            Self::Failed(error) => error.kind().as_str(),
            Self::HashMismatch { .. } => "payload_hash_mismatch",
            Self::Limited(limited) => limited.code.as_str(),
            Self::Protocol { code, .. } => code.as_str(),
            Self::PublishLimited(limited) => limited.code().as_str(),
        }
    }

    /// What a person reads, who may be anybody: it names no file and no host, as an [`Error`] may.
    pub fn detail(&self) -> String {
        let Self::Failed(error) = self else { return self.to_string() };
        match error.kind() {
            ErrorKind::Full => "there is no space left to store anything; nothing was stored",
            ErrorKind::Invalid => "the store refuses this for good",
            ErrorKind::ReadOnly => "the store can only be read now",
            ErrorKind::Unavailable => "the store cannot answer now",
            _ => "the store needs its operator; the server's log says why",
        }
        .to_owned()
    }

    /// When to try again, if that helps.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_or(RETRY_AFTER)
    }

    /// When to try again: after `unavailable` where the store, or what checks access, cannot answer now.
    pub(crate) fn retry_after_or(&self, unavailable: Duration) -> Option<Duration> {
        match self {
            Self::Denied(Denied::Unavailable(_)) => Some(unavailable),
            Self::Failed(error) => error.is_retryable().then_some(unavailable),
            Self::Limited(limited) => Some(limited.retry_after),
            Self::PublishLimited(limited) => limited.retry_after(),
            Self::Denied(_) | Self::HashMismatch { .. } => None,
            Self::Protocol { retry_after, .. } => *retry_after,
        }
    }
}

/// Why a batch may not be published now, or ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "a host must answer every outcome")]
pub enum PublishLimited {
    /// A payload is larger than the class allows. It always will be.
    #[error("the payload of update {index} has {bytes} bytes; the topic's class {class} allows {limit}")]
    PayloadTooLarge {
        /// Which update of the batch, from zero: the first of those that are too large.
        index: usize,
        /// How large its payload is.
        bytes: usize,
        /// How large one may be.
        limit: usize,
        /// The topic's class.
        class: String,
    },
    /// The subject publishes more, to all topics together, than one subject may.
    #[error(
        "the token's subject publishes more than the {} updates a second that one subject may: try again in {} ms",
        rate.per_second(), retry_after.as_millis()
    )]
    SubjectTooFast {
        /// What one subject may.
        rate: Rate,
        /// After that long, in whole milliseconds, the batch is let through if the subject publishes nothing meanwhile.
        retry_after: Duration,
    },
    /// More is published to the topic than the class allows.
    #[error(
        "more is published to this topic than the {} updates a second of its class {class}: try again in {} ms",
        rate.per_second(), retry_after.as_millis()
    )]
    TooFast {
        /// The topic's class.
        class: String,
        /// The class's tier.
        tier: Tier,
        /// What the class allows.
        rate: Rate,
        /// After that long, in whole milliseconds, the batch is let through if nobody else publishes meanwhile.
        retry_after: Duration,
    },
    /// The topic is new, and the subject makes more new topics than one subject may.
    #[error(
        "the token's subject makes more than the {} new topics a second that one subject may: try again in {} ms",
        rate.per_second(), retry_after.as_millis()
    )]
    TooManyNewTopics {
        /// What one subject may.
        rate: Rate,
        /// After that long, in whole milliseconds, the topic is let through if the subject makes no other meanwhile.
        retry_after: Duration,
    },
}

impl PublishLimited {
    /// The code, as clients read it.
    pub fn code(&self) -> Code {
        match self {
            Self::PayloadTooLarge { .. } => Code::PayloadTooLarge,
            Self::SubjectTooFast { .. } | Self::TooFast { .. } | Self::TooManyNewTopics { .. } => {
                Code::PublishRateLimited
            }
        }
    }

    /// When to come back; none where that would not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::PayloadTooLarge { .. } => None,
            Self::SubjectTooFast { retry_after, .. }
            | Self::TooFast { retry_after, .. }
            | Self::TooManyNewTopics { retry_after, .. } => Some(*retry_after),
        }
    }
}
