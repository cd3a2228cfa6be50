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
    /// Server, to clients of Supabase's Realtime, which are not shown a reply: the response to a join.
    pub const JOINED: &str = "sync:joined";
    /// Server: what went wrong.
    pub const SYNC_ERROR: &str = "sync:error";
    /// Server, on topic `phoenix`: the connection is about to be closed.
    pub const DRAIN: &str = "sync:drain";
}

/// Which of the two Phoenix serializers a connection speaks, and by which names it knows topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "Phoenix has two serializers, and topics have two forms")]
pub enum Serializer {
    /// `vsn=1.0.x`: objects.
    V1,
    /// `vsn=2.0.x`: arrays.
    V2,
    /// V1 as the clients of Supabase's Realtime know it: `realtime:` before the name of each topic, and the events of the server
    /// within a `broadcast`.
    RealtimeV1,
    /// V2 as the same clients know it.
    RealtimeV2,
}

/// The topic of the connection itself.
pub(crate) const PHOENIX: &str = "phoenix";
/// What stands before the name of each topic but [`PHOENIX`], for clients of Supabase's Realtime.
const REALTIME: &str = "realtime:";
/// The event that these clients hand an application's own events over from.
const BROADCAST: &str = "broadcast";

/// A ref: the JSON text or number that a client numbers its frames with. A reply carries it back as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ref<'a>(Cow<'a, str>);

impl Ref<'_> {
    /// The ref that is this text. Phoenix' own clients write numbers that way.
    pub fn of_text(text: &str) -> Ref<'static> {
        let mut json = Vec::with_capacity(text.len() + 2);
        super::json::write_json(&mut json, text);
        Ref(Cow::Owned(String::from_utf8(json).expect("JSON is UTF-8")))
    }

    /// The ref as JSON.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The same without a borrow.
    pub fn into_owned(self) -> Ref<'static> {
        Ref(Cow::Owned(self.0.into_owned()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Ref<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        match json.as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9') => Ok(Self(Cow::Borrowed(json))),
            _ => Err(serde::de::Error::custom("a ref is a text, a number or null")),
        }
    }
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
    pub join_ref: Option<Ref<'a>>,
    /// The ref that a reply carries back.
    pub reference: Option<Ref<'a>>,
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
    join_ref: Option<Ref<'a>>,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<Ref<'a>>,
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
    #[serde(borrow)] Option<Ref<'a>>,
    #[serde(borrow)] Option<Ref<'a>>,
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

    /// The same serializer, for clients of Supabase's Realtime.
    #[must_use]
    pub fn into_realtime(self) -> Self {
        match self {
            Self::V1 | Self::RealtimeV1 => Self::RealtimeV1,
            Self::V2 | Self::RealtimeV2 => Self::RealtimeV2,
        }
    }

    pub(crate) fn is_realtime(self) -> bool {
        matches!(self, Self::RealtimeV1 | Self::RealtimeV2)
    }

    /// What a frame of it is.
    pub(crate) fn shape(self) -> &'static str {
        match self {
            Self::V1 => "an object with join_ref, ref, topic, event and payload",
            Self::V2 => "an array of join_ref, ref, topic, event and payload",
            Self::RealtimeV1 => "an object with join_ref, ref, topic (realtime:<name>), event and payload",
            Self::RealtimeV2 => "an array of join_ref, ref, topic (realtime:<name>), event and payload",
        }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// A [`FrameError`] that names the fault.
    pub fn decode(self, text: &str) -> Result<Frame<'_>, FrameError> {
        let read =
            match self {
                Self::V1 | Self::RealtimeV1 => {
                    serde_json::from_str(text).map(|Object { join_ref, reference, topic, event, payload }| {
                        Frame { join_ref, reference, topic: topic.0, event: event.0, payload }
                    })
                }
                Self::V2 | Self::RealtimeV2 => {
                    serde_json::from_str(text).map(|Array(join_ref, reference, topic, event, payload)| {
                        Frame { join_ref, reference, topic: topic.0, event: event.0, payload }
                    })
                }
            };
        let no_frame =
            |fault: &dyn fmt::Display| FrameError(format!("the frame is not {}: {fault}", self.shape()));
        let mut frame = read.map_err(|fault| no_frame(&fault))?;
        if self.is_realtime() && frame.topic != PHOENIX {
            frame.topic =
                without_prefix(frame.topic).ok_or_else(|| no_frame(&"the topic has no `realtime:`"))?;
        }
        Ok(frame)
    }

    /// Writes one frame around a payload that `write` writes as one JSON value.
    pub fn encode(
        self,
        join_ref: Option<&Ref<'_>>,
        reference: Option<&Ref<'_>>,
        topic: &str,
        event: &str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Encoded {
        let [before_join_ref, before_ref, before_topic, before_event, before_payload, end] = match self {
            Self::V1 | Self::RealtimeV1 => {
                ["{\"join_ref\":", ",\"ref\":", ",\"topic\":", ",\"event\":", ",\"payload\":", "}"]
            }
            Self::V2 | Self::RealtimeV2 => ["[", ",", ",", ",", ",", "]"],
        };
        let prefixed = (self.is_realtime() && topic != PHOENIX).then(|| format!("{REALTIME}{topic}"));
        let topic = prefixed.as_deref().unwrap_or(topic);
        let within = (self.is_realtime() && !event.starts_with("phx_")).then_some(event);
        let event = within.map_or(event, |_| BROADCAST);
        Encoded::new(|out| {
            for (name, reference) in [(before_join_ref, join_ref), (before_ref, reference)] {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(reference.map_or("null", Ref::as_json).as_bytes());
            }
            for (name, text) in [(before_topic, topic), (before_event, event)] {
                out.extend_from_slice(name.as_bytes());
                super::json::write_json(out, text);
            }
            out.extend_from_slice(before_payload.as_bytes());
            if let Some(within) = within {
                out.extend_from_slice(b"{\"type\":\"broadcast\",\"event\":");
                super::json::write_json(out, within);
                out.extend_from_slice(b",\"payload\":");
            }
            write(out);
            if within.is_some() {
                out.push(b'}');
            }
            out.extend_from_slice(end.as_bytes());
        })
    }

    /// Writes one frame around a payload that serde can write.
    pub fn encode_value(
        self,
        join_ref: Option<&Ref<'_>>,
        reference: Option<&Ref<'_>>,
        topic: &str,
        event: &str,
        payload: &impl Serialize,
    ) -> Encoded {
        self.encode(join_ref, reference, topic, event, |out| super::json::write_json(out, payload))
    }
}

