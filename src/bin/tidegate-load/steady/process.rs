//! What the server's processes cost while operations are measured: from their clocks and from `/proc`.
//!
//! They are looked at twice, when the measured part begins and when it ends. The clock of a process (clock_getcpuclockid(3))
//! counts its time on processors in nanoseconds, up to now and with the threads that have ended; the
//! operations and bytes that it is set against are counted at the same two moments.

use std::{fs, io, sync::Arc, time::Duration};

use nix::{time::ClockId, unistd::Pid};
use serde::Serialize;
use tokio::time::Instant;

use crate::tally::{Counters, sum};

/// Some processes, which are looked at together.
#[derive(Debug)]
pub(crate) struct Processes(Vec<Process>);

#[derive(Debug)]
struct Process {
    pid: u32,
    clock: ClockId,
}

/// The processes at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    at: Instant,
    /// Operations that were completed by then.
    operations: u64,
    /// Payload that was carried by then.
    bytes: u64,
    busy: Duration,
    resident: u64,
    peak: u64,
    descriptors: u64,
    voluntary: u64,
    involuntary: u64,
}

/// What they cost from one look to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Between the looks.
    pub(crate) seconds: f64,
    /// On any processor, in user space and in the kernel.
    pub(crate) processor_seconds: f64,
    /// Of one processor; above 1 if it was on several.
    pub(crate) processor_share: f64,
    /// Operations that completed between the looks.
    pub(crate) operations: u64,
    pub(crate) processor_us_per_operation: Option<f64>,
    /// Payload that was carried between the looks.
    pub(crate) bytes: u64,
    pub(crate) processor_seconds_per_gib: Option<f64>,
    /// Of all threads that are still there: waits, and times that another thread was preferred.
    pub(crate) voluntary_context_switches: u64,
    pub(crate) involuntary_context_switches: u64,
    /// At the second look.
    pub(crate) resident_bytes: u64,
    /// Since the processes began.
    pub(crate) peak_resident_bytes: u64,
    pub(crate) descriptors: u64,
}

impl Processes {
    /// # Errors
    /// If one of them is not there.
    pub(crate) fn find(pids: &[u32]) -> io::Result<Self> {
        pids.iter().map(|pid| Process::find(*pid)).collect::<io::Result<_>>().map(Self)
    }

    /// # Errors
    /// If one of them is gone, or may not be looked at.
    pub(crate) fn look(&self, workers: &[Arc<Counters>]) -> io::Result<Seen> {
        let mut seen = Seen {
            at: Instant::now(),
            operations: sum(workers, |c| &c.finished),
            bytes: sum(workers, |c| &c.carried),
            busy: Duration::ZERO,
            resident: 0,
            peak: 0,
            descriptors: 0,
            voluntary: 0,
            involuntary: 0,
        };
        // All clocks first: what follows takes time.
        for process in &self.0 {
            seen.busy += Duration::from(process.clock.now()?);
        }
        for process in &self.0 {
            process.read(&mut seen)?;
        }
        Ok(seen)
    }
}

impl Process {
    fn find(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).map_err(io::Error::other)?;
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(number))?;
        // A clock can be named whether there is such a process or not.
        fs::metadata(format!("/proc/{pid}"))?;
        Ok(Self { pid, clock })
    }

    fn read(&self, seen: &mut Seen) -> io::Result<()> {
        let pid = self.pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        seen.resident += number(&status, "VmRSS:") * 1024;
        seen.peak += number(&status, "VmHWM:") * 1024;
        seen.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has just ended is no more than not there.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            seen.voluntary += number(&status, "voluntary_ctxt_switches:");
            seen.involuntary += number(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(())
    }
}

impl Cost {
    /// `None`: no time has passed.
    pub(crate) fn between(first: &Seen, last: &Seen) -> Option<Self> {
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let busy = last.busy.saturating_sub(first.busy).as_secs_f64();
        let (operations, bytes) = (last.operations - first.operations, last.bytes - first.bytes);
        (seconds > 0.0).then(|| Self {
            seconds,
            processor_seconds: busy,
            processor_share: busy / seconds,
            operations,
            processor_us_per_operation: (operations > 0).then(|| busy * 1e6 / operations as f64),
            bytes,
            processor_seconds_per_gib: (bytes > 0).then(|| busy / (bytes as f64 / GIB)),
            voluntary_context_switches: last.voluntary.saturating_sub(first.voluntary),
            involuntary_context_switches: last.involuntary.saturating_sub(first.involuntary),
            resident_bytes: last.resident,
            peak_resident_bytes: last.peak,
            descriptors: last.descriptors,
        })
    }
}

const GIB: f64 = (1_u64 << 30) as f64;

/// A line of `status`; 0 if it has none.
fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_status_is_found_by_its_whole_name() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nnonvoluntary_ctxt_switches:\t7\n\
                      voluntary_ctxt_switches:\t5\n";
        assert_eq!(number(status, "VmHWM:"), 2048);
        assert_eq!(number(status, "voluntary_ctxt_switches:"), 5);
        assert_eq!(number(status, "VmRSS:"), 0);
    }

    #[test]
    fn the_cost_is_what_was_spent_between_the_looks() {
        let begun = Instant::now();
        let first = Seen {
            at: begun,
            operations: 100,
            bytes: 1 << 30,
            busy: Duration::from_secs(1),
            resident: 4,
            peak: 6,
            descriptors: 7,
            voluntary: 10,
            involuntary: 20,
        };
        let last = Seen {
            at: begun + Duration::from_secs(2),
            operations: 1_100,
            bytes: 3 << 30,
            busy: Duration::from_secs(2),
            resident: 5,
            voluntary: 13,
            ..first
        };
        let cost = Cost::between(&first, &last).unwrap();
        assert_eq!((cost.processor_share, cost.processor_us_per_operation), (0.5, Some(1000.0)));
        assert_eq!((cost.bytes, cost.processor_seconds_per_gib), (2 << 30, Some(0.5)));
        assert_eq!((cost.resident_bytes, cost.voluntary_context_switches), (5, 3));
        assert_eq!(Cost::between(&first, &first), None);
        let idle = Seen { operations: 100, bytes: 1 << 30, ..last };
        let cost = Cost::between(&first, &idle).unwrap();
        let per = (cost.processor_us_per_operation, cost.processor_seconds_per_gib);
        assert_eq!(per, (None, None), "of nothing there is no cost for each");
    }

    /// What this thread does is there at once, and as exactly as its own clock says.
    #[test]
    fn one_can_look_at_oneself_and_not_at_nobody() {
        let pid = std::process::id();
        let processes = Processes::find(&[pid, pid]).unwrap();
        let first = processes.look(&[]).unwrap();
        assert!(first.resident > 0 && first.peak >= first.resident && first.descriptors > 2);
        let own = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
        let begun = own();
        while own() - begun < Duration::from_millis(3) {}
        let cost = Cost::between(&first, &processes.look(&[]).unwrap()).unwrap();
        assert!(cost.processor_seconds >= 0.006, "it is there twice: {cost:?}");
        assert!(Processes::find(&[u32::MAX]).is_err());
        assert!(Processes::find(&[pid, i32::MAX.unsigned_abs()]).is_err());
    }
}
