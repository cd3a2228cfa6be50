//! Free ports of the loopback address.

use std::net::{Ipv4Addr, TcpListener};

/// A port that was free a moment ago. Another process may take it; whoever starts a server on it finds out.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has free ports");
    listener.local_addr().expect("it is bound").port()
}