/// The topic's own name. The connection's has no prefix: with one it is no topic.
fn without_prefix(topic: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let topic = match topic {
        Cow::Borrowed(topic) => Cow::Borrowed(topic.strip_prefix(REALTIME)?),
        Cow::Owned(topic) => Cow::Owned(topic.strip_prefix(REALTIME)?.to_owned()),
    };
    (topic != PHOENIX).then_some(topic)
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
        let all = [Serializer::V1, Serializer::V2, Serializer::RealtimeV1, Serializer::RealtimeV2];
        for serializer in all {
            let bytes =
                serializer.encode_value(Some(&Ref::of_text("1")), None, "run:7:events", "phx_reply", &[1, 2]);
            let text = std::str::from_utf8(&bytes).unwrap();
            let frame = serializer.decode(text).unwrap();
            assert_eq!(frame.join_ref.as_ref().map(Ref::as_json), Some("\"1\""));
            let prefixed = text.contains("\"realtime:run:7:events\"");
            assert_eq!(prefixed, serializer.is_realtime(), "{text}");
            assert_eq!(frame.reference, None);
            assert_eq!((&*frame.topic, &*frame.event), ("run:7:events", "phx_reply"));
            assert_eq!(frame.payload.get(), "[1,2]");
        }
    }

    #[test]
    fn a_ref_is_carried_back_as_it_was_written() {
        for written in ["null", "\"1\"", "1", "0", "-3", "1.5e3", "\"\"", "\"\\u0031\""] {
            let text = format!(r#"[{written},{written},"t","e",{{}}]"#);
            let frame = Serializer::V2.decode(&text).unwrap();
            let back =
                Serializer::V2.encode_value(frame.join_ref.as_ref(), frame.reference.as_ref(), "t", "e", &());
            let start = format!("[{written},{written},");
            assert!(back.starts_with(start.as_bytes()), "{written}: {}", String::from_utf8_lossy(&back));
        }
    }

    #[test]
    fn clients_of_realtime_have_a_prefix_before_topics_and_events_within_broadcasts() {
        let realtime = Serializer::V2.into_realtime();
        let own = realtime.encode_value(None, None, "phoenix", "phx_reply", &());
        assert_eq!(&*own, br#"[null,null,"phoenix","phx_reply",null]"#);
        let event = realtime.encode_value(None, None, "a:b", "sync:head", &7);
        let within = r#"{"type":"broadcast","event":"sync:head","payload":7}"#;
        assert_eq!(&*event, format!(r#"[null,null,"realtime:a:b","broadcast",{within}]"#).as_bytes());
        assert_eq!(realtime.decode(r#"[null,"1","phoenix","heartbeat",{}]"#).unwrap().topic, "phoenix");
        assert_eq!(realtime.decode(r#"["1","1","realtime:a:b","phx_join",{}]"#).unwrap().topic, "a:b");
        assert_eq!(realtime.decode(r#"["1","1","realtime:\u0061","phx_join",{}]"#).unwrap().topic, "a");
        for topic in ["a:b", "realtime:phoenix"] {
            let fault = realtime.decode(&format!(r#"["1","1","{topic}","phx_join",{{}}]"#)).unwrap_err();
            assert!(fault.to_string().contains("realtime:<name>"), "{topic}: {fault}");
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
            r#"[true,"2","t","e",{}]"#,
            r#"["1",[2],"t","e",{}]"#,
            r#"["1",{},"t","e",{}]"#,
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
