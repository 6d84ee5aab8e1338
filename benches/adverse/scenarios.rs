//! What is measured on which path.

use std::{io, time::Duration};

use serde_json::Value;

use crate::{
    lab::{Kernel, Lab, Listener, direct, say, url},
    relay::link::Conditions,
    results::Table,
};

/// Half of a round trip of 50 ms.
const DELAY: Duration = Duration::from_millis(25);

const CUBIC: Listener = Listener { port: 4433, transport: "" };
const BBR: Listener = Listener { port: 4434, transport: "congestion = \"bbr\"" };
const NEW_RENO: Listener = Listener { port: 4435, transport: "congestion = \"new-reno\"" };
const WINDOW_4: Listener = Listener { port: 4436, transport: "stream_window = \"4MiB\"" };
const WINDOW_16: Listener = Listener { port: 4437, transport: "stream_window = \"16MiB\"" };

const WINDOW_32: Listener = Listener { port: 4438, transport: "initial_window = \"48000B\"" };
const RTT_100: Listener = Listener { port: 4439, transport: "initial_rtt = \"100ms\"" };
const THRESHOLD_30: Listener = Listener { port: 4440, transport: "packet_threshold = 30" };

/// Seconds by which client and network may be late for it to count: one round trip.
const MOST_LATE: f64 = 0.05;

/// How often that is tried.
const ATTEMPTS: u32 = 5;

/// All listeners that a gateway needs for this.
pub(crate) const LISTENERS: [Listener; 8] =
    [CUBIC, BBR, NEW_RENO, WINDOW_4, WINDOW_16, WINDOW_32, RTT_100, THRESHOLD_30];

/// Each scenario by its name.
pub(crate) const SCENARIOS: [&str; 8] =
    ["down", "up", "round-trips", "messages", "few-messages", "bottleneck", "windows", "knobs"];

/// One run of the scenarios.
pub(crate) struct Run<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) table: &'a mut Table,
    /// How long each figure is measured.
    pub(crate) seconds: u64,
    /// How often each speed is measured, with other chances; the median counts.
    pub(crate) rounds: u64,
    /// In percent, each way.
    pub(crate) losses: &'a [u32],
}

/// A path of 100 Mbit/s with a queue of one round trip.
fn lossy(percent: u32) -> Conditions {
    Conditions {
        delay: DELAY,
        loss: f64::from(percent) / 100.0,
        rate: Some(100_000_000),
        queue: 417,
        seed: 7,
        ..Conditions::default()
    }
}

/// A path of 50 Mbit/s whose router keeps a hundred packets: 24 ms.
fn short_queue(percent: u32) -> Conditions {
    Conditions { rate: Some(50_000_000), queue: 100, ..lossy(percent) }
}

