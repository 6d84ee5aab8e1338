//! The rounds: every server under every load, once in each, in an order that changes.

use std::{
    fmt::Write,
    io::Read,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    Failure,
    process::{interrupt, pinned},
    scenarios::{Needs, Scenario, Unit},
    servers::{ALL_CPUS, Bench, CREDIT, Door, Kind, LOAD_CPUS, Server, installed},
    statistics::Shuffle,
};

/// How long a load runs before it is measured: longer than the handshakes, the discovery of the path's packet size
/// and the first growth of what is in flight.
const WARMUP: Duration = Duration::from_millis(300);

/// Rounds in which system calls are counted: they vary less than processor time, and counting them costs some.
const COUNTED_ROUNDS: u32 = 3;

/// A server that does nothing about an operation for so long has failed, and is not waited for any longer.
const STUCK: Duration = Duration::from_secs(3);

/// A server that was on its processor for less of the time was not under full load.
const FULL_SHARE: f64 = 0.85;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) window: Duration,
    pub(crate) seed: u64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) scenarios: Vec<&'static Scenario>,
    /// Of the figures of memory.
    pub(crate) sessions: u32,
    /// Whether these are wanted.
    pub(crate) memory: bool,
}

/// What one server did in one scenario of one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) scenario: &'static str,
    #[serde(serialize_with = "by_name")]
    pub(crate) server: Kind,
    pub(crate) round: u32,
    /// Of a window of its own, in which only they are counted: for each operation, or each MiB.
    pub(crate) system_calls: Option<f64>,
    /// Processor time of the server: microseconds for each operation, or seconds for each GiB.
    pub(crate) processor: Option<f64>,
    /// Of one processor.
    pub(crate) share: Option<f64>,
    /// Operations a second, or MiB a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The share of what was due that did not complete.
    pub(crate) loss: f64,
    /// What was wrong, or nothing. Figures of operations that failed count for nothing.
    pub(crate) error: Option<String>,
    /// The load was slower than the server.
    pub(crate) load_limited: bool,
}

fn by_name<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

/// All rounds.
pub(crate) fn rounds(bench: &Bench, plan: &Plan) -> Result<Vec<Cell>, Failure> {
    let servers = start(bench, plan)?;
    let mut order = Shuffle(plan.seed);
    let mut cells = Vec::new();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        for (scenario, server) in turns(plan, &servers, &mut order) {
            let mut cell = Window { bench, scenario, server, round }.processor(plan.window)?;
            if let Some(error) = &cell.error {
                eprintln!("{} on {}: {error}", scenario.name, server.kind);
            }
            cell.load_limited |=
                scenario.full && cell.share.is_some_and(|share| share < FULL_SHARE);
            cells.push(cell);
        }
    }
    for round in 1..=plan.rounds.min(COUNTED_ROUNDS) {
        eprintln!("system calls, round {round}");
        for (scenario, server) in turns(plan, &servers, &mut order) {
            let window = Window { bench, scenario, server, round };
            let counted = window.system_calls(plan.window)?;
            let same = |cell: &&mut Cell| {
                (cell.scenario, cell.server, cell.round) == (scenario.name, server.kind, round)
            };
            if let Some(cell) = cells.iter_mut().find(same) {
                cell.system_calls = counted;
            }
        }
    }
    Ok(cells)
}

/// All servers that the scenarios need. They stand until the end: one that is not measured does nothing.
fn start(bench: &Bench, plan: &Plan) -> Result<Vec<Server>, Failure> {
    let mut kinds = Vec::new();
    if plan.scenarios.iter().any(|scenario| scenario.needs != Needs::Workers) {
        kinds.extend(&plan.kinds);
    }
    if plan.scenarios.iter().any(|scenario| scenario.needs == Needs::Workers) {
        kinds.extend(Kind::WORKERS);
    }
    kinds.into_iter().map(|kind| bench.start(kind, CREDIT)).collect()
}

/// What is done in a round, one after the other: for each scenario all servers, so that those that are compared are
/// close in time.
fn turns<'a>(
    plan: &Plan,
    servers: &'a [Server],
    order: &mut Shuffle,
) -> Vec<(&'static Scenario, &'a Server)> {
    let mut scenarios = plan.scenarios.clone();
    order.shuffle(&mut scenarios);
    let mut turns = Vec::new();
    for scenario in scenarios {
        let mut able: Vec<&Server> =
            servers.iter().filter(|server| is_able(server.kind, scenario.needs)).collect();
        order.shuffle(&mut able);
        turns.extend(able.into_iter().map(|server| (scenario, server)));
    }
    turns
}

fn is_able(kind: Kind, needs: Needs) -> bool {
    let compares_workers = Kind::WORKERS.contains(&kind);
    match needs {
        Needs::Streams => !compares_workers,
        Needs::Datagrams => !compares_workers && kind.has_datagrams(),
        Needs::Workers => compares_workers,
    }
}

/// One server under one load.
struct Window<'a> {
    bench: &'a Bench,
    scenario: &'static Scenario,
    server: &'a Server,
    round: u32,
}

