//! What is said at the end: who went through what, and the checker's verdict.
use main_job::{
    checker::{Counted, check},
    story::{count, say, say_some},
};

use crate::plot::{Played, Plot};

/// Checks, tells, and says whether nothing was wrong.
pub(crate) fn tell(played: &Played, plot: &Plot) -> bool {
    let Played { evidence, counts, builds } = played;
    let verdict = check(evidence);
    let [publisher] = &evidence.publishers[..] else { unreachable!("there is one") };
    let duplicates = publisher.acknowledged.iter().filter(|batch| batch.duplicate).count();
    say(format_args!(
        "\n{:>14}  {:>8}  {:>10}  {:>11}  {:>7}  {:>9}  {:>8}  {:>8}",
        "", "updates", "its kills", "reconnected", "resumed", "refreshed", "skipped", "repeated"
    ));
    for (log, counts) in evidence.logs.iter().zip(counts) {
        let Counted { updates, repeated } = verdict.counted.get(&log.name).copied().unwrap_or_default();
        say(format_args!(
            "{:>14}  {:>8}  {:>10}  {:>11}  {:>7}  {:>9}  {:>8}  {:>8}",
            log.name,
            count((updates - repeated) as u64),
            counts.killed,
            counts.connected,
            counts.resumed.map_or_else(|| "-".to_owned(), count),
            counts.refreshed.map_or_else(|| "-".to_owned(), count),
            counts.skipped,
            repeated,
        ));
    }
    say(format_args!(
        "\n{} lines of {builds} builds, acknowledged in {} batches; {duplicates} of these had been stored by an attempt \
         whose answer a kill took; {} connections ended because a token had run out.\n(refreshed: a fresh token was handed \
         over on the open connection. skipped: came again and was not applied. repeated: printed again after its own \
         kill, unchanged, as `khala tail` may.)",
        count(publisher.lines.len() as u64),
        count(publisher.acknowledged.len() as u64),
        count(evidence.expired),
    ));
    let seconds = plot.story.elapsed().as_secs_f64();
    if verdict.faults.is_empty() {
        say(format_args!(
            "\nNothing lost, nothing doubled, nothing reordered, every byte as it was: {} updates, {} kills, {} logs \
             compared, {seconds:.0} s.",
            count(publisher.lines.len() as u64),
            plot.kills,
            evidence.logs.len(),
        ));
        return true;
    }
    say(format_args!(
        "\nFAILED: {} differences after {} kills, {seconds:.0} s.",
        verdict.faults.len(),
        plot.kills
    ));
    say_some(&verdict.faults);
    false
}
