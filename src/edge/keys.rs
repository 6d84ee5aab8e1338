//! Keys that must outlive a connection: stateless reset, address tokens, session tickets.
//!
//! All are stretched by HKDF (RFC 5869) from one secret, each under a label of its own, so none tells
//! anything about another. Instances that share the secret, and an instance before and after a restart,
//! accept each other's tokens and tickets and can reset each other's dead connections. Without a secret
//! the root is random: then only the workers of one process agree, and a restart begins anew.
//!
//! The QUIC traits are implemented here rather than taken from quinn, whose implementations change
//! type when another crate of the build switches a feature on.
//!
//! A shared reset key has a price (RFC 9000 section 21.11): who sees a connection id can ask another
//! instance for its reset token. Where instances are not reached by connection id, give each its own
//! secret.

use std::{fmt, io, sync::Arc};

use quinn::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use rustls::server::ProducesTickets;

use super::{
    crypto::{aead, error, fill_random, hkdf, hmac},
    tickets::Tickets,
};

/// Bytes of the random root that stands in for a secret.
const ROOT_BYTES: usize = 32;

/// The root of all keys of the process.
pub(super) struct Keys {
    root: hkdf::Prk,
}

impl Keys {
    /// From the configured secret, or from randomness.
    pub(super) fn new(secret: Option<&[u8]>) -> io::Result<Self> {
        let mut random = [0; ROOT_BYTES];
        let secret = match secret {
            Some(secret) => secret,
            None => {
                fill_random(&mut random)?;
                &random
            }
        };
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate edge 1");
        Ok(Self { root: salt.extract(secret) })
    }

    /// Makes stateless reset tokens (RFC 9000 section 10.3.2).
    pub(super) fn reset(&self) -> Arc<dyn HmacKey> {
        let key = self.root.expand(&[b"stateless reset"], hmac::HMAC_SHA256).expect(FITS);
        Arc::new(ResetKey(key.into()))
    }

    /// Seals the tokens of Retry packets and NEW_TOKEN frames (RFC 9000 section 8.1).
    pub(super) fn tokens(&self) -> Arc<dyn HandshakeTokenKey> {
        Arc::new(TokenKey(self.derive(b"address token")))
    }

    /// Seals TLS session tickets (RFC 8446 section 4.6.1).
    pub(super) fn tickets(&self) -> Arc<dyn ProducesTickets> {
        Arc::new(Tickets::new(self.derive(b"session ticket")))
    }

    fn derive(&self, label: &[u8]) -> hkdf::Prk {
        self.root.expand(&[label], hkdf::HKDF_SHA256).expect(FITS).into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// HKDF fails only above 255 hash lengths.
const FITS: &str = "32 bytes are within what HKDF gives";

/// A key for one message, from a root and what makes the message unlike all others.
///
/// The nonce can be zero because the key is never used for a second message.
pub(super) fn one_time_key(root: &hkdf::Prk, info: &[&[u8]]) -> aead::LessSafeKey {
    let key = root.expand(info, &aead::AES_256_GCM).expect(FITS);
    aead::LessSafeKey::new(key.into())
}

/// The nonce of every [`one_time_key`].
pub(super) fn zero_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

/// Neither side says why: that would help only an attacker.
fn untold(_: error::Unspecified) -> CryptoError {
    CryptoError
}

struct ResetKey(hmac::Key);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(untold)
    }
}

struct TokenKey(hkdf::Prk);

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, nonce: &[u8]) -> Box<dyn AeadKey> {
        Box::new(OneTimeKey(one_time_key(&self.0, &[nonce])))
    }
}

struct OneTimeKey(aead::LessSafeKey);

impl AeadKey for OneTimeKey {
    fn seal(&self, data: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        let additional = aead::Aad::from(additional);
        let sealed = self.0.seal_in_place_append_tag(zero_nonce(), additional, data);
        sealed.map_err(untold)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let additional = aead::Aad::from(additional);
        self.0.open_in_place(zero_nonce(), additional, data).map_err(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = &[7; 32];
    const OTHER: &[u8] = &[8; 32];

    fn keys(secret: Option<&[u8]>) -> Keys {
        Keys::new(secret).unwrap()
    }

    fn reset_token(keys: &Keys) -> Vec<u8> {
        let mut token = vec![0; 32];
        keys.reset().sign(b"a connection id", &mut token);
        token
    }

    #[test]
    fn instances_with_one_secret_make_the_same_reset_tokens() {
        let token = reset_token(&keys(Some(SECRET)));
        assert_eq!(token, reset_token(&keys(Some(SECRET))));
        assert!(keys(Some(SECRET)).reset().verify(b"a connection id", &token).is_ok());
        assert!(keys(Some(SECRET)).reset().verify(b"another id", &token).is_err());
        assert!(keys(Some(OTHER)).reset().verify(b"a connection id", &token).is_err());
    }

    #[test]
    fn instances_with_one_secret_open_each_others_address_tokens() {
        let mut token = b"192.0.2.1".to_vec();
        let sealer = keys(Some(SECRET)).tokens();
        sealer.aead_from_hkdf(b"nonce").seal(&mut token, b"").unwrap();
        let open = |secret, nonce: &[u8]| {
            let key = keys(Some(secret)).tokens().aead_from_hkdf(nonce);
            key.open(&mut token.clone(), b"").map(|opened| opened.to_vec()).ok()
        };

        assert_eq!(open(SECRET, b"nonce").as_deref(), Some(&b"192.0.2.1"[..]));
        assert_eq!(open(SECRET, b"other"), None);
        assert_eq!(open(OTHER, b"nonce"), None);
    }

    #[test]
    fn instances_with_one_secret_open_each_others_tickets() {
        let ticket = keys(Some(SECRET)).tickets().encrypt(b"a session").unwrap();
        assert_eq!(
            keys(Some(SECRET)).tickets().decrypt(&ticket).as_deref(),
            Some(&b"a session"[..])
        );
        assert_eq!(keys(Some(OTHER)).tickets().decrypt(&ticket), None);
    }

    #[test]
    fn without_a_secret_every_process_has_its_own_keys() {
        assert_ne!(reset_token(&keys(None)), reset_token(&keys(None)));
    }

    #[test]
    fn debug_output_shows_no_key() {
        assert_eq!(format!("{:?}", keys(Some(SECRET))), "Keys(***)");
    }
}
