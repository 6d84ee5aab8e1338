//! Configuration: text becomes valid settings, or every problem at once.
//!
//! In goes a file's text, out comes a [`Config`], or [`Problems`]: each with its line, its key, what
//! was found and what would do. Files that the text names (certificates, the secret) are opened, so
//! that a mistake shows before anything starts; only the secret, and what TLS to backends needs, is read.
//!
//! A file goes through two shapes. `raw` is what was typed: every key an option, nothing checked but
//! keys and types. [`Config`] is what it means: only values that can be obeyed. Nothing after this
//! room checks a setting again, no `Option` here stands for "default", and no other room sees the
//! raw shape. Defaults live beside the settings they belong to; `config/tidegate.toml` shows each
//! key with its default and its reason, and a test holds that file to this code.

mod datagram;
mod effective;
mod host;
mod host_pattern;
mod introduction;
mod load;
mod origin;
mod path;
mod pool;
mod preamble;
mod problems;
mod rate;
mod raw;
mod read;
mod tls;
mod units;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

pub use self::{
    datagram::{DatagramKey, Oversize},
    host::{HostPort, is_certificate_name},
    host_pattern::{HostPattern, HostPatternError, request_host},
    introduction::{Introduction, ProxyTlv, UdpProxy},
    origin::{Origin, OriginError, Origins},
    path::{PathError, RoutePath, Segment, path_segments},
    pool::{Balance, Check, Ejection, HashOn, Health, Payload, Statuses},
    preamble::{Field, Piece, Preamble},
    problems::{Problem, Problems},
    rate::Rate,
    tls::BackendTls,
    units::{ByteSize, Limit},
};
use self::{raw::File, read::Read};

/// Everything that a file can say, valid.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// Routes, in the order of the file; no two can match the same host and path equally.
    pub routes: Vec<Route>,
    /// Backends by name.
    pub backends: BTreeMap<String, Arc<Backend>>,
}

/// Every key that a file can have, such as `route[].limits.sessions` or `backend.*.balance`.
pub fn known_keys() -> Vec<String> {
    let mut keys = Vec::new();
    File::keys("", &mut keys);
    keys
}

/// The process: workers, identity, keys.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// The secret before it: what was made with it is still accepted, and nothing new is made with it.
    /// Only beside a secret.
    pub previous_secret: Option<Secret>,
}

impl Default for Server {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let cores = u32::try_from(cores).unwrap_or(MOST_WORKERS).min(MOST_WORKERS);
        Self {
            workers: NonZeroU32::new(cores).unwrap_or(NonZeroU32::MIN),
            steering: true,
            server_id: Vec::new(),
            config_id: 0,
            secret: None,
            previous_secret: None,
        }
    }
}

/// Six bits of a connection id name the worker.
const MOST_WORKERS: u32 = 64;

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

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines: one object per line.
    Json,
}

/// One QUIC listener: addresses, certificates, and what its connections may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Name, for logs and metrics. Default: its index.
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RetryPolicy {
    /// Once handshakes pile up (`limits.retry_above_handshakes`).
    #[default]
    Auto,
    /// Always: one round trip more for each new connection.
    Always,
    /// Never.
    Never,
}

/// QUIC's settings for the connections of a listener.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// What clients are told of WebTransport. Default `full`.
    pub webtransport_profile: WebTransportProfile,
    /// Kernel receive buffer asked for, per socket. Default 7 MiB.
    pub receive_buffer: ByteSize,
    /// Kernel send buffer asked for, per socket. Default 7 MiB.
    pub send_buffer: ByteSize,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(45),
            ping_interval: Duration::from_secs(15),
            stream_window: ByteSize::mib(1),
            connection_window: ByteSize::mib(16),
            send_window: ByteSize::mib(8),
            initial_bidi_streams: 128,
            initial_uni_streams: 16,
            datagram_send_buffer: ByteSize::kib(64),
            datagram_receive_buffer: ByteSize::kib(256),
            initial_mtu: 1200,
            max_mtu: 1452,
            congestion: Congestion::default(),
            webtransport_profile: WebTransportProfile::default(),
            receive_buffer: ByteSize::mib(7),
            send_buffer: ByteSize::mib(7),
        }
    }
}

/// Congestion control algorithms.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 9002 section 7.
    NewReno,
    /// quinn's experimental BBR.
    Bbr,
}

