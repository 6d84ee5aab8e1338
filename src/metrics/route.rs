//! Routes: sessions, streams, datagrams, and what the books of ended sessions lack.

use std::time::Duration;

use prometheus::{Registry, core::Collector};

use super::{
    Counter, GaugeGuard, Held, Reasons, SHORT_SECONDS, censuses,
    counter::CounterVec,
    counters, forget,
    gauge::{Census, CensusVec},
    histogram::{Histogram, HistogramVec},
    histograms,
};
use crate::reason::{Ending, Loss, Refusal, StreamEnd};

/// Words of the `direction` label.
const UP: &str = "client_to_backend";
const DOWN: &str = "backend_to_client";

/// Generations of WebTransport that a session may speak: the `dialect` label.
pub const DIALECTS: &[&str] = &["draft02", "draft07", "draft13", "draft15"];

/// The families of all routes.
#[derive(Debug)]
pub(super) struct RouteFamilies {
    sessions: CensusVec,
    sessions_total: CounterVec,
    session_rejects: CounterVec,
    session_ends: CounterVec,
    session_seconds: HistogramVec,
    session_setup_seconds: HistogramVec,

    streams: CensusVec,
    streams_total: CounterVec,
    streams_slowed: CounterVec,
    stream_ends: CounterVec,
    stream_bytes: CounterVec,
    stream_slowed: CounterVec,
    stream_lost: CounterVec,

    datagrams: CounterVec,
    datagram_bytes: CounterVec,
    datagram_drops: CounterVec,
    datagram_queue_seconds: HistogramVec,
    datagram_streams: CounterVec,

    imbalance_bytes: CounterVec,
    imbalance_datagrams: CounterVec,
}

impl RouteFamilies {
    #[expect(clippy::too_many_lines, reason = "a list of metrics, one line each")]
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            sessions: censuses(r, "sessions", "Sessions open.", &["route"]),
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

