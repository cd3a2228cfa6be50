//! What this node knows to be revoked: a copy in memory of the store's log of revocations, read on from where it ends.
//!
//! # Invariants
//! A revocation is in the copy before it wakes the connections that it may name. So a connection that is registered and then
//! asks the copy misses nothing.
//!
//! A stored row that cannot be read does not keep the other rows from being read, and it is reported: tokens that have what the
//! row names are refused, and the part `revocations` of the node's health is degraded until the row is gone or can be read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    auth::{CorruptRevocation, Denied, Grant, Revocation, RevocationId, RevocationTarget, Revocations},
    clock::{Clock, Moment},
    error::Error,
    health::Part,
    position::Watermark,
    recent::Recent,
    registry::{ConnectionRegistry, HeldGrant, RevocableName},
    telemetry,
    update::Timestamp,
};

/// Tokens that are remembered: as many as the last to be verified.
const SEEN: usize = 4_096;
/// Rows that a note of health names.
const NOTED: usize = 3;
/// Revocations read at once.
const PAGE: NonZeroUsize = NonZeroUsize::new(1_000).expect("1,000 is not zero");

/// The copy.
#[derive(Debug)]
pub(crate) struct RevocationCache {
    store: Arc<dyn Revocations>,
    known: Mutex<Known>,
    /// Degraded while a stored row cannot be read.
    part: Part,
    /// Tokens that were verified recently, by the hash of their names, and when each was verified first.
    seen: Mutex<Recent<u64, Option<HeldGrant>>>,
    /// Hashes the names of tokens.
    hasher: RandomState,
    /// Held while the log is read, so that many who want to know read it once.
    reading: tokio::sync::Mutex<()>,
    registry: Arc<ConnectionRegistry>,
}

#[derive(Debug)]
struct Known {
    /// How far the log was read.
    upto: Watermark,
    /// The last entry that was read, which is there again at the next look, unless the log has lost it.
    last: Option<(Watermark, RevocationTarget)>,
    /// When its end was last seen; none if it never was.
    confirmed_at: Option<Moment>,
    by_name: HashMap<RevocationTarget, Revocation>,
    /// Rows that cannot be read, and what they name where that is known.
    corrupt: BTreeMap<String, Option<RevocationTarget>>,
    /// Keys that are no longer trusted, by this node's own key set.
    withdrawn: HashSet<String>,
    /// What follows from revocations and is not stored yet.
    unstored: Vec<Revocation>,
}

impl RevocationCache {
    pub(crate) fn new(store: Arc<dyn Revocations>, registry: Arc<ConnectionRegistry>, part: Part) -> Self {
        let known = Known {
            upto: Watermark::ORIGIN,
            last: None,
            confirmed_at: None,
            by_name: HashMap::new(),
            corrupt: BTreeMap::new(),
            withdrawn: HashSet::new(),
            unstored: Vec::new(),
        };
        Self {
            store,
            known: Mutex::new(known),
            part,
            seen: Mutex::new(Recent::new(SEEN)),
            reading: tokio::sync::Mutex::default(),
            hasher: RandomState::new(),
            registry,
        }
    }

