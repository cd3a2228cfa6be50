//! What NOTIFY carries, in a form that tells nothing to others: every role of a database may LISTEN and NOTIFY.
//!
//! Heads and revocations are sealed (ChaCha20-Poly1305, RFC 8439) with a key that is derived from the database's seed, which
//! only roles with a right to Khala's tables can read. What applications append in their own transactions is announced by a
//! mark of the topic, a hash that is keyed alike, because PostgreSQL makes it.
//!
//! # Invariants
//! Neither form holds a topic's name or a head. A payload that was not sealed with the key is opened by nobody.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use khala_core::{LocalFanout, Topic};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
};

/// Bytes that may be sealed at once: PostgreSQL takes less than 8,000 bytes of text.
pub(crate) const SEALED_BYTES: usize = 5_800;
/// A sealed payload begins with it.
const SEALED: &str = "s ";

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
    /// As of which topics: [`LocalFanout::generation`].
    generation: Option<u64>,
    topics: HashMap<Mark, Topic>,
}

impl Marks {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        Self { seed, generation: None, topics: HashMap::new() }
    }

    /// The topics of these marks that somebody watches.
    ///
    /// A mark that is not known is looked for among the watched topics only if these have changed: others may send any
    /// number of them.
    pub(crate) fn topics(
        &mut self,
        marks: impl IntoIterator<Item = Mark>,
        local: &LocalFanout,
    ) -> Vec<Topic> {
        let mut found = Vec::new();
        for mark in marks {
            if !self.topics.contains_key(&mark) {
                self.renew(local);
            }
            found.extend(self.topics.get(&mark).filter(|topic| local.watches(topic)).cloned());
        }
        found
    }

    fn renew(&mut self, local: &LocalFanout) {
        // Before the topics are read: one that comes meanwhile changes it again.
        let generation = Some(local.generation());
        if self.generation != generation {
            self.topics =
                local.watched().into_iter().map(|topic| (mark(&self.seed, &topic), topic)).collect();
            self.generation = generation;
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

    #[test]
    fn marks_find_what_is_watched_and_nothing_else() {
        let (local, mut marks) = (LocalFanout::new(), Marks::new([7; 16]));
        let topic = |name: &str| Topic::parse(name).unwrap();
        let of = |name: &str| mark(&[7; 16], &topic(name));
        let a = local.observe(&topic("a"));
        assert_eq!(marks.topics([of("a"), of("b"), [0; 16]], &local), [topic("a")]);
        let _b = local.observe(&topic("b"));
        assert_eq!(marks.topics([of("a"), of("b")], &local), [topic("a"), topic("b")]);
        drop(a);
        assert_eq!(marks.topics([of("a"), of("b")], &local), [topic("b")]);
        assert_eq!(mark_in("t 000102030405060708090a0b0c0d0e0f").unwrap()[15], 15);
        assert!(
            ["t a", "t ", "u 000102030405060708090a0b0c0d0e0f"]
                .iter()
                .all(|payload| mark_in(payload).is_none())
        );
    }
}
