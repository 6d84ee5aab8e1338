//! What a run of `echo` came to: one set of figures, as aligned text or as one JSON object.
//!
//! The JSON's fields are those of [`Report`] by their own names. Times are in microseconds, sizes in
//! bytes. What is neither completed nor failed was
//! cut short, by an interruption or by the end of its session.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::{
    args::EchoArgs,
    progress::per_second,
    report::{
        DatagramCounts, ErrorGroup, INTERRUPTED, Latency, errors, human_bytes, human_time,
        write_failures, write_latencies,
    },
    run::{Done, Load},
    tally::{Counter, Counters, Timed, Totals},
};

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was done.
    pub(crate) scenario: &'static str,
    pub(crate) url: String,
    /// Everything was done and was right; lost datagrams do not count. The exit code is 0.
    pub(crate) ok: bool,
    /// Somebody pressed Ctrl-C; the figures are of what was done until then.
    pub(crate) interrupted: bool,
    /// From the beginning until the last session is over.
    pub(crate) duration_us: u64,
    /// Worker threads.
    pub(crate) threads: u32,
    /// Client sockets.
    pub(crate) sockets: u32,
    pub(crate) connections: Parts,
    /// Completed: opened, did all they should, and closed with the server's answer.
    pub(crate) sessions: Parts,
    /// Sessions that the server accepted.
    pub(crate) sessions_opened: u64,
    /// Completed: every byte came back right, and then the server's clean end.
    pub(crate) streams: Parts,
    pub(crate) stream_bytes: StreamBytes,
    pub(crate) datagrams: DatagramCounts,
    pub(crate) latency_us: Latencies,
    /// One entry for each kind of failure.
    pub(crate) errors: Vec<ErrorGroup>,
}

/// How many of what was asked for ended how.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Parts {
    pub(crate) asked: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

impl Parts {
    const fn all_completed(self) -> bool {
        self.completed == self.asked && self.failed == 0
    }
}

/// Payload of streams.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StreamBytes {
    /// Bytes of all streams together.
    pub(crate) asked: u64,
    /// Handed to QUIC.
    pub(crate) sent: u64,
    /// Came back and were right.
    pub(crate) checked: u64,
    /// `checked` over the whole duration, handshakes included.
    pub(crate) checked_per_second: f64,
}

/// How long things took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latencies {
    /// First packet to the server's HTTP/3 settings.
    pub(crate) handshake: Latency,
    /// CONNECT request to its 200.
    pub(crate) session: Latency,
    /// Opening of a stream to the server's end after the last byte back.
    pub(crate) stream: Latency,
    /// Sending of a datagram to its return; without lost and late ones.
    pub(crate) datagram: Latency,
}

impl Report {
    /// What a run of `echo` came to.
    pub(crate) fn new(load: &Load, args: &EchoArgs, done: &Done) -> Self {
        let get = |counter: fn(&Counters) -> &Counter| done.totals.sum(counter);
        let streams = u64::from(load.sessions) * u64::from(args.streams);
        let checked = get(|c| &c.bytes_checked);
        let mut report = Self {
            scenario: "echo",
            url: load.target.shown_url(),
            ok: false,
            interrupted: done.interrupted,
            duration_us: u64::try_from(done.duration.as_micros()).unwrap_or(u64::MAX),
            threads: load.threads,
            sockets: load.sockets,
            connections: Parts {
                asked: load.connections().into(),
                completed: get(|c| &c.connections),
                failed: get(|c| &c.connections_failed),
            },
            sessions: Parts {
                asked: load.sessions.into(),
                completed: get(|c| &c.sessions_completed),
                failed: get(|c| &c.sessions_failed),
            },
            sessions_opened: get(|c| &c.sessions_opened),
            streams: Parts {
                asked: streams,
                completed: get(|c| &c.streams_completed),
                failed: get(|c| &c.streams_failed),
            },
            stream_bytes: StreamBytes {
                asked: streams.saturating_mul(args.bytes),
                sent: get(|c| &c.bytes_sent),
                checked,
                checked_per_second: per_second(checked, done.duration),
            },
            datagrams: DatagramCounts::of(
                &done.totals,
                u64::from(load.sessions) * u64::from(args.datagrams),
            ),
            latency_us: latencies(&done.totals),
            errors: errors(&done.totals),
        };
        report.ok = report.all_was_right();
        report
    }

    fn all_was_right(&self) -> bool {
        let datagrams = &self.datagrams;
        !self.interrupted
            && self.errors.is_empty()
            && self.connections.all_completed()
            && self.sessions.all_completed()
            && self.streams.all_completed()
            && self.stream_bytes.checked == self.stream_bytes.asked
            && (datagrams.sent, datagrams.wrong, datagrams.unsent) == (datagrams.asked, 0, 0)
    }
}

