//! How much one direction carries until everyone else on its worker has had a turn.

use tokio::task::yield_now;

/// As much as one read takes. The system calls for it, and what QUIC does for it, take some 0.2 ms. Without a
/// bound one stream kept its worker for up to 15 ms: what is carried lets more come, from both sides.
const TURN_BYTES: u64 = super::super::SCRATCH_BYTES as u64;

/// What was carried in this turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    bytes: u64,
}

impl Turn {
    /// Notes bytes that were carried. Once they are a turn's, whoever else has something to do goes first, and so
    /// does whatever has come from the network. Cancel-safe.
    pub(super) async fn carried(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= TURN_BYTES {
            self.bytes = 0;
            yield_now().await;
        }
    }
}
