//! Workers, UDP sockets, steering, connection ids, TLS, admission.

use std::net::SocketAddr;

/// A UDP address that a listener is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundAddress {
    /// The listener's name.
    pub listener: String,
    /// The address, with its real port.
    pub address: SocketAddr,
}

/// A certificate in use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateInfo {
    /// The listener's name.
    pub listener: String,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// SHA-256 of the leaf's DER: what `serverCertificateHashes` wants.
    pub sha256: [u8; 32],
    /// When it ends, Unix time.
    pub not_after: i64,
    /// Whether the gateway made it itself.
    pub self_signed: bool,
}
