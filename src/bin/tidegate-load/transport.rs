//! The ways to a server, as the scenarios know them: sockets, connections, sessions, streams, datagrams.
//!
//! Scenarios do not know what they drive. Behind the names stand WebTransport, and for `--direct` bare QUIC, TLS
//! or TCP, whose streams are connections, and UDP. What one of them lacks ([`Scheme::has`]) is never asked of it,
//! as the command line is refused before.
//!
//! What always holds: a stream that is dropped before its end was reached is reset or was given up by the caller;
//! a [`Failure`] says what went wrong in the same words for all.

mod plain;
mod webtransport;

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
};

use bytes::{Bytes, BytesMut};
use tidegate::{
    backend::tls::TlsClient,
    client::{self, Endpoint, Options},
};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout},
};

use self::plain::{PlainReader, PlainStream, PlainWriter};
use crate::{
    run::{Load, chain},
    tally::{Failure, Kind, Tally, Timed},
    target::Scheme,
};

/// The application protocol of bare QUIC.
const BARE: &[u8] = b"tidegate-bench";

/// Largest payload of a UDP datagram over IPv4.
const MAX_UDP_BYTES: usize = 65_507;

/// Where a worker's connections begin. For TCP and UDP that is the kernel, which gives each a socket.
#[derive(Debug)]
pub(crate) enum Socket {
    WebTransport(Endpoint),
    Quic(Endpoint),
    Stream(Rc<Dialer>),
    Udp(SocketAddr),
}

/// How TCP connections are made.
#[derive(Debug)]
pub(crate) struct Dialer {
    address: SocketAddr,
    tls: Option<TlsClient>,
}

impl Socket {
    /// Binds so many. They live on the runtime of the caller.
    pub(crate) fn bind(load: &Load, sockets: u32) -> io::Result<Vec<Self>> {
        let target = &load.target;
        let local = match target.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let mut options = Options::new(target.trust.clone());
        options.offer = target.offer.clone();
        options.mtu_discovery = target.mtu_discovery;
        options.connect_timeout = load.timeout;
        // Long enough that a stalled stream is told as such before its connection is.
        options.idle_timeout = options.idle_timeout.max(load.timeout.saturating_mul(2));
        options.protocol = match target.scheme {
            Scheme::Https => options.protocol,
            Scheme::Quic => Some(BARE),
            Scheme::Tls | Scheme::Tcp | Scheme::Udp => None,
        };
        let tls = match target.scheme {
            Scheme::Tls => Some(TlsClient {
                settings: options.tls()?.into(),
                server: target.server_name.clone().try_into().map_err(io::Error::other)?,
            }),
            _ => None,
        };
        let dialer = Rc::new(Dialer { address: target.address, tls });
        let one = |_| match target.scheme {
            Scheme::Https => Endpoint::bind(local, &options).map(Self::WebTransport),
            Scheme::Quic => Endpoint::bind(local, &options).map(Self::Quic),
            Scheme::Tls | Scheme::Tcp => Ok(Self::Stream(Rc::clone(&dialer))),
            Scheme::Udp => Ok(Self::Udp(target.address)),
        };
        (0..sockets).map(one).collect()
    }

    /// Makes a connection and counts it. With `ahead`, TCP has its first connection then; else each stream makes
    /// its own.
    pub(crate) async fn connect(
        &self,
        load: &Load,
        ahead: bool,
        tally: &Tally,
    ) -> Result<Connection, Failure> {
        let begun = Instant::now();
        // Else there was nothing that the server would know of.
        let is_told = match self {
            Self::WebTransport(_) | Self::Quic(_) => true,
            Self::Stream(_) => ahead,
            Self::Udp(_) => false,
        };
        let (server, name) = (load.target.address, &load.target.server_name);
        let made = match self {
            Self::WebTransport(endpoint) => match endpoint.connect(server, name).await {
                Ok(connection) => Ok(Connection::WebTransport(connection)),
                Err(error) => Err(chain(&error)),
            },
            Self::Quic(endpoint) => match endpoint.connect_quic(server, name).await {
                Ok(connection) => Ok(Connection::Quic(connection)),
                Err(error) => Err(chain(&error)),
            },
            Self::Stream(dialer) if ahead => match timeout(load.timeout, dialer.dial()).await {
                Ok(dialled) => dialled
                    .map(|stream| Connection::Stream(Rc::clone(dialer), Cell::new(Some(stream)))),
                Err(_elapsed) => Err(format!("no connection in {:?}", load.timeout)),
            },
            Self::Stream(dialer) => Ok(Connection::Stream(Rc::clone(dialer), Cell::default())),
            Self::Udp(server) => match plain::udp(*server).await {
                Ok(socket) => Ok(Connection::Udp(Cell::new(Some(socket)))),
                Err(error) => Err(error.to_string()),
            },
        };
        match made {
            Ok(connection) => {
                if is_told {
                    tally.took(Timed::Handshake, begun.elapsed());
                }
                tally.count().connections.inc();
                Ok(connection)
            }
            Err(what) => {
                tally.count().connections_failed.inc();
                Err(Failure::new(Kind::Handshake, what))
            }
        }
    }

