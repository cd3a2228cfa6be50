//! The handle: what an application holds. It binds the traits' implementations together and owns no policy.

mod answer;
mod appending;
mod checked_documents;
mod follow;
mod permit;
mod publish_limits;
mod publishing;
mod stamps;
mod topic_handle;
mod windows;

use std::{hash::RandomState, sync::Arc};

pub(crate) use self::appending::Unannounced;
pub use self::{answer::ReadPermit, permit::PublishPermit, topic_handle::TopicHandle, windows::TopicWindow};
use self::{checked_documents::CheckedDocuments, publish_limits::Published, stamps::Stamps};
use crate::{
    access::{self, AccessControl},
    admission::{Admission, AdmissionOptions, Publishers},
    auth::{AllowAll, Authorizer, DenyAll, RevocationCache, Verifier},
    budget::MemoryBudget,
    class::{Classes, TopicClass},
    clock::{Clock, Moment},
    documents::Documents,
    fanout::Fanout,
    health::Health,
    node::NodeId,
    projection::Checkpoints,
    registry::ConnectionRegistry,
    replay::{FairQueue, ReplayAdmission, ReplayOptions, Throttle},
    retention::{ClassRetention, Cursors, Dates, Retention, SweepOptions, SweepRun, Sweeper},
    session::SessionOptions,
    snapshots::Snapshots,
    stats::Stats,
    store::Roles,
    tail::{Alarm, TailJournal, TailOptions},
    topic::Topic,
    update::Timestamp,
};

/// Durable, resumable sync over a [`Store`](crate::Store). Cloning it gives another handle to the same.
///
/// [`topic`](Self::topic) gives what an application publishes to and subscribes to.
#[derive(Clone, Debug)]
pub struct Khala(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) tail: Arc<TailJournal>,
    pub(crate) memory: MemoryBudget,
    pub(crate) documents: Arc<dyn Documents>,
    checkpoints: Arc<dyn Checkpoints>,
    pub(crate) fanout: Arc<dyn Fanout>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Arc<SessionOptions>,
    pub(crate) connections: Arc<ConnectionRegistry>,
    access: AccessControl,
    pub(crate) classes: Classes,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) replay_admission: ReplayAdmission,
    pub(crate) read_queue: FairQueue,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) snapshots: Snapshots,
    /// Tells subjects apart without keeping their names.
    pub(crate) hasher: RandomState,
    sweeper: Sweeper,
    published: Published,
    stamps: Stamps,
    pub(crate) publishers: Publishers,
    pub(crate) health: Health,
}

/// Makes a [`Khala`]. A builder and not options, because most of it is roles to put in place, which are no data.
#[derive(Debug)]
pub struct KhalaBuilder {
    roles: Roles,
    clock: Option<Arc<dyn Clock>>,
    tail: TailOptions,
    sessions: SessionOptions,
    admission: AdmissionOptions,
    verifier: Arc<dyn Verifier>,
    classes: Classes,
    authorizer: Arc<dyn Authorizer>,
    replays: ReplayOptions,
    node: Option<NodeId>,
    retention: Arc<dyn Retention>,
    sweep: SweepOptions,
    health: Health,
    memory: MemoryBudget,
}

impl KhalaBuilder {
    /// Carries announcements by `fanout` in place of the store's own.
    #[must_use]
    pub fn with_fanout(mut self, fanout: Arc<dyn Fanout>) -> Self {
        self.roles.fanout = fanout;
        self
    }

    /// Puts something else in the place of one of the store's roles.
    #[must_use]
    pub fn with_roles(mut self, change: impl FnOnce(&mut Roles)) -> Self {
        change(&mut self.roles);
        self
    }

    /// Takes the time from `clock`; without one, from the operating system.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Bounds the tail.
    #[must_use]
    pub fn with_tail(mut self, options: TailOptions) -> Self {
        self.tail = options;
        self
    }

    /// Draws what is kept and sent on `budget`; without it, on one of its own of 1 GiB.
    #[must_use]
    pub fn with_memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// Sets the sessions' limits and intervals.
    #[must_use]
    pub fn with_sessions(mut self, options: SessionOptions) -> Self {
        self.sessions = options;
        self
    }

