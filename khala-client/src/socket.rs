//! The WebSocket. It is opened by the same HTTP client as everything else, so that proxies, the addresses of a name and TLS are as for
//! requests, and a refusal is read whole, with its reason. Tungstenite's own `connect_async` has none of these.

use http::{Method, StatusCode, header};
use khala_core::{Token, wire};
use reqwest::Upgraded;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{error::Error, http::Http};

/// An open connection.
pub(crate) type Socket = WebSocketStream<Upgraded>;

/// The most that one frame may hold. A batch has less than 1 MiB, unless the operator set another bound or one update alone is
/// larger.
const MAX_FRAME: usize = 64 << 20;

/// Opens a connection, Phoenix V2, with `token`.
pub(crate) async fn open(http: &Http, token: Option<&Token>) -> Result<Socket, Error> {
    http.in_time(handshake(http, token)).await
}

async fn handshake(http: &Http, token: Option<&Token>) -> Result<Socket, Error> {
    let (key, path) = (generate_key(), "/sync/v1/websocket?vsn=2.0.0");
    let request = http
        .request(&http.connector.upgrades, &Method::GET, path, token)?
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key);
    let response = http.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::Refused(http.whole(response).await?.refused()));
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Error::Protocol("the server accepted a WebSocket that nobody asked for".to_owned()));
    }
    let stream = response.upgrade().await.map_err(|cause| http.broken(&cause))?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

/// Whether the same client does well to come back after this close code.
///
/// What the protocol names says it itself. Of the others, those that find fault with the client (RFC 6455,
/// section 7.4.1) say no, and so does 1000, by which Phoenix means it; any other is worth another attempt, at which
/// the server can refuse with an explicit code.
pub(crate) fn come_back(code: u16) -> bool {
    use wire::Close;
    match Close::ALL.iter().find(|close| close.code() == code) {
        Some(close) => close.come_back(),
        None => !matches!(code, 1000 | 1002 | 1003 | 1007 | 1008 | 1009 | 1010),
    }
}

#[cfg(test)]
mod tests {
    use super::come_back;

    #[test]
    fn each_close_code_says_whether_to_come_back() {
        for code in [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4002, 4099] {
            assert!(come_back(code), "{code}");
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4003, 4004] {
            assert!(!come_back(code), "{code}");
        }
    }
}
