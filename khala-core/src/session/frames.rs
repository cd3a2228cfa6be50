//! What a client's frames do: joins and leaves, the frames that are refused, and those that cannot be read.
//!
//! # Invariants
//! Each frame is charged to the client's limits before it has any effect, and a client that goes on sending what is refused is
//! closed.

use super::{
    by_channel::ChannelId,
    channel::Channel,
    replies::{Empty, Status, clip},
    state::Session,
};
use crate::{
    admission::Limited,
    clock::{Moment, Now},
    follower::Follower,
    refusal::Refusal,
    telemetry::Surface,
    topic::Topic,
    wire::{Close, Code, Frame, JoinRequest, PHOENIX, Ref, event},
};

/// A ref is a counter, written out. What is much longer is not one, and would be kept for as long as the channel.
/// These are 64 bytes of text, and its quotation marks.
const MAX_REF_BYTES: usize = 66;

impl Session {
    /// The client sent a text frame.
    pub fn handle_text(&mut self, text: &str, now: Now) {
        if !self.advance_clock(now) {
            return;
        }
        (self.heard_at, self.silent_at) = (now.steady, None);
        let Ok(frame) = self.serializer.decode(text) else {
            // The fault's own text would repeat a part of what was sent, which may hold a token.
            return self.malformed(format!("the frame is not {}", self.serializer.shape()));
        };
        let too_long = |reference: &Option<Ref<'_>>| {
            reference.as_ref().is_some_and(|reference| reference.as_json().len() > MAX_REF_BYTES)
        };
        if too_long(&frame.join_ref) || too_long(&frame.reference) {
            return self.malformed("a ref has more than 64 bytes".to_owned());
        }
        if let Err(limited) = self.admitted.frame(now.steady) {
            return self.too_many(&frame, limited);
        }
        self.too_many = 0;
        match (&*frame.topic, &*frame.event) {
            (PHOENIX, event::ACCESS_TOKEN) => self.take_token(&frame),
            (_, event::ACCESS_TOKEN) if self.current(&frame).is_some() => self.take_token(&frame),
            (PHOENIX, event::HEARTBEAT) => self.reply_ok(&frame, &Empty {}),
            (_, event::JOIN) => self.join(&frame, now.steady),
            (_, event::LEAVE) => self.leave(&frame),
            _ => self.unknown(&frame),
        }
    }

    /// The client sent a binary frame, which is refused: the protocol has none.
    pub fn handle_binary(&mut self, now: Now) {
        if !self.advance_clock(now) {
            return;
        }
        (self.heard_at, self.silent_at) = (now.steady, None);
        self.malformed("the frame is a binary one: a frame is sent as text".to_owned());
    }

    /// The client sent that many frames beside text and binary ones: pings for one, which show that it is there. They are charged
    /// as text frames are, and have no answer that could say so.
    pub fn handle_frames(&mut self, frames: u32, now: Now) {
        if !self.advance_clock(now) {
            return;
        }
        (self.heard_at, self.silent_at) = (now.steady, None);
        for _ in 0..frames {
            if self.admitted.frame(now.steady).is_ok() {
                continue;
            }
            self.note_refusal(Code::FrameRateLimited.as_str(), Surface::Frame, PHOENIX);
            self.too_many += 1;
            if self.too_many > self.options.malformed_frames {
                return self.end(Close::TooManyFrames);
            }
        }
    }

    fn malformed(&mut self, message: String) {
        self.malformed += 1;
        self.note_refusal(Code::MalformedFrame.as_str(), Surface::Frame, PHOENIX);
        let response = self.response_of(&Refusal::protocol(Code::MalformedFrame, message));
        self.push(None, PHOENIX, event::SYNC_ERROR, &response);
        if self.malformed > self.options.malformed_frames {
            self.end(Close::Hostile);
        }
    }

    /// A frame above what the client may send: it is answered and has no effect, a few times.
    fn too_many(&mut self, frame: &Frame<'_>, limited: Limited) {
        self.too_many += 1;
        self.refuse(frame, Surface::Frame, &limited.into());
        if self.too_many > self.options.malformed_frames {
            self.end(Close::TooManyFrames);
        }
    }

    fn join(&mut self, frame: &Frame<'_>, now: Moment) {
        let topic = match Topic::parse(&frame.topic) {
            Ok(topic) => topic,
            Err(fault) => {
                let refusal = Refusal::protocol(Code::InvalidTopic, fault.to_string());
                return self.refuse(frame, Surface::Join, &refusal);
            }
        };
        let request = match frame.payload_as::<JoinRequest>() {
            Ok(request) => request,
            Err(fault) => {
                let refusal = Refusal::protocol(Code::InvalidJoin, fault.to_string());
                return self.refuse(frame, Surface::Join, &refusal);
            }
        };
        if let Err(limited) = self.admitted.join(now) {
            return self.refuse(frame, Surface::Join, &limited.into());
        }
        if let Some(old) = self.joined.get(&topic).copied() {
            self.replace_channel(old, frame);
        } else if self.channels.len() >= self.options.topics {
            let message = format!("a connection joins at most {} topics", self.options.topics);
            return self.refuse(frame, Surface::Join, &Refusal::protocol(Code::TooManyTopics, message));
        }
        let id = ChannelId::new(self.next_channel);
        self.next_channel += 1;
        let not_older_than = now.minus(self.options.poll_interval);
        let class = self.classes.of(&topic).cloned();
        let follower = Follower::new(topic.clone(), class, &request, not_older_than, now);
        let channel = Channel::new(follower, frame, now);
        self.channels.get_or_insert_with(id, || channel);
        self.joined.insert(topic, id);
        self.count_channels(1);
        self.enqueue(id);
    }

    fn leave(&mut self, frame: &Frame<'_>) {
        let current = self.current(frame);
        if current.is_none() && self.joined.contains_key(&*frame.topic) {
            return; // of an earlier join, whose close was sent when this one came
        }
        self.reply_ok(frame, &Empty {});
        if let Some(id) = current {
            self.close_channel(id, event::CLOSE);
        }
    }

    /// A frame that is neither of the connection's nor of a channel's events.
    fn unknown(&mut self, frame: &Frame<'_>) {
        let joined = self.joined.contains_key(&*frame.topic);
        if joined && self.current(frame).is_none() {
            return; // of an earlier join
        }
        let (code, join_ref) =
            if joined { (Code::UnknownEvent, frame.join_ref.as_ref()) } else { (Code::UnmatchedTopic, None) };
        let message = match code {
            Code::UnknownEvent => {
                format!("this connection only reads; it has no event {:?}", clip(&frame.event))
            }
            _ => format!("the topic {:?} is not joined", clip(&frame.topic)),
        };
        self.note_refusal(code.as_str(), Surface::Frame, &frame.topic);
        self.reply(
            join_ref,
            frame.reference.as_ref(),
            &frame.topic,
            Status::Error,
            &self.response_of(&Refusal::protocol(code, message)),
        );
    }

    /// The channel that a frame is for; none if it is of an earlier join. A null `join_ref` means the current one.
    pub(super) fn current(&self, frame: &Frame<'_>) -> Option<ChannelId> {
        let id = *self.joined.get(&*frame.topic)?;
        let channel = self.channels.get(id)?;
        (frame.join_ref.is_none() || frame.join_ref == channel.join_ref).then_some(id)
    }

    /// Closes a channel for a join that takes its place.
    fn replace_channel(&mut self, id: ChannelId, join: &Frame<'_>) {
        let old = self.channels.get(id).and_then(|channel| channel.join_ref.as_ref());
        if old == join.join_ref.as_ref() {
            // A close under the same join_ref would be taken for that of the new join.
            self.remove(id);
        } else {
            self.close_channel(id, event::CLOSE);
        }
    }

    /// Tells the client that a channel is over, and forgets it.
    pub(super) fn close_channel(&mut self, id: ChannelId, event: &str) {
        if let Some(channel) = self.remove(id) {
            self.push(channel.join_ref.as_ref(), channel.follower.topic().as_str(), event, &Empty {});
        }
    }
}
