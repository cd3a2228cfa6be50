//! The checker: holds what subscribers of a topic were given against what publishers were told is stored.
//!
//! [`Published`] is one topic as its publishers know it, [`Subscriber`] one stream of its updates: a client, a file, a read of its
//! history. Both are values without I/O or clock, fed while a run goes on, so that every fault that they exist for can be shown to
//! them in a test. What they keep is bounded: a payload is kept until [`Limits::payload_bytes`] of newer ones are, and what is
//! given after that is counted as [`Counted::uncompared`].
//!
//! # Invariants
//! A [`Verdict`] without faults means that each payload was acknowledged once, in the order of its publisher, and that each
//! subscriber was given exactly what was acknowledged, in order, byte for byte.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

mod fault;
mod ranges;

#[cfg(test)]
mod tests;

pub use self::fault::{Counted, Fault, FaultKind, Verdict};
use self::{fault::Faults, ranges::Ranges};

/// Holes in a stream that may still be filled, and updates that were given and are not acknowledged yet, at most.
const OPEN: usize = 16_384;

/// How much a [`Published`] keeps.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "options are data")]
pub struct Limits {
    /// Bytes of acknowledged payloads, the newest ones.
    pub payload_bytes: usize,
}

impl Default for Limits {
    /// 64 MiB.
    fn default() -> Self {
        Self { payload_bytes: 64 << 20 }
    }
}

/// How often a subscriber may be given an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Delivery {
    /// After a [restart](Subscriber::restarted) it may be given again what it had before, unchanged and without a hole: it was
    /// killed before it had kept its cursor.
    AtLeastOnce,
    /// Never twice, however often it was restarted.
    ExactlyOnce,
}

/// Whether the updates of a publisher have the order in which they were submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Order {
    /// It publishes over several connections at once.
    Any,
    /// It waits for each batch, or streams them over one connection.
    Submitted,
}

/// A publisher of one [`Published`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherId(usize);

/// That a batch is stored.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "its callers make it")]
pub struct Acknowledgement<'a> {
    /// Of the history that it went into.
    pub epoch: &'a str,
    /// Its first and last update.
    pub seqs: [u64; 2],
    /// Its first and last payload, by their numbers from [`Published::submit`].
    pub numbers: [u64; 2],
}

/// An update that a subscriber was given.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "its callers make it")]
pub struct Given<'a> {
    /// None where the subscriber does not say it with each update.
    pub epoch: Option<&'a str>,
    /// Its place in the topic.
    pub seq: u64,
    /// The payload's own bytes.
    pub payload: &'a [u8],
}

/// One topic, as its publishers know it.
#[derive(Debug, Default)]
pub struct Published {
    limits: Limits,
    publishers: Vec<Publisher>,
    epoch: Option<String>,
    acknowledged: Ranges,
    /// By seq, the newest ones.
    payloads: BTreeMap<u64, Arc<[u8]>>,
    kept: usize,
    /// By seq: what some subscriber was given before it was acknowledged. Each text once, however many hold it.
    ahead: BTreeMap<u64, Arc<[u8]>>,
    withdrawn: VecDeque<Arc<[u8]>>,
    /// How often something was acknowledged or withdrawn.
    version: u64,
    faults: Faults,
}

#[derive(Debug)]
struct Publisher {
    name: String,
    order: Order,
    submitted: u64,
    /// By number: what is neither acknowledged nor withdrawn.
    pending: BTreeMap<u64, Arc<[u8]>>,
    /// The numbers that are.
    acknowledged: Ranges,
    last: [u64; 2],
}

/// What a topic knows of a seq.
enum Known<'a> {
    Acknowledged(&'a [u8]),
    /// It was acknowledged, and its payload is no longer kept.
    Forgotten,
    Unacknowledged,
}

impl Published {
    /// A topic without updates.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Somebody who publishes to it, as faults name them.
    pub fn publisher(&mut self, name: impl Into<String>, order: Order) -> PublisherId {
        self.publishers.push(Publisher {
            name: name.into(),
            order,
            submitted: 0,
            pending: BTreeMap::new(),
            acknowledged: Ranges::default(),
            last: [0, 0],
        });
        PublisherId(self.publishers.len() - 1)
    }

