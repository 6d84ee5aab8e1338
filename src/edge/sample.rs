//! What only the sockets know: packets dropped by the kernel, and whether GSO is still on.
//!
//! Read when somebody asks (the admin listener, at each scrape), never on the data path.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use quinn::AsyncUdpSocket;
use tracing::debug;

use super::{Listener, sockopt::dropped_packets};

/// Brings the metrics of the sockets up to date. Clones share one state; it outlives the workers
/// without keeping their sockets open.
#[derive(Clone, Debug)]
pub struct Sampler(Weak<Mutex<Vec<SampledSocket>>>);

impl Sampler {
    pub(super) fn new(sockets: &Arc<Mutex<Vec<SampledSocket>>>) -> Self {
        Self(Arc::downgrade(sockets))
    }

    /// Reads every socket once: one system call for each.
    pub fn sample(&self) {
        let Some(sockets) = self.0.upgrade() else { return };
        // Numbers are whole even if a holder of the lock has panicked.
        let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);

        let mut segments = BTreeMap::<Arc<str>, (Arc<Listener>, usize)>::new();
        for socket in sockets.iter_mut() {
            socket.count_drops();
            let now = socket.quic.max_transmit_segments();
            let name = Arc::clone(&socket.listener.name);
            let (_, least) =
                segments.entry(name).or_insert_with(|| (Arc::clone(&socket.listener), now));
            // GSO fails socket by socket, and one without it is what the gauge is there to tell.
            *least = now.min(*least);
        }
        for (listener, least) in segments.into_values() {
            listener.metrics.gso_segments.set(i64::try_from(least).unwrap_or(i64::MAX));
        }
    }
}

/// One socket of one worker.
#[derive(Debug)]
pub(super) struct SampledSocket {
    listener: Arc<Listener>,
    quic: Arc<dyn AsyncUdpSocket>,
    /// The same socket again, since quinn's wrapper does not hand it out.
    udp: UdpSocket,
    drops_seen: u32,
}

impl SampledSocket {
    pub(super) fn new(
        listener: Arc<Listener>,
        quic: Arc<dyn AsyncUdpSocket>,
        udp: UdpSocket,
    ) -> Self {
        Self { listener, quic, udp, drops_seen: 0 }
    }

    fn count_drops(&mut self) {
        match dropped_packets(&self.udp) {
            Ok(now) => {
                // The kernel's number wraps around, ours does not.
                self.listener.metrics.socket_drops.inc_by(now.wrapping_sub(self.drops_seen).into());
                self.drops_seen = now;
            }
            Err(error) => debug!(%error, "The kernel does not tell a socket's drops."),
        }
    }
}
