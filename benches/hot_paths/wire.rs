//! Hot paths of the wire: frames written and read, by both serializers.

use khala_core::{
    journal::{Journal, Page, ReadFrom, ReadLimit, Replay},
    wire::{Encoded, Frame, Joined, Ref, Serializer, event, write_page},
};

use super::{HotPath, memory, now, topic};

/// A page as the frame that all its readers share.
pub(crate) struct EncodePage {
    serializer: Serializer,
    page: Page,
}

impl EncodePage {
    /// A page of `updates` updates.
    pub(crate) fn new(serializer: Serializer, updates: usize) -> Self {
        let read = now(memory(updates).read(&topic(), ReadFrom::Origin, ReadLimit::PAGE));
        let Ok(Replay::Page(page)) = read else { panic!("nothing was trimmed") };
        Self { serializer, page }
    }
}

impl HotPath for EncodePage {
    type Made = Encoded;

    fn run(&mut self) -> Encoded {
        let write = |out: &mut Vec<u8>| write_page(out, &self.page, None);
        self.serializer.encode(None, None, "run:7:events", event::UPDATE_BATCH, write)
    }
}

/// The answer to a join.
pub(crate) struct EncodeReply {
    serializer: Serializer,
    refs: [Ref<'static>; 2],
    joined: Joined,
}

impl EncodeReply {
    /// To one that resumes.
    pub(crate) fn new(serializer: Serializer) -> Self {
        let bounds = now(memory(1_000).bounds(&topic())).expect("bounds");
        let refs = ["1", "2"].map(Ref::of_text);
        Self { serializer, refs, joined: Joined::new(bounds.epoch, bounds.head, bounds.head, bounds.floor) }
    }
}

impl HotPath for EncodeReply {
    type Made = Encoded;

    fn run(&mut self) -> Encoded {
        let [join_ref, reference] = &self.refs;
        self.serializer.encode_value(
            Some(join_ref),
            Some(reference),
            "run:7:events",
            event::REPLY,
            &self.joined,
        )
    }
}

/// A heartbeat, as V1 and as V2.
pub(crate) const HEARTBEAT: [&str; 2] = [
    r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"7","join_ref":null}"#,
    r#"[null,"7","phoenix","heartbeat",{}]"#,
];
/// A join that resumes, as V1 and as V2.
pub(crate) const JOIN: [&str; 2] = [
    r#"{"topic":"run:7:events","event":"phx_join","payload":{"after":1234,"epoch":"00000000000000ab"},"ref":"2","join_ref":"2"}"#,
    r#"["2","2","run:7:events","phx_join",{"after":1234,"epoch":"00000000000000ab"}]"#,
];

/// A frame from a client.
pub(crate) struct Decode {
    serializer: Serializer,
    text: &'static str,
}

impl Decode {
    /// One of the two, as the serializer has it.
    pub(crate) fn new(serializer: Serializer, texts: [&'static str; 2]) -> Self {
        let [v1, v2] = texts;
        Self { serializer, text: if serializer == Serializer::V1 { v1 } else { v2 } }
    }
}

impl HotPath for Decode {
    type Made = Frame<'static>;

    fn run(&mut self) -> Frame<'static> {
        self.serializer.decode(std::hint::black_box(self.text)).expect("a frame")
    }
}
