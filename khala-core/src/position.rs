//! Positions in a topic's log: pure values, and the one rule that says whether a cursor can resume.
//!
//! A [`Seq`] names one update; a [`Watermark`] means "everything up to and including"; an [`Epoch`] is the
//! identity of one history. Kept are exactly the updates with `floor < seq <= head`.

use std::{fmt, num::NonZeroU64, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};

use crate::{text::TextError, topic::Topic};

/// Every position stays below 2^53, so that a JSON reader that holds numbers as doubles holds it exactly.
pub const MAX_POSITION: u64 = (1 << 53) - 1;

/// The name of one update: dense from 1 within a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(NonZeroU64);

impl Seq {
    /// The first seq of every topic.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The seq of that number: none for zero and for 2^53 or more.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).filter(|n| n.get() <= MAX_POSITION).map(Self)
    }

    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// Everything up to and including this update.
    pub fn watermark(self) -> Watermark {
        Watermark(self.0.get())
    }
}

/// Everything up to and including a seq; zero is the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(u64);

impl Watermark {
    /// Before the first update.
    pub const ORIGIN: Self = Self(0);

    /// The watermark of that number: none for 2^53 or more.
    pub fn new(number: u64) -> Option<Self> {
        (number <= MAX_POSITION).then_some(Self(number))
    }

    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The seq that follows; none once a topic holds 2^53 - 1 updates.
    pub fn next(self) -> Option<Seq> {
        Seq::new(self.0 + 1)
    }

    /// Whether `seq` is at or below this watermark.
    pub fn covers(self, seq: Seq) -> bool {
        seq.as_u64() <= self.0
    }

    /// How many updates lie after this watermark, up to `head`.
    pub fn distance_to(self, head: Self) -> u64 {
        head.0.saturating_sub(self.0)
    }
}

impl From<Seq> for Watermark {
    fn from(seq: Seq) -> Self {
        seq.watermark()
    }
}

macro_rules! number_on_the_wire {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.as_u64())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(self.as_u64())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let WholeNumber(number) = WholeNumber::deserialize(deserializer)?;
                Self::new(number).ok_or_else(|| D::Error::custom(format!("{number} is not a position")))
            }
        }
    )*};
}

number_on_the_wire!(Seq, Watermark);

/// A whole number from 0 to 2^53 - 1 as a JSON reader holds it exactly, however it is written: JSON has one kind of
/// number, so `1.0` and `1e0` are the number `1`. Every whole number that a client sends is read as this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeNumber(u64);

impl WholeNumber {
    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 to 2^53 - 1")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WholeNumber, E> {
                let good = number <= MAX_POSITION;
                good.then_some(WholeNumber(number)).ok_or_else(|| not_whole(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<WholeNumber, E> {
                u64::try_from(number).map_err(|_| not_whole(number)).and_then(|number| self.visit_u64(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<WholeNumber, E> {
                let good = number.fract() == 0.0 && (0.0..=MAX_POSITION as f64).contains(&number);
                good.then_some(WholeNumber(number as u64)).ok_or_else(|| not_whole(number))
            }
        }

        fn not_whole<E: Error>(number: impl fmt::Display) -> E {
            E::custom(format_args!("{number} is not a whole number from 0 to 2^53 - 1"))
        }

        // Formats for machines say the type of a number only where it is asked for.
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            deserializer.deserialize_u64(Visitor)
        }
    }
}

impl FromStr for WholeNumber {
    type Err = TextError;

    /// Reads digits, or a number as JSON writes it.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let is_digit = |byte: &u8| byte.is_ascii_digit();
        let number = if !text.is_empty() && text.bytes().all(|byte| is_digit(&byte)) {
            // Perhaps with zeros before it, which JSON does not have.
            text.parse().ok().filter(|number| *number <= MAX_POSITION).map(Self)
        } else {
            let of_number = |byte: &u8| is_digit(byte) || b".eE+-".contains(byte);
            let json = Some(text).filter(|text| text.as_bytes().iter().all(of_number));
            json.and_then(|text| serde_json::from_str(text).ok())
        };
        number.ok_or_else(|| TextError::new("number", "is not a whole number from 0 to 2^53 - 1"))
    }
}

/// The identity of one history of a topic: 64 random bits, written as 16 lower-case hexadecimal digits.
///
/// A wipe, a re-import or a restore draws a new one, so that a cursor from a lost future is noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch with these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The epoch that `topic` has in the store whose random identity is `seed`, as long as nothing redraws it.
    ///
    /// Deriving it gives an untouched topic a stable epoch (law J16) without a write for everybody who asks.
    pub fn derive(seed: &[u8; 16], topic: &Topic) -> Self {
        let digest = Sha256::new().chain_update(seed).chain_update(topic.as_str()).finalize();
        let mut bits = [0; 8];
        bits.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(bits))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

impl FromStr for Epoch {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = if hex { u64::from_str_radix(text, 16).ok() } else { None };
        bits.map(Self).ok_or_else(|| TextError::new("epoch", "is not 16 lower-case hexadecimal digits"))
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As it is displayed, and without the cost of formatting: each receipt and each page has one.
        let mut hex = [0; 16];
        for (place, digit) in hex.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (60 - 4 * place) & 0xf) as usize];
        }
        serializer.serialize_str(std::str::from_utf8(&hex).expect("hexadecimal digits are ASCII"))
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What a subscriber keeps and brings back: everything of this epoch up to this watermark is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a cursor is exactly this pair")]
pub struct Cursor {
    /// The history it belongs to.
    pub epoch: Epoch,
    /// What was applied.
    pub watermark: Watermark,
}

