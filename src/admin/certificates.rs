//! `/certificate-hashes`: what a page gives a browser that is to believe a certificate by its hash.
//!
//! Pages of any origin may read it, since a certificate is shown to every client that connects. Its names are
//! left out: a page could not learn them by connecting.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::http::Answer;

const PATH: &str = "/certificate-hashes";

/// The hashes of one certificate and of what comes in its place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CertificateHashes {
    /// The listener that has it. Of its certificates the default comes first.
    pub listener: String,
    /// Whether the gateway made it, and renews it.
    pub self_signed: bool,
    /// The one in use.
    pub current: CertificateHash,
    /// What comes next, where that is known: who lists both need not ask again before its time is over.
    pub next: Option<CertificateHash>,
}

/// One hash, and the time for which its certificate is valid.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CertificateHash {
    /// As `serverCertificateHashes` calls it (W3C WebTransport).
    algorithm: &'static str,
    hex: String,
    /// As JavaScript's `atob` takes it.
    base64: String,
    /// Unix time.
    not_before: i64,
    /// Unix time.
    not_after: i64,
}

impl CertificateHash {
    /// Of a certificate whose DER has this SHA-256, and which is valid in this time, Unix time.
    pub fn new(sha256: &[u8; 32], not_before: i64, not_after: i64) -> Self {
        let hex = sha256.iter().fold(String::new(), |mut hex, byte| {
            _ = write!(hex, "{byte:02x}"); // writing to a string cannot fail
            hex
        });
        Self { algorithm: "sha-256", hex, base64: STANDARD.encode(sha256), not_before, not_after }
    }
}

/// The body.
#[derive(Serialize)]
struct All {
    certificates: Vec<CertificateHashes>,
}

/// Answers a GET, if it is for this part. The hashes are only gathered if they are asked for.
pub(super) fn get(
    path: &str,
    certificates: impl FnOnce() -> Vec<CertificateHashes>,
) -> Option<Answer> {
    (path == PATH).then(|| Answer::json(&All { certificates: certificates() }).for_every_page())
}
