//! The WebSocket. It is opened by the same HTTP client as everything else, so that a refusal is read whole, with its reason.

use http_body_util::Empty;
use hyper::{Request, StatusCode, client::conn::http1, header, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use khala_core::{
    Token,
    clock::{SystemClock, within},
    wire,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{
    error::{Error, Refused},
    http::{Http, bearer, read_body, retry_after, with_cause},
};

/// An open connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The most that one frame may hold. A batch has at most 2 MiB, unless one update alone is larger.
const MAX_FRAME: usize = 64 << 20;

/// Opens a connection, Phoenix V2, with `token`.
pub(crate) async fn open(http: &Http, token: Option<&Token>) -> Result<Socket, Error> {
    let late = || http.dialer.unreachable(format!("no answer within {:?}", http.answer_within));
    within(&SystemClock::new(), http.answer_within, handshake(http, token))
        .await
        .unwrap_or_else(|| Err(late()))
}

async fn handshake(http: &Http, token: Option<&Token>) -> Result<Socket, Error> {
    let address = &http.dialer.address;
    let key = generate_key();
    let mut request = Request::builder()
        .uri(format!("{}/sync/v1/websocket?vsn=2.0.0", address.prefix))
        .header(header::HOST, address.authority())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, bearer(token)?);
    }
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|cause| Error::Settings(format!("that makes no HTTP request: {cause}")))?;
    let unreachable = |cause: hyper::Error| http.dialer.unreachable(with_cause(&cause));
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(http.dialer.dial().await?)).await.map_err(unreachable)?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(unreachable)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
        let body = read_body(response).await.map_err(|cause| http.dialer.unreachable(cause))?;
        let mut refused = Refused::read(&body, Some(status));
        refused.retry_after = refused.retry_after.or(wait);
        return Err(Error::Refused(refused));
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Error::Protocol("the server accepted a WebSocket that nobody asked for".to_owned()));
    }
    let stream = hyper::upgrade::on(response).await.map_err(unreachable)?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, Some(config)).await)
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
