//! How a backend is told who the client is, beyond the PROXY protocol's version.

use super::Preamble;

/// What a backend is told of each client, and in which form.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Introduction {
    /// What version 2 headers carry beside the addresses, in order and each once. Default nothing.
    pub tlvs: Vec<ProxyTlv>,
    /// What stands in front of datagrams. Default `off`.
    pub udp: UdpProxy,
    /// The first bytes on each TCP connection, after the PROXY header. Default none.
    pub preamble: Option<Preamble>,
}

/// Fields of a version 2 header beside the addresses (sections 2.2.1 to 2.2.8 of the PROXY protocol).
///
/// They are sent in this order: what the gateway itself knows comes first, and what a client can make
/// long last, so that it cannot push the others out of the header.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ProxyTlv {
    /// The session's id, as in the log.
    UniqueId,
    /// The application protocol of TLS: `h3`.
    Alpn,
    /// That the client came over TLS, and which version.
    Ssl,
    /// The route's name.
    Route,
    /// The session's application protocol, if it has one.
    Protocol,
    /// The generation of WebTransport that the client speaks.
    Dialect,
    /// Whom the client's token names, if it has one.
    Subject,
    /// The server name of TLS, or the host of the request where there was none.
    Authority,
    /// The `Origin` header, if there was one.
    Origin,
    /// The path as sent, without the query.
    Path,
    /// A checksum over the header.
    Crc32c,
}

/// What stands in front of the datagrams to a backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UdpProxy {
    /// Nothing.
    #[default]
    Off,
    /// A version 2 header in front of a session's first datagram, and of the first one after the backend
    /// was found gone.
    V2First,
    /// A version 2 header in front of each datagram.
    V2Every,
    /// Cloudflare's Simple Proxy Protocol, in front of each datagram and of each reply.
    Spp,
}

impl UdpProxy {
    /// Whether it is a version 2 header, which can carry TLVs.
    pub const fn is_v2(self) -> bool {
        matches!(self, Self::V2First | Self::V2Every)
    }
}
