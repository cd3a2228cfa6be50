//! Who sweeps, and the records of it: S1 to S5.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    node::NodeId,
    retention::{ClassSwept, Lease, SWEEPS_KEPT, SweepOutcome, SweepRecord, SweepTrigger, Sweeps},
    update::Timestamp,
};

use super::{harness::SweepsHarness, race::at_once, run::declared};

/// S1: one node leads at a time.
pub async fn s1_one_node_leads_at_a_time<H: SweepsHarness>(store: H) {
    let subject = Subject::new(&store, "S1");
    let mut leader: Option<usize> = None;
    for round in 0..6 {
        // In turn a lead that nobody has ever had, or that has just ended, and one that is held.
        let now = moment(round * 100);
        let asking = (0..8).map(|n| {
            let subject = subject.clone();
            async move { (n, subject.try_acquire(&node(n), now, now.plus(MINUTE)).await) }
        });
        let answers = at_once(asking).await;
        let leading: Vec<usize> =
            (answers.iter().filter(|(_, lead)| *lead == Lease::Held)).map(|(n, _)| *n).collect();
        let [leads] = leading[..] else { panic!("S1: of eight at once, these lead: {leading:?}") };
        if let Some(before) = leader {
            assert_eq!(leads, before, "S1: who leads amid a lead");
        }
        let theirs = Lease::HeldBy { node: node(leads), until: now.plus(MINUTE) };
        for (n, lead) in answers.into_iter().filter(|(n, _)| *n != leads) {
            // Some may have asked before the leader renewed it.
            let earlier = matches!(&lead, Lease::HeldBy { node: named, until }
                if *named == node(leads) && leader.is_some() && *until <= now.plus(MINUTE));
            assert!(lead == theirs || earlier, "S1: what node {n} was told of node {leads}: {lead:?}");
        }
        leader = Some(leads);
    }
}

/// S2: a lead that has ended can be taken, and one that has not cannot.
pub async fn s2_a_lead_that_has_ended_can_be_taken<H: SweepsHarness>(store: H) {
    let subject = Subject::new(&store, "S2");
    let large = i64::MAX.cast_unsigned();
    let mut holder = 0;
    for until in [10, 11, 5_000, large, large + 1, u64::MAX] {
        let next = (holder + 2) % 6;
        subject.leads(&node(holder), moment(9), moment(until)).await;
        let before = subject.try_acquire(&node(next), moment(until - 1), moment(u64::MAX)).await;
        let theirs = Lease::HeldBy { node: node(holder), until: moment(until) };
        assert_eq!(before, theirs, "S2: who leads a moment before {until}");
        subject.leads(&node(next), moment(until), moment(9)).await;
        holder = next;
    }
}

/// S3: who leads renews it, and gives it up, by asking again.
pub async fn s3_who_leads_renews_and_gives_up<H: SweepsHarness>(store: H) {
    let subject = Subject::new(&store, "S3");
    let (one, other) = (node(1), node(2));
    subject.leads(&one, moment(0), moment(10)).await;
    // Before its end, at it, and after it, where nobody was faster.
    for (now, until) in [(5, 20), (20, 30), (50, 60), (55, 58)] {
        subject.leads(&one, moment(now), moment(until)).await;
        let told = subject.try_acquire(&other, moment(until - 1), moment(100)).await;
        let theirs = Lease::HeldBy { node: one.clone(), until: moment(until) };
        assert_eq!(told, theirs, "S3: who leads after it was renewed at {now} until {until}");
    }
    subject.leads(&one, moment(56), moment(56)).await;
    subject.leads(&other, moment(57), moment(70)).await;
    let told = subject.try_acquire(&one, moment(58), moment(100)).await;
    let theirs = Lease::HeldBy { node: other, until: moment(70) };
    assert_eq!(told, theirs, "S3: what a node is told that gave it up, after another took it");
}

/// S4: records come newest first, the newest are kept, and no others.
pub async fn s4_records_come_newest_first_and_the_newest_are_kept<H: SweepsHarness>(store: H) {
    let subject = Subject::new(&store, "S4");
    assert_eq!(subject.records(10).await, [], "S4: of nothing");
    let past = 20;
    let mut newest_first = Vec::new();
    for n in 0..SWEEPS_KEPT as u64 + past {
        let made = record(n);
        subject.record(&made).await;
        newest_first.insert(0, made);
        if n < 3 || n + 2 > SWEEPS_KEPT as u64 {
            newest_first.truncate(SWEEPS_KEPT);
            let all = subject.records(10_000).await;
            assert_eq!(all.len(), newest_first.len(), "S4: how many are kept of {}", n + 1);
            assert!(all == newest_first, "S4: the newest of {}, newest first, as they were stored", n + 1);
        }
    }
    for limit in [1, 2, 7] {
        assert_eq!(subject.records(limit).await, newest_first[..limit], "S4: at most {limit}");
    }
}

