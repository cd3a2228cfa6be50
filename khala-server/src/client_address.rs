//! Where a request comes from when there are proxies before the server.
//!
//! # Invariants
//! Only what a trusted proxy adds is believed. A client writes whatever it likes into `X-Forwarded-For`; each proxy adds on the
//! right whom it was called by.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the peer's, or, where that is a trusted proxy, the right-most one in `X-Forwarded-For` that
/// is not. An entry that is no address ends the search, at the proxy that wrote it.
pub(crate) fn client(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    while trusted.iter().any(|net| net.contains(&client)) {
        let Some(next) = entries.next().and_then(address) else { break };
        client = next;
    }
    client
}

/// Whether the peer is a trusted proxy itself.
pub(crate) fn is_trusted(trusted: &[IpNet], peer: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&peer.to_canonical()))
}

/// An address, as proxies write it: some with the port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let address =
        text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))?;
    // On a socket for both, an IPv4 address is written as one of IPv6.
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(peer: &str, lines: &[&str]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(of("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1", &["10.0.0.1"]), "192.0.2.1");
    }

    #[test]
    fn the_right_most_stranger_is_the_client() {
        for (peer, lines, client) in [
            ("10.0.0.1", &["198.51.100.7"][..], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7,10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.7", "10.0.0.2 "], "198.51.100.7"),
            ("fd00::1", &["2001:db8::7, ::ffff:10.0.0.2"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
        ] {
            assert_eq!(of(peer, lines), client, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        for (lines, client) in [
            (&[][..], "10.0.0.1"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["198.51.100.7, unknown"], "10.0.0.1"),
            (&["198.51.100.7, , 10.0.0.2"], "10.0.0.2"),
            (&["198.51.100.7,"], "10.0.0.1"),
            (&["198.51.100.7; DROP, 10.0.0.2"], "10.0.0.2"),
            (&["198.51.100.999"], "10.0.0.1"),
        ] {
            assert_eq!(of("10.0.0.1", lines), client, "{lines:?}");
        }
    }
}