fn latencies(totals: &Totals) -> Latencies {
    let of = |what| Latency::of(totals, what);
    Latencies {
        handshake: of(Timed::Handshake),
        session: of(Timed::Session),
        stream: of(Timed::Stream),
        datagram: of(Timed::Datagram),
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.scenario, self.url)?;
        let (threads, sockets) = (self.threads, self.sockets);
        let took = human_time(self.duration_us);
        writeln!(f, "took {took} with {threads} threads and {sockets} sockets\n")?;

        writeln!(f, "{:<12}{:>11}{:>11}{:>11}", "", "asked", "completed", "failed")?;
        for (name, parts) in [
            ("connections", self.connections),
            ("sessions", self.sessions),
            ("streams", self.streams),
        ] {
            let Parts { asked, completed, failed } = parts;
            writeln!(f, "{name:<12}{asked:>11}{completed:>11}{failed:>11}")?;
        }
        let bytes = &self.stream_bytes;
        let human = |bytes: u64| human_bytes(bytes as f64);
        writeln!(
            f,
            "\nstream bytes  {} asked, {} sent, {} back and right, {}/s",
            human(bytes.asked),
            human(bytes.sent),
            human(bytes.checked),
            human_bytes(bytes.checked_per_second),
        )?;
        writeln!(f, "datagrams     {}", self.datagrams)?;
        let latencies = &self.latency_us;
        let rows = [
            (Timed::Handshake, latencies.handshake),
            (Timed::Session, latencies.session),
            (Timed::Stream, latencies.stream),
            (Timed::Datagram, latencies.datagram),
        ];
        write_latencies(f, &rows)?;
        write_failures(f, &self.errors)?;
        if self.interrupted {
            f.write_str(INTERRUPTED)?;
        }
        match self.datagrams.lost {
            _ if !self.ok => write!(f, "\nNOT ALL WAS RIGHT"),
            0 => write!(f, "\nall was right"),
            lost => write!(f, "\nall was right, but for {lost} lost datagrams"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use clap::Parser;

    use super::*;
    use crate::{
        args::{Args, Command},
        tally::{Failure, Kind, Tally},
        target::Target,
    };

    const LINE: &str = "tidegate-load echo --url https://127.0.0.1:9/echo --insecure --sessions 2 \
                        --streams 3 --bytes 1KiB --datagrams 5 --threads 1";

    /// A run in which all was right, but for what `change` does.
    fn report(change: impl Fn(&Tally)) -> Report {
        let Command::Echo(args) = Args::parse_from(LINE.split_whitespace()).command else {
            panic!("the line is of echo");
        };
        let trust = tidegate::client::Trust::DangerAcceptAny;
        let target = Target::resolve(args.target.whom().unwrap(), trust).unwrap();
        let load = Load::new(target, tidegate::client::RequestOptions::default(), &args.load);
        let tally = Tally::new(Arc::default());
        let count = tally.count();
        count.connections.add(2);
        count.sessions_opened.add(2);
        count.sessions_completed.add(2);
        count.streams_completed.add(6);
        count.bytes_sent.add(6 * 1024);
        count.bytes_checked.add(6 * 1024);
        count.datagrams_sent.add(10);
        count.datagrams_returned.add(9);
        tally.took(Timed::Stream, Duration::from_micros(900));
        tally.took(Timed::Stream, Duration::from_millis(90));
        change(&tally);
        let totals = Totals::of([tally]);
        Report::new(
            &load,
            &args,
            &Done { totals, duration: Duration::from_secs(2), interrupted: false },
        )
    }

    #[test]
    fn a_lost_datagram_does_not_fail_a_run() {
        let report = report(|_| {});
        assert_eq!(report.datagrams.lost, 1);
        assert!(report.ok);
        assert!(report.to_string().ends_with("\nall was right, but for 1 lost datagrams"));
    }

    #[test]
    fn everything_else_does() {
        type Change = fn(&Tally);
        let changes: [(&str, Change); 6] = [
            ("stream failed", |t| t.count().streams_failed.inc()),
            ("stream bytes beyond the last", |t| t.count().bytes_checked.inc()),
            ("session failed", |t| t.count().sessions_failed.inc()),
            ("datagram wrong", |t| t.count().datagrams_wrong.inc()),
            ("datagram unsent", |t| t.count().datagrams_unsent.inc()),
            ("failure", |t| t.failed(Failure::new(Kind::CloseUnanswered, "silence"))),
        ];
        for (what, change) in changes {
            assert!(!report(change).ok, "{what}");
        }
    }

    #[test]
    fn the_text_is_aligned_and_has_every_figure() {
        let text =
            report(|t| t.failed(Failure::new(Kind::StreamShort, "stream 1: cut"))).to_string();
        assert_eq!(
            text,
            "\
echo https://127.0.0.1:9/echo
took 2.00 s with 1 threads and 2 sockets

                  asked  completed     failed
connections           2          2          0
sessions              2          2          0
streams               6          6          0

stream bytes  6.0 KiB asked, 6.0 KiB sent, 6.0 KiB back and right, 3.0 KiB/s
datagrams     10 asked, 10 sent, 9 back, 1 lost

latency           count        p50        p90        p99      p99.9     p99.99    p99.999        max
handshake             0          -          -          -          -          -          -          -
session               0          -          -          -          -          -          -          -
stream                2     900 us   90.05 ms   90.05 ms   90.05 ms   90.05 ms   90.05 ms   90.05 ms
datagram              0          -          -          -          -          -          -          -

1 x stream-short, first: stream 1: cut
NOT ALL WAS RIGHT"
        );
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let json: serde_json::Value =
            serde_json::from_str(&crate::report::to_json(&report(|_| {}))).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["duration_us"], 2_000_000);
        assert_eq!(json["sessions"], serde_json::json!({"asked": 2, "completed": 2, "failed": 0}));
        assert_eq!(json["stream_bytes"]["checked_per_second"], 3072.0);
        assert_eq!(json["datagrams"]["lost"], 1);
        assert_eq!(json["latency_us"]["stream"]["p50"], 900);
        assert_eq!(json["latency_us"]["stream"]["count"], 2);
        assert_eq!(json["errors"], serde_json::json!([]));
    }
}