impl Cursor {
    /// The cursor at `watermark` of `epoch`.
    pub fn new(epoch: Epoch, watermark: Watermark) -> Self {
        Self { epoch, watermark }
    }

    /// Whether this head is news to somebody who stands at `cursor`: further on, or of another history.
    pub fn is_news_to(self, cursor: Self) -> bool {
        self.epoch != cursor.epoch || self.watermark > cursor.watermark
    }
}

/// What a topic holds at one moment: the updates with `floor < seq <= head` of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "bounds are exactly this triple")]
pub struct Bounds {
    /// The history.
    pub epoch: Epoch,
    /// Everything up to here is gone.
    pub floor: Watermark,
    /// The newest update.
    pub head: Watermark,
}

impl Bounds {
    /// The bounds of a topic that nothing was ever appended to.
    pub fn untouched(epoch: Epoch) -> Self {
        Self { epoch, floor: Watermark::ORIGIN, head: Watermark::ORIGIN }
    }

    /// The cursor that has applied everything.
    pub fn at_head(&self) -> Cursor {
        Cursor::new(self.epoch, self.head)
    }

    /// The oldest cursor that can resume.
    pub fn at_floor(&self) -> Cursor {
        Cursor::new(self.epoch, self.floor)
    }

    /// Whether `cursor` can resume; if not, why.
    ///
    /// Watermarks of different epochs cannot be compared, so another epoch is the only reason it is given with.
    ///
    /// # Errors
    /// [`Stale`], with the cursor, these bounds and the reason.
    pub fn admit(&self, cursor: Cursor) -> Result<(), Stale> {
        let reason = if cursor.epoch != self.epoch {
            StaleReason::EpochMismatch
        } else if cursor.watermark < self.floor {
            StaleReason::RetentionFloorBreach
        } else if cursor.watermark > self.head {
            StaleReason::CursorAhead
        } else {
            return Ok(());
        };
        Err(Stale { cursor, bounds: *self, reasons: vec![reason] })
    }

    /// Whether `cursor` can resume and is at most `budget` updates behind the head; if not, every reason.
    ///
    /// # Errors
    /// [`Stale`], with the cursor, these bounds and the reasons.
    pub fn admit_within(&self, cursor: Cursor, budget: Option<u64>) -> Result<(), Stale> {
        let stale = match self.admit(cursor) {
            Ok(()) => Stale { cursor, bounds: *self, reasons: Vec::new() },
            Err(stale) => stale,
        };
        let stale = stale.within(budget);
        if stale.reasons.is_empty() { Ok(()) } else { Err(stale) }
    }
}

/// Why a cursor cannot resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StaleReason {
    /// It is past the head: it comes from a future that was lost.
    CursorAhead,
    /// It belongs to another history.
    EpochMismatch,
    /// It is further behind than the topic's class allows to replay.
    ReplayBudgetExceeded,
    /// What it needs next was trimmed.
    RetentionFloorBreach,
}

impl StaleReason {
    /// The reason as it is on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CursorAhead => "cursor_ahead",
            Self::EpochMismatch => "epoch_mismatch",
            Self::ReplayBudgetExceeded => "replay_budget_exceeded",
            Self::RetentionFloorBreach => "retention_floor_breach",
        }
    }
}

/// The exact answer to a cursor that cannot resume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the answer to a resume is exactly this")]
pub struct Stale {
    /// The cursor that was brought.
    pub cursor: Cursor,
    /// What the topic held at that moment.
    pub bounds: Bounds,
    /// Every reason that holds; never empty.
    pub reasons: Vec<StaleReason>,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cursor, bounds, reasons } = self;
        let reasons: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
        write!(
            f,
            "the log cannot be continued after {} ({}): the topic holds the updates after {} up to {}",
            cursor.watermark,
            reasons.join(", "),
            bounds.floor,
            bounds.head
        )
    }
}

impl std::error::Error for Stale {}

impl Stale {
    /// A cursor of a topic with those bounds that was made with another update than the one in its place.
    pub(crate) fn of_another_history(cursor: Cursor, bounds: Bounds) -> Self {
        Self { cursor, bounds, reasons: vec![StaleReason::EpochMismatch] }
    }

