//! WebSocket as a client writes it (RFC 6455): the request, and frames with a mask of zeros.
//!
//! A mask of zeros is one like any other to a server, which applies it all the same, and spares the generator the work.

use std::net::SocketAddr;

/// The text that ends the answer to the request.
pub(super) const UPGRADED: &[u8] = b"\r\n\r\n";

/// What asks for a WebSocket at `path`. `headers` are whole lines, with their ends.
pub(super) fn upgrade(address: SocketAddr, path: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Appends a frame of text that is the pieces in a row.
pub(super) fn text(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    frame(out, 0x81, pieces);
}

fn frame(out: &mut Vec<u8>, first: u8, pieces: &[&[u8]]) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.push(first);
    match len {
        0..126 => out.push(0x80 | len as u8),
        126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// One frame of text.
pub(super) fn text_frame(text_: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, &[text_.as_ref()]);
    out
}
