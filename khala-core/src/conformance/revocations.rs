//! The log of revocations: R1 to R6.
//!
//! What is broken here lets a token in that was taken back. So the laws are about what a reader misses, and about
//! what is kept too short; how much is kept for good is the host's to choose.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    auth::{Revocation, RevocationId, RevocationTarget, Revocations},
    position::{MAX_POSITION, Watermark},
    update::Timestamp,
};

use super::{
    harness::RevocationsHarness,
    race::{Over, at_once, race},
    run::{Victim, declared, report},
    subject::watermark,
};

/// R1: a stored revocation is found by every reader that starts after an earlier watermark, exactly as it was made.
pub async fn r1_a_stored_revocation_is_found<H: RevocationsHarness>(store: H) {
    let subject = Subject::new(&store, "R1");
    let longest = "é".repeat(256);
    let ids = ["a", "A", "a ", "%", "_", "' OR 1 = 1 --", "\"", "\u{1f511}", &longest];
    let mut stored = Vec::new();
    let mut earlier = vec![Watermark::ORIGIN];
    for (n, id) in (0..).zip(ids) {
        for (n, target) in (n * 3..).zip([jti(id), sid(id), sub(id)]) {
            let mut revocation = Revocation::new(target, moment(n * 1_001));
            if n % 2 == 0 {
                revocation = revocation.with_until(moment(n * 1_001 + 77_777));
            }
            let given = subject.revoke(revocation.clone()).await;
            for after in &earlier {
                subject.must_find(*after, given, &revocation).await;
            }
            earlier.push(given);
            stored.push((given, revocation));
        }
    }
    // Nor does one take the place of another.
    for (given, revocation) in &stored {
        subject.must_find(Watermark::ORIGIN, *given, revocation).await;
    }
}

/// R2: reading is exclusive of the watermark, in order, and pages concatenate.
pub async fn r2_reading_is_exclusive_of_the_watermark_and_pages_concatenate<H: RevocationsHarness>(store: H) {
    let subject = Subject::new(&store, "R2");
    assert_eq!(subject.page(Watermark::ORIGIN, 3).await, [], "R2: a log that nothing was stored in");
    for n in 0..10 {
        subject.revoke(forever(&format!("r2.{n}"), n)).await;
    }
    // A watermark whose revocation has moved on is one to read after all the same.
    let mut marks: Vec<Watermark> = subject.page(Watermark::ORIGIN, LARGE).await.iter().map(mark).collect();
    subject.revoke(forever("r2.4", 4)).await;
    let all = subject.page(Watermark::ORIGIN, LARGE).await;
    marks.extend(all.last().map(mark));
    let ascending = all.windows(2).all(|pair| pair[0].0 < pair[1].0);
    assert!(ascending, "R2: not in the order of the watermarks: {all:?}");
    for after in marks {
        let rest: Vec<_> = all.iter().filter(|entry| entry.0 > after).cloned().collect();
        assert_eq!(subject.page(after, LARGE).await, rest, "R2: what is after {after}");
    }
    let beyond = watermark(MAX_POSITION);
    assert_eq!(subject.page(beyond, LARGE).await, [], "R2: what is after {beyond}");
    for limit in [1, 2, 3, 7, all.len()] {
        let (mut end, mut pages) = (Watermark::ORIGIN, Vec::new());
        loop {
            let page = subject.page(end, limit).await;
            assert!(page.len() <= limit, "R2: at most {limit} were asked for: {page:?}");
            let Some(last) = page.last().filter(|last| last.0 > end) else { break };
            end = last.0;
            pages.extend(page);
        }
        assert_eq!(pages, all, "R2: pages of {limit}, one after another");
    }
}