/// What the clients of a listener are told of WebTransport.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum WebTransportProfile {
    /// Many sessions on a connection, with session flow control.
    #[default]
    Full,
    /// One session on a connection and no session flow control: for a client that stumbles over it.
    Minimal,
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
    /// Bytes of a request's header section (RFC 9114 section 4.2.2). Default 16 KiB. Whatever it is, a
    /// section has at most 16,384 fields.
    pub header_bytes: ByteSize,
    /// Streams held per connection for sessions that are not accepted yet. Default 64.
    pub early_streams: u32,
    /// Datagrams held per connection for sessions that are not accepted yet. Default 64.
    pub early_datagrams: u32,
    /// What one client address may have of it.
    pub per_client: PerClientLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Limit::AtMost(100_000),
            handshakes: Limit::AtMost(4_096),
            retry_above_handshakes: Limit::AtMost(256),
            sessions: Limit::AtMost(100_000),
            header_bytes: ByteSize::kib(16),
            early_streams: 64,
            early_datagrams: 64,
            per_client: PerClientLimits::default(),
        }
    }
}

/// What one client address may have: an IPv4 address, or the 64 bits of an IPv6 address that name its
/// network. Many people can be behind one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PerClientLimits {
    /// QUIC connections. Above it new ones are refused. Default 1,000.
    pub connections: Limit,
    /// Sessions at once. Above it new ones are refused with 429. Default 1,000.
    pub sessions: Limit,
    /// Session requests that a route takes. Above it they are refused with 429. Default 100 a second.
    pub session_rate: Rate,
}

impl Default for PerClientLimits {
    fn default() -> Self {
        Self {
            connections: Limit::AtMost(1_000),
            sessions: Limit::AtMost(1_000),
            session_rate: Rate::per_second(100),
        }
    }
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

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(5),
            idle_connection: Duration::from_secs(10),
            early: Duration::from_secs(2),
            linger: Duration::from_secs(1),
        }
    }
}

/// How the process stops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drain {
    /// How long `/readyz` says no while new clients are still accepted. Default 5 s.
    pub delay: Duration,
    /// How long sessions may go on after that. Default 5 min.
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), grace: Duration::from_secs(300) }
    }
}

/// One route: a path, who may use it, and where it goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Name, for logs and metrics. Default: the path, behind the first of its hosts if it has any.
    pub name: String,
    /// Which hosts it is for. Default none, which means every host.
    pub hosts: Vec<HostPattern>,
    /// Which paths it takes.
    pub path: RoutePath,
    /// Which origins may use it.
    pub origins: Origins,
    /// Whether requests without an origin may use it: native clients send none. Default false when
    /// origins are listed, true with `origins = "any"`.
    pub allow_missing_origin: bool,
    /// Application protocols that sessions may agree on (`WT-Available-Protocols`). Default none.
    pub protocols: Vec<String>,
    /// Whether a client that offers none of them is refused. Default false.
    pub require_protocol: bool,
    /// Where it goes.
    pub backend: Arc<Backend>,
    /// What becomes of bidirectional streams. Default `per-stream`.
    pub streams: StreamsMode,
    /// What becomes of unidirectional streams. Default `backend`, and `refuse` with one connection per
    /// session.
    pub uni: UniMode,
    /// What becomes of datagrams. Default `udp` if every endpoint of the backend has a UDP address.
    pub datagrams: DatagramsMode,
    /// When the UDP socket is opened. Default: with the first datagram.
    pub udp_open: UdpOpen,
    /// Sessions on this route. Default 10,000.
    pub max_sessions: Limit,
    /// Bidirectional streams open at once in a session. Default 256.
    pub max_streams_per_session: Limit,
    /// Streams that a session may open, of both kinds together. Above it they wait. Default 1,000 a
    /// second.
    pub stream_rate: Rate,
    /// How long a stream may stand still once one direction has finished. Default unlimited.
    pub half_close_timeout: Option<Duration>,
    /// Bytes of datagrams that wait for the client, per session; the oldest is lost first. Default
    /// 64 KiB.
    pub datagram_queue: ByteSize,
    /// Age at which a waiting datagram is lost. Default 100 ms.
    pub datagram_ttl: Duration,
    /// Who opens the stream of a session that has one connection. Default `client`.
    pub opens: Opens,
    /// What the gateway opens at the session's start beside all that. Default `off`.
    pub push: PushMode,
    /// Of waiting datagrams with the same key, only the newest is kept. Default: none has a key.
    pub datagram_key: Option<DatagramKey>,
    /// What becomes of a datagram larger than the client's path allows. Default `drop`.
    pub oversize: Oversize,
    /// Bytes of such datagrams that may be on their way, per session. Default 256 KiB.
    pub oversize_queue: ByteSize,
    /// Streams that carry such datagrams at once, per session. Default 16.
    pub oversize_streams: u32,
}

