//! Every metric of the program, by name.
//!
//! Labels come from closed lists ([`crate::reason`]) and from the configuration, never from the
//! network, so the number of series is known when the configuration is. They are resolved once, when a
//! route or backend is built: using a handle costs one atomic add. All series of a configured object
//! exist at 0 from the start. Gauges move only by guards.
//!
//! Each [`Metrics`] has its own registry, so each test has its own numbers.

mod dial;
mod pool;

use std::{sync::Arc, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
    core::{Collector, GenericGaugeVec},
};

use self::{dial::DialFamilies, pool::PoolFamilies};
pub use self::{dial::DialMetrics, pool::PoolMetrics};
use crate::reason::{Ending, Loss, Refusal, StreamEnd};

/// The `route` label of requests that matched no route.
pub const NO_ROUTE: &str = "_none";

/// Words of the `direction` label.
const UP: &str = "client_to_backend";
const DOWN: &str = "backend_to_client";

/// Generations of WebTransport that a session may speak: the `dialect` label.
pub const DIALECTS: &[&str] = &["draft02", "draft07", "draft13", "draft15"];

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

    connections: IntGaugeVec,
    connections_total: IntCounterVec,
    handshake_seconds: HistogramVec,
    retries: IntCounterVec,
    incoming_refused: IntCounterVec,
    socket_drops: IntCounterVec,
    socket_buffer: IntGaugeVec,
    gso_segments: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    certificate_reloads: IntCounterVec,
    client_addresses: IntGauge,

    sessions: IntGaugeVec,
    sessions_total: IntCounterVec,
    session_rejects: IntCounterVec,
    session_ends: IntCounterVec,
    session_seconds: HistogramVec,
    session_setup_seconds: HistogramVec,

    streams: IntGaugeVec,
    streams_total: IntCounterVec,
    streams_slowed: IntCounterVec,
    stream_ends: IntCounterVec,
    stream_bytes: IntCounterVec,
    stream_lost: IntCounterVec,

    datagrams: IntCounterVec,
    datagram_bytes: IntCounterVec,
    datagram_drops: IntCounterVec,
    datagram_queue_seconds: HistogramVec,
    datagram_streams: IntCounterVec,

    imbalance_bytes: IntCounterVec,
    imbalance_datagrams: IntCounterVec,

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
        let f = &self.families;
        let connections = |result| f.connections_total.with_label_values(&[name, result]);
        let refused = |reason| f.incoming_refused.with_label_values(&[name, reason]);
        ListenerMetrics {
            connections: f.connections.with_label_values(&[name]),
            established: connections("established"),
            handshake_failed: connections("handshake_failed"),
            handshake_timeout: connections("handshake_timeout"),
            handshake_seconds: f.handshake_seconds.with_label_values(&[name]),
            retries: f.retries.with_label_values(&[name]),
            refused_connections: refused("too_many_connections"),
            refused_handshakes: refused("too_many_handshakes"),
            refused_client_connections: refused("client_connections"),
            refused_draining: refused("draining"),
            socket_drops: f.socket_drops.with_label_values(&[name]),
            receive_buffer: f.socket_buffer.with_label_values(&[name, "receive"]),
            send_buffer: f.socket_buffer.with_label_values(&[name, "send"]),
            gso_segments: f.gso_segments.with_label_values(&[name]),
        }
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
        let f = &self.families;
        RouteMetrics {
            sessions: f.sessions.with_label_values(&[name]),
            sessions_total: DIALECTS
                .iter()
                .map(|d| (*d, f.sessions_total.with_label_values(&[name, *d])))
                .collect(),
            rejects: Reasons::new(Refusal::ALL, |r| {
                f.session_rejects.with_label_values(&[name, r.word()])
            }),
            ends: Reasons::new(Ending::ALL, |r| {
                f.session_ends.with_label_values(&[name, r.word()])
            }),
            seconds: f.session_seconds.with_label_values(&[name]),
            setup_seconds: f.session_setup_seconds.with_label_values(&[name]),
            streams: f.streams.with_label_values(&[name]),
            bidi_streams: f.streams_total.with_label_values(&[name, "bidi"]),
            uni_streams: f.streams_total.with_label_values(&[name, "uni"]),
            gateway_bidi_streams: f.streams_total.with_label_values(&[name, "gateway_bidi"]),
            gateway_uni_streams: f.streams_total.with_label_values(&[name, "gateway_uni"]),
            slowed_streams: f.streams_slowed.with_label_values(&[name]),
            stream_ends: Reasons::new(StreamEnd::ALL, |r| {
                f.stream_ends.with_label_values(&[name, r.word()])
            }),
            discarded_bytes: f.stream_lost.with_label_values(&[name, DOWN, "discarded"]),
            datagram_queue_seconds: f.datagram_queue_seconds.with_label_values(&[name]),
            datagram_streams: f.datagram_streams.with_label_values(&[name]),
            imbalance_bytes: f.imbalance_bytes.with_label_values(&[name]),
            imbalance_datagrams: f.imbalance_datagrams.with_label_values(&[name]),
            up: f.direction(name, UP),
            down: f.direction(name, DOWN),
        }
    }

    /// Sessions open now, on all routes together.
    pub fn open_sessions(&self) -> u64 {
        let families = self.families.sessions.collect();
        let per_route =
            families.iter().flat_map(|f| f.get_metric()).map(|m| m.get_gauge().get_value());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a sum of counts, held as a float by the library alone"
        )]
        let sum = per_route.sum::<f64>() as u64;
        sum
    }

    /// Counts a request that matched no route.
    pub fn refused_without_route(&self, why: Refusal) {
        self.families.session_rejects.with_label_values(&[NO_ROUTE, why.word()]).inc();
    }

    /// Datagrams from clients that were lost before any route was known.
    pub fn unrouted_losses(&self) -> Reasons<Loss> {
        self.families.direction(NO_ROUTE, UP).lost
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

/// One listener's numbers.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    connections: IntGauge,
    /// Handshakes that succeeded.
    pub established: IntCounter,
    /// Handshakes that failed.
    pub handshake_failed: IntCounter,
    /// Handshakes that took too long.
    pub handshake_timeout: IntCounter,
    handshake_seconds: Histogram,
    /// Retry packets sent.
    pub retries: IntCounter,
    /// Connection attempts refused at the limit of connections.
    pub refused_connections: IntCounter,
    /// Connection attempts refused at the limit of handshakes.
    pub refused_handshakes: IntCounter,
    /// Connection attempts refused because the client's address has as many as it may.
    pub refused_client_connections: IntCounter,
    /// Connection attempts refused because the process drains.
    pub refused_draining: IntCounter,
    /// Packets that the kernel dropped because a socket's buffer was full.
    pub socket_drops: IntCounter,
    /// Kernel receive buffer granted to each socket, in bytes.
    pub receive_buffer: IntGauge,
    /// Kernel send buffer granted to each socket, in bytes.
    pub send_buffer: IntGauge,
    /// Packets that one system call may send (UDP GSO); 1: it is off, and bulk costs 2.5 times.
    pub gso_segments: IntGauge,
}

