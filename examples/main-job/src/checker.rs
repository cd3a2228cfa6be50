//! The checker: compares what was read, what was acknowledged, and what each log holds.
//!
//! A log is anything that claims to be the topic: a journal, or what a subscriber applied, on however many nodes. The checker
//! takes values, reads no file and knows no process, so that every fault it exists for can be shown to it in a test.
//!
//! # Invariants
//! It says "no fault" only if each line was acknowledged once, in order, and each log is exactly what was acknowledged, byte for
//! byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
};

use serde::Deserialize;

/// A batch that the publisher was told is stored.
#[derive(Clone, Debug, Deserialize)]
pub struct Acknowledged {
    /// Of the history that it went into.
    pub epoch: String,
    /// Its first update.
    pub first_seq: u64,
    /// Its last update.
    pub last_seq: u64,
    /// The numbers of its first and last line, from one.
    pub lines: [u64; 2],
    /// It had been stored by an attempt whose answer was lost.
    pub duplicate: bool,
}

/// One update in a log. Its texts are shared: a crowd of readers holds the same ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// None where the reader does not say it with each update.
    pub epoch: Option<Arc<str>>,
    /// Its place in the topic.
    pub seq: u64,
    /// The payload's own text.
    pub payload: Arc<str>,
}

/// How often a log may hold an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A run may begin with what an earlier run ended with, unchanged: the process was killed before it had kept
    /// its cursor.
    AtLeastOnce,
    /// Never twice, however often the process was killed.
    ExactlyOnce,
}

/// What one reader of the topic ended up with.
#[derive(Clone, Debug)]
pub struct Log {
    /// As faults name it.
    pub name: String,
    /// What is held against it.
    pub delivery: Delivery,
    /// One after the other; each is what one process applied, in the order in which it did.
    pub runs: Vec<Vec<Entry>>,
}

/// What one publisher of the topic had to publish, and what it was told.
#[derive(Clone, Debug, Default)]
pub struct Publisher {
    /// As faults name it.
    pub name: String,
    /// What was given to it, line by line.
    pub lines: Vec<Arc<str>>,
    /// What it was told, in the order in which it was.
    pub acknowledged: Vec<Acknowledged>,
    /// The numbers of the lines whose transaction it rolled back: nobody may ever see them.
    pub withdrawn: BTreeSet<u64>,
}

/// All that a run leaves behind of one topic.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Each wrote its lines in their order; among each other they have none.
    pub publishers: Vec<Publisher>,
    /// Who claims to have all of it.
    pub logs: Vec<Log>,
    /// Connections that the server closed because their token had run out.
    pub expired: u64,
}

/// What the checker found, in the order in which it looked.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Nothing is wrong if there is none.
    pub faults: Vec<Fault>,
    /// How many updates each log holds, and how many of these are allowed repeats.
    pub counted: BTreeMap<String, Counted>,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All, with the repeats.
    pub updates: usize,
    /// What it held before.
    pub repeated: usize,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `server`, or the name of a publisher or a log.
    pub place: String,
    /// The fault itself.
    pub what: What,
}

/// Everything that can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the words of the variants speak of")]
pub enum What {
    /// An acknowledgement that does not give each of its lines one seq.
    BadAcknowledgement { lines: [u64; 2], seqs: [u64; 2] },
    /// The payload is not the line that was acknowledged under this seq.
    Changed { seq: u64, expected: String, found: String },
    /// The same update twice.
    Doubled { seq: u64 },
    /// It is of another history than the first acknowledgement.
    Epoch { seq: u64, expected: String, found: String },
    /// A subscriber had to connect anew for a fresh token.
    Expired { connections: u64 },
    /// Acknowledged, and not there.
    Lost { seqs: RangeInclusive<u64> },
    /// It does not follow what was before it.
    OutOfOrder { seq: u64, before: u64 },
    /// Nobody was told that this is stored.
    Unacknowledged { seq: u64 },
    /// Read, and never acknowledged.
    Unpublished { lines: RangeInclusive<u64> },
    /// Its transaction was rolled back.
    Withdrawn { seq: u64 },
}

/// Compares everything with everything else.
pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let expected = Expected::of(evidence, &mut verdict.faults);
    for log in &evidence.logs {
        let counted = expected.compare(log, &mut verdict.faults);
        verdict.counted.insert(log.name.clone(), counted);
    }
    if evidence.expired > 0 {
        let what = What::Expired { connections: evidence.expired };
        verdict.faults.push(Fault { place: "server".to_owned(), what });
    }
    verdict
}