    /// Moves all connections to another address.
    pub(crate) fn change_address(&self) -> io::Result<()> {
        match self {
            Self::WebTransport(endpoint) | Self::Quic(endpoint) => endpoint.change_address(),
            Self::Stream(_) | Self::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Closes every connection and waits until the servers know.
    pub(crate) async fn close(&self) {
        match self {
            Self::WebTransport(endpoint) | Self::Quic(endpoint) => endpoint.close().await,
            // Each is closed by who has it.
            Self::Stream(_) | Self::Udp(_) => {}
        }
    }
}

impl Dialer {
    async fn dial(&self) -> Result<PlainStream, String> {
        PlainStream::connect(self.address, self.tls.as_ref()).await
    }
}

/// A connection that has been made, for sessions. But for WebTransport it is for one.
pub(crate) enum Connection {
    WebTransport(client::Connection),
    Quic(quinn::Connection),
    /// With the connection that was made ahead.
    Stream(Rc<Dialer>, Cell<Option<PlainStream>>),
    Udp(Cell<Option<UdpSocket>>),
}

impl Connection {
    /// Opens a session and counts it. Only WebTransport has something to ask the server for.
    pub(crate) async fn open_session(
        &self,
        load: &Load,
        tally: &Tally,
    ) -> Result<Session, Failure> {
        let session = match self {
            Self::WebTransport(connection) => {
                let begun = Instant::now();
                let session = webtransport::open(connection, load).await?;
                tally.took(Timed::Session, begun.elapsed());
                let connection = connection.clone();
                Session::WebTransport { connection, session: Box::new(session) }
            }
            Self::Quic(connection) => Session::Quic(connection.clone()),
            Self::Stream(dialer, ahead) => {
                Session::Stream(Rc::clone(dialer), Cell::new(ahead.take()))
            }
            Self::Udp(socket) => match socket.take() {
                Some(socket) => Session::Udp(socket),
                None => return Err(Failure::new(Kind::Handshake, "the socket is in use")),
            },
        };
        tally.count().sessions_opened.inc();
        Ok(session)
    }
}

/// Where streams are opened and datagrams sent.
pub(crate) enum Session {
    WebTransport { connection: client::Connection, session: Box<client::Session> },
    Quic(quinn::Connection),
    Stream(Rc<Dialer>, Cell<Option<PlainStream>>),
    Udp(UdpSocket),
}

impl Session {
    /// Opens a stream; waits while the server gives no credit.
    pub(crate) async fn open_bidi(&self) -> Result<(SendStream, RecvStream), Failure> {
        match self {
            Self::WebTransport { session, .. } => {
                let (send, recv) = session.open_bidi().await?;
                Ok((SendStream::WebTransport(send), RecvStream::WebTransport(recv)))
            }
            Self::Quic(connection) => {
                let opened = connection.open_bi().await;
                let (send, recv) =
                    opened.map_err(|error| Failure::new(Kind::StreamLost, chain(&error)))?;
                Ok((SendStream::Quic(send), RecvStream::Quic(recv)))
            }
            Self::Stream(dialer, ahead) => {
                let stream = match ahead.take() {
                    Some(stream) => stream,
                    None => {
                        let dialled = dialer.dial().await;
                        dialled.map_err(|what| Failure::new(Kind::StreamLost, what))?
                    }
                };
                let (send, recv) = stream.split();
                Ok((SendStream::Plain(send), RecvStream::Plain(recv)))
            }
            Self::Udp(_) => Err(Failure::new(Kind::StreamLost, "UDP has no streams")),
        }
    }

    /// Sends a datagram when there is room for it. Cancel-safe. Why not, in words.
    pub(crate) async fn send_datagram(&self, payload: &[u8]) -> Result<(), String> {
        match self {
            Self::WebTransport { session, .. } => {
                session.send_datagram_wait(payload).await.map_err(|error| chain(&error))
            }
            Self::Quic(connection) => {
                let payload = Bytes::copy_from_slice(payload);
                connection.send_datagram_wait(payload).await.map_err(|error| chain(&error))
            }
            Self::Udp(socket) => {
                socket.send(payload).await.map(drop).map_err(|error| error.to_string())
            }
            Self::Stream(..) => Err("TCP has no datagrams".to_owned()),
        }
    }

    /// Waits for a datagram. Cancel-safe. `None`: none comes any more.
    pub(crate) async fn read_datagram(&self) -> Option<Bytes> {
        match self {
            Self::WebTransport { session, .. } => session.read_datagram().await,
            Self::Quic(connection) => connection.read_datagram().await.ok(),
            Self::Udp(socket) => plain::receive(socket).await.ok(),
            Self::Stream(..) => None,
        }
    }

    /// Largest payload of a datagram that fits now; 0 if none does.
    pub(crate) fn max_datagram_payload(&self) -> usize {
        match self {
            Self::WebTransport { session, .. } => session.max_datagram_payload().unwrap_or(0),
            Self::Quic(connection) => connection.max_datagram_size().unwrap_or(0),
            Self::Udp(_) => MAX_UDP_BYTES,
            Self::Stream(..) => 0,
        }
    }

    /// Resolves when the session has ended without being asked to. For TCP and UDP its streams and datagrams tell.
    pub(crate) async fn cut(&self) -> Failure {
        match self {
            Self::WebTransport { connection, session } => {
                webtransport::cut(connection, &session.closed().await)
            }
            Self::Quic(connection) => {
                let what = format!("the connection ended: {}", chain(&connection.closed().await));
                Failure::new(Kind::SessionCut, what)
            }
            Self::Stream(..) | Self::Udp(_) => std::future::pending().await,
        }
    }

    /// Ends the session, which a WebTransport server has to answer.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        match self {
            Self::WebTransport { connection, session } => {
                webtransport::close(&connection, *session).await
            }
            Self::Quic(connection) => {
                connection.close(0_u32.into(), b"");
                Ok(())
            }
            Self::Stream(_, ahead) => {
                if let Some(stream) = ahead.take() {
                    stream.split().0.finish().await;
                }
                Ok(())
            }
            Self::Udp(_) => Ok(()),
        }
    }
}

