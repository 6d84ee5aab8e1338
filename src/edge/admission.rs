//! Admission: whether a connection attempt is let in, and what all connections together may cost.
//!
//! The decision is a pure function of numbers; [`Counts`] keeps the numbers for the whole process.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::config::{Limit, Limits, RetryPolicy};

/// The rules of one listener.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    retry: RetryPolicy,
    connections: Limit,
    handshakes: Limit,
    retry_above_handshakes: Limit,
}

/// What the process is busy with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Connections, those in their handshake included.
    pub(super) connections: u64,
    /// Handshakes in flight.
    pub(super) handshakes: u64,
    /// Whether the client's address has as many connections as it may.
    pub(super) client_is_full: bool,
    /// Whether the process holds as much memory as it may.
    pub(super) memory_is_short: bool,
    /// Whether nothing new may begin.
    pub(super) draining: bool,
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Begin the handshake.
    Accept,
    /// Ask the client to prove its address.
    Retry,
    /// Tell the client to go elsewhere.
    Refuse(Refused),
}

/// Why an attempt is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    Draining,
    MemoryShed,
    TooManyConnections,
    ClientConnections,
    TooManyHandshakes,
}

impl Admission {
    pub(super) fn new(retry: RetryPolicy, limits: &Limits) -> Self {
        Self {
            retry,
            connections: limits.connections,
            handshakes: limits.handshakes,
            retry_above_handshakes: limits.retry_above_handshakes,
        }
    }

    /// Decides on one connection attempt. Pure: no socket, no clock, no counter.
    ///
    /// Retry asks the client to prove its address (RFC 9000 section 8.1.2) and costs a round trip, so
    /// `auto` uses it only when handshakes pile up. From then on forged addresses can add none, and
    /// what still reaches the limit of handshakes are clients.
    ///
    /// Only connections whose address was proved count for an address, so that forged packets cannot use
    /// up the places of its owner; hence an address that is full is refused whether it is proved or not.
    ///
    /// Without memory a handshake would use up what is lacking, only to end in 503: QUIC refuses for nothing.
    pub(super) fn admit(&self, load: Load, address_validated: bool) -> Verdict {
        if load.draining {
            Verdict::Refuse(Refused::Draining)
        } else if load.memory_is_short {
            Verdict::Refuse(Refused::MemoryShed)
        } else if !self.connections.allows_one_more(load.connections) {
            Verdict::Refuse(Refused::TooManyConnections)
        } else if load.client_is_full {
            Verdict::Refuse(Refused::ClientConnections)
        } else if !self.handshakes.allows_one_more(load.handshakes) {
            Verdict::Refuse(Refused::TooManyHandshakes)
        } else if !address_validated && self.wants_proof(load.handshakes) {
            Verdict::Retry
        } else {
            Verdict::Accept
        }
    }

    fn wants_proof(&self, handshakes: u64) -> bool {
        match self.retry {
            RetryPolicy::Always => true,
            RetryPolicy::Never => false,
            RetryPolicy::Auto => !self.retry_above_handshakes.allows_one_more(handshakes),
        }
    }
}

/// Connections and handshakes of the process, over all listeners and workers.
///
/// Workers read first and count afterwards, without a lock: each may let in one above a limit.
#[derive(Debug, Default)]
pub(super) struct Counts {
    connections: AtomicU64,
    handshakes: AtomicU64,
}

