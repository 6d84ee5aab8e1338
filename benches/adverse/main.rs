//! How the gateway does on bad networks, beside TLS over TCP on the same ones.
//!
//! ```text
//! cargo bench --bench adverse                       all of it, about 10 minutes, and the plots
//! cargo bench --bench adverse -- --short            a look, without plots
//! cargo bench --bench adverse -- relay --help       a bad network for UDP, to try things out with
//! ```
//!
//! ```text
//! relay        a bad network: delay, jitter, loss, bursts, reordering, duplicates, rate and queue, from a seed
//! lab          namespaces with servers and clients, and the network between them
//! scenarios    what is measured there
//! messages     a load of its own: lanes of small messages
//! results      the figures, as a table
//! plot         and as pictures
//! ```

#![allow(clippy::disallowed_methods, reason = "no gateway runs here that would wait for tasks")]
#![allow(clippy::disallowed_types, reason = "drives TLS past the client room")]

mod lab;
mod messages;
mod plot;
mod relay;
mod results;
mod scenarios;

use std::{
    fs, future::pending, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration,
};

use clap::{Parser, Subcommand};
use tidegate::config::parse_duration;
use tokio::runtime::Builder;

use self::{
    lab::{Lab, Programs, say},
    plot::Labels,
    relay::{link::Conditions, udp::Relay},
    results::Table,
    scenarios::{LISTENERS, Run, SCENARIOS},
};

/// Measures the gateway on bad networks.
#[derive(Debug, Parser)]
#[command(name = "adverse")]
struct Args {
    /// What `cargo bench` adds
    #[arg(long, hide = true, global = true)]
    bench: bool,
    /// Only two losses, for two seconds each, and nothing written
    #[arg(long)]
    short: bool,
    /// Only these scenarios; the others' figures stay as they are
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each speed is measured, with other chances; the median counts
    #[arg(long, value_name = "N", default_value = "1")]
    rounds: u64,
    /// A folder with the programs `tidegate` and `tidegate-load`, in place of those that were built with this
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where the table and the plots go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/plots"))]
    out: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw the plots again from the table
    Plots,
    /// A bad network between UDP clients and a server, the same in both directions
    Relay(RelayArgs),
    #[command(hide = true)]
    Messages(messages::Plan),
}

#[derive(clap::Args, Debug)]
struct RelayArgs {
    /// Where clients send to
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where that goes
    #[arg(long, value_name = "ADDR")]
    server: SocketAddr,
    /// How long each packet is under way
    #[arg(long, value_name = "DURATION", default_value = "25ms", value_parser = parse_duration)]
    delay: Duration,
    /// How much longer at most; the order is kept
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    jitter: Duration,
    /// The share that is lost, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    loss: f64,
    /// How many are lost in a row on average
    #[arg(long, value_name = "N", default_value = "1")]
    burst: f64,
    /// The share that is held back, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    reorder: f64,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "10ms", value_parser = parse_duration)]
    hold: Duration,
    /// The share that comes twice, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    duplicate: f64,
    /// The bottleneck's speed
    #[arg(long, value_name = "MBIT")]
    rate: Option<u64>,
    /// The bottleneck's queue, in packets
    #[arg(long, value_name = "N", default_value = "400")]
    queue: usize,
    /// How often a NAT forgets its clients, who then come from other ports [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    forget: Option<Duration>,
    /// Where all chances come from
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        None => measure(&args),
        Some(Command::Plots) => {
            Table::read(&args.out.join(TABLE)).and_then(|t| draw(&t, &args.out))
        }
        Some(Command::Relay(relay)) => run_relay(relay),
        Some(Command::Messages(plan)) => run_messages(*plan),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("adverse: {problem}"));
            ExitCode::FAILURE
        }
    }
}

const TABLE: &str = "adverse.csv";

