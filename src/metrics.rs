//! Every metric of the program, by name.
//!
//! Labels come from closed lists ([`crate::reason`]) and from the configuration, never from the
//! network, so the number of series is known when the configuration is. They are resolved once, when a
//! route or backend is built: using a handle costs one atomic add, on memory that no other worker writes
//! ([`crate::lane`]). All series of a configured object exist at 0 from the start. Gauges move only by guards.
//!
//! Each [`Metrics`] has its own registry, so each test has its own numbers.

mod counter;
mod dial;
mod gauge;
mod histogram;
mod listener;
mod memory;
mod names;
mod pool;
mod route;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc, GenericGaugeVec, MetricVec, MetricVecBuilder},
    proto::LabelPair,
};
use tokio::time::Instant;

use self::{
    counter::CounterVec,
    dial::DialFamilies,
    gauge::{Census, CensusVec},
    histogram::{Histogram, HistogramVec},
    listener::ListenerFamilies,
    names::{Held, Names},
    pool::PoolFamilies,
    route::RouteFamilies,
};
pub use self::{
    counter::{Counter, Laned},
    dial::DialMetrics,
    gauge::GaugeGuard,
    listener::ListenerMetrics,
    memory::MemoryMetrics,
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
    routes: Arc<Names>,
    endpoints: Arc<Names>,
}

/// The families whose labels are resolved per route, backend or listener.
#[derive(Debug)]
struct Families {
    build_info: IntGaugeVec,
    start_time: IntGauge,
    draining: IntGauge,

    certificate_expiry: IntGaugeVec,
    reloads: CounterVec,
    last_reload_successful: IntGauge,
    last_reload_success: IntGauge,
    log_lines_dropped: Counter,
    client_addresses: IntGauge,
    memory: MemoryMetrics,

    listener: ListenerFamilies,
    route: RouteFamilies,

