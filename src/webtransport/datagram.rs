//! HTTP datagrams (RFC 9297 section 2.1): a Quarter Stream ID, then the payload.

use std::cell::Cell;

use bytes::{Buf, Bytes};

use super::varint;
use crate::transport::{self, DatagramError};

/// Largest Quarter Stream ID: that of the last client-initiated bidirectional stream.
const MAX_QUARTER_ID: u64 = (1 << 60) - 1;

/// The session and the payload of a datagram. `None`: it breaks the rules, which costs the connection.
pub(crate) fn parse(mut datagram: Bytes) -> Option<(u64, Bytes)> {
    let (quarter, n) = varint::peek(&datagram)?;
    if quarter > MAX_QUARTER_ID {
        return None;
    }
    datagram.advance(n);
    Some((quarter * 4, datagram))
}

/// Datagrams of one session that are handed over together at most: as many as the kernel takes in one call
/// (UDP_MAX_SEGMENTS). More have to wait for everything else that the connection has to do.
const MOST_TOGETHER: usize = 64;

thread_local! {
    /// Lent to the connection that reads datagrams now, so that none keeps one while it is idle.
    static LENT: Cell<Vec<Bytes>> = const { Cell::new(Vec::new()) };
}

/// Datagrams of one session that have come one right behind the other.
#[derive(Debug)]
pub(crate) struct Together {
    session: u64,
    payloads: Vec<Bytes>,
}

impl Together {
    /// None so far.
    pub(crate) fn begin() -> Self {
        Self { session: 0, payloads: LENT.take() }
    }

    /// Whether a datagram of this session may come next.
    pub(crate) fn is_of(&self, session: u64) -> bool {
        self.payloads.is_empty() || self.session == session
    }

    /// Adds one that [is of](Self::is_of) the same session. Yields whether there is room for more.
    pub(crate) fn push(&mut self, session: u64, payload: Bytes) -> bool {
        self.session = session;
        self.payloads.push(payload);
        self.payloads.len() < MOST_TOGETHER
    }

    /// The session and what it is to get, in the order of coming; never nothing but at the beginning.
    pub(crate) fn get(&self) -> (u64, &[Bytes]) {
        (self.session, &self.payloads)
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self) {
        self.payloads.clear();
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        self.payloads.clear();
        LENT.set(std::mem::take(&mut self.payloads));
    }
}

/// The way for a session's datagrams to its client.
#[derive(Clone, Debug)]
pub struct Datagrams {
    quic: quinn::Connection,
    /// Whether the client said that it takes HTTP datagrams.
    wanted: bool,
    prefix: [u8; varint::MAX_BYTES],
    prefix_length: usize,
}

impl Datagrams {
    pub(crate) fn new(quic: quinn::Connection, session: u64, wanted: bool) -> Self {
        let mut prefix = [0; varint::MAX_BYTES];
        let mut rest = &mut prefix[..];
        varint::put(&mut rest, session / 4);
        let prefix_length = varint::MAX_BYTES - rest.len();
        Self { quic, wanted, prefix, prefix_length }
    }

    fn error(error: &quinn::SendDatagramError) -> DatagramError {
        match error {
            quinn::SendDatagramError::TooLarge => DatagramError::TooLarge,
            _ => DatagramError::Closed,
        }
    }
}

impl transport::Datagrams for Datagrams {
    fn prefix(&self) -> &[u8] {
        &self.prefix[..self.prefix_length]
    }

    fn max_payload(&self) -> Option<usize> {
        let room = self.quic.max_datagram_size().filter(|_| self.wanted)?;
        room.checked_sub(self.prefix_length)
    }

    fn try_send(&self, framed: Bytes) -> Result<(), DatagramError> {
        if !self.wanted {
            return Err(DatagramError::Closed);
        }
        // quinn makes room by losing the oldest without a word; so ask first. Nothing comes between,
        // since the connection lives on this thread.
        if self.quic.datagram_send_buffer_space() < framed.len() {
            return Err(DatagramError::Full(framed));
        }
        self.quic.send_datagram(framed).map_err(|error| Self::error(&error))
    }

    async fn send(&self, framed: Bytes) -> Result<(), DatagramError> {
        if !self.wanted {
            return Err(DatagramError::Closed);
        }
        self.quic.send_datagram_wait(framed).await.map_err(|error| Self::error(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_quarter_id_names_the_session() {
        for (bytes, parsed) in [
            (&[0x00, b'x'][..], Some((0, &b"x"[..]))),
            (&[0x01], Some((4, b""))),
            (&[0x40, 0x40, 1, 2], Some((256, &[1, 2]))),
            (&[], None),
            (&[0x40], None),
            // 2^60 and above name no stream.
            (&[0xd0, 0, 0, 0, 0, 0, 0, 0], None),
        ] {
            let parsed = parsed.map(|(id, p)| (id, Bytes::copy_from_slice(p)));
            assert_eq!(parse(Bytes::copy_from_slice(bytes)), parsed, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            _ = parse(bytes.into());
        }
    }
}
