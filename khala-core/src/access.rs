//! Access control: verifies tokens, authorizes what their subjects ask for, revokes, and keeps up with what other nodes revoked.

use std::{net::IpAddr, num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, TryFutureExt as _, future, select_biased, stream};

use crate::{
    admission::{Admission, Admitted, Limited},
    auth::{
        Access, Authorizer, Denied, Grant, Revocation, RevocationCache, RevocationId, RevocationPage, Token,
        Verifier,
    },
    class::Classes,
    clock::{self, Clock, Moment},
    error::{Error, ErrorKind},
    fanout::{Fanout, Watch},
    finish::Finish,
    position::Watermark,
    retention::Dates,
    stats::Stats,
    topic::Topic,
};

/// How old the copy of the revocations may be: half of the second after which nothing reaches a revoked client.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How long a verifier or an authorizer may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);
/// How often what has ended is forgotten, and what could not be read is looked at again.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Decides who may do what; [`Khala::access`](crate::Khala::access) gives it. Cloning it gives another handle to the same.
#[derive(Clone, Debug)]
pub struct AccessControl(Arc<Parts>);

/// What access control stands on.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) verifier: Arc<dyn Verifier>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) classes: Classes,
    pub(crate) admission: Admission,
    pub(crate) revocations: RevocationCache,
    pub(crate) fanout: Arc<dyn Fanout>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dates: Arc<Dates>,
    pub(crate) stats: Arc<Stats>,
}