/// This side's half of a stream.
pub(crate) enum SendStream {
    WebTransport(client::SendStream),
    Quic(quinn::SendStream),
    Plain(PlainWriter),
}

impl SendStream {
    /// Writes a chunk, without copying it where that can be.
    pub(crate) async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), Failure> {
        match self {
            Self::WebTransport(stream) => Ok(stream.write_chunk(chunk).await?),
            Self::Quic(stream) => match stream.write_chunk(chunk).await {
                Ok(()) => Ok(()),
                Err(quinn::WriteError::Stopped(code)) => Err(reset(code.into_inner())),
                Err(error) => Err(Failure::new(Kind::StreamLost, chain(&error))),
            },
            Self::Plain(stream) => Ok(stream.write(&chunk).await?),
        }
    }

    /// Ends the stream cleanly. An error says that the server does not want it, which reading tells as well.
    pub(crate) async fn finish(&mut self) {
        match self {
            Self::WebTransport(stream) => stream.finish(),
            Self::Quic(stream) => _ = stream.finish(),
            Self::Plain(stream) => stream.finish().await,
        }
    }

    /// Ends the stream abnormally, with an application's code where there are codes.
    pub(crate) fn reset(&mut self, code: u32) {
        match self {
            Self::WebTransport(stream) => stream.reset(code),
            // An error says that the stream has ended already.
            Self::Quic(stream) => _ = stream.reset(code.into()),
            Self::Plain(stream) => stream.reset(),
        }
    }
}

/// The server's half of a stream.
pub(crate) enum RecvStream {
    WebTransport(client::RecvStream),
    Quic(quinn::RecvStream),
    Plain(PlainReader),
}

impl RecvStream {
    /// Reads what comes next. `None`: the server finished.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::WebTransport(stream) => Ok(stream.read().await?),
            Self::Quic(stream) => match stream.read_chunk(usize::MAX, true).await {
                Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
                Err(quinn::ReadError::Reset(code)) => Err(reset(code.into_inner())),
                Err(error) => Err(Failure::new(Kind::StreamLost, chain(&error))),
            },
            Self::Plain(stream) => Ok(stream.read().await?.map(BytesMut::freeze)),
        }
    }

    /// Asks the server to stop sending, with an application's code where there are codes. TCP can only be reset,
    /// by the other half.
    pub(crate) fn stop(&mut self, code: u32) {
        match self {
            Self::WebTransport(stream) => stream.stop(code),
            // An error says that the stream has ended already.
            Self::Quic(stream) => _ = stream.stop(code.into()),
            Self::Plain(_) => {}
        }
    }
}

fn reset(code: u64) -> Failure {
    let what = format!("ended by the server with code {code}");
    Failure::new(Kind::StreamReset(u32::try_from(code).ok()), what)
}

impl From<client::StreamError> for Failure {
    fn from(error: client::StreamError) -> Self {
        use client::StreamError::{Ended, Lost, Protocol, Rejected, SessionGone};
        let kind = match error {
            Lost | SessionGone => Kind::StreamLost,
            Ended(code) => Kind::StreamReset(Some(code)),
            Rejected | Protocol(_) => Kind::StreamReset(None),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::StreamReset(None),
            _ => Kind::StreamLost,
        };
        Self::new(kind, chain(&error))
    }
}
