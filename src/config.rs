//! Configuration: text becomes valid settings, or every problem at once.
//!
//! A file goes through two shapes. `raw` is what was typed: strings, numbers and options, nothing
//! checked but the keys. [`Config`] is what it means: only values that can be obeyed. Nothing after
//! this room checks a setting again, no `Option` here stands for "default", and no other room sees the
//! raw shape. Defaults live beside the settings they belong to; `config/tidegate.toml` shows each key
//! with its default and its reason, and a test holds that file to this code.

mod load;
mod path;
mod problems;
mod raw;
mod units;

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc,
    time::Duration,
};

pub use self::{
    path::{RoutePath, Segment},
    problems::{Problem, Problems},
    units::{ByteSize, Limit},
};

/// Everything that a file can say, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process: workers, identity, keys.
    pub server: Server,
    /// Logs.
    pub log: Log,
    /// QUIC listeners; at least one.
    pub listeners: Vec<Listener>,
    /// The admin listener; without one there are no metrics and no health checks.
    pub admin: Option<Admin>,
    /// Bounds on what all clients together may make the gateway hold.
    pub limits: Limits,
    /// Deadlines of the client leg.
    pub timeouts: Timeouts,
    /// How the process stops.
    pub drain: Drain,
    /// Routes, in the order of the file; no two can match the same path equally.
    pub routes: Vec<Route>,
    /// Backends by name.
    pub backends: BTreeMap<String, Arc<Backend>>,
}

/// The process: workers, identity, keys.
#[derive(Clone, Debug)]
pub struct Server {
    /// Worker threads. Default: one per core; at most 64, since six bits of a connection id name one.
    pub workers: NonZeroU32,
    /// Whether the kernel steers packets to the worker that owns the connection. Default on.
    pub steering: bool,
    /// This server's id in connection ids, for balancers that route by it
    /// (draft-ietf-quic-load-balancers section 5). 0 to 15 bytes; default none.
    pub server_id: Vec<u8>,
    /// The balancer's configuration id, 0 to 6. Default 0.
    pub config_id: u8,
    /// From which the reset, token and ticket keys are made; random per process without it.
    pub secret: Option<Secret>,
}

/// Key material of at least 32 bytes. Never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes, for key derivation alone.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Logs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// Shape of the lines. Default: text on a terminal, JSON otherwise.
    pub format: LogFormat,
    /// What is logged, in `tracing`'s filter language. Default `info`.
    pub filter: String,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines: one object per line.
    Json,
}

/// One QUIC listener: addresses, certificates, and what its connections may do.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Name, for logs and metrics.
    pub name: String,
    /// UDP addresses; at least one. Port 0 takes a free one.
    pub quic: Vec<SocketAddr>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// When a client must prove its address before the handshake. Default `auto`.
    pub retry: RetryPolicy,
    /// QUIC's own settings.
    pub transport: Transport,
}

/// Where a listener's certificate comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateSource {
    /// PEM files: chain with the leaf first, and its key. The first is the default; the others are
    /// chosen by server name.
    Files(Vec<CertificateFiles>),
    /// Made at start for these names and addresses: ECDSA P-256, 13 days, for browsers that are given
    /// its hash.
    SelfSigned(Vec<String>),
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// Leaf first.
    pub chain: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// When a client must prove its address by a Retry packet (RFC 9000 section 8.1.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryPolicy {
    /// Once handshakes pile up (`limits.retry_above_handshakes`).
    Auto,
    /// Always: one round trip more for each new connection.
    Always,
    /// Never.
    Never,
}

/// QUIC's settings for the connections of a listener.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Silence after which a connection is given up. Default 45 s.
    pub idle_timeout: Duration,
    /// How often the gateway asks a silent client for a sign of life. Default 15 s, which is below
    /// the 30 s after which many address translators forget a flow.
    pub ping_interval: Duration,
    /// Bytes in flight per stream towards the gateway. Default 1 MiB.
    pub stream_window: ByteSize,
    /// Bytes in flight per connection towards the gateway. Default 16 MiB.
    pub connection_window: ByteSize,
    /// Bytes that the gateway keeps for a client that does not acknowledge. Default 8 MiB.
    pub send_window: ByteSize,
    /// Bidirectional streams that a client may have open on a connection at first; raised as a session
    /// uses them. Default 128. Below 101 a browser that opens a hundred fails at once.
    pub initial_bidi_streams: u32,
    /// Unidirectional streams that a client may have open on a connection. Default 16.
    pub initial_uni_streams: u32,
    /// Bytes of datagrams waiting for the network, per connection. Default 64 KiB.
    pub datagram_send_buffer: ByteSize,
    /// Bytes of datagrams received and not yet passed on, per connection. Default 256 KiB.
    pub datagram_receive_buffer: ByteSize,
    /// UDP payload of the first packets. Default 1200, at least 1200.
    pub initial_mtu: u16,
    /// Largest UDP payload that is tried. Default 1452.
    pub max_mtu: u16,
    /// How fast to send. Default CUBIC.
    pub congestion: Congestion,
    /// Kernel receive buffer asked for, per socket. Default 7 MiB.
    pub receive_buffer: ByteSize,
    /// Kernel send buffer asked for, per socket. Default 7 MiB.
    pub send_buffer: ByteSize,
}

/// Congestion control algorithms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002 section 7.
    NewReno,
    /// quinn's experimental BBR.
    Bbr,
}

