//! The client leg of a session, whatever transport carries it.
//!
//! The session, bridge and backend rooms know only these traits. WebTransport over HTTP/3
//! ([`crate::webtransport`]) implements them for real clients, an in-memory transport for tests.
//!
//! What always holds: a stream that is dropped without [`SendStream::finish`] is reset, never
//! finished, so that a bridge which dies cannot make a cut transfer look whole; and no call here
//! waits for anything but the client.

#[cfg(test)]
pub(crate) mod memory;

use std::{
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::reason::Refused;

/// The one path that also answers ordinary requests: it is there, though it takes no session unless a
/// route has it.
pub const PAGE_PATH: &str = "/";

/// What a client asked for when it asked for a session. All of it is the client's word.
#[derive(Clone, Eq, PartialEq)]
pub struct RequestHead {
    /// Host and, where given, port: the `:authority` pseudo-header.
    pub authority: String,
    /// Path without the query, as sent (percent-encoding untouched).
    pub path: String,
    /// What followed the `?`, if there was one. It may carry a token, so it is not shown; who gets it once the
    /// session is admitted gets it without.
    pub query: Option<String>,
    /// What the client shows of itself. Not kept once that is looked at.
    pub authorization: Authorization,
    /// The application protocols that the client speaks, those that it likes best first. Not kept once one
    /// is chosen.
    pub protocols: Vec<String>,
    /// The `Origin` header, which browsers always send and native clients seldom.
    pub origin: Option<String>,
    /// The client's address when it asked.
    pub client: SocketAddr,
    /// The gateway's address that the client sent to, where the kernel told it.
    pub local: Option<SocketAddr>,
    /// Generation of the protocol that both sides speak: a word of a closed list.
    pub dialect: &'static str,
    /// The TLS beneath, if there is any.
    pub tls: Option<Arc<Tls>>,
}

impl RequestHead {
    /// What is of use for as long as a session lives: all but the application protocols, of which one has
    /// been chosen, and what the client has shown of itself, of which `query` is what is left. A long list of
    /// short protocols takes many times the bytes that it came in.
    pub(crate) fn to_keep(&self, query: Option<String>) -> Self {
        let (protocols, authorization) = (Vec::new(), Authorization::default());
        Self {
            authority: self.authority.clone(),
            path: self.path.clone(),
            query,
            authorization,
            protocols,
            origin: self.origin.clone(),
            client: self.client,
            local: self.local,
            dialect: self.dialect,
            tls: self.tls.clone(),
        }
    }
}

/// Shows that there is a query, but not what it says: there may be a token in it.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("authority", &self.authority)
            .field("path", &self.path)
            .field("query", &self.query.as_ref().map(|_| "***"))
            .field("authorization", &self.authorization)
            .field("protocols", &self.protocols)
            .field("origin", &self.origin)
            .field("client", &self.client)
            .field("local", &self.local)
            .field("dialect", &self.dialect)
            .field("tls", &self.tls)
            .finish()
    }
}

#[cfg(test)]
impl RequestHead {
    /// A request for `/` by a client on this machine that shows nothing.
    pub(crate) fn for_tests() -> Self {
        Self {
            authority: "gateway.example.com".to_owned(),
            path: "/".to_owned(),
            query: None,
            authorization: Authorization::default(),
            origin: None,
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            local: None,
            dialect: "draft02",
            tls: None,
            protocols: Vec::new(),
        }
    }
}

/// The value of an `Authorization` header, if there was one. Never shown.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Authorization(Option<String>);

impl Authorization {
    /// The value, for who decides on it alone.
    pub fn expose(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl From<Option<String>> for Authorization {
    fn from(value: Option<String>) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "***" } else { "none" })
    }
}

/// What a transport knows of the TLS beneath a client's connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// The version, in the form of OpenSSL: `TLSv1.3`.
    pub version: &'static str,
    /// The application protocol that was agreed on (RFC 7301).
    pub alpn: Vec<u8>,
    /// The host that the client asked for (RFC 6066 section 3), if it did: for an address it does not.
    pub server_name: Option<String>,
    /// What the client's certificate says, if it has shown one. It was good when the connection was made.
    pub client: Option<ClientCertificate>,
}

/// What a client's certificate says, which leads to a root that the listener believes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCertificate {
    /// Its subject alternative names, of the kinds that there is a use for.
    pub names: Vec<AlternativeName>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// When it is good no longer.
    pub ends: SystemTime,
}

