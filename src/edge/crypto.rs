//! The cryptography provider: the one place that chooses between aws-lc-rs and ring.
//!
//! Both have the same interface for what the edge needs. aws-lc-rs wins where both are compiled in,
//! for its hybrid key exchange.

use std::sync::Arc;

#[cfg(feature = "aws-lc-rs")]
pub(super) use aws_lc_rs::{aead, digest, error, hkdf, hmac, rand};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(super) use ring::{aead, digest, error, hkdf, hmac, rand};
use rustls::crypto::CryptoProvider;

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("choose a cryptography provider: feature `aws-lc-rs` (default) or `ring`");

/// What rustls computes with. Named at each use, so that nothing depends on a process-wide default.
pub(super) fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Fills `bytes` from the system's random source.
pub(super) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    use rand::SecureRandom;
    let filled = rand::SystemRandom::new().fill(bytes);
    filled.map_err(|error::Unspecified| std::io::Error::other("the random source failed"))
}
