//! The live line: how far a run is, on a terminal only.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    report::human_bytes,
    tally::{Counter, Counters, sum},
};

/// Time between two drawings.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// Goes to the start of the line and clears it (ECMA-48 EL).
const CLEAR: &str = "\r\x1b[K";

/// The line on standard error.
#[derive(Debug)]
pub(crate) struct Live {
    sessions: u64,
    streams: u64,
    datagrams: u64,
    begun: Instant,
    last: (Instant, u64),
}

impl Live {
    /// A line that counts up to so many sessions, each of so many streams and datagrams.
    pub(crate) fn new(sessions: u32, streams: u32, datagrams: u32) -> Self {
        let now = Instant::now();
        let sessions = u64::from(sessions);
        Self {
            sessions,
            streams: sessions * u64::from(streams),
            datagrams: sessions * u64::from(datagrams),
            begun: now,
            last: (now, 0),
        }
    }

    /// Draws the line anew.
    pub(crate) fn draw(&mut self, workers: &[Arc<Counters>]) {
        let line = self.line(workers, Instant::now());
        // A terminal that has gone away takes the line with it, and not the run.
        _ = write!(io::stderr(), "{CLEAR}{line}");
    }

    /// Takes the line away.
    pub(crate) fn clear(self) {
        // As above.
        _ = write!(io::stderr(), "{CLEAR}");
    }

    fn line(&mut self, workers: &[Arc<Counters>], now: Instant) -> String {
        let get = |counter: fn(&Counters) -> &Counter| sum(workers, counter);
        let bytes = get(|c| &c.bytes_checked);
        let (then, before) = std::mem::replace(&mut self.last, (now, bytes));
        let rate = per_second(bytes - before, now - then);
        format!(
            "{:.1}s  sessions {}/{}  streams {}/{}  datagrams {}/{}  {}  {}/s  errors {}",
            (now - self.begun).as_secs_f64(),
            get(|c| &c.sessions_completed),
            self.sessions,
            get(|c| &c.streams_completed),
            self.streams,
            get(|c| &c.datagrams_returned),
            self.datagrams,
            human_bytes(bytes as f64),
            human_bytes(rate),
            get(|c| &c.failures),
        )
    }
}

/// The line of a run at a pace.
#[derive(Debug)]
pub(crate) struct LivePace {
    begun: Instant,
    last: (Instant, u64, u64),
}

impl LivePace {
    /// A line that begins now.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, last: (now, 0, 0) }
    }

    /// Draws the line anew.
    pub(crate) fn draw(&mut self, workers: &[Arc<Counters>]) {
        let line = self.line(workers, Instant::now());
        // As above.
        _ = write!(io::stderr(), "{CLEAR}{line}");
    }

    /// Takes the line away.
    pub(crate) fn clear(self) {
        // As above.
        _ = write!(io::stderr(), "{CLEAR}");
    }

    fn line(&mut self, workers: &[Arc<Counters>], now: Instant) -> String {
        let get = |counter: fn(&Counters) -> &Counter| sum(workers, counter);
        let (operations, bytes) = (get(|c| &c.operations), get(|c| &c.operation_bytes));
        let (then, operations_then, bytes_then) =
            std::mem::replace(&mut self.last, (now, operations, bytes));
        format!(
            "{:.1}s  connections {}  operations {operations}  {:.0}/s  {}/s  errors {}",
            (now - self.begun).as_secs_f64(),
            get(|c| &c.connections),
            per_second(operations - operations_then, now - then),
            human_bytes(per_second(bytes - bytes_then, now - then)),
            get(|c| &c.failures),
        )
    }
}

/// A rate; nothing per second if no time has passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_pace_says_how_fast_it_is_now() {
        let mut live = LivePace::new();
        let workers: [Arc<Counters>; 2] = Default::default();
        workers[0].connections.add(4);
        workers[1].operations.add(100);
        live.line(&workers, live.begun + Duration::from_secs(1));
        workers[0].operations.add(50);
        workers[0].operation_bytes.add(4096);
        workers[1].failures.inc();

        assert_eq!(
            live.line(&workers, live.begun + Duration::from_secs(3)),
            "3.0s  connections 4  operations 150  25/s  2.0 KiB/s  errors 1"
        );
    }

    #[test]
    fn the_line_says_how_far_it_is_and_how_fast_now() {
        let mut live = Live::new(10, 2, 3);
        let (a, b): (Arc<Counters>, Arc<Counters>) = Default::default();
        a.sessions_completed.add(4);
        b.streams_completed.add(9);
        b.datagrams_returned.add(12);
        a.bytes_checked.add(1024);
        let workers = [a, b];
        let begun = live.begun;
        live.line(&workers, begun + Duration::from_secs(1));
        workers[1].bytes_checked.add(2048);
        workers[1].failures.inc();

        assert_eq!(
            live.line(&workers, begun + Duration::from_secs(2)),
            "2.0s  sessions 4/10  streams 9/20  datagrams 12/30  3.0 KiB  2.0 KiB/s  errors 1"
        );
    }
}
