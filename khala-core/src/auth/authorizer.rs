//! Who may read, or publish to, which topic: the question that only the application can answer.

use std::fmt;

use async_trait::async_trait;

use super::{Denied, Grant};
use crate::topic::Topic;

/// What somebody wants with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "an authorizer must decide both")]
pub enum Access {
    /// To publish to it.
    Publish,
    /// To read it.
    Read,
}

impl Access {
    /// The scope that opens a topic for this, where its class names no others.
    pub fn scope(self) -> &'static str {
        match self {
            Self::Publish => "khala:publish",
            Self::Read => "khala:read",
        }
    }
}

/// Decides about one topic. It is asked after the topic's class: only where the scopes and the bound claims are
/// right already. It is async, because ownership may live in a database.
///
/// ```
/// # use async_trait::async_trait;
/// # use khala_core::{Grant, Topic, auth::{Access, Authorizer, Denied}};
/// /// Only members of a room read it; anybody publishes.
/// #[derive(Debug)]
/// struct Members(std::collections::HashSet<(String, String)>);
///
/// #[async_trait]
/// impl Authorizer for Members {
///     async fn authorize(&self, grant: &Grant, topic: &Topic, access: Access) -> Result<(), Denied> {
///         let member = self.0.contains(&(topic.as_str().to_owned(), grant.subject().to_owned()));
///         if member || access == Access::Publish { Ok(()) } else { Err(Denied::ForbiddenTopic) }
///     }
/// }
/// ```
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether the subject of `grant` may have `access` to `topic`.
    ///
    /// Asked at each join and each request, and again for every joined topic when a fresh token is handed over.
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied`], with the reason. [`Denied::Unavailable`] is neither an access nor a refusal: the client is asked to
    /// try again.
    async fn authorize(&self, grant: &Grant, topic: &Topic, access: Access) -> Result<(), Denied>;
}

/// Says yes to whatever the topic class has let through.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn authorize(&self, _: &Grant, _: &Topic, _: Access) -> Result<(), Denied> {
        Ok(())
    }
}