    /// A publisher is going to publish that. Gives its number, counted from one by publisher.
    pub fn submit(&mut self, publisher: PublisherId, payload: &[u8]) -> u64 {
        let Publisher { submitted, pending, .. } = &mut self.publishers[publisher.0];
        *submitted += 1;
        pending.insert(*submitted, payload.into());
        *submitted
    }

    /// How many payloads a publisher has submitted.
    #[must_use]
    pub fn submitted(&self, publisher: PublisherId) -> u64 {
        self.publishers[publisher.0].submitted
    }

    /// A publisher was told that a batch is stored.
    pub fn acknowledge(&mut self, publisher: PublisherId, acknowledgement: Acknowledgement<'_>) {
        let Acknowledgement { epoch, seqs: [first, last], numbers: [from, to] } = acknowledgement;
        let Publisher { name, order, submitted, pending, acknowledged, last: [last_number, last_seq] } =
            &mut self.publishers[publisher.0];
        let mut fault = |kind| self.faults.add(name, kind);
        let whole = (1..=to).contains(&from)
            && to <= *submitted
            && first >= 1
            && last.checked_sub(first) == Some(to - from);
        if !whole {
            return fault(FaultKind::BadAcknowledgement { numbers: [from, to], seqs: [first, last] });
        }
        match &self.epoch {
            Some(expected) if *expected != epoch => {
                let (expected, found) = (expected.clone(), epoch.to_owned());
                fault(FaultKind::Epoch { seq: first, expected, found });
            }
            Some(_) => {}
            None => self.epoch = Some(epoch.to_owned()),
        }
        self.version += 1;
        for (number, seq) in (from..=to).zip(first..=last) {
            let payload = pending.remove(&number);
            let again = !acknowledged.insert(number) || self.acknowledged.contains(seq);
            if again {
                fault(FaultKind::Doubled { seq });
            } else if *order == Order::Submitted && (number < *last_number || seq < *last_seq) {
                fault(FaultKind::Reordered { seq, after: *last_seq });
            }
            (*last_number, *last_seq) = (number, seq);
            if again {
                continue;
            }
            self.acknowledged.insert(seq);
            self.ahead.remove(&seq);
            match payload {
                Some(payload) => {
                    self.kept += payload.len();
                    self.payloads.insert(seq, payload);
                }
                None => fault(FaultKind::Withdrawn { seq }),
            }
        }
        while self.kept > self.limits.payload_bytes
            && let Some((_, payload)) = self.payloads.pop_first()
        {
            self.kept -= payload.len();
        }
    }

    /// A publisher rolled these back: nobody may ever be given them.
    pub fn withdraw(&mut self, publisher: PublisherId, numbers: RangeInclusive<u64>) {
        self.version += 1;
        let pending = &mut self.publishers[publisher.0].pending;
        self.withdrawn.extend(numbers.filter_map(|number| pending.remove(&number)));
        while self.withdrawn.len() > OPEN {
            self.withdrawn.pop_front();
        }
    }

