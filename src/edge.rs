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
mod clients;
mod crypto;
mod expiry;
mod keys;
mod listeners;
mod probe;
mod quic;
mod quic_socket;
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

use std::{
    io,
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use self::{
    admission::{Admission, Counts},
    cid::Layout,
    keys::Keys,
    socket::{Buffers, Group},
    tls::{Certificates, Chosen},
    worker::Worker,
};
pub use self::{
    certificate::{CertificateError, SelfSigned, self_signed},
    listeners::{Listeners, Prepared},
    probe::{
        CertificateFacts, GrantedBuffers, Offload, inspect_certificates, probe_address,
        probe_buffers, probe_offload, probe_steering,
    },
    sample::Sampler,
    worker::Workers,
};
use crate::{
    config::{self, Config, Secret},
    lifecycle::Lifecycle,
    limit::{Clients, Memory},
    metrics::{ListenerMetrics, Metrics},
};

/// Bound sockets and loaded certificates; nothing is served yet.
#[derive(Debug)]
pub struct Edge {
    addresses: Vec<BoundAddress>,
    listeners: Listeners,
    groups: Vec<(Arc<Listener>, Group)>,
    layout: Layout,
    workers: u8,
    keys: Keys,
}

/// A connection that was let in, on the worker that serves it.
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

/// What is done with connections, on their workers.
pub trait Serve: Clone + Send + Sync + 'static {
    /// What [`Serve::serve`] is to know of the greeting.
    type Greeted: Send;

    /// Says what a client may hear while its handshake still goes on, before it has proved anything; a client that
    /// has to show a certificate hears it once it has. Must not block.
    fn greet(&self, accepted: &Accepted) -> Self::Greeted;

    /// Serves a connection whose handshake is done, until it ends.
    fn serve(&self, accepted: Accepted, greeted: Self::Greeted) -> impl Future<Output = ()> + Send;
}

/// Without a greeting.
impl<F, Fut> Serve for F
where
    F: Fn(Accepted) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    type Greeted = ();

    fn greet(&self, _: &Accepted) {}

    fn serve(&self, accepted: Accepted, (): ()) -> impl Future<Output = ()> + Send {
        self(accepted)
    }
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
    /// When it begins to be valid, Unix time.
    pub not_before: i64,
    /// When it ends, Unix time.
    pub not_after: i64,
    /// Whether the gateway made it itself.
    pub self_signed: bool,
    /// What will come in its place: known ahead where the gateway makes it.
    pub next: Option<NextCertificate>,
}

/// A certificate that is not in use yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NextCertificate {
    /// SHA-256 of the leaf's DER.
    pub sha256: [u8; 32],
    /// When it begins to be valid, Unix time. It is used an hour later, for clients whose clock is behind.
    pub not_before: i64,
    /// When it ends, Unix time.
    pub not_after: i64,
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
    certificates: Arc<Certificates>,
    /// Where clients are asked for certificates of their own.
    clients: Option<Arc<clients::Verifier>>,
    live: ArcSwap<Live>,
    metrics: ListenerMetrics,
}

/// What a configuration can change while it runs. Connections keep what they began with.
#[derive(Debug)]
struct Live {
    server_config: Arc<quinn::ServerConfig>,
    transport: config::Transport,
    admission: Admission,
    handshake_timeout: Duration,
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

        let now = SystemTime::now();
        let (mut listeners, mut groups) = (Vec::new(), Vec::new());
        for settings in &config.listeners {
            let chosen = listeners::load(&settings.name, &settings.certificate, now)
                .map_err(|mut errors| errors.swap_remove(0))?;
            listeners.push(Arc::new(listener(settings, chosen, config, &keys, metrics)));
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
        let listeners = Listeners::new(listeners);
        listeners.show_expiry(metrics, &[]);
        listeners.warn_of_expiry(now);
        Ok(Self {
            addresses: addresses.collect(),
            layout: Layout::new(config.server.config_id, &config.server.server_id, workers),
            listeners,
            groups,
            workers,
            keys,
        })
    }

    /// The addresses that were bound, with real ports, in the order of the configuration.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// The listeners, to be changed while they run.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// How many workers there will be: as configured, or one where the kernel cannot steer.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// Starts the workers. Each connection's handshake and then its service run in one task of
    /// `lifecycle`, on the connection's worker. `clients` says whether its address may have it, and
    /// `memory` whether there is any for it.
    ///
    /// # Errors
    /// The system gave no thread, or a worker on it not what it needs. Then none of them runs.
    pub fn start(
        self,
        lifecycle: &Lifecycle,
        clients: &Arc<Clients>,
        memory: &Arc<Memory>,
        serve: impl Serve,
    ) -> Result<Workers, EdgeError> {
        Workers::start(self.into_workers(lifecycle, clients, memory, &serve))
            .map_err(|source| EdgeError::System { what: "start the workers", source })
    }

    /// The workers, each with its sockets. Nothing runs yet.
    fn into_workers<S: Serve>(
        self,
        lifecycle: &Lifecycle,
        clients: &Arc<Clients>,
        memory: &Arc<Memory>,
        serve: &S,
    ) -> Vec<Worker<S>> {
        let counts = Arc::new(Counts::default());
        let mut workers: Vec<_> = (0..self.workers)
            .map(|index| Worker {
                index,
                sockets: Vec::new(),
                endpoint_config: quic::endpoint_config(&self.layout, index, &self.keys),
                counts: Arc::clone(&counts),
                clients: Arc::clone(clients),
                memory: Arc::clone(memory),
                lifecycle: lifecycle.clone(),
                serve: serve.clone(),
            })
            .collect();
        for (listener, group) in self.groups {
            for (worker, socket) in workers.iter_mut().zip(group.sockets) {
                worker.sockets.push((Arc::clone(&listener), socket));
            }
        }
        workers
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
    chosen: Chosen,
    config: &Config,
    keys: &Keys,
    metrics: &Metrics,
) -> Listener {
    let certificates = Arc::new(Certificates::new(chosen));
    let clients = settings.client_certificates.as_ref();
    let clients = clients.map(|clients| Arc::new(clients::Verifier::new(clients)));
    let tls = tls::server_config(Arc::clone(&certificates), clients.clone(), keys);
    let server_config = Arc::new(quic::server_config(tls, keys, &settings.transport));
    Listener {
        name: settings.name.as_str().into(),
        live: ArcSwap::from_pointee(Live::new(server_config, settings, config)),
        certificates,
        clients,
        metrics: metrics.listener(&settings.name),
    }
}

impl Live {
    fn new(
        server_config: Arc<quinn::ServerConfig>,
        settings: &config::Listener,
        config: &Config,
    ) -> Self {
        Self {
            server_config,
            transport: settings.transport.clone(),
            admission: Admission::new(settings.retry, &config.limits),
            handshake_timeout: config.timeouts.handshake,
        }
    }
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