/// What every log has to hold: by what was acknowledged, and nothing else.
#[derive(Default)]
struct Expected<'a> {
    epoch: Option<&'a str>,
    payloads: BTreeMap<u64, &'a str>,
    withdrawn: BTreeSet<&'a str>,
}

impl<'a> Expected<'a> {
    fn of(evidence: &'a Evidence, faults: &mut Vec<Fault>) -> Self {
        let first = evidence.publishers.iter().find_map(|publisher| publisher.acknowledged.first());
        let mut expected = Self { epoch: first.map(|first| first.epoch.as_str()), ..Self::default() };
        for publisher in &evidence.publishers {
            expected.add(publisher, faults);
        }
        expected
    }

    fn add(&mut self, publisher: &'a Publisher, faults: &mut Vec<Fault>) {
        let Publisher { name, lines: texts, acknowledged, withdrawn } = publisher;
        let mut fault = |what| faults.push(Fault { place: name.clone(), what });
        let (mut last_line, mut last_seq) = (0, 0);
        let mut published = BTreeSet::new();
        for Acknowledged { epoch: found, first_seq, last_seq: last, lines: [from, to], .. } in acknowledged {
            let whole = from <= to
                && *from >= 1
                && *to <= texts.len() as u64
                && *first_seq >= 1
                && last.checked_sub(*first_seq) == Some(to - from);
            if !whole {
                fault(What::BadAcknowledgement { lines: [*from, *to], seqs: [*first_seq, *last] });
                continue;
            }
            if self.epoch != Some(found) {
                let expected = self.epoch.unwrap_or_default().to_owned();
                fault(What::Epoch { seq: *first_seq, expected, found: found.clone() });
            }
            for (line, seq) in (*from..=*to).zip(*first_seq..=*last) {
                let text = &texts[line as usize - 1];
                if !published.insert(line) || self.payloads.insert(seq, text).is_some() {
                    fault(What::Doubled { seq });
                } else if line < last_line || seq < last_seq {
                    fault(What::OutOfOrder { seq, before: last_seq });
                }
                (last_line, last_seq) = (line, seq);
            }
        }
        let text_of = |line: &u64| texts.get(usize::try_from(*line).ok()?.checked_sub(1)?);
        self.withdrawn.extend(withdrawn.iter().filter_map(text_of).map(|text| &**text));
        let settled = |line: &u64| published.contains(line) || withdrawn.contains(line);
        for lines in ranges((1..=texts.len() as u64).filter(|line| !settled(line))) {
            fault(What::Unpublished { lines });
        }
    }

    fn compare(&self, log: &Log, faults: &mut Vec<Fault>) -> Counted {
        let mut fault = |what| faults.push(Fault { place: log.name.clone(), what });
        let mut counted = Counted::default();
        // By seq: the run that applied it first.
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for (run, entries) in log.runs.iter().enumerate() {
            let mut before = None;
            for entry in entries {
                counted.updates += 1;
                for what in self.differences(entry) {
                    fault(what);
                }
                let seq = entry.seq;
                let mark = seen.last_key_value().map_or(0, |(last, _)| *last);
                let (follows, repeats) = match seen.get(&seq) {
                    None => (before.unwrap_or(mark) + 1 == seq, false),
                    // A run may begin anywhere in what was applied, and goes on from there without a hole.
                    Some(_) => (before.is_none_or(|before| before + 1 == seq), true),
                };
                if repeats {
                    counted.repeated += 1;
                    let allowed = log.delivery == Delivery::AtLeastOnce && seen.get(&seq) != Some(&run);
                    if !allowed {
                        fault(What::Doubled { seq });
                    }
                }
                if !follows {
                    fault(What::OutOfOrder { seq, before: before.unwrap_or(mark) });
                }
                seen.entry(seq).or_insert(run);
                before = Some(seq);
            }
        }
        for seqs in ranges(self.payloads.keys().copied().filter(|seq| !seen.contains_key(seq))) {
            fault(What::Lost { seqs });
        }
        counted
    }

