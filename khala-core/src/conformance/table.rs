//! The tables of the laws, each once, and what is made of them: tests, lists, and the processes that three of the laws kill.

use super::{
    checkpoints, durability,
    harness::{CheckpointsHarness, Harness, RevocationsHarness, SweepsHarness},
    revocations,
    run::{Law, work},
};

/// Every law of a journal and its documents, in order.
pub fn laws<H: Harness>() -> Vec<Law<H>> {
    crate::__each_law!(__law_table, H)
}

/// Every law of revocations, in order.
pub fn revocation_laws<H: RevocationsHarness>() -> Vec<Law<H>> {
    crate::__each_revocation_law!(__law_table, H)
}

/// Every law of sweeps, in order.
pub fn sweep_laws<H: SweepsHarness>() -> Vec<Law<H>> {
    crate::__each_sweep_law!(__law_table, H)
}

/// Every law of checkpoints, in order.
pub fn checkpoint_laws<H: CheckpointsHarness>() -> Vec<Law<H>> {
    crate::__each_checkpoint_law!(__law_table, H)
}

/// The process that law J18 kills; nothing in any other.
#[doc(hidden)]
pub fn victim<H: Harness>() {
    work(async |store: H| durability::append_until_killed(store.journal()).await);
}

/// The process that law R6 kills; nothing in any other.
#[doc(hidden)]
pub fn revoking_victim<H: RevocationsHarness>() {
    work(async |store: H| revocations::revoke_until_killed(store.revocations()).await);
}

/// The process that law C9 kills; nothing in any other.
#[doc(hidden)]
pub fn advancing_victim<H: CheckpointsHarness>() {
    work(async |store: H| checkpoints::advance_until_killed(&store).await);
}

/// Tests a store against every law: one test per law, in the module where it stands.
///
/// It stands in a module of tests, once per module; its argument is a [`Harness`](crate::conformance::Harness).
///
/// ```
/// use std::sync::Arc;
///
/// use khala_core::{MemoryStore, conformance::{Capabilities, Harness, Place}, documents::Documents, journal::Journal};
///
/// #[derive(Debug)]
/// struct Memory(Arc<MemoryStore>);
///
/// impl Harness for Memory {
///     const CAPABILITIES: Capabilities = Capabilities::volatile();
///
///     async fn fresh() -> Self {
///         Self(Arc::new(MemoryStore::new()))
///     }
///
///     fn journal(&self) -> Arc<dyn Journal> {
///         self.0.clone()
///     }
///
///     fn documents(&self) -> Arc<dyn Documents> {
///         self.0.clone()
///     }
///
///     // A store of files drops the store here, and its place keeps their temporary directory.
///     async fn close(self) -> Place {
///         Place::new("memory").keeping(self.0)
///     }
///
///     async fn open(place: Place) -> Self {
///         Self(Arc::clone(&place.kept::<Arc<MemoryStore>>().expect("memory is closed in this process only")))
///     }
/// }
///
/// mod laws {
///     khala_core::laws!(super::Memory);
/// }
/// ```
#[macro_export]
macro_rules! laws {
    ($harness:ty) => {
        $crate::__each_law!(__law_tests, $harness);

        #[test]
        #[ignore = "not a law: the process that law J18 kills"]
        fn victim() {
            $crate::conformance::victim::<$harness>();
        }
    };
}

/// Tests a store's revocations against every law of them: one test per law, in the module where it stands.
///
/// It stands in a module of tests, once per module, beside [`laws!`](crate::laws) or alone; its argument is a
/// [`RevocationsHarness`](crate::conformance::RevocationsHarness).
#[macro_export]
macro_rules! revocation_laws {
    ($harness:ty) => {
        $crate::__each_revocation_law!(__law_tests, $harness);

        #[test]
        #[ignore = "not a law: the process that law R6 kills"]
        fn revoking_victim() {
            $crate::conformance::revoking_victim::<$harness>();
        }
    };
}

/// Tests a store's sweeps against every law of them: one test per law, in the module where it stands.
///
/// It stands in a module of tests, once per module, beside [`laws!`](crate::laws) or alone; its argument is a
/// [`SweepsHarness`](crate::conformance::SweepsHarness).
#[macro_export]
macro_rules! sweep_laws {
    ($harness:ty) => {
        $crate::__each_sweep_law!(__law_tests, $harness);
    };
}

/// Tests a store's checkpoints against every law of them: one test per law, in the module where it stands.
///
/// It stands in a module of tests, once per module, beside [`laws!`](crate::laws) or alone; its argument is a
/// [`CheckpointsHarness`](crate::conformance::CheckpointsHarness).
#[macro_export]
macro_rules! checkpoint_laws {
    ($harness:ty) => {
        $crate::__each_checkpoint_law!(__law_tests, $harness);

        #[test]
        #[ignore = "not a law: the process that law C9 kills"]
        fn advancing_victim() {
            $crate::conformance::advancing_victim::<$harness>();
        }
    };
}

