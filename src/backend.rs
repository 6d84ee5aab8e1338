//! Backends: a name becomes an endpoint, an endpoint becomes a connection.
//!
//! It decides which endpoint a session goes to ([`Backend::pick`]), keeps host names resolved, dials
//! connections over TCP, TLS or to Unix sockets with the settings of the configuration, and opens UDP
//! sockets. It hides addresses, socket options, TLS and how a backend is told of the client. In goes a
//! [`Pin`], out come a [`TcpConnection`] or a [`UdpConnection`], or a [`DialError`] that says whose fault
//! it is.
//!
//! What always holds: all connections of a session go to one endpoint; a [`TcpConnection`] that is
//! dropped without [`TcpConnection::close`] resets, so that nothing that was cut looks whole; and every
//! finished attempt is counted under its result.

mod client_info;
mod dial;
mod pin;
mod preamble;
mod proxy_protocol;
mod queue;
mod race;
mod resolve;
mod source;
mod spp;
mod tcp;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod udp;
mod udp_header;
mod unix;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;

#[cfg(test)]
pub(crate) use self::tls::tests::TlsServer;
pub use self::{
    client_info::ClientInfo,
    dial::DialError,
    pin::Pin,
    tcp::{TcpConnection, TcpReader, TcpWriter},
    tls::TlsError,
    udp::UdpConnection,
};
use self::{dial::Dialler, resolve::Addresses, source::Sources, udp_header::UdpHeader};
use crate::{
    config::{self, Balance},
    lifecycle::Lifecycle,
    metrics::{EndpointMetrics, Metrics},
};

/// All backends of a configuration, by name.
#[derive(Debug)]
pub struct Backends(BTreeMap<String, Arc<Backend>>);

impl Backends {
    /// The backends as configured. Those given by host name have no address until
    /// [`Self::resolve`].
    pub fn new(settings: &BTreeMap<String, Arc<config::Backend>>, metrics: &Metrics) -> Self {
        let backend = |(name, settings): (&String, &Arc<config::Backend>)| {
            (name.clone(), Arc::new(Backend::new(Arc::clone(settings), metrics)))
        };
        Self(settings.iter().map(backend).collect())
    }

    /// The backend of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Backend>> {
        self.0.get(name)
    }

    /// Resolves every host name once. To be awaited before serving.
    pub async fn resolve(&self) {
        join_all(self.0.values().map(|backend| backend.resolve())).await;
    }

    /// Resolves every host name again and again, each backend at its own interval, until the drain.
    ///
    /// For the control runtime: the system's resolver blocks threads of the runtime's pool. Sessions
    /// that live through a drain keep the addresses known by then.
    pub async fn resolve_loop(self: Arc<Self>, lifecycle: Lifecycle) {
        let loops = join_all(self.0.values().map(|backend| backend.resolve_loop()));
        tokio::select! {
            _ = loops => {}
            // A lookup that is cancelled changes nothing.
            () = lifecycle.draining() => {}
        }
    }
}

/// One backend: equal endpoints of one service.
#[derive(Debug)]
pub struct Backend {
    settings: Arc<config::Backend>,
    /// At least one.
    endpoints: Box<[Endpoint]>,
    /// Where the next search for an endpoint begins.
    next: AtomicUsize,
}

impl Backend {
    fn new(settings: Arc<config::Backend>, metrics: &Metrics) -> Self {
        let sources = Arc::new(Sources::new(&settings.source));
        let endpoints =
            settings.endpoints.iter().map(|e| Endpoint::new(e, &settings, &sources, metrics));
        Self { endpoints: endpoints.collect(), next: AtomicUsize::new(0), settings }
    }

    /// The name, for logs.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Chooses the endpoint for a session. `None`: none has an address.
    ///
    /// The pin counts as a session of its endpoint for as long as it lives.
    pub fn pick(self: &Arc<Self>) -> Option<Pin> {
        let count = self.endpoints.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut usable = (0..count)
            .map(|step| start.wrapping_add(step) % count)
            .filter(|i| self.endpoints[*i].has_address());
        let chosen = match self.settings.balance {
            Balance::RoundRobin => usable.next(),
            // Among equals the first, so that they take turns.
            Balance::LeastSessions => usable.min_by_key(|i| self.endpoints[*i].sessions()),
        };
        chosen.map(|first| Pin::new(Arc::clone(self), first))
    }

    async fn resolve(&self) {
        join_all(self.endpoints.iter().flat_map(|endpoint| {
            [&endpoint.tcp, &endpoint.udp].map(|addresses| addresses.resolve(&self.settings.name))
        }))
        .await;
    }

    async fn resolve_loop(&self) {
        if !self.endpoints.iter().any(|e| e.tcp.is_name() || e.udp.is_name()) {
            return;
        }
        loop {
            tokio::time::sleep(self.settings.resolve_interval).await;
            self.resolve().await;
        }
    }
}

/// One endpoint, with what is known of it.
#[derive(Debug)]
pub struct Endpoint {
    name: String,
    tcp: Addresses,
    udp: Addresses,
    sessions: AtomicU64,
    connecting: Trouble,
    dialler: Dialler,
    metrics: EndpointMetrics,
}

impl Endpoint {
    fn new(
        settings: &config::Endpoint,
        backend: &config::Backend,
        sources: &Arc<Sources>,
        metrics: &Metrics,
    ) -> Self {
        let metrics = metrics.endpoint(&backend.name, &settings.name);
        Self {
            name: settings.name.clone(),
            tcp: Addresses::new(settings.tcp.clone()),
            udp: Addresses::new(settings.udp.clone()),
            sessions: AtomicU64::new(0),
            connecting: Trouble::default(),
            dialler: Dialler::new(backend, settings, Arc::clone(sources), metrics.clone()),
            metrics,
        }
    }

    /// The name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sessions that are pinned here now.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    fn open_udp(&self, header: UdpHeader) -> std::io::Result<UdpConnection> {
        UdpConnection::open(&self.udp.known(), self.dialler.sources(), header)
    }

    fn has_address(&self) -> bool {
        let has_any = |addresses: &Addresses| !addresses.known().is_empty();
        self.dialler.is_local() || has_any(&self.tcp) || has_any(&self.udp)
    }
}

/// Whether something fails now, so that a log line is written when that changes and not each time.
#[derive(Debug, Default)]
struct Trouble(AtomicBool);

impl Trouble {
    /// Notes a failure. Whether it is the first in a row.
    fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Notes a success. Whether there was a failure before.
    fn ends(&self) -> bool {
        // Read first: the usual case writes nothing that other workers would have to fetch again.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
