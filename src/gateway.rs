//! Assembly: binds everything, runs everything, stops everything. The one room that knows all others.
//!
//! Two steps, so that addresses are known and files are read before anything serves:
//! [`Gateway::bind`], then [`Gateway::start`]. The workers and their connections belong to one
//! [`Lifecycle`], which drains; the control side (admin, name resolution, health checks) outlives it,
//! so that the drain can be watched to its end.

mod certificates;
mod explain;
mod files;
mod reload;
mod watch;

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tracing::{error, info};

use self::watch::Watch;
pub use self::{
    explain::{
        Asked, ExplainedRefusal, ExplainedSession, ExplainedStep, Explanation, RouteFit, explain,
    },
    files::Files,
    reload::{Live, ReloadError, Reloaded},
    watch::Reload,
};
use crate::{
    admin::{Admin, HttpServer, LogFilter},
    backend::{Backends, Keeper, Resolve, SystemResolver},
    config::{self, Config},
    edge::{Accepted, BoundAddress, CertificateInfo, Edge, EdgeError, Serve, Workers},
    lifecycle::Lifecycle,
    limit::{Clients, Linux, Memory},
    metrics::Metrics,
    route::RouteTable,
    session::{self, SessionContext, Tables},
    webtransport,
};

/// A gateway whose sockets are bound and whose files are read, but which does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    metrics: Metrics,
    edge: Edge,
    admin: Option<Admin>,
    backends: Arc<Backends>,
    resolver: Arc<dyn Resolve>,
    log: Option<Arc<dyn LogFilter>>,
    reload: Option<Arc<dyn Reload>>,
}

impl Gateway {
    /// Binds every socket, reads every file and resolves every name in the configuration. Must be called
    /// on the runtime of the control side.
    ///
    /// # Errors
    /// What could not be bound or read. A name that does not resolve is no error: it may later.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_with(config, Arc::new(SystemResolver)).await
    }

    /// [`Self::bind`] with another source of addresses for the backends' names.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub async fn bind_with(config: Config, resolver: Arc<dyn Resolve>) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let edge = Edge::bind(&config, &metrics)?;
        let admin = config.admin.as_ref().map(|admin| {
            Admin::bind(admin).map_err(|source| StartError::Bind {
                what: "admin".to_owned(),
                address: admin.listen,
                source,
            })
        });
        let backends = Arc::new(Backends::new(&config.backends, &metrics, &resolver, None));
        backends.resolve().await;
        let admin = admin.transpose()?;
        Ok(Self { metrics, edge, admin, backends, resolver, config, log: None, reload: None })
    }

    /// Lets operators and reloads change what the program logs.
    #[must_use]
    pub fn with_log(self, filter: Arc<dyn LogFilter>) -> Self {
        Self { log: Some(filter), ..self }
    }

    /// Lets operators have the configuration read again.
    #[must_use]
    pub fn with_reload(self, reload: Arc<dyn Reload>) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// Starts to serve: workers on threads of their own, the control side on this runtime.
    ///
    /// # Errors
    /// That the system gave no threads.
    pub fn start(self) -> Result<Running, StartError> {
        let Self { config, metrics, edge, admin, backends, resolver, log, reload } = self;
        let (lifecycle, control) = (Lifecycle::new(), Lifecycle::new());
        let tables = Tables {
            routes: RouteTable::new(&config.routes, &metrics),
            backends: Arc::clone(&backends),
            end_removed: config.reload.end_removed,
        };
        let sessions = config.limits.sessions;
        let clients = Clients::new(config.limits.per_client.clone(), metrics.clients());
        let clients = Arc::new(clients);
        let memory = Arc::new(Memory::new(config.limits.memory, metrics.memory()));
        // Before anybody is let in.
        let mut system = Linux::default();
        memory.look(&mut system, &mut None);
        let context = SessionContext::new(
            tables,
            sessions,
            Arc::clone(&clients),
            Arc::clone(&memory),
            lifecycle.clone(),
            metrics.clone(),
        );
        let context = Arc::new(context);

        let (addresses, listeners) = (edge.addresses().to_vec(), edge.listeners().clone());
        let services = services(&config, &addresses, &lifecycle, &metrics);
        let services: Services = Arc::new(ArcSwap::from_pointee(services));
        let serve = Server { services: Arc::clone(&services), context: Arc::clone(&context) };
        let workers = edge.start(&lifecycle, &clients, &memory, serve)?;

        let keeper = Keeper::new(control.clone());
        keeper.keep(&backends);
        let live = Arc::new(Live {
            config: ArcSwap::from_pointee(config),
            addresses,
            listeners,
            services,
            clients,
            memory: Arc::clone(&memory),
            context: Arc::clone(&context),
            keeper,
            resolver,
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
            log,
            turn: Mutex::default(),
        });
        control.spawn(certificates::look_after(Arc::clone(&live), control.clone()));
        control.spawn(watch(memory, system, control.clone()));
        let admin = admin.map(|admin| {
            let watch = Watch { sampler: workers.sampler(), live: Arc::clone(&live), reload };
            admin.run(lifecycle.clone(), metrics.clone(), watch)
        });
        Ok(Running { live, admin, metrics, lifecycle, control, workers })
    }
}

