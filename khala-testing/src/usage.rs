//! What processes use, their children with them, and how much of the machine the hypervisor took. Linux alone has the files
//! that are read here.
//!
//! Processor time is the sum over threads of what the scheduler counted, in nanoseconds; that of threads and children which
//! have ended is only in the process's own count, in hundredths of a second. Where that says clearly more, it is taken.

use std::{fs, time::Duration};

use crate::failure::{During as _, Failure};

/// `sysconf(_SC_CLK_TCK)` on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// Both of two counts in ticks, at both ends, may be short by one.
const ROUNDING: Duration = Duration::from_millis(40);

/// Processes that are measured as one.
#[derive(Clone, Debug)]
pub struct Processes(Vec<u32>);

/// What they use at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    scheduled: Duration,
    ticks: Duration,
    /// Bytes that are resident.
    pub resident: u64,
    /// The most that ever were, of each.
    pub peak: u64,
}

impl Processes {
    /// Those with these ids, and their children.
    pub fn new(ids: Vec<u32>) -> Self {
        Self(ids)
    }

    /// The process that asks.
    pub fn this() -> Self {
        Self(vec![std::process::id()])
    }

    /// What they use now.
    ///
    /// # Errors
    /// One of them has ended.
    pub fn usage(&self) -> Result<Usage, Failure> {
        let mut all = self.0.clone();
        let mut at = 0;
        while at < all.len() {
            all.extend(children(all[at]));
            at += 1;
        }
        let mut sum = Usage::default();
        for (place, id) in all.iter().enumerate() {
            match usage_of(*id) {
                Ok(usage) => {
                    sum.scheduled += usage.scheduled;
                    sum.ticks += usage.ticks;
                    sum.resident += usage.resident;
                    sum.peak += usage.peak;
                }
                // A child may have ended meanwhile.
                Err(failure) if place < self.0.len() => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(sum)
    }
}

impl Usage {
    /// Processor time since the processes began.
    pub fn cpu(&self) -> Duration {
        Self::cpu_between(&Self::default(), self)
    }

    /// Processor time from one moment to a later one.
    pub fn cpu_between(before: &Self, after: &Self) -> Duration {
        let scheduled = after.scheduled.saturating_sub(before.scheduled);
        let ticks = after.ticks.saturating_sub(before.ticks);
        if ticks > scheduled + ROUNDING { ticks } else { scheduled }
    }
}

fn children(id: u32) -> Vec<u32> {
    let texts = tasks(id).map(|task| fs::read_to_string(task.join("children")).unwrap_or_default());
    texts.flat_map(|text| text.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>()).collect()
}

fn tasks(id: u32) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn usage_of(id: u32) -> Result<Usage, Failure> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).during("reading a server's memory")?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).during("reading a server's time")?;
    let scheduled = tasks(id).map(|task| {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    let scheduled = Duration::from_nanos(scheduled.sum());
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| Failure::new(format_args!("process {id} has ended")))
    };
    // The second field is a name in parentheses, which may hold anything; the 14th to 17th are user and system time, and
    // those of children that ended.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u32 = (14..=17).filter_map(|field: usize| fields.get(field - 3)?.parse::<u32>().ok()).sum();
    Ok(Usage { scheduled, ticks: TICK * ticks, resident: kib("VmRSS")? << 10, peak: kib("VmHWM")? << 10 })
}

/// What the machine's processors did since it started.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    stolen: u64,
    all: u64,
}

impl Machine {
    /// Until now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        Self { stolen: ticks.get(7).copied().unwrap_or(0), all: ticks.iter().sum() }
    }

    /// The share of all processor time since then that the hypervisor took.
    pub fn stolen_since(self) -> f64 {
        let now = Self::now();
        let all = now.all.saturating_sub(self.all).max(1);
        now.stolen.saturating_sub(self.stolen) as f64 / all as f64
    }
}

/// How often the system had no room for a connection that wanted to be accepted, on the whole machine since it started.
///
/// A client whose handshake is dropped so comes again after a second: the system's doing, which no client sees.
pub fn dropped_handshakes() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "ListenOverflows").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, process::Command, thread, time::Instant};

    use super::*;

    fn spin(time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            black_box(());
        }
    }

    #[test]
    fn the_time_of_threads_that_ended_is_not_lost() {
        let this = Processes::this();
        let before = this.usage().unwrap();
        thread::spawn(|| spin(Duration::from_secs(1))).join().unwrap();
        let spent = Usage::cpu_between(&before, &this.usage().unwrap());
        // On a busy machine it did not have all of that time.
        assert!(spent > Duration::from_millis(60), "{spent:?}");
    }

    #[test]
    fn children_are_counted_with_their_parent() {
        let mut child = Command::new("sh").args(["-c", "sleep 5 & wait"]).spawn().unwrap();
        let of_child = Processes::new(vec![child.id()]);
        let begin = Instant::now();
        while children(child.id()).is_empty() && begin.elapsed() < Duration::from_secs(4) {
            thread::yield_now();
        }
        let alone = usage_of(child.id()).unwrap().resident;
        assert!(of_child.usage().unwrap().resident > alone);
        for id in children(child.id()) {
            Command::new("kill").arg(id.to_string()).status().unwrap();
        }
        child.wait().unwrap();
    }
}
