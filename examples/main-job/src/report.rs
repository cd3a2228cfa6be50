//! What is said at the end: who went through what, and the checker's verdict.
use khala_scenarios::{
    checker::Subscriber,
    console::{count, say, say_some},
};

use crate::scenario::{Played, Scenario};

/// Checks, tells, and says whether nothing was wrong.
pub(crate) fn tell(played: &mut Played, scenario: &Scenario) -> bool {
    let Played { published, batches, duplicates, expired, logs, counts, builds } = played;
    let subscribers: Vec<Subscriber> = logs.iter().map(|log| log.subscriber(published)).collect();
    let lines = count(published.acknowledged());
    let verdict = published.last_verdict(&subscribers);
    say(format_args!(
        "\n{:>14}  {:>8}  {:>10}  {:>11}  {:>7}  {:>9}  {:>8}  {:>8}",
        "", "updates", "its kills", "reconnected", "resumed", "refreshed", "skipped", "repeated"
    ));
    for ((log, subscriber), counts) in logs.iter().zip(&subscribers).zip(counts) {
        let (updates, repeated) = (subscriber.counted().updates, subscriber.counted().repeated);
        say(format_args!(
            "{:>14}  {:>8}  {:>10}  {:>11}  {:>7}  {:>9}  {:>8}  {:>8}",
            log.name,
            count(updates - repeated),
            counts.killed,
            counts.connected,
            counts.resumed.map_or_else(|| "-".to_owned(), count),
            counts.refreshed.map_or_else(|| "-".to_owned(), count),
            counts.skipped,
            repeated,
        ));
    }
    say(format_args!(
        "\n{lines} lines of {builds} builds, acknowledged in {} batches; {duplicates} of these had been stored by an attempt \
         whose answer a kill took; {} connections ended because a token had run out.\n(refreshed: a fresh token was handed \
         over on the open connection. skipped: came again and was not applied. repeated: printed again after its own \
         kill, unchanged, as `khala tail` may.)",
        count(*batches),
        count(*expired),
    ));
    let seconds = scenario.console.elapsed().as_secs_f64();
    if verdict.faults.is_empty() && *expired == 0 {
        say(format_args!(
            "\nNothing lost, nothing doubled, nothing reordered, every byte as it was: {lines} updates, {} kills, {} logs \
             compared, {seconds:.0} s.",
            scenario.kills,
            logs.len(),
        ));
        return true;
    }
    say(format_args!(
        "\nFAILED: {} differences after {} kills, {seconds:.0} s.",
        verdict.faults.len() as u64 + verdict.more_faults,
        scenario.kills
    ));
    if *expired > 0 {
        say(format_args!("  connections that ended because nobody handed a fresh token over: {expired}"));
    }
    say_some(&verdict.faults);
    false
}
