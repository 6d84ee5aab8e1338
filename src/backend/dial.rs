//! Making a TCP connection to one endpoint.

use std::{io, net::SocketAddr};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{Endpoint, TcpConnection};
use crate::{
    config,
    metrics::EndpointMetrics,
    reason::{Refusal, StreamEnd},
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
    /// The endpoint has no address: its name does not resolve, or it has none for TCP.
    #[error("no address known")]
    Unresolved,
    /// The gateway has no local port, descriptor or memory left.
    #[error("the gateway is out of resources")]
    OutOfResources(#[source] io::Error),
    /// Anything else, such as no route to the host.
    #[error("cannot connect")]
    Failed(#[source] io::Error),
}

impl DialError {
    /// Whether the gateway is at fault, so that another endpoint would not help.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::OutOfResources(_))
    }

    /// What the client's stream is told.
    pub fn stream_end(&self) -> StreamEnd {
        if self.is_ours() { StreamEnd::OutOfResources } else { StreamEnd::BackendUnreachable }
    }

    /// What the client is told whose session would have been this connection's.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused | Self::Failed(_) => Refusal::BackendUnreachable,
            Self::Timeout => Refusal::BackendTimeout,
            Self::Unresolved => Refusal::BackendUnavailable,
            Self::OutOfResources(_) => Refusal::OutOfResources,
        }
    }

    fn count(&self, metrics: &EndpointMetrics) {
        match self {
            Self::Refused => metrics.refused.inc(),
            Self::Timeout => metrics.timeout.inc(),
            Self::Unresolved => metrics.unresolved.inc(),
            Self::OutOfResources(_) => metrics.out_of_resources.inc(),
            Self::Failed(_) => metrics.failed.inc(),
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ETIMEDOUT) => Self::Timeout,
            // EADDRNOTAVAIL from connect: every local port towards this address is taken.
            Some(
                libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL | libc::ENOBUFS | libc::ENOMEM,
            ) => Self::OutOfResources(error),
            _ => Self::Failed(error),
        }
    }
}

impl Endpoint {
    /// Connects and counts how it went.
    pub(super) async fn connect(
        &self,
        settings: &config::Backend,
    ) -> Result<TcpConnection, DialError> {
        let began = Instant::now();
        match self.try_addresses(settings).await {
            Ok(stream) => {
                self.metrics.connected.inc();
                self.metrics.connect_took(began.elapsed());
                if self.connecting.ends() {
                    info!(backend = settings.name, endpoint = self.name, "An endpoint is back.");
                }
                Ok(TcpConnection::new(stream, self.metrics.connection_opened()))
            }
            Err(error) => {
                error.count(&self.metrics);
                if self.connecting.begins() {
                    let (backend, endpoint) = (&settings.name, &self.name);
                    let error = &error as &dyn std::error::Error;
                    warn!(backend, endpoint, error, "An endpoint cannot be reached.");
                }
                Err(error)
            }
        }
    }

    /// Tries one address after the other. Each gets an equal share of the time that is left, so that
    /// one that swallows packets does not keep the others from being tried.
    async fn try_addresses(&self, settings: &config::Backend) -> Result<TcpStream, DialError> {
        let deadline = Instant::now() + settings.connect_timeout;
        let addresses = self.tcp.known();
        let mut last = DialError::Unresolved;
        for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
            let time = deadline.saturating_duration_since(Instant::now());
            let share = time / u32::try_from(left).unwrap_or(u32::MAX);
            match timeout(share, open(*address, settings)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_elapsed) => last = DialError::Timeout,
            }
        }
        Err(last)
    }
}

async fn open(address: SocketAddr, settings: &config::Backend) -> io::Result<TcpStream> {
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
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_for_a_dial_to_fail_has_its_status() {
        let failed = |errno| DialError::from(io::Error::from_raw_os_error(errno));
        for (error, why, status) in [
            (failed(libc::ECONNREFUSED), Refusal::BackendUnreachable, 502),
            (failed(libc::EHOSTUNREACH), Refusal::BackendUnreachable, 502),
            (failed(libc::ECONNRESET), Refusal::BackendUnreachable, 502),
            (failed(libc::ETIMEDOUT), Refusal::BackendTimeout, 504),
            (DialError::Timeout, Refusal::BackendTimeout, 504),
            (DialError::Unresolved, Refusal::BackendUnavailable, 503),
            (failed(libc::EMFILE), Refusal::OutOfResources, 503),
            (failed(libc::EADDRNOTAVAIL), Refusal::OutOfResources, 503),
        ] {
            assert_eq!((error.refusal(), error.refusal().status()), (why, status), "{error}");
        }
    }
}
