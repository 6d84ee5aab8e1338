//! What stands in front of a session's datagrams to its backend, and in front of the replies.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{ClientInfo, proxy_protocol, spp};
use crate::config::{self, UdpProxy};

/// The header of one session's datagrams. Made once, with the socket.
#[derive(Debug)]
pub(super) struct UdpHeader {
    how: UdpProxy,
    bytes: Box<[u8]>,
    /// Whether the backend has yet to see it.
    due: AtomicBool,
}

impl UdpHeader {
    pub(super) fn new(settings: &config::Backend, client: &ClientInfo) -> Self {
        let how = settings.introduction.udp;
        let bytes = match how {
            UdpProxy::Off => Vec::new(),
            UdpProxy::V2First | UdpProxy::V2Every => proxy_protocol::for_udp(settings, client),
            UdpProxy::Spp => spp::header(client),
        };
        Self { how, bytes: bytes.into(), due: AtomicBool::new(true) }
    }

    /// What belongs in front of the next datagram.
    pub(super) fn next(&self) -> &[u8] {
        match self.how {
            UdpProxy::V2First if !self.due.load(Ordering::Relaxed) => &[],
            _ => &self.bytes,
        }
    }

    /// How many datagrams in a row may have what [`Self::next`] yields in front of them.
    pub(super) fn serves(&self) -> usize {
        match self.how {
            UdpProxy::V2First if self.due.load(Ordering::Relaxed) => 1,
            _ => usize::MAX,
        }
    }

    /// Notes that a datagram went out.
    pub(super) fn sent(&self) {
        // Read first, so that the usual case writes nothing.
        if self.due.load(Ordering::Relaxed) {
            self.due.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that nobody listened. Who listens next has not seen the header.
    pub(super) fn refused(&self) {
        self.due.store(true, Ordering::Relaxed);
    }

    /// Bytes in front of a reply's payload. `None`: the reply is not what the protocol wants, which is
    /// the session's own header, and so may be meant for somebody else.
    pub(super) fn of_reply(&self, reply: &[u8]) -> Option<usize> {
        match self.how {
            UdpProxy::Spp => reply.starts_with(&self.bytes).then_some(self.bytes.len()),
            _ => Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{client_info::tests::client, tests::settings},
        *,
    };

    fn header(how: UdpProxy) -> UdpHeader {
        let mut settings = settings(&[]);
        settings.introduction.udp = how;
        UdpHeader::new(&settings, &client())
    }

    #[test]
    fn each_mode_says_when_the_header_is_due() {
        for (how, at_first, later, after_a_refusal) in [
            (UdpProxy::Off, 0, 0, 0),
            (UdpProxy::V2First, 28, 0, 28),
            (UdpProxy::V2Every, 28, 28, 28),
            (UdpProxy::Spp, 38, 38, 38),
        ] {
            let header = header(how);
            assert_eq!(header.next().len(), at_first, "{how:?}");
            assert_eq!(header.next().len(), at_first, "{how:?}: nothing was sent");
            header.sent();
            assert_eq!(header.next().len(), later, "{how:?}");
            header.refused();
            assert_eq!(header.next().len(), after_a_refusal, "{how:?}");
        }
    }

    #[test]
    fn only_replies_of_spp_have_a_header() {
        for how in [UdpProxy::Off, UdpProxy::V2First, UdpProxy::V2Every] {
            assert_eq!(header(how).of_reply(b"reply"), Some(0), "{how:?}");
        }
        let header = header(UdpProxy::Spp);
        let right = [header.next(), b"reply"].concat();
        assert_eq!(header.of_reply(&right), Some(38));
        assert_eq!(header.of_reply(&right[..38]), Some(38), "an empty reply");
        assert_eq!(header.of_reply(&right[..37]), None);
        assert_eq!(header.of_reply(b""), None);
        for at in 0..38 {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(header.of_reply(&wrong), None, "byte {at}");
        }
    }
}
