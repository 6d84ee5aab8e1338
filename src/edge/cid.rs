//! Connection ids that know their way home.
//!
//! ```text
//! octet 0        1 .. 1+s        1+s                     up to 20 bytes in all
//! config | len   server id (s)   generation | worker     random
//! 3 bits   5     0-15 bytes      2 bits       6
//! ```
//!
//! The shape is that of draft-ietf-quic-load-balancers section 5 in plaintext, its self-encoded
//! length included; to a balancer the home byte is part of the nonce. The steering program
//! ([`super::steering`]) reads the home byte.
//!
//! Lengths: without a server id 8 bytes. With one of up to 12 bytes the nonce has 7 bytes, so that an
//! 8-byte server id gives exactly 16 bytes and first octet 0x0f, what the AWS network load balancer's
//! QUIC listeners expect. Longer server ids leave less, down to 4 bytes of nonce (3 of them random) for
//! 15, which is the draft's minimum; there a worker should not hold millions of connections.
//!
//! Ids have no lifetime. Renewing them on an unchanged path hides nothing, since the addresses stay the
//! same, and would cost each idle connection a timer and a round of frames; a client that changes its
//! path takes a fresh id by itself (RFC 9000 section 9.5).

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

use super::crypto::fill_random;

/// Longest connection id of QUIC version 1 (RFC 9000 section 17.2).
const MAX_CID_BYTES: usize = 20;

/// Bytes of the nonce, the home byte included, where the server id leaves room.
const NONCE_BYTES: usize = 7;

/// Bits of the home byte that name the worker.
pub(super) const WORKER_MASK: u8 = 0x3f;

/// Workers that six bits can name.
pub(super) const MAX_WORKERS: u8 = WORKER_MASK + 1;

/// Generation of the process: moves on when a successor takes over live sockets, which no process does
/// yet.
const GENERATION: u8 = 0;

/// What is the same in all ids of the process.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    config_id: u8,
    server_id: Vec<u8>,
    workers: u8,
}

impl Layout {
    pub(super) fn new(config_id: u8, server_id: &[u8], workers: u8) -> Self {
        Self { config_id, server_id: server_id.to_vec(), workers }
    }

    /// Where in an id the home byte is.
    pub(super) fn home_offset(&self) -> usize {
        1 + self.server_id.len()
    }

    fn length(&self) -> usize {
        (self.home_offset() + NONCE_BYTES).min(MAX_CID_BYTES)
    }

    fn first_octet(&self) -> u8 {
        let rest = u8::try_from(self.length() - 1).expect("an id has at most 20 bytes");
        self.config_id << 5 | rest
    }
}

/// Makes and knows the ids of one worker.
#[derive(Clone, Debug)]
pub(super) struct HomeIds {
    layout: Layout,
    worker: u8,
}

impl HomeIds {
    pub(super) fn new(layout: Layout, worker: u8) -> Self {
        Self { layout, worker }
    }

    /// Whether another worker of this process may own a connection by this home byte.
    fn lives_elsewhere(&self, home: u8) -> bool {
        let (generation, worker) = (home >> 6, home & WORKER_MASK);
        generation == GENERATION && worker != self.worker && worker < self.layout.workers
    }
}

impl ConnectionIdGenerator for HomeIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; MAX_CID_BYTES];
        let (home, length) = (self.layout.home_offset(), self.layout.length());
        id[0] = self.layout.first_octet();
        id[1..home].copy_from_slice(&self.layout.server_id);
        id[home] = GENERATION << 6 | self.worker;
        fill_random(&mut id[home + 1..length])
            .expect("the random source worked when the edge was bound");
        ConnectionId::new(&id[..length])
    }

    /// Asked for short packets that belong to no connection. `Err` drops the packet; `Ok` answers it
    /// with a stateless reset, which ends a connection.
    ///
    /// Ids of other servers and of other workers are dropped: their connections live, and the packet
    /// only came here by mistake. An id of another generation, or of a worker that this process does
    /// not have, is left over from a process that is gone: nobody else will tell the client.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let home = self.layout.home_offset();
        let ours = id.len() == self.layout.length()
            && id[0] == self.layout.first_octet()
            && id[1..home] == self.layout.server_id[..];
        if !ours || self.lives_elsewhere(id[home]) {
            return Err(InvalidCid);
        }
        Ok(())
    }

    fn cid_len(&self) -> usize {
        self.layout.length()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(config_id: u8, server_id: &[u8], worker: u8) -> HomeIds {
        HomeIds::new(Layout::new(config_id, server_id, 4), worker)
    }

    #[test]
    fn layouts_by_length_of_the_server_id() {
        // server id bytes, config id -> id bytes, first octet
        let table = [
            (0, 0, 8, 0x07),
            (1, 0, 9, 0x08),
            (8, 0, 16, 0x0f),
            (8, 2, 16, 0x4f),
            (12, 0, 20, 0x13),
            (13, 0, 20, 0x13),
            (15, 6, 20, 0xd3),
        ];
        for (server_bytes, config_id, length, first) in table {
            let server_id = vec![0xab; server_bytes];
            let mut ids = ids(config_id, &server_id, 3);
            let id = ids.generate_cid();
            assert_eq!(id.len(), length, "server id of {server_bytes}");
            assert_eq!(id.len(), ids.cid_len());
            assert_eq!(id[0], first, "server id of {server_bytes}");
            assert_eq!(id[1..=server_bytes], server_id[..]);
            assert_eq!(id[1 + server_bytes], 3, "the home byte names the worker");
            assert!(id.len() - server_bytes > 4, "the nonce has at least 4 bytes");
        }
    }

    #[test]
    fn ids_do_not_repeat() {
        let mut ids = ids(0, b"", 0);
        let made: std::collections::HashSet<_> = (0..1000).map(|_| ids.generate_cid()).collect();
        assert_eq!(made.len(), 1000);
    }

    #[test]
    fn only_ids_that_nobody_else_owns_are_answered() {
        let mine = ids(0, b"server-1", 1).generate_cid();
        let changed = |at: usize, to: u8| {
            let mut bytes = mine.to_vec();
            bytes[at] = to;
            ConnectionId::new(&bytes)
        };
        let table = [
            ("own", mine, true),
            ("own worker, other nonce", changed(12, !mine[12]), true),
            ("another worker", changed(9, 2), false),
            ("a worker that does not exist", changed(9, 4), true),
            ("another generation", changed(9, 0x40 | 2), true),
            ("another server", changed(1, b'X'), false),
            ("another config id", changed(0, 0x2f), false),
            ("another length in the first octet", changed(0, 0x0e), false),
            ("too short", ConnectionId::new(&mine[..15]), false),
            ("empty", ConnectionId::new(&[]), false),
        ];
        for (case, id, answered) in table {
            assert_eq!(ids(0, b"server-1", 1).validate(&id).is_ok(), answered, "{case}");
        }
    }
}
