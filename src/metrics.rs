//! Every metric of the program, by name.
//!
//! Labels come from closed lists ([`crate::reason`]) and from the configuration, never from the
//! network, so the number of series is known when the configuration is. They are resolved once, when a
//! route or backend is built: using a handle costs one atomic add. All series of a configured object
//! exist at 0 from the start. Gauges move only by guards.
//!
//! Each [`Metrics`] has its own registry, so each test has its own numbers.

mod dial;
mod listener;
mod pool;
mod route;

use std::{sync::Arc, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
    core::{Collector, GenericGaugeVec},
};

use self::{
    dial::DialFamilies, listener::ListenerFamilies, pool::PoolFamilies, route::RouteFamilies,
};
pub use self::{
    dial::DialMetrics,
    listener::ListenerMetrics,
    pool::PoolMetrics,
    route::{DIALECTS, DirectionMetrics, RouteMetrics},
};
use crate::reason::{Loss, Refusal};

/// The `route` label of requests that matched no route.
pub const NO_ROUTE: &str = "_none";

/// What becomes of a reload: the `result` label.
const RELOADS: [&str; 2] = ["reloaded", "failed"];

/// Every metric, registered.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

/// The families whose labels are resolved per route, backend or listener.
#[derive(Debug)]
struct Families {
    build_info: IntGaugeVec,
    start_time: IntGauge,
    draining: IntGauge,

    certificate_expiry: IntGaugeVec,
    certificate_reloads: IntCounterVec,
    client_addresses: IntGauge,

    listener: ListenerFamilies,
    route: RouteFamilies,

    backend_connections: IntGaugeVec,
    backend_connects: IntCounterVec,
    backend_connect_seconds: HistogramVec,
    dial: DialFamilies,
    pool: PoolFamilies,
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    ///
    /// # Panics
    /// If a name is registered twice: a fault in this file, which every test would show.
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Arc::new(Families::register(&registry));
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        for result in RELOADS {
            families.certificate_reloads.with_label_values(&[result]);
        }
        families.start_time.set(i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(0));
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("registered once, here");
        Self { registry, families }
    }

    /// The text that Prometheus reads (text format 0.0.4).
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Says that the process drains.
    pub fn set_draining(&self) {
        self.families.draining.set(1);
    }

    /// The numbers of one listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        self.families.listener.resolve(name)
    }

    /// The numbers of the limits for each client address.
    pub fn clients(&self) -> ClientMetrics {
        ClientMetrics { addresses: self.families.client_addresses.clone() }
    }

    /// When a certificate ends, in seconds since 1970.
    pub fn set_certificate_expiry(&self, certificate: &str, at: i64) {
        self.families.certificate_expiry.with_label_values(&[certificate]).set(at);
    }

    /// A certificate is not in use any more.
    pub fn forget_certificate(&self, certificate: &str) {
        // An error says that it was not known.
        _ = self.families.certificate_expiry.remove_label_values(&[certificate]);
    }

    /// The certificates were to be read again.
    pub fn certificates_reloaded(&self, is_done: bool) {
        self.families
            .certificate_reloads
            .with_label_values(&[RELOADS[usize::from(!is_done)]])
            .inc();
    }

    /// The numbers of one route.
    pub fn route(&self, name: &str) -> RouteMetrics {
        self.families.route.resolve(name)
    }

    /// Sessions open now, on all routes together.
    pub fn open_sessions(&self) -> u64 {
        self.families.route.open_sessions()
    }

    /// Counts a request that matched no route.
    pub fn refused_without_route(&self, why: Refusal) {
        self.families.route.refused(NO_ROUTE, why);
    }

    /// Datagrams from clients that were lost before any route was known.
    pub fn unrouted_losses(&self) -> Reasons<Loss> {
        self.families.route.losses_up(NO_ROUTE)
    }

    /// The numbers of one endpoint of a backend.
    pub fn endpoint(&self, backend: &str, endpoint: &str) -> EndpointMetrics {
        let f = &self.families;
        let connects = |r| f.backend_connects.with_label_values(&[backend, endpoint, r]);
        EndpointMetrics {
            connections: f.backend_connections.with_label_values(&[backend, endpoint]),
            connected: connects("connected"),
            refused: connects("refused"),
            timeout: connects("timeout"),
            unresolved: connects("unresolved"),
            out_of_resources: connects("out_of_resources"),
            failed: connects("failed"),
            connect_seconds: f.backend_connect_seconds.with_label_values(&[backend, endpoint]),
            dial: f.dial.endpoint(backend, endpoint, connects),
        }
    }

    /// What is known of one endpoint of a backend.
    pub fn pool(&self, backend: &str, endpoint: &str) -> PoolMetrics {
        self.families.pool.endpoint(backend, endpoint)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// One counter per reason of a closed list.
#[derive(Clone, Debug)]
pub struct Reasons<R>(Arc<[(R, IntCounter)]>);

impl<R: Copy + Eq + 'static> Reasons<R> {
    fn new(all: &'static [R], counter: impl Fn(R) -> IntCounter) -> Self {
        Self(all.iter().map(|r| (*r, counter(*r))).collect())
    }

    /// Counts one more.
    pub fn inc(&self, reason: R) {
        self.add(reason, 1);
    }

    /// Counts several more.
    pub fn add(&self, reason: R, by: u64) {
        if let Some((_, counter)) = self.0.iter().find(|(r, _)| *r == reason) {
            counter.inc_by(by);
        }
    }

    /// How many so far.
    pub fn get(&self, reason: R) -> u64 {
        self.0.iter().find(|(r, _)| *r == reason).map_or(0, |(_, c)| c.get())
    }
}