    /// Limits what one subject of a grant, and one address, may do.
    #[must_use]
    pub fn with_admission(mut self, options: AdmissionOptions) -> Self {
        self.admission = options;
        self
    }

    /// Bounds how much history is read for those who come back.
    #[must_use]
    pub fn with_replays(mut self, options: ReplayOptions) -> Self {
        self.replays = options;
        self
    }

    /// Checks tokens by `verifier`; without one, none is accepted.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifier = verifier;
        self
    }

    /// Opens topics by these classes; without, by [`Classes::default`].
    #[must_use]
    pub fn with_classes(mut self, classes: Classes) -> Self {
        self.classes = classes;
        self
    }

    /// Asks `authorizer` about each topic that a class opens; without one, the class decides alone.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = authorizer;
        self
    }

    /// Names this process among the nodes that share the journal; the default is a random name.
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Keeps as much history as `retention` says; without one, as much as the classes say.
    #[must_use]
    pub fn with_retention(mut self, retention: Arc<dyn Retention>) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the guard of sweeps, how long a lease lasts, and which cursors count as recently seen.
    #[must_use]
    pub fn with_sweep(mut self, options: SweepOptions) -> Self {
        self.sweep = options;
        self
    }

    /// Has the handle's tasks report to `health`, as the store and the fanout may; without it, to one of its own.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// The handle.
    ///
    /// An application that exports metrics installs its recorder (the crate `metrics`) before: the handle asks the recorder
    /// once for the metrics of appends.
    ///
    /// # Panics
    /// Without a clock, if the feature `system-clock` is off.
    pub fn build(self) -> Khala {
        #[cfg(feature = "system-clock")]
        let system = || -> Arc<dyn Clock> { Arc::new(crate::clock::SystemClock::new()) };
        #[cfg(not(feature = "system-clock"))]
        let system =
            || -> Arc<dyn Clock> { panic!("without the feature `system-clock`, with_clock is needed") };
        let clock = self.clock.unwrap_or_else(system);
        let dates = Arc::new(Dates::new(clock.read()));
        let stats = Arc::new(Stats::new(&self.classes, self.memory.clone()));
        let throttle = Arc::new(Throttle::new(self.replays.rate_while_appending));
        let Roles { journal, documents, checkpoints, revocations, sweeps, fanout } = self.roles;
        let tail = TailJournal::new(journal, self.tail)
            .with_memory(self.memory.clone())
            .with_classes(self.classes.clone())
            .with_throttle(Arc::clone(&throttle), Arc::clone(&clock))
            .with_alarm(Alarm {
                stats: Arc::clone(&stats),
                part: self.health.part("history"),
                clock: Arc::clone(&clock),
            });
        let (tail, cursors) = (Arc::new(tail), Arc::new(Cursors::new(self.sweep.recent_cursor)));
        let checked =
            CheckedDocuments::new(documents, Arc::clone(&tail), self.classes.clone(), Arc::clone(&stats));
        let documents: Arc<dyn Documents> = Arc::new(checked);
        let connections = Arc::new(ConnectionRegistry::new(Arc::clone(&stats)));
        let access = AccessControl::new(access::Parts {
            verifier: self.verifier,
            authorizer: self.authorizer,
            classes: self.classes.clone(),
            admission: Admission::new(self.admission),
            revocations: RevocationCache::new(
                revocations,
                Arc::clone(&connections),
                self.health.part("revocations"),
            ),
            fanout: Arc::clone(&fanout),
            clock: Arc::clone(&clock),
            dates: Arc::clone(&dates),
            stats: Arc::clone(&stats),
        });
        let run = SweepRun {
            retention: self.retention,
            options: self.sweep,
            tail: Arc::clone(&tail),
            classes: self.classes.clone(),
            cursors: Arc::clone(&cursors),
            clock: Arc::clone(&clock),
            dates,
        };
        let sweeper = Sweeper::new(self.node.unwrap_or_else(NodeId::random), sweeps, run);
        Khala(Arc::new(Inner {
            tail,
            throttle,
            snapshots: Snapshots::new(Arc::clone(&documents), self.tail.page_limit(), self.memory.clone()),
            documents,
            checkpoints,
            fanout,
            clock,
            sessions: self.sessions.into(),
            connections,
            access,
            classes: self.classes,
            stats,
            memory: self.memory,
            replay_admission: ReplayAdmission::new(self.replays),
            read_queue: FairQueue::new(self.replays.concurrent_reads),
            hasher: RandomState::new(),
            cursors,
            sweeper,
            published: Published::new(),
            stamps: Stamps::default(),
            publishers: Publishers::new(self.admission),
            health: self.health,
        }))
    }
}

