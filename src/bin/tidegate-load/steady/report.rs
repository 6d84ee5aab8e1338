//! What a steady run came to: as text, as JSON, as a row of CSV, and the whole distribution of times.
//!
//! The JSON's fields are those of [`Report`] by their own names. Times are in microseconds, sizes in bytes.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    time::Duration,
};

use serde::Serialize;

use super::{
    engine::{Course, Done},
    pace::Pace,
    process::Cost,
    slo::{Slo, Verdict},
};
use crate::{
    progress::per_second,
    report::{
        DatagramCounts, ErrorGroup, INTERRUPTED, Latency, errors, human_bytes, human_time,
        write_failures, write_latencies,
    },
    run::Load,
    tally::{Counter, Counters, Timed, Times, Totals},
};

/// A worker that is on the processor for more than this share of its time has no time to spare.
const BUSY: f64 = 0.9;

/// Of the operations that are due, so many may begin later than [`LATE`] before it is the generator's fault.
const LATE_QUANTILE: f64 = 0.99;

/// Longer than a busy machine takes to wake a thread.
const LATE: Duration = Duration::from_millis(5);

/// Operations of so many bytes are looked at by their bytes.
const BULK_BYTES: u64 = 16 * 1024;

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    /// All that was due was done and was right; lost datagrams do not count.
    pub(crate) ok: bool,
    pub(crate) interrupted: bool,
    /// `open` or `closed`.
    pub(crate) loop_kind: &'static str,
    /// The rate of an open loop.
    pub(crate) asked_per_second: Option<f64>,
    pub(crate) threads: u32,
    pub(crate) sockets: u32,
    pub(crate) sessions: u32,
    /// Without the warm-up.
    pub(crate) measured_us: u64,
    pub(crate) operations: Operations,
    /// The share of what was due that did not complete.
    pub(crate) loss: f64,
    /// Payload that came back, or arrived, and was right.
    pub(crate) bytes: u64,
    pub(crate) bytes_per_second: f64,
    /// In `datagram`, the warm-up included.
    pub(crate) datagrams: Option<DatagramCounts>,
    /// Times that the client's address changed.
    pub(crate) moves: u64,
    pub(crate) latency_us: Latencies,
    pub(crate) generator: Generator,
    /// With `--pid`, unless the run was too short for it.
    pub(crate) server: Option<Cost>,
    /// With `--metrics`, the same: what each series has risen by.
    pub(crate) metrics: Option<BTreeMap<String, f64>>,
    /// Why neither is there, if they were asked for.
    pub(crate) unobserved: Option<String>,
    pub(crate) errors: Vec<ErrorGroup>,
    pub(crate) slo: Vec<Verdict>,
    #[serde(skip)]
    pub(crate) times: Times,
}

/// What became of the operations that were due after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Operations {
    /// In a closed loop those that began.
    pub(crate) due: u64,
    pub(crate) completed: u64,
    pub(crate) per_second: f64,
}

impl Operations {
    /// The share that did not complete.
    pub(crate) fn loss(&self) -> f64 {
        let missing = self.due.saturating_sub(self.completed) as f64;
        if self.due == 0 { 0.0 } else { missing / self.due as f64 }
    }
}

/// How long things took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latencies {
    /// An operation; in an open loop from when it was due.
    pub(crate) operation: Latency,
    /// First packet to the server's HTTP/3 settings, the warm-up included.
    pub(crate) handshake: Latency,
    /// CONNECT request to its 200, the warm-up included.
    pub(crate) session: Latency,
    /// In `bulk-down`: the opening of a stream to its first byte, the warm-up included.
    pub(crate) first_byte: Latency,
}

/// Whether this program was the bottleneck.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generator {
    /// The share of its time that the busiest worker was on the processor.
    pub(crate) busiest_thread: f64,
    /// What all workers together were.
    pub(crate) processor_seconds: f64,
    /// How long after they were due operations began, in an open loop.
    pub(crate) late_p99_us: u64,
    pub(crate) late_max_us: u64,
    /// It could not keep up: the figures are not the server's then.
    pub(crate) limited: bool,
    /// With what it could not keep up, in words.
    pub(crate) bottleneck: Option<String>,
}

impl Generator {
    fn new(done: &Done) -> Self {
        let late = done.totals.times(Timed::Late);
        let late_p99 = late.value_at_quantile(LATE_QUANTILE);
        let busy = done.busiest > BUSY;
        let is_late = Duration::from_micros(late_p99) > LATE;
        let bottleneck = if is_late {
            let time = human_time(late_p99);
            Some(format!(
                "one of 100 operations began {time} late or more: the rate is too high for it, or the machine too busy"
            ))
        } else if busy {
            let percent = done.busiest * 100.0;
            Some(format!("a thread of its own was busy for {percent:.0} % of the time"))
        } else {
            None
        };
        let (late_p99_us, late_max_us) = (late_p99, late.max());
        Self {
            busiest_thread: done.busiest,
            processor_seconds: done.busy.as_secs_f64(),
            late_p99_us,
            late_max_us,
            limited: bottleneck.is_some(),
            bottleneck,
        }
    }
}