impl Counts {
    pub(super) fn load(&self, client_is_full: bool, memory_is_short: bool, draining: bool) -> Load {
        Load {
            client_is_full,
            connections: self.connections.load(Ordering::Relaxed),
            handshakes: self.handshakes.load(Ordering::Relaxed),
            memory_is_short,
            draining,
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection(self: &Arc<Self>) -> Counted {
        Counted::new(self, |counts| &counts.connections)
    }

    /// Counts a handshake for as long as the guard lives.
    pub(super) fn handshake(self: &Arc<Self>) -> Counted {
        Counted::new(self, |counts| &counts.handshakes)
    }
}

/// Keeps a count right on every path out, panics included.
#[derive(Debug)]
#[must_use = "it stops being counted when this is dropped"]
pub(super) struct Counted {
    counts: Arc<Counts>,
    which: fn(&Counts) -> &AtomicU64,
}

impl Counted {
    fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(counts), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.counts).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(retry: RetryPolicy) -> Admission {
        Admission {
            retry,
            connections: Limit::AtMost(100),
            handshakes: Limit::AtMost(20),
            retry_above_handshakes: Limit::AtMost(10),
        }
    }

    fn load(connections: u64, handshakes: u64) -> Load {
        Load { connections, handshakes, ..Load::default() }
    }

    #[test]
    fn verdicts() {
        use Refused::{TooManyConnections, TooManyHandshakes};
        use RetryPolicy::{Always, Auto, Never};
        use Verdict::{Accept, Refuse, Retry};

        // policy, connections, handshakes, address validated -> verdict
        let table = [
            (Auto, 0, 0, false, Accept),
            (Auto, 99, 9, false, Accept),
            (Auto, 50, 10, false, Retry),
            (Auto, 50, 10, true, Accept),
            (Auto, 50, 19, true, Accept),
            (Auto, 50, 20, true, Refuse(TooManyHandshakes)),
            (Auto, 50, 20, false, Refuse(TooManyHandshakes)),
            (Auto, 100, 0, true, Refuse(TooManyConnections)),
            (Auto, 100, 20, false, Refuse(TooManyConnections)),
            (Always, 0, 0, false, Retry),
            (Always, 0, 0, true, Accept),
            (Always, 100, 0, false, Refuse(TooManyConnections)),
            (Never, 50, 19, false, Accept),
            (Never, 50, 20, false, Refuse(TooManyHandshakes)),
        ];
        for (policy, connections, handshakes, validated, verdict) in table {
            assert_eq!(
                rules(policy).admit(load(connections, handshakes), validated),
                verdict,
                "{policy:?}, {connections} connections, {handshakes} handshakes, {validated}"
            );
        }
    }

    #[test]
    fn a_drain_refuses_everyone() {
        let drain = Load { draining: true, ..Load::default() };
        for policy in [RetryPolicy::Auto, RetryPolicy::Always, RetryPolicy::Never] {
            for validated in [false, true] {
                let verdict = rules(policy).admit(drain, validated);
                assert_eq!(verdict, Verdict::Refuse(Refused::Draining));
            }
        }
    }

    #[test]
    fn without_memory_everyone_is_refused_and_no_proof_is_asked_for() {
        let short = Load { memory_is_short: true, client_is_full: true, ..load(100, 20) };
        for policy in [RetryPolicy::Auto, RetryPolicy::Always, RetryPolicy::Never] {
            for validated in [false, true] {
                let verdict = rules(policy).admit(short, validated);
                assert_eq!(verdict, Verdict::Refuse(Refused::MemoryShed));
            }
        }
    }

    #[test]
    fn a_client_with_too_many_connections_is_refused_proved_or_not_and_is_told_first() {
        use Refused::{ClientConnections, TooManyConnections};
        for policy in [RetryPolicy::Auto, RetryPolicy::Always, RetryPolicy::Never] {
            for validated in [false, true] {
                for (connections, handshakes, why) in [
                    (0, 0, ClientConnections),
                    (0, 20, ClientConnections),
                    (100, 0, TooManyConnections),
                ] {
                    let load = Load { client_is_full: true, ..load(connections, handshakes) };
                    assert_eq!(rules(policy).admit(load, validated), Verdict::Refuse(why));
                }
            }
        }
    }

    #[test]
    fn no_limit_means_no_refusal() {
        let rules = Admission {
            retry: RetryPolicy::Auto,
            connections: Limit::Unlimited,
            handshakes: Limit::Unlimited,
            retry_above_handshakes: Limit::Unlimited,
        };
        assert_eq!(rules.admit(load(u64::MAX, u64::MAX), false), Verdict::Accept);
    }

    #[test]
    fn counts_come_back_when_their_guards_go() {
        let counts = Arc::new(Counts::default());
        let guards = (counts.connection(), counts.connection(), counts.handshake());
        let now = counts.load(false, false, false);
        assert_eq!((now.connections, now.handshakes), (2, 1));
        drop(guards);
        let now = counts.load(false, false, false);
        assert_eq!((now.connections, now.handshakes), (0, 0));
    }
}
