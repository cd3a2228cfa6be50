//! The task of a session of long polling, from when it is let in until it ends.
//!
//! # Invariants
//! Each session has one task. When that ends, in whatever way, the session is forgotten and polls that wait are told.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use khala_core::{
    Grant,
    connection::{Connection, Ended},
};

use super::{
    mailbox::{Mailbox, SessionEnd},
    sessions::SessionId,
};
use crate::{shared::Shared, websocket::Open};

/// A session that is let in and not begun.
pub(super) struct Opening {
    pub(super) shared: Shared,
    pub(super) connection: Connection,
    pub(super) grant: Grant,
    pub(super) opened_with: [u8; 32],
    pub(super) request_id: Arc<str>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) client: Option<IpAddr>,
    pub(super) open: Open,
}

impl Opening {
    /// Registers the session, and gives its id and what runs it.
    pub(super) fn begin(self) -> (SessionId, impl Future<Output = ()> + Send) {
        let mailbox = Mailbox::new(self.shared.0.limits.frame_bytes, self.shared.0.khala.memory());
        let id = self.shared.0.long_polls.add(self.grant.clone(), self.opened_with, Arc::clone(&mailbox));
        let registered = Registered { shared: self.shared.clone(), id, mailbox };
        (id, self.run(registered))
    }

    async fn run(self, registered: Registered) {
        let Self { shared, connection, grant, request_id, peer, client, open: _open, .. } = self;
        let opened = shared.0.khala.moment();
        let (peer, client) = (peer.map(tracing::field::display), client.map(tracing::field::display));
        let (request_id, subject) = (&*request_id, grant.subject());
        tracing::info!(target: "khala_server::access", request_id, subject, peer, client, "long poll opened");
        let mailbox = &registered.mailbox;
        let mut transport = SessionEnd(Arc::clone(mailbox));
        let ended = tokio::select! {
            ended = connection.run(&mut transport) => ended,
            () = mailbox.abandoned(shared.0.limits.long_poll_session_timeout) => Ended::Gone,
            ended = mailbox.close_was_left() => ended,
        };
        let (by, code, reason) = match ended {
            Ended::Closed(close) => {
                mailbox.end(Some(close));
                ("server", Some(close.code()), close.reason())
            }
            Ended::Gone => ("client", None, "gone"),
        };
        let ms = shared.0.khala.moment().since(opened).as_millis() as u64;
        tracing::info!(target: "khala_server::access", request_id, subject, peer, client, by, code, reason, ms, "long poll closed");
    }
}

/// A session among those of its server, until it is dropped.
struct Registered {
    shared: Shared,
    id: SessionId,
    mailbox: Arc<Mailbox>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.0.long_polls.remove(self.id);
        self.mailbox.end(None);
    }
}
