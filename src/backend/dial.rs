//! Making a connection to one endpoint.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    BackendConnection, TlsError,
    connection::{Stream, write_first},
    member::{Addresses, Member},
    queue::DialQueue,
    race::race,
    source::Sources,
    tls::{TlsClient, TlsStream},
    unix,
};
use crate::{
    config,
    metrics::EndpointMetrics,
    reason::{Loss, Refusal, StreamEnd},
};

/// Why an endpoint gave no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within `connect_timeout`.
    #[error("no answer in time")]
    Timeout,
    /// The endpoint has no address: its name does not resolve, or it has none for streams.
    #[error("no address known")]
    Unresolved,
    /// `dial.concurrent` connections are being made, and `dial.queue` wait for their turn.
    #[error("too many connections are being made and wait to be made")]
    QueueFull,
    /// Its turn did not come within `dial.queue_timeout`.
    #[error("too many connections are being made, and it waited too long")]
    QueueTimeout,
    /// None of the configured source addresses can be used towards this address.
    #[error("no source address of this family that this machine has")]
    NoSource(#[source] io::Error),
    /// Every local port towards this address is taken, from every source address.
    #[error("the gateway is out of local ports")]
    OutOfPorts(#[source] io::Error),
    /// The process or the system has no file descriptor left.
    #[error("the gateway is out of file descriptors")]
    OutOfDescriptors(#[source] io::Error),
    /// The system has no memory for another socket.
    #[error("the gateway is out of resources")]
    OutOfResources(#[source] io::Error),
    /// Connected, but without TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Anything else, such as no route to the host.
    #[error("cannot connect")]
    Failed(#[source] io::Error),
}

impl DialError {
    /// Whether the gateway is at fault and not the endpoint.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::QueueFull | Self::QueueTimeout | Self::NoSource(_) => true,
            Self::OutOfPorts(_) | Self::OutOfDescriptors(_) | Self::OutOfResources(_) => true,
            Self::Refused | Self::Timeout | Self::Unresolved => false,
            Self::Tls(_) | Self::Failed(_) => false,
        }
    }

    /// Whether every other endpoint would fail in the same way. Queues are per endpoint; sources and
    /// ports are towards an address.
    pub(super) fn is_everywhere(&self) -> bool {
        matches!(self, Self::OutOfDescriptors(_) | Self::OutOfResources(_))
    }

    /// Whether every other member of the endpoint would fail in the same way.
    pub(super) fn is_the_queues(&self) -> bool {
        matches!(self, Self::QueueFull | Self::QueueTimeout)
    }

    /// Whether the endpoint failed, rather than the gateway or the configuration.
    pub(super) fn is_the_endpoints(&self) -> bool {
        matches!(self, Self::Refused | Self::Timeout | Self::Tls(_) | Self::Failed(_))
    }

    /// What the client's stream is told.
    pub fn stream_end(&self) -> StreamEnd {
        match self {
            Self::QueueFull => StreamEnd::DialQueueFull,
            Self::QueueTimeout => StreamEnd::DialQueueTimeout,
            Self::OutOfPorts(_) => StreamEnd::OutOfPorts,
            Self::OutOfDescriptors(_) => StreamEnd::OutOfDescriptors,
            Self::OutOfResources(_) | Self::NoSource(_) => StreamEnd::OutOfResources,
            Self::Refused | Self::Timeout | Self::Unresolved => StreamEnd::BackendUnreachable,
            Self::Tls(_) | Self::Failed(_) => StreamEnd::BackendUnreachable,
        }
    }

    /// What the client is told whose session would have been this connection's.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused | Self::Tls(_) | Self::Failed(_) => Refusal::BackendUnreachable,
            Self::Timeout => Refusal::BackendTimeout,
            Self::Unresolved => Refusal::BackendUnavailable,
            Self::QueueFull => Refusal::DialQueueFull,
            Self::QueueTimeout => Refusal::DialQueueTimeout,
            Self::OutOfPorts(_) => Refusal::OutOfPorts,
            Self::OutOfDescriptors(_) => Refusal::OutOfDescriptors,
            Self::OutOfResources(_) | Self::NoSource(_) => Refusal::OutOfResources,
        }
    }

    /// How a datagram is lost whose socket this would have been.
    pub fn loss(&self) -> Loss {
        match self {
            Self::OutOfPorts(_) => Loss::OutOfPorts,
            Self::OutOfDescriptors(_) => Loss::OutOfDescriptors,
            Self::OutOfResources(_) | Self::NoSource(_) => Loss::OutOfResources,
            Self::Refused | Self::Timeout | Self::Unresolved => Loss::NoBackend,
            // For UDP nothing waits for its turn, and there is no TLS.
            Self::QueueFull | Self::QueueTimeout => Loss::NoBackend,
            Self::Tls(_) | Self::Failed(_) => Loss::NoBackend,
        }
    }

    /// Why a UDP socket gets no address of its own. Unlike a TCP socket, which gets its port when it
    /// connects, it gets it here.
    pub(super) fn of_udp_bind(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::OutOfPorts(error),
            Some(libc::EADDRNOTAVAIL) => Self::NoSource(error),
            _ => error.into(),
        }
    }

    fn count(&self, metrics: &EndpointMetrics) {
        let dial = &metrics.dial;
        match self {
            Self::Refused => metrics.refused.inc(),
            Self::Timeout => metrics.timeout.inc(),
            Self::Unresolved => metrics.unresolved.inc(),
            Self::QueueFull => dial.queue_full.inc(),
            Self::QueueTimeout => dial.queue_timeout.inc(),
            Self::NoSource(_) => dial.no_source.inc(),
            Self::OutOfPorts(_) => dial.out_of_ports.inc(),
            Self::OutOfDescriptors(_) => dial.out_of_descriptors.inc(),
            Self::OutOfResources(_) => metrics.out_of_resources.inc(),
            Self::Tls(_) => dial.tls_failed.inc(),
            Self::Failed(_) => metrics.failed.inc(),
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::Timeout,
            // From connect: every local port towards this address is taken.
            Some(libc::EADDRNOTAVAIL) => Self::OutOfPorts(error),
            Some(libc::EMFILE | libc::ENFILE) => Self::OutOfDescriptors(error),
            // ENOSPC: the user's sockets that may be waited for (fs.epoll.max_user_watches).
            Some(libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => Self::OutOfResources(error),
            _ => Self::Failed(error),
        }
    }
}