impl ListenerMetrics {
    /// Counts a connection as open for as long as the guard lives.
    pub fn connection_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    /// Notes how long a handshake took.
    pub fn handshake_took(&self, time: Duration) {
        self.handshake_seconds.observe(time.as_secs_f64());
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

/// One route's numbers.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    sessions: IntGauge,
    sessions_total: Vec<(&'static str, IntCounter)>,
    /// Session requests refused.
    pub rejects: Reasons<Refusal>,
    /// Sessions ended.
    pub ends: Reasons<Ending>,
    seconds: Histogram,
    setup_seconds: Histogram,
    streams: IntGauge,
    /// Bidirectional streams of the client's that were bridged.
    pub bidi_streams: IntCounter,
    /// Unidirectional streams of the client's that were bridged.
    pub uni_streams: IntCounter,
    /// Bidirectional streams that the gateway opened.
    pub gateway_bidi_streams: IntCounter,
    /// Unidirectional streams that the gateway opened.
    pub gateway_uni_streams: IntCounter,
    /// Streams that had to wait because the client opened them too fast.
    pub slowed_streams: IntCounter,
    /// Streams ended.
    pub stream_ends: Reasons<StreamEnd>,
    /// Bytes that backends answered on the connections of unidirectional streams, lost on purpose.
    pub discarded_bytes: IntCounter,
    datagram_queue_seconds: Histogram,
    /// Datagrams passed to the client on streams of their own.
    pub datagram_streams: IntCounter,
    /// Bytes that the books of ended sessions do not account for: a fault in the gateway.
    pub imbalance_bytes: IntCounter,
    /// The same for datagrams.
    pub imbalance_datagrams: IntCounter,
    /// From the client to the backend.
    pub up: DirectionMetrics,
    /// From the backend to the client.
    pub down: DirectionMetrics,
}

impl RouteMetrics {
    /// Counts a session as active for as long as the guard lives.
    pub fn session_opened(&self, dialect: &str) -> GaugeGuard {
        if let Some((_, counter)) = self.sessions_total.iter().find(|(d, _)| *d == dialect) {
            counter.inc();
        }
        GaugeGuard::new(&self.sessions)
    }

    /// Sessions open now.
    pub fn open_sessions(&self) -> u64 {
        u64::try_from(self.sessions.get()).unwrap_or(0)
    }

    /// Counts a stream as open for as long as the guard lives.
    pub fn stream_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.streams)
    }

