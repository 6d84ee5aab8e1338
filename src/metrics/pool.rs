//! What is known of a backend's endpoints.

use prometheus::{IntGauge, IntGaugeVec, Registry};

use super::{Counter, Held, Reasons, counter::CounterVec, counters, forget, gauges};
use crate::reason::CheckResult;

/// The families of this part.
#[derive(Debug)]
pub(super) struct PoolFamilies {
    up: IntGaugeVec,
    ejections: CounterVec,
    checks: CounterVec,
}

impl PoolFamilies {
    pub(super) fn register(registry: &Registry) -> Self {
        Self {
            up: gauges(
                registry,
                "backend_up",
                "Addresses of the endpoint that take new sessions; 0 when none does.",
                &["backend", "endpoint"],
            ),
            ejections: counters(
                registry,
                "backend_ejections_total",
                "Times that an address of the endpoint was left out because it failed in use.",
                &["backend", "endpoint"],
            ),
            checks: counters(
                registry,
                "backend_health_checks_total",
                "Active health checks, by what they found.",
                &["backend", "endpoint", "result"],
            ),
        }
    }

    /// Drops the series of one endpoint.
    pub(super) fn forget(&self, labels: &[(&str, &str)]) {
        forget(&self.up, labels);
        forget(&self.ejections, labels);
        forget(&self.checks, labels);
    }

    pub(super) fn endpoint(&self, backend: &str, endpoint: &str, held: Held) -> PoolMetrics {
        PoolMetrics {
            all_up: self.up.clone(),
            labels: [backend, endpoint].map(str::to_owned),
            _held: held,
            up: self.up.with_label_values(&[backend, endpoint]),
            ejections: self.ejections.with_label_values(&[backend, endpoint]),
            checks: Reasons::new(CheckResult::ALL, |result| {
                self.checks.with_label_values(&[backend, endpoint, result.word()])
            }),
        }
    }
}

/// One endpoint's numbers.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    /// Members that take new sessions. Set by the control side alone, from the members' states.
    pub up: IntGauge,
    /// Ejections of its members.
    pub ejections: Counter,
    /// Active checks of its members.
    pub checks: Reasons<CheckResult>,
    all_up: IntGaugeVec,
    labels: [String; 2],
    _held: Held,
}

impl PoolMetrics {
    /// The endpoint is configured no more: nobody is to be called because it takes no sessions. What it has
    /// done stays to be read for some time.
    pub fn retire(&self) {
        // An error says that this was done before.
        _ = self.all_up.remove_label_values(&self.labels);
    }
}
