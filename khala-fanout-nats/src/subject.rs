//! The subjects, and the short texts that are published on them.
//!
//! A topic becomes one token: `.`, which parts tokens on NATS, is written `~`, which no topic can hold; everything else
//! that a topic may hold is allowed in a token. So the encoding is reversible, and no wildcard can come about.

use khala_core::{Cursor, Topic, Watermark};

/// The subjects under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    prefix: String,
}

impl Subjects {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Where heads of `topic` are announced.
    pub(crate) fn head(&self, topic: &Topic) -> String {
        format!("{}.head.{}", self.prefix, topic.as_str().replace('.', "~"))
    }

    /// Where it is announced how far the log of revocations goes.
    pub(crate) fn revoked(&self) -> String {
        format!("{}.revoked", self.prefix)
    }

    /// Where a node says that it may have missed something.
    pub(crate) fn hello(&self) -> String {
        format!("{}.hello", self.prefix)
    }

    /// Where `node` talks to itself, to learn how far the server has got.
    pub(crate) fn echo(&self, node: &str) -> String {
        format!("{}.echo.{node}", self.prefix)
    }
}

/// What is wrong with a prefix, if anything is.
pub(crate) fn prefix_fault(prefix: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if prefix.len() > 128 {
        return Some("is longer than 128 bytes");
    }
    if prefix.split('.').any(|token| token.is_empty() || !token.bytes().all(allowed)) {
        return Some("is not words of A-Z a-z 0-9 _ - with single dots between them");
    }
    None
}

/// A head as it is published: the epoch, a space, the watermark.
pub(crate) fn head_text(head: Cursor) -> String {
    format!("{} {}", head.epoch, head.watermark)
}

/// The head that was published, if it is one. What follows it is for later versions.
pub(crate) fn head_of(text: &[u8]) -> Option<Cursor> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let epoch = words.next()?.parse().ok()?;
    Some(Cursor::new(epoch, watermark_of(words.next()?.as_bytes())?))
}

/// The watermark that was published, if it is one.
pub(crate) fn watermark_of(text: &[u8]) -> Option<Watermark> {
    let word = std::str::from_utf8(text).ok()?.split(' ').next()?;
    Watermark::new(word.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use khala_core::Epoch;

    use super::*;

    #[test]
    fn a_topic_is_one_token_and_no_two_are_the_same() {
        let subjects = Subjects::new("khala");
        let subject = |topic: &str| subjects.head(&Topic::parse(topic).unwrap());
        assert_eq!(subject("runtime.codex_worker_events"), "khala.head.runtime~codex_worker_events");
        assert_eq!(subject("run:7:a/b-c"), "khala.head.run:7:a/b-c");
        assert_eq!(subject("...").matches('.').count(), 2);
        assert_ne!(subject("a.b"), subject("a_b"));
        assert_eq!(subject(&"x.".repeat(127)).len(), "khala.head.".len() + 254);
    }

    #[test]
    fn heads_are_read_as_they_were_written() {
        let head = Cursor::new(Epoch::from_bits(7), Watermark::new(42).unwrap());
        assert_eq!(head_text(head), "0000000000000007 42");
        assert_eq!(head_of(head_text(head).as_bytes()), Some(head));
        assert_eq!(head_of(b"0000000000000007 42 and more"), Some(head));
        for bad in
            [&b""[..], b"0000000000000007", b"7 42", b"0000000000000007 -1", b"0000000000000007 x", b"\xff 1"]
        {
            assert_eq!(head_of(bad), None);
        }
        assert_eq!(watermark_of(b"9007199254740992"), None);
    }

    #[test]
    fn prefixes() {
        for good in ["khala", "a.b-c.D_1"] {
            assert_eq!(prefix_fault(good), None, "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$SYS", "ä", &"x".repeat(129)] {
            assert!(prefix_fault(bad).is_some(), "{bad}");
        }
    }
}
