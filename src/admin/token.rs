//! The token that an operator shows.

use std::{fmt, io};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::{hmac, rand};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring::{hmac, rand};

use crate::config::Secret;

/// What a token is compared with: a code under a key of this process, so that the token itself is not kept
/// and the time of a comparison says nothing of it.
#[derive(Clone)]
pub(super) struct Token {
    key: hmac::Key,
    code: hmac::Tag,
}

impl Token {
    /// # Errors
    /// That the system's random source failed.
    pub(super) fn new(secret: &Secret) -> io::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        let key = key.map_err(|_unspecified| io::Error::other("the random source failed"))?;
        let code = hmac::sign(&key, secret.expose());
        Ok(Self { key, code })
    }

    pub(super) fn is(&self, shown: &[u8]) -> bool {
        hmac::verify(&self.key, shown, self.code.as_ref()).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
