//! The update: one entry of a topic's log, before and after it has its seq.
//!
//! A payload is JSON text that was checked once, at the edge, and is kept byte for byte ever after: nothing
//! parses it again on its way to a subscriber.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    position::Seq,
    text::{TextError, plain, text},
};

text! {
    /// What an update is about, for the reader to dispatch on: 1 to 128 bytes without control characters.
    Kind, "kind", |field, text| plain(field, text, 128)
}

text! {
    /// The key of a document within its topic: 1 to 512 bytes without control characters.
    DocKey, "doc_key", |field, text| plain(field, text, 512)
}

text! {
    /// A hash of the payload's canonical form (RFC 8785), written `sha256:` and 64 lower-case hexadecimal digits.
    PayloadHash, "payload_hash", |field, text| {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then_some(())
            .ok_or_else(|| TextError::new(field, "is not 'sha256:' and 64 lower-case hexadecimal digits"))
    }
}

impl PayloadHash {
    /// The hash of `payload`; none for one without a canonical form, as `1e400`. A payload that [`Batch`](crate::Batch) takes
    /// has one.
    pub fn of(payload: &Payload) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(payload.as_str()).ok()?;
        let digest = Sha256::digest(serde_json_canonicalizer::to_vec(&value).ok()?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self(format!("sha256:{hex}").into()))
    }
}

text! {
    /// A key that names one publish, so that a retry of it stores nothing twice: 1 to 255 bytes without
    /// control characters.
    DedupKey, "dedup", |field, text| plain(field, text, 255)
}

impl DedupKey {
    /// The key of the same name that belongs to `publisher`: another one than that name alone, and than that of anybody else.
    #[must_use]
    pub fn of_publisher(&self, publisher: &str) -> Self {
        let digest = Sha256::digest(publisher);
        let whose: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        // No key that was parsed holds a control character, so none is mistaken for this one.
        Self(format!("{whose}\u{1f}{}", self.0).into())
    }
}

text! {
    /// A header of the publish request that is carried along: 1 to 512 bytes without control characters.
    TraceField, "trace", |field, text| plain(field, text, 512)
}

/// Where an update came from: the W3C trace context and request id of its publish request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraceContext {
    /// The `traceparent` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceField>,
    /// The `tracestate` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<TraceField>,
    /// The `x-request-id` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<TraceField>,
}

/// A moment: milliseconds since 1970-01-01T00:00:00Z, on the wire as that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment that many milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment that much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment that much earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// JSON text, known to be well-formed, kept byte for byte.
///
/// What is appended is held to more than that, as its [`Batch`](crate::Batch) is made: I-JSON, so that every reader takes it
/// and takes it alike. What was stored before there was that rule, and what a subscriber receives, stays readable.
///
/// Payloads that were read together may share one allocation: a caller that keeps a single one of them for long keeps the
/// page that it came with, which is at most a few MiB.
#[derive(Clone)]
pub struct Payload {
    text: Arc<str>,
    /// Where in the text it stands, on boundaries of characters.
    start: usize,
    end: usize,
}

impl Payload {
    fn whole(text: Arc<str>) -> Self {
        Self { start: 0, end: text.len(), text }
    }

    /// The JSON value `null`.
    pub fn null() -> Self {
        Self::whole("null".into())
    }

    /// Checks that `json` is one JSON value and takes its text, without the white space around it.
    ///
    /// # Errors
    /// A [`TextError`] that says where the text stops being JSON.
    pub fn parse(json: &str) -> Result<Self, TextError> {
        let raw: &RawValue = serde_json::from_str(json)
            .map_err(|fault| TextError::new("payload", format!("is not JSON: {fault}")))?;
        Ok(Self::from_raw(raw))
    }

    /// Takes a value that serde_json has already checked.
    pub fn from_raw(raw: &RawValue) -> Self {
        Self::whole(raw.get().into())
    }

    /// The JSON text of any value that serde can write.
    ///
    /// # Errors
    /// A [`TextError`] if the value has no JSON form, such as a map with keys that are not text.
    pub fn of(value: &impl Serialize) -> Result<Self, TextError> {
        let json = serde_json::to_string(value)
            .map_err(|fault| TextError::new("payload", format!("has no JSON form: {fault}")))?;
        Ok(Self::whole(json.into()))
    }

