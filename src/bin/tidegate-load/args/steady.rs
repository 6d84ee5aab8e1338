//! The command line of the scenarios of operations at a pace.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use tidegate::config::Rate;

use super::{
    LoadArgs, SpreadArgs, TargetArgs, datagram_sizes, duration, length_or_none, message_sizes,
    stream_sizes,
};
use crate::{
    sizes::{Sizes, bytes},
    steady::{
        engine::Course,
        metrics::MetricsUrl,
        pace::{Length, Pace},
        slo::Slos,
    },
};

/// How long a run warms up unless the command line says otherwise.
const WARMUP: &str = "1s";

/// What all of these scenarios take.
#[derive(clap::Args, Debug)]
pub(crate) struct ScenarioArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(flatten)]
    pub(crate) results: ResultArgs,
}

/// The same, with a pace.
#[derive(clap::Args, Debug)]
pub(crate) struct SteadyArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

/// How many, and from where.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct FleetArgs {
    /// Sessions, all at once; in `handshake` and `churn` connections at once
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) sessions: NonZeroU32,
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
}

impl FleetArgs {
    /// As the arguments of a load whose sessions are all there at once.
    pub(crate) fn load(&self) -> LoadArgs {
        LoadArgs {
            sessions: self.sessions.get(),
            concurrency: self.sessions,
            spread: self.spread.clone(),
        }
    }
}

/// When operations begin, and how long that goes on.
#[derive(clap::Args, Debug)]
pub(crate) struct PaceArgs {
    /// Open loop: operations begin at this rate over all sessions, 2000/s, and are timed from when they
    /// were due. Without it each begins when another is over
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<Rate>,
    /// Closed loop: operations of each session that are under way at once
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "rate")]
    pub(crate) depth: NonZeroU32,
    /// How long is measured
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How many operations are measured, in place of how long
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) count: Option<u64>,
    /// How long it runs before that, unmeasured
    #[arg(long, value_name = "DURATION", default_value = WARMUP, value_parser = length_or_none)]
    pub(crate) warmup: Duration,
    /// How long the rate grows before the warm-up, evenly from nothing; in a closed loop the number of
    /// sessions at work
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = length_or_none)]
    pub(crate) ramp: Duration,
    /// Draws sizes of a range; with the same seed they are the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl PaceArgs {
    pub(crate) fn course(&self) -> Course {
        Course {
            pace: Pace::new(self.rate, self.depth.get()),
            ramp: self.ramp,
            warmup: self.warmup,
            length: self.count.map_or(Length::For(self.duration), Length::Count),
        }
    }
}

/// What to print, and what to hold the run to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ResultArgs {
    /// Print the report as one JSON object
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Print the main figures as a line of names and a line of figures
    #[arg(long)]
    pub(crate) csv: bool,
    /// Write the distribution of the operations' times, for HdrHistogram's plotter
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,
    /// Exit with 3 unless these hold: p99<20ms,loss<0.1%. There are percentiles, mean, max, loss, rate,
    /// errors
    #[arg(long, value_name = "CONDITIONS", default_value = None)]
    pub(crate) slo: Option<Slos>,
    /// Say what the server's process costs meanwhile: processor, memory, descriptors. May be repeated, for
    /// servers of several processes, which are added up
    #[arg(long = "pid", value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// Say what the server's own counters have counted meanwhile: http://127.0.0.1:9090/metrics
    #[arg(long, value_name = "URL")]
    pub(crate) metrics: Option<MetricsUrl>,
    /// Show no progress, not on a terminal either
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// Arguments of `rr`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  tidegate-load rr --url https://127.0.0.1:4433/echo --insecure
  tidegate-load rr --url https://127.0.0.1:4433/echo --insecure --sessions 100 --rate 2000/s --slo 'p99<20ms'")]
pub(crate) struct RoundTripArgs {
    #[command(flatten)]
    pub(crate) steady: SteadyArgs,
    /// Bytes of each message: 64, 1KiB, or anything in a range, 64..1200
    #[arg(long, value_name = "B", default_value = "64", value_parser = message_sizes)]
    pub(crate) size: Sizes,
}

/// Arguments of `migrate`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load migrate --url https://127.0.0.1:4433/echo --insecure --sessions 10 --rate 500/s --every 500ms")]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) round_trips: RoundTripArgs,
    /// How often each client socket is replaced by another one
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) every: Duration,
}

/// Arguments of `streams`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load streams --url https://127.0.0.1:4433/echo --insecure --sessions 10 --rate 1000/s --bytes 100")]
pub(crate) struct StreamsArgs {
    #[command(flatten)]
    pub(crate) steady: SteadyArgs,
    /// Bytes of each stream: 100, 64KiB, or anything in a range, 100..64KiB
    #[arg(long, value_name = "B", default_value = "100", value_parser = stream_sizes)]
    pub(crate) bytes: Sizes,
}

/// Arguments of `datagram`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load datagram --url https://127.0.0.1:4433/echo --insecure --rate 5000/s --slo 'p99<5ms,loss<0.1%'")]
pub(crate) struct DatagramArgs {
    #[command(flatten)]
    pub(crate) steady: SteadyArgs,
    /// Bytes of each datagram's payload: 64, or anything in a range, 64..1200
    #[arg(long, value_name = "B", default_value = "64", value_parser = datagram_sizes)]
    pub(crate) size: Sizes,
    /// A datagram that is not back by then is lost
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) datagram_timeout: Duration,
}

