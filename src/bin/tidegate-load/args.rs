//! The command line. What is read here is right: nothing is checked again.

pub(crate) mod steady;

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use http::{HeaderName, HeaderValue};
use tidegate::{client::Offer, config::parse_duration};

pub(crate) use self::steady::ServeArgs;
use self::steady::{
    BulkArgs, ChurnArgs, DatagramArgs, HandshakeArgs, IdleArgs, MigrateArgs, MixedArgs,
    RoundTripArgs, ScenarioArgs, StreamsArgs,
};
use crate::{
    echo::MIN_DATAGRAM_BYTES,
    sizes::{Sizes, bytes},
    target::{CertificateHash, Url},
};

/// Drives a WebTransport server, checks every byte that comes back, and prints counts and latencies.
///
/// Exit code 0: all was right. 1: something was lost or wrong on streams, a datagram came back wrong, or
/// a session could not be had (lost datagrams alone do not count). 2: wrong command line. 3: a condition of
/// --slo was missed.
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
    /// Round trips: messages on one stream of each session
    Rr(RoundTripArgs),
    /// Short streams: open, some bytes, end, echo, end
    Streams(StreamsArgs),
    /// Datagrams: rate, loss, order, age
    Datagram(DatagramArgs),
    /// Bytes from the server, as fast as they come
    BulkDown(BulkArgs),
    /// Bytes to the server, as fast as they go
    BulkUp(BulkArgs),
    /// Connections: handshake, CONNECT, close
    Handshake(HandshakeArgs),
    /// Connections that come, do a little, stay for a while, and go
    Churn(ChurnArgs),
    /// Sessions that do nothing, and in the end show that they still can
    Idle(IdleArgs),
    /// Round trips while the client's address changes
    Migrate(MigrateArgs),
    /// Several of these at the same time, from a plan
    Mixed(MixedArgs),
    /// The backends that loads need: echo, source and sink, in one process
    Serve(ServeArgs),
}

impl Command {
    /// What all scenarios have that go on at a pace.
    pub(crate) fn scenario(&self) -> Option<&ScenarioArgs> {
        Some(match self {
            Self::Echo(_) | Self::Mixed(_) | Self::Serve(_) => return None,
            Self::BulkDown(args) | Self::BulkUp(args) => &args.scenario,
            Self::Rr(args) => &args.steady.scenario,
            Self::Streams(args) => &args.steady.scenario,
            Self::Datagram(args) => &args.steady.scenario,
            Self::Handshake(args) => &args.steady.scenario,
            Self::Churn(args) => &args.steady.scenario,
            Self::Idle(args) => &args.scenario,
            Self::Migrate(args) => &args.round_trips.steady.scenario,
        })
    }
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
    /// Bytes of each datagram's payload: 64, or anything in a range, 64..1200
    #[arg(long, value_name = "D", default_value = "64", value_parser = datagram_sizes)]
    pub(crate) datagram_bytes: Sizes,
    /// Datagrams on their way at once, over all sessions; each session has at least one
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) datagrams_in_flight: NonZeroU32,
    /// A datagram that is not back by then is lost
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) datagram_timeout: Duration,
}

/// Whom to drive.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TargetArgs {
    /// Where the sessions go: https://host:port/path
    #[arg(long, requires = "TrustArgs")]
    pub(crate) url: Option<Url>,
    /// Drive something else in place of a WebTransport server: tcp://host:port, a connection for each stream;
    /// tls://..., the same with TLS 1.3; udp://..., a socket for each session; quic://..., bare QUIC without
    /// HTTP/3 (protocol `tidegate-bench`), a connection for each session
    #[arg(long, value_name = "URL", value_parser = Url::direct,
        conflicts_with_all = ["url", "origin", "token_file", "headers"], required_unless_present = "url")]
    pub(crate) direct: Option<Url>,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) offer: OfferArgs,
    /// The `Origin` header of each session; none unless given
    #[arg(long, value_parser = origin)]
    pub(crate) origin: Option<String>,
    /// File with a token that each session shows: `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A further header of each session; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl TargetArgs {
    /// What is driven: one of the two is there.
    pub(crate) fn whom(&self) -> Option<&Url> {
        self.url.as_ref().or(self.direct.as_ref())
    }

    /// The command line that says the same, with another path if there is one.
    pub(crate) fn words(&self, path: Option<&str>) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(url) = &self.url {
            let url = path.map_or_else(|| url.to_string(), |path| url.with_path(path));
            words.extend(["--url".into(), url.into()]);
        }
        if let Some(direct) = &self.direct {
            words.extend(["--direct".into(), direct.to_string().into()]);
        }
        let TrustArgs { cert_hash, ca, insecure } = &self.trust;
        for hash in cert_hash {
            words.extend(["--cert-hash".into(), hash.to_string().into()]);
        }
        if let Some(file) = ca {
            words.extend(["--ca".into(), file.into()]);
        }
        if *insecure {
            words.push("--insecure".into());
        }
        let OfferArgs { tls_group, tls_suite, no_resumption, no_mtu_discovery } = &self.offer;
        for (flag, names) in [("--tls-group", tls_group), ("--tls-suite", tls_suite)] {
            words.extend(names.iter().flat_map(|name| [flag.into(), name.into()]));
        }
        if *no_resumption {
            words.push("--no-resumption".into());
        }
        if *no_mtu_discovery {
            words.push("--no-mtu-discovery".into());
        }
        if let Some(origin) = &self.origin {
            words.extend(["--origin".into(), origin.into()]);
        }
        if let Some(file) = &self.token_file {
            words.extend(["--token-file".into(), file.into()]);
        }
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            words.extend(["--header".into(), format!("{name}: {value}").into()]);
        }
        words
    }
}

