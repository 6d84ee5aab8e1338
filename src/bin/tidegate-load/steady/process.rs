//! What the server's process costs while operations are measured, from `/proc`.

use std::{fs, io, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

/// Ticks of a process's time in a second: USER_HZ, which Linux keeps at 100 for programs whatever its own is.
const TICKS: u64 = 100;

/// Looks at a process now and then, from the end of the warm-up on.
#[derive(Debug)]
pub(crate) struct Watch {
    pid: u32,
    first: Option<Seen>,
    last: Option<Seen>,
}

/// The process at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    at: Instant,
    /// Operations that were completed by then.
    operations: u64,
    busy: Duration,
    resident: u64,
    peak: u64,
    descriptors: u64,
}

/// What it costs, between the first look and the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Of one processor; above 1 if it was on several.
    pub(crate) processor_share: f64,
    pub(crate) processor_us_per_operation: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) peak_resident_bytes: u64,
    pub(crate) descriptors: u64,
}

impl Watch {
    /// # Errors
    /// If there is no such process, or it may not be looked at.
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        look(pid, 0)?;
        Ok(Self { pid, first: None, last: None })
    }

    /// Looks once more. A process that is gone leaves what was seen before.
    pub(crate) fn look(&mut self, operations: u64) {
        let Ok(seen) = look(self.pid, operations) else { return };
        self.first.get_or_insert(seen);
        self.last = Some(seen);
    }

    /// `None`: it was not looked at twice.
    pub(crate) fn cost(&self) -> Option<Cost> {
        let (first, last) = (self.first?, self.last?);
        if last.at <= first.at {
            return None;
        }
        let busy = last.busy.saturating_sub(first.busy).as_secs_f64();
        let operations = last.operations - first.operations;
        Some(Cost {
            processor_share: busy / (last.at - first.at).as_secs_f64(),
            processor_us_per_operation: busy * 1e6 / operations.max(1) as f64,
            resident_bytes: last.resident,
            peak_resident_bytes: last.peak,
            descriptors: last.descriptors,
        })
    }
}

fn look(pid: u32, operations: u64) -> io::Result<Seen> {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (stat, status) = (file("stat")?, file("status")?);
    let ticks = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Seen {
        at: Instant::now(),
        operations,
        busy: Duration::from_millis(ticks * 1000 / TICKS),
        resident: bytes(&status, "VmRSS:"),
        peak: bytes(&status, "VmHWM:"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}

/// User and system time (proc_pid_stat(5)): the 12th and 13th field behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_name, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse);
    let (user, system): (u64, u64) = (times.next()?.ok()?, times.next()?.ok()?);
    Some(user + system)
}

/// A line of `status`, which counts in KiB; 0 if it has none.
fn bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a) S 1"), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((bytes(status, "VmRSS:"), bytes(status, "VmHWM:")), (1 << 20, 2 << 20));
        assert_eq!(bytes("", "VmRSS:"), 0);
    }

    #[test]
    fn the_cost_is_what_was_spent_between_the_looks() {
        let seen = |at, operations, millis| Seen {
            at,
            operations,
            busy: Duration::from_millis(millis),
            resident: 5,
            peak: 6,
            descriptors: 7,
        };
        let begun = Instant::now();
        let first = seen(begun, 100, 1_000);
        let last = seen(begun + Duration::from_secs(2), 1_100, 2_000);
        let watch = Watch { pid: 1, first: Some(first), last: Some(last) };
        let cost = watch.cost().unwrap();
        assert_eq!((cost.processor_share, cost.processor_us_per_operation), (0.5, 1000.0));
        assert_eq!(Watch { pid: 1, first: Some(first), last: Some(first) }.cost(), None);
    }

    #[test]
    fn one_can_look_at_oneself_and_not_at_nobody() {
        let mut watch = Watch::new(std::process::id()).unwrap();
        watch.look(1);
        let seen = watch.last.unwrap();
        assert!(seen.resident > 0 && seen.peak >= seen.resident && seen.descriptors > 2);
        assert!(Watch::new(u32::MAX).is_err());
    }
}
