//! What was typed: the file's shape, with nothing checked but keys and types.
//!
//! The sections below are the one list of keys. Reading a file, refusing unknown keys, printing the
//! effective configuration and the test of `config/tidegate.toml` all go by it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Serialize, Serializer};
use toml::de::{DeTable, DeValue};

use super::{
    Balance, CertificateName, CertificateNames, Congestion, DatagramsMode, HashOn, LogFormat,
    Opens, Oversize, Payload, ProxyProtocol, PushMode, RetryPolicy, Statuses, StreamsMode, UdpOpen,
    UniMode, Wanted, WebTransportProfile,
    host::HostPort,
    host_pattern::HostPattern,
    introduction::{ProxyTlv, UdpProxy},
    memory::MemoryLimit,
    origin::{OriginPattern, Origins},
    path::RoutePath,
    preamble::Preamble,
    problems::{Collector, did_you_mean, join},
    rate::{ByteRate, Rate},
    read::{FromText, HexBytes, Read, Workers, as_table, note_unknown_keys, read_key, read_text},
    units::{ByteSize, Limit, Patience, Period},
};

/// What all sections have.
pub(super) trait Section {
    /// The key under which the section stands.
    fn at(&self) -> &str;

    /// An empty section, for a file that leaves it out.
    fn absent(at: String) -> Self;

    /// The full name of one of the section's keys.
    fn key(&self, name: &str) -> String {
        join(self.at(), name)
    }
}

/// Declares a section: its keys and the type that each value is read as. All are optional here; what
/// must be there is decided where the section becomes settings.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($key:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default, Serialize)]
        pub(super) struct $name {
            /// The key under which the section stands, for problems.
            #[serde(skip)]
            pub(super) at: String,
            $( pub(super) $key: Option<$type>, )*
        }

        impl $name {
            const KEYS: &[&str] = &[ $( stringify!($key), )* ];

            /// Reads every key of a table, and notes those that are not known.
            pub(super) fn read_table(
                table: &DeTable<'_>,
                at: &str,
                problems: &mut Collector<'_>,
            ) -> Self {
                note_unknown_keys(table, at, Self::KEYS, problems);
                Self {
                    at: at.to_owned(),
                    $( $key: read_key(table, at, stringify!($key), problems), )*
                }
            }
        }

        impl Section for $name {
            fn at(&self) -> &str {
                &self.at
            }

            fn absent(at: String) -> Self {
                Self { at, ..Self::default() }
            }
        }

        impl Read for $name {
            fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
                Some(Self::read_table(as_table(value, at, problems)?, at, problems))
            }

            fn keys(at: &str, keys: &mut Vec<String>) {
                $( <$type as Read>::keys(&join_pattern(at, stringify!($key)), keys); )*
            }
        }
    };
}

section! {
    /// The whole file.
    File {
        version: u32,
        server: Server,
        log: Log,
        listener: Vec<Listener>,
        admin: Admin,
        limits: Limits,
        timeouts: Timeouts,
        drain: Drain,
        reload: Reload,
        route: Vec<Route>,
        backend: BTreeMap<String, Backend>,
        credential: BTreeMap<String, Credential>,
    }
}

section! {
    /// `[server]`
    Server {
        workers: Workers,
        steering: Steering,
        server_id: HexBytes,
        config_id: u8,
        secret: Hidden,
        previous_secret: Hidden,
    }
}

section! {
    /// `[server.secret]` and the like
    Secret {
        file: String,
        env: String,
    }
}

section! {
    /// `[log]`
    Log {
        format: LogFormat,
        filter: String,
    }
}

section! {
    /// `[[listener]]`
    Listener {
        name: String,
        quic: Vec<SocketAddr>,
        certificates: Vec<Certificate>,
        self_signed: Vec<String>,
        client_certificates: ClientCertificates,
        retry: RetryPolicy,
        transport: Transport,
    }
}

section! {
    /// An element of `listener.certificates`.
    Certificate {
        chain: String,
        key: String,
    }
}

section! {
    /// `[listener.client_certificates]`
    ClientCertificates {
        roots: String,
        required: bool,
    }
}

section! {
    /// `[listener.transport]`
    Transport {
        idle_timeout: Period,
        ping_interval: Period,
        stream_window: ByteSize,
        connection_window: ByteSize,
        send_window: ByteSize,
        initial_bidi_streams: u32,
        initial_uni_streams: u32,
        datagram_send_buffer: ByteSize,
        datagram_receive_buffer: ByteSize,
        initial_mtu: u16,
        max_mtu: u16,
        congestion: Congestion,
        initial_window: ByteSize,
        initial_rtt: Period,
        packet_threshold: u32,
        webtransport_profile: WebTransportProfile,
        receive_buffer: ByteSize,
        send_buffer: ByteSize,
    }
}

section! {
    /// `[admin]`
    Admin {
        listen: SocketAddr,
        token: Hidden,
    }
}

