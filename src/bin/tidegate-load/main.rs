//! `tidegate-load`: drives a WebTransport server, checks what comes back and says how long it took.
//!
//! It works against any WebTransport server. The walk of a run:
//!
//! ```text
//! args -> target        what was asked, and of whom
//! run                   worker threads -> client sockets -> connections -> sessions
//!     echo              a scenario: what one session does, and what must come back
//!     tally             what was counted and measured, one tally per worker
//! progress              one line on a terminal while it runs
//! report                what the tallies say in the end, as text or JSON
//! ```
//!
//! A scenario is one file (and a directory) that implements [`run::Scenario`], with its arguments in
//! `args`; driving, counting and reporting are the same for all.
//!
//! Exit codes: 0, everything was done and was right; 1, something was lost or wrong on a stream, a
//! datagram came back wrong, or a session could not be had; 2, the command line is wrong. Lost datagrams
//! alone are reported and do not fail a run: datagrams may be lost.

mod args;
mod echo;
mod pattern;
mod progress;
mod report;
mod run;
mod tally;
mod target;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
use tidegate::client::Trust;

use self::{
    args::{Args, Command, EchoArgs, TrustArgs},
    echo::Echo,
    progress::Live,
    report::Report,
    run::Load,
    target::Target,
};

fn main() -> ExitCode {
    let Args { command: Command::Echo(args) } = Args::parse();
    let trust = match trust(&args.target.trust) {
        Ok(trust) => trust,
        Err(problem) => Args::command().error(clap::error::ErrorKind::Io, problem).exit(),
    };
    match echo(&args, trust) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            // Nothing can be done if there is nobody to tell.
            _ = writeln!(io::stderr(), "tidegate-load: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario and prints its report. Whether all was right.
fn echo(args: &EchoArgs, trust: Trust) -> Result<bool, String> {
    let url = &args.target.url;
    let target = Target::resolve(url, trust).map_err(|e| format!("cannot resolve {url}: {e}"))?;
    let load = Load::new(target, &args.target, &args.load);
    let scenario = Echo::new(args, load.sessions_at_once());
    raise_descriptor_limit(&load)?;

    let live = (io::stderr().is_terminal() && !args.output.quiet)
        .then(|| Live::new(load.sessions, args.streams, args.datagrams));
    let done = run::run(&load, &scenario, live).map_err(|e| format!("cannot begin: {e}"))?;

    let report = Report::new(&load, args, &done);
    let text = if args.output.json { report.to_json() } else { report.to_string() };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").map_err(|e| format!("cannot write the report: {e}"))?;
    Ok(report.ok)
}

fn trust(args: &TrustArgs) -> Result<Trust, String> {
    if args.insecure {
        return Ok(Trust::DangerAcceptAny);
    }
    let Some(file) = &args.ca else {
        return Ok(Trust::Hashes(args.cert_hash.iter().map(|hash| hash.0).collect()));
    };
    let pem = std::fs::read_to_string(file)
        .map_err(|e| format!("cannot read --ca {}: {e}", file.display()))?;
    Ok(Trust::Roots(pem))
}

/// Each client socket takes a descriptor, each runtime a few.
fn raise_descriptor_limit(load: &Load) -> Result<(), String> {
    let wanted = 64 + 8 * load.threads as u64 + load.sockets as u64;
    let granted = rlimit::increase_nofile_limit(u64::MAX)
        .map_err(|e| format!("cannot raise the limit on open files: {e}"))?;
    if granted < wanted {
        return Err(format!(
            "the system allows {granted} open files and {wanted} are needed: use fewer --sockets, or \
             raise the limit (ulimit -Hn)"
        ));
    }
    Ok(())
}