    /// How many payloads were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.len()
    }

    /// The newest seq that was acknowledged; 0 where none was.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.acknowledged.last().unwrap_or(0)
    }

    /// What is wrong until now, with the topic and with these subscribers of it, each of which is to have all that is acknowledged.
    #[must_use]
    pub fn verdict<'a>(&self, subscribers: impl IntoIterator<Item = &'a Subscriber>) -> Verdict {
        let mut faults = self.faults.clone();
        let mut counted = BTreeMap::new();
        for subscriber in subscribers {
            subscriber.clone().finish(self, &mut faults);
            counted.insert(subscriber.name.clone(), subscriber.counted);
        }
        Verdict { faults: faults.first, more_faults: faults.more, counted }
    }

    /// The same at the end, when everything that was submitted is to be acknowledged, too.
    #[must_use]
    pub fn last_verdict<'a>(&self, subscribers: impl IntoIterator<Item = &'a Subscriber>) -> Verdict {
        let Verdict { faults: first, more_faults: more, counted } = self.verdict(subscribers);
        let mut faults = Faults { first, more };
        for Publisher { name, pending, .. } in &self.publishers {
            let mut open = Ranges::default();
            for number in pending.keys() {
                open.insert(*number);
            }
            for numbers in open.within(0..=u64::MAX) {
                faults.add(name, FaultKind::Unacknowledged { numbers });
            }
        }
        Verdict { faults: faults.first, more_faults: faults.more, counted }
    }

    fn known(&self, seq: u64) -> Known<'_> {
        match self.payloads.get(&seq) {
            Some(payload) => Known::Acknowledged(payload),
            None if self.acknowledged.contains(seq) => Known::Forgotten,
            None => Known::Unacknowledged,
        }
    }

    fn is_withdrawn(&self, payload: &[u8]) -> bool {
        self.withdrawn.iter().any(|withdrawn| **withdrawn == *payload)
    }

    /// That text, which nobody was told is stored yet; shared with those who were given the same.
    fn share(&mut self, seq: u64, payload: &[u8]) -> Arc<[u8]> {
        if let Some(shared) = self.ahead.get(&seq) {
            return if **shared == *payload { Arc::clone(shared) } else { payload.into() };
        }
        let shared: Arc<[u8]> = payload.into();
        if self.ahead.len() < OPEN {
            self.ahead.insert(seq, Arc::clone(&shared));
        }
        shared
    }
}

/// One stream of a topic's updates.
#[derive(Clone, Debug)]
pub struct Subscriber {
    name: String,
    delivery: Delivery,
    epoch: Option<(String, u64)>,
    /// It has had everything up to there but for `missing`, or does not need it.
    watermark: u64,
    missing: Ranges,
    /// What it was given last, since it was started.
    position: Option<u64>,
    /// Up to where it may be given something again.
    repeats_until: u64,
    /// Whether what comes next may be anywhere behind what it had.
    stale: bool,
    /// What it was given and nobody had been told was stored, when the topic had that version.
    unsettled: BTreeMap<u64, Arc<[u8]>>,
    settled: u64,
    counted: Counted,
    faults: Faults,
}

impl Subscriber {
    /// A subscriber that is to have everything from the topic's first update on, as faults name it.
    #[must_use]
    pub fn new(name: impl Into<String>, delivery: Delivery) -> Self {
        Self::starting_after(name, delivery, 0)
    }

    /// A subscriber that is to have everything after that seq.
    #[must_use]
    pub fn starting_after(name: impl Into<String>, delivery: Delivery, watermark: u64) -> Self {
        Self {
            name: name.into(),
            delivery,
            epoch: None,
            watermark,
            missing: Ranges::default(),
            position: None,
            repeats_until: watermark,
            stale: false,
            unsettled: BTreeMap::new(),
            settled: 0,
            counted: Counted::default(),
            faults: Faults::default(),
        }
    }

    /// It goes on in a new process, from a cursor that it has kept.
    pub fn restarted(&mut self) {
        self.position = None;
        self.repeats_until = self.watermark;
    }

    /// It was told that its cursor is stale, and goes on where the topic's history begins now, which may be after updates that it
    /// never had.
    pub fn stale(&mut self) {
        self.restarted();
        self.stale = true;
    }

