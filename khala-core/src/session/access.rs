//! What the session may send: the fresh token, the check of each topic, and the end of a grant.
//!
//! # Invariants
//! Nothing is sent on a topic before it was checked under the grant that the session has now.

use serde::{Deserialize, Serialize};

use super::{
    action::Action,
    by_channel::ChannelId,
    replies::Status,
    state::{Refresh, Session},
};
use crate::{
    auth::{Denied, Grant, Token},
    clock::Now,
    refusal::Refusal,
    telemetry::Surface,
    update::Timestamp,
    wire::{Close, Code, Frame, Ref, event},
};

#[derive(Deserialize)]
struct AccessToken {
    access_token: Option<String>,
}

/// The response to a token that was taken.
#[derive(Serialize)]
struct Refreshed {
    expires_at: Timestamp,
}

impl Session {
    /// The token that the client handed over, which is being checked, was accepted or refused.
    ///
    /// A refused one changes nothing: the grant that the session has holds until its own end.
    pub fn handle_verified(&mut self, verified: Result<Grant, Denied>, now: Now) {
        let Some(Refresh { join_ref, reference, topic }) = self.refresh.take() else { return };
        if !self.advance_clock(now) {
            return;
        }
        let verdict = verified.and_then(|grant| {
            if grant.subject() != self.grant.subject() {
                return Err(Denied::ClaimMismatch { claim: "sub" });
            }
            if grant.expires_at() <= now.wall { Err(Denied::TokenExpired) } else { Ok(grant) }
        });
        let (join_ref, reference) = (join_ref.as_ref(), reference.as_ref());
        match verdict {
            Ok(grant) if grant == self.grant => {
                // The same again: there is nothing to check anew.
                let refreshed = Refreshed { expires_at: grant.expires_at() };
                self.reply(join_ref, reference, &topic, Status::Ok, &refreshed);
            }
            Ok(grant) => {
                let refreshed = Refreshed { expires_at: grant.expires_at() };
                (self.grant, self.expires_at) = (grant, refreshed.expires_at);
                self.grant_generation += 1;
                self.stats.cells.refreshes.add(1);
                self.reply(join_ref, reference, &topic, Status::Ok, &refreshed);
                self.enqueue_where(|channel| {
                    channel.granted = false;
                    true
                });
            }
            Err(denied) => {
                let response = self.response_of(&denied.into());
                self.note_refusal(response.code, Surface::Refresh, &topic);
                self.reply(join_ref, reference, &topic, Status::Error, &response);
            }
        }
    }

    /// The grant was taken back, or the key of its token withdrawn: nothing more is sent but this close.
    pub fn handle_revoked(&mut self, close: Close) {
        self.abort_with(close);
    }

    /// The grant that the session has now.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// A client hands over a fresh token.
    pub(super) fn take_token(&mut self, frame: &Frame<'_>) {
        let refusal = match frame.payload_as::<AccessToken>() {
            _ if self.refresh.is_some() => Refusal::Protocol {
                code: Code::FrameRateLimited,
                detail: "another token is being checked: wait for its answer".to_owned(),
                retry_after: Some(self.options.retry_after),
            },
            Ok(AccessToken { access_token: Some(token) }) if !token.is_empty() => {
                let own = |reference: &Option<Ref<'_>>| reference.clone().map(Ref::into_owned);
                self.refresh = Some(Refresh {
                    join_ref: own(&frame.join_ref),
                    reference: own(&frame.reference),
                    topic: frame.topic.clone().into_owned(),
                });
                return self.actions.push_back(Action::Verify(Token::new(token)));
            }
            Ok(_) => Refusal::protocol(Code::MissingToken, "the payload has no access_token"),
            // The fault's own text could hold a part of what was sent.
            Err(_) => {
                Refusal::protocol(Code::InvalidToken, "the payload is no object whose access_token is a text")
            }
        };
        self.refuse(frame, Surface::Refresh, &refusal);
    }

    /// A topic was checked under the grant that the session has now.
    pub(super) fn answer_access(&mut self, id: ChannelId, verdict: Result<(), Denied>) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let Err(denied) = verdict else {
            channel.granted = true;
            if !std::mem::replace(&mut channel.watched, true) {
                let topic = channel.follower.topic().clone();
                self.actions.push_back(Action::Watch { channel: id, topic });
            }
            return self.enqueue(id);
        };
        // Who cannot be checked now comes back; who is refused does well not to.
        let event = if let Denied::Unavailable(error) = &denied {
            tracing::warn!(topic = %channel.follower.topic(), %error, "access to a topic cannot be checked");
            event::ERROR
        } else {
            event::CLOSE
        };
        self.end_refused(id, &denied.into(), event);
    }
}
