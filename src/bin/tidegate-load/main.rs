//! `tidegate-load`: drives a WebTransport server, checks what comes back and says how long it took.
//!
//! It works against any WebTransport server. The walk of a run:
//!
//! ```text
//! args -> target        what was asked, and of whom
//! threads               one worker on each, and the live line meanwhile
//! run                   worker threads -> client sockets -> connections -> sessions, so many in all
//!     echo              what one session does, and what must come back
//! transport             what stands behind a connection, a session, a stream: WebTransport, or with
//!                       `--direct` bare QUIC, TLS, TCP or UDP
//! steady                lanes that do operations, for a time or a number of them
//!     pace              when each is due
//!     round_trips ...   what one operation is
//!     slo               what the run is held to
//! mixed                 several of these at the same time, from a plan
//! tally                 what was counted and measured, one tally per worker
//! progress              one line on a terminal while it runs
//! report                what the tallies say in the end, as text or JSON; `echo` and `steady` have one each
//! serve                 the backends that loads need: echo, source, sink
//! ```
//!
//! `echo` asks whether all is right, and the others, which implement [`steady::Work`], how long it takes.
//! Each has its arguments in `args`; driving, counting and reporting are the same for all.
//!
//! Exit codes: 0, everything was done and was right; 1, something was lost or wrong on a stream, a
//! datagram came back wrong, or a session could not be had; 2, the command line is wrong; 3, a condition of
//! `--slo` was missed. Lost datagrams alone are reported and do not fail a run: datagrams may be lost.

mod args;
mod block;
mod echo;
mod mixed;
mod pattern;
mod progress;
mod report;
mod run;
mod serve;
mod sizes;
mod steady;
mod tally;
mod target;
mod threads;
#[allow(clippy::disallowed_types, reason = "drives bare QUIC beside the client's WebTransport")]
mod transport;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    num::NonZeroU32,
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use http::{HeaderMap, HeaderValue, header};
use tidegate::client::{RequestOptions, Trust};
use tokio::time::Instant;

