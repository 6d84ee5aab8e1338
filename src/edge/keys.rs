//! Keys that must outlive a connection: stateless reset, address tokens, session tickets.
//!
//! All are stretched by HKDF (RFC 5869) from one secret, each under a label of its own, so none tells
//! anything about another. Instances that share the secret, and an instance before and after a restart,
//! accept each other's tokens and tickets and can reset each other's dead connections. Without a secret
//! the root is random: then only the workers of one process agree, and a restart begins anew.
//!
//! Two secrets make a change of secret possible: the current one makes everything that is new, and what
//! the previous one made is still opened. Resets are made with the current one alone, because a reset
//! token is compared by the client with the one that it was given: an instance that has the new secret
//! cannot reset connections that began under the old one, which then end by their idle timeout.
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
    current: hkdf::Prk,
    previous: Option<hkdf::Prk>,
}

impl Keys {
    /// From the configured secrets, or from randomness.
    pub(super) fn new(secret: Option<&[u8]>, previous: Option<&[u8]>) -> io::Result<Self> {
        let mut random = [0; ROOT_BYTES];
        let secret = match secret {
            Some(secret) => secret,
            None => {
                fill_random(&mut random)?;
                &random
            }
        };
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate edge 1");
        let root = |secret| salt.extract(secret);
        Ok(Self { current: root(secret), previous: previous.map(root) })
    }

    /// Makes stateless reset tokens (RFC 9000 section 10.3.2).
    pub(super) fn reset(&self) -> Arc<dyn HmacKey> {
        let key = self.current.expand(&[b"stateless reset"], hmac::HMAC_SHA256).expect(FITS);
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

    fn derive(&self, label: &[u8]) -> Roots {
        let derive =
            |root: &hkdf::Prk| root.expand(&[label], hkdf::HKDF_SHA256).expect(FITS).into();
        Roots { current: derive(&self.current), previous: self.previous.as_ref().map(derive) }
    }
}

/// What the keys for one purpose are made from: the root that seals, and one that only opens.
pub(super) struct Roots {
    pub(super) current: hkdf::Prk,
    pub(super) previous: Option<hkdf::Prk>,
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

struct TokenKey(Roots);

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, nonce: &[u8]) -> Box<dyn AeadKey> {
        let key = |root| one_time_key(root, &[nonce]);
        let Roots { current, previous } = &self.0;
        Box::new(OneTimeKey { current: key(current), previous: previous.as_ref().map(key) })
    }
}

struct OneTimeKey {
    current: aead::LessSafeKey,
    previous: Option<aead::LessSafeKey>,
}

impl AeadKey for OneTimeKey {
    fn seal(&self, data: &mut Vec<u8>, additional: &[u8]) -> Result<(), CryptoError> {
        let additional = aead::Aad::from(additional);
        let sealed = self.current.seal_in_place_append_tag(zero_nonce(), additional, data);
        sealed.map_err(untold)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let aad = aead::Aad::from(additional);
        let Some(previous) = &self.previous else {
            return self.current.open_in_place(zero_nonce(), aad, data).map_err(untold);
        };
        // A key that does not fit may leave anything in its place.
        let mut copy = data.to_vec();
        if let Ok(opened) = self.current.open_in_place(zero_nonce(), aad, &mut copy) {
            let data = data.split_at_mut(opened.len()).0;
            data.copy_from_slice(opened);
            return Ok(data);
        }
        let aad = aead::Aad::from(additional);
        previous.open_in_place(zero_nonce(), aad, data).map_err(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = &[7; 32];
    const OTHER: &[u8] = &[8; 32];

    fn keys(secret: Option<&[u8]>) -> Keys {
        Keys::new(secret, None).unwrap()
    }

    /// Keys after a change of secret.
    fn changed(secret: &[u8], previous: &[u8]) -> Keys {
        Keys::new(Some(secret), Some(previous)).unwrap()
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
    fn after_a_change_tokens_of_both_secrets_are_opened_and_new_ones_are_of_the_current() {
        let [old, new] = [keys(Some(SECRET)), keys(Some(OTHER))].map(|keys| keys.tokens());
        let both = changed(OTHER, SECRET).tokens();
        let third = changed(&[9; 32], OTHER).tokens();
        let seal = |keys: &Arc<dyn HandshakeTokenKey>| {
            let mut token = b"192.0.2.1".to_vec();
            keys.aead_from_hkdf(b"nonce").seal(&mut token, b"more").unwrap();
            token
        };
        let open = |keys: &Arc<dyn HandshakeTokenKey>, token: &[u8]| {
            let opened = |opened: &mut [u8]| opened == b"192.0.2.1";
            keys.aead_from_hkdf(b"nonce").open(&mut token.to_vec(), b"more").is_ok_and(opened)
        };
        for (sealer, opener, good) in [
            (&old, &both, true),
            (&new, &both, true),
            (&both, &new, true),
            (&both, &old, false),
            (&both, &third, true),
            (&old, &third, false),
        ] {
            assert_eq!(open(opener, &seal(sealer)), good);
        }
        let mut changed_token = seal(&both);
        changed_token[0] ^= 1;
        assert!(!open(&both, &changed_token));
        assert!(!open(&both, b"short"));
    }

    #[test]
    fn after_a_change_tickets_of_both_secrets_are_opened_and_new_ones_are_of_the_current() {
        let [old, new] = [keys(Some(SECRET)), keys(Some(OTHER))].map(|keys| keys.tickets());
        let both = changed(OTHER, SECRET).tickets();
        for (sealer, opener, good) in
            [(&old, &both, true), (&new, &both, true), (&both, &new, true), (&both, &old, false)]
        {
            let ticket = sealer.encrypt(b"a session").unwrap();
            let opened = opener.decrypt(&ticket);
            assert_eq!(opened.as_deref(), good.then_some(&b"a session"[..]));
        }
    }

    #[test]
    fn after_a_change_resets_are_made_with_the_current_secret_alone() {
        let token = reset_token(&changed(OTHER, SECRET));
        assert_eq!(token, reset_token(&keys(Some(OTHER))));
        assert_ne!(token, reset_token(&keys(Some(SECRET))));
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
