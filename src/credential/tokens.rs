//! Static bearer tokens, known by their hash alone.

use std::io;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::crypto::{fill_random, sha256};
use crate::config::{Token, Tokens};

/// What a file of tokens has in place of a token.
///
/// A plain hash is enough, and fast, since tokens are long and random: nobody can try them all, as they could
/// passwords.
pub fn token_hash(token: &str) -> [u8; 32] {
    sha256(token.as_bytes())
}

/// A token that nobody can guess: 256 random bits, in characters that need no encoding anywhere.
///
/// # Errors
/// The system has no random numbers.
pub fn new_token() -> io::Result<String> {
    let mut bits = [0; 32];
    fill_random(&mut bits)?;
    Ok(URL_SAFE_NO_PAD.encode(bits))
}

/// The token of the file that this one is. The time it takes says nothing of which it is, or how nearly.
pub(super) fn find<'t>(tokens: &'t Tokens, shown: &str) -> Option<&'t Token> {
    let shown = token_hash(shown);
    let same = |token: &&Token| bool::from(token.sha256.ct_eq(&shown));
    // All of them are compared, also behind the one that fits.
    tokens.list.iter().filter(same).fold(None, |found, token| found.or(Some(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_hash() {
        let token =
            |name: &str, token| Token { name: Some(name.into()), sha256: token_hash(token) };
        let tokens = Tokens {
            file: "tokens".into(),
            list: vec![token("alice", "first"), token("bob", "second")],
        };
        for (shown, wanted) in [
            ("first", Some("alice")),
            ("second", Some("bob")),
            ("third", None),
            ("firs", None),
            ("first ", None),
            ("", None),
        ] {
            let found = find(&tokens, shown).and_then(|token| token.name.as_deref());
            assert_eq!(found, wanted, "{shown}");
        }
    }

    #[test]
    fn a_new_token_is_another_one_each_time() {
        let [one, other] = [(); 2].map(|()| new_token().unwrap());
        assert_eq!((one.len(), one == other), (43, false));
    }

    /// FIPS 180-4, the example "abc".
    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(token_hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