/// R3: no late arrivals. Once a watermark was seen, nothing at or below it appears later, whatever order
/// transactions commit in.
pub async fn r3_no_late_arrivals<H: RevocationsHarness>(store: H) {
    let subject = Subject::new(&store, "R3");
    let (over, told) = (Over::default(), Arc::new(AtomicU64::new(0)));
    let readers =
        [2, 7, LARGE].map(|limit| remember(subject.clone(), limit, over.clone(), Arc::clone(&told)));
    let writers = (0..8).map(|writer| {
        let (subject, told) = (subject.clone(), Arc::clone(&told));
        async move {
            for n in 0..10 {
                // One that is revoked already takes longer between its watermark and its commit.
                let again = (writer + n) % 4 == 0;
                let id = if again { "r3.again".to_owned() } else { format!("r3.{writer}.{n}") };
                let given = subject.revoke(forever(&id, n)).await;
                told.fetch_max(given.as_u64(), Ordering::AcqRel);
            }
        }
    });
    let (remembered, _) = race(&over, readers, writers).await;

    let log = subject.log().await;
    for (seen, read_to) in remembered {
        for (given, revocation) in log.iter().filter(|(given, _)| *given <= read_to) {
            let target = seen.get(given);
            assert!(
                target.is_some(),
                "R3: {revocation:?} appeared at {given}, after a reader had seen {read_to}"
            );
            assert_eq!(target, Some(&revocation.target), "R3: {given} is not what a reader had seen");
        }
    }
}

/// Follows the log and remembers whom it named where, as far as it was told that the log goes.
async fn remember(
    subject: Subject,
    limit: usize,
    over: Over,
    told: Arc<AtomicU64>,
) -> (BTreeMap<Watermark, RevocationTarget>, Watermark) {
    let (mut seen, mut end) = (BTreeMap::new(), Watermark::ORIGIN);
    loop {
        let last = over.is_over().await;
        let newest = watermark(told.load(Ordering::Acquire));
        loop {
            let page = subject.page(end, limit).await;
            let Some(newer) = page.last().map(mark).filter(|newer| *newer > end) else { break };
            seen.extend(page.into_iter().map(|(given, revocation)| (given, revocation.target)));
            end = newer;
        }
        assert!(end >= newest, "R3: {newest} was given, but nothing follows {end}");
        if last {
            return (seen, end);
        }
    }
}

/// R4: revoking the same thing again keeps the later `at` and the later `until`, and is read anew.
pub async fn r4_revoking_again_keeps_the_later_and_is_read_anew<H: RevocationsHarness>(store: H) {
    let subject = Subject::new(&store, "R4");
    let mut kept: Option<Revocation> = None;
    for (at, until) in [
        (20, Some(50)),
        (10, Some(90)),
        (30, Some(40)),
        (30, Some(90)),
        (20, None),
        (40, Some(60)),
        (10, Some(1)),
    ] {
        let made = ending("r4", at, until);
        kept = Some(match kept {
            Some(older) => made.clone().merged_with(&older),
            None => made.clone(),
        });
        // A reader that goes on after this one has read everything about the other before.
        let between = subject.revoke(forever(&format!("r4.{at}"), at)).await;
        subject.revoke(made.clone()).await;
        let news = subject.about("r4", between).await;
        assert_eq!(news.as_slice(), kept.as_slice(), "R4: what is read anew after {made:?}");
        let all = subject.about("r4", Watermark::ORIGIN).await;
        assert_eq!(all.as_slice(), kept.as_slice(), "R4: what is kept after {made:?}");
    }

    // At the same time, too.
    for round in 0..4 {
        let id = format!("r4.race.{round}");
        let revoking = (0..8).map(|n| {
            let (subject, id) = (subject.clone(), id.clone());
            async move { subject.revoke(ending(&id, n, Some(100 + (n + 4) % 8))).await }
        });
        at_once(revoking).await;
        let kept = subject.about(&id, Watermark::ORIGIN).await;
        assert_eq!(kept, [ending(&id, 7, Some(107))], "R4: what is kept of eight at the same time");
    }
}