/// The admin listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admin {
    /// TCP address; keep it on loopback or behind a firewall. Port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Bounds on what all clients together may make the gateway hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// QUIC connections. Above it new ones are refused. Default 100,000.
    pub connections: Limit,
    /// Handshakes in flight. Above it new ones are refused. Default 4,096.
    pub handshakes: Limit,
    /// Handshakes in flight above which `retry = "auto"` sends Retry. Default 256.
    pub retry_above_handshakes: Limit,
    /// Sessions. Above it new ones are refused with 503. Default 100,000.
    pub sessions: Limit,
    /// Bytes of a request's header section (RFC 9114 section 4.2.2). Default 16 KiB.
    pub header_bytes: ByteSize,
    /// Streams held per connection for sessions that are not accepted yet. Default 64.
    pub early_streams: u32,
    /// Datagrams held per connection for sessions that are not accepted yet. Default 64.
    pub early_datagrams: u32,
}

/// Deadlines of the client leg.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From the first packet to the end of the QUIC handshake. Default 10 s.
    pub handshake: Duration,
    /// From the first byte of a request or of a stream's header to its last one; and how long a
    /// session request waits for the client's SETTINGS. Default 5 s.
    pub request: Duration,
    /// How long a connection without session or request is kept. Default 10 s.
    pub idle_connection: Duration,
    /// How long streams and datagrams wait for a session that nobody asked for yet. Default 2 s.
    pub early: Duration,
    /// How long a connection is kept after its last session has ended. Default 1 s, at most 2 s.
    pub linger: Duration,
}

/// How the process stops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drain {
    /// How long `/readyz` says no while new clients are still accepted. Default 5 s.
    pub delay: Duration,
    /// How long sessions may go on after that. Default 5 min.
    pub grace: Duration,
}

/// One route: a path, who may use it, and where it goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// Name, for logs and metrics.
    pub name: String,
    /// Which paths it takes.
    pub path: RoutePath,
    /// Which origins may use it.
    pub origins: Origins,
    /// Whether requests without an origin may use it: native clients send none. Default false when
    /// origins are listed, true with `origins = "any"`.
    pub allow_missing_origin: bool,
    /// Where it goes.
    pub backend: Arc<Backend>,
    /// What becomes of bidirectional streams. Default `per-stream`.
    pub streams: StreamsMode,
    /// What becomes of unidirectional streams. Default `backend`.
    pub uni: UniMode,
    /// What becomes of datagrams. Default `udp` if every endpoint of the backend has a UDP address.
    pub datagrams: DatagramsMode,
    /// When the UDP socket is opened. Default: with the first datagram.
    pub udp_open: UdpOpen,
    /// Sessions on this route. Default 10,000.
    pub max_sessions: Limit,
    /// Bidirectional streams open at once in a session. Default 256.
    pub max_streams_per_session: Limit,
    /// How long a stream may stand still once one direction has finished. Default unlimited.
    pub half_close_timeout: Option<Duration>,
    /// Bytes of datagrams that wait for the client, per session; the oldest is lost first. Default
    /// 64 KiB.
    pub datagram_queue: ByteSize,
    /// Age at which a waiting datagram is lost. Default 100 ms.
    pub datagram_ttl: Duration,
}

/// Which origins may use a route (RFC 6454).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    /// Every origin: pages of any site may use the visitor's network position against the backend.
    Any,
    /// These, compared by scheme, host and port.
    List(Vec<Origin>),
}

/// An origin: scheme, host and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Lower case.
    pub scheme: String,
    /// Lower case; an IPv6 address in brackets.
    pub host: String,
    /// The scheme's own where none was written.
    pub port: u16,
}

/// What becomes of a session's bidirectional streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamsMode {
    /// Each is one TCP connection.
    PerStream,
    /// They are refused.
    Refuse,
}

/// What becomes of a session's unidirectional streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UniMode {
    /// Each is one TCP connection that is only written to.
    Backend,
    /// They are refused.
    Refuse,
}

/// What becomes of a session's datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DatagramsMode {
    /// Carried on one connected UDP socket per session.
    Udp,
    /// Lost, and counted.
    Drop,
}

/// When a session's UDP socket is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UdpOpen {
    /// With the client's first datagram.
    Datagram,
    /// With the session, so that a backend which knows of the session can speak first.
    Session,
}

/// One backend: endpoints of one service.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Name, for logs and metrics.
    pub name: String,
    /// How sessions are spread over the endpoints. Default `round-robin`.
    pub balance: Balance,
    /// Where it listens; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Time for a TCP connection to be made. Default 3 s.
    pub connect_timeout: Duration,
    /// TCP keepalive: first probe, interval, probes. Default 30 s, 10 s, 3.
    pub keepalive: Keepalive,
    /// Unacknowledged data older than this breaks the TCP connection. Default 20 s.
    pub user_timeout: Duration,
    /// Whether small writes go out at once (TCP_NODELAY). Default true.
    pub nodelay: bool,
    /// What the backend may still send after the client's unidirectional stream has gone through; more
    /// breaks the connection. Default 64 KiB.
    pub uni_discard: ByteSize,
    /// How often host names are resolved again. Default 30 s.
    pub resolve_interval: Duration,
}

/// How sessions are spread over a backend's endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest sessions.
    LeastSessions,
}

/// TCP keepalive (RFC 9293 section 3.8.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer that break the connection.
    pub probes: u32,
}

/// One endpoint of a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Name, for logs and metrics. Default: its index.
    pub name: String,
    /// Where streams go.
    pub tcp: Option<HostPort>,
    /// Where datagrams go.
    pub udp: Option<HostPort>,
}

/// A host, by address or name, and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPort {
    /// An address, ready to use.
    Address(SocketAddr),
    /// A name to be resolved.
    Name(String, u16),
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}
