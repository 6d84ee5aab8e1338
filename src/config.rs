//! Configuration: text becomes valid settings, or every problem at once.
//!
//! In goes a file's text, out comes a [`Config`], or [`Problems`]: each with its line, its key, what
//! was found and what would do. Files that the text names (certificates, the secret) are opened, so
//! that a mistake shows before anything starts; only the secret, credentials, and what TLS to
//! backends needs, are read.
//!
//! A file goes through two shapes. `raw` is what was typed: every key an option, nothing checked but
//! keys and types. [`Config`] is what it means: only values that can be obeyed. Nothing after this
//! room checks a setting again, no `Option` here stands for "default", and no other room sees the
//! raw shape. Defaults live beside the settings they belong to; `config/tidegate.toml` shows each
//! key with its default and its reason, and a test holds that file to this code.

mod backend;
mod certificate_name;
mod credential;
mod datagram;
mod destination;
#[allow(clippy::disallowed_types, reason = "owns toml")]
mod diff;
mod effective;
mod file;
mod host;
mod host_pattern;
mod introduction;
mod listener;
mod load;
mod memory;
mod origin;
mod path;
mod pool;
mod preamble;
mod problems;
mod rate;
mod raw;
mod read;
mod route;
mod tls;
mod units;

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU32, sync::Arc, thread, time::Duration,
};

pub(crate) use self::file::read_file;
pub use self::{
    backend::{Backend, Dial, Endpoint, Keepalive, ProxyProtocol, Roots},
    certificate_name::{CertificateName, CertificateNames},
    credential::{
        ClaimRule, Credential, CredentialKind, Jwt, JwtKey, KeyMaterial, KeySource, SUBJECT, Token,
        Tokens, Wanted,
    },
    datagram::{DatagramKey, Oversize},
    destination::{Destination, Listed},
    diff::{Change, Difference},
    host::{HostPort, is_certificate_name},
    host_pattern::{HostPattern, HostPatternError, request_host},
    introduction::{Introduction, ProxyTlv, UdpProxy},
    listener::{
        CertificateFiles, CertificateSource, Congestion, Listener, RetryPolicy, Transport,
        WebTransportProfile,
    },
    memory::MemoryLimit,
    origin::{Origin, OriginError, OriginPattern, Origins},
    path::{PathError, RoutePath, Segment, path_segments},
    pool::{Balance, Check, Ejection, HashOn, Health, Payload, Statuses},
    preamble::{Field, Piece, Preamble},
    problems::{Problem, Problems},
    rate::{ByteRate, Rate},
    route::{DatagramsMode, Opens, PushMode, Route, StreamsMode, UdpOpen, UniMode},
    tls::{BackendTls, ClientCertificates},
    units::{ByteSize, Limit, parse_duration},
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
    /// When it is read again, and what that does to sessions that live.
    pub reload: Reload,
    /// Routes, in the order of the file; no two can match the same host and path equally.
    pub routes: Vec<Route>,
    /// Backends by name.
    pub backends: BTreeMap<String, Arc<Backend>>,
    /// What clients may show, by name.
    pub credentials: BTreeMap<String, Arc<Credential>>,
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
    /// 256 bits: what the keys that are made from it have, and what HS256 wants (RFC 7518 section 3.2).
    pub(crate) const LEAST_BYTES: usize = 32;

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

/// The admin listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admin {
    /// TCP address; keep it on loopback or behind a firewall. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What changes have to show, and elsewhere than on loopback also whoever wants to see sessions and
    /// settings. Default: none; then nothing is changed but on loopback.
    pub token: Option<Secret>,
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
    /// Memory that the process holds. Above it new sessions are refused with 503, and new connections by QUIC.
    /// Default 80 % of what the machine or the container has.
    pub memory: MemoryLimit,
    /// Bytes of a request's header section (RFC 9114 section 4.2.2). Default 16 KiB. Whatever it is, a
    /// section has at most 16,384 fields.
    pub header_bytes: ByteSize,
    /// Streams held per connection for sessions that are not accepted yet. Default 64.
    pub early_streams: u32,
    /// Datagrams held per connection for sessions that are not accepted yet. Default 64.
    pub early_datagrams: u32,
    /// What one client address may have of it.
    pub per_client: PerClientLimits,
    /// What one connection may have of it.
    pub per_connection: PerConnectionLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Limit::AtMost(100_000),
            handshakes: Limit::AtMost(4_096),
            retry_above_handshakes: Limit::AtMost(256),
            sessions: Limit::AtMost(100_000),
            memory: MemoryLimit::Share(80),
            header_bytes: ByteSize::kib(16),
            early_streams: 64,
            early_datagrams: 64,
            per_client: PerClientLimits::default(),
            per_connection: PerConnectionLimits::default(),
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
    /// Session requests that come to a route, with an origin that it takes. Above it they are refused with 429,
    /// and what they show is not looked at: it also bounds how fast credentials can be guessed. Default 100 a
    /// second.
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

/// What one QUIC connection may have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PerConnectionLimits {
    /// Streams that are taken from the client, of each kind: requests and streams of sessions, also such as
    /// end before they say what they are. Above it the next ones wait. Default 2,000 a second.
    pub stream_rate: Rate,
}

impl Default for PerConnectionLimits {
    fn default() -> Self {
        Self { stream_rate: Rate::per_second(2_000) }
    }
}

/// Deadlines of the client leg.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From the first packet to the end of the QUIC handshake. Default 10 s.
    pub handshake: Duration,
    /// From the first byte of a request or of a stream's header to its last one; and how long a
    /// session request waits for the client's SETTINGS, and the gateway for credit to send its own or an
    /// answer. Default 5 s.
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

/// When the configuration is read again, and what that does to sessions that live.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reload {
    /// Whether the sessions of a route that it has not any more are ended. Default false: they go on.
    pub end_removed: bool,
    /// Whether it is read again when a file of it changes. Default false.
    pub watch: bool,
    /// How often the files are looked at. Default 5 s.
    pub interval: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Self { end_removed: false, watch: false, interval: Duration::from_secs(5) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn secret(text: &str) -> Secret {
        Secret(text.into())
    }
}