section! {
    /// `[limits]`
    Limits {
        connections: Limit,
        handshakes: Limit,
        retry_above_handshakes: Limit,
        sessions: Limit,
        memory: MemoryLimit,
        header_bytes: ByteSize,
        early_streams: u32,
        early_datagrams: u32,
        per_client: PerClientLimits,
        per_connection: PerConnectionLimits,
    }
}

section! {
    /// `[limits.per_client]`
    PerClientLimits {
        connections: Limit,
        sessions: Limit,
        session_rate: Rate,
    }
}

section! {
    /// `[limits.per_connection]`
    PerConnectionLimits {
        stream_rate: Rate,
    }
}

section! {
    /// `[timeouts]`
    Timeouts {
        handshake: Period,
        request: Period,
        idle_connection: Period,
        early: Period,
        linger: Period,
    }
}

section! {
    /// `[drain]`
    Drain {
        delay: Period,
        grace: Period,
    }
}

section! {
    /// `[reload]`
    Reload {
        end_removed: bool,
        watch: bool,
        interval: Period,
    }
}

section! {
    /// `[[route]]`
    Route {
        name: String,
        hosts: Vec<HostPattern>,
        path: RoutePath,
        origins: Origins,
        allow_missing_origin: bool,
        credentials: Vec<String>,
        protocols: Vec<String>,
        require_protocol: bool,
        backend: String,
        backend_from: String,
        backends: BTreeMap<String, String>,
        streams: StreamsMode,
        uni: UniMode,
        datagrams: DatagramsMode,
        udp_open: UdpOpen,
        half_close_timeout: Patience,
        datagram_queue: ByteSize,
        datagram_ttl: Period,
        opens: Opens,
        push: PushMode,
        datagram_latest_per_key: DatagramKey,
        oversize: Oversize,
        oversize_queue: ByteSize,
        oversize_streams: u32,
        limits: RouteLimits,
    }
}

section! {
    /// `[credential.NAME]`
    Credential {
        jwt: Jwt,
        tokens: String,
        certificates: CertificateNames,
        query: String,
        claims: BTreeMap<String, Wanted>,
    }
}

section! {
    /// `[credential.NAME.jwt]`
    Jwt {
        keys: Vec<JwtKey>,
        audience: Vec<String>,
        issuer: Vec<String>,
        leeway: Period,
        require_expiry: bool,
    }
}

section! {
    /// An element of `credential.NAME.jwt.keys`.
    JwtKey {
        public_key: String,
        jwks: String,
        secret: Hidden,
        kid: String,
    }
}

section! {
    /// `[route.datagram_latest_per_key]`
    DatagramKey {
        offset: u32,
        bytes: u32,
    }
}

section! {
    /// `[route.limits]`
    RouteLimits {
        sessions: Limit,
        streams_per_session: Limit,
        stream_rate: Rate,
        byte_rate_up: ByteRate,
        byte_rate_down: ByteRate,
        datagram_rate_up: Rate,
        datagram_rate_down: Rate,
        session_lifetime: Patience,
        session_idle: Patience,
    }
}

section! {
    /// `[backend.NAME]`
    Backend {
        balance: Balance,
        hash_on: HashOn,
        health: Health,
        ejection: Ejection,
        proxy_protocol: ProxyProtocol,
        proxy_tlvs: Vec<ProxyTlv>,
        udp_proxy: UdpProxy,
        preamble: Preamble,
        connect_timeout: Period,
        nodelay: bool,
        user_timeout: Period,
        uni_discard: ByteSize,
        resolve_interval: Period,
        source: Vec<IpAddr>,
        dial: Dial,
        tls: BackendTls,
        keepalive: Keepalive,
        endpoints: Vec<Endpoint>,
    }
}

section! {
    /// `[backend.NAME.dial]`
    Dial {
        concurrent: u32,
        queue: u32,
        queue_timeout: Period,
    }
}

section! {
    /// `[backend.NAME.tls]`
    BackendTls {
        roots: String,
        server_name: String,
        alpn: Vec<String>,
        certificate: String,
        key: String,
        danger_accept_any: bool,
    }
}

section! {
    /// `[backend.NAME.keepalive]`
    Keepalive {
        idle: Period,
        interval: Period,
        probes: u32,
    }
}

section! {
    /// An element of `backend.NAME.endpoints`.
    Endpoint {
        name: String,
        tcp: HostPort,
        unix: String,
        udp: HostPort,
        weight: u32,
        draining: bool,
    }
}

section! {
    /// `[backend.NAME.health]`
    Health {
        check: CheckKind,
        interval: Period,
        timeout: Period,
        rise: u32,
        fall: u32,
        port: u16,
        send: Payload,
        expect: Payload,
        path: String,
        host: String,
        status: Statuses,
    }
}

section! {
    /// `[backend.NAME.ejection]`
    Ejection {
        consecutive_failures: Limit,
        base_time: Period,
        max_time: Period,
        max_ejected_percent: u32,
    }
}

/// Which kind of health check.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum CheckKind {
    #[default]
    Off,
    Tcp,
    Udp,
    Http,
}

