//! Socket.IO over WebSocket alone (Engine.IO 4), as `npm/socketio.js` serves it: a room is a topic.

use std::net::SocketAddr;

use super::{Step, Update, Wire, topic_name, websocket};

#[derive(Debug)]
pub(super) struct SocketIo {
    pub(super) address: SocketAddr,
}

impl SocketIo {
    fn open(&self) -> Vec<Step> {
        vec![
            Step::new(
                websocket::upgrade(self.address, "/socket.io/?EIO=4&transport=websocket", ""),
                br#""maxPayload""#,
            ),
            Step::new(websocket::text_frame("40"), br#"40{"sid""#),
        ]
    }
}

impl Wire for SocketIo {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn subscribe(&self, topic: usize) -> Vec<Step> {
        let join = format!(r#"42["join","{}"]"#, topic_name(topic));
        let mut steps = self.open();
        steps.push(Step::new(websocket::text_frame(join), br#"42["ready"]"#));
        steps
    }

    fn open_publisher(&self) -> Vec<Step> {
        self.open()
    }

    fn publish(&self, out: &mut Vec<u8>, updates: &[Update<'_>]) {
        for &Update { topic, payload } in updates {
            let name = topic_name(topic);
            websocket::text(out, &[br#"42["publish",""#, name.as_bytes(), br#"","#, payload, b"]"]);
        }
    }
}