            streams: censuses(r, "streams", "Streams open.", &["route"]),
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
            stream_slowed: counters(
                r,
                "stream_slowed_bytes_total",
                "Stream bytes that waited because of the route's byte rate.",
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
        }
    }

    /// The numbers of one route.
    pub(super) fn resolve(&self, name: &str, held: Held) -> RouteMetrics {
        RouteMetrics {
            _held: held,
            sessions: self.sessions.with_label_values(&[name]),
            sessions_total: DIALECTS
                .iter()
                .map(|d| (*d, self.sessions_total.with_label_values(&[name, *d])))
                .collect(),
            rejects: Reasons::new(Refusal::ALL, |r| {
                self.session_rejects.with_label_values(&[name, r.word()])
            }),
            ends: Reasons::new(Ending::ALL, |r| {
                self.session_ends.with_label_values(&[name, r.word()])
            }),
            seconds: self.session_seconds.with_label_values(&[name]),
            setup_seconds: self.session_setup_seconds.with_label_values(&[name]),
            streams: self.streams.with_label_values(&[name]),
            bidi_streams: self.streams_total.with_label_values(&[name, "bidi"]),
            uni_streams: self.streams_total.with_label_values(&[name, "uni"]),
            gateway_bidi_streams: self.streams_total.with_label_values(&[name, "gateway_bidi"]),
            gateway_uni_streams: self.streams_total.with_label_values(&[name, "gateway_uni"]),
            slowed_streams: self.streams_slowed.with_label_values(&[name]),
            stream_ends: Reasons::new(StreamEnd::ALL, |r| {
                self.stream_ends.with_label_values(&[name, r.word()])
            }),
            discarded_bytes: self.stream_lost.with_label_values(&[name, DOWN, "discarded"]),
            datagram_queue_seconds: self.datagram_queue_seconds.with_label_values(&[name]),
            datagram_streams: self.datagram_streams.with_label_values(&[name]),
            imbalance_bytes: self.imbalance_bytes.with_label_values(&[name]),
            imbalance_datagrams: self.imbalance_datagrams.with_label_values(&[name]),
            up: self.direction(name, UP),
            down: self.direction(name, DOWN),
        }
    }

    /// Drops the series of one route.
    pub(super) fn forget(&self, name: &str) {
        let labels = [("route", name)];
        forget(&self.sessions, &labels);
        let counters = [
            &self.sessions_total,
            &self.session_rejects,
            &self.session_ends,
            &self.streams_total,
            &self.streams_slowed,
            &self.stream_ends,
            &self.stream_bytes,
            &self.stream_lost,
            &self.stream_slowed,
            &self.datagrams,
            &self.datagram_bytes,
            &self.datagram_drops,
            &self.datagram_streams,
            &self.imbalance_bytes,
            &self.imbalance_datagrams,
        ];
        counters.into_iter().for_each(|family| forget(family, &labels));
        forget(&self.streams, &labels);
        let histograms =
            [&self.session_seconds, &self.session_setup_seconds, &self.datagram_queue_seconds];
        histograms.into_iter().for_each(|family| forget(family, &labels));
    }

    fn direction(&self, route: &str, direction: &str) -> DirectionMetrics {
        DirectionMetrics {
            stream_bytes: self.stream_bytes.with_label_values(&[route, direction]),
            slowed_bytes: self.stream_slowed.with_label_values(&[route, direction]),
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

    /// Sessions open now, on all routes together.
    pub(super) fn open_sessions(&self) -> u64 {
        let families = self.sessions.collect();
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

    /// Counts a refused request under this name.
    pub(super) fn refused(&self, name: &str, why: Refusal) {
        self.session_rejects.with_label_values(&[name, why.word()]).inc();
    }

    /// Datagrams from clients that were lost under this name.
    pub(super) fn losses_up(&self, name: &str) -> Reasons<Loss> {
        self.direction(name, UP).lost
    }
}

/// One route's numbers.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    sessions: Census,
    sessions_total: Vec<(&'static str, Counter)>,
    /// Session requests refused.
    pub rejects: Reasons<Refusal>,
    /// Sessions ended.
    pub ends: Reasons<Ending>,
    seconds: Histogram,
    setup_seconds: Histogram,
    streams: Census,
    /// Bidirectional streams of the client's that were bridged.
    pub bidi_streams: Counter,
    /// Unidirectional streams of the client's that were bridged.
    pub uni_streams: Counter,
    /// Bidirectional streams that the gateway opened.
    pub gateway_bidi_streams: Counter,
    /// Unidirectional streams that the gateway opened.
    pub gateway_uni_streams: Counter,
    /// Streams that had to wait because the client opened them too fast.
    pub slowed_streams: Counter,
    /// Streams ended.
    pub stream_ends: Reasons<StreamEnd>,
    /// Bytes that backends answered on the connections of unidirectional streams, lost on purpose.
    pub discarded_bytes: Counter,
    datagram_queue_seconds: Histogram,
    /// Datagrams passed to the client on streams of their own.
    pub datagram_streams: Counter,
    /// Bytes that the books of ended sessions do not account for: a fault in the gateway.
    pub imbalance_bytes: Counter,
    /// The same for datagrams.
    pub imbalance_datagrams: Counter,
    /// From the client to the backend.
    pub up: DirectionMetrics,
    /// From the backend to the client.
    pub down: DirectionMetrics,
    _held: Held,
}

impl RouteMetrics {
    /// Counts a session as active for as long as the guard lives.
    pub fn session_opened(&self, dialect: &str) -> GaugeGuard {
        if let Some((_, counter)) = self.sessions_total.iter().find(|(d, _)| *d == dialect) {
            counter.inc();
        }
        self.sessions.guard()
    }

    /// Sessions open now.
    pub fn open_sessions(&self) -> u64 {
        self.sessions.get() as u64
    }

    /// Counts a stream as open for as long as the guard lives.
    pub fn stream_opened(&self) -> GaugeGuard {
        self.streams.guard()
    }

    /// Notes how long a datagram has waited in a session's queue until it was sent or lost.
    pub fn datagram_waited(&self, time: Duration) {
        self.datagram_queue_seconds.observe(time);
    }

    /// Notes how long an ended session lived.
    pub fn session_lived(&self, time: Duration) {
        self.seconds.observe(time);
    }

    /// Notes how long a request took to become a session.
    pub fn session_setup_took(&self, time: Duration) {
        self.setup_seconds.observe(time);
    }
}

/// One direction of a route.
#[derive(Clone, Debug)]
pub struct DirectionMetrics {
    /// Stream bytes passed on.
    pub stream_bytes: Counter,
    /// Stream bytes that had to wait because there were too many.
    pub slowed_bytes: Counter,
    /// Stream bytes that were taken and never passed on.
    pub lost_bytes: Reasons<StreamEnd>,
    /// Datagrams passed on.
    pub datagrams: Counter,
    /// Payload bytes of the datagrams passed on.
    pub datagram_bytes: Counter,
    /// Datagrams lost.
    pub lost: Reasons<Loss>,
}

/// 1 s to a day and a bit, times four: how long sessions live.
const LONG_SECONDS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// 100 us to 10 s: how long datagrams wait.
const QUEUE_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