impl Window<'_> {
    fn door(&self) -> &Door {
        self.server.door(self.scenario.backend)
    }

    fn cpus(&self) -> &'static str {
        if self.scenario.needs == Needs::Workers { ALL_CPUS } else { LOAD_CPUS }
    }

    fn load(&self, warmup: Duration, window: Duration) -> Result<Value, Failure> {
        let mut words: Vec<String> = self.scenario.load.iter().map(|&word| word.into()).collect();
        for (name, duration) in [("--warmup", warmup), ("--duration", window), ("--timeout", STUCK)]
        {
            words.extend([name.to_owned(), format!("{}ms", duration.as_millis())]);
        }
        load(self.bench, self.cpus(), &words, self.door())
    }

    /// Measures processor time, rate and latency.
    fn processor(&self, window: Duration) -> Result<Cell, Failure> {
        let report = self.load(WARMUP, window)?;
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
        let (processor, rate) = match self.scenario.unit {
            Unit::Bytes => (
                number("/server/processor_seconds_per_gib"),
                number("/bytes_per_second").map(|bytes| bytes / MIB),
            ),
            Unit::Operation => {
                (number("/server/processor_us_per_operation"), number("/operations/per_second"))
            }
        };
        Ok(Cell {
            scenario: self.scenario.name,
            server: self.server.kind,
            round: self.round,
            system_calls: None,
            processor,
            share: number("/server/processor_share"),
            rate: rate.unwrap_or(0.0),
            p50_us: number("/latency_us/operation/p50").unwrap_or(f64::NAN),
            p99_us: number("/latency_us/operation/p99").unwrap_or(f64::NAN),
            loss: number("/loss").unwrap_or(f64::NAN),
            error: error(&report).filter(|error| !is_known(self.server.kind, error)),
            load_limited: report.pointer("/generator/limited") == Some(&Value::Bool(true)),
        })
    }

    /// Counts system calls, from before the first connection to after the last, so that what was done meanwhile is
    /// what they are for. `None` where nothing counts them.
    fn system_calls(&self, window: Duration) -> Result<Option<f64>, Failure> {
        let Some(perf) = installed("perf") else { return Ok(None) };
        let pids: Vec<String> = self.door().pids.iter().map(u32::to_string).collect();
        let mut command = Command::new(perf);
        command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(",")]);
        let counting = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let report = self.load(Duration::ZERO, window * 2);
        let counted = end_of_counting(counting)?;
        let report = report?;
        let done = match self.scenario.unit {
            Unit::Bytes => {
                report.pointer("/bytes").and_then(Value::as_f64).map(|bytes| bytes / MIB)
            }
            Unit::Operation => report.pointer("/operations/completed").and_then(Value::as_f64),
        };
        Ok(counted.zip(done).map(|(calls, done)| calls / done).filter(|each| each.is_finite()))
    }
}

const MIB: f64 = (1 << 20) as f64;

/// Ends perf and reads what it has counted. `None`: it may not count here.
fn end_of_counting(mut perf: Child) -> Result<Option<f64>, Failure> {
    // It prints when it is interrupted.
    interrupt(&perf)?;
    let mut said = String::new();
    if let Some(mut err) = perf.stderr.take() {
        err.read_to_string(&mut said)?;
    }
    perf.wait()?;
    let line = said.lines().find(|line| line.contains("raw_syscalls:sys_enter"));
    Ok(line.and_then(|line| line.split(',').next()?.parse().ok()))
}

/// Runs the load tool and yields its report.
pub(crate) fn load(
    bench: &Bench,
    cpus: &str,
    words: &[String],
    door: &Door,
) -> Result<Value, Failure> {
    let mut command = pinned(cpus, &bench.programs.load);
    command.args(words).args(&door.target).args(["--threads", "1", "--json", "--quiet"]);
    for pid in &door.pids {
        command.args(["--pid", &pid.to_string()]);
    }
    let done = command.output()?;
    let report = String::from_utf8(done.stdout)?;
    serde_json::from_str(&report).map_err(|_no_report| {
        let mut line = String::new();
        // A string takes everything.
        _ = write!(line, "{}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
        line.into()
    })
}

/// How some servers end what was right until then, so that the figures are. nginx ends TLS without `close_notify`
/// where the client has finished first, which the load takes for a cut transfer; `h3-webtransport` does not answer
/// a session's end.
pub(crate) fn is_known(kind: Kind, error: &str) -> bool {
    match kind {
        Kind::Nginx => error.contains("without sending TLS close_notify"),
        Kind::H3Webtransport => error.contains("close-unanswered"),
        _ => false,
    }
}

/// What a report says was wrong. Lost datagrams are no error.
pub(crate) fn error(report: &Value) -> Option<String> {
    if report["ok"] == Value::Bool(true) {
        return None;
    }
    let first = report.pointer("/errors/0").unwrap_or(&Value::Null);
    let done = &report["operations"];
    Some(if first.is_null() {
        format!("{} of {} operations completed", done["completed"], done["due"])
    } else {
        first.to_string()
    })
}