impl Khala {
    /// A handle over `store`: a [`Store`](crate::Store), an [`Arc`] of one, or its [`Roles`].
    ///
    /// Without a verifier no token is accepted, and nothing else is set: see [`builder`](Self::builder).
    ///
    /// # Panics
    /// As [`KhalaBuilder::build`].
    pub fn open(store: impl Into<Roles>) -> Self {
        Self::builder(store).build()
    }

    /// Starts to make a handle over `store`, as [`open`](Self::open) takes one.
    pub fn builder(store: impl Into<Roles>) -> KhalaBuilder {
        KhalaBuilder {
            roles: store.into(),
            clock: None,
            tail: TailOptions::default(),
            sessions: SessionOptions::default(),
            admission: AdmissionOptions::default(),
            verifier: Arc::new(DenyAll),
            classes: Classes::default(),
            authorizer: Arc::new(AllowAll),
            replays: ReplayOptions::default(),
            node: None,
            retention: Arc::new(ClassRetention),
            sweep: SweepOptions::default(),
            health: Health::new(),
            memory: MemoryBudget::default(),
        }
    }

    /// Who may do what: tokens, topics, revocations.
    pub fn access(&self) -> &AccessControl {
        &self.0.access
    }

    /// The open connections.
    pub fn connections(&self) -> &ConnectionRegistry {
        &self.0.connections
    }

    /// The sweeper, which deletes history that is no longer kept.
    pub fn retention(&self) -> &Sweeper {
        &self.0.sweeper
    }

    /// The name of this process among those that share the journal.
    pub fn node(&self) -> &NodeId {
        self.0.sweeper.node()
    }

    /// The journal, with its tail.
    pub fn journal(&self) -> &TailJournal {
        &self.0.tail
    }

    /// How far projections were folded.
    pub fn checkpoints(&self) -> &dyn Checkpoints {
        &*self.0.checkpoints
    }

    /// The documents.
    pub fn documents(&self) -> &dyn Documents {
        &*self.0.documents
    }

    /// What happened on this node since it started.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// The class of a topic, with its rules.
    pub fn class_of(&self, topic: &Topic) -> Option<&Arc<TopicClass>> {
        self.0.classes.of(topic)
    }

    /// How many replays this node takes on.
    pub fn replay_options(&self) -> ReplayOptions {
        self.0.replay_admission.options()
    }

    /// What the long-lived parts of this node say of themselves.
    pub fn health(&self) -> &Health {
        &self.0.health
    }

    /// The budget of memory that this handle draws on.
    pub fn memory(&self) -> &MemoryBudget {
        &self.0.memory
    }

    /// The topic classes.
    pub fn classes(&self) -> &Classes {
        &self.0.classes
    }

    /// The date now, by the wall clock of this handle.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The moment now, by the clock of this handle that nobody sets.
    pub fn moment(&self) -> Moment {
        self.0.clock.moment()
    }

    pub(crate) fn shared_stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(crate) fn cursors(&self) -> &Arc<Cursors> {
        &self.0.cursors
    }

    pub(crate) fn fanout(&self) -> &dyn Fanout {
        &*self.0.fanout
    }

    pub(crate) fn sessions(&self) -> &SessionOptions {
        &self.0.sessions
    }
}