    /// The newest seq that it was given.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        self.watermark
    }

    /// What it was given until now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// The first thing that is wrong with what it was given, if there is any.
    #[must_use]
    pub fn first_fault(&self) -> Option<&Fault> {
        self.faults.first.first()
    }

    /// It was given that.
    pub fn given(&mut self, published: &mut Published, update: Given<'_>) {
        let Given { epoch, seq, payload } = update;
        self.counted.updates += 1;
        self.settle(published);
        self.compare_epoch(epoch, seq);
        self.take_place(seq);
        if !self.compare(published, seq, payload) {
            let shared = published.share(seq, payload);
            self.settled = published.version;
            self.unsettled.insert(seq, shared);
            if self.unsettled.len() > OPEN
                && let Some((seq, _)) = self.unsettled.pop_first()
            {
                self.fault(FaultKind::Invented { seq });
            }
        }
    }

    fn compare_epoch(&mut self, epoch: Option<&str>, seq: u64) {
        let Some(found) = epoch else { return };
        match &self.epoch {
            Some((expected, _)) if expected != found => {
                let (expected, found) = (expected.clone(), found.to_owned());
                self.fault(FaultKind::Epoch { seq, expected, found });
            }
            Some(_) => {}
            None => self.epoch = Some((found.to_owned(), seq)),
        }
    }

    /// Whether it continues what came before.
    fn take_place(&mut self, seq: u64) {
        let before = self.position.unwrap_or(self.watermark);
        let stale = std::mem::take(&mut self.stale);
        if seq > self.watermark {
            if stale {
                self.watermark = seq - 1;
            } else if before + 1 != seq {
                self.fault(FaultKind::Gap { after: before, seq });
            }
            if self.watermark + 1 < seq {
                self.missing.add(self.watermark + 1..=seq - 1);
                if self.missing.count() > OPEN
                    && let Some(seqs) = self.missing.pop_first()
                {
                    self.fault(FaultKind::Lost { seqs });
                }
            }
            self.watermark = seq;
        } else if self.missing.remove(seq) {
            self.fault(FaultKind::Reordered { seq, after: before });
            return;
        } else {
            self.counted.repeated += 1;
            let may = self.delivery == Delivery::AtLeastOnce || stale;
            if !may || seq > self.repeats_until || self.position.is_some_and(|position| seq <= position) {
                return self.fault(FaultKind::Doubled { seq });
            }
            if let Some(after) = self.position.filter(|position| position + 1 != seq) {
                self.fault(FaultKind::Gap { after, seq });
            }
        }
        self.position = Some(seq);
    }

    /// Compares with what was acknowledged; false if nothing was acknowledged there yet.
    fn compare(&mut self, published: &Published, seq: u64, payload: &[u8]) -> bool {
        match published.known(seq) {
            Known::Acknowledged(expected) if expected == payload => {}
            Known::Acknowledged(_) | Known::Unacknowledged if published.is_withdrawn(payload) => {
                self.fault(FaultKind::Withdrawn { seq });
            }
            Known::Acknowledged(expected) => self.fault(FaultKind::changed(seq, expected, payload)),
            Known::Forgotten => self.counted.uncompared += 1,
            Known::Unacknowledged => return false,
        }
        true
    }

    /// Compares what has been acknowledged since it was given.
    fn settle(&mut self, published: &Published) {
        if self.unsettled.is_empty() || self.settled == published.version {
            return;
        }
        self.settled = published.version;
        let mut unsettled = std::mem::take(&mut self.unsettled);
        unsettled.retain(|seq, payload| !self.compare(published, *seq, payload));
        self.unsettled = unsettled;
    }

    /// Everything that is wrong with it, as it is to have all that was acknowledged.
    fn finish(mut self, published: &Published, faults: &mut Faults) {
        self.settle(published);
        for seq in std::mem::take(&mut self.unsettled).into_keys() {
            self.fault(FaultKind::Invented { seq });
        }
        if let (Some(expected), Some((found, seq))) = (&published.epoch, &self.epoch)
            && expected != found
        {
            let (expected, found) = (expected.clone(), found.clone());
            self.fault(FaultKind::Epoch { seq: *seq, expected, found });
        }
        let behind = self.watermark + 1..=u64::MAX;
        let missing: Vec<_> = self.missing.within(0..=u64::MAX).chain([behind]).collect();
        for seqs in missing.into_iter().flat_map(|missing| published.acknowledged.within(missing)) {
            self.fault(FaultKind::Lost { seqs });
        }
        faults.extend(self.faults);
    }

    fn fault(&mut self, kind: FaultKind) {
        self.faults.add(&self.name, kind);
    }
}