/// S5: the records survive reopening, and the lead does, or ends with its node, as the store says.
pub async fn s5_lead_and_records_survive_reopening<H: SweepsHarness>(store: H) {
    if !H::CAPABILITIES.survives_reopening {
        return declared("S5", "survive reopening");
    }
    let subject = Subject::new(&store, "S5");
    subject.leads(&node(1), moment(0), moment(10)).await;
    for n in 0..3 {
        subject.record(&record(n)).await;
    }
    drop(subject);
    let store = H::open(store.close().await).await;
    let subject = Subject::new(&store, "S5");
    // In which order they come is for S4 to judge.
    let held = async |subject: &Subject| {
        let mut records = subject.records(9).await;
        records.sort_by_key(|record| record.took_ms);
        records
    };
    assert_eq!(held(&subject).await, [0, 1, 2].map(record), "S5: the records after reopening");
    subject.record(&record(3)).await;
    assert_eq!(
        held(&subject).await,
        [0, 1, 2, 3].map(record),
        "S5: the records, with one stored after reopening"
    );
    let told = subject.try_acquire(&node(2), moment(9), moment(20)).await;
    let theirs = Lease::HeldBy { node: node(1), until: moment(10) };
    let wanted = if H::CAPABILITIES.lease_ends_with_its_node { Lease::Held } else { theirs };
    assert_eq!(told, wanted, "S5: who leads after reopening");
}

const MINUTE: Duration = Duration::from_secs(60);

/// The sweeps of the store under test, asked in the name of a law.
#[derive(Clone, Debug)]
struct Subject {
    law: &'static str,
    sweeps: Arc<dyn Sweeps>,
}

impl Subject {
    fn new(store: &impl SweepsHarness, law: &'static str) -> Self {
        Self { law, sweeps: store.sweeps() }
    }

    async fn try_acquire(&self, node: &NodeId, now: Timestamp, until: Timestamp) -> Lease {
        let lead = self.sweeps.try_acquire(node, now, until).await;
        lead.unwrap_or_else(|error| panic!("{}: nobody knows who leads: {error:?}", self.law))
    }

    /// Takes the lead, which nobody else has.
    async fn leads(&self, node: &NodeId, now: Timestamp, until: Timestamp) {
        let lead = self.try_acquire(node, now, until).await;
        assert_eq!(lead, Lease::Held, "{}: {node} asked at {now:?} for the lead until {until:?}", self.law);
    }

    async fn record(&self, record: &SweepRecord) {
        let recorded = self.sweeps.record(record).await;
        recorded.unwrap_or_else(|error| panic!("{}: a run was not recorded: {error:?}", self.law));
    }

    async fn records(&self, limit: usize) -> Vec<SweepRecord> {
        let limit = NonZeroUsize::new(limit).expect("a law asks for some records");
        let records = self.sweeps.records(limit).await;
        records.unwrap_or_else(|error| panic!("{}: the records could not be read: {error:?}", self.law))
    }
}

fn node(n: usize) -> NodeId {
    // Told apart by case, too.
    let name = if n.is_multiple_of(2) { format!("node {n} é") } else { format!("NODE {} é", n - 1) };
    NodeId::parse(&name).expect("laws use good names")
}

fn moment(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A run that everything is told of. The moments go up and down: records come in the order in which they were stored.
fn record(n: u64) -> SweepRecord {
    let trigger = if n.is_multiple_of(2) { SweepTrigger::Order } else { SweepTrigger::Schedule };
    let outcome = match n % 3 {
        0 => SweepOutcome::Failed,
        1 => SweepOutcome::HeldBack,
        _ => SweepOutcome::Swept,
    };
    let mut record = SweepRecord::new(node(1), moment(n * 7 % 100), trigger, outcome);
    (record.took_ms, record.topics, record.topics_trimmed, record.topics_failed) = (n, 10, 2, 1);
    (record.updates, record.bytes) = (n, u64::from(u32::MAX) + n);
    (record.stale_connected, record.stale_seen) = (1, n);
    let mut class = ClassSwept::new("fallback");
    (class.topics, class.topics_trimmed, class.updates, class.bytes) = (10, 2, n, record.bytes);
    class.oldest_kept = (!n.is_multiple_of(2)).then(|| moment(n));
    record.classes = vec![class, ClassSwept::new("none")];
    record.error = n.is_multiple_of(3).then(|| format!("\"it\" failed: {n} é"));
    record
}
