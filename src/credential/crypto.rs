//! The cryptography provider, as this room needs it.

#[cfg(not(feature = "aws-lc-rs"))]
pub(super) use super::ring::install;
#[cfg(all(test, not(feature = "aws-lc-rs")))]
use ::ring::hmac;
#[cfg(not(feature = "aws-lc-rs"))]
use ::ring::{digest, error, rand};
#[cfg(all(test, feature = "aws-lc-rs"))]
use aws_lc_rs::hmac;
#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::{digest, error, rand};

/// The library of signed tokens has code for aws-lc-rs, and nothing else is compiled in.
#[cfg(feature = "aws-lc-rs")]
pub(super) const fn install() {}

/// Fills `bytes` from the system's random source.
pub(super) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    use rand::SecureRandom;
    let filled = rand::SystemRandom::new().fill(bytes);
    filled.map_err(|error::Unspecified| std::io::Error::other("the random source failed"))
}

/// HMAC with SHA-256, for tests that make tokens.
#[cfg(test)]
pub(super) fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}