use self::{
    args::{
        Args, Command, EchoArgs, LoadArgs, TargetArgs, TrustArgs,
        steady::{
            BulkArgs, MigrateArgs, MixedArgs, ResultArgs, RoundTripArgs, ScenarioArgs, SteadyArgs,
        },
    },
    echo::{Echo, name_of_run},
    mixed::Plan,
    progress::{Goal, Live},
    run::Load,
    steady::{
        Work,
        bulk::{Bulk, Direction},
        connects::Connects,
        datagrams::Datagrams,
        engine::Course,
        idle::Idle,
        round_trips::RoundTrips,
        streams::Streams,
        watch::Watch,
    },
    target::{Need, Scheme, Target},
};

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Echo(args) => echo(&args),
        Command::Mixed(args) => mixed(&args),
        Command::Serve(args) => serve::serve(&args).map(|()| Outcome::Right),
        command => measured(&command),
    };
    match done {
        Ok(Outcome::Right) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::FAILURE,
        Ok(Outcome::Missed) => ExitCode::from(MISSED),
        Err(problem) => {
            // Nothing can be done if there is nobody to tell.
            _ = writeln!(io::stderr(), "tidegate-load: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Exit code of a run that was right but missed a condition of `--slo`.
const MISSED: u8 = 3;

/// What a run came to.
enum Outcome {
    Right,
    Wrong,
    Missed,
}

impl Outcome {
    const fn of(ok: bool, missed: bool) -> Self {
        match (ok, missed) {
            (false, _) => Self::Wrong,
            (true, true) => Self::Missed,
            (true, false) => Self::Right,
        }
    }
}

/// Runs `echo` and prints its report.
fn echo(args: &EchoArgs) -> Result<Outcome, String> {
    let needs = [
        (args.streams > 0).then_some(Need::Streams),
        (args.datagrams > 0).then_some(Need::Datagrams),
    ];
    let needs: Vec<Need> = needs.into_iter().flatten().collect();
    let load = load(&args.target, &args.load, ("echo", &needs))?;
    let scenario = Echo::new(args, load.sessions_at_once());

    let EchoArgs { streams, datagrams, .. } = *args;
    let goal = Goal::Echo { sessions: load.sessions, streams, datagrams };
    let live = watched(args.output.quiet).then(|| Live::new(goal));
    let done = run::run(&load, &scenario, live).map_err(|e| format!("cannot begin: {e}"))?;

    let report = echo::report::Report::new(&load, args, &done);
    print(&if args.output.json { report::to_json(&report) } else { report.to_string() })?;
    Ok(Outcome::of(report.ok, false))
}

/// Runs a plan and prints its report.
fn mixed(args: &MixedArgs) -> Result<Outcome, String> {
    if args.target.direct.is_some() {
        let problem = "`mixed` drives a WebTransport server: its loads have paths of one --url";
        Args::command().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    let report = Plan::read(&args.plan, &args.target)?.run()?;
    print(&if args.json { report::to_json(&report) } else { report.to_text() })?;
    Ok(Outcome::of(report.ok, report.missed()))
}

/// Runs a scenario of operations at a pace and prints its report.
fn measured(command: &Command) -> Result<Outcome, String> {
    let report = measure(command, Live::new(Goal::Operations))?;
    print(&match command.scenario().map(|scenario| &scenario.results) {
        Some(ResultArgs { json: true, .. }) => report::to_json(&report),
        Some(ResultArgs { csv: true, .. }) => report.to_csv(),
        _ => report.to_string(),
    })?;
    Ok(Outcome::of(report.ok, report.missed()))
}

/// Runs a scenario of operations at a pace. The line is drawn if somebody looks on.
fn measure(command: &Command, live: Live) -> Result<steady::report::Report, String> {
    let run = name_of_run();
    let round_trips = |args: &RoundTripArgs, moves_every| RoundTrips {
        message_bytes: args.size,
        seed: args.steady.pace.seed,
        moves_every,
        run,
    };
    match command {
        Command::Echo(_) | Command::Mixed(_) | Command::Serve(_) => {
            Err("no scenario at a pace".to_owned())
        }
        Command::Rr(args) => paced("rr", &args.steady, &round_trips(args, None), live),
        Command::Migrate(MigrateArgs { round_trips: args, every }) => {
            paced("migrate", &args.steady, &round_trips(args, Some(*every)), live)
        }
        Command::Streams(args) => {
            let work = Streams { stream_bytes: args.bytes, seed: args.steady.pace.seed, run };
            paced("streams", &args.steady, &work, live)
        }
        Command::Datagram(args) => {
            let work = Datagrams {
                payload_bytes: args.size,
                seed: args.steady.pace.seed,
                timeout: args.datagram_timeout,
                run,
                epoch: Instant::now(),
            };
            paced("datagram", &args.steady, &work, live)
        }
        Command::BulkDown(args) => bulk("bulk-down", Direction::Down, args, live),
        Command::BulkUp(args) => bulk("bulk-up", Direction::Up, args, live),
        Command::Handshake(args) => {
            let work = Connects { stream_bytes: None, seed: 0, hold: Duration::ZERO, run };
            paced("handshake", &args.steady, &work, live)
        }
        Command::Churn(args) => {
            let (seed, stream_bytes) = (args.steady.pace.seed, Some(args.bytes));
            let work = Connects { stream_bytes, seed, hold: args.hold, run };
            paced("churn", &args.steady, &work, live)
        }
        Command::Idle(args) => drive(("idle", &args.scenario), args.course(), &Idle { run }, live),
    }
}

fn paced(
    name: &'static str,
    args: &SteadyArgs,
    work: &impl Work,
    live: Live,
) -> Result<steady::report::Report, String> {
    drive((name, &args.scenario), args.pace.course(), work, live)
}

fn bulk(
    name: &'static str,
    direction: Direction,
    args: &BulkArgs,
    live: Live,
) -> Result<steady::report::Report, String> {
    let work = Bulk { direction, streams: args.streams.get(), stream_bytes: args.bytes };
    drive((name, &args.scenario), args.course(), &work, live)
}

fn drive(
    (name, args): (&'static str, &ScenarioArgs),
    course: Course,
    work: &impl Work,
    live: Live,
) -> Result<steady::report::Report, String> {
    let load = load(&args.target, &args.fleet.load(), (name, work.needs()))?;
    let results = &args.results;
    // Now, so that a file that cannot be written costs no run.
    let hdr = results.hdr.as_ref().map(|path| {
        File::create(path).map_err(|e| format!("cannot write --hdr {}: {e}", path.display()))
    });
    let hdr = hdr.transpose()?;

    let watch = Watch::new(&results.pids, results.metrics.as_ref())?;
    let live = watched(results.quiet).then_some(live);
    let done = steady::engine::run(&load, course, work, watch.as_ref(), live);
    let done = done.map_err(|e| format!("cannot begin: {e}"))?;

    let slos = results.slo.as_ref().map_or(&[][..], |slos| &slos.0);
    let report = steady::report::Report::new((name, &load), &course, &done, slos);
    if let Some(mut file) = hdr {
        let written = file.write_all(report.to_hgrm().as_bytes());
        written.map_err(|e| format!("cannot write --hdr: {e}"))?;
    }
    Ok(report)
}

/// Whether somebody looks on, and wants to.
fn watched(quiet: bool) -> bool {
    io::stderr().is_terminal() && !quiet
}

fn print(text: &str) -> Result<(), String> {
    writeln!(io::stdout().lock(), "{text}").map_err(|e| format!("cannot write the report: {e}"))
}

/// What is driven, with descriptors enough for it.
fn load(target: &TargetArgs, args: &LoadArgs, scenario: (&str, &[Need])) -> Result<Load, String> {
    let url = target.whom().ok_or("there is neither --url nor --direct")?;
    let read = suits(url.scheme(), scenario, target, args)
        .map_err(|problem| (ErrorKind::ArgumentConflict, problem));
    let read = read.and_then(|()| {
        let read = trust(&target.trust).and_then(|trust| Ok((trust, request(target)?)));
        read.map_err(|problem| (ErrorKind::Io, problem))
    });
    let (trust, request) = match read {
        Ok(read) => read,
        Err((kind, problem)) => Args::command().error(kind, problem).exit(),
    };
    let resolved = Target::resolve(url, trust).map_err(|e| format!("cannot resolve {url}: {e}"))?;
    let resolved = Target {
        offer: target.offer.offer(),
        mtu_discovery: !target.offer.no_mtu_discovery,
        ..resolved
    };
    let load = Load::new(resolved, request, args);
    raise_descriptor_limit(&load)?;
    Ok(load)
}

/// Whether what is driven has what the scenario needs.
fn suits(
    scheme: Scheme,
    (scenario, needs): (&str, &[Need]),
    target: &TargetArgs,
    args: &LoadArgs,
) -> Result<(), String> {
    let word = scheme.word();
    if let Some(missing) = needs.iter().find(|need| !scheme.has(**need)) {
        let missing = missing.words();
        return Err(format!("`{scenario}` needs {missing}, and {word}:// has none"));
    }
    if scheme != Scheme::Https && args.spread.per_connection > NonZeroU32::MIN {
        return Err(format!("--per-connection is of WebTransport; {word}:// has one session each"));
    }
    if scheme.is_encrypted() && !target.trust.is_given() {
        let asked = "--cert-hash, --ca or --insecure";
        return Err(format!("{word}:// shows a certificate: say by {asked} why to believe it"));
    }
    Ok(())
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

/// What each session asks with. The token is not shown, whatever is wrong with it.
fn request(args: &TargetArgs) -> Result<RequestOptions, String> {
    let mut headers: HeaderMap = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    if let Some(file) = &args.token_file {
        let shown = file.display();
        let token = std::fs::read_to_string(file)
            .map_err(|e| format!("cannot read --token-file {shown}: {e}"))?;
        if token.trim().is_empty() {
            return Err(format!("--token-file {shown} has no token"));
        }
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut value = value
            .map_err(|_shows_it| format!("--token-file {shown}: what is there is no token"))?;
        value.set_sensitive(true);
        headers.append(header::AUTHORIZATION, value);
    }
    Ok(RequestOptions { origin: args.origin.clone(), headers })
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
