//! The command line. What is read here is right: nothing is checked again.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, value_parser};

use crate::{
    echo::MIN_DATAGRAM_BYTES,
    target::{CertificateHash, Url},
};

/// Drives a WebTransport server, checks every byte that comes back, and prints counts and latencies.
///
/// Exit code 0: all was right. 1: something was lost or wrong on streams, a datagram came back wrong, or
/// a session could not be had (lost datagrams alone do not count). 2: wrong command line.
#[derive(Debug, Parser)]
#[command(name = "tidegate-load", version)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sessions with streams and datagrams that the server sends back unchanged
    ///
    /// Each stream sends its bytes, ends its half, and reads back to the server's end; each datagram
    /// carries a sequence number, the time and a pattern, and is matched when it comes back.
    Echo(EchoArgs),
}

/// Arguments of `echo`.
#[derive(clap::Args, Debug)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Bidirectional streams of each session
    #[arg(long, value_name = "M", default_value_t = 1)]
    pub(crate) streams: u32,
    /// Streams of a session that are open at once
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) streams_at_once: NonZeroU32,
    /// Bytes of each stream: 1000, 64KiB, 4MiB
    #[arg(long, value_name = "B", default_value = "1KiB", value_parser = bytes)]
    pub(crate) bytes: u64,
    /// Datagrams of each session
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) datagrams: u32,
    /// Bytes of each datagram's payload
    #[arg(long, value_name = "D", default_value_t = 64,
        value_parser = value_parser!(u16).range(i64::from(MIN_DATAGRAM_BYTES)..))]
    pub(crate) datagram_bytes: u16,
    /// Datagrams on their way at once, over all sessions; each session has at least one
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) datagrams_in_flight: NonZeroU32,
    /// A datagram that is not back by then is lost
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) datagram_timeout: Duration,
}

/// Whom to drive.
#[derive(clap::Args, Debug)]
pub(crate) struct TargetArgs {
    /// Where the sessions go: https://host:port/path
    #[arg(long)]
    pub(crate) url: Url,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// The `Origin` header of each session; none unless given
    #[arg(long, value_parser = origin)]
    pub(crate) origin: Option<String>,
}

/// Why to believe the server: one of three.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct TrustArgs {
    /// SHA-256 of the server's certificate, hex or base64; may be repeated
    #[arg(long, value_name = "HASH")]
    pub(crate) cert_hash: Vec<CertificateHash>,
    /// PEM file of the certificate authorities to believe
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Believe any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// How much, and from where.
#[derive(clap::Args, Debug)]
pub(crate) struct LoadArgs {
    /// Sessions in all
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) sessions: u32,
    /// Sessions at once; a new one begins when one has ended
    #[arg(long, value_name = "C", default_value = "256")]
    pub(crate) concurrency: NonZeroU32,
    /// Sessions on each QUIC connection
    #[arg(long, value_name = "S", default_value = "1")]
    pub(crate) per_connection: NonZeroU32,
    /// Client sockets that the connections share; a server with several workers spreads by them
    /// [default: one for each connection, 16 at most]
    #[arg(long, value_name = "N")]
    pub(crate) sockets: Option<NonZeroU32>,
    /// Threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroU32>,
    /// How long a connection or a session may take to begin, and a stream to move on: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// What to print.
#[derive(clap::Args, Debug)]
pub(crate) struct OutputArgs {
    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress, not on a terminal either
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// Whatever an HTTP header can hold, so that wrong origins can be tried.
fn origin(text: &str) -> Result<String, String> {
    http::HeaderValue::from_str(text)
        .map(|_valid| text.to_owned())
        .map_err(|_invalid| "not the value of a header field".to_owned())
}

/// `15s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err("a duration is a number with ms, s or m: 500ms, 10s, 2m".to_owned()),
    };
    let factor = u32::try_from(number).map_err(|_large| "too long".to_owned())?;
    let duration = unit.checked_mul(factor).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "a duration of nothing leaves no time for anything".to_owned())
}

/// `1000`, `64KiB`, `4MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("a size is a number, alone or with KiB, MiB or GiB".to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

fn split_unit(text: &str) -> Result<(u64, &str), String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Ok((number.parse().map_err(|_not_a_number| "it begins with a number".to_owned())?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<EchoArgs, clap::Error> {
        let words = ["tidegate-load", "echo"].into_iter().chain(line.split_whitespace());
        Args::try_parse_from(words).map(|Args { command: Command::Echo(args) }| args)
    }

    #[test]
    fn one_reason_to_believe_the_server_is_needed_and_no_more() {
        let hash = "00".repeat(32);
        for (trust, good) in [
            (String::new(), false),
            ("--insecure".to_owned(), true),
            ("--ca file.pem".to_owned(), true),
            (format!("--cert-hash {hash}"), true),
            (format!("--cert-hash {hash} --cert-hash {hash}"), true),
            (format!("--cert-hash {hash} --insecure"), false),
            ("--cert-hash 00".to_owned(), false),
        ] {
            let parsed = parse(&format!("--url https://localhost/ {trust}"));
            assert_eq!(parsed.is_ok(), good, "{trust}");
        }
    }

    #[test]
    fn numbers_have_their_units_and_bounds() {
        let base = "--url https://localhost/ --insecure";
        let args = parse(&format!("{base} --bytes 64KiB --timeout 500ms --sessions 0")).unwrap();
        assert_eq!((args.bytes, args.load.sessions), (65_536, 0));
        assert_eq!(args.load.timeout, Duration::from_millis(500));

        for wrong in [
            "--bytes 64KB",
            "--bytes -1",
            "--timeout 5",
            "--timeout 0s",
            "--timeout s",
            "--concurrency 0",
            "--per-connection 0",
            "--datagram-bytes 1",
            "--datagram-bytes 70000",
            "--origin \u{7}",
            "--url http://localhost/",
        ] {
            assert!(parse(&format!("{base} {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
