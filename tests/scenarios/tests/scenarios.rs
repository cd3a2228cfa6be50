//! The scenarios, small, against the `khala-server` that was built beside these tests.
//!
//! They hold that nothing is lost, that codes and counters are as the protocol says, and that memory stays bounded, on a
//! machine of any speed; how long things take is for the benches.

use std::{fmt::Debug, time::Duration};

use khala_scenarios::{disk, drain, slow, storm};
use khala_testing::{Failure, Program};

#[expect(clippy::print_stdout, reason = "what a test went through is told to its reader")]
fn tell(report: &impl Debug) {
    println!("{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_slow_only_themselves() -> Result<(), Failure> {
    let params = slow::Params {
        clients: 60,
        stalled: 10,
        topics: 1,
        rate: 400,
        batch: 20,
        payload_bytes: 8 << 10,
        phase: Duration::from_secs(4),
        rounds: 1,
        return_after: Duration::from_secs(2),
        // Three times as long as some read nothing who are to stay.
        stall_seconds: 6,
        receive_buffer: 4 << 10,
        memory_bound: Some(256 << 20),
    };
    tell(&slow::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_lost_their_server_come_back_to_the_next() -> Result<(), Failure> {
    let params = storm::Params { clients: 200, topics: 10, ..storm::Params::default() };
    tell(&storm::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_behind_catch_up() -> Result<(), Failure> {
    let params = storm::Params { clients: 100, topics: 5, behind: 1_000, ..storm::Params::default() };
    tell(&storm::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_too_far_behind_for_all_at_once_come_through_admission() -> Result<(), Failure> {
    // Some four pages each, which those share who come within the same second.
    let params = storm::Params {
        clients: 50,
        topics: 5,
        behind: 1_000,
        scattered: true,
        replay_pages_per_second: Some(5),
        must_defer: true,
        ..storm::Params::default()
    };
    tell(&storm::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_restart_loses_nothing() -> Result<(), Failure> {
    let params = drain::Params {
        clients: 100,
        topics: 5,
        rate: 200,
        steady: Duration::from_secs(1),
        drain_seconds: 4,
        // Not all at once, even where the machine stands still for a second.
        max_share: 5.0,
        ..drain::Params::default()
    };
    tell(&drain::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_service_returns_with_space() -> Result<(), Failure> {
    // SQLite's checkpoint at opening needs room: today a server that was killed on a full disk waits for it.
    let params = disk::Params::default();
    tell(&disk::run(&Program::of_this_profile()?, params).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_on_a_full_disk_fails_as_one_and_the_next_goes_to_its_end() -> Result<(), Failure> {
    tell(&disk::run_with_sweeps(&Program::of_this_profile()?, disk::Params::default(), 100).await?);
    Ok(())
}