/// The numbers of the limits for each client address.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    addresses: IntGauge,
}

impl ClientMetrics {
    /// Notes that other addresses are remembered than before.
    pub fn addresses_changed(&self, before: usize, after: usize) {
        let number = |addresses| i64::try_from(addresses).unwrap_or(i64::MAX);
        self.addresses.add(number(after) - number(before));
    }
}

/// One backend endpoint's numbers.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    connections: IntGauge,
    /// TCP connections made.
    pub connected: IntCounter,
    /// Attempts that were refused.
    pub refused: IntCounter,
    /// Attempts that took too long.
    pub timeout: IntCounter,
    /// Attempts on a name without an address.
    pub unresolved: IntCounter,
    /// Attempts for which the system had no memory.
    pub out_of_resources: IntCounter,
    /// Attempts that failed otherwise.
    pub failed: IntCounter,
    connect_seconds: Histogram,
    /// What comes before a connection.
    pub dial: DialMetrics,
}

impl EndpointMetrics {
    /// Counts a TCP connection as open for as long as the guard lives.
    pub fn connection_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    /// Notes how long a connection took to be made.
    pub fn connect_took(&self, time: Duration) {
        self.connect_seconds.observe(time.as_secs_f64());
    }
}

/// Keeps a gauge right on every path out, panics included.
#[derive(Debug)]
#[must_use = "it stops being counted when this is dropped"]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Families {
    fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            build_info: gauges(
                r,
                "build_info",
                "Always 1; the version is the label.",
                &["version"],
            ),
            start_time: gauge(r, "start_time_seconds", "When the process started, Unix time."),
            draining: gauge(r, "draining", "1 while the process drains."),

            certificate_expiry: gauges(
                r,
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate ends, Unix time.",
                &["cert"],
            ),
            certificate_reloads: counters(
                r,
                "certificate_reloads_total",
                "Times the certificates were to be read again (SIGHUP).",
                &["result"],
            ),
            client_addresses: gauge(
                r,
                "client_addresses",
                "Client addresses that the limits per client remember.",
            ),

            listener: ListenerFamilies::register(r),
            route: RouteFamilies::register(r),

            backend_connections: gauges(
                r,
                "backend_connections",
                "Stream connections to the backend open.",
                &["backend", "endpoint"],
            ),
            backend_connects: counters(
                r,
                "backend_connects_total",
                "Attempts to connect to the backend for a stream.",
                &["backend", "endpoint", "result"],
            ),
            backend_connect_seconds: histograms(
                r,
                "backend_connect_duration_seconds",
                "Time for a stream connection to the backend to be made, with TLS where it is spoken.",
                &["backend", "endpoint"],
                &SHORT_SECONDS,
            ),
            dial: DialFamilies::register(r),
            pool: PoolFamilies::register(r),
        }
    }
}

/// 1 ms to about 16 s, doubling: handshakes, connects, session setup.
const SHORT_SECONDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("tidegate")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each name is registered once, here");
    collector
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)).expect("a valid name"))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, GenericGaugeVec::new(opts(name, help), labels).expect("a valid name"))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels).expect("a valid name"))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(opts, labels).expect("a valid name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_route_shows_every_series_at_zero() {
        let metrics = Metrics::new();
        metrics.route("game");
        let text = metrics.render();
        for wanted in [
            r#"tidegate_sessions{route="game"} 0"#,
            r#"tidegate_session_rejects_total{reason="origin_not_allowed",route="game"} 0"#,
            r#"tidegate_datagram_drops_total{direction="backend_to_client",reason="oversize",route="game"} 0"#,
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
    }

    #[test]
    fn gauges_come_back_when_their_guards_go() {
        let route = Metrics::new().route("game");
        let guard = route.session_opened("draft02");
        assert_eq!(route.open_sessions(), 1);
        drop(guard);
        assert_eq!(route.open_sessions(), 0);
    }
}