    backend_connections: CensusVec,
    backend_connects: CounterVec,
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
        for result in RELOADS {
            families.reloads.with_label_values(&[result]);
        }
        let now = unix_now();
        families.start_time.set(now);
        // The configuration that the process has started with was taken.
        families.last_reload_successful.set(1);
        families.last_reload_success.set(now);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("registered once, here");
        Self { registry, families, routes: Arc::default(), endpoints: Arc::default() }
    }

    /// The text that Prometheus reads (text format 0.0.4).
    pub fn render(&self) -> String {
        self.forget_unused();
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

    /// The memory of the process.
    pub fn memory(&self) -> MemoryMetrics {
        self.families.memory.clone()
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

    /// The configuration was to be read again.
    pub fn reloaded(&self, is_done: bool) {
        let f = &self.families;
        f.reloads.with_label_values(&[RELOADS[usize::from(!is_done)]]).inc();
        f.last_reload_successful.set(is_done.into());
        if is_done {
            f.last_reload_success.set(unix_now());
        }
    }

    /// Log lines that were dropped because who reads the log was too slow.
    pub fn log_lines_dropped(&self) -> Counter {
        self.families.log_lines_dropped.clone()
    }

    /// Drops the series of routes and endpoints that are gone for some time: not configured, and with
    /// nothing left of them.
    pub fn forget_unused(&self) {
        let now = Instant::now();
        self.routes.sweep(now, |labels| {
            if let [route] = labels {
                self.families.route.forget(route);
            }
        });
        self.endpoints.sweep(now, |labels| {
            if let [backend, endpoint] = labels {
                self.families.forget_endpoint(backend, endpoint);
            }
        });
    }

    /// The numbers of one route. Its series stay for as long as they are held, and some minutes after.
    pub fn route(&self, name: &str) -> RouteMetrics {
        self.families.route.resolve(name, self.routes.hold(&[name]))
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

    /// The numbers of one endpoint of a backend. Its series stay for as long as they are held, and some
    /// minutes after.
    pub fn endpoint(&self, backend: &str, endpoint: &str) -> EndpointMetrics {
        let held = self.endpoints.hold(&[backend, endpoint]);
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
            _held: held,
        }
    }

    /// What is known of one endpoint of a backend.
    pub fn pool(&self, backend: &str, endpoint: &str) -> PoolMetrics {
        let held = self.endpoints.hold(&[backend, endpoint]);
        self.families.pool.endpoint(backend, endpoint, held)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// One counter per reason of a closed list.
#[derive(Clone, Debug)]
pub struct Reasons<R>(Arc<[(R, Counter)]>);

impl<R: Copy + Eq + 'static> Reasons<R> {
    fn new(all: &'static [R], counter: impl Fn(R) -> Counter) -> Self {
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
    connections: Census,
    /// TCP connections made.
    pub connected: Counter,
    /// Attempts that were refused.
    pub refused: Counter,
    /// Attempts that took too long.
    pub timeout: Counter,
    /// Attempts on a name without an address.
    pub unresolved: Counter,
    /// Attempts for which the system had no memory.
    pub out_of_resources: Counter,
    /// Attempts that failed otherwise.
    pub failed: Counter,
    connect_seconds: Histogram,
    /// What comes before a connection.
    pub dial: DialMetrics,
    _held: Held,
}

impl EndpointMetrics {
    /// Counts a TCP connection as open for as long as the guard lives.
    pub fn connection_opened(&self) -> GaugeGuard {
        self.connections.guard()
    }

    /// Notes how long a connection took to be made.
    pub fn connect_took(&self, time: Duration) {
        self.connect_seconds.observe(time);
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
            reloads: counters(
                r,
                "config_reloads_total",
                "Times the configuration was to be read again while running.",
                &["result"],
            ),
            last_reload_successful: gauge(
                r,
                "config_last_reload_successful",
                "1 if the last reload of the configuration was taken, 0 if it had problems and changed nothing.",
            ),
            last_reload_success: gauge(
                r,
                "config_last_reload_success_timestamp_seconds",
                "When a configuration was taken last, at a reload or at the start, Unix time.",
            ),
            log_lines_dropped: counter(
                r,
                "log_lines_dropped_total",
                "Log lines that were dropped because who reads the log was too slow.",
            ),
            client_addresses: gauge(
                r,
                "client_addresses",
                "Client addresses that the limits per client remember.",
            ),

            memory: MemoryMetrics::register(r),

            listener: ListenerFamilies::register(r),
            route: RouteFamilies::register(r),

            backend_connections: censuses(
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

    fn forget_endpoint(&self, backend: &str, endpoint: &str) {
        let labels = [("backend", backend), ("endpoint", endpoint)];
        forget(&self.backend_connections, &labels);
        forget(&self.backend_connects, &labels);
        forget(&self.backend_connect_seconds, &labels);
        self.dial.forget(&labels);
        self.pool.forget(&labels);
    }
}

/// Drops each series of a family that has these labels, whatever others it has.
fn forget<B: MetricVecBuilder>(family: &MetricVec<B>, labels: &[(&str, &str)]) {
    for metric in family.collect().iter().flat_map(|family| family.get_metric()) {
        let all = metric.get_label().iter().map(|label| (label.name(), label.value()));
        let all: HashMap<_, _> = all.collect();
        if labels.iter().all(|(name, value)| all.get(name) == Some(value)) {
            // It was there a moment ago; who else has removed it has done the same.
            _ = family.remove(&all);
        }
    }
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
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

fn counter(registry: &Registry, name: &str, help: &str) -> Counter {
    register(registry, Counter::with_opts(opts(name, help)).expect("a valid name"))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> CounterVec {
    register(registry, CounterVec::new(opts(name, help), labels).expect("a valid name"))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, histogram::family(opts, labels).expect("a valid name"))
}

/// Gauges that are moved by guards alone.
fn censuses(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> CensusVec {
    register(registry, gauge::family(opts(name, help), labels).expect("a valid name"))
}

/// The labels of a series, sorted as the library sorts them.
fn labels<V: AsRef<str>>(family: &Desc, values: &[V]) -> Vec<LabelPair> {
    let pair = |(name, value): (&String, &V)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.clone());
        pair.set_value(value.as_ref().to_owned());
        pair
    };
    let mut labels: Vec<_> = family.variable_labels.iter().zip(values).map(pair).collect();
    labels.sort();
    labels
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

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten_once_its_last_numbers_were_read() {
        let metrics = Metrics::new();
        let (gone, stays) = (metrics.route("gone"), metrics.route("stays"));
        let endpoints = [metrics.endpoint("b", "gone"), metrics.endpoint("b", "stays")];
        let pools = [metrics.pool("b", "gone"), metrics.pool("b", "stays")];
        let session = gone.session_opened("draft02");
        gone.ends.inc(crate::reason::Ending::ClientClosed);
        let [endpoint, _kept] = endpoints;
        let [pool, _kept_too] = pools;
        drop((session, gone, endpoint, pool));
        assert!(metrics.render().contains("\"gone\""), "nobody could read the last numbers");

        tokio::time::sleep(Duration::from_secs(301)).await;

        let text = metrics.render();
        assert!(!text.contains("\"gone\""), "{text}");
        for series in [r#"sessions{route="stays"}"#, r#"backend_up{backend="b",endpoint="stays"}"#]
        {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
        drop(stays);
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
