//! QUIC listeners: addresses, certificates, and what their connections may do.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{ByteSize, ClientCertificates};

/// One QUIC listener: addresses, certificates, and what its connections may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Name, for logs and metrics. Default: its index.
    pub name: String,
    /// UDP addresses; at least one. Port 0 takes a free one.
    pub quic: Vec<SocketAddr>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// Whether clients are asked for certificates of their own, and which are believed. Default: they are not.
    pub client_certificates: Option<ClientCertificates>,
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
    /// Largest UDP payload that is tried, first of all. Default 1452.
    pub max_mtu: u16,
    /// How fast to send. Default CUBIC.
    pub congestion: Congestion,
    /// Bytes that may be under way to a client before it has acknowledged any. Default 12,000, which is
    /// RFC 9002's ten packets (section 7.2).
    pub initial_window: ByteSize,
    /// What a round trip is taken for until one was measured. Default 333 ms (RFC 9002 section 6.2.2); three
    /// times as long a lost first packet waits to be sent again.
    pub initial_rtt: Duration,
    /// Packets that may pass another before that counts as lost. Default 3 (RFC 9002 section 6.1.1).
    pub packet_threshold: u32,
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
            initial_window: ByteSize(12_000),
            initial_rtt: Duration::from_millis(333),
            packet_threshold: 3,
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