impl AccessControl {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What the token proves now: that it is good, and not revoked.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied`], with the reason. [`Denied::Unavailable`] where it cannot be checked within five seconds, or where
    /// the revocations were never read.
    pub async fn verify(&self, token: &Token) -> Result<Grant, Denied> {
        let grant = self.within(self.0.verifier.verify(token, self.0.clock.now())).await?;
        if grant.expires_at() <= self.0.clock.now() {
            return Err(Denied::TokenExpired);
        }
        let names = [Some(grant.subject()), grant.session_id(), grant.token_id()];
        if names.into_iter().flatten().any(|name| RevocationId::check(name).is_err()) {
            return Err(Denied::InvalidToken("it has a name that no revocation could name"));
        }
        let not_older_than = self.0.clock.moment().minus(2 * POLL_EVERY);
        if !self.0.revocations.is_fresh(not_older_than)
            && let Err(unavailable) = self.catch_up(Some(not_older_than)).await
        {
            if !self.0.revocations.is_loaded() {
                return Err(unavailable);
            }
            // A revocation is stored first: while this node cannot read the store, hardly any node can write to it.
            tracing::warn!(error = ?unavailable, "the revocations cannot be read; the known ones hold");
        }
        self.0.revocations.check(&grant)?;
        self.0.revocations.note_verified(&grant, self.0.clock.moment());
        Ok(grant)
    }

    /// Whether `grant` stands still: that it has not run out, and that nothing that this node knows takes it back.
    ///
    /// It waits for nothing. A host asks it again where time has passed between the verifying and the deed.
    ///
    /// # Errors
    /// [`Denied`], with the reason.
    pub fn check(&self, grant: &Grant) -> Result<(), Denied> {
        if grant.expires_at() <= self.0.clock.now() {
            return Err(Denied::TokenExpired);
        }
        self.0.revocations.check(grant)
    }

    /// Whether `address` may try its token now, or did so too often.
    ///
    /// # Errors
    /// [`Limited`], by [`AdmissionOptions::connects_per_address`](crate::admission::AdmissionOptions).
    pub fn check_connect_rate(&self, address: Option<IpAddr>) -> Result<(), Limited> {
        self.0.admission.check_connect_rate(address, self.0.clock.moment())
    }

    /// Counts a try of `address` that was refused.
    pub fn failed(&self, address: Option<IpAddr>) {
        self.0.admission.failed(address, self.0.clock.moment());
    }

    /// Whether `grant` was revoked, by `jti`, `sid` or `sub`, as the store says now.
    ///
    /// For a host that exchanges one credential for another: the new one must not outlive a revocation that this node
    /// has not heard of yet. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied::TokenRevoked`], or [`Denied::Unavailable`] where the revocations cannot be read within five seconds.
    pub async fn check_revoked(&self, grant: &Grant) -> Result<(), Denied> {
        // Any read that began later than this call will do.
        self.catch_up(Some(self.0.clock.moment().plus(Duration::from_millis(1)))).await?;
        self.0.revocations.check_names(grant)
    }

    /// Whether nothing that this node knows takes `grant` back.
    pub(crate) fn check_revoked_here(&self, grant: &Grant) -> Result<(), Denied> {
        self.0.revocations.check(grant)
    }

    /// Lets a connection of `subject` in, and counts it for as long as it is open.
    pub(crate) fn admit(
        &self,
        subject: &str,
        address: Option<IpAddr>,
        now: Moment,
    ) -> Result<Admitted, Limited> {
        self.0.admission.connect(subject, address, now)
    }

    /// Whether the subject of `grant` may have `access` to `topic`: by its class, then by the authorizer.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied`], with the reason. [`Denied::Unavailable`] where the authorizer does not answer within five seconds.
    pub async fn authorize(&self, grant: &Grant, topic: &Topic, access: Access) -> Result<(), Denied> {
        self.0.classes.check(grant, topic, access)?;
        self.within(self.0.authorizer.authorize(grant, topic, access)).await
    }

    /// Whether the subject of `grant` may have `access` to any topic at all, by the scopes of the classes.
    ///
    /// For what is asked of no topic, as which ones there are.
    ///
    /// # Errors
    /// [`Denied`], with the scopes that would give it.
    pub fn authorize_any(&self, grant: &Grant, access: Access) -> Result<(), Denied> {
        self.0.classes.check_any(grant, access)
    }

    /// Takes grants back: stores the revocation, ends the connections of this node that it names, and tells the
    /// other nodes.
    ///
    /// Ready when it is on stable storage.
    ///
    /// # Cancellation
    /// What was begun is finished: a future that is dropped after it was polled still revokes, and tells of it, by the host's
    /// runtime ([`Clock::finish`]).
    ///
    /// # Errors
    /// The store's [`Error`]. That the other nodes could not be told is no error: they poll.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Watermark, Error> {
        let access = self.clone();
        Finish::new(&self.0.clock, async move { access.revoke_and_announce(revocation).await }).await
    }

    async fn revoke_and_announce(&self, revocation: Revocation) -> Result<Watermark, Error> {
        let by = revocation.target.by();
        let watermark = self.0.revocations.revoke(revocation, &*self.0.clock).await?;
        tracing::info!(by, watermark = watermark.as_u64(), "a revocation was stored");
        let announced = self.0.fanout.announce_revoked(watermark).await;
        let cells = &self.0.stats.cells;
        if announced.is_ok() { &cells.revocations_announced } else { &cells.revocation_announce_failures }
            .add(1);
        if let Err(error) = announced {
            tracing::warn!(%error, "a revocation could not be announced; other nodes find it by polling");
        }
        Ok(watermark)
    }

    /// Stored revocations after a watermark, oldest first, of at most `limit` rows.
    ///
    /// # Errors
    /// The store's [`Error`].
    pub async fn revocations(&self, after: Watermark, limit: NonZeroUsize) -> Result<RevocationPage, Error> {
        self.0.revocations.store().revocations(after, limit).await
    }

    /// Ends, on this node, every connection whose token was signed with the key of that name.
    ///
    /// For a host that takes a key out of the set that the verifier uses; the verifier refuses such tokens by itself.
    pub fn distrust_key(&self, kid: &str) {
        self.0.revocations.withdraw(kid, true);
    }

    /// Undoes [`distrust_key`](Self::distrust_key), for a key that is in the set again.
    pub fn trust_key(&self, kid: &str) {
        self.0.revocations.withdraw(kid, false);
    }

    /// Keeps up with what other nodes revoke, and forgets what has ended. Never ready.
    ///
    /// It has to run for open connections to be ended within a second; `khala-server` runs it by itself. Dropping the
    /// future stops that, and nothing else: tokens that come in are checked against the store's log anyway.
    ///
    /// The caller must supervise it, as with [`supervise`](crate::health::supervise): a panic ends it, and revocations of other
    /// nodes no longer end open connections. `khala-server` does so.
    pub async fn run_revocation_sync(&self) {
        // A store that takes long to forget, or a fanout that cannot be watched, must not hold up the reading.
        future::join3(self.keep_reading(), self.keep_pruning(), self.keep_looking_again()).await;
    }

    async fn keep_looking_again(&self) {
        loop {
            self.0.clock.sleep(PRUNE_EVERY).await;
            if let Err(error) = self.0.revocations.look_again_at_corrupt().await {
                tracing::debug!(%error, "the revocations could not be looked at again");
            }
        }
    }

    async fn keep_reading(&self) {
        let mut hints = pin!(self.hints().fuse());
        let mut failing = false;
        // The first read finds what was before, which nobody could have been told of.
        let mut polled = false;
        loop {
            let read = self.catch_up(None).await;
            if let (Ok(found), true, false) = (&read, polled, failing) {
                self.0.stats.cells.missed_revocation_announcements.add(*found as u64);
            }
            match &read {
                Ok(_) if failing => tracing::info!("the revocations can be read again"),
                Err(error) if !failing => {
                    tracing::warn!(?error, "the revocations cannot be read; the known ones hold");
                }
                Ok(_) | Err(_) => {}
            }
            failing = read.is_err();
            self.0.revocations.report(self.0.clock.moment());
            let mut sleep = self.0.clock.sleep(POLL_EVERY).fuse();
            polled = select_biased! {
                announced = hints.next() => {
                    if announced == Some(true) {
                        self.0.stats.cells.revocations_heard.add(1);
                    }
                    false
                }
                () = sleep => true,
            };
        }
    }

    /// Something each time that there may be more to read: true for what was announced, and false when announcements are
    /// heard from now on, for those before were not. Without hints polling finds it.
    fn hints(&self) -> impl Stream<Item = bool> + Send {
        stream::unfold(None, async |watch: Option<Watch<Watermark>>| {
            let Some(mut watch) = watch else {
                loop {
                    match self.0.fanout.watch_revoked().await {
                        Ok(watch) => return Some((false, Some(watch))),
                        Err(_) => self.0.clock.sleep(POLL_EVERY).await,
                    }
                }
            };
            watch.moved().await;
            Some((true, Some(watch)))
        })
    }

    async fn keep_pruning(&self) {
        loop {
            // A wall clock that is ahead for a while must not have forgotten what holds when it is put right.
            let now = self.0.dates.at(self.0.clock.read());
            self.0.revocations.prune(now);
            let mut pruned = self.0.revocations.store().prune(now).fuse();
            let mut sleep = self.0.clock.sleep(PRUNE_EVERY).fuse();
            select_biased! {
                pruned = pruned => {
                    if let Err(error) = pruned {
                        tracing::warn!(%error, "revocations that have ended cannot be forgotten");
                    }
                    sleep.await;
                }
                () = sleep => tracing::warn!("revocations that have ended are not forgotten: the store does not answer"),
            }
        }
    }

    async fn catch_up(&self, not_older_than: Option<Moment>) -> Result<usize, Denied> {
        let clock = &*self.0.clock;
        let read = self.0.revocations.catch_up(not_older_than, clock).map_err(Denied::Unavailable);
        // Boxed: each request that verifies a token would be so much larger, and hardly any has to read.
        Box::pin(self.within(read)).await
    }

    /// Waits for a check, and not for ever.
    fn within<T>(
        &self,
        check: impl Future<Output = Result<T, Denied>> + Send,
    ) -> impl Future<Output = Result<T, Denied>> + Send {
        clock::within(&*self.0.clock, CHECK_WITHIN, check).map(|checked| {
            checked.unwrap_or_else(|| {
                let message = format!("no answer within {} s", CHECK_WITHIN.as_secs());
                Err(Denied::Unavailable(Error::new(ErrorKind::Unavailable, "access", message)))
            })
        })
    }
}