fn measure(args: &Args) -> io::Result<()> {
    if let Some(code) = lab::enter()? {
        // It has said why.
        return if code == 0 { Ok(()) } else { Err(io::Error::other("not all was measured")) };
    }
    let (seconds, losses): (_, &[u32]) = if args.short { (2, &[0, 2]) } else { (4, &[0, 1, 2, 5]) };
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);

    let file = args.out.join(TABLE);
    let mut table =
        if file.exists() && !args.only.is_empty() { Table::read(&file)? } else { Table::default() };
    table.0.retain(|row| !wanted(&row.scenario));
    let lab = Lab::new(Programs::of(args.programs.as_deref()), &LISTENERS)?;
    let mut run = Run { lab: &lab, table: &mut table, seconds, rounds: args.rounds, losses };
    let scenarios = SCENARIOS.map(str::to_owned);
    let scenarios = if args.only.is_empty() { &scenarios[..] } else { &args.only };
    // One that fails takes none of the others with it.
    let failed = scenarios.iter().filter_map(|scenario| {
        let problem = run.measure(scenario).err()?;
        Some(format!("{scenario}: {problem}"))
    });
    let failed: Vec<String> = failed.collect();
    if !args.short {
        fs::create_dir_all(&args.out)?;
        table.write(&file)?;
        draw(&table, &args.out)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(io::Error::other(failed.join("\n"))) }
}

/// File, scenario, figure, and what stands on it.
const PLOTS: [(&str, &str, &str, Labels<'static>); 6] = [
    (
        "adverse-down",
        "down",
        "mbit_s",
        Labels { title: "One stream down, 100 Mbit/s, 50 ms", axis: "Mbit/s", logarithmic: false },
    ),
    (
        "adverse-up",
        "up",
        "mbit_s",
        Labels { title: "One stream up, 100 Mbit/s, 50 ms", axis: "Mbit/s", logarithmic: false },
    ),
    (
        "adverse-messages",
        "messages",
        "p99_ms",
        Labels {
            title: "16 lanes, a message every 20 ms on each, 50 ms there and back",
            axis: "p99, ms",
            logarithmic: false,
        },
    ),
    (
        "adverse-few-messages",
        "few-messages",
        "late_percent",
        Labels {
            title: "16 lanes take turns, a message every 20 ms, 50 ms there and back: what comes late",
            axis: "% of messages after more than 100 ms",
            logarithmic: false,
        },
    ),
    (
        "adverse-round-trips",
        "round-trips",
        "p99_ms",
        Labels {
            title: "Round trips of 16 sessions, 320/s, 50 ms path",
            axis: "p99, ms",
            logarithmic: false,
        },
    ),
    (
        "adverse-bottleneck",
        "bottleneck",
        "mbit_s",
        Labels {
            title: "One stream down, 50 Mbit/s with a queue of 100 packets, 50 ms",
            axis: "Mbit/s",
            logarithmic: false,
        },
    ),
];

fn draw(table: &Table, out: &std::path::Path) -> io::Result<()> {
    for (name, scenario, figure, labels) in &PLOTS {
        let figures = table.figures(scenario, figure);
        // What was not measured has no picture.
        if !figures.paths.is_empty() {
            fs::write(out.join(format!("{name}.svg")), plot::bars(labels, &figures))?;
        }
    }
    Ok(())
}

fn run_messages(plan: messages::Plan) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(messages::run(plan))?;
    io::Write::write_all(&mut io::stdout(), format!("{report}\n").as_bytes())
}

fn run_relay(args: &RelayArgs) -> io::Result<()> {
    let path = Conditions {
        delay: args.delay,
        jitter: args.jitter,
        loss: args.loss / 100.0,
        burst: args.burst,
        reorder: args.reorder / 100.0,
        hold: args.hold,
        duplicate: args.duplicate / 100.0,
        rate: args.rate.map(|rate| rate.saturating_mul(1_000_000)),
        queue: args.queue,
        seed: args.seed,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let relay = Relay::start(args.listen, args.server, path, path.reseeded(1)).await?;
        say(&format!("relaying from {} to {}", relay.address(), args.server));
        loop {
            let Some(period) = args.forget else { pending().await };
            tokio::time::sleep(period).await;
            relay.rebind();
        }
    })
}
