//! The edge: UDP packets become accepted QUIC connections.
//!
//! What it does: binds the sockets of all listeners, runs the workers, decides who is let in, does the
//! handshake, and hands each connection to a task on the worker that it will live on.
//!
//! What it hides: quinn's endpoints, rustls, sockets and their options; connection ids and the kernel
//! program that steers by them; keys; certificates.
//!
//! In goes a valid configuration, out come [`Accepted`] connections. First everything is bound, by one
//! thread and in order ([`Edge::bind`]); then everything runs ([`Edge::start`]).
//!
//! What always holds:
//! - A packet of a live connection reaches that connection's worker, whatever address it comes from,
//!   unless the system cannot steer; then there is one worker.
//! - A packet that came to the wrong place is dropped, never answered with a stateless reset.
//! - One task per connection, begun by [`Lifecycle::spawn`], from its handshake to its end.
//! - Nothing new is let in once the process drains.
//!
//! Specifications: RFC 9000 (5.1, 8.1, 9, 10.3), RFC 9001, draft-ietf-quic-load-balancers section 5.

mod admission;
mod certificate;
mod cid;
mod crypto;
mod keys;
mod quic;
mod runtime;
mod sample;
mod socket;
mod sockopt;
mod steering;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod worker;

use std::{collections::HashSet, io, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use rustls::pki_types::UnixTime;
use tracing::{info, warn};

use self::{
    admission::{Admission, Counts},
    certificate::Certificate,
    cid::Layout,
    keys::Keys,
    socket::{Buffers, Group},
    tls::Certificates,
    worker::Worker,
};
pub use self::{
    certificate::{CertificateError, SelfSigned, self_signed},
    sample::Sampler,
    worker::Workers,
};
use crate::{
    config::{self, CertificateSource, Config, Secret},
    lifecycle::Lifecycle,
    limit::Clients,
    metrics::{ListenerMetrics, Metrics},
};

/// Bound sockets and loaded certificates; nothing is served yet.
#[derive(Debug)]
pub struct Edge {
    addresses: Vec<BoundAddress>,
    certificates: Vec<CertificateInfo>,
    listeners: Vec<Arc<Listener>>,
    groups: Vec<(Arc<Listener>, Group)>,
    layout: Layout,
    workers: u8,
    keys: Keys,
    handshake_timeout: Duration,
}

/// A connection whose handshake is done, on the worker that serves it.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub connection: quinn::Connection,
    /// The name of the listener that it came to.
    pub listener: Arc<str>,
    /// The address that it came to.
    pub address: SocketAddr,
    /// The index of the worker: this task runs on its thread.
    pub worker: u8,
}

/// A UDP address that a listener is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundAddress {
    /// The listener's name.
    pub listener: String,
    /// The address, with its real port.
    pub address: SocketAddr,
}

/// A certificate in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateInfo {
    /// The listener's name.
    pub listener: String,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// SHA-256 of the leaf's DER: what `serverCertificateHashes` wants.
    pub sha256: [u8; 32],
    /// When it ends, Unix time.
    pub not_after: i64,
    /// Whether the gateway made it itself.
    pub self_signed: bool,
}

