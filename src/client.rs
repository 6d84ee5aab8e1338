//! A small, complete WebTransport client: for the load generator, the tests and the benches.
//!
//! It speaks to any WebTransport server, several sessions on a connection, and shows what tests want to
//! see: reset codes as they are, the header of a refusal, the end of a session. It is built on the same
//! parts as the gateway's own side ([`crate::webtransport`]); tests against other clients see to it that
//! two errors cannot cancel out.

mod connection;
mod session;
mod stream;
mod trust;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{EndpointConfig, MtuDiscoveryConfig, TokioRuntime, crypto::rustls::QuicClientConfig};
use socket2::{Domain, Protocol, Socket, Type};

pub use crate::webtransport::SessionCredit;

pub use self::{
    connection::{Connection, Refused, RequestOptions},
    session::{Closed, Session},
    stream::{RecvStream, SendStream, StreamError},
    trust::{Identity, Offer, Trust},
};

/// Bytes that a server may have in flight on a stream: 100 Mbit/s at a round trip of 100 ms.
const STREAM_WINDOW: u32 = 1_250_000;

/// Where the client's connections begin: a UDP socket. Clones share it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    connect_timeout: Duration,
    session_credit: SessionCredit,
    local: IpAddr,
    socket_buffer: usize,
}

/// How a client's connections behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which servers to believe.
    pub trust: Trust,
    /// What to show to servers that ask for a certificate. Default nothing.
    pub identity: Option<Identity>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// Silence after which a connection is given up.
    pub idle_timeout: Duration,
    /// Streams of each kind that the server may open at once.
    pub max_incoming_streams: u32,
    /// Bytes of datagrams that are kept for the application, per connection.
    pub datagram_receive_buffer: usize,
    /// Bytes that the kernel is asked to hold for the socket, each way. It grants what its limits allow
    /// (`net.core.rmem_max`) and says nothing when that is less.
    pub socket_buffer: usize,
    /// What the server may send and open in each session, ahead of what was read. All zero: no session flow
    /// control.
    pub session_credit: SessionCredit,
    /// What is asked for as the application's protocol (ALPN, RFC 7301); `None` asks for nothing. Default
    /// `h3`; another one is for [`Endpoint::connect_quic`] and [`Options::tls`].
    pub protocol: Option<&'static [u8]>,
    /// What else is offered in the handshake.
    pub offer: Offer,
    /// Whether it is tried out if the path takes larger packets (RFC 9000 section 14.3): a few probes, as soon
    /// as the handshake is over. Default yes.
    pub mtu_discovery: bool,
}

impl Options {
    /// The usual, with the given trust.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            identity: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            max_incoming_streams: 100,
            datagram_receive_buffer: 1024 * 1024,
            socket_buffer: 4 * 1024 * 1024,
            // Fifty streams that nobody reads do not hold up the others yet.
            session_credit: SessionCredit { data: 64 * 1024 * 1024, bidi: 256, uni: 256 },
            protocol: Some(b"h3"),
            offer: Offer::default(),
            mtu_discovery: true,
        }
    }

    /// How a client speaks TLS 1.3 by these options, also where there is no QUIC below it.
    ///
    /// # Errors
    /// If the trust or the identity cannot be used.
    pub fn tls(&self) -> io::Result<rustls::ClientConfig> {
        let mut tls = self.trust.client_config(self.identity.as_ref(), &self.offer)?;
        tls.alpn_protocols = self.protocol.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(tls)
    }
}

impl Endpoint {
    /// Binds a UDP socket. Must be called within a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// What the system said, or that the trust cannot be used.
    pub fn bind(local: SocketAddr, options: &Options) -> io::Result<Self> {
        let socket = socket(local, options.socket_buffer)?;
        let runtime = Arc::new(TokioRuntime);
        let mut quic = quinn::Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
        quic.set_default_client_config(client_config(options)?);
        let Options { connect_timeout, session_credit, socket_buffer, .. } = *options;
        Ok(Self { quic, connect_timeout, session_credit, local: local.ip(), socket_buffer })
    }

    /// The socket's address.
    ///
    /// # Errors
    /// What the system said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Moves all connections to another socket: what a server sees as a change of address.
    ///
    /// # Errors
    /// What the system said.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        self.quic.rebind(socket)
    }

    /// Moves all connections to a new socket, with a port that the system chooses.
    ///
    /// # Errors
    /// What the system said.
    pub fn change_address(&self) -> io::Result<()> {
        self.rebind(socket((self.local, 0).into(), self.socket_buffer)?)
    }

    /// Connects to a server and begins HTTP/3.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        &self,
        server: SocketAddr,
        server_name: &str,
    ) -> Result<Connection, ConnectError> {
        let quic = self.connect_quic(server, server_name).await?;
        Connection::begin(quic, self.session_credit).await
    }

    /// Connects to a server, and leaves to the caller what is spoken on the connection.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect_quic(
        &self,
        server: SocketAddr,
        server_name: &str,
    ) -> Result<quinn::Connection, ConnectError> {
        let connecting = self.quic.connect(server, server_name)?;
        let made = tokio::time::timeout(self.connect_timeout, connecting).await;
        Ok(made.map_err(|_elapsed| ConnectError::TimedOut)??)
    }

    /// Closes every connection and waits until the servers know.
    pub async fn close(&self) {
        self.quic.close(crate::webtransport::no_error(), b"");
        self.quic.wait_idle().await;
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The attempt could not begin.
    #[error("cannot begin to connect")]
    Begin(#[from] quinn::ConnectError),
    /// The handshake failed or the connection broke.
    #[error("connection failed")]
    Connection(#[from] quinn::ConnectionError),
    /// The server did not answer in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// The server speaks HTTP/3 but not WebTransport.
    #[error("the server does not offer WebTransport")]
    NotWebTransport,
}

fn socket(local: SocketAddr, buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        // Not every system has sockets for both families; then it is for one of them.
        _ = socket.set_only_v6(false);
    }
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

fn client_config(options: &Options) -> io::Result<quinn::ClientConfig> {
    let tls = QuicClientConfig::try_from(options.tls()?).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    let idle = options.idle_timeout.try_into().map_err(io::Error::other)?;
    transport
        .max_idle_timeout(Some(idle))
        .stream_receive_window(STREAM_WINDOW.into())
        .max_concurrent_bidi_streams(options.max_incoming_streams.into())
        .max_concurrent_uni_streams(options.max_incoming_streams.saturating_add(3).into())
        .datagram_receive_buffer_size(Some(options.datagram_receive_buffer))
        .mtu_discovery_config(options.mtu_discovery.then(MtuDiscoveryConfig::default));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
