//! What the checker can find, in words.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

/// Faults that are kept; what comes after them is counted.
pub(super) const FAULTS: usize = 100;

/// What the checker found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verdict {
    /// In the order in which they were found. Nothing is wrong if there is none.
    pub faults: Vec<Fault>,
    /// Faults beside these, which are too many to keep.
    pub more_faults: u64,
    /// What each subscriber was given, by its name.
    pub counted: BTreeMap<String, Counted>,
}

/// What a subscriber was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// All, with the repeats.
    pub updates: u64,
    /// What it had had before.
    pub repeated: u64,
    /// Updates whose payload could not be compared, because it was acknowledged too long before.
    pub uncompared: u64,
}

/// One thing that is wrong, and with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The name of a publisher or of a subscriber.
    pub name: String,
    /// The fault itself.
    pub kind: FaultKind,
}

/// Everything that can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the words of the variants speak of")]
#[non_exhaustive]
pub enum FaultKind {
    /// An acknowledgement that does not give each of its payloads one seq.
    BadAcknowledgement { numbers: [u64; 2], seqs: [u64; 2] },
    /// The payload is not the one that was acknowledged under this seq.
    Changed { seq: u64, at: usize, expected: String, found: String },
    /// The same update twice.
    Doubled { seq: u64 },
    /// It is of another history than what was before.
    Epoch { seq: u64, expected: String, found: String },
    /// It does not continue what came before it.
    Gap { after: u64, seq: u64 },
    /// Nobody was told that this is stored.
    Invented { seq: u64 },
    /// Acknowledged, and not given.
    Lost { seqs: RangeInclusive<u64> },
    /// It came after one that follows it.
    Reordered { seq: u64, after: u64 },
    /// Submitted, and never acknowledged.
    Unacknowledged { numbers: RangeInclusive<u64> },
    /// Its transaction was rolled back.
    Withdrawn { seq: u64 },
}

impl FaultKind {
    pub(super) fn changed(seq: u64, expected: &[u8], found: &[u8]) -> Self {
        let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        let near = |text: &[u8]| {
            let end = text.len().min(at + 30);
            String::from_utf8_lossy(&text[at.saturating_sub(10).min(end)..end]).into_owned()
        };
        Self::Changed { seq, at, expected: near(expected), found: near(found) }
    }
}

/// The first faults, and how many there are beside them.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) first: Vec<Fault>,
    pub(super) more: u64,
}

impl Faults {
    pub(super) fn add(&mut self, name: &str, kind: FaultKind) {
        if self.first.len() < FAULTS {
            self.first.push(Fault { name: name.to_owned(), kind });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.more += other.more;
        for fault in other.first {
            if self.first.len() < FAULTS { self.first.push(fault) } else { self.more += 1 }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.kind)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |what: &str, range: &RangeInclusive<u64>| {
            let (first, last) = (range.start(), range.end());
            if first == last { format!("{what} {first}") } else { format!("{what}s {first} to {last}") }
        };
        match self {
            Self::BadAcknowledgement { numbers: [from, to], seqs: [first, last] } => {
                write!(f, "payloads {from} to {to} cannot be acknowledged as updates {first} to {last}")
            }
            Self::Changed { seq, at, expected, found } => {
                write!(
                    f,
                    "update {seq} differs from byte {at}: {expected:?} was published, {found:?} was given"
                )
            }
            Self::Doubled { seq } => write!(f, "update {seq} is here twice"),
            Self::Epoch { seq, expected, found } => {
                write!(f, "update {seq} is of epoch {found:?} instead of {expected:?}")
            }
            Self::Gap { after, seq } => write!(f, "update {seq} comes after {after}"),
            Self::Invented { seq } => write!(f, "update {seq} is here and was never acknowledged"),
            Self::Lost { seqs } => write!(f, "acknowledged and not here: {}", named("update", seqs)),
            Self::Reordered { seq, after } => write!(f, "update {seq} comes only after {after}"),
            Self::Unacknowledged { numbers } => {
                write!(f, "published and never acknowledged: {}", named("payload", numbers))
            }
            Self::Withdrawn { seq } => write!(f, "update {seq} is here, and its transaction was rolled back"),
        }
    }
}