/// R5: pruning forgets what has ended and nothing else, and no watermark is given twice.
pub async fn r5_pruning_forgets_what_has_ended_and_gives_no_watermark_twice<H: RevocationsHarness>(store: H) {
    let subject = Subject::new(&store, "R5");
    // With nothing left, and with something left that is older.
    for n in 0..3 {
        let newest = subject.revoke(ending(&format!("r5.newest.{n}"), 0, Some(10))).await;
        assert_eq!(subject.prune(moment(10)).await, 1, "R5: how many were forgotten");
        let given = subject.revoke(forever(&format!("r5.kept.{n}"), 0)).await;
        assert!(given > newest, "R5: {given} was given after {newest}, which had been forgotten");
    }

    let before = subject.log().await;
    let far = Revocation::new(sub("r5.far"), moment(0)).with_until(Timestamp::from_millis(u64::MAX));
    let living = [ending("r5.later", 0, Some(1_001)), forever("r5.ever", 0), far];
    let ended = [ending("r5.before", 0, Some(999)), ending("r5.at", 2_000, Some(1_000))];
    for revocation in ended.iter().chain(&living) {
        subject.revoke(revocation.clone()).await;
    }
    assert_eq!(subject.prune(moment(1_000)).await, 2, "R5: how many were forgotten");
    assert_eq!(subject.prune(moment(1_000)).await, 0, "R5: how many were forgotten again");
    // In which order they are read is for R2 to judge.
    let left: BTreeSet<_> = subject.log().await.into_iter().map(|(_, kept)| kept.target).collect();
    let meant = before.iter().map(|(_, kept)| kept).chain(&living).map(|kept| kept.target.clone());
    assert_eq!(left, meant.collect(), "R5: what is left");

    // What is revoked anew while it is forgotten is there, and for as long as that says.
    for n in 0..10 {
        let id = format!("r5.race.{n}");
        subject.revoke(ending(&id, 0, Some(1_000))).await;
        let both = [true, false].map(|prunes| {
            let (subject, anew) = (subject.clone(), ending(&id, 1_000, Some(9_000)));
            async move {
                if prunes {
                    subject.prune(moment(1_000)).await;
                } else {
                    subject.revoke(anew).await;
                }
            }
        });
        at_once(both).await;
        let kept = subject.about(&id, Watermark::ORIGIN).await;
        assert_eq!(kept.len(), 1, "R5: revoked anew at the same time as it was forgotten: {kept:?}");
    }

    if !H::CAPABILITIES.survives_reopening {
        return declared("R5", "survive reopening");
    }
    let newest = subject.revoke(ending("r5.reopened", 0, Some(10))).await;
    subject.prune(moment(10)).await;
    drop(subject);
    let store = H::open(store.close().await).await;
    let given = Subject::new(&store, "R5").revoke(forever("r5.after", 0)).await;
    assert!(given > newest, "R5: after reopening {given} was given, and {newest} before");
}

/// R6: acknowledged revocations survive reopening and `kill -9`.
pub async fn r6_acknowledged_means_durable<H: RevocationsHarness>(store: H) {
    if !H::CAPABILITIES.survives_reopening {
        return declared("R6", "survive reopening");
    }
    let subject = Subject::new(&store, "R6");
    for n in 0..6 {
        subject.revoke(ending(&format!("r6.{n}"), n, (n % 2 == 0).then_some(n + 10))).await;
    }
    subject.prune(moment(12)).await;
    subject.revoke(ending("r6.1", 100, Some(200))).await;
    let before = subject.log().await;
    drop(subject);
    let store = H::open(store.close().await).await;
    assert_eq!(Subject::new(&store, "R6").log().await, before, "R6: the log after reopening");

    if !H::CAPABILITIES.survives_kill {
        return declared("R6", "survive kill -9");
    }
    let place = store.close().await;
    let victim = Victim { law: "R6", test: "revoking_victim" };
    let reports = victim.killed_at_work(&place, ACKNOWLEDGED).await;
    let store = H::open(place).await;
    let subject = Subject::new(&store, "R6");
    let log = subject.log().await;
    let older = log.iter().filter(|entry| before.contains(entry)).count();
    assert_eq!(older, before.len(), "R6: of {before:?}, after kill -9 there is {log:?}");
    acknowledged_is_there(&subject, &log, &reports).await;
}

/// After how many acknowledgements the victim is killed.
const ACKNOWLEDGED: usize = 60;

/// Whom the victim revokes again and again.
const AGAIN: &str = "r6.again";

/// What the victim does: revokes from several tasks, and reports each watermark as it gets it.
pub(super) async fn revoke_until_killed(revocations: Arc<dyn Revocations>) {
    let subject = Subject { law: "R6", revocations };
    let writers = (0..4).map(|writer| {
        let subject = subject.clone();
        async move {
            // An end, should nobody come to kill it.
            for n in 0..2_000 {
                let id = if writer == 0 { AGAIN.to_owned() } else { format!("r6.killed.{writer}.{n}") };
                let given = subject.revoke(forever(&id, n)).await;
                report(&format!("{given} {n} {id}"));
            }
        }
    });
    at_once(writers).await;
}

