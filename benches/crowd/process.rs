//! What the system says about another process, and signals for it. Linux alone has the files that are read here.

use std::{fs, time::Duration};

use tokio::process::Command;

use super::failure::{During as _, Failure, ensure};

/// Linux gives times to programs in hundredths of a second, on every machine (`man 5 proc`, `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: u64 = 100;

/// What a process uses at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Bytes of memory that are resident.
    pub(super) resident: u64,
    /// The most that ever were.
    pub(super) peak: u64,
    /// Processor time so far, in user and kernel mode.
    pub(super) cpu: Duration,
}

/// Reads what process `id` uses.
pub(super) fn usage(id: u32) -> Result<Usage, Failure> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).during("reading the server's memory")?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).during("reading the server's time")?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).ok_or_else(|| {
            Failure::new(format_args!("there is no {name} in /proc/{id}/status: it has ended"))
        })
    };
    // The second field is a name in parentheses, which may hold anything; user and system time are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let ticks = ticks(14) + ticks(15);
    Ok(Usage {
        resident: kib("VmRSS")? << 10,
        peak: kib("VmHWM")? << 10,
        cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND),
    })
}

/// Sends process `id` the signal of that name.
pub(super) async fn signal(id: u32, name: &str) -> Result<(), Failure> {
    let sent =
        Command::new("kill").args(["-s", name, &id.to_string()]).status().await.during("running kill")?;
    ensure(sent.success(), || format!("the signal {name} did not reach the server, process {id}"))
}

/// How often the system had no room for a connection that wanted to be accepted, on the whole machine since it started.
///
/// A client whose handshake is dropped so comes again after a second: the system's doing, which no client sees.
pub(crate) fn dropped_handshakes() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "ListenOverflows").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.peak >= usage.resident, "{usage:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_a_failure() {
        assert!(usage(u32::MAX).unwrap_err().to_string().contains("memory"));
    }
}
