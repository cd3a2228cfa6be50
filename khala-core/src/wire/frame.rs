//! The Phoenix Channels envelope: `[join_ref, ref, topic, event, payload]` in V2, an object of those keys in V1.
//!
//! A frame borrows from the text it came in; its payload is checked JSON that nobody has looked into yet.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::Encoded;

/// The events that the protocol knows.
pub mod event {
    /// Client: join the topic.
    pub const JOIN: &str = "phx_join";
    /// Client: leave the topic.
    pub const LEAVE: &str = "phx_leave";
    /// Client, on topic `phoenix`: still there.
    pub const HEARTBEAT: &str = "heartbeat";
    /// Client, on any joined topic or `phoenix`: a fresh token.
    pub const ACCESS_TOKEN: &str = "access_token";
    /// Server: the answer to a frame with a ref.
    pub const REPLY: &str = "phx_reply";
    /// Server: the channel is closed, and should not be joined again.
    pub const CLOSE: &str = "phx_close";
    /// Server: the channel failed, and may be joined again.
    pub const ERROR: &str = "phx_error";
    /// Server: updates.
    pub const UPDATE_BATCH: &str = "sync:update_batch";
    /// Server: documents of a snapshot.
    pub const SNAPSHOT: &str = "sync:snapshot";
    /// Server: where a quiet topic stands.
    pub const HEAD: &str = "sync:head";
    /// Server: what went wrong.
    pub const SYNC_ERROR: &str = "sync:error";
    /// Server, on topic `phoenix`: the connection is about to be closed.
    pub const DRAIN: &str = "sync:drain";
}

/// Which of the two Phoenix serializers a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "Phoenix has these two")]
pub enum Serializer {
    /// `vsn=1.0.x`: objects.
    V1,
    /// `vsn=2.0.x`: arrays.
    V2,
}

/// A frame that is none. Its `Display` says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FrameError(String);

/// One frame, either way.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "Phoenix has these five")]
pub struct Frame<'a> {
    /// The ref of the join that this belongs to.
    pub join_ref: Option<Cow<'a, str>>,
    /// The ref that a reply carries back.
    pub reference: Option<Cow<'a, str>>,
    /// The topic, unchecked.
    pub topic: Cow<'a, str>,
    /// The event.
    pub event: Cow<'a, str>,
    /// The payload, checked to be JSON.
    pub payload: &'a RawValue,
}

/// Text that borrows where serde can, as plain `Cow` fields of a tuple do not.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// V1 on the wire.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    join_ref: Option<Text<'a>>,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<Text<'a>>,
    #[serde(borrow)]
    topic: Text<'a>,
    #[serde(borrow)]
    event: Text<'a>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// V2 on the wire.
#[derive(Deserialize)]
struct Array<'a>(
    #[serde(borrow)] Option<Text<'a>>,
    #[serde(borrow)] Option<Text<'a>>,
    #[serde(borrow)] Text<'a>,
    #[serde(borrow)] Text<'a>,
    #[serde(borrow)] &'a RawValue,
);

impl Serializer {
    /// The serializer that `vsn` asks for: `1.0.x` or `2.0.x`.
    pub fn of_version(vsn: &str) -> Option<Self> {
        let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        match (vsn.strip_prefix("1.0."), vsn.strip_prefix("2.0.")) {
            (Some(patch), _) if numbered(patch) => Some(Self::V1),
            (_, Some(patch)) if numbered(patch) => Some(Self::V2),
            _ => None,
        }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// A [`FrameError`] that names the fault.
    pub fn decode(self, text: &str) -> Result<Frame<'_>, FrameError> {
        match self {
            Self::V1 => {
                serde_json::from_str(text).map(|Object { join_ref, reference, topic, event, payload }| {
                    Frame {
                        join_ref: join_ref.map(|text| text.0),
                        reference: reference.map(|text| text.0),
                        topic: topic.0,
                        event: event.0,
                        payload,
                    }
                })
            }
            Self::V2 => {
                serde_json::from_str(text).map(|Array(join_ref, reference, topic, event, payload)| Frame {
                    join_ref: join_ref.map(|text| text.0),
                    reference: reference.map(|text| text.0),
                    topic: topic.0,
                    event: event.0,
                    payload,
                })
            }
        }
        .map_err(|fault| {
            let shape = match self {
                Self::V1 => "an object with join_ref, ref, topic, event and payload",
                Self::V2 => "an array of join_ref, ref, topic, event and payload",
            };
            FrameError(format!("the frame is not {shape}: {fault}"))
        })
    }

