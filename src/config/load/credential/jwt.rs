//! What signed tokens are held to, with the keys that verify them.

use std::time::Duration;

use super::{
    super::{Folder, HOUR, server, tls},
    jwks, public_key,
};
use crate::config::{
    Jwt, JwtKey, KeyMaterial, KeySource,
    problems::Collector,
    raw::{self, Section},
};

/// A token without a `kid` may be tried with each of them.
const MOST_KEYS: usize = 64;

pub(super) fn read(raw: &raw::Jwt, folder: &Folder, problems: &mut Collector<'_>) -> Option<Jwt> {
    let key = raw.key("leeway");
    let leeway = problems.period(&key, raw.leeway, Jwt::LEEWAY, Duration::ZERO..=HOUR);
    let hint = "write such as keys = [{ public_key = \"issuer.pem\" }]";
    let listed = problems.required(&raw.key("keys"), raw.keys.as_ref(), hint);
    // All are read, so that each can note its problems.
    let read: Vec<_> = listed?.iter().map(|key| one(key, folder, problems)).collect();
    let read: Vec<(KeySource, Vec<JwtKey>)> = read.into_iter().collect::<Option<_>>()?;
    let (sources, keys): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    let keys: Vec<JwtKey> = keys.into_iter().flatten().collect();
    check_keys(&raw.key("keys"), &keys, problems);
    Some(Jwt {
        sources,
        keys,
        audience: raw.audience.clone().unwrap_or_default(),
        issuer: raw.issuer.clone().unwrap_or_default(),
        leeway,
        require_expiry: raw.require_expiry.unwrap_or(true),
    })
}

/// Notes keys of which nobody could say which is meant.
fn check_keys(key: &str, keys: &[JwtKey], problems: &mut Collector<'_>) {
    if keys.len() > MOST_KEYS {
        problems.add(key, format!("{} keys are too many; write at most {MOST_KEYS}", keys.len()));
    }
    for (at, one) in keys.iter().enumerate() {
        let algorithm = one.material.algorithm();
        for other in keys.iter().take(at) {
            if one.material == other.material {
                problems.add(key, format!("the same {algorithm} key stands there twice"));
            } else if one.kid.is_some() && one.kid == other.kid {
                let kid = one.kid.as_deref().unwrap_or_default();
                problems.add(key, format!("two keys have the kid {kid:?}"));
            }
        }
    }
}

/// One element of the list: where its keys come from, and the keys.
fn one(
    raw: &raw::JwtKey,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<(KeySource, Vec<JwtKey>)> {
    let kinds = ["public_key", "jwks", "secret"].map(|name| raw.key(name));
    let there: Vec<_> = kinds.iter().filter(|key| problems.has(key)).collect();
    if there.len() != 1 {
        problems.add(&raw.at, "write exactly one of public_key, jwks and secret");
        return None;
    }
    let kid = raw.kid.clone();
    if let Some(file) = &raw.public_key {
        let key = raw.key("public_key");
        let (path, bytes) = tls::read(&key, file, folder, problems)?;
        let material = public_key::read(&bytes)
            .map_err(|why| problems.add(key, format!("{} {why}", path.display())))
            .ok()?;
        Some((
            KeySource::PublicKey { file: path, kid: kid.clone() },
            vec![JwtKey { kid, material }],
        ))
    } else if let Some(file) = &raw.jwks {
        if raw.kid.is_some() {
            problems.add(raw.key("kid"), "stands beside a JWKS file, whose keys have their own");
        }
        let key = raw.key("jwks");
        let (path, bytes) = tls::read(&key, file, folder, problems)?;
        let keys = jwks::read(&bytes)
            .map_err(|why| problems.add(key, format!("{}: {why}", path.display())))
            .ok()?;
        Some((KeySource::Jwks { file: path }, keys))
    } else {
        let secret = server::secret(&raw.secret.as_ref()?.0, folder, problems)?;
        if secret.expose().starts_with(b"-----BEGIN") {
            let message = "is a PEM file; a public key is no secret, write it as `public_key`";
            problems.add(raw.key("secret"), message);
            return None;
        }
        let material = KeyMaterial::Hs256(secret);
        Some((KeySource::Secret { kid: kid.clone() }, vec![JwtKey { kid, material }]))
    }
}