impl Report {
    pub(crate) fn new(
        (scenario, load): (&'static str, &Load),
        course: &Course,
        done: &Done,
        slos: &[Slo],
    ) -> Self {
        let get = |counter: fn(&Counters) -> &Counter| done.totals.sum(counter);
        let completed = get(|c| &c.operations);
        let (loop_kind, asked_per_second) = match course.pace {
            Pace::Open { events, per } => ("open", Some(f64::from(events) / per.as_secs_f64())),
            Pace::Closed { .. } => ("closed", None),
        };
        let of = |what| Latency::of(&done.totals, what);
        let observed = done.server.as_ref().and_then(|observed| observed.as_ref().ok());
        let mut report = Self {
            scenario,
            url: load.target.shown_url(),
            ok: false,
            interrupted: done.interrupted,
            loop_kind,
            asked_per_second,
            threads: load.threads,
            sockets: load.sockets,
            sessions: load.sessions,
            measured_us: u64::try_from(done.measured.as_micros()).unwrap_or(u64::MAX),
            operations: Operations {
                due: done.due,
                completed,
                per_second: per_second(completed, done.measured),
            },
            loss: 0.0,
            bytes: get(|c| &c.operation_bytes),
            bytes_per_second: per_second(get(|c| &c.operation_bytes), done.measured),
            datagrams: (scenario == "datagram").then(|| datagrams(&done.totals)),
            moves: done.moves,
            latency_us: Latencies {
                operation: of(Timed::Operation),
                handshake: of(Timed::Handshake),
                session: of(Timed::Session),
                first_byte: of(Timed::FirstByte),
            },
            generator: Generator::new(done),
            server: observed.and_then(|observed| observed.cost),
            metrics: observed.and_then(|observed| observed.metrics.clone()),
            unobserved: done.server.as_ref().and_then(|observed| observed.clone().err()),
            errors: errors(&done.totals),
            slo: Vec::new(),
            times: done.totals.times(Timed::Operation).clone(),
        };
        report.loss = report.operations.loss();
        report.ok = report.all_was_right();
        report.slo = slos.iter().map(|slo| slo.judge(&report)).collect();
        report
    }

    fn all_was_right(&self) -> bool {
        // Datagrams may be lost.
        let all = self.datagrams.is_some() || self.operations.completed == self.operations.due;
        !self.interrupted && self.errors.is_empty() && self.operations.completed > 0 && all
    }

    /// Whether a condition was missed.
    pub(crate) fn missed(&self) -> bool {
        self.slo.iter().any(|verdict| !verdict.met)
    }

    /// A line of names and a line of figures.
    pub(crate) fn to_csv(&self) -> String {
        let (operations, latency) = (&self.operations, &self.latency_us.operation);
        let mut columns: Vec<(String, String)> = vec![
            ("scenario".into(), self.scenario.into()),
            ("ok".into(), self.ok.to_string()),
            ("loop".into(), self.loop_kind.into()),
            ("sessions".into(), self.sessions.to_string()),
            ("measured_us".into(), self.measured_us.to_string()),
            ("due".into(), operations.due.to_string()),
            ("completed".into(), operations.completed.to_string()),
            ("per_second".into(), format!("{:.3}", operations.per_second)),
            ("bytes_per_second".into(), format!("{:.0}", self.bytes_per_second)),
        ];
        let quantiles = latency.quantiles();
        columns.extend(quantiles.map(|(name, micros)| (format!("{name}_us"), micros.to_string())));
        let failures: u64 = self.errors.iter().map(|group| group.count).sum();
        columns.push(("errors".into(), failures.to_string()));
        columns.push(("late_p99_us".into(), self.generator.late_p99_us.to_string()));
        let (names, figures): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        format!("{}\n{}", names.join(","), figures.join(","))
    }

    /// The distribution of the operations' times in milliseconds, in the format of HdrHistogram's plotter.
    pub(crate) fn to_hgrm(&self) -> String {
        let mut text = "Value,Percentile,TotalCount,1/(1-Percentile)\n".replace(',', "\t");
        for step in self.times.iter_quantiles(5) {
            let (quantile, value) = (step.quantile_iterated_to(), step.value_iterated_to());
            let count = self.times.count_between(0, value);
            let inverse = 1.0 / (1.0 - quantile);
            let millis = value as f64 / 1e3;
            // A string takes everything.
            _ = writeln!(text, "{millis:.3}\t{quantile:.7}\t{count}\t{inverse:.2}");
        }
        let (mean, deviation) = (self.times.mean() / 1e3, self.times.stdev() / 1e3);
        let (max, count) = (self.times.max() as f64 / 1e3, self.times.len());
        _ = writeln!(text, "#[Mean    = {mean:.3}, StdDeviation   = {deviation:.3}]");
        _ = writeln!(text, "#[Max     = {max:.3}, Total count    = {count}]");
        text
    }
}

impl Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.processor_share * 100.0;
        write!(f, "{percent:.0} % of a processor, ")?;
        if let Some(micros) = self.processor_us_per_operation {
            write!(f, "{micros:.1} us per operation, ")?;
        }
        // Of small messages the bytes are not what costs.
        let is_bulk = self.bytes / self.operations.max(1) >= BULK_BYTES;
        if let Some(seconds) = self.processor_seconds_per_gib.filter(|_| is_bulk) {
            write!(f, "{seconds:.3} s per GiB, ")?;
        }
        let [resident, peak] =
            [self.resident_bytes, self.peak_resident_bytes].map(|bytes| human_bytes(bytes as f64));
        let descriptors = self.descriptors;
        write!(f, "{resident} resident, {peak} at most, {descriptors} descriptors")
    }
}