/// One of a certificate's subject alternative names (RFC 5280 section 4.2.1.6).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AlternativeName {
    /// A host.
    Dns(String),
    /// A URI.
    Uri(String),
    /// A mailbox.
    Email(String),
    /// An IP address.
    Ip(IpAddr),
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => f.write_str(text),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// A client's request for a session, to be accepted or refused. Dropping it refuses it.
pub trait SessionRequest: Send + 'static {
    /// What an accepted request becomes.
    type Session: Session;

    /// What the client asked for.
    fn head(&self) -> &RequestHead;

    /// Waits until the client gives the request up or is gone: then it is to be dropped. Cancel-safe.
    fn gone(&mut self) -> impl Future<Output = ClientEnd> + Send;

    /// The way for datagrams to the client; usable once the session is accepted.
    fn datagrams(&self) -> <Self::Session as Session>::Datagrams;

    /// Accepts, with one of the client's application protocols if the route has any of them. From now on
    /// `events` gets what the client opens and sends, first of all what came before the acceptance.
    fn accept(
        self,
        protocol: Option<&str>,
        events: Arc<dyn SessionEvents<Self::Session>>,
    ) -> impl Future<Output = Result<Self::Session, ClientEnd>> + Send;

    /// Refuses, with the status, the reason's word and when trying again makes sense.
    fn refuse(self, refused: impl Into<Refused> + Send) -> impl Future<Output = ()> + Send;
}

/// An accepted session. Dropping it ends the session as [`Ending::Internal`](crate::reason::Ending).
pub trait Session: Send + 'static {
    /// The gateway's half of a stream.
    type Send: SendStream;
    /// The client's half of a stream.
    type Recv: RecvStream;
    /// The way for datagrams to the client.
    type Datagrams: Datagrams;
    /// What opens streams to the client.
    type Opener: StreamOpener<Send = Self::Send, Recv = Self::Recv>;

    /// What looks at the way to the client, for as long as anybody wants to.
    fn leg(&self) -> Arc<dyn ClientLeg>;

    /// What opens streams to the client, for as long as the session lives.
    fn opener(&self) -> Self::Opener;

    /// Waits until the client ends the session or is gone. Cancel-safe.
    fn ended(&mut self) -> impl Future<Output = ClientEnd> + Send;

    /// Asks the client to end the session by itself, because the gateway will.
    fn drain(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends the session and tells the client why. `reason` is cut to what the protocol can carry.
    /// Resolves when the client knows, is gone, or took too long.
    fn close(self, code: u32, reason: &str) -> impl Future<Output = ()> + Send;

    /// Lets go of a session that the client has ended, once the client has nothing more to say on it or
    /// has taken too long: what it says after its own end is answered as the protocol wants.
    fn leave(self) -> impl Future<Output = ()> + Send;
}

/// The way to a session's client, for whoever looks on: from any thread, and seldom.
pub trait ClientLeg: fmt::Debug + Send + Sync + 'static {
    /// How it does now.
    fn state(&self) -> LegState;
}

/// How the way to a client does. Numbers that a transport does not have are 0.
///
/// Sessions that share a connection share these.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LegState {
    /// Where the client is now: it may have moved since it asked.
    pub client: Option<SocketAddr>,
    /// The round trip as it is estimated, and the shortest that was seen.
    pub rtt: Duration,
    /// The shortest round trip that was seen.
    pub min_rtt: Duration,
    /// Bytes that may be on their way at once.
    pub congestion_window: u64,
    /// How often the window was cut.
    pub congestion_events: u64,
    /// The largest packet that the path carries, in bytes.
    pub mtu: u16,
    /// Packets sent on the current path.
    pub packets_sent: u64,
    /// Packets of these that were lost.
    pub packets_lost: u64,
    /// Bytes in packets that were lost.
    pub bytes_lost: u64,
    /// Bytes sent in UDP datagrams since the connection began.
    pub bytes_sent: u64,
    /// Bytes received in them.
    pub bytes_received: u64,
    /// Bytes that the transport's own queue of datagrams has room for.
    pub datagram_room: u64,
}

/// Opens streams to a session's client. Clones open streams of the same session.
pub trait StreamOpener: Clone + Send + Sync + 'static {
    /// The gateway's half of a stream.
    type Send: SendStream;
    /// The client's half of a stream.
    type Recv: RecvStream;

    /// Opens a unidirectional stream; waits while the client gives no credit. Cancel-safe: nothing is
    /// left open of what was given up.
    fn open_uni(&self) -> impl Future<Output = Result<Self::Send, OpenError>> + Send;

    /// Opens a bidirectional stream, in the same way.
    fn open_bidi(&self)
    -> impl Future<Output = Result<(Self::Send, Self::Recv), OpenError>> + Send;
}

/// Why no stream could be opened to the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// The session has ended.
    #[error("session has ended")]
    SessionEnded,
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
}

