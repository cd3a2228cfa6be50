//! The laws bite: deliberately broken journals, logs of revocations, stores of sweeps and of checkpoints, each of which
//! must fail exactly the laws that name its fault.
//!
//! A law that nothing broken fails proves nothing, and one that fails for the faults of others misleads.

#![expect(clippy::disallowed_methods, reason = "a test: a law that panics must not take the others with it")]

mod broken;

use std::{collections::BTreeSet, fmt, sync::Arc};

use khala_core::{
    conformance::{self, Capabilities, Harness, Law, Place, laws},
    documents::Documents,
    journal::Journal,
};

use broken::Broken;

/// The table: a test, the fault that it puts in, and the laws that notice.
macro_rules! bites {
    ($($(#[$doc:meta])* $test:ident: $fault:ident => $($law:literal)+,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            /// Nothing.
            None,
            $($(#[$doc])* $fault,)*
        }

        $(#[test] fn $test() { notices(Fault::$fault, &[$($law),+]); })*

        #[test]
        fn nothing_is_noticed_without_a_fault() {
            notices(Fault::None, &[]);
        }

        const NOTICED: &[&str] = &[$($($law,)+)*];
    };
}

mod checkpoints;
mod revocations;
mod sweeps;

bites! {
    /// A repeated publish uses up a seq.
    a_repeat_burns_a_seq: RepeatBurnsSeq => "J1",
    /// A batch is stored in two transactions.
    a_torn_batch: TornBatch => "J2",
    /// Reading begins with the update that the cursor already covers. Pages then overlap, so they do not
    /// concatenate either.
    an_inclusive_cursor: InclusiveCursor => "J3" "J4",
    /// An update larger than the byte limit is left out of its page.
    an_empty_page: EmptyPageBeforeLarge => "J4",
    /// The byte limit is not looked at.
    bytes_without_limit: BytesWithoutLimit => "J4",
    /// The bounds of a page are read before it, in another transaction.
    bounds_of_before: BoundsBeforePage => "J5",
    /// The bounds of a page are read after it, in another transaction.
    bounds_of_later: BoundsAfterPage => "J5",
    /// Every other question for bounds goes to a replica that lags.
    a_lagging_replica: LaggingReplica => "J6",
    /// Some updates become visible later than those after them.
    a_late_commit: LateCommit => "J7",
    /// Of two appends at the same time, one overwrites the other.
    a_lost_update: LostUpdate => "J8",
    /// An append that expects a head further on is written, and then refused.
    a_conflict_that_writes: ConflictWrites => "J9",
    /// A failed `expect` keeps the name of its publish.
    a_conflict_that_keeps_its_name: ConflictKeepsName => "J9",
    /// Two publishes of one name at the same time are both written.
    a_race_for_a_name: NameRace => "J10",
    /// The expected head is looked at before the name.
    expect_before_name: ExpectBeforeName => "J10",
    /// A batch is stored whatever became of those before it.
    chain_ignored: ChainIgnored => "J20",
    /// A name is enough, whatever is in the batch.
    names_without_content: NamesWithoutContent => "J10",
    /// A name is the same whose ever it is.
    names_without_publisher: NamesWithoutPublisher => "J10",
    /// A name holds for all topics.
    names_across_topics: NamesAcrossTopics => "J10",
    /// Names are trimmed with the updates.
    a_trimmed_name: TrimmedName => "J10",
    /// A read from below the floor starts at the floor.
    a_silent_skip_past_the_floor: SilentSkip => "J11",
    /// A cursor right at the floor is refused.
    a_stale_floor: StaleFloor => "J12" "J22",
    /// The next seq is counted from what is kept.
    a_renumbered_topic: Renumbered => "J13" "J22",
    /// `never_past` is not looked at.
    a_floor_past_its_limit: PassesNotPast => "J14",
    /// Trimming with looser limits moves the floor back.
    a_floor_that_goes_back: FloorGoesBack => "J14",
    /// Old updates are trimmed wherever the newest of them stands.
    age_in_the_middle: AgeInTheMiddle => "J14",
    /// The oldest that is said to be kept is the oldest that there was.
    the_oldest_that_went: OldestThatWent => "J14",
    /// A cursor ahead of the head waits for what comes.
    a_patient_future: AheadIsEmpty => "J15",
    /// Only the watermark of a cursor is looked at.
    a_forgotten_epoch: ForgottenEpoch => "J15",
    /// The epoch of an untouched topic is drawn for everybody who asks.
    a_redrawn_epoch: EpochRedrawn => "J16",
    /// Payloads are parsed and written again.
    a_normalised_payload: PayloadNormalised => "J17",
    /// Topics are told apart without regard to case.
    folded_topics: TopicsFolded => "J17",
    /// A prefix of topics is a pattern.
    a_prefix_with_wildcards: PrefixIsPattern => "J17",
    /// Opening the store draws new epochs.
    an_epoch_per_opening: EpochPerOpening => "J18",
    /// A plan carries itself out.
    a_plan_that_trims: PlanTrims => "J19" "D5",
    /// A plan does not look at `never_past`.
    a_plan_past_its_limit: PlanPassesNotPast => "J19",
    /// A plan counts what it finds, not what would go.
    a_plan_that_counts_all: PlanCountsAll => "J19",
    /// A plan forgets the names that a trim would forget.
    a_plan_that_forgets: PlanForgetsNames => "J19",
    /// What came since a topic was looked at is put off with it.
    putting_off_what_came: PutsOffWhatCame => "J21",
    /// What was put off under other rules stays so.
    rules_that_are_forgotten: RulesForgotten => "J21",
    /// A topic is retired that was idle for a moment.
    retired_at_once: RetiresAtOnce => "J22",
    /// A conflict of one document leaves the rest of the batch.
    half_a_conflict: ConflictWritesRest => "D1",
    /// Documents that are gone are in the snapshot.
    tombstones_in_the_snapshot: TombstonesInSnapshot => "D2" "D5",
    /// The watermark of a snapshot is taken after its first page.
    a_late_watermark: LateWatermark => "D3",
    /// A snapshot is continued though the log was trimmed past its watermark.
    a_snapshot_over_a_gap: SnapshotOverGap => "D3",
    /// Trimming takes the documents whose updates go.
    trimmed_documents: TrimmedDocuments => "D4" "D5",
    /// Tombstones go as soon as their updates do.
    tombstones_that_go_early: TombstonesGoEarly => "D5",
}

#[test]
fn every_law_is_in_the_table_and_bites() {
    let journal = (1..=22).map(|n| format!("J{n}"));
    each_bites(&laws::<Broken>(), journal.chain((1..=5).map(|n| format!("D{n}"))), NOTICED);
}

/// These are the laws of those numbers, and each is noticed by some fault.
fn each_bites<H>(laws: &[Law<H>], meant: impl Iterator<Item = String>, noticed: &[&str]) {
    let numbers: Vec<String> = laws.iter().map(Law::number).collect();
    assert_eq!(numbers, meant.collect::<Vec<_>>());
    let bitten: BTreeSet<&str> = noticed.iter().copied().collect();
    assert_eq!(bitten, numbers.iter().map(String::as_str).collect());
}

fn notices(fault: Fault, expected: &[&str]) {
    fails_exactly(laws(), || Broken::new(fault), &fault, expected);
}

/// How often a law is tried that a fault breaks in a race only.
const TRIES: usize = 50;

/// What `broken` makes fails those laws, and holds the others.
fn fails_exactly<H: Harness>(
    laws: Vec<Law<H>>,
    broken: impl Fn() -> H,
    fault: &dyn fmt::Debug,
    expected: &[&str],
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("the operating system gives a few threads");
    let noticed = runtime.block_on(async {
        let mut noticed = Vec::new();
        for law in laws {
            // A race that is lost is lost by chance: what is to be noticed may take some tries.
            let tries = if expected.contains(&&*law.number()) { TRIES } else { 1 };
            for _ in 0..tries {
                let held = tokio::spawn((law.check)(broken())).await;
                if let Err(broken) = held {
                    assert!(broken.is_panic(), "{broken}");
                    noticed.push(law.number());
                    break;
                }
            }
        }
        noticed
    });
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    assert_eq!(noticed.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{fault:?}");
}

mod acknowledged_in_memory {
    //! A store that acknowledges what is only in its process: it is there again after reopening, and not after
    //! `kill -9`.

    use super::*;

    struct Volatile(Broken);

    impl Harness for Volatile {
        const CAPABILITIES: Capabilities = Capabilities::durable();

        async fn fresh() -> Self {
            Self(Broken::fresh().await)
        }

        fn journal(&self) -> Arc<dyn Journal> {
            self.0.journal()
        }

        fn documents(&self) -> Arc<dyn Documents> {
            self.0.documents()
        }

        async fn close(self) -> Place {
            self.0.close().await
        }

        async fn open(place: Place) -> Self {
            Self(if place.kept::<Broken>().is_some() {
                Broken::open(place).await
            } else {
                Broken::fresh().await
            })
        }
    }

    #[test]
    // Which update is missed first depends on whose report came first.
    #[should_panic(expected = "after kill -9")]
    fn is_noticed() {
        let law = conformance::durability::j18_acknowledged_means_durable::<Volatile>;
        conformance::run(module_path!(), "j18", law);
    }

    #[test]
    #[ignore = "the process that law J18 kills"]
    fn victim() {
        conformance::victim::<Volatile>();
    }
}