    /// Notes how long a datagram has waited in a session's queue until it was sent or lost.
    pub fn datagram_waited(&self, time: Duration) {
        self.datagram_queue_seconds.observe(time.as_secs_f64());
    }

    /// Notes how long an ended session lived.
    pub fn session_lived(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Notes how long a request took to become a session.
    pub fn session_setup_took(&self, time: Duration) {
        self.setup_seconds.observe(time.as_secs_f64());
    }
}

/// One direction of a route.
#[derive(Clone, Debug)]
pub struct DirectionMetrics {
    /// Stream bytes passed on.
    pub stream_bytes: IntCounter,
    /// Stream bytes that were taken and never passed on.
    pub lost_bytes: Reasons<StreamEnd>,
    /// Datagrams passed on.
    pub datagrams: IntCounter,
    /// Payload bytes of the datagrams passed on.
    pub datagram_bytes: IntCounter,
    /// Datagrams lost.
    pub lost: Reasons<Loss>,
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
    #[expect(clippy::too_many_lines, reason = "the list of all metrics, one line each")]
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

            connections: gauges(r, "quic_connections", "QUIC connections open.", &["listener"]),
            connections_total: counters(
                r,
                "quic_connections_total",
                "QUIC connection attempts that were let in, by what became of the handshake.",
                &["listener", "result"],
            ),
            handshake_seconds: histograms(
                r,
                "quic_handshake_duration_seconds",
                "Time of successful QUIC handshakes.",
                &["listener"],
                &SHORT_SECONDS,
            ),
            retries: counters(r, "quic_retry_sent_total", "Retry packets sent.", &["listener"]),
            incoming_refused: counters(
                r,
                "quic_incoming_refused_total",
                "QUIC connection attempts refused.",
                &["listener", "reason"],
            ),
            socket_drops: counters(
                r,
                "udp_socket_drops_total",
                "Packets the kernel dropped because a UDP socket's buffer was full.",
                &["listener"],
            ),
            socket_buffer: gauges(
                r,
                "udp_socket_buffer_bytes",
                "Kernel buffer granted to each UDP socket.",
                &["listener", "kind"],
            ),
            gso_segments: gauges(
                r,
                "udp_gso_segments",
                "Packets that one send may carry (UDP GSO); 1 when it is off.",
                &["listener"],
            ),
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