    /// What is wrong with an entry by itself, wherever it stands.
    fn differences(&self, Entry { epoch, seq, payload }: &Entry) -> Vec<What> {
        let mut found = Vec::new();
        match self.payloads.get(seq) {
            Some(expected) if **expected == **payload => {}
            _ if self.withdrawn.contains(&**payload) => found.push(What::Withdrawn { seq: *seq }),
            None => found.push(What::Unacknowledged { seq: *seq }),
            Some(expected) => found.push(What::Changed {
                seq: *seq,
                expected: (*expected).to_owned(),
                found: payload.to_string(),
            }),
        }
        if let (Some(expected), Some(epoch)) = (self.epoch, epoch)
            && *expected != **epoch
        {
            found.push(What::Epoch { seq: *seq, expected: expected.to_owned(), found: epoch.to_string() });
        }
        found
    }
}

/// Ascending numbers as the ranges that they make up.
fn ranges(numbers: impl Iterator<Item = u64>) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end() + 1 == number => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAcknowledgement { lines: [from, to], seqs: [first, last] } => {
                write!(f, "lines {from} to {to} cannot be acknowledged as updates {first} to {last}")
            }
            Self::Changed { seq, expected, found } => {
                let at = expected.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
                let near = |text: &str| {
                    let bytes = text.as_bytes();
                    let end = bytes.len().min(at + 30);
                    String::from_utf8_lossy(&bytes[at.saturating_sub(10).min(end)..end]).into_owned()
                };
                let (expected, found) = (near(expected), near(found));
                write!(f, "update {seq} differs from byte {at}: {expected:?} was read, {found:?} is here")
            }
            Self::Doubled { seq } => write!(f, "update {seq} is here twice"),
            Self::Epoch { seq, expected, found } => {
                write!(f, "update {seq} is of epoch {found:?} instead of {expected:?}")
            }
            Self::Expired { connections } => {
                write!(f, "connections that ended because nobody handed a fresh token over: {connections}")
            }
            Self::Lost { seqs } => write!(f, "acknowledged and not here: {}", named("update", seqs)),
            Self::OutOfOrder { seq, before } => write!(f, "update {seq} comes after {before}"),
            Self::Unacknowledged { seq } => write!(f, "update {seq} is here and was never acknowledged"),
            Self::Unpublished { lines } => {
                write!(f, "read and never acknowledged: {}", named("line", lines))
            }
            Self::Withdrawn { seq } => write!(f, "update {seq} is here and was rolled back"),
        }
    }
}

