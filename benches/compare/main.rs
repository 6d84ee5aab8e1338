//! Compares the gateway with bridges on bare quinn and on WebTransport crates, and with TLS proxies over TCP.
//!
//! `benches/run` runs it; `benches/README.md` says what it does and how to read it. It starts the servers on one
//! processor and the load with its backends on another, lets every server do every scenario once in each round, and
//! prints tables in markdown.

#![allow(clippy::disallowed_methods, reason = "waits for processes by the real clock")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is its report"
)]

mod goals;
mod measure;
mod memory;
mod place;
mod process;
mod programs;
mod report;
mod scenarios;
mod servers;
mod statistics;
mod table;

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate::config::parse_duration;

use self::{
    measure::Plan,
    programs::Programs,
    report::Report,
    scenarios::{SCENARIOS, Scenario},
    servers::{Bench, Kind},
};

/// All that can go wrong ends the program with its text.
type Failure = Box<dyn Error>;

/// Compares the gateway with other servers under the same loads, and prints what each costs.
#[derive(Debug, Parser)]
#[command(name = "benches/run")]
struct Args {
    /// 8 rounds in place of 12, and fewer idle sessions
    #[arg(long)]
    short: bool,
    /// So many rounds
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// How long each scenario is measured on each server in each round
    #[arg(long, value_name = "DURATION", default_value = "600ms", value_parser = parse_duration)]
    window: std::time::Duration,
    /// Only these scenarios: rr-64,streams. Those of resident memory are `memory`, the others as in the tables
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these servers: limit,tidegate,h3-webtransport,wtransport,nginx,haproxy
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Sessions of which memory and idle processor time are measured [default: 2000]
    #[arg(long, value_name = "N")]
    sessions: Option<u32>,
    /// Seed of the order of servers and scenarios within a round
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Another build of the gateway
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
    /// Another build of the load tool, which then drives all servers
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,
    /// Writes every figure of every window
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables to a file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// `cargo bench` says this to every program that it runs.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("benches/run: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let chosen = scenarios(&args.only)?;
    let programs = Programs::build(args.gateway.as_deref(), args.load.as_deref())?;
    let bench = Bench::new(programs)?;
    let kinds = servers(&args.servers);
    let plan = Plan {
        rounds: args.rounds.unwrap_or(if args.short { 8 } else { 12 }),
        window: args.window,
        seed: args.seed,
        kinds,
        scenarios: chosen,
        sessions: args.sessions.unwrap_or(if args.short { 1000 } else { 2000 }),
        memory: args.only.is_empty() || args.only.iter().any(|name| name == scenarios::MEMORY),
    };
    let place = place::Place::look(&bench, &plan);
    let cells = measure::rounds(&bench, &plan)?;
    // What was measured is told, whatever becomes of the last part.
    let memory = if plan.memory { memory::measure(&bench, &plan) } else { Ok(Vec::new()) };
    let (memory, failed) = match memory {
        Ok(memory) => (memory, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let report = Report { place, plan, cells, memory };
    if let Some(file) = &args.json {
        fs::write(file, report.to_json()?)?;
    }
    let text = report.to_markdown();
    if let Some(file) = &args.out {
        fs::write(file, &text)?;
    }
    print!("{text}");
    failed.map_or(Ok(()), Err)
}

/// Those that are named, or all.
fn scenarios(names: &[String]) -> Result<Vec<&'static Scenario>, Failure> {
    for name in names {
        if name != scenarios::MEMORY && !SCENARIOS.iter().any(|known| known.name == name) {
            let known: Vec<_> = SCENARIOS.iter().map(|known| known.name).collect();
            return Err(
                format!("no scenario {name}: there are {}, memory", known.join(", ")).into()
            );
        }
    }
    let wanted =
        |known: &&Scenario| names.is_empty() || names.iter().any(|name| name == known.name);
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

/// Those that are named and LIMIT, or all that are there.
fn servers(named: &[Kind]) -> Vec<Kind> {
    let wanted = |kind: &Kind| *kind == Kind::Limit || named.is_empty() || named.contains(kind);
    let (there, missing): (Vec<_>, Vec<_>) =
        Kind::ALL.into_iter().filter(wanted).partition(|kind| kind.is_there());
    for kind in missing {
        eprintln!("{kind} is not installed and left out");
    }
    there
}