/// What the connections of each address are served with. Connections keep what they began with.
type Services = Arc<ArcSwap<HashMap<SocketAddr, Arc<webtransport::Service>>>>;

fn services(
    config: &Config,
    addresses: &[BoundAddress],
    lifecycle: &Lifecycle,
    metrics: &Metrics,
) -> HashMap<SocketAddr, Arc<webtransport::Service>> {
    let service = |bound: &BoundAddress| {
        let listener = config.listeners.iter().find(|l| l.name == bound.listener)?;
        let service = webtransport::Service {
            header_bytes: config.limits.header_bytes.0,
            early_streams: config.limits.early_streams as usize,
            early_datagrams: config.limits.early_datagrams as usize,
            timeouts: config.timeouts.clone(),
            initial_bidi_streams: listener.transport.initial_bidi_streams.into(),
            stream_rate: config.limits.per_connection.stream_rate,
            session_credit: webtransport::SessionCredit::of(&listener.transport),
            stream_window: listener.transport.stream_window.0,
            local: bound.address,
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
            lost: metrics.unrouted_losses(),
            listener: metrics.listener(&listener.name),
        };
        Some((bound.address, Arc::new(service)))
    };
    addresses.iter().filter_map(service).collect()
}

/// Serves connections, each on its worker.
#[derive(Clone)]
struct Server {
    services: Services,
    context: Arc<SessionContext>,
}

impl Serve for Server {
    /// `None`: nobody serves this address any more.
    type Greeted = Option<(webtransport::Greeting, Arc<webtransport::Service>)>;

    fn greet(&self, accepted: &Accepted) -> Self::Greeted {
        let service = self.services.load().get(&accepted.address).cloned()?;
        Some((webtransport::greet(&accepted.connection, &service), service))
    }

    async fn serve(&self, accepted: Accepted, greeted: Self::Greeted) {
        let Some((greeting, service)) = greeted else { return };
        let (lifecycle, context) = (service.lifecycle.clone(), Arc::clone(&self.context));
        let on_request = move |request| {
            lifecycle.spawn(session::run(request, Arc::clone(&context)));
        };
        webtransport::serve(accepted.connection, greeting, service, on_request).await;
    }
}

/// Watches the memory until the control side ends.
async fn watch(memory: Arc<Memory>, system: Linux, control: Lifecycle) {
    tokio::select! {
        () = memory.watch(system) => {}
        () = control.killed() => {}
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
        source: io::Error,
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
        source: io::Error,
    },
}

impl From<EdgeError> for StartError {
    fn from(error: EdgeError) -> Self {
        match error {
            EdgeError::Bind { listener, address, source } => {
                Self::Bind { what: format!("listener {listener}"), address, source }
            }
            EdgeError::Certificate { listener, source } => {
                Self::Certificate { listener, message: chain(&source) }
            }
            EdgeError::System { what, source } => Self::System { what: what.to_owned(), source },
        }
    }
}

/// An error with all that is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    live: Arc<Live>,
    admin: Option<HttpServer>,
    metrics: Metrics,
    lifecycle: Lifecycle,
    /// What must outlive the drain.
    control: Lifecycle,
    workers: Workers,
}

impl Running {
    /// What another configuration changes.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The UDP addresses that were bound, with real ports.
    pub fn quic_addresses(&self) -> &[BoundAddress] {
        &self.live.addresses
    }

    /// The certificates in use, in the order of the configuration.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.live.certificates()
    }

    /// The admin listener's address, with its real port.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(HttpServer::address)
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
        let is_patient = tokio::select! {
            () = self.drain() => true,
            () = hurry => false,
        };
        if is_patient {
            self.lifecycle.begin_kill();
        } else {
            self.lifecycle.hurry();
        }
        if timeout(LAST_WAIT, self.lifecycle.all_tasks_ended()).await.is_err() {
            // A fault of ours, and no reason to stay: with their workers the tasks are dropped.
            error!(waited = ?LAST_WAIT, "Something did not end when it was told to.");
        }
        let drained = Drained { cut: self.live.context.cut_sessions() };

        self.workers.stop().await;
        self.control.begin_kill();
        self.control.all_tasks_ended().await;
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        drained
    }

    /// The patient part: resolves when every session has ended or the grace is over.
    async fn drain(&self) {
        let config::Drain { delay, grace } = self.live.config().drain;
        self.lifecycle.begin_stop();
        self.metrics.set_draining();
        info!(?delay, "Not ready any more; new clients are still accepted.");
        sleep(delay).await;

        self.lifecycle.begin_drain();
        info!(
            ?grace,
            sessions = self.metrics.open_sessions(),
            "Draining: nothing new is accepted."
        );
        // Past it, what is left is ended.
        _ = timeout(grace, self.lifecycle.all_tasks_ended()).await;
    }
}

/// How long the end waits for tasks that were told to end at once. Telling clients takes some of it: each
/// session and connection gives its client at most a few seconds.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How the gateway stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Sessions that were still there at the end and were cut.
    pub cut: u64,
}