    pub(crate) fn store(&self) -> &dyn Revocations {
        &*self.store
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the log to its end, unless that was done at `not_older_than` or later; gives how many were read.
    ///
    /// What was read stays, also when the future is dropped or the rest cannot be read.
    pub(crate) async fn catch_up(
        &self,
        not_older_than: Option<Moment>,
        clock: &dyn Clock,
    ) -> Result<usize, Error> {
        let _reading = self.reading.lock().await;
        self.store_what_follows().await;
        let now = clock.moment();
        if not_older_than.is_some_and(|moment| self.is_fresh(moment)) {
            return Ok(0);
        }
        let mut read = 0;
        // What is read now was stored later than this.
        let before = self.known().confirmed_at;
        let mut last = self.known().last.clone();
        loop {
            // With the last entry once more, which shows that the log is the one that was read.
            let known =
                last.take().and_then(|last| Some((Watermark::new(last.0.as_u64().checked_sub(1)?)?, last)));
            let after = known.as_ref().map_or_else(|| self.known().upto, |(after, _)| *after);
            let page = self.store.revocations(after, PAGE).await?;
            let mut revocations = page.revocations;
            if let Some((_, (watermark, target))) = known {
                if revocations.first().is_none_or(|(at, first)| (*at, &first.target) != (watermark, &target))
                {
                    read += self.read_anew(clock.now()).await?;
                    continue;
                }
                revocations.remove(0);
            }
            read += revocations.len();
            for (watermark, revocation) in revocations {
                self.known().last = Some((watermark, revocation.target.clone()));
                self.learn(Some(watermark), revocation, before);
            }
            self.refuse_by(page.corrupt);
            // Only a page of no rows is the end: how full the others are is the store's affair.
            let Some(next) = page.next else {
                self.known().confirmed_at = Some(now);
                self.store_what_follows().await;
                return Ok(read);
            };
            let mut known = self.known();
            known.upto = known.upto.max(next);
        }
    }

    /// Reads the whole log: its last entry that was read is not where it was. It was forgotten because it has ended, or named
    /// again, or the log went back, as after a failover that lost commits: then what is known of it and holds is stored again.
    async fn read_anew(&self, now: Timestamp) -> Result<usize, Error> {
        let (mut after, mut last, mut there, mut read) = (Watermark::ORIGIN, None, HashSet::new(), 0);
        loop {
            let page = self.store.revocations(after, PAGE).await?;
            for (watermark, revocation) in page.revocations {
                there.insert(revocation.target.clone());
                last = Some((watermark, revocation.target.clone()));
                if self.known().by_name.get(&revocation.target) != Some(&revocation) {
                    read += 1;
                    // It may have been stored long ago, so nothing is said of who was there before it.
                    self.learn(None, revocation, None);
                }
            }
            self.refuse_by(page.corrupt);
            let Some(next) = page.next else { break };
            after = next;
        }
        let mut known = self.known();
        let holds = |revocation: &&Revocation| revocation.until.is_none_or(|until| until > now);
        let lost =
            known.by_name.values().filter(|revocation| !there.contains(&revocation.target)).filter(holds);
        let lost: Vec<Revocation> = lost.cloned().collect();
        if !lost.is_empty() {
            tracing::error!(
                revocations = lost.len(),
                "the log of revocations has lost some, which are stored again"
            );
        }
        known.unstored.extend(lost);
        known.upto = last.as_ref().map_or(Watermark::ORIGIN, |(watermark, _)| *watermark);
        known.last = last;
        Ok(read)
    }

    /// Takes in rows that cannot be read: from now on tokens that have what the rows name are refused, and the health says so.
    fn refuse_by(&self, corrupt: Vec<CorruptRevocation>) {
        let mut news = false;
        for CorruptRevocation { row, target, error } in corrupt {
            if self.known().corrupt.insert(row.clone(), target.clone()).is_some() {
                continue;
            }
            news = true;
            let refused = target.as_ref().map(|target| format!("{} {}", target.by(), target.id()));
            let refused = refused.as_deref().unwrap_or("no token, because what it names is not known");
            tracing::error!(row, refused, %error, "a stored revocation cannot be read; the others hold");
            if let Some(target) = &target {
                self.registry.wake(&RevocableName::of(target));
            }
        }
        if news {
            self.say_what_is_corrupt();
        }
    }

    /// Reads the whole log once more where some of it could not be read, and forgets which rows could not that can be read
    /// now or are gone.
    ///
    /// Nobody waits for it: it holds up no other reading, and what it finds is taken in as it is found.
    pub(crate) async fn look_again_at_corrupt(&self) -> Result<(), Error> {
        let mut gone: HashSet<String> = self.known().corrupt.keys().cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut after = Watermark::ORIGIN;
        loop {
            let page = self.store.revocations(after, PAGE).await?;
            for (_, revocation) in page.revocations {
                // It may have been stored long ago, so nothing is said of who was there before it.
                self.learn(None, revocation, None);
            }
            for corrupt in &page.corrupt {
                gone.remove(&corrupt.row);
            }
            self.refuse_by(page.corrupt);
            let Some(next) = page.next else { break };
            after = next;
        }
        if !gone.is_empty() {
            self.known().corrupt.retain(|row, _| !gone.contains(row));
            self.say_what_is_corrupt();
        }
        Ok(())
    }

    fn say_what_is_corrupt(&self) {
        let note = {
            let known = self.known();
            let mut rows = known.corrupt.iter().take(NOTED).map(|(row, target)| match target {
                Some(_) => format!("{row} (every token that goes by what it names is refused)"),
                None => format!("{row} (it is not known what it names, so it is not enforced)"),
            });
            let Some(first) = rows.next() else { return self.part.healthy() };
            let rows = rows.fold(first, |rows, row| format!("{rows}, {row}"));
            let more = known.corrupt.len().saturating_sub(NOTED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            format!("stored revocations cannot be read: {rows}{more}; the log says why")
        };
        self.part.degraded(note);
    }

    /// Whether the log's end was seen at `not_older_than` or later.
    pub(crate) fn is_fresh(&self, not_older_than: Moment) -> bool {
        self.known().confirmed_at.is_some_and(|at| at >= not_older_than)
    }

    /// Whether the log was ever read to its end.
    pub(crate) fn is_loaded(&self) -> bool {
        self.known().confirmed_at.is_some()
    }

    /// Stores a revocation, and takes it in.
    pub(crate) async fn revoke(&self, revocation: Revocation, clock: &dyn Clock) -> Result<Watermark, Error> {
        let before = clock.moment();
        let watermark = self.store.revoke(revocation.clone()).await?;
        self.learn(None, revocation, Some(before));
        self.store_what_follows().await;
        Ok(watermark)
    }

    /// Takes in one revocation, which was stored later than `before`, and wakes whom it may name.
    ///
    /// With a watermark it came out of the log. Without one it was just stored, and is read again in its turn.
    fn learn(&self, watermark: Option<Watermark>, revocation: Revocation, before: Option<Moment>) {
        let target = revocation.target.clone();
        if let (RevocationTarget::Sub(_), Some(before)) = (&target, before) {
            self.take_back_what_is_ahead(&revocation, before);
        }
        {
            let mut known = self.known();
            if let Some(watermark) = watermark {
                known.upto = known.upto.max(watermark);
            }
            let revocation = match known.by_name.get(&target) {
                Some(old) => revocation.merged_with(old),
                None => revocation,
            };
            known.by_name.insert(target.clone(), revocation);
        }
        self.registry.wake(&RevocableName::of(&target));
    }

    /// Takes back the grants of a subject that this node knew before its revocation was stored, although they say that they
    /// were issued later: by a clock that was ahead. Each by its own name, so that it stays taken back on all nodes and
    /// whatever their clocks say, and nobody's next login is refused; one without a name by a later moment.
    fn take_back_what_is_ahead(&self, revocation: &Revocation, before: Moment) {
        let RevocationTarget::Sub(subject) = &revocation.target else { return };
        let mut grants = self.registry.grants(&RevocableName::Sub(subject.as_str()), before);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        grants.extend(
            seen.values().flatten().filter(|seen| seen.since <= before).map(|seen| seen.grant.clone()),
        );
        drop(seen);
        grants.retain(|grant| grant.subject() == subject.as_str() && !revocation.covers(grant));
        let mut done = HashSet::new();
        for grant in grants {
            let (Some(issued_at), until) = (grant.issued_at(), grant.expires_at()) else { continue };
            let follows = match grant.token_id().map(RevocationId::parse) {
                Some(Ok(id)) => Revocation::new(RevocationTarget::Jti(id), revocation.at),
                _ => Revocation::new(revocation.target.clone(), issued_at),
            };
            let follows = follows.with_until(revocation.until.map_or(until, |end| end.max(until)));
            if !done.insert((follows.target.clone(), follows.at)) {
                continue;
            }
            self.known().unstored.push(follows.clone());
            self.learn(None, follows, None);
        }
    }

    /// Stores what follows from revocations. What cannot be stored now holds on this node, and is tried again with the next
    /// look at the log.
    async fn store_what_follows(&self) {
        loop {
            let Some(follows) = self.known().unstored.first().cloned() else { return };
            if let Err(error) = self.store.revoke(follows.clone()).await {
                tracing::warn!(%error, "a token that a clock issued which was ahead is taken back on this node only, for now");
                return;
            }
            self.known().unstored.retain(|other| *other != follows);
        }
    }

    /// Notes a token that was verified.
    pub(crate) fn note_verified(&self, grant: &Grant, now: Moment) {
        if grant.issued_at().is_some() {
            let name = (grant.subject(), grant.token_id(), grant.issued_at());
            let name = self.hasher.hash_one(name);
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.touch(&name).get_or_insert_with(|| HeldGrant { grant: grant.clone(), since: now });
        }
    }

    /// Ends the grants of a key, or lets that key be trusted again.
    pub(crate) fn withdraw(&self, kid: &str, withdrawn: bool) {
        if withdrawn {
            self.known().withdrawn.insert(kid.to_owned());
            self.registry.wake(&RevocableName::Kid(kid));
        } else {
            self.known().withdrawn.remove(kid);
        }
    }

    /// Whether `grant` stands, as far as this node knows.
    pub(crate) fn check(&self, grant: &Grant) -> Result<(), Denied> {
        self.check_key(grant)?;
        self.check_names(grant)
    }

    /// Whether the key that it was signed with is trusted still.
    pub(crate) fn check_key(&self, grant: &Grant) -> Result<(), Denied> {
        let withdrawn = grant.key_id().is_some_and(|kid| self.known().withdrawn.contains(kid));
        if withdrawn { Err(Denied::UnknownKid) } else { Ok(()) }
    }

    /// Whether nothing that it goes by was revoked.
    pub(crate) fn check_names(&self, grant: &Grant) -> Result<(), Denied> {
        let known = self.known();
        if known.by_name.is_empty() && known.corrupt.is_empty() {
            return Ok(());
        }
        let names = [
            grant.token_id().map(|id| (id, RevocationTarget::Jti as fn(RevocationId) -> RevocationTarget)),
            grant.session_id().map(|id| (id, RevocationTarget::Sid as fn(RevocationId) -> RevocationTarget)),
            Some((grant.subject(), RevocationTarget::Sub as fn(RevocationId) -> RevocationTarget)),
        ];
        let revoked = names.into_iter().flatten().any(|(id, target)| {
            // What is no id of a revocation cannot be revoked.
            let Ok(id) = RevocationId::parse(id) else { return false };
            let target = target(id);
            known.by_name.get(&target).is_some_and(|revocation| revocation.covers(grant))
                || known.corrupt.values().flatten().any(|corrupt| *corrupt == target)
        });
        if revoked { Err(Denied::TokenRevoked) } else { Ok(()) }
    }

    /// Forgets what has ended.
    pub(crate) fn prune(&self, now: Timestamp) {
        let mut known = self.known();
        known.by_name.retain(|_, revocation| revocation.until.is_none_or(|until| until > now));
    }

    /// Tells the metrics.
    pub(crate) fn report(&self, now: Moment) {
        let known = self.known();
        let (mut jti, mut sid, mut sub) = (0, 0, 0);
        for target in known.by_name.keys() {
            match target {
                RevocationTarget::Jti(_) => jti += 1,
                RevocationTarget::Sid(_) => sid += 1,
                RevocationTarget::Sub(_) => sub += 1,
            }
        }
        for (by, held) in [("jti", jti), ("sid", sid), ("sub", sub)] {
            telemetry::revocations(by, held);
        }
        // Where none was read yet, though it was tried, the age is that of the clock: an alarm.
        telemetry::revocations_age(now.since(known.confirmed_at.unwrap_or_default()).as_secs_f64());
    }
}
