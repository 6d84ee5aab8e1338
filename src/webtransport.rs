//! WebTransport over HTTP/3: a QUIC connection becomes session requests, and those become sessions.
//!
//! What comes in is a QUIC connection, to [`greet`] and then to [`serve`]; what goes out are session requests,
//! which implement [`crate::transport::SessionRequest`] and become sessions with streams and datagrams.
//! What is hidden: HTTP/3 itself, QPACK, four generations of WebTransport and their settings, capsules,
//! error codes, and what comes before its time.
//!
//! h3 does what it is good at, requests and QPACK. WebTransport streams never reach it:
//!
//! ```text
//! accept_bi, accept_uni -> head: the first varints
//!     0x41 / 0x54 + session id -> registry -> the session's events: raw quinn streams
//!     control, QPACK           -> control
//!     anything else            -> guard -> demux (h3's public traits) -> h3 -> request
//! read_datagram -> datagram: quarter id -> registry -> the session's events
//! open_bi, open_uni <- opener: the head of a stream <- who has a session's opener
//! ```
//!
//! All of that is one task per connection (`connection`); a session's task reads the capsules of its
//! own CONNECT stream. The client's control and QPACK streams are read here and not by h3, which would
//! drop the settings that matter and never read the others.
//!
//! What always holds:
//! - no more is held for a client than the configuration says: field sections by `limits.header_bytes`,
//!   early streams and datagrams by number and time, everything else by QUIC's windows;
//! - no more streams a second are taken from a client than the configuration says, whatever they are;
//! - no GOAWAY is sent while a session lives: Chromium 156 crashes on it;
//! - a client may open and send as much as it was told, and gets as much as it has told (`flow`);
//! - a session's streams end with WT_SESSION_GONE once the session has;
//! - a fault of the client's costs the stream or the connection that the specification says, and
//!   nothing else.
//!
//! Obeyed: RFC 9114, RFC 9204 (without a dynamic table), RFC 9220, RFC 9221, RFC 9297, and
//! draft-ietf-webtrans-http3-02 to -16 as far as clients speak them.

pub(crate) mod capsule;
mod client_certificate;
pub(crate) mod codes;
mod connection;
pub(crate) mod control;
pub(crate) mod datagram;
pub(crate) mod demux;
pub(crate) mod dialect;
pub(crate) mod fields;
pub(crate) mod flow;
mod gate;
pub(crate) mod greeting;
pub(crate) mod guard;
pub(crate) mod head;
#[cfg(any(test, fuzzing))]
pub(crate) mod in_memory;
mod mailbox;
mod offline;
mod opener;
pub(crate) mod protocols;
pub(crate) mod qpack;
pub(crate) mod queue;
mod registry;
pub(crate) mod request;
mod session;
pub(crate) mod stream;
pub(crate) mod varint;

#[cfg(test)]
mod tests;

pub use self::{
    connection::{Service, greet, serve},
    datagram::Datagrams,
    dialect::Dialect,
    flow::SessionCredit,
    greeting::Greeting,
    offline::{OfflineRequest, Unread, offer},
    opener::StreamOpener,
    request::SessionRequest,
    session::Session,
    stream::{RecvStream, SendStream},
};

/// The code of a clean end of a connection (RFC 9114 section 8.1).
pub(crate) fn no_error() -> quinn::VarInt {
    codes::quic(codes::error::H3_NO_ERROR)
}
