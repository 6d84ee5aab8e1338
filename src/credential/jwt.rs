//! Signed tokens (RFC 7519), verified by a library.
//!
//! Which algorithm counts is the key's word and never the token's: a token whose `alg` is another one is not looked
//! at with that key. A `kid` picks the keys that have it, and those that have none; a token without one is tried with
//! each key of its algorithm. Headers that bring a key along, or say where to fetch one, are not read. What a token
//! marks as critical (`crit`) is not understood, and so it is refused (RFC 7515 section 4.1.11).
//!
//! The library decides on signature, audience and issuer, but for an audience that nobody asked for, of which it
//! lets pass what is neither a text nor a list of texts. Times are decided here, because its clock is the
//! system's, in whole seconds, and cannot be given.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{Unfit, crypto};
use crate::config::{Jwt, JwtKey, KeyMaterial};

/// What a token says of its bearer.
pub(crate) type Claims = Map<String, Value>;

/// What verifies the tokens of one credential.
pub(super) struct Verifier {
    keys: Vec<Key>,
    asks_audience: bool,
    leeway: Duration,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    rules: Validation,
}

impl Verifier {
    pub(super) fn new(settings: &Jwt) -> Self {
        crypto::install();
        let keys = settings.keys.iter().map(|key| Key::new(key, settings)).collect();
        let asks_audience = !settings.audience.is_empty();
        Self { keys, asks_audience, leeway: settings.leeway }
    }

    /// What the token says, if it is good, and when it ends, leeway included.
    pub(super) fn verify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(Claims, Option<SystemTime>), Unfit> {
        let header = decode_header(token).map_err(|_malformed| Unfit::Invalid)?;
        if header.crit.is_some() {
            return Err(Unfit::Invalid);
        }
        let fits = |key: &&Key| {
            let is_meant = |kid| header.kid.as_ref().is_none_or(|wanted| wanted == kid);
            key.algorithm == header.alg && key.kid.as_ref().is_none_or(is_meant)
        };
        for key in self.keys.iter().filter(fits) {
            match decode::<Claims>(token, &key.key, &key.rules) {
                Ok(good) => {
                    if !self.asks_audience && good.claims.contains_key("aud") {
                        return Err(Unfit::Invalid);
                    }
                    let ends = self.times(&good.claims, now)?;
                    return Ok((good.claims, ends));
                }
                // It may be another key's.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => return Err(Unfit::Invalid),
            }
        }
        Err(Unfit::Invalid)
    }

    /// When the token ends, if it is good now.
    fn times(&self, claims: &Claims, now: SystemTime) -> Result<Option<SystemTime>, Unfit> {
        let begins = date(claims, "nbf")?;
        if begins.is_some_and(|begins| begins > now + self.leeway) {
            return Err(Unfit::Invalid);
        }
        let Some(ends) = date(claims, "exp")? else { return Ok(None) };
        let ends = ends.checked_add(self.leeway).ok_or(Unfit::Invalid)?;
        if ends <= now { Err(Unfit::Expired) } else { Ok(Some(ends)) }
    }
}

impl Key {
    fn new(JwtKey { kid, material }: &JwtKey, settings: &Jwt) -> Self {
        let (algorithm, key) = match material {
            KeyMaterial::Hs256(secret) => {
                (Algorithm::HS256, DecodingKey::from_secret(secret.expose()))
            }
            KeyMaterial::Rs256 { n, e } => {
                (Algorithm::RS256, DecodingKey::from_rsa_raw_components(n, e))
            }
            // The names say DER, and mean what stands within it.
            KeyMaterial::Es256(point) => (Algorithm::ES256, DecodingKey::from_ec_der(point)),
            KeyMaterial::EdDsa(key) => (Algorithm::EdDSA, DecodingKey::from_ed_der(key)),
        };
        Self { kid: kid.clone(), algorithm, key, rules: rules(settings, algorithm) }
    }
}

/// What the library holds a token to. It looks at issuer and audience only where they are there, unless they are
/// required; an audience that nobody asked for is not ours (RFC 7519 section 4.1.3).
fn rules(settings: &Jwt, algorithm: Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    let mut required = HashSet::new();
    if settings.require_expiry {
        required.insert("exp".to_owned());
    }
    if !settings.issuer.is_empty() {
        required.insert("iss".to_owned());
        rules.set_issuer(&settings.issuer);
    }
    if !settings.audience.is_empty() {
        required.insert("aud".to_owned());
        rules.set_audience(&settings.audience);
    }
    rules.required_spec_claims = required;
    (rules.validate_exp, rules.validate_nbf) = (false, false);
    rules
}

/// A date among the claims: seconds since 1970, perhaps with a fraction (RFC 7519 section 2).
fn date(claims: &Claims, name: &str) -> Result<Option<SystemTime>, Unfit> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let since = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let date = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    date.map(Some).ok_or(Unfit::Invalid)
}