/// Whether the kernel steers packets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Steering {
    /// Where it can.
    Auto,
    /// Never.
    Off,
}

/// Declares the words of an enum.
macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),*) => {
        impl FromText for $type {
            const WANTED: &'static str = concat!("one of", $( " \"", $word, "\"" ),*);

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $( $word => Ok(Self::$variant), )*
                    _ => Err(not_among(text, &[ $( $word ),* ])),
                }
            }
        }

        impl Read for $type {
            fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
                read_text(value, at, problems)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self { $( Self::$variant => $word, )* })
            }
        }
    };
}

words!(Steering: Auto = "auto", Off = "off");
words!(LogFormat: Auto = "auto", Text = "text", Json = "json");
words!(RetryPolicy: Auto = "auto", Always = "always", Never = "never");
words!(Congestion: Cubic = "cubic", NewReno = "new-reno", Bbr = "bbr");
words!(WebTransportProfile: Full = "full", Minimal = "minimal");
words!(StreamsMode: PerStream = "per-stream", PerSession = "per-session", Refuse = "refuse");
words!(Opens: Client = "client", Gateway = "gateway");
words!(PushMode: Off = "off", Uni = "uni", Bidi = "bidi");
words!(UniMode: Backend = "backend", Refuse = "refuse");
words!(DatagramsMode: Udp = "udp", Drop = "drop");
words!(UdpOpen: Datagram = "datagram", Session = "session");
words!(Oversize: Drop = "drop", Stream = "stream");
words!(
    Balance: RoundRobin = "round-robin",
    LeastSessions = "least-sessions",
    RandomTwo = "random-two",
    Hash = "hash"
);
words!(CheckKind: Off = "off", Tcp = "tcp", Udp = "udp", Http = "http");
words!(ProxyProtocol: Off = "off", V1 = "v1", V2 = "v2");
words!(ProxyTlv: UniqueId = "unique-id", Alpn = "alpn", Ssl = "ssl", Route = "route",
    Protocol = "protocol", Dialect = "dialect", Subject = "subject", Authority = "authority",
    Origin = "origin", Path = "path", Crc32c = "crc32c");
words!(UdpProxy: Off = "off", V2First = "v2-first", V2Every = "v2-every", Spp = "spp");

fn not_among(text: &str, words: &[&'static str]) -> String {
    let allowed: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    let allowed = allowed.join(", ");
    match did_you_mean(text, words.iter().copied()) {
        Some(nearest) => format!("{text:?} is not one of {allowed}; did you mean {nearest:?}?"),
        None => format!("{text:?} is not one of {allowed}"),
    }
}

/// Where the secret is to be found. Written as `"***"`, whatever it holds.
#[derive(Debug, Default)]
pub(super) struct Hidden(pub(super) Secret);

impl Read for Hidden {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        if value.is_str() {
            problems.add(
                at,
                "a secret does not stand in the file itself; write { file = \"PATH\" } or \
                 { env = \"NAME\" }",
            );
            return None;
        }
        Secret::read(value, at, problems).map(Self)
    }

    fn keys(at: &str, keys: &mut Vec<String>) {
        Secret::keys(at, keys);
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl Read for Origins {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) if text == "any" => Some(Self::Any),
            DeValue::Array(list) if list.is_empty() => {
                problems.add(at, "nobody could use this route; list origins, or write \"any\"");
                None
            }
            DeValue::Array(_) => {
                let origins: Vec<OriginPattern> = Read::read(value, at, problems)?;
                // What is left of a list of mistakes would be stricter than anybody meant.
                (!origins.is_empty()).then_some(Self::List(origins))
            }
            _ => {
                problems.add(
                    at,
                    "expected \"any\" or a list of origins such as [\"https://play.example.com\"]",
                );
                None
            }
        }
    }
}

impl Read for CertificateNames {
    fn read(value: &DeValue<'_>, at: &str, problems: &mut Collector<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) if text == "any" => Some(Self::Any),
            DeValue::Array(_) => {
                let names: Vec<CertificateName> = Read::read(value, at, problems)?;
                (!names.is_empty()).then_some(Self::List(names))
            }
            _ => {
                problems.add(
                    at,
                    "expected \"any\" or a list of names such as [\"*.fleet.example.com\"]",
                );
                None
            }
        }
    }
}

impl Serialize for CertificateNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::List(names) => serializer.collect_seq(names.iter().map(ToString::to_string)),
        }
    }
}

impl Serialize for Origins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::List(origins) => serializer.collect_seq(origins.iter().map(ToString::to_string)),
        }
    }
}

impl Serialize for RoutePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Implements [`Serialize`] for types that are printed as they are read.
macro_rules! serialize_as_text {
    ($($type:ty),*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )* };
}

serialize_as_text!(HashOn, HostPattern, Preamble, Payload, Statuses, Wanted);

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// [`join`] for patterns of keys, whose `[]` and `*` stay as they are.
fn join_pattern(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}