    /// How many updates lie between the cursor and the head; zero for a cursor of another history.
    pub fn lag(&self) -> u64 {
        let same =
            self.cursor.epoch == self.bounds.epoch && !self.reasons.contains(&StaleReason::EpochMismatch);
        if same { self.cursor.watermark.distance_to(self.bounds.head) } else { 0 }
    }

    /// Adds [`StaleReason::ReplayBudgetExceeded`] where that holds too.
    #[must_use]
    pub fn within(mut self, budget: Option<u64>) -> Self {
        let reason = StaleReason::ReplayBudgetExceeded;
        if budget.is_some_and(|budget| self.lag() > budget) && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(number: u64) -> Watermark {
        Watermark::new(number).unwrap()
    }

    proptest! {
        #[test]
        fn a_cursor_resumes_exactly_between_floor_and_head(floor in 0u64..50, kept in 0u64..50, cursor in 0u64..120) {
            let epoch = Epoch::from_bits(1);
            let bounds = Bounds { epoch, floor: at(floor), head: at(floor + kept) };
            let good = floor <= cursor && cursor <= floor + kept;
            prop_assert_eq!(bounds.admit(Cursor::new(epoch, at(cursor))).is_ok(), good);
            let other = bounds.admit(Cursor::new(Epoch::from_bits(2), at(cursor))).unwrap_err();
            prop_assert_eq!(other.reasons, vec![StaleReason::EpochMismatch]);
        }

        #[test]
        fn every_reason_that_holds_is_given(
            floor in 0u64..50, kept in 0u64..50, cursor in 0u64..120, budget in prop::option::of(0u64..60), same: bool,
        ) {
            let epoch = Epoch::from_bits(1);
            let bounds = Bounds { epoch, floor: at(floor), head: at(floor + kept) };
            let brought = Cursor::new(Epoch::from_bits(if same { 1 } else { 2 }), at(cursor));
            let lag = (floor + kept).saturating_sub(cursor);
            let holds = [
                (StaleReason::EpochMismatch, !same),
                (StaleReason::RetentionFloorBreach, same && cursor < floor),
                (StaleReason::CursorAhead, same && cursor > floor + kept),
                (StaleReason::ReplayBudgetExceeded, same && budget.is_some_and(|budget| lag > budget)),
            ];
            let wanted: Vec<_> = holds.into_iter().filter(|(_, holds)| *holds).map(|(reason, _)| reason).collect();
            let found = bounds.admit_within(brought, budget).map_or_else(|stale| stale.reasons, |()| Vec::new());
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn an_epoch_survives_its_text(bits: u64) {
            let epoch = Epoch::from_bits(bits);
            prop_assert_eq!(epoch.to_string().parse::<Epoch>().unwrap(), epoch);
            prop_assert_eq!(serde_json::to_value(epoch).unwrap(), epoch.to_string());
        }

        #[test]
        fn positions_stay_exact_in_json(number: u64) {
            prop_assert_eq!(Seq::new(number).is_some(), number != 0 && number < 1 << 53);
            prop_assert_eq!(Watermark::new(number).is_some(), number < 1 << 53);
        }
    }

    #[test]
    fn a_number_is_whole_however_it_is_written() {
        for (text, number) in [
            ("0", 0),
            ("1.0", 1),
            ("1e0", 1),
            ("-0.0", 0),
            ("2.5e1", 25),
            ("9007199254740991.0", MAX_POSITION),
        ] {
            assert_eq!(serde_json::from_str::<WholeNumber>(text).unwrap(), WholeNumber(number), "{text}");
            assert_eq!(text.parse(), Ok(WholeNumber(number)), "{text}");
            assert_eq!(serde_json::from_str::<Watermark>(text).unwrap().as_u64(), number, "{text}");
        }
        for bad in
            ["1.5", "-1", "9007199254740992", "9007199254740992.0", "1e300", "\"1\"", "null", "[1]", "true"]
        {
            let fault = serde_json::from_str::<Watermark>(bad).unwrap_err().to_string();
            assert!(fault.contains("whole number from 0 to 2^53 - 1"), "{bad}: {fault}");
            assert!(bad.parse::<WholeNumber>().is_err(), "{bad}");
        }
        assert_eq!("007".parse(), Ok(WholeNumber(7)));
        for bad in ["", " 1", "1 ", "+1", "0x1", "1.", "NaN", "1e400", "99999999999999999999"] {
            assert!(bad.parse::<WholeNumber>().is_err(), "{bad}");
        }
        // Within another type, and where serde has buffered the value.
        #[derive(Deserialize)]
        struct Flat {
            #[serde(flatten)]
            cursor: Cursor,
        }
        let Flat { cursor } =
            serde_json::from_str(r#"{"epoch":"0000000000000001","watermark":5.0}"#).unwrap();
        assert_eq!(cursor.watermark.as_u64(), 5);
    }

    #[test]
    fn an_epoch_is_strict_about_its_text() {
        for bad in ["", "0", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdeg", "00123456789abcdef"]
        {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }
}