impl Run<'_> {
    /// Measures one scenario.
    pub(crate) fn measure(&mut self, scenario: &str) -> io::Result<()> {
        match scenario {
            "down" => self.down(),
            "up" => self.up(),
            "round-trips" => self.round_trips(),
            "messages" => self.messages(),
            "few-messages" => self.few_messages(),
            "bottleneck" => self.bottleneck(),
            "windows" => self.windows(),
            "knobs" => self.knobs(),
            other => Err(io::Error::other(format!("there is no scenario {other}"))),
        }
    }

    fn down(&mut self) -> io::Result<()> {
        for loss in self.losses {
            let path = format!("{loss} % loss");
            for (who, listener) in [("QUIC, CUBIC", CUBIC), ("QUIC, BBR", BBR)] {
                self.bulk(
                    ("down", &path, who),
                    lossy(*loss),
                    "bulk-down",
                    &url(listener, "source"),
                )?;
            }
            for (who, kernel) in [("TLS/TCP, CUBIC", Kernel::Cubic), ("TLS/TCP, BBR", Kernel::Bbr)]
            {
                self.bulk_of_nginx(("down", &path, who), lossy(*loss), "bulk-down", kernel)?;
            }
        }
        Ok(())
    }

    /// The client sends, so its congestion control decides: quinn's CUBIC, or the kernel's.
    fn up(&mut self) -> io::Result<()> {
        for loss in self.losses {
            let path = format!("{loss} % loss");
            let to = url(CUBIC, "sink");
            self.bulk(("up", &path, "QUIC, CUBIC"), lossy(*loss), "bulk-up", &to)?;
            let place = ("up", path.as_str(), "TLS/TCP, CUBIC");
            self.bulk_of_nginx(place, lossy(*loss), "bulk-up", Kernel::Cubic)?;
        }
        Ok(())
    }

    fn round_trips(&mut self) -> io::Result<()> {
        for loss in self.losses {
            let path = format!("{loss} % loss");
            let of_nginx = self.lab.has_nginx.then(|| ("TLS/TCP", direct("echo")));
            for (who, to) in [("QUIC", url(CUBIC, "echo"))].into_iter().chain(of_nginx) {
                self.lab.set_kernel(Kernel::Cubic)?;
                self.lab.set(lossy(*loss));
                let load = format!(
                    "rr {to} --size 64 --sessions 16 --rate 320/s --warmup 1s --duration {}s",
                    self.seconds + 1
                );
                let report = self.lab.load(&load)?;
                let took = &report["latency_us"]["operation"];
                self.millis(("round-trips", &path, who), took, ["p50", "p99"]);
            }
        }
        Ok(())
    }

    /// 16 lanes with a message every 20 ms on each: what is late waited for what was lost, or for its turn in
    /// the little that CUBIC sends through such losses.
    fn messages(&mut self) -> io::Result<()> {
        self.lanes("messages", "--every 20", self.seconds)
    }

    /// The same with a message every 20 ms in all.
    fn few_messages(&mut self) -> io::Result<()> {
        self.lanes("few-messages", "--every 320", 5 * self.seconds)
    }

    fn lanes(&mut self, scenario: &str, pace: &str, seconds: u64) -> io::Result<()> {
        for loss in self.losses {
            let path = format!("{loss} % loss");
            let of_nginx = self.lab.has_nginx.then_some(("one TLS/TCP connection", "tls", 5000));
            for (who, carrier, port) in [
                ("QUIC streams", "streams", CUBIC.port),
                ("QUIC datagrams", "datagrams", CUBIC.port),
            ]
            .into_iter()
            .chain(of_nginx)
            {
                self.lab.set_kernel(Kernel::Cubic)?;
                let report = self.undisturbed(
                    lossy(*loss),
                    &format!(
                        "messages --carrier {carrier} --server 10.77.0.1:{port} --seconds {seconds} {pace}"
                    ),
                )?;
                if report["wrong"] != 0 {
                    return Err(io::Error::other(format!("messages came back wrong: {report}")));
                }
                let place = (scenario, path.as_str(), who);
                self.millis(place, &report, ["p50_us", "p95_us", "p99_us", "still_us"]);
                let [sent, came, late] =
                    [&report["sent"], &report["came"], &report["late"]].map(number);
                self.figure(place, "late_percent", 100.0 * late / sent.max(1.0));
                self.figure(place, "missing_percent", 100.0 * (1.0 - came / sent.max(1.0)));
            }
        }
        Ok(())
    }

    /// Runs messages until client and network had all their turns in time: what a busy machine holds up looks
    /// as if the network had.
    fn undisturbed(&self, path: Conditions, messages: &str) -> io::Result<Value> {
        for _ in 0..ATTEMPTS {
            self.lab.set(path);
            let report = self.lab.this(messages)?;
            let client = number(&report["held_up_us"]) / 1e6;
            let late = self.lab.set(path).late.as_secs_f64().max(client);
            if late <= MOST_LATE {
                return Ok(report);
            }
            say(&format!("this machine held it up for {late:.3} s: measured again"));
        }
        Err(io::Error::other("this machine is too busy with other things"))
    }

    /// Who fills a short queue, and what it costs.
    fn bottleneck(&mut self) -> io::Result<()> {
        for (path, loss) in [("queue of 100", 0), ("queue of 100, 1 % loss", 1)] {
            for (who, listener) in
                [("QUIC, CUBIC", CUBIC), ("QUIC, BBR", BBR), ("QUIC, NewReno", NEW_RENO)]
            {
                let place = ("bottleneck", path, who);
                self.bulk(place, short_queue(loss), "bulk-down", &url(listener, "source"))?;
            }
            for (who, kernel) in [("TLS/TCP, CUBIC", Kernel::Cubic), ("TLS/TCP, BBR", Kernel::Bbr)]
            {
                self.bulk_of_nginx(
                    ("bottleneck", path, who),
                    short_queue(loss),
                    "bulk-down",
                    kernel,
                )?;
            }
        }
        Ok(())
    }

    /// How far one stream gets upwards by the window that it has, on a path that has room.
    fn windows(&mut self) -> io::Result<()> {
        let wide = Conditions { rate: Some(300_000_000), queue: 2000, ..lossy(0) };
        for (who, listener) in
            [("1 MiB (default)", CUBIC), ("4 MiB", WINDOW_4), ("16 MiB", WINDOW_16)]
        {
            let place = ("windows", "300 Mbit/s, 50 ms", who);
            self.bulk(place, wide, "bulk-up", &url(listener, "sink"))?;
        }
        Ok(())
    }

    /// What each of the other settings is for, with it and without.
    fn knobs(&mut self) -> io::Result<()> {
        for (who, listener) in [("12,000 B (default)", CUBIC), ("48,000 B", WINDOW_32)] {
            let place = ("knobs", "initial_window, connect and 64 KiB there and back", who);
            self.connects(place, lossy(0), listener, "churn --bytes 64KiB --hold 0s")?;
        }
        for (who, listener) in [("333 ms (default)", CUBIC), ("100 ms", RTT_100)] {
            let place = ("knobs", "initial_rtt, handshakes at 5 % loss", who);
            self.connects(place, lossy(5), listener, "handshake")?;
        }
        let reordering = Conditions { reorder: 0.01, hold: Duration::from_millis(4), ..lossy(0) };
        for (who, listener) in [("3 (default)", CUBIC), ("30", THRESHOLD_30)] {
            let place = ("knobs", "packet_threshold, down with 1 % late by 4 ms", who);
            self.bulk(place, reordering, "bulk-down", &url(listener, "source"))?;
        }
        Ok(())
    }

    /// How long connections take, and what they begin with.
    fn connects(
        &mut self,
        place: (&str, &str, &str),
        path: Conditions,
        listener: Listener,
        scenario: &str,
    ) -> io::Result<()> {
        self.lab.set(path);
        let (to, seconds) = (url(listener, "echo"), 2 * self.seconds);
        let pace = format!("--sessions 16 --rate 50/s --warmup 1s --duration {seconds}s");
        let report = self.lab.load(&format!("{scenario} {to} {pace}"))?;
        self.millis(place, &report["latency_us"]["operation"], ["p50", "p90"]);
        Ok(())
    }

    fn bulk_of_nginx(
        &mut self,
        place: (&str, &str, &str),
        path: Conditions,
        scenario: &str,
        kernel: Kernel,
    ) -> io::Result<()> {
        if !self.lab.has_nginx {
            return Ok(());
        }
        self.lab.set_kernel(kernel)?;
        let to = direct(if scenario == "bulk-down" { "source" } else { "sink" });
        self.bulk(place, path, scenario, &to)
    }

    /// The speed of one stream, and what the bottleneck's queue lost meanwhile.
    fn bulk(
        &mut self,
        place: (&str, &str, &str),
        path: Conditions,
        scenario: &str,
        to: &str,
    ) -> io::Result<()> {
        let load = format!("{scenario} {to} --warmup 2s --duration {}s --threads 1", self.seconds);
        let (mut speeds, mut queue_losses) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            self.lab.set(path.reseeded(100 + round));
            let report = self.lab.load(&load)?;
            // nginx ends both halves when the client has ended one, so that the sink's last word does not come.
            let may_be_cut = scenario == "bulk-up" && to.contains("tls://");
            if report["ok"] != true && !may_be_cut {
                return Err(io::Error::other(format!("not all was right: {report}")));
            }
            speeds.push(number(&report["bytes_per_second"]) * 8.0 / 1e6);
            let passed = self.lab.set(path);
            let way = if scenario == "bulk-down" { passed.down } else { passed.up };
            queue_losses.push(100.0 * way.overflowed as f64 / way.offered.max(1) as f64);
        }
        self.figure(place, "mbit_s", median(speeds));
        self.figure(place, "queue_loss_percent", median(queue_losses));
        Ok(())
    }

    /// Two quantiles of a report in microseconds.
    fn millis<const N: usize>(
        &mut self,
        place: (&str, &str, &str),
        took: &Value,
        quantiles: [&str; N],
    ) {
        for quantile in quantiles {
            let name = quantile.trim_end_matches("_us");
            self.figure(place, &format!("{name}_ms"), number(&took[quantile]) / 1e3);
        }
    }

    fn figure(&mut self, (scenario, path, who): (&str, &str, &str), figure: &str, value: f64) {
        say(&format!("{scenario:<12} {path:<24} {who:<24} {figure:<18} {value:>10.2}"));
        self.table.add(scenario, path, who, figure, value);
    }
}

/// A figure that is missing shows as one that is none.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