/// The table of laws, handed to the macro `then`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_law {
    ($then:ident, $harness:ty) => {
        $crate::$then! {
            ($harness)
            order::j1_seqs_are_dense_from_one,
            append::j2_a_batch_is_atomic_and_contiguous,
            cursors::j3_reading_is_exclusive_of_the_cursor,
            cursors::j4_pages_concatenate_to_the_whole_log,
            cursors::j5_a_page_and_its_bounds_are_of_one_moment,
            order::j6_head_never_goes_back,
            order::j7_no_late_arrivals,
            order::j8_concurrent_appends_lose_and_repeat_nothing,
            append::j9_a_failed_expect_writes_nothing,
            append::j10_a_repeated_dedup_key_writes_nothing,
            cursors::j11_a_trimmed_cursor_is_reported,
            cursors::j12_a_cursor_at_the_floor_is_good,
            trim::j13_trimming_renumbers_nothing,
            trim::j14_the_floor_never_goes_back,
            cursors::j15_a_cursor_ahead_or_of_another_epoch_is_reported,
            topics::j16_an_untouched_topic_is_stable_and_empty,
            topics::j17_topics_are_apart_and_payloads_exact,
            durability::j18_acknowledged_means_durable,
            trim::j19_a_plan_is_what_a_trim_then_does,
            append::j20_nothing_is_stored_behind_what_was_not,
            due::j21_a_topic_with_something_to_trim_is_due,
            due::j22_a_retired_topic_is_not_listed_and_stays_what_it_was,
            documents::d1_a_document_is_the_newest_update_of_its_key,
            documents::d2_a_tombstone_is_in_the_log_only,
            documents::d3_snapshot_plus_log_converges,
            documents::d4_trimming_the_log_leaves_documents,
            documents::d5_old_tombstones_go_and_nothing_else,
        }
    };
}

/// The table of the laws of revocations, handed to the macro `then`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_revocation_law {
    ($then:ident, $harness:ty) => {
        $crate::$then! {
            ($harness)
            revocations::r1_a_stored_revocation_is_found,
            revocations::r2_reading_is_exclusive_of_the_watermark_and_pages_concatenate,
            revocations::r3_no_late_arrivals,
            revocations::r4_revoking_again_keeps_the_later_and_is_read_anew,
            revocations::r5_pruning_forgets_what_has_ended_and_gives_no_watermark_twice,
            revocations::r6_acknowledged_means_durable,
        }
    };
}

/// The table of the laws of sweeps, handed to the macro `then`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_sweep_law {
    ($then:ident, $harness:ty) => {
        $crate::$then! {
            ($harness)
            sweeps::s1_one_node_leads_at_a_time,
            sweeps::s2_a_lead_that_has_ended_can_be_taken,
            sweeps::s3_who_leads_renews_and_gives_up,
            sweeps::s4_records_come_newest_first_and_the_newest_are_kept,
            sweeps::s5_lead_and_records_survive_reopening,
        }
    };
}

/// The table of the laws of checkpoints, handed to the macro `then`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_checkpoint_law {
    ($then:ident, $harness:ty) => {
        $crate::$then! {
            ($harness)
            checkpoints::c1_a_checkpoint_and_its_batch_are_written_together,
            checkpoints::c2_a_repeat_writes_nothing,
            checkpoints::c3_an_advance_from_elsewhere_writes_nothing,
            checkpoints::c4_a_batch_that_conflicts_moves_nothing,
            checkpoints::c5_a_checkpoint_is_kept_as_it_was_given,
            checkpoints::c6_projections_and_entities_are_apart,
            checkpoints::c7_reading_is_exclusive_of_the_entity_and_pages_concatenate,
            checkpoints::c8_removing_takes_what_it_names_and_nothing_else,
            checkpoints::c9_acknowledged_means_durable,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __law_tests {
    (($harness:ty) $($module:ident::$law:ident,)*) => {
        $(
            #[test]
            fn $law() {
                $crate::conformance::run::<$harness, _>(
                    module_path!(),
                    stringify!($law),
                    $crate::conformance::$module::$law::<$harness>,
                );
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __law_table {
    (($harness:ty) $($module:ident::$law:ident,)*) => {
        vec![$(
            $crate::conformance::Law {
                name: stringify!($law),
                check: |store: $harness| Box::pin($crate::conformance::$module::$law(store)),
            }
        ),*]
    };
}
