//! Free ports of the loopback address.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The lowest port that is handed out.
const LOWEST: u32 = 10_000;

/// The first port that Linux gives to outgoing connections and to listeners on port 0, where it does not say.
const EPHEMERAL: u32 = 32_768;

/// A port that was free a moment ago, and that this process was not given before.
///
/// It is not one that the system gives to an outgoing connection or to a listener on port 0, so that it stays free
/// until a server listens on it, and while a server that was killed is down. Test processes that run side by side
/// begin far from each other.
pub fn free_port() -> u16 {
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(EPHEMERAL);
    // Where the system's range begins very low, there is nothing below it.
    let (lowest, ports) =
        if ephemeral > LOWEST + 1_000 { (LOWEST, ephemeral - LOWEST) } else { (LOWEST, 50_000) };
    // A prime of the size of the range's golden section: processes that follow on each other begin far apart.
    let start = process::id().wrapping_mul(14_071) % ports;
    loop {
        let handed_out = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        assert!(handed_out < ports, "the loopback address has no free port");
        let port = u16::try_from(lowest + (start + handed_out) % ports).expect("it is below 65,536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The loopback address with a [`free_port`].
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice_or_is_one_that_the_system_gives_away() {
        let (first, second) = (free_port(), free_port());
        assert_ne!(first, second);
        let given = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        assert!(first < given, "{first} may be given to a connection, as {given} was");
    }
}
