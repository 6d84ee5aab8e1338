//! Backends: where they are, and how they are dialled.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{BackendTls, Balance, ByteSize, Ejection, HashOn, Health, HostPort, Introduction};

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
    pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(20);
    pub(super) const NODELAY: bool = true;
    pub(super) const UNI_DISCARD: ByteSize = ByteSize::kib(64);
    pub(super) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
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
    /// Whether it gets no new sessions; those that it has are told and go on. Default false.
    pub draining: bool,
}

/// Defaults of settings whose type does not tell.
impl Endpoint {
    pub(super) const WEIGHT: u32 = 1;
}

impl Endpoint {
    /// Whether streams can go there.
    pub fn takes_streams(&self) -> bool {
        self.tcp.is_some() || self.unix.is_some()
    }
}