/// Why the edge cannot be bound or started.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A socket could not be bound.
    #[error("cannot bind listener {listener} to {address}")]
    Bind {
        /// Which listener.
        listener: String,
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A listener's certificate cannot be used.
    #[error("listener {listener}")]
    Certificate {
        /// Which listener.
        listener: String,
        /// What is wrong, and with which file.
        #[source]
        source: CertificateError,
    },
    /// The system refused something else.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What the workers share of one listener.
#[derive(Debug)]
struct Listener {
    name: Arc<str>,
    server_config: quinn::ServerConfig,
    certificates: Arc<Certificates>,
    admission: Admission,
    metrics: ListenerMetrics,
}

impl Edge {
    /// Reads every certificate and binds every socket of every listener, in order.
    ///
    /// # Errors
    /// The first certificate that cannot be used or address that cannot be bound.
    pub fn bind(config: &Config, metrics: &Metrics) -> Result<Self, EdgeError> {
        let config::Server { secret, previous_secret, .. } = &config.server;
        let [secret, previous] = [secret, previous_secret].map(|s| s.as_ref().map(Secret::expose));
        let keys = Keys::new(secret, previous)
            .map_err(|source| EdgeError::System { what: "make random keys", source })?;
        let wanted = wanted_workers(config.server.workers);

        let (mut listeners, mut certificates, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for settings in &config.listeners {
            let loaded = load(settings).map_err(|mut errors| errors.swap_remove(0))?;
            certificates.extend(announce(&settings.name, &loaded.all, metrics));
            listeners.push(Arc::new(listener(settings, loaded, config, &keys, metrics)));
        }
        for (settings, listener) in config.listeners.iter().zip(&listeners) {
            for group in bind_all(settings, wanted, &listener.metrics)? {
                groups.push((Arc::clone(listener), group));
            }
        }

        let workers = steer(&mut groups, wanted, &config.server);
        let addresses = groups.iter().map(|(listener, group)| BoundAddress {
            listener: listener.name.to_string(),
            address: group.address,
        });
        Ok(Self {
            addresses: addresses.collect(),
            certificates,
            layout: Layout::new(config.server.config_id, &config.server.server_id, workers),
            listeners,
            groups,
            workers,
            keys,
            handshake_timeout: config.timeouts.handshake,
        })
    }

    /// The addresses that were bound, with real ports, in the order of the configuration.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// The certificates in use, in the order of the configuration.
    pub fn certificates(&self) -> &[CertificateInfo] {
        &self.certificates
    }

    /// How many workers there will be: as configured, or one where the kernel cannot steer.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// Starts the workers. Each connection's handshake and then `serve` run in one task of
    /// `lifecycle`, on the connection's worker. `clients` says whether its address may have it.
    ///
    /// # Errors
    /// The system gave no thread, or no runtime for it.
    pub fn start<F, Fut>(
        self,
        lifecycle: &Lifecycle,
        clients: &Arc<Clients>,
        serve: F,
    ) -> Result<Workers, EdgeError>
    where
        F: Fn(Accepted) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let counts = Arc::new(Counts::default());
        let mut workers: Vec<_> = (0..self.workers)
            .map(|index| Worker {
                index,
                sockets: Vec::new(),
                endpoint_config: quic::endpoint_config(&self.layout, index, &self.keys),
                counts: Arc::clone(&counts),
                clients: Arc::clone(clients),
                handshake_timeout: self.handshake_timeout,
                lifecycle: lifecycle.clone(),
                serve: serve.clone(),
            })
            .collect();
        for (listener, group) in self.groups {
            for (worker, socket) in workers.iter_mut().zip(group.sockets) {
                worker.sockets.push((Arc::clone(&listener), socket));
            }
        }
        Workers::start(workers, self.listeners)
            .map_err(|source| EdgeError::System { what: "start the workers", source })
    }
}

impl Workers {
    /// Reads the certificate files of all running listeners again, and uses them for new handshakes.
    /// Nothing changes when one of them cannot be used. Listeners that do not run are left out, and so
    /// are self-signed certificates: clients know them by their hash. Yields the certificates of those
    /// listeners that have new ones.
    ///
    /// # Errors
    /// Each certificate that cannot be used.
    pub fn reload_certificates(
        &self,
        config: &Config,
        metrics: &Metrics,
    ) -> Result<Vec<CertificateInfo>, Vec<EdgeError>> {
        let (mut reloaded, mut errors) = (Vec::new(), Vec::new());
        for settings in &config.listeners {
            let running = self.listeners.iter().find(|running| *running.name == *settings.name);
            if let (Some(running), CertificateSource::Files(_)) = (running, &settings.certificate) {
                match load(settings) {
                    Ok(loaded) => reloaded.push((running, loaded)),
                    Err(unusable) => errors.extend(unusable),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let before: Vec<_> = self.certificate_labels().collect();
        let mut infos = Vec::new();
        for (listener, Loaded { all, chosen }) in reloaded {
            listener.certificates.swap(chosen);
            infos.extend(announce(&listener.name, &all, metrics));
        }
        let now: HashSet<_> = self.certificate_labels().collect();
        for gone in before.iter().filter(|label| !now.contains(*label)) {
            metrics.forget_certificate(gone);
        }
        Ok(infos)
    }

    fn certificate_labels(&self) -> impl Iterator<Item = String> {
        self.listeners.iter().flat_map(|listener| listener.certificates.labels())
    }
}

/// As configured, as far as the connection ids can name them and the system can steer.
fn wanted_workers(configured: NonZeroU32) -> u8 {
    if !steering::AVAILABLE {
        return 1;
    }
    u8::try_from(configured.get()).unwrap_or(u8::MAX).min(cid::MAX_WORKERS)
}

fn listener(
    settings: &config::Listener,
    certificates: Loaded,
    config: &Config,
    keys: &Keys,
    metrics: &Metrics,
) -> Listener {
    let certificates = Arc::new(certificates.chosen);
    let tls = tls::server_config(Arc::clone(&certificates), keys);
    Listener {
        name: settings.name.as_str().into(),
        server_config: quic::server_config(tls, keys, &settings.transport),
        certificates,
        admission: Admission::new(settings.retry, &config.limits),
        metrics: metrics.listener(&settings.name),
    }
}

/// A listener's certificates, one by one and ready to choose from.
struct Loaded {
    all: Vec<Certificate>,
    chosen: Certificates,
}

/// # Errors
/// At least one.
fn load(settings: &config::Listener) -> Result<Loaded, Vec<EdgeError>> {
    let unusable = |source| EdgeError::Certificate { listener: settings.name.clone(), source };
    let all = certificate::load(&settings.name, &settings.certificate)
        .map_err(|errors| errors.into_iter().map(unusable).collect::<Vec<_>>())?;
    let chosen = Certificates::new(&all).ok_or_else(|| vec![unusable(CertificateError::None)])?;
    Ok(Loaded { all, chosen })
}

/// Says which certificates are in use from now on.
fn announce(listener: &str, loaded: &[Certificate], metrics: &Metrics) -> Vec<CertificateInfo> {
    let announce = |certificate: &Certificate| {
        let Certificate { leaf, label, .. } = certificate;
        metrics.set_certificate_expiry(label, leaf.not_after);
        if leaf.not_after < unix_now() {
            warn!(listener, certificate = %label, "This certificate has ended.");
        }
        CertificateInfo {
            listener: listener.to_owned(),
            names: leaf.names.clone(),
            sha256: leaf.sha256,
            not_after: leaf.not_after,
            self_signed: certificate.self_signed,
        }
    };
    loaded.iter().map(announce).collect()
}

fn unix_now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// Binds all addresses of a listener, and says what buffers its sockets got.
fn bind_all(
    settings: &config::Listener,
    workers: u8,
    metrics: &ListenerMetrics,
) -> Result<Vec<Group>, EdgeError> {
    let asked = Buffers {
        receive: settings.transport.receive_buffer.as_usize(),
        send: settings.transport.send_buffer.as_usize(),
    };
    let mut groups = Vec::new();
    for &address in &settings.quic {
        let group = Group::bind(address, workers, asked).map_err(|source| EdgeError::Bind {
            listener: settings.name.clone(),
            address,
            source,
        })?;
        groups.push(group);
    }
    // The limits are the system's, so all sockets got the same.
    if let Some(Group { granted, .. }) = groups.first() {
        report_buffers(&settings.name, asked, *granted, metrics);
    }
    Ok(groups)
}

fn report_buffers(listener: &str, asked: Buffers, granted: Buffers, metrics: &ListenerMetrics) {
    let table = [
        ("receive", asked.receive, granted.receive, &metrics.receive_buffer, "rmem_max"),
        ("send", asked.send, granted.send, &metrics.send_buffer, "wmem_max"),
    ];
    for (kind, asked, granted, gauge, limit) in table {
        gauge.set(i64::try_from(granted).unwrap_or(i64::MAX));
        if granted < asked {
            warn!(
                listener,
                kind,
                asked,
                granted,
                "The kernel granted a smaller buffer to UDP sockets; bursts may be lost. \
                 To change that: sysctl -w net.core.{limit}={asked}"
            );
        } else {
            info!(listener, kind, granted, "The kernel granted the buffer of UDP sockets.");
        }
    }
}

/// Makes the kernel steer, and returns how many workers there can be.
///
/// Without steering a client that changes its address would lose its connection at every worker but
/// one; a gateway with one worker is slower, but right.
fn steer(groups: &mut [(Arc<Listener>, Group)], workers: u8, server: &config::Server) -> u8 {
    if workers == 1 {
        return workers;
    }
    if !server.steering {
        warn!("Steering is off: a client that changes its address may lose its connection.");
        return workers;
    }
    let home_offset = Layout::new(server.config_id, &server.server_id, workers).home_offset();
    let attached =
        groups.iter().try_for_each(|(_, group)| steering::attach(&group.sockets[0], home_offset));
    match attached {
        Ok(()) => workers,
        Err(error) => {
            warn!(%error, "The kernel cannot steer packets to workers; going on with one worker.");
            for (_, group) in groups {
                group.sockets.truncate(1);
            }
            1
        }
    }
}