    /// Takes text that a store has kept since it was parsed.
    ///
    /// For implementers of a [`Journal`](crate::journal::Journal): only what came from [`as_str`](Self::as_str) may come
    /// back here, because subscribers are sent it unchecked.
    pub(crate) fn from_stored(json: impl Into<Arc<str>>) -> Self {
        Self::whole(json.into())
    }

    /// The same for one of many that were read together: the part of their text in which it stands.
    ///
    /// # Panics
    /// If that is no part of the text, or cuts through a character.
    pub(crate) fn from_stored_within(text: &Arc<str>, part: Range<usize>) -> Self {
        assert!(text.get(part.clone()).is_some(), "{part:?} is no part of a text of {} bytes", text.len());
        Self { text: Arc::clone(text), start: part.start, end: part.end }
    }

    /// The value, read as a `T`.
    ///
    /// # Errors
    /// A [`TextError`] that says where it is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TextError> {
        serde_json::from_str(self.as_str())
            .map_err(|fault| TextError::new("payload", format!("is not what is read: {fault}")))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.text[self.start..self.end]
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl Hash for Payload {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An update that is still to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewUpdate {
    /// What it is about.
    pub kind: Kind,
    /// Its content.
    pub payload: Payload,
    /// The document whose new state it is.
    pub doc_key: Option<DocKey>,
    /// The document's version; where there is none, the seq is it.
    pub doc_version: Option<u64>,
    /// Whether it is a tombstone: the document is gone. Means nothing without a `doc_key`.
    pub deleted: bool,
    /// The hash of the payload: the publisher's, carried along unchecked, or what its topic's class adds.
    pub payload_hash: Option<PayloadHash>,
    /// Where it came from.
    pub trace: Option<TraceContext>,
    /// The first fault of what was set, which its batch gives back.
    pub(crate) fault: Option<Box<TextError>>,
}

impl NewUpdate {
    /// An update of that kind and content.
    pub fn new(kind: Kind, payload: Payload) -> Self {
        Self {
            kind,
            payload,
            doc_key: None,
            doc_version: None,
            deleted: false,
            payload_hash: None,
            trace: None,
            fault: None,
        }
    }

    /// The removal of a document: a tombstone with the payload `null`.
    pub fn tombstone(kind: Kind, doc_key: DocKey) -> Self {
        Self { deleted: true, ..Self::new(kind, Payload::null()) }.doc_key(doc_key)
    }

    /// Makes it the new state of the document `doc_key`.
    ///
    /// A key that breaks the rule is told of when the update is put into a [`Batch`](crate::Batch), as by publishing it: so a chain
    /// of setters needs no `?` for each.
    #[must_use]
    pub fn doc_key(mut self, doc_key: impl TryInto<DocKey, Error: Into<TextError>>) -> Self {
        match doc_key.try_into() {
            Ok(doc_key) => self.doc_key = Some(doc_key),
            Err(fault) => self.fault = self.fault.or_else(|| Some(Box::new(fault.into()))),
        }
        self
    }

    /// Gives the document's version, which must exceed the stored one.
    #[must_use]
    pub fn doc_version(mut self, doc_version: u64) -> Self {
        self.doc_version = Some(doc_version);
        self
    }

    /// Carries the publisher's hash of the payload.
    #[must_use]
    pub fn payload_hash(mut self, hash: PayloadHash) -> Self {
        self.payload_hash = Some(hash);
        self
    }

    /// Carries the trace context of the publish request.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// What it counts against limits in bytes: its texts.
    pub fn size(&self) -> usize {
        self.payload.as_str().len()
            + self.kind.as_str().len()
            + self.doc_key.as_ref().map_or(0, |key| key.as_str().len())
    }

    /// The update that this becomes when it is stored as `seq` at `published_at`.
    #[must_use]
    pub fn stored(self, seq: Seq, published_at: Timestamp) -> Update {
        let doc_version = self.doc_key.as_ref().map(|_| self.doc_version.unwrap_or(seq.as_u64()));
        Update {
            seq,
            kind: self.kind,
            payload: self.payload,
            doc_key: self.doc_key,
            doc_version,
            deleted: self.deleted,
            payload_hash: self.payload_hash,
            published_at,
            trace: self.trace,
        }
    }
}

/// One entry of a topic's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it from its row, and must fill every field")]
pub struct Update {
    /// Its name and place.
    pub seq: Seq,
    /// What it is about.
    pub kind: Kind,
    /// Its content.
    pub payload: Payload,
    /// The document whose new state it is.
    pub doc_key: Option<DocKey>,
    /// The document's version; there is one exactly where there is a `doc_key`.
    pub doc_version: Option<u64>,
    /// Whether the document is gone.
    pub deleted: bool,
    /// The hash of the payload, where there is one.
    pub payload_hash: Option<PayloadHash>,
    /// When it was appended. Says nothing about order: only the seq does.
    pub published_at: Timestamp,
    /// Where it came from.
    pub trace: Option<TraceContext>,
}

impl Update {
    /// A new update of that kind, whose payload is the JSON form of `value`.
    ///
    /// ```
    /// # use khala_core::Update;
    /// # let order = 7;
    /// let update = Update::json("paid", &order)?.doc_key(format!("order/{order}"));
    /// # Ok::<(), khala_core::TextError>(())
    /// ```
    ///
    /// # Errors
    /// A [`TextError`] that names the fault of the kind, or why the value has no JSON form.
    pub fn json(
        kind: impl TryInto<Kind, Error: Into<TextError>>,
        value: &impl Serialize,
    ) -> Result<NewUpdate, TextError> {
        Ok(NewUpdate::new(kind.try_into().map_err(Into::into)?, Payload::of(value)?))
    }

    /// The removal of a document: a tombstone with the payload `null`.
    ///
    /// # Errors
    /// A [`TextError`] that names the fault of the kind or of the key.
    pub fn tombstone(
        kind: impl TryInto<Kind, Error: Into<TextError>>,
        doc_key: impl TryInto<DocKey, Error: Into<TextError>>,
    ) -> Result<NewUpdate, TextError> {
        let doc_key = doc_key.try_into().map_err(Into::into)?;
        Ok(NewUpdate::tombstone(kind.try_into().map_err(Into::into)?, doc_key))
    }

    /// What it counts against limits in bytes: its texts.
    pub fn size(&self) -> usize {
        self.payload.as_str().len()
            + self.kind.as_str().len()
            + self.doc_key.as_ref().map_or(0, |key| key.as_str().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_the_canonical_form() {
        let hash = |json: &str| PayloadHash::of(&Payload::parse(json).unwrap());
        let canonical = hash(r#"{"a":1,"b":[1e30,4.5,0.002],"\u20ac":"\n"}"#);
        assert_eq!(hash(r#"{ "b": [1E30, 4.50, 2e-3], "€":"\u000a", "a":1.0 }"#), canonical);
        assert_ne!(hash(r#"{"a":2,"b":[1e30,4.5,0.002],"€":"\n"}"#), canonical);
        // `printf '{"a":1}' | sha256sum`
        let known = "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        assert_eq!(hash(r#"{ "a" : 1 }"#).unwrap().as_str(), known);
        assert_eq!(PayloadHash::parse(known).ok(), hash(r#"{"a":1}"#));
        assert_eq!(hash("1e400"), None);
    }

    #[test]
    fn a_payload_keeps_its_bytes() {
        let odd = r#"{ "b":1.0e0,"a" : "é\u0000", "b":[ ] }"#;
        assert_eq!(Payload::parse(odd).unwrap().as_str(), odd);
        assert_eq!(Payload::parse(" 1 \n").unwrap().as_str(), "1");
        for bad in ["", "{", "1 2", "nul", "'a'", "\u{feff}1"] {
            assert!(Payload::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn payloads_of_one_text_are_what_they_say() {
        let text: Arc<str> = r#"{"a":"é"}[1]"#.into();
        let (first, second) =
            (Payload::from_stored_within(&text, 0..10), Payload::from_stored_within(&text, 10..13));
        assert_eq!((first.as_str(), second.as_str()), (r#"{"a":"é"}"#, "[1]"));
        assert_eq!(second, Payload::parse("[1]").unwrap());
        for bad in [0..7, 12..14] {
            assert!(std::panic::catch_unwind(|| Payload::from_stored_within(&text, bad)).is_err());
        }
    }

    #[test]
    fn texts_name_their_fault() {
        assert_eq!(Kind::parse("").unwrap_err().to_string(), "kind is empty");
        assert!(DocKey::parse("a\u{7}").unwrap_err().to_string().contains("control character at byte 1"));
        assert!(PayloadHash::parse("sha256:00").is_err());
        assert!(PayloadHash::parse(&format!("sha256:{}", "0a".repeat(32))).is_ok());
    }
}