    /// Writes one frame around a payload that `write` writes as one JSON value.
    pub fn encode(
        self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Encoded {
        let [before_join_ref, before_ref, before_topic, before_event, before_payload, end] = match self {
            Self::V1 => ["{\"join_ref\":", ",\"ref\":", ",\"topic\":", ",\"event\":", ",\"payload\":", "}"],
            Self::V2 => ["[", ",", ",", ",", ",", "]"],
        };
        Encoded::new(|out| {
            let mut field = |name: &str, value: Option<&str>| {
                out.extend_from_slice(name.as_bytes());
                super::json::write_json(out, &value);
            };
            field(before_join_ref, join_ref);
            field(before_ref, reference);
            field(before_topic, Some(topic));
            field(before_event, Some(event));
            out.extend_from_slice(before_payload.as_bytes());
            write(out);
            out.extend_from_slice(end.as_bytes());
        })
    }

    /// Writes one frame around a payload that serde can write.
    pub fn encode_value(
        self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &impl Serialize,
    ) -> Encoded {
        self.encode(join_ref, reference, topic, event, |out| super::json::write_json(out, payload))
    }
}

impl<'a> Frame<'a> {
    /// Reads the payload, which must be an object, as a `T`.
    ///
    /// # Errors
    /// A [`FrameError`] that says what the payload should have been.
    pub fn payload_as<T: Deserialize<'a>>(&self) -> Result<T, FrameError> {
        // serde would take an array for a struct, field by field.
        if !self.payload.get().starts_with('{') {
            return Err(FrameError("the payload is not an object".to_owned()));
        }
        serde_json::from_str(self.payload.get()).map_err(|fault| FrameError(fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_serializers_read_what_they_write() {
        for serializer in [Serializer::V1, Serializer::V2] {
            let bytes = serializer.encode_value(Some("1"), None, "run:7:events", "phx_reply", &[1, 2]);
            let text = std::str::from_utf8(&bytes).unwrap();
            let frame = serializer.decode(text).unwrap();
            assert_eq!(frame.join_ref.as_deref(), Some("1"));
            assert_eq!(frame.reference, None);
            assert_eq!((&*frame.topic, &*frame.event), ("run:7:events", "phx_reply"));
            assert_eq!(frame.payload.get(), "[1,2]");
        }
    }

    #[test]
    fn a_payload_is_an_object() {
        for (payload, good) in
            [("{}", true), (r#"{"from":"floor"}"#, true), ("[]", false), ("null", false), ("7", false)]
        {
            let text = format!(r#"["1","1","t","phx_join",{payload}]"#);
            let frame = Serializer::V2.decode(&text).unwrap();
            assert_eq!(frame.payload_as::<crate::wire::JoinRequest>().is_ok(), good, "{payload}");
        }
    }

    #[test]
    fn versions_are_exact() {
        assert_eq!(Serializer::of_version("2.0.0"), Some(Serializer::V2));
        assert_eq!(Serializer::of_version("1.0.17"), Some(Serializer::V1));
        for bad in ["", "2", "2.0", "2.0.", "2.1.0", "3.0.0", "1.0.x", " 2.0.0", "2.0.0.0"] {
            assert_eq!(Serializer::of_version(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_with_its_shape() {
        let bad = [
            "",
            "null",
            "[]",
            "{}",
            r#"["1","2","t","e"]"#,
            r#"["1","2","t","e",{},1]"#,
            r#"[1,"2","t","e",{}]"#,
            r#"["1","2",null,"e",{}]"#,
            r#"["1","2","t","e",{]"#,
        ];
        for text in bad {
            let fault = Serializer::V2.decode(text).unwrap_err().to_string();
            assert!(fault.contains("an array of join_ref"), "{text}: {fault}");
        }
        let fault = Serializer::V1.decode(r#"{"topic":"t"}"#).unwrap_err().to_string();
        assert!(fault.contains("event"), "{fault}");
    }
}