/// Why to believe the server: one of three, unless it shows no certificate.
#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
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

/// What connections begin with, so that servers can be compared that prefer different things.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct OfferArgs {
    /// Offer this key exchange, x25519 or X25519MLKEM768 or another one; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_group: Vec<String>,
    /// Offer this cipher suite, TLS_AES_128_GCM_SHA256 or another one; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_suite: Vec<String>,
    /// Make each handshake a whole one: resume no session
    #[arg(long)]
    pub(crate) no_resumption: bool,
    /// Do not try out whether the path takes larger packets, which QUIC libraries do at once and browsers only
    /// after a hundred packets
    #[arg(long)]
    pub(crate) no_mtu_discovery: bool,
}

impl OfferArgs {
    pub(crate) fn offer(&self) -> Offer {
        let Self { tls_group: groups, tls_suite: suites, no_resumption, .. } = self.clone();
        Offer { groups, suites, no_resumption }
    }
}

impl TrustArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.insecure || self.ca.is_some() || !self.cert_hash.is_empty()
    }
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
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
}

/// What the sessions of all scenarios are spread over, and how long they may take.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SpreadArgs {
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
    /// How long a connection or a session may take to begin, a stream to move on, and an operation to get on:
    /// 500ms, 10s, 2m
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
    HeaderValue::from_str(text)
        .map(|_valid| text.to_owned())
        .map_err(|_invalid| "not the value of a header field".to_owned())
}

/// `NAME: VALUE`. What a value says is not for error messages: it may be a credential.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write it as \"NAME: VALUE\"")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes());
    let name = name.map_err(|_invalid| "not the name of a header field")?;
    let value = HeaderValue::from_str(value.trim());
    let mut value = value.map_err(|_invalid| "not the value of a header field")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// `500ms`, `10s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a duration of nothing leaves no time for anything".to_owned()),
        duration => Ok(duration),
    }
}

/// The same, or nothing at all.
fn length_or_none(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// Sizes of messages, within what is kept in memory at once.
fn message_sizes(text: &str) -> Result<Sizes, String> {
    Sizes::parse(text, 1..=MOST_MESSAGE_BYTES)
}

/// Sizes of streams.
fn stream_sizes(text: &str) -> Result<Sizes, String> {
    Sizes::parse(text, 0..=u64::MAX)
}

/// Sizes of datagrams that have room for what tells them apart.
fn datagram_sizes(text: &str) -> Result<Sizes, String> {
    Sizes::parse(text, MIN_DATAGRAM_BYTES.into()..=u16::MAX.into())
}

/// Messages are made as one piece each.
const MOST_MESSAGE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<EchoArgs, clap::Error> {
        let words = ["tidegate-load", "echo"].into_iter().chain(line.split_whitespace());
        Args::try_parse_from(words).map(|args| match args.command {
            Command::Echo(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_pace_is_open_or_closed_and_of_some_length() {
        use crate::steady::pace::{Length, Pace};

        let second = Duration::from_secs(1);
        let course = |line: &str| {
            let line = format!("tidegate-load rr --url https://localhost/ --insecure {line}");
            Args::try_parse_from(line.split_whitespace()).map(|args| match args.command {
                Command::Rr(args) => args.steady.pace.course(),
                other => panic!("{other:?}"),
            })
        };
        let usual = course("").unwrap();
        assert_eq!((usual.pace, usual.warmup), (Pace::Closed { depth: 1 }, second));
        assert_eq!(usual.length, Length::For(10 * second));
        let open = course("--rate 30/m --count 7 --warmup 0s").unwrap();
        assert_eq!(open.pace, Pace::Open { events: 30, per: 60 * second });
        assert_eq!((open.length, open.warmup), (Length::Count(7), Duration::ZERO));

        for wrong in [
            "--rate 5",
            "--rate 0/s",
            "--rate unlimited",
            "--rate 5/s --depth 2",
            "--count 5 --duration 5s",
            "--size 0",
            "--size 2MiB",
            "--size 100..64",
            "--size 64..2MiB",
            "--slo p99",
            "--json --csv",
        ] {
            assert!(course(wrong).is_err(), "{wrong}");
        }
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
    fn something_is_driven_and_one_thing_only() {
        for (target, good) in [
            ("", false),
            ("--direct tcp://localhost:1", true),
            ("--direct quic://localhost:1 --insecure", true),
            ("--direct https://localhost:1 --insecure", false),
            ("--direct tcp://localhost:1 --url https://localhost/ --insecure", false),
            ("--direct tcp://localhost:1 --header a:1", false),
        ] {
            assert_eq!(parse(target).is_ok(), good, "{target}");
        }
    }

    #[test]
    fn numbers_have_their_units_and_bounds() {
        let base = "--url https://localhost/ --insecure";
        let args = parse(&format!("{base} --bytes 64KiB --timeout 500ms --sessions 0")).unwrap();
        assert_eq!((args.bytes, args.load.sessions), (65_536, 0));
        assert_eq!(args.load.spread.timeout, Duration::from_millis(500));

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
            "--header x",
            "--header x\u{7}:1",
            "--header x:\u{7}",
            "--header :path:/",
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
