//! Routes, and what becomes of a session's streams and datagrams on them.

use std::{sync::Arc, time::Duration};

use super::{
    ByteRate, ByteSize, Credential, DatagramKey, Destination, HostPattern, Limit, Origins,
    Oversize, Rate, RoutePath,
};

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
    /// What a client must show, any one of them. Default none: nothing need be shown.
    pub credentials: Vec<Arc<Credential>>,
    /// Application protocols that sessions may agree on (`WT-Available-Protocols`). Default none.
    pub protocols: Vec<String>,
    /// Whether a client that offers none of them is refused. Default false.
    pub require_protocol: bool,
    /// Where its sessions go.
    pub destination: Destination,
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
    /// Bytes that a session's client may send on streams, all together. Above it they wait. Default unlimited.
    pub byte_rate_up: ByteRate,
    /// Bytes that a session's backend may send on streams. Above it they wait. Default unlimited.
    pub byte_rate_down: ByteRate,
    /// Datagrams that a session's client may send. Above it they are lost. Default unlimited.
    pub datagram_rate_up: Rate,
    /// Datagrams that a session's backend may send. Above it they are lost. Default unlimited.
    pub datagram_rate_down: Rate,
    /// How long a session may live. Default unlimited.
    pub session_lifetime: Option<Duration>,
    /// How long a session may carry nothing, on streams or in datagrams. Default unlimited.
    pub session_idle: Option<Duration>,
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
    pub(super) const MAX_SESSIONS: Limit = Limit::AtMost(10_000);
    pub(super) const MAX_STREAMS_PER_SESSION: Limit = Limit::AtMost(256);
    pub(super) const STREAM_RATE: Rate = Rate::per_second(1_000);
    pub(super) const BYTE_RATE: ByteRate = ByteRate::Unlimited;
    pub(super) const DATAGRAM_RATE: Rate = Rate::Unlimited;
    pub(super) const SESSION_LIFETIME: Option<Duration> = None;
    pub(super) const SESSION_IDLE: Option<Duration> = None;
    pub(super) const HALF_CLOSE_TIMEOUT: Option<Duration> = None;
    pub(super) const DATAGRAM_QUEUE: ByteSize = ByteSize::kib(64);
    pub(super) const DATAGRAM_TTL: Duration = Duration::from_millis(100);
    pub(super) const OVERSIZE_QUEUE: ByteSize = ByteSize::kib(256);
    pub(super) const OVERSIZE_STREAMS: u32 = 16;
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
