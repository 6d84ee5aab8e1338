//! What the reports of all scenarios are made of: distributions, datagrams, failures, and figures for people.
//!
//! Latencies are from HdrHistogram, in microseconds and exact to three digits; sizes are in bytes.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::tally::{Counter, Counters, Timed, Totals};

/// A distribution of times; all 0 if nothing was measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) p99_99: u64,
    pub(crate) p99_999: u64,
    pub(crate) max: u64,
}

impl Latency {
    pub(crate) fn of(totals: &Totals, what: Timed) -> Self {
        let times = totals.times(what);
        let at = |quantile| times.value_at_quantile(quantile);
        Self {
            count: times.len(),
            min: times.min(),
            mean: times.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            p99_999: at(0.99999),
            max: times.max(),
        }
    }

    /// With the names of their columns.
    pub(crate) fn quantiles(&self) -> [(&'static str, u64); 7] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
            ("p99.999", self.p99_999),
            ("max", self.max),
        ]
    }
}

/// Writes a table of distributions.
pub(crate) fn write_latencies(
    f: &mut fmt::Formatter<'_>,
    rows: &[(Timed, Latency)],
) -> fmt::Result {
    let names = Latency::default().quantiles().map(|(name, _)| format!("{name:>11}"));
    writeln!(f, "\n{:<12}{:>11}{}", "latency", "count", names.concat())?;
    for (what, latency) in rows {
        write!(f, "{:<12}{:>11}", what.word(), latency.count)?;
        for (_, micros) in latency.quantiles() {
            let time = if latency.count == 0 { "-".to_owned() } else { human_time(micros) };
            write!(f, "{time:>11}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

/// What became of the datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct DatagramCounts {
    pub(crate) asked: u64,
    pub(crate) sent: u64,
    /// Came back and were right, each once; late ones too.
    pub(crate) returned: u64,
    /// Sent and not returned.
    pub(crate) lost: u64,
    /// Returned after the datagram timeout.
    pub(crate) late: u64,
    /// Returned after a later one of their session.
    pub(crate) reordered: u64,
    /// Returned once more.
    pub(crate) duplicated: u64,
    /// Came and were never sent, or not like this.
    pub(crate) wrong: u64,
    /// Could not be sent.
    pub(crate) unsent: u64,
}

impl DatagramCounts {
    /// What became of so many.
    pub(crate) fn of(totals: &Totals, asked: u64) -> Self {
        let get = |counter: fn(&Counters) -> &Counter| totals.sum(counter);
        let (sent, returned) = (get(|c| &c.datagrams_sent), get(|c| &c.datagrams_returned));
        Self {
            asked,
            sent,
            returned,
            lost: sent - returned,
            late: get(|c| &c.datagrams_late),
            reordered: get(|c| &c.datagrams_reordered),
            duplicated: get(|c| &c.datagrams_duplicated),
            wrong: get(|c| &c.datagrams_wrong),
            unsent: get(|c| &c.datagrams_unsent),
        }
    }
}

impl Display for DatagramCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} asked, {} sent, {} back, {} lost",
            self.asked, self.sent, self.returned, self.lost
        )?;
        for (count, what) in [
            (self.late, "late"),
            (self.reordered, "reordered"),
            (self.duplicated, "duplicated"),
            (self.wrong, "WRONG"),
            (self.unsent, "NOT SENT"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Failures of one kind.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct ErrorGroup {
    /// With the code of a stream that was reset, or the status of a session that was refused.
    pub(crate) kind: String,
    pub(crate) count: u64,
    /// The first of them, in words.
    pub(crate) first: String,
}

pub(crate) fn errors(totals: &Totals) -> Vec<ErrorGroup> {
    let groups = totals.failures().iter().map(|(kind, failures)| ErrorGroup {
        kind: kind.to_string(),
        count: failures.count,
        first: failures.first.clone(),
    });
    groups.collect()
}

/// Writes them, each in a line of its own.
pub(crate) fn write_failures(f: &mut fmt::Formatter<'_>, errors: &[ErrorGroup]) -> fmt::Result {
    for ErrorGroup { kind, count, first } in errors {
        write!(f, "\n{count} x {kind}, first: {first}")?;
    }
    Ok(())
}

/// Stands in a report of a run that somebody ended with Ctrl-C.
pub(crate) const INTERRUPTED: &str = "\nINTERRUPTED: the figures are of what was done until then";

/// A report as one line of JSON.
pub(crate) fn to_json(report: &impl Serialize) -> String {
    serde_json::to_string(report).expect("a struct of numbers and texts is valid JSON")
}

/// Microseconds in the unit that leaves three or four digits.
pub(crate) fn human_time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// Bytes in the unit that leaves one to four digits.
pub(crate) fn human_bytes(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "B");
    for larger in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    let digits = if unit == "B" { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_sensible_units() {
        let sizes = [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (1.5e6, "1.4 MiB"),
            (5e12, "4656.6 GiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(human_bytes(bytes), text);
        }
        for (micros, text) in
            [(0, "0 us"), (999, "999 us"), (1_500, "1.50 ms"), (61_000_000, "61.00 s")]
        {
            assert_eq!(human_time(micros), text);
        }
    }
}