/// Arguments of `handshake`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load handshake --url https://127.0.0.1:4433/echo --insecure --sessions 50 --rate 200/s")]
pub(crate) struct HandshakeArgs {
    #[command(flatten)]
    pub(crate) steady: SteadyArgs,
}

/// Arguments of `churn`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load churn --url https://127.0.0.1:4433/echo --insecure --sessions 50 --rate 20/s --hold 2s")]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) steady: SteadyArgs,
    /// Bytes that each connection has echoed on a stream: 1KiB, or anything in a range, 100..64KiB
    #[arg(long, value_name = "B", default_value = "1KiB", value_parser = stream_sizes)]
    pub(crate) bytes: Sizes,
    /// How long each connection stays after that
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = length_or_none)]
    pub(crate) hold: Duration,
}

/// Arguments of `idle`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  tidegate-load idle --url https://127.0.0.1:4433/echo --insecure --sessions 5000 --duration 60s")]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// How long they are idle
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
}

impl IdleArgs {
    /// A closed loop, in which each session does a single thing in the end.
    pub(crate) fn course(&self) -> Course {
        Course {
            pace: Pace::Closed { depth: 1 },
            ramp: Duration::ZERO,
            warmup: Duration::ZERO,
            length: Length::For(self.duration),
        }
    }
}

/// Arguments of `bulk-down` and `bulk-up`.
#[derive(clap::Args, Debug)]
#[command(after_help = "They need backends that send or take bytes, such as:
  tidegate-load serve --source 127.0.0.1:7002 --sink 127.0.0.1:7003
Examples, with routes to them:
  tidegate-load bulk-down --url https://127.0.0.1:4433/source --insecure --duration 5s
  tidegate-load bulk-up --url https://127.0.0.1:4433/sink --insecure --sessions 16 --bytes 64MiB --count 160")]
pub(crate) struct BulkArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// Streams of each session at once
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) streams: NonZeroU32,
    /// Bytes of each stream, which another one follows: 64KiB, 1GiB. Without it each goes on until the time is
    /// over
    #[arg(long, value_name = "B", value_parser = bytes)]
    pub(crate) bytes: Option<u64>,
    /// How long is measured
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How many streams are measured, in place of how long
    #[arg(long, value_name = "N", conflicts_with = "duration", requires = "bytes")]
    pub(crate) count: Option<u64>,
    /// How long it runs before that, unmeasured
    #[arg(long, value_name = "DURATION", default_value = WARMUP, value_parser = length_or_none)]
    pub(crate) warmup: Duration,
    /// How long the number of sessions at work grows before the warm-up
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = length_or_none)]
    pub(crate) ramp: Duration,
}

impl BulkArgs {
    /// A closed loop of streams.
    pub(crate) fn course(&self) -> Course {
        Course {
            pace: Pace::Closed { depth: self.streams.get() },
            ramp: self.ramp,
            warmup: self.warmup,
            length: self.count.map_or(Length::For(self.duration), Length::Count),
        }
    }
}

/// Arguments of `serve`.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
#[command(
    after_help = "Each says where it listens, in a line such as \"echo listening on 127.0.0.1:7000\".
Example:
  tidegate-load serve --echo 127.0.0.1:7000 --udp-echo 127.0.0.1:7001 --source 127.0.0.1:7002 --sink 127.0.0.1:7003"
)]
pub(crate) struct ServeArgs {
    /// TCP: sends back what comes, and ends when the client has
    #[arg(long, value_name = "ADDR")]
    pub(crate) echo: Option<SocketAddr>,
    /// UDP: sends each datagram back
    #[arg(long, value_name = "ADDR")]
    pub(crate) udp_echo: Option<SocketAddr>,
    /// TCP: reads how many bytes are wanted, as 8 bytes, big-endian, and sends them; the highest number: until the
    /// client goes
    #[arg(long, value_name = "ADDR")]
    pub(crate) source: Option<SocketAddr>,
    /// TCP: compares what comes with what it should be, and says in the end how much that was
    #[arg(long, value_name = "ADDR")]
    pub(crate) sink: Option<SocketAddr>,
}

/// Arguments of `mixed`.
#[derive(clap::Args, Debug)]
#[command(after_help = "A plan is a TOML file:
  [[load]]
  name = \"players\"
  path = \"/udp\"        # else that of --url
  run = \"datagram --sessions 50 --rate 1000/s --slo loss<1%\"

Example:
  tidegate-load mixed --url https://127.0.0.1:4433/echo --insecure --plan benches/loads/game.toml")]
pub(crate) struct MixedArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// What to run: scenarios with their arguments
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: PathBuf,
    /// Print the reports as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `2000/s`: a rate, and not none.
fn rate(text: &str) -> Result<Rate, String> {
    match Rate::parse(text)? {
        Rate::Unlimited => Err("without --rate there is no limit".to_owned()),
        rate => Ok(rate),
    }
}
