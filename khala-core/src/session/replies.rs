//! What a session says: replies, pushes and refusals, each encoded once it is due.

use super::{action::Action, state::Session};
use crate::{
    refusal::Refusal,
    telemetry::{self, Surface},
    wire::{ErrorResponse, Frame, Ref, event},
};

#[derive(serde::Serialize)]
pub(super) struct Empty {}

#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Error,
    Ok,
}

#[derive(serde::Serialize)]
struct Reply<'a, T> {
    status: Status,
    response: &'a T,
}

impl Session {
    /// Counts a refusal, and tells the log why and to whom. What a client says it wanted is cut short.
    pub(super) fn note_refusal(&self, code: &'static str, on: Surface, topic: &str) {
        telemetry::refused(code, on);
        let (on_what, subject, topic) = (on.as_str(), self.grant.subject(), clip(topic));
        if on == Surface::Frame {
            tracing::debug!(code, on = on_what, subject, topic, "a frame was refused");
        } else {
            tracing::info!(code, on = on_what, subject, topic, "refused");
        }
    }

    pub(super) fn refuse(&mut self, frame: &Frame<'_>, on: Surface, refusal: &Refusal) {
        let response = self.response_of(refusal);
        self.note_refusal(response.code, on, &frame.topic);
        let (join_ref, reference) = (frame.join_ref.as_ref(), frame.reference.as_ref());
        if frame.event == event::JOIN && self.serializer.is_realtime() {
            self.push(join_ref, &frame.topic, event::SYNC_ERROR, &response);
        }
        self.reply(join_ref, reference, &frame.topic, Status::Error, &response);
    }

    pub(super) fn response_of(&self, refusal: &Refusal) -> ErrorResponse {
        ErrorResponse::of(refusal, self.options.retry_after)
    }

    pub(super) fn reply_ok(&mut self, frame: &Frame<'_>, response: &impl serde::Serialize) {
        let (join_ref, reference) = (frame.join_ref.as_ref(), frame.reference.as_ref());
        self.reply(join_ref, reference, &frame.topic, Status::Ok, response);
    }

    pub(super) fn reply(
        &mut self,
        join_ref: Option<&Ref<'_>>,
        reference: Option<&Ref<'_>>,
        topic: &str,
        status: Status,
        response: &impl serde::Serialize,
    ) {
        let payload = Reply { status, response };
        let frame = self.serializer.encode_value(join_ref, reference, topic, event::REPLY, &payload);
        self.actions.push_back(Action::Send(frame));
    }

    pub(super) fn push(
        &mut self,
        join_ref: Option<&Ref<'_>>,
        topic: &str,
        event: &str,
        payload: &impl serde::Serialize,
    ) {
        let frame = self.serializer.encode_value(join_ref, None, topic, event, payload);
        self.actions.push_back(Action::Send(frame));
    }
}

/// The start of a client's text, short enough to be sent back and logged.
pub(super) fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