            sessions: gauges(r, "sessions", "Sessions open.", &["route"]),
            sessions_total: counters(
                r,
                "sessions_total",
                "Sessions accepted, by the generation of WebTransport they speak.",
                &["route", "dialect"],
            ),
            session_rejects: counters(
                r,
                "session_rejects_total",
                "Session requests refused.",
                &["route", "reason"],
            ),
            session_ends: counters(
                r,
                "session_ends_total",
                "Sessions ended.",
                &["route", "reason"],
            ),
            session_seconds: histograms(
                r,
                "session_duration_seconds",
                "How long sessions lived.",
                &["route"],
                &LONG_SECONDS,
            ),
            session_setup_seconds: histograms(
                r,
                "session_setup_seconds",
                "Time from a complete request to its acceptance.",
                &["route"],
                &SHORT_SECONDS,
            ),

            streams: gauges(r, "streams", "Streams open.", &["route"]),
            streams_total: counters(
                r,
                "streams_total",
                "Streams opened, by kind; those with gateway_ by the gateway.",
                &["route", "kind"],
            ),
            streams_slowed: counters(
                r,
                "streams_slowed_total",
                "Client streams that waited because of the route's stream rate.",
                &["route"],
            ),
            stream_ends: counters(r, "stream_ends_total", "Streams ended.", &["route", "reason"]),
            stream_bytes: counters(
                r,
                "stream_bytes_total",
                "Stream bytes passed on.",
                &["route", "direction"],
            ),
            stream_lost: counters(
                r,
                "stream_lost_bytes_total",
                "Stream bytes read and not passed on, by why the stream ended; or discarded: a backend's answer on a unidirectional stream.",
                &["route", "direction", "reason"],
            ),

            datagrams: counters(
                r,
                "datagrams_total",
                "Datagrams passed on.",
                &["route", "direction"],
            ),
            datagram_bytes: counters(
                r,
                "datagram_bytes_total",
                "Payload bytes of the datagrams passed on.",
                &["route", "direction"],
            ),
            datagram_drops: counters(
                r,
                "datagram_drops_total",
                "Datagrams lost.",
                &["route", "direction", "reason"],
            ),
            datagram_queue_seconds: histograms(
                r,
                "datagram_queue_seconds",
                "How long datagrams that had to wait for the client waited, until sent or lost.",
                &["route"],
                &QUEUE_SECONDS,
            ),
            datagram_streams: counters(
                r,
                "datagram_streams_total",
                "Datagrams too large for the client's path that were passed on by streams.",
                &["route"],
            ),

            imbalance_bytes: counters(
                r,
                "ledger_imbalance_bytes",
                "Bytes that are neither passed on nor counted as lost: a fault in the gateway.",
                &["route"],
            ),
            imbalance_datagrams: counters(
                r,
                "ledger_imbalance_datagrams",
                "Datagrams that are neither passed on nor counted as lost: a fault in the gateway.",
                &["route"],
            ),

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

    fn direction(&self, route: &str, direction: &str) -> DirectionMetrics {
        DirectionMetrics {
            stream_bytes: self.stream_bytes.with_label_values(&[route, direction]),
            lost_bytes: Reasons::new(StreamEnd::ALL, |r| {
                self.stream_lost.with_label_values(&[route, direction, r.word()])
            }),
            datagrams: self.datagrams.with_label_values(&[route, direction]),
            datagram_bytes: self.datagram_bytes.with_label_values(&[route, direction]),
            lost: Reasons::new(Loss::ALL, |r| {
                self.datagram_drops.with_label_values(&[route, direction, r.word()])
            }),
        }
    }
}

/// 1 ms to about 16 s, doubling: handshakes, connects, session setup.
const SHORT_SECONDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

/// 1 s to a day and a bit, times four: how long sessions live.
const LONG_SECONDS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// 100 us to 10 s: how long datagrams wait.
const QUEUE_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
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
