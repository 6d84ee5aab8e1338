//! Listeners: QUIC connections, handshakes, and the UDP sockets under them.

use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec, Registry};

use super::{
    Counter, GaugeGuard, SHORT_SECONDS, censuses,
    counter::CounterVec,
    counters,
    gauge::{Census, CensusVec},
    gauges,
    histogram::{Histogram, HistogramVec},
    histograms,
};

/// The families of all listeners.
#[derive(Debug)]
pub(super) struct ListenerFamilies {
    connections: CensusVec,
    connections_total: CounterVec,
    handshake_seconds: HistogramVec,
    retries: CounterVec,
    incoming_refused: CounterVec,
    stream_pauses: CounterVec,
    early_streams_rejected: CounterVec,
    socket_drops: CounterVec,
    socket_buffer: IntGaugeVec,
    gso_segments: IntGaugeVec,
}

impl ListenerFamilies {
    pub(super) fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            connections: censuses(r, "quic_connections", "QUIC connections open.", &["listener"]),
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
            stream_pauses: counters(
                r,
                "quic_stream_pauses_total",
                "Times a connection's next streams had to wait because of its stream rate.",
                &["listener"],
            ),
            early_streams_rejected: counters(
                r,
                "quic_early_streams_rejected_total",
                "Streams that named a session to come, and were reset since too many waited or it never came.",
                &["listener"],
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
        }
    }

    /// The numbers of one listener.
    pub(super) fn resolve(&self, name: &str) -> ListenerMetrics {
        let connections = |result| self.connections_total.with_label_values(&[name, result]);
        let refused = |reason| self.incoming_refused.with_label_values(&[name, reason]);
        ListenerMetrics {
            connections: self.connections.with_label_values(&[name]),
            established: connections("established"),
            handshake_failed: connections("handshake_failed"),
            handshake_timeout: connections("handshake_timeout"),
            handshake_seconds: self.handshake_seconds.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            refused_connections: refused("too_many_connections"),
            refused_handshakes: refused("too_many_handshakes"),
            refused_client_connections: refused("client_connections"),
            refused_memory: refused("memory_shed"),
            refused_draining: refused("draining"),
            stream_pauses: self.stream_pauses.with_label_values(&[name]),
            early_streams_rejected: self.early_streams_rejected.with_label_values(&[name]),
            socket_drops: self.socket_drops.with_label_values(&[name]),
            receive_buffer: self.socket_buffer.with_label_values(&[name, "receive"]),
            send_buffer: self.socket_buffer.with_label_values(&[name, "send"]),
            gso_segments: self.gso_segments.with_label_values(&[name]),
        }
    }
}

/// One listener's numbers.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    connections: Census,
    /// Handshakes that succeeded.
    pub established: Counter,
    /// Handshakes that failed.
    pub handshake_failed: Counter,
    /// Handshakes that took too long.
    pub handshake_timeout: Counter,
    handshake_seconds: Histogram,
    /// Retry packets sent.
    pub retries: Counter,
    /// Connection attempts refused at the limit of connections.
    pub refused_connections: Counter,
    /// Connection attempts refused at the limit of handshakes.
    pub refused_handshakes: Counter,
    /// Connection attempts refused because the client's address has as many as it may.
    pub refused_client_connections: Counter,
    /// Connection attempts refused because the process holds as much memory as it may.
    pub refused_memory: Counter,
    /// Connection attempts refused because the process drains.
    pub refused_draining: Counter,
    /// Times that a connection's next streams were not taken for a moment, because it opened too many.
    pub stream_pauses: Counter,
    /// Streams of sessions to come that were reset: too many waited, or their session never came.
    pub early_streams_rejected: Counter,
    /// Packets that the kernel dropped because a socket's buffer was full.
    pub socket_drops: Counter,
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
        self.connections.guard()
    }

    /// Notes how long a handshake took.
    pub fn handshake_took(&self, time: Duration) {
        self.handshake_seconds.observe(time);
    }
}