/// What a session does with what its client opens and sends.
///
/// Called on the connection's own task, so that nothing hops: an implementation must not block.
pub trait SessionEvents<S: Session + ?Sized>: Send + Sync + 'static {
    /// The client opened a bidirectional stream.
    fn bidi(&self, send: S::Send, recv: S::Recv);
    /// The client opened a unidirectional stream.
    fn uni(&self, recv: S::Recv);
    /// The client sent datagrams: all that had come by now, in their order, though never without a bound.
    fn datagrams(&self, payloads: &[Bytes]);
    /// Bidirectional streams that are open now; the transport raises the client's credit by it.
    fn open_bidi_streams(&self) -> u64;
    /// Bidirectional streams that the session may have open at once.
    fn max_bidi_streams(&self) -> u64;
}

/// How the client ended a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientEnd {
    /// It closed the session, with code and reason.
    Closed {
        /// The application's code, as sent.
        code: u32,
        /// The application's reason, as sent: at most 1,024 bytes.
        reason: String,
    },
    /// It reset the stream that carried the session.
    Reset,
    /// It closed the connection under the session.
    ConnectionClosed,
    /// It fell silent, or the connection broke.
    ConnectionLost,
    /// It broke a rule of the protocol.
    ProtocolError,
}

/// The client's half of a stream: bytes to the gateway.
pub trait RecvStream: Send + 'static {
    /// Reads what is there, at least one chunk, at most `chunks.len()`. `None`: the client finished.
    ///
    /// The chunks are the transport's own buffers, not copies.
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, RecvError>>;

    /// Waits until there is something to read, and reads it. Cancel-safe.
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, RecvError>> + Send {
        poll_fn(move |cx| self.poll_read_chunks(cx, chunks))
    }

    /// Waits for the end of the stream by a reset, while nobody reads. Never resolves when the client
    /// has finished. Cancel-safe.
    fn lost(&mut self) -> impl Future<Output = RecvError> + Send;

    /// Asks the client to stop sending. Nothing can be read after it.
    fn stop(&mut self, code: u32);

    /// Lets go of the stream because the session has ended.
    fn abandon(&mut self);
}

/// Why no more bytes can be read from the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecvError {
    /// The client reset the stream; `None` if with a code that is no application code.
    #[error("client reset the stream with {0:?}")]
    Reset(Option<u32>),
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
}

/// The gateway's half of a stream: bytes to the client.
pub trait SendStream: Send + 'static {
    /// Hands over one chunk; waits while the client gives no credit. Cancel-safe, in that what the
    /// transport has not taken stays in the chunk, however the call ends.
    fn write(&mut self, chunk: &mut Bytes) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Ends the stream cleanly after the last byte.
    fn finish(&mut self);

    /// Ends the stream abnormally.
    fn reset(&mut self, code: u32);

    /// Waits until the client's transport has everything up to the end, its application perhaps not yet.
    /// False: the stream was reset, or the client does not want it or is gone. To be called once the
    /// stream has ended. Cancel-safe.
    fn delivered(&self) -> impl Future<Output = bool> + Send + 'static;

    /// Waits until the client stops reading the stream. Never resolves when the client has taken
    /// everything.
    fn stopped(&self) -> impl Future<Output = SendError> + Send + 'static;

    /// Lets go of the stream because the session has ended.
    fn abandon(&mut self);
}

/// Why no more bytes can be written to the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// The client stopped reading; `None` if with a code that is no application code.
    #[error("client stopped reading with {0:?}")]
    Stopped(Option<u32>),
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
}

/// The way for a session's datagrams to the client.
///
/// The transport's own header precedes each payload in one buffer, so that nothing is copied again:
/// write [`Datagrams::prefix`], then the payload, and hand over the whole.
pub trait Datagrams: Clone + Send + Sync + 'static {
    /// Bytes that precede each payload; 8 at most.
    fn prefix(&self) -> &[u8];

    /// Largest payload that fits now, without the prefix. It changes with the path. `None`: the client
    /// takes no datagrams, or the connection is gone.
    fn max_payload(&self) -> Option<usize>;

    /// Sends at once or not at all.
    ///
    /// # Errors
    /// Why it was not sent; a full queue gives the datagram back.
    fn try_send(&self, framed: Bytes) -> Result<(), DatagramError>;

    /// Sends when there is room. Cancel-safe: a cancelled datagram was not sent.
    fn send(&self, framed: Bytes) -> impl Future<Output = Result<(), DatagramError>> + Send;
}

/// Why a datagram was not sent to the client.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// The transport's queue is full; here is the datagram back.
    #[error("queue full")]
    Full(Bytes),
    /// Larger than the client's path allows now.
    #[error("too large for the client's path")]
    TooLarge,
    /// The client takes no datagrams, or the connection is gone.
    #[error("no way to the client")]
    Closed,
}
