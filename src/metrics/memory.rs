//! The memory of the process, as far as it decides on new sessions.

use prometheus::{Gauge, IntGauge, Registry};

use super::{gauge, opts, register};

/// What was seen when it was last looked at.
#[derive(Clone, Debug)]
pub struct MemoryMetrics {
    resident: IntGauge,
    limit: Gauge,
    is_short: IntGauge,
}

impl MemoryMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let limit = opts(
            "memory_limit_bytes",
            "Memory from which on new sessions are refused; +Inf without a limit.",
        );
        Self {
            resident: gauge(
                registry,
                "memory_resident_bytes",
                "Memory that the process held when it was last looked at.",
            ),
            limit: register(registry, Gauge::with_opts(limit).expect("a valid name")),
            is_short: gauge(
                registry,
                "memory_short",
                "1 while new sessions are refused for want of memory.",
            ),
        }
    }

    /// Says what the limit is. `None`: there is none.
    pub fn set_limit(&self, bytes: Option<u64>) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
        self.limit.set(bytes.map_or(f64::INFINITY, |bytes| bytes as f64));
    }

    /// Says what was seen, if anything was, and what follows from it.
    pub fn looked(&self, resident: Option<u64>, is_short: bool) {
        if let Some(resident) = resident {
            self.resident.set(i64::try_from(resident).unwrap_or(i64::MAX));
        }
        self.is_short.set(i64::from(is_short));
    }
}