async fn acknowledged_is_there(subject: &Subject, log: &[(Watermark, Revocation)], reports: &[String]) {
    let mut last = Watermark::ORIGIN;
    for report in reports {
        let said: Vec<&str> = report.split(' ').collect();
        let [given, n, id] = said[..] else { panic!("R6: the process to be killed reported {report:?}") };
        let number = |text: &str| text.parse::<u64>().expect("the report holds numbers");
        let (given, revocation) = (watermark(number(given)), forever(id, number(n)));
        last = last.max(given);
        // What was revoked again later stands further on.
        let there =
            log.iter().find(|(_, kept)| kept.target == revocation.target).is_some_and(|(at, kept)| {
                (*at, kept) == (given, &revocation) || (id == AGAIN && *at > given && kept.at > revocation.at)
            });
        assert!(there, "R6: {revocation:?} was given {given}; after kill -9 there is {log:?}");
    }
    let given = subject.revoke(forever("r6.after", 0)).await;
    assert!(given > last, "R6: after kill -9 {given} was given, and {last} before");
}

/// The revocations of the store under test, asked in the name of a law.
#[derive(Clone, Debug)]
struct Subject {
    law: &'static str,
    revocations: Arc<dyn Revocations>,
}

impl Subject {
    fn new(store: &impl RevocationsHarness, law: &'static str) -> Self {
        Self { law, revocations: store.revocations() }
    }

    async fn revoke(&self, revocation: Revocation) -> Watermark {
        let stored = self.revocations.revoke(revocation).await;
        stored.unwrap_or_else(|error| panic!("{}: a revocation was not stored: {error:?}", self.law))
    }

    async fn prune(&self, now: Timestamp) -> u64 {
        let pruned = self.revocations.prune(now).await;
        pruned.unwrap_or_else(|error| panic!("{}: revocations could not be pruned: {error:?}", self.law))
    }

    async fn page(&self, after: Watermark, limit: usize) -> Vec<(Watermark, Revocation)> {
        let limit = NonZeroUsize::new(limit).expect("a law asks for some revocations");
        let page = self.revocations.revocations(after, limit).await;
        let page =
            page.unwrap_or_else(|error| panic!("{}: revocations could not be read: {error:?}", self.law));
        assert!(page.corrupt.is_empty(), "{}: good revocations were called corrupt: {page:?}", self.law);
        let last = page.revocations.last().map(|(watermark, _)| *watermark);
        assert_eq!(page.next, last, "{}: a page of revocations goes on at the wrong place", self.law);
        page.revocations
    }

    /// The whole log, as far as one page goes: no law stores more.
    async fn log(&self) -> Vec<(Watermark, Revocation)> {
        self.page(Watermark::ORIGIN, LARGE).await
    }

    /// What is said of that subject after a watermark.
    async fn about(&self, id: &str, after: Watermark) -> Vec<Revocation> {
        let page = self.page(after, LARGE).await.into_iter();
        page.map(|(_, revocation)| revocation).filter(|revocation| revocation.target == sub(id)).collect()
    }

    async fn must_find(&self, after: Watermark, given: Watermark, revocation: &Revocation) {
        let page = self.page(after, LARGE).await;
        let found = page.iter().find(|(_, found)| found.target == revocation.target);
        let meant = (given, revocation.clone());
        assert_eq!(found, Some(&meant), "{}: what was stored, read after {after}", self.law);
    }
}

/// A page as large as a store likes.
const LARGE: usize = 10_000;

fn mark(entry: &(Watermark, Revocation)) -> Watermark {
    entry.0
}

/// A moment of the laws', in milliseconds.
fn moment(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A revocation of the subject `id`.
fn ending(id: &str, at: u64, until: Option<u64>) -> Revocation {
    let revocation = Revocation::new(sub(id), moment(at));
    match until {
        Some(until) => revocation.with_until(moment(until)),
        None => revocation,
    }
}

fn forever(id: &str, at: u64) -> Revocation {
    ending(id, at, None)
}

fn jti(text: &str) -> RevocationTarget {
    RevocationTarget::Jti(id(text))
}

fn sid(text: &str) -> RevocationTarget {
    RevocationTarget::Sid(id(text))
}

fn sub(text: &str) -> RevocationTarget {
    RevocationTarget::Sub(id(text))
}

fn id(text: &str) -> RevocationId {
    RevocationId::parse(text).expect("laws use good ids")
}
