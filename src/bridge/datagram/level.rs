//! How full a session's queue of datagrams is, for whoever looks on from another thread.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::config::ByteSize;

/// What the queue last said of itself: written when a datagram begins or ceases to wait, and so never for one
/// that passes at once.
///
/// Its numbers are read one after the other, so they may be of two moments.
#[derive(Debug)]
pub(in crate::bridge) struct Level {
    made: Instant,
    datagrams: AtomicU64,
    bytes: AtomicU64,
    /// Since when the first in line waits: milliseconds after `made`.
    first_since: AtomicU64,
}

/// How a queue of datagrams stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueState {
    /// Datagrams that wait.
    pub datagrams: u64,
    /// Their bytes as they count towards the bound, what the gateway needs to keep them included.
    pub bytes: u64,
    /// The bound.
    pub capacity: ByteSize,
    /// For how long the first in line has waited: the oldest, but where the route has a key, whose newer
    /// datagrams take the places of older ones. `None`: there is none.
    pub first_waits: Option<Duration>,
}

impl Default for Level {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { made: Instant::now(), datagrams: zero(), bytes: zero(), first_since: zero() }
    }
}

impl Level {
    /// So many wait now, the first of them since then.
    pub(super) fn set(&self, datagrams: usize, bytes: usize, first_since: Option<Instant>) {
        self.datagrams.store(datagrams as u64, Relaxed);
        self.bytes.store(bytes as u64, Relaxed);
        if let Some(since) = first_since {
            let after = since.saturating_duration_since(self.made).as_millis();
            self.first_since.store(u64::try_from(after).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(in crate::bridge) fn state(&self, capacity: ByteSize) -> QueueState {
        let (datagrams, bytes) = (self.datagrams.load(Relaxed), self.bytes.load(Relaxed));
        let after = Duration::from_millis(self.first_since.load(Relaxed));
        let waits = || self.made.elapsed().saturating_sub(after);
        QueueState { datagrams, bytes, capacity, first_waits: (datagrams > 0).then(waits) }
    }
}
