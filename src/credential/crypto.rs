//! The cryptography provider, as this room needs it.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::{digest, error, rand};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::{digest, error, rand};

/// Fills `bytes` from the system's random source.
pub(super) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    use rand::SecureRandom;
    let filled = rand::SystemRandom::new().fill(bytes);
    filled.map_err(|error::Unspecified| std::io::Error::other("the random source failed"))
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}