/// Defaults of settings whose type does not tell.
impl Route {
    const MAX_SESSIONS: Limit = Limit::AtMost(10_000);
    const MAX_STREAMS_PER_SESSION: Limit = Limit::AtMost(256);
    const STREAM_RATE: Rate = Rate::per_second(1_000);
    const HALF_CLOSE_TIMEOUT: Option<Duration> = None;
    const DATAGRAM_QUEUE: ByteSize = ByteSize::kib(64);
    const DATAGRAM_TTL: Duration = Duration::from_millis(100);
    const OVERSIZE_QUEUE: ByteSize = ByteSize::kib(256);
    const OVERSIZE_STREAMS: u32 = 16;
}

/// What becomes of a session's bidirectional streams.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StreamsMode {
    /// Each is one TCP connection.
    #[default]
    PerStream,
    /// The session has one TCP connection, made before the session is accepted; its first stream gets it.
    PerSession,
    /// They are refused.
    Refuse,
}

/// Who opens the stream of a session with one TCP connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Opens {
    /// The client: its first bidirectional stream.
    #[default]
    Client,
    /// The gateway, at the session's start.
    Gateway,
}

/// The stream that the gateway opens at a session's start, with a TCP connection of its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PushMode {
    /// None.
    #[default]
    Off,
    /// From the backend to the client alone.
    Uni,
    /// Both ways.
    Bidi,
}

/// What becomes of a session's unidirectional streams.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UniMode {
    /// Each is one TCP connection that is only written to.
    #[default]
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UdpOpen {
    /// With the client's first datagram.
    #[default]
    Datagram,
    /// With the session, so that a backend which knows of the session can speak first.
    Session,
}

/// One backend: endpoints of one service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    /// Name, for logs and metrics.
    pub name: String,
    /// How sessions are spread over the endpoints. Default `round-robin`.
    pub balance: Balance,
    /// What a session is told apart by where `balance` is `hash`. Default: the client's address.
    pub hash_on: HashOn,
    /// Active health checks. Default: none.
    pub health: Health,
    /// When an endpoint that fails in use is left out.
    pub ejection: Ejection,
    /// Whether the backend is told the client's address at the start of each connection, before TLS, and in
    /// which version of the PROXY protocol. Default `off`: a backend that does not expect it would
    /// take it for data.
    pub proxy_protocol: ProxyProtocol,
    /// What else it is told of the client, on TCP and on UDP.
    pub introduction: Introduction,
    /// Where it listens; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Time for a connection to be made, to any of the endpoint's addresses and with TLS where it is
    /// spoken. Default 3 s.
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
    /// Local addresses from which it is dialled, in turn; each towards backends of its family. Default
    /// none: the system chooses.
    pub source: Vec<IpAddr>,
    /// How many connections may be in the making.
    pub dial: Dial,
    /// TLS over the TCP connections. Default none.
    pub tls: Option<Arc<BackendTls>>,
}

/// Defaults of settings whose type does not tell.
impl Backend {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    const USER_TIMEOUT: Duration = Duration::from_secs(20);
    const NODELAY: bool = true;
    const UNI_DISCARD: ByteSize = ByteSize::kib(64);
    const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
}

/// How many connections to one endpoint may be in the making.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dial {
    /// Connections that are being made at once. Default 256.
    pub concurrent: u32,
    /// Connections that wait for their turn; 0: none. Default 1,024.
    pub queue: u32,
    /// How long they wait. Default 3 s.
    pub queue_timeout: Duration,
}

impl Default for Dial {
    fn default() -> Self {
        Self { concurrent: 256, queue: 1_024, queue_timeout: Duration::from_secs(3) }
    }
}

/// Which certificates of a backend are believed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Roots {
    /// Those that lead to the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded).
    #[default]
    System,
    /// Those that lead to a certificate of this PEM file.
    File(PathBuf),
    /// Any.
    DangerAcceptAny,
}

/// HAProxy's PROXY protocol.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ProxyProtocol {
    /// Not spoken.
    #[default]
    Off,
    /// One line of text.
    V1,
    /// Binary.
    V2,
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

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 }
    }
}

/// One endpoint of a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Name, for logs and metrics. Default: its index.
    pub name: String,
    /// Where streams go.
    pub tcp: Option<HostPort>,
    /// Where streams go in place of `tcp`: a Unix socket.
    pub unix: Option<PathBuf>,
    /// Where datagrams go.
    pub udp: Option<HostPort>,
    /// Its share of the sessions, compared with the other endpoints'. Default 1.
    pub weight: u32,
}

/// Defaults of settings whose type does not tell.
impl Endpoint {
    const WEIGHT: u32 = 1;
}

impl Endpoint {
    /// Whether streams can go there.
    pub fn takes_streams(&self) -> bool {
        self.tcp.is_some() || self.unix.is_some()
    }
}
