//! Resident memory of sessions and streams that do nothing, and the processor time of idle sessions.
//!
//! Each figure is of a fresh server, so that nothing is counted that other sessions have left behind.

use std::{fs, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    Failure,
    measure::{self, Plan},
    scenarios::Backend,
    servers::{Bench, CREDIT, Door, Kind, LOAD_CPUS},
};

/// Bidirectional streams that clients may open, of which memory is given.
pub(crate) const CREDITS: [u32; 2] = [16, CREDIT];

/// Two of the gateway's signs of life to a client that is idle.
const IDLE: Duration = Duration::from_secs(30);

/// What one server's idle sessions and streams hold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Held {
    #[serde(skip)]
    pub(crate) server: Kind,
    #[serde(rename = "server")]
    name: &'static str,
    /// Bidirectional streams that each client may open.
    pub(crate) credit: u32,
    pub(crate) sessions: u32,
    /// Resident KiB of each session.
    pub(crate) session_kib: Option<f64>,
    /// Resident KiB more for a stream that is open and idle.
    pub(crate) stream_kib: Option<f64>,
    /// What all sessions together take of a processor, signs of life included.
    pub(crate) idle_share: Option<f64>,
    pub(crate) error: Option<String>,
}

pub(crate) fn measure(bench: &Bench, plan: &Plan) -> Result<Vec<Held>, Failure> {
    let mut all = Vec::new();
    for credit in CREDITS {
        for kind in &plan.kinds {
            // TCP has no credit for streams.
            if credit == CREDIT || kind.has_datagrams() {
                eprintln!("memory of {kind}, {credit} streams allowed");
                all.push(held(bench, plan, *kind, credit)?);
            }
        }
    }
    Ok(all)
}

fn held(bench: &Bench, plan: &Plan, kind: Kind, credit: u32) -> Result<Held, Failure> {
    let mut held = Held {
        server: kind,
        name: kind.name(),
        credit,
        sessions: plan.sessions,
        session_kib: None,
        stream_kib: None,
        idle_share: None,
        error: None,
    };
    let sessions = plan.sessions.to_string();
    // Long enough once, for the processor time.
    let idle_for = if credit == CREDIT { IDLE } else { Duration::from_secs(1) };
    let idle = ["idle", "--sessions", &sessions, "--duration", &format!("{}s", idle_for.as_secs())];
    let idle = fresh(bench, kind, credit, &idle)?;
    // Round trips that are so few that all streams are idle, but for the first one that opens each.
    let rate = format!("{sessions}/s");
    let open =
        ["rr", "--sessions", &sessions, "--rate", &rate, "--warmup", "1s", "--duration", "1s"];
    let open = fresh(bench, kind, credit, &open)?;

    held.error = idle.error.or(open.error);
    let each = |bytes: f64| bytes / f64::from(plan.sessions) / 1024.0;
    held.session_kib = idle.grown.map(each);
    held.stream_kib = idle.grown.zip(open.grown).map(|(idle, open)| each(open - idle));
    held.idle_share = idle.share.filter(|_| credit == CREDIT);
    Ok(held)
}

/// What a load came to.
struct Outcome {
    /// Bytes that the server has grown by.
    grown: Option<f64>,
    share: Option<f64>,
    error: Option<String>,
}

/// Puts a fresh server under a load.
fn fresh(bench: &Bench, kind: Kind, credit: u32, words: &[&str]) -> Result<Outcome, Failure> {
    let server = bench.start(kind, credit)?;
    let door = server.door(Backend::Echo);
    let before = resident(door)?;
    let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
    let report = measure::load(bench, LOAD_CPUS, &words, door)?;
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let error = measure::error(&report).filter(|error| !measure::is_known(kind, error));
    // Of sessions that are not there nothing is held.
    let grown = number("/server/resident_bytes").filter(|_| error.is_none());
    Ok(Outcome {
        grown: grown.map(|after| after - before),
        share: number("/server/processor_share").filter(|_| error.is_none()),
        error,
    })
}

/// Bytes of the server that are in memory now.
fn resident(door: &Door) -> Result<f64, Failure> {
    let mut kib = 0.0;
    for pid in &door.pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        kib += number.ok_or("a process has no memory")?.parse::<f64>()?;
    }
    Ok(kib * 1024.0)
}
