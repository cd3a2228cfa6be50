//! What a session says: replies, pushes and refusals, each encoded once it is due.

use super::{Action, Session};
use crate::{
    telemetry::{self, Surface},
    wire::{Frame, Refusal, event},
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
    pub(super) fn refuse(&mut self, frame: &Frame<'_>, on: Surface, refusal: &Refusal) {
        telemetry::refused(refusal.code, on);
        let (join_ref, reference) = (frame.join_ref.as_deref(), frame.reference.as_deref());
        self.reply(join_ref, reference, &frame.topic, Status::Error, refusal);
    }

    pub(super) fn reply_ok(&mut self, frame: &Frame<'_>, response: &impl serde::Serialize) {
        let (join_ref, reference) = (frame.join_ref.as_deref(), frame.reference.as_deref());
        self.reply(join_ref, reference, &frame.topic, Status::Ok, response);
    }

    pub(super) fn reply(
        &mut self,
        join_ref: Option<&str>,
        reference: Option<&str>,
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
        join_ref: Option<&str>,
        topic: &str,
        event: &str,
        payload: &impl serde::Serialize,
    ) {
        let frame = self.serializer.encode_value(join_ref, None, topic, event, payload);
        self.actions.push_back(Action::Send(frame));
    }
}