impl Member {
    /// Connects and counts how it went. `introduction` is what the backend reads first.
    pub(super) async fn connect(
        &self,
        dialler: &Dialler,
        settings: &config::Backend,
        introduction: &[u8],
    ) -> Result<BackendConnection, DialError> {
        let metrics = &self.endpoint().metrics;
        let (backend, endpoint) = (&settings.name, self.endpoint().name());
        match dialler.dial(&self.addresses(), settings, introduction).await {
            Ok(connection) => {
                metrics.connected.inc();
                if self.connecting.ends() {
                    info!(backend, endpoint, "An endpoint is back.");
                }
                Ok(connection)
            }
            Err(error) => {
                error.count(metrics);
                if self.connecting.begins() {
                    let addresses = self.addresses();
                    let error = &error as &dyn std::error::Error;
                    warn!(backend, endpoint, %addresses, error, "An endpoint cannot be reached.");
                }
                Err(error)
            }
        }
    }
}

/// What dialling one endpoint needs beside its addresses, and what bounds it.
#[derive(Debug)]
pub(super) struct Dialler {
    queue: DialQueue,
    sources: Arc<Sources>,
    tls: Option<TlsClient>,
    metrics: EndpointMetrics,
}

impl Dialler {
    pub(super) fn new(
        settings: &config::Backend,
        endpoint: &config::Endpoint,
        sources: Arc<Sources>,
        metrics: EndpointMetrics,
    ) -> Self {
        let tls = settings.tls.as_ref().zip(endpoint.tcp.as_ref()).map(|(tls, tcp)| TlsClient {
            settings: Arc::clone(tls.client()),
            server: tls.server(tcp).expect("the configuration was checked against every endpoint"),
        });
        let queue = DialQueue::new(&settings.dial, metrics.dial.clone());
        Self { queue, sources, tls, metrics }
    }

    /// Where connections and datagrams come from.
    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Waits for a turn, then connects to the Unix socket, or to the first address that answers. Counts
    /// nothing but time and gauges.
    pub(super) async fn dial(
        &self,
        addresses: &Addresses,
        settings: &config::Backend,
        introduction: &[u8],
    ) -> Result<BackendConnection, DialError> {
        let _turn = self.queue.turn().await?;
        let began = Instant::now();
        let connect = self.connect(addresses, settings, introduction);
        // A dial that is given up leaves nothing behind: its sockets linger for no time.
        let stream =
            timeout(settings.connect_timeout, connect).await.unwrap_or(Err(DialError::Timeout))?;
        self.metrics.connect_took(began.elapsed());
        Ok(BackendConnection::new(stream, self.metrics.connection_opened()))
    }

    async fn connect(
        &self,
        addresses: &Addresses,
        settings: &config::Backend,
        introduction: &[u8],
    ) -> Result<Stream, DialError> {
        if let Some(path) = &addresses.unix {
            let stream = unix::connect(path).await?;
            write_first(introduction, |bytes| stream.try_write(bytes))?;
            return Ok(Stream::Unix(stream));
        }
        let stream = race(&addresses.tcp, |address| open(address, settings, &self.sources)).await?;
        write_first(introduction, |bytes| stream.try_write(bytes))?;
        match &self.tls {
            None => Ok(Stream::Tcp(stream)),
            Some(client) => Ok(Stream::Tls(Box::new(TlsStream::connect(stream, client).await?))),
        }
    }
}

/// Connects to one address, from the first source that has a port left.
async fn open(
    address: SocketAddr,
    settings: &config::Backend,
    sources: &Sources,
) -> Result<TcpStream, DialError> {
    let mut last = DialError::NoSource(io::ErrorKind::AddrNotAvailable.into());
    for source in sources.towards(address) {
        let socket = socket(address, settings)?;
        if let Some(Err(error)) = source.map(|source| sources.bind(&socket, source)) {
            // Perhaps an address that moves between machines and is elsewhere now.
            last = DialError::NoSource(error);
            continue;
        }
        match socket.connect(address).await.map_err(DialError::from) {
            Err(taken @ DialError::OutOfPorts(_)) => last = taken,
            ended => return ended,
        }
    }
    Err(last)
}

fn socket(address: SocketAddr, settings: &config::Backend) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // From the first moment on, so that a dial which is given up, and a gateway that is killed, reset what
    // they leave behind: FIN is sent only where it is meant.
    socket.set_zero_linger()?;
    socket.set_nodelay(settings.nodelay)?;
    let keepalive = TcpKeepalive::new()
        .with_time(settings.keepalive.idle)
        .with_interval(settings.keepalive.interval)
        .with_retries(settings.keepalive.probes);
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(settings.user_timeout))?;
    Ok(socket)
}

#[cfg(test)]
pub(crate) mod tests;
