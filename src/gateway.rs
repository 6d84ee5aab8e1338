//! Assembly: binds everything, runs everything, stops everything. The one room that knows all others.

use std::net::SocketAddr;

use crate::{
    config::Config,
    edge::{BoundAddress, CertificateInfo},
    lifecycle::Lifecycle,
    metrics::Metrics,
};

/// A gateway whose sockets are bound and whose files are read, but which does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
}

impl Gateway {
    /// Binds every socket and reads every file that the configuration names.
    ///
    /// # Errors
    /// What could not be bound or read.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Ok(Self { config })
    }

    /// Starts to serve: workers on threads of their own, the control side on this runtime.
    pub fn start(self) -> Running {
        todo!("{:?}", self.config)
    }
}

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound: exit code 71.
    #[error("cannot bind {what} {address}")]
    Bind {
        /// Which listener.
        what: String,
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key cannot be used: exit code 78.
    #[error("listener {listener}: {message}")]
    Certificate {
        /// Which listener.
        listener: String,
        /// What is wrong and with which file.
        message: String,
    },
    /// The system refused something else: exit code 71.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<BoundAddress>,
    certificates: Vec<CertificateInfo>,
    admin: Option<SocketAddr>,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

impl Running {
    /// The UDP addresses that were bound, with real ports.
    pub fn quic_addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// The certificates in use.
    pub fn certificates(&self) -> &[CertificateInfo] {
        &self.certificates
    }

    /// The admin listener's address, with its real port.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Every number of this gateway.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The stages of this gateway.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Drains as configured, then ends what is left. When `hurry` resolves, the rest of the waiting is
    /// skipped.
    pub async fn shut_down(self, hurry: impl Future<Output = ()>) -> Drained {
        hurry.await;
        todo!()
    }
}

/// How the gateway stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Sessions that were still there at the end and were cut.
    pub cut: u64,
}
