//! A frame that was encoded: its text, and before it the header that a WebSocket puts there, in one piece of memory.
//!
//! Every subscriber of a topic is sent the same frame, and writing it in one piece is cheaper than in two.
//!
//! # Invariants
//! A frame dereferences to its text alone.

use std::ops::Deref;

use bytes::Bytes;

/// Bytes that the longest header takes.
const HEADER: usize = 10;
/// Bytes of a frame without a page in it, as nearly all are.
const SMALL: usize = 192;

/// An encoded text frame; cloning it shares the memory. It dereferences to its text, which is UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    framed: Bytes,
    header: usize,
}

impl Encoded {
    /// The frame whose text `write` appends.
    pub(super) fn new(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut out = Vec::with_capacity(SMALL);
        out.extend_from_slice(&[0; HEADER]);
        write(&mut out);
        let length = out.len() - HEADER;
        // RFC 6455, section 5.2: the final frame of a text message, unmasked because a server sends it.
        let header = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..=125), _) => {
                out[HEADER - 1] = short;
                2
            }
            (_, Ok(medium)) => {
                out[HEADER - 3] = 126;
                out[HEADER - 2..HEADER].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                out[1] = 127;
                out[2..HEADER].copy_from_slice(&(length as u64).to_be_bytes());
                HEADER
            }
        };
        out[HEADER - header] = 0x81;
        Self { framed: Bytes::from(out).slice(HEADER - header..), header }
    }

    /// The text.
    pub fn text(&self) -> Bytes {
        self.framed.slice(self.header..)
    }

    /// Header and text, as a server writes them to a WebSocket.
    pub fn into_framed(self) -> Bytes {
        self.framed
    }

    /// How many bytes header and text are together.
    pub fn framed_len(&self) -> usize {
        self.framed.len()
    }
}

impl Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.framed[self.header..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_shortest_length() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let text = vec![b'x'; length];
            let encoded = Encoded::new(|out| out.extend_from_slice(&text));
            assert_eq!(
                (&*encoded, &*encoded.text(), encoded.framed_len()),
                (&*text, &*text, header + length)
            );
            let framed = encoded.into_framed();
            let stated = match framed[1] {
                126 => usize::from(u16::from_be_bytes([framed[2], framed[3]])),
                127 => usize::try_from(u64::from_be_bytes(framed[2..10].try_into().unwrap())).unwrap(),
                short => usize::from(short),
            };
            assert_eq!((framed[0], stated), (0x81, length));
        }
    }
}