fn named(word: &str, range: &RangeInclusive<u64>) -> String {
    match (range.start(), range.end()) {
        (start, end) if start == end => format!("{word} {start}"),
        (start, end) => format!("{word}s {start} to {end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "00000000000000aa";

    fn line(number: u64) -> Arc<str> {
        format!(r#"{{"line":{number},"half":{number}.50}}"#).into()
    }

    fn entries(seqs: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        let entry = |seq| Entry { epoch: Some(EPOCH.into()), seq, payload: line(seq) };
        seqs.into_iter().map(entry).collect()
    }

    fn batch(from: u64, to: u64) -> Acknowledged {
        Acknowledged {
            epoch: EPOCH.to_owned(),
            first_seq: from,
            last_seq: to,
            lines: [from, to],
            duplicate: false,
        }
    }

    /// Nine lines, three batches, a journal, a subscriber that was killed once, and one that may repeat and did.
    fn good() -> Evidence {
        let log = |name: &str, delivery, runs| Log { name: name.to_owned(), delivery, runs };
        Evidence {
            publishers: vec![Publisher {
                name: "publisher".to_owned(),
                lines: (1..=9).map(line).collect(),
                acknowledged: vec![batch(1, 4), batch(5, 5), batch(6, 9)],
                withdrawn: BTreeSet::new(),
            }],
            logs: vec![
                log("journal", Delivery::ExactlyOnce, vec![entries(1..=9)]),
                log("phoenix", Delivery::ExactlyOnce, vec![entries(1..=5), entries(6..=9)]),
                log("tail", Delivery::AtLeastOnce, vec![entries(1..=5), entries(4..=7), entries(1..=9)]),
            ],
            expired: 0,
        }
    }

    fn faults(tamper: impl FnOnce(&mut Evidence)) -> Vec<Fault> {
        let mut evidence = good();
        tamper(&mut evidence);
        check(&evidence).faults
    }

    /// The faults after the log of that number was replaced by these runs.
    fn with_runs(log: usize, runs: Vec<Vec<Entry>>) -> Vec<What> {
        let name = good().logs[log].name.clone();
        let faults = faults(|evidence| evidence.logs[log].runs = runs);
        assert!(faults.iter().all(|fault| fault.place == name), "{faults:?}");
        faults.into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn nothing_is_wrong_with_what_is_right() {
        let verdict = check(&good());
        assert_eq!(verdict.faults, []);
        assert_eq!(verdict.counted["phoenix"], Counted { updates: 9, repeated: 0 });
        assert_eq!(verdict.counted["tail"], Counted { updates: 18, repeated: 9 });
    }

    #[test]
    fn a_lost_update_is_found_in_every_log() {
        for log in 0..3 {
            let cut = with_runs(log, vec![entries(1..=7)]);
            assert_eq!(cut, [What::Lost { seqs: 8..=9 }]);
            let hole = with_runs(log, vec![entries([1, 2, 3, 5, 6, 7, 8, 9])]);
            assert_eq!(hole, [What::OutOfOrder { seq: 5, before: 3 }, What::Lost { seqs: 4..=4 }]);
            let between_runs = with_runs(log, vec![entries(1..=4), entries(6..=9)]);
            assert_eq!(between_runs, [What::OutOfOrder { seq: 6, before: 4 }, What::Lost { seqs: 5..=5 }]);
            assert_eq!(with_runs(log, vec![]), [What::Lost { seqs: 1..=9 }]);
        }
    }

    #[test]
    fn a_doubled_update_is_found_in_every_log() {
        for log in 0..3 {
            let faults = with_runs(log, vec![entries([1, 2, 3, 3, 4, 5, 6, 7, 8, 9])]);
            assert!(faults.contains(&What::Doubled { seq: 3 }), "{faults:?}");
            let whole = with_runs(log, vec![entries((1..=9).chain(1..=9))]);
            assert_eq!(whole.iter().filter(|what| matches!(what, What::Doubled { .. })).count(), 9);
        }
    }

    #[test]
    fn only_who_may_repeat_repeats_and_only_without_holes() {
        let runs = || vec![entries(1..=5), entries(5..=9)];
        assert_eq!(with_runs(1, runs()), [What::Doubled { seq: 5 }]);
        assert_eq!(with_runs(2, runs()), []);
        let holed = with_runs(2, vec![entries(1..=5), entries([3, 5, 6, 7, 8, 9])]);
        assert_eq!(holed, [What::OutOfOrder { seq: 5, before: 3 }]);
        let jumped = with_runs(2, vec![entries(1..=5), entries([3, 6, 7, 8, 9])]);
        assert_eq!(jumped, [What::OutOfOrder { seq: 6, before: 3 }]);
    }

    #[test]
    fn a_changed_repeat_is_no_repeat() {
        let mut again = entries(4..=9);
        again[0].payload = format!("{} ", again[0].payload).into();
        let faults = with_runs(2, vec![entries(1..=5), again]);
        assert!(matches!(&faults[..], [What::Changed { seq: 4, .. }]), "{faults:?}");
    }

    #[test]
    fn a_reordered_update_is_found_in_every_log() {
        for log in 0..3 {
            let faults = with_runs(log, vec![entries([1, 2, 4, 3, 5, 6, 7, 8, 9])]);
            assert_eq!(faults[0], What::OutOfOrder { seq: 4, before: 2 });
        }
    }

    #[test]
    fn a_changed_byte_is_found_in_every_log() {
        for log in 0..3 {
            // The same value to every JSON reader, and not the same bytes.
            for (from, to) in [(".50", ".5"), (":", ": "), ("half", "\\u0068alf")] {
                let mut entries = entries(1..=9);
                entries[6].payload = entries[6].payload.replacen(from, to, 1).into();
                let faults = with_runs(log, vec![entries]);
                assert!(matches!(&faults[..], [What::Changed { seq: 7, .. }]), "{faults:?}");
            }
        }
    }

    #[test]
    fn what_nobody_acknowledged_is_found_in_every_log() {
        for log in 0..3 {
            assert_eq!(with_runs(log, vec![entries(1..=10)]), [What::Unacknowledged { seq: 10 }]);
        }
    }

    #[test]
    fn another_epoch_is_found_in_every_log() {
        for log in 0..3 {
            let mut entries = entries(1..=9);
            entries[8].epoch = Some("00000000000000bb".into());
            let faults = with_runs(log, vec![entries]);
            assert!(matches!(&faults[..], [What::Epoch { seq: 9, .. }]), "{faults:?}");
        }
    }

    #[test]
    fn a_token_that_ran_out_on_a_connection_is_found() {
        let what = What::Expired { connections: 2 };
        assert_eq!(faults(|evidence| evidence.expired = 2), [Fault { place: "server".to_owned(), what }]);
    }

    #[test]
    fn a_line_that_was_not_acknowledged_is_found() {
        let faults = faults(|evidence| evidence.publishers[0].lines.push(line(10)));
        let what = What::Unpublished { lines: 10..=10 };
        assert_eq!(faults, [Fault { place: "publisher".to_owned(), what }]);
    }

    #[test]
    fn acknowledgements_are_checked_themselves() {
        type Tamper = (fn(&mut Vec<Acknowledged>), fn(&What) -> bool);
        let tampers: [Tamper; 7] = [
            (|acks| drop(acks.pop()), |what| matches!(what, What::Unpublished { .. })),
            (|acks| acks.push(batch(9, 9)), |what| matches!(what, What::Doubled { seq: 9 })),
            (|acks| acks.swap(0, 2), |what| matches!(what, What::OutOfOrder { .. })),
            (|acks| acks[1].last_seq = 6, |what| matches!(what, What::BadAcknowledgement { .. })),
            (|acks| acks[2].lines = [7, 10], |what| matches!(what, What::BadAcknowledgement { .. })),
            (|acks| acks[0].first_seq = 0, |what| matches!(what, What::BadAcknowledgement { .. })),
            (|acks| acks[2].epoch.clear(), |what| matches!(what, What::Epoch { .. })),
        ];
        for (index, (tamper, named)) in tampers.into_iter().enumerate() {
            let faults = faults(|evidence| tamper(&mut evidence.publishers[0].acknowledged));
            let publisher = |fault: &Fault| fault.place == "publisher" && named(&fault.what);
            assert!(faults.iter().any(publisher), "{index}: {faults:?}");
        }
    }

    #[test]
    fn a_line_stored_twice_is_found_although_both_were_acknowledged() {
        // What a publisher without a dedup key would leave behind.
        let faults = faults(|evidence| {
            evidence.publishers[0].acknowledged.push(Acknowledged { lines: [9, 9], ..batch(10, 10) });
        });
        assert!(faults.iter().any(|fault| fault.what == What::Doubled { seq: 10 }), "{faults:?}");
    }

    /// What a second publisher, with three lines of its own, adds to the good evidence; its second line is rolled back.
    fn second(evidence: &mut Evidence) {
        let acknowledged = |line, seq| Acknowledged { lines: [line, line], ..batch(seq, seq) };
        evidence.publishers.push(Publisher {
            name: "second".to_owned(),
            lines: (101..=103).map(line).collect(),
            acknowledged: vec![acknowledged(1, 10), acknowledged(3, 11)],
            withdrawn: BTreeSet::from([2]),
        });
        for log in &mut evidence.logs {
            let more = [(10, 101), (11, 103)];
            let more = more.map(|(seq, number)| Entry { payload: line(number), ..entries([seq]).remove(0) });
            log.runs.last_mut().unwrap().extend(more);
        }
    }

    #[test]
    fn publishers_have_no_order_among_each_other_and_one_each() {
        assert_eq!(faults(second), []);
        let swapped = faults(|evidence| {
            second(evidence);
            evidence.publishers.swap(0, 1);
        });
        assert_eq!(swapped, []);
        let faults = faults(|evidence| {
            second(evidence);
            evidence.publishers[1].acknowledged.swap(0, 1);
        });
        let what = What::OutOfOrder { seq: 10, before: 11 };
        assert_eq!(faults, [Fault { place: "second".to_owned(), what }]);
    }

    #[test]
    fn one_seq_for_two_publishers_is_found() {
        let faults = faults(|evidence| {
            second(evidence);
            (
                evidence.publishers[1].acknowledged[0].first_seq,
                evidence.publishers[1].acknowledged[0].last_seq,
            ) = (9, 9);
        });
        let doubled = Fault { place: "second".to_owned(), what: What::Doubled { seq: 9 } };
        assert!(faults.contains(&doubled), "{faults:?}");
    }

    #[test]
    fn what_was_rolled_back_is_found_in_every_log_in_a_place_of_its_own_or_of_another() {
        for log in 0..3 {
            for (instead, seq) in [(false, 12), (true, 11)] {
                let faults = faults(|evidence| {
                    second(evidence);
                    let run = evidence.logs[log].runs.last_mut().unwrap();
                    run.truncate(run.len() - usize::from(instead));
                    run.push(Entry { payload: line(102), ..entries([seq]).remove(0) });
                });
                let whats: Vec<_> = faults.into_iter().map(|fault| fault.what).collect();
                assert_eq!(whats, [What::Withdrawn { seq }]);
            }
        }
    }
}
