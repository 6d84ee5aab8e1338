//! A set of keys in JSON (RFC 7517).
//!
//! A set may hold keys for other uses, which are passed over. What claims to be for this use has to be sound.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

use super::public_key::{eddsa, es256, rsa};
use crate::config::{JwtKey, KeyMaterial, Secret};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Key>,
}

/// What is looked at of a key.
#[derive(Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    /// The private part.
    d: Option<IgnoredAny>,
}

/// The keys of a set that can verify tokens; at least one. Messages never hold anything of a key.
pub(super) fn read(json: &[u8]) -> Result<Vec<JwtKey>, String> {
    let set: Set = serde_json::from_slice(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("is no set of keys: line {line}, column {column} is not as RFC 7517 has it")
    })?;
    let mut keys = Vec::new();
    for (at, key) in set.keys.into_iter().enumerate() {
        if !key.is_for_tokens() {
            continue;
        }
        let name = key.kid.as_ref().map_or_else(|| format!("{at}"), |kid| format!("{kid:?}"));
        let material = key.material().map_err(|why| format!("key {name} {why}"))?;
        keys.extend(material.map(|material| JwtKey { kid: key.kid, material }));
    }
    if keys.is_empty() {
        return Err("holds no key for HS256, RS256, ES256 or EdDSA".to_owned());
    }
    Ok(keys)
}

impl Key {
    fn is_for_tokens(&self) -> bool {
        let verifies = |all: &Vec<String>| all.iter().any(|one| one == "verify");
        self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(verifies)
    }

    /// The key, bound to one algorithm; nothing if that is none of ours.
    fn material(&self) -> Result<Option<KeyMaterial>, &'static str> {
        const BROKEN: &str = "is not sound, or of a size that is not taken";
        let (alg, crv) = (self.alg.as_deref(), self.crv.as_deref());
        let is_for = |wanted: &str| alg.is_none_or(|alg| alg == wanted);
        let material = match self.kty.as_str() {
            "RSA" if is_for("RS256") => {
                bytes(&self.n).zip(bytes(&self.e)).and_then(|(n, e)| rsa(&n, &e))
            }
            "EC" if is_for("ES256") && crv == Some("P-256") => bytes(&self.x)
                .zip(bytes(&self.y))
                .filter(|(x, y)| x.len() == 32 && y.len() == 32)
                .and_then(|(x, y)| es256(&[&[4], &x[..], &y].concat())),
            "OKP" if (is_for("EdDSA") || is_for("Ed25519")) && crv == Some("Ed25519") => {
                bytes(&self.x).and_then(|x| eddsa(&x))
            }
            // A secret says what it is for, or it is for nothing here.
            "oct" if alg == Some("HS256") => {
                bytes(&self.k).filter(|k| k.len() >= Secret::LEAST_BYTES).map(KeyMaterial::secret)
            }
            _ => return Ok(None),
        };
        if self.d.is_some() {
            return Err("is a private one, which has no place here; write its public part");
        }
        material.map(Some).ok_or(BROKEN)
    }
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A set that another library has made; see `src/credential/fixtures/make.py`.
    const FOREIGN: &[u8] = include_bytes!("../../../credential/fixtures/keys.json");

    #[test]
    fn each_key_is_bound_to_one_algorithm_and_those_for_other_uses_are_passed_over() {
        let keys = read(FOREIGN).unwrap();
        let found: Vec<_> =
            keys.iter().map(|key| (key.kid.as_deref(), key.material.algorithm())).collect();
        let wanted = [("rs", "RS256"), ("es", "ES256"), ("ed", "EdDSA"), ("hs", "HS256")];
        assert_eq!(found, wanted.map(|(kid, algorithm)| (Some(kid), algorithm)));
    }

    #[test]
    fn what_is_not_sound_is_named_and_never_shown() {
        let secret = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWUtYW55d2hlcmU";
        let octets = format!(r#"{{"kty":"oct","k":"{secret}","#);
        for (key, wanted) in [
            (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(), "key 0 is not sound"),
            (
                r#"{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}"#.to_owned(),
                "key \"a\" is not sound",
            ),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"%%"}"#.to_owned(), "key 0 is not sound"),
            (format!(r#"{octets}"alg":"HS256","d":"x"}}"#), "key 0 is a private one"),
            (r#"{"kty":"oct","alg":"HS256","k":"c2hvcnQ"}"#.to_owned(), "key 0 is not sound"),
            // For nothing here: no algorithm, another one, another use.
            (format!(r#"{octets}"kid":"x"}}"#), "holds no key"),
            (format!(r#"{octets}"alg":"HS512"}}"#), "holds no key"),
            (format!(r#"{octets}"alg":"HS256","use":"enc"}}"#), "holds no key"),
            (format!(r#"{octets}"alg":"HS256","key_ops":["sign"]}}"#), "holds no key"),
            (r#"{"kty":"RSA","alg":"PS256"}"#.to_owned(), "holds no key"),
            (r#"{"kty":"EC","crv":"P-384"}"#.to_owned(), "holds no key"),
            (r#"{"kid":"no kty"}"#.to_owned(), "is no set of keys: line 1"),
            (secret.to_owned(), "is no set of keys: line 1"),
        ] {
            let error = read(format!(r#"{{"keys":[{key}]}}"#).as_bytes()).unwrap_err();
            assert!(error.contains(wanted), "{error}, not {wanted}");
            assert!(!error.contains(secret), "{error}");
        }
        assert!(read(br#"{"keys":[]}"#).unwrap_err().contains("holds no key"));
        assert!(read(b"").unwrap_err().contains("is no set of keys"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(json: Vec<u8>) {
            _ = read(&json);
        }
    }
}
