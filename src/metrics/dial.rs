//! Dialling: who waits, what is being made, and what the gateway itself had too little of.

use prometheus::Registry;

use super::{
    Counter, GaugeGuard, censuses, forget,
    gauge::{Census, CensusVec},
};

/// The families of all endpoints.
#[derive(Debug)]
pub(super) struct DialFamilies {
    dials: CensusVec,
    queued: CensusVec,
}

impl DialFamilies {
    pub(super) fn register(registry: &Registry) -> Self {
        let labels = &["backend", "endpoint"];
        Self {
            dials: censuses(
                registry,
                "backend_dials",
                "Connections to the backend that are being made.",
                labels,
            ),
            queued: censuses(
                registry,
                "backend_dials_queued",
                "Connections to the backend that wait for their turn to be made.",
                labels,
            ),
        }
    }

    /// Drops the series of one endpoint.
    pub(super) fn forget(&self, labels: &[(&str, &str)]) {
        forget(&self.dials, labels);
        forget(&self.queued, labels);
    }

    /// The numbers of one endpoint; `connects` is its counter of attempts with a result.
    pub(super) fn endpoint(
        &self,
        backend: &str,
        endpoint: &str,
        connects: impl Fn(&'static str) -> Counter,
    ) -> DialMetrics {
        DialMetrics {
            dials: self.dials.with_label_values(&[backend, endpoint]),
            queued: self.queued.with_label_values(&[backend, endpoint]),
            queue_full: connects("queue_full"),
            queue_timeout: connects("queue_timeout"),
            no_source: connects("no_source"),
            out_of_ports: connects("out_of_ports"),
            out_of_descriptors: connects("out_of_descriptors"),
            tls_failed: connects("tls_failed"),
        }
    }
}

/// One endpoint's numbers.
#[derive(Clone, Debug)]
pub struct DialMetrics {
    dials: Census,
    queued: Census,
    /// Attempts that found the queue full.
    pub queue_full: Counter,
    /// Attempts whose turn did not come in time.
    pub queue_timeout: Counter,
    /// Attempts for which no source address could be used.
    pub no_source: Counter,
    /// Attempts for which every local port was taken.
    pub out_of_ports: Counter,
    /// Attempts for which there was no file descriptor.
    pub out_of_descriptors: Counter,
    /// Attempts that were connected, but had no TLS.
    pub tls_failed: Counter,
}

impl DialMetrics {
    /// Counts a connection as being made for as long as the guard lives.
    pub fn dial_begun(&self) -> GaugeGuard {
        self.dials.guard()
    }

    /// Counts a connection as waiting for its turn for as long as the guard lives.
    pub fn dial_queued(&self) -> GaugeGuard {
        self.queued.guard()
    }
}