fn datagrams(totals: &Totals) -> DatagramCounts {
    let sent = totals.sum(|c| &c.datagrams_sent);
    DatagramCounts::of(totals, sent + totals.sum(|c| &c.datagrams_unsent))
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.scenario, self.url)?;
        let pace = match self.asked_per_second {
            Some(rate) => format!("open loop at {rate:.1}/s"),
            None => "closed loop".to_owned(),
        };
        let Self { sessions, threads, sockets, .. } = self;
        let measured = human_time(self.measured_us);
        writeln!(
            f,
            "{pace}, {sessions} sessions, {threads} threads, {sockets} sockets, {measured} measured\n"
        )?;
        let Operations { due, completed, per_second } = self.operations;
        let missing = due.saturating_sub(completed);
        let bytes = human_bytes(self.bytes_per_second);
        writeln!(
            f,
            "operations  {due} due, {completed} completed, {missing} not, {per_second:.1}/s, {bytes}/s"
        )?;
        if let Some(datagrams) = &self.datagrams {
            writeln!(f, "datagrams   {datagrams}")?;
        }
        if self.moves > 0 {
            writeln!(f, "address     changed {} times", self.moves)?;
        }
        let latencies = &self.latency_us;
        let mut rows = vec![
            (Timed::Operation, latencies.operation),
            (Timed::Handshake, latencies.handshake),
            (Timed::Session, latencies.session),
        ];
        if latencies.first_byte.count > 0 {
            rows.push((Timed::FirstByte, latencies.first_byte));
        }
        write_latencies(f, &rows)?;
        let Generator { busiest_thread, late_p99_us, late_max_us, .. } = self.generator;
        let (late, latest) = (human_time(late_p99_us), human_time(late_max_us));
        let percent = busiest_thread * 100.0;
        write!(
            f,
            "\ngenerator   busiest thread {percent:.0} %, begun late: p99 {late}, max {latest}"
        )?;
        if let Some(server) = &self.server {
            write!(f, "\nserver      {server}")?;
        }
        if let Some(why) = &self.unobserved {
            write!(f, "\nserver      NOT SEEN: {why}")?;
        }
        for (series, more) in self.metrics.iter().flatten() {
            write!(f, "\nmetrics     {series} +{more}")?;
        }
        for verdict in &self.slo {
            write!(f, "\nslo         {verdict}")?;
        }
        write_failures(f, &self.errors)?;
        if let Some(bottleneck) = &self.generator.bottleneck {
            write!(f, "\nTHE GENERATOR WAS THE BOTTLENECK: {bottleneck}")?;
        }
        if self.interrupted {
            f.write_str(INTERRUPTED)?;
        }
        write!(f, "\n{}", if self.ok { "all was right" } else { "NOT ALL WAS RIGHT" })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Arc, time::Duration};

    use clap::Parser;

    use super::{super::pace::Length, *};
    use crate::{
        args::{Args, Command},
        tally::{Failure, Kind, Tally},
        target::Target,
    };

    /// A run of 100 operations, one a millisecond longer than the other, of which two were not completed, in
    /// two seconds; and what `change` does to it.
    pub(crate) fn report(change: impl Fn(&mut Done)) -> Report {
        let line =
            "tidegate-load rr --url https://127.0.0.1:9/echo --insecure --rate 51/s --threads 1";
        let Command::Rr(args) = Args::parse_from(line.split_whitespace()).command else {
            panic!("the line is of rr");
        };
        let trust = tidegate::client::Trust::DangerAcceptAny;
        let target = Target::resolve(args.steady.scenario.target.whom().unwrap(), trust).unwrap();
        let load = Load::new(
            target,
            tidegate::client::RequestOptions::default(),
            &args.steady.scenario.fleet.load(),
        );
        let tally = Tally::new(Arc::default());
        for millis in 1..=100 {
            tally.took(Timed::Operation, Duration::from_millis(millis));
            tally.count().operations.inc();
        }
        tally.count().operation_bytes.add(4096);
        tally.took(Timed::Late, Duration::from_micros(70));
        let mut done = Done {
            totals: Totals::of([tally]),
            measured: Duration::from_secs(2),
            due: 102,
            busiest: 0.25,
            busy: Duration::from_millis(500),
            moves: 0,
            server: None,
            interrupted: false,
        };
        change(&mut done);
        let course = Course { length: Length::Count(102), ..args.steady.pace.course() };
        Report::new(("rr", &load), &course, &done, &[])
    }

    /// The tally that `fill` has made.
    fn totals(fill: impl Fn(&Tally)) -> Totals {
        let tally = Tally::new(Arc::default());
        fill(&tally);
        Totals::of([tally])
    }

    #[test]
    fn what_was_due_and_not_completed_is_not_right() {
        assert!(!report(|_| {}).ok);
        assert!(report(|done| done.due = 100).ok);
        assert!(!report(|done| (done.due, done.interrupted) = (100, true)).ok);
        assert!(
            !report(|done| (done.due, done.totals) = (0, totals(|_| {}))).ok,
            "nothing was done"
        );
        let failed = |done: &mut Done| {
            done.due = 1;
            done.totals = totals(|tally| {
                tally.count().operations.inc();
                tally.failed(Failure::new(Kind::CloseUnanswered, "silence"));
            });
        };
        assert!(!report(failed).ok);
    }

    #[test]
    fn a_generator_that_is_late_or_has_no_time_to_spare_says_so() {
        assert_eq!(report(|_| {}).generator.bottleneck, None);
        let busy = report(|done| done.busiest = 0.95).generator.bottleneck.unwrap();
        assert!(busy.contains("95 %"), "{busy}");
        let late = |done: &mut Done| {
            done.totals = totals(|tally| tally.took(Timed::Late, Duration::from_millis(20)));
        };
        let late = report(late).to_string();
        assert!(late.contains("THE GENERATOR WAS THE BOTTLENECK: one of 100 operations"), "{late}");
    }

    #[test]
    fn the_text_is_aligned_and_has_every_figure() {
        assert_eq!(
            report(|_| {}).to_string(),
            "\
rr https://127.0.0.1:9/echo
open loop at 51.0/s, 1 sessions, 1 threads, 1 sockets, 2.00 s measured

operations  102 due, 100 completed, 2 not, 50.0/s, 2.0 KiB/s

latency           count        p50        p90        p99      p99.9     p99.99    p99.999        max
operation           100   50.02 ms   90.05 ms   99.01 ms  100.03 ms  100.03 ms  100.03 ms  100.03 ms
handshake             0          -          -          -          -          -          -          -
session               0          -          -          -          -          -          -          -

generator   busiest thread 25 %, begun late: p99 70 us, max 70 us
NOT ALL WAS RIGHT"
        );
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let json: serde_json::Value =
            serde_json::from_str(&crate::report::to_json(&report(|_| {}))).unwrap();
        assert_eq!((&json["loop_kind"], &json["asked_per_second"]), (&"open".into(), &51.0.into()));
        assert_eq!(json["measured_us"], 2_000_000);
        let operations = serde_json::json!({"due": 102, "completed": 100, "per_second": 50.0});
        assert_eq!(json["operations"], operations);
        assert_eq!(json["latency_us"]["operation"]["count"], 100);
        assert_eq!((&json["bytes"], &json["bytes_per_second"]), (&4096.into(), &2048.0.into()));
        assert_eq!(json["loss"], 2.0 / 102.0);
        let generator = &json["generator"];
        assert_eq!((&generator["late_p99_us"], &generator["limited"]), (&70.into(), &false.into()));
        assert_eq!(generator["processor_seconds"], 0.5);
    }

    #[test]
    fn the_distribution_rises_to_the_last() {
        let text = report(|_| {}).to_hgrm();
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split('\t').map(|cell| cell.parse().unwrap()).collect())
            .collect();
        assert!(rows.iter().all(|row| row.len() == 4), "{text}");
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{text}");
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2]), (1.0, 100.0), "{text}");
        assert!(text.contains("#[Mean    = 50.5"), "{text}");
    }
}
