//! What NOTIFY carries, in a form that tells nothing to others: every role of a database may LISTEN and NOTIFY.
//!
//! Heads and revocations are sealed (ChaCha20-Poly1305, RFC 8439) with a key that is derived from the database's seed, which
//! only roles with a right to Khala's tables can read. What applications append in their own transactions is announced by a
//! mark of the topic, a hash that is keyed alike, because PostgreSQL makes it.
//!
//! # Invariants
//! Neither form holds a topic's name or a head. A payload that was not sealed with the key is opened by nobody.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use khala_core::{Topic, fanout::LocalFanout};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
};
use tokio::time::Instant;

/// Bytes that may be sealed at once: PostgreSQL takes less than 8,000 bytes of text.
pub(crate) const SEALED_BYTES: usize = 5_800;
/// A sealed payload begins with it.
const SEALED: &str = "s ";
/// How often unknown marks may be looked up among the topics that began to be watched since.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);

/// How many different unknown marks may wait for that. Delivery of the rest completes by polling.
const UNKNOWN: usize = 65_536;

/// The mark of a topic in what an application's transaction tells.
pub(crate) type Mark = [u8; 16];

/// Seals announcements and opens them.
pub(crate) struct Seal(LessSafeKey);

impl Seal {
    pub(crate) fn new(seed: &[u8; 16]) -> Self {
        let key = digest(&SHA256, &[b"khala announce ", &seed[..]].concat());
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).expect("the key has the algorithm's length");
        Self(LessSafeKey::new(key))
    }

    /// The payload that tells `text`.
    pub(crate) fn seal(&self, text: &str) -> String {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        let mut sealed = text.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .expect("so short a text can be sealed");
        format!("{SEALED}{}", BASE64.encode([&nonce[..], &sealed].concat()))
    }

    /// What a payload tells; none if it was not sealed with this key.
    pub(crate) fn open(&self, payload: &str) -> Option<String> {
        let sealed = BASE64.decode(payload.strip_prefix(SEALED)?).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = self.0.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// The mark of a topic, as the SQL of `notify_in` and `khala.append` makes it.
fn mark(seed: &[u8; 16], topic: &Topic) -> Mark {
    let hash = digest(&SHA256, &[b"khala topic ", &seed[..], topic.as_str().as_bytes()].concat());
    *hash.as_ref().first_chunk().expect("SHA-256 is longer")
}

/// The mark in a payload that says that a topic has moved: `t` and 32 hexadecimal digits.
pub(crate) fn mark_in(payload: &str) -> Option<Mark> {
    let digits = payload.strip_prefix("t ").filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

/// The topics that are watched here, by their marks.
#[derive(Debug)]
pub(crate) struct Marks {
    seed: [u8; 16],
    /// As of which topics: [`LocalFanout::watched_since`].
    generation: u64,
    topics: HashMap<Mark, Topic>,
    /// At how many topics those are removed that nobody watches any more.
    clean_at: usize,
    /// Marks of topics that were not watched here when they were looked up last.
    unknown: BTreeSet<Mark>,
    /// When unknown marks may be looked up again.
    look_up_at: Instant,
}

impl Marks {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let (topics, unknown) = (HashMap::new(), BTreeSet::new());
        Self { seed, generation: 0, topics, clean_at: 0, unknown, look_up_at: Instant::now() }
    }

    /// The topics of these marks that somebody watches.
    ///
    /// Everybody may send any number of marks of topics that nobody watches here. So unknown marks wait until [`due`](Self::due),
    /// and are looked up together.
    pub(crate) fn topics(
        &mut self,
        marks: impl IntoIterator<Item = Mark>,
        local: &LocalFanout,
        now: Instant,
    ) -> Vec<Topic> {
        let mut found = Vec::new();
        for mark in marks {
            match self.topics.get(&mark) {
                Some(topic) => found.extend(local.watches(topic).then(|| topic.clone())),
                None if self.unknown.len() < UNKNOWN => {
                    self.unknown.insert(mark);
                }
                None => {}
            }
        }
        if self.due().is_some_and(|due| due <= now) {
            self.look_up_at = now + LOOK_UP_EVERY;
            self.renew(local);
            let unknown = mem::take(&mut self.unknown);
            found.extend(unknown.iter().filter_map(|mark| self.topics.get(mark)).cloned());
        }
        found
    }

    /// When [`topics`](Self::topics) is to be called again, because unknown marks wait.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.unknown.is_empty()).then_some(self.look_up_at)
    }

    /// Learns the marks of the topics that began to be watched since.
    fn renew(&mut self, local: &LocalFanout) {
        let (topics, generation) = local.watched_since(self.generation);
        self.generation = generation;
        let Self { seed, topics: known, clean_at, .. } = self;
        known.extend(topics.into_iter().map(|topic| (mark(seed, &topic), topic)));
        if known.len() >= *clean_at {
            known.retain(|_, topic| local.watches(topic));
            *clean_at = known.len() * 2 + 1_000;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_alone_and_tells_nothing() {
        let (one, other) = (Seal::new(&[1; 16]), Seal::new(&[2; 16]));
        let text = "u org:acme:secret 0123456789abcdef 7";
        let sealed = one.seal(text);
        assert!(!sealed.contains("acme") && sealed != one.seal(text), "{sealed}");
        assert_eq!(one.open(&sealed).as_deref(), Some(text));
        assert_eq!(other.open(&sealed), None);
        let (mut cut, mut bent) = (sealed.clone(), sealed.into_bytes());
        cut.pop();
        bent[9] ^= 1;
        for forged in [cut.as_str(), std::str::from_utf8(&bent).unwrap(), text, "s ", "s ====", ""] {
            assert_eq!(one.open(forged), None, "{forged}");
        }
        assert!(one.seal(&"x".repeat(SEALED_BYTES)).len() < 8_000, "what PostgreSQL takes");
    }

    /// Applications append to topics that nobody watches here, while clients join others.
    #[test]
    fn unknown_marks_are_looked_up_now_and_then_and_each_watched_topic_is_hashed_once() {
        let (local, mut marks) = (LocalFanout::new(), Marks::new([7; 16]));
        let topic = |n: u32| Topic::parse(&format!("t{n}")).unwrap();
        let (begin, mut look_ups, mut learned) = (Instant::now(), 0, 0);
        let mut watches = Vec::new();
        for n in 0..10_000 {
            watches.push(local.observe(&topic(n)));
            let unknown = u128::from(n).to_be_bytes();
            assert!(marks.topics([unknown], &local, begin + Duration::from_millis(n.into())).is_empty());
            look_ups += usize::from(marks.unknown.is_empty());
            learned += marks.topics.len();
        }
        assert_eq!(look_ups, 100, "one in 100 ms");
        assert!(learned > 0 && marks.unknown.len() < 100);
        // What nobody watches any more is not kept for ever.
        watches.clear();
        let _last = local.observe(&topic(0));
        let late = begin + Duration::from_secs(60);
        marks.clean_at = marks.clean_at.min(marks.topics.len());
        assert_eq!(marks.topics([mark(&[7; 16], &topic(1))], &local, late), []);
        assert_eq!(marks.topics.len(), 1);
    }

    #[test]
    fn marks_find_what_is_watched_and_nothing_else() {
        let (local, mut marks) = (LocalFanout::new(), Marks::new([7; 16]));
        let topic = |name: &str| Topic::parse(name).unwrap();
        let of = |name: &str| mark(&[7; 16], &topic(name));
        let a = local.observe(&topic("a"));
        let mut now = Instant::now();
        assert_eq!(marks.topics([of("a"), of("b"), [0; 16]], &local, now), [topic("a")]);
        let _b = local.observe(&topic("b"));
        assert_eq!(marks.topics([of("a"), of("b")], &local, now), [topic("a")], "not looked up yet");
        now = marks.due().expect("a mark waits");
        assert_eq!(marks.topics([], &local, now), [topic("b")]);
        assert_eq!(marks.due(), None);
        assert_eq!(marks.topics([of("a"), of("b")], &local, now), [topic("a"), topic("b")]);
        drop(a);
        assert_eq!(marks.topics([of("a"), of("b")], &local, now), [topic("b")]);
        assert_eq!(mark_in("t 000102030405060708090a0b0c0d0e0f").unwrap()[15], 15);
        assert!(
            ["t a", "t ", "u 000102030405060708090a0b0c0d0e0f"]
                .iter()
                .all(|payload| mark_in(payload).is_none())
        );
    }
}
