//! What the gateway is held to: the one place where it stands.

use super::statistics::Spread;

/// A figure of the gateway's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// Processor time for each unit, by LIMIT's.
    Processor(&'static str),
    /// System calls for each unit, by LIMIT's.
    CallsByLimit(&'static str),
    /// System calls for each unit.
    Calls(&'static str),
    /// The 99th percentile, by LIMIT's.
    P99(&'static str),
    /// Microseconds of the median beyond LIMIT's.
    AddedP50(&'static str),
    /// The share of datagrams that were lost.
    Loss(&'static str),
    /// Resident KiB of an idle session with this credit for streams.
    SessionKib(u32),
    /// Resident KiB more of an open idle stream with this credit.
    StreamKib(u32),
    /// Percent of a processor that 20,000 idle sessions take beyond those of LIMIT, which has the same signs of
    /// life.
    Idle,
    /// Processor time for each unit with two workers, by that with one.
    Workers,
}

/// Less is better of all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) about: &'static str,
    pub(crate) figure: Figure,
    pub(crate) goal: f64,
    /// What is hoped for.
    pub(crate) stretch: f64,
}

impl Goal {
    /// The word for a figure. It is judged by its median.
    pub(crate) fn verdict(&self, figure: Spread) -> &'static str {
        // Far below what any figure resolves, so that 0 can be met.
        let met = |goal: f64| figure.median <= goal + 1e-9;
        match (met(self.stretch), met(self.goal)) {
            (true, _) => "met, stretch too",
            (false, true) => "met",
            (false, false) => "missed",
        }
    }
}

const fn goal(about: &'static str, figure: Figure, goal: f64, stretch: f64) -> Goal {
    Goal { about, figure, goal, stretch }
}

/// All of them, in the order of the table.
pub(crate) const GOALS: &[Goal] = &[
    goal("bulk down, processor", Figure::Processor("bulk-down"), 1.05, 0.88),
    goal("bulk down on 16 connections, processor", Figure::Processor("bulk-down-16"), 1.05, 0.88),
    goal("bulk up, processor", Figure::Processor("bulk-up"), 1.05, 0.85),
    goal("bulk down, system calls", Figure::CallsByLimit("bulk-down"), 1.05, 0.62),
    goal("bulk up, system calls", Figure::CallsByLimit("bulk-up"), 1.15, 0.9),
    goal("round trips of 64 B, processor", Figure::Processor("rr-64"), 1.08, 0.92),
    goal("round trips of 1 KiB, processor", Figure::Processor("rr-1k"), 1.08, 0.92),
    goal("2,000 round trips a second, processor", Figure::Processor("open-2000"), 1.08, 0.92),
    goal("2,000 round trips a second, system calls each", Figure::Calls("open-2000"), 8.0, 6.5),
    goal("2,000 round trips a second, p99", Figure::P99("open-2000"), 1.2, 1.0),
    goal("added p50 on one connection, us", Figure::AddedP50("rr-1"), 10.0, 0.0),
    goal("datagrams of 64 B, processor", Figure::Processor("datagrams-64"), 1.08, 0.85),
    goal("datagrams of 64 B, system calls each", Figure::Calls("datagrams-64"), 2.4, 0.3),
    goal("datagrams of 1,100 B, processor", Figure::Processor("datagrams-1100"), 1.08, 0.85),
    goal("datagrams of 1,100 B, system calls each", Figure::Calls("datagrams-1100"), 2.4, 0.3),
    goal("5,000 datagrams a second, processor", Figure::Processor("datagrams-5000"), 1.08, 0.9),
    goal("5,000 datagrams a second, loss", Figure::Loss("datagrams-5000"), 0.0, 0.0),
    goal("short streams, processor", Figure::Processor("streams"), 1.08, 0.9),
    goal("handshake, CONNECT, close, processor", Figure::Processor("handshakes"), 1.25, 1.1),
    goal("idle session, credit for 16 streams, KiB", Figure::SessionKib(16), 46.0, 36.0),
    goal("idle session, credit for 128 streams, KiB", Figure::SessionKib(128), 56.0, 46.0),
    goal("open idle stream, KiB more", Figure::StreamKib(16), 4.0, 3.0),
    goal("20,000 idle sessions beyond LIMIT's, % of a processor", Figure::Idle, 1.0, 0.0),
    goal("2 workers against 1, processor", Figure::Workers, 1.05, 1.0),
];

#[cfg(test)]
#[allow(
    dead_code,
    unused_imports,
    reason = "tests/benches.rs runs them; this program is built without"
)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_by_what_is_not_above_it() {
        let judged = goal("", Figure::Workers, 1.08, 0.9);
        for (median, word) in
            [(0.9, "met, stretch too"), (0.91, "met"), (1.08, "met"), (1.081, "missed")]
        {
            // The quartiles say how sure it is, and nothing else.
            assert_eq!(judged.verdict(Spread { low: 0.0, median, high: 9.0 }), word, "{median}");
        }
    }
}
