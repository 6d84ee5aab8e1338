//! Credentials, with the files that they are compared with.

mod jwks;
mod jwt;
mod public_key;
mod tokens;

use std::{collections::BTreeMap, sync::Arc};

use super::{Folder, check_names};
use crate::config::{
    ClaimRule, Credential, CredentialKind, Listener, RoutePath, SUBJECT, Wanted,
    problems::{Collector, did_you_mean, join},
    raw::{self, Section},
};

/// The credentials by name; `None` where something is wrong with one.
pub(super) type Credentials = BTreeMap<String, Option<Arc<Credential>>>;

pub(super) fn credentials(
    raws: BTreeMap<String, raw::Credential>,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Credentials {
    check_names(raws.keys().map(|name| (name.as_str(), join("credential", name))), problems);
    let read = |(name, raw): (String, raw::Credential)| {
        let read = credential(&name, &raw, folder, problems);
        (name, read.map(Arc::new))
    };
    raws.into_iter().map(read).collect()
}

fn credential(
    name: &str,
    raw: &raw::Credential,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Credential> {
    check_query(raw, problems);
    let claims = claims(raw, problems);
    let kind = kind(raw, folder, problems)?;
    check_claims(raw, &kind, &claims, problems);
    Some(Credential { name: name.to_owned(), kind, query: raw.query.clone(), claims })
}

/// What is shown: exactly one of the kinds.
fn kind(
    raw: &raw::Credential,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<CredentialKind> {
    let kinds = ["jwt", "tokens", "certificates"].map(|name| raw.key(name));
    let there: Vec<_> = kinds.iter().filter(|key| problems.has(key)).cloned().collect();
    match &there[..] {
        [] => {
            let message = "says nothing of what clients show; write a section `jwt`, tokens = \"FILE\", or certificates = \"any\"";
            problems.add(&raw.at, message);
            return None;
        }
        [_] => {}
        [first, second, ..] => {
            let message = format!(
                "stands beside `{first}`; write a credential for each, a route may list both"
            );
            problems.add(second, message);
            return None;
        }
    }
    if let Some(file) = &raw.tokens {
        tokens::read(&raw.key("tokens"), file, folder, problems).map(CredentialKind::Tokens)
    } else if let Some(names) = &raw.certificates {
        if problems.has(&raw.key("query")) {
            problems.add(raw.key("query"), "carries tokens, and a certificate is none");
        }
        // What is left of a list of mistakes would be stricter than anybody meant.
        (!problems.is_wrong(&raw.key("certificates")))
            .then(|| CredentialKind::Certificates(names.clone()))
    } else {
        jwt::read(raw.jwt.as_ref()?, folder, problems).map(CredentialKind::Jwt)
    }
}

/// Notes a parameter that no URL has as it is written.
fn check_query(raw: &raw::Credential, problems: &mut Collector<'_>) {
    let Some(name) = &raw.query else { return };
    let is_plain =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
    if name.is_empty() || !is_plain {
        let message = format!("{name:?} is no parameter; write one such as \"token\"");
        problems.add(raw.key("query"), message);
    }
}

fn claims(raw: &raw::Credential, problems: &mut Collector<'_>) -> Vec<ClaimRule> {
    let key = raw.key("claims");
    if raw.claims.as_ref().is_some_and(BTreeMap::is_empty) && !problems.is_wrong(&key) {
        problems.add(key, "is empty; leave it out");
    }
    let rules = raw.claims.iter().flatten();
    rules
        .map(|(claim, wanted)| ClaimRule { claim: claim.clone(), wanted: wanted.clone() })
        .collect()
}

/// Notes claims that a credential of this kind never has.
fn check_claims(
    raw: &raw::Credential,
    kind: &CredentialKind,
    claims: &[ClaimRule],
    problems: &mut Collector<'_>,
) {
    let tokens = match kind {
        CredentialKind::Jwt(_) => return,
        CredentialKind::Tokens(tokens) => Some(tokens),
        CredentialKind::Certificates(_) => None,
    };
    let key = raw.key("claims");
    for rule in claims.iter().filter(|rule| rule.claim != SUBJECT) {
        let message = format!("nothing but its name is known of it; write {SUBJECT:?}");
        problems.add(join(&key, &rule.claim), message);
    }
    if claims.iter().any(|rule| rule.claim == SUBJECT)
        && tokens.is_some_and(|tokens| tokens.list.iter().all(|token| token.name.is_none()))
    {
        let message = "no token of the file has a name, so none could be used";
        problems.add(join(&key, SUBJECT), message);
    }
}

/// The credentials that a route names. One that the file has but that is not usable is no problem of the route.
pub(super) fn of_route(
    raw: &raw::Route,
    credentials: &Credentials,
    problems: &mut Collector<'_>,
) -> Option<Vec<Arc<Credential>>> {
    let key = raw.key("credentials");
    // An entry that could not be read would leave the route more open, or more closed, than was meant.
    if problems.is_wrong(&key) {
        return None;
    }
    let names = raw.credentials.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let key = format!("{key}[{at}]");
        if names.iter().take(at).any(|earlier| earlier == name) {
            problems.add(key, format!("{name:?} stands here twice"));
            found.push(None);
        } else if let Some(credential) = credentials.get(name) {
            if let Some(credential) = credential {
                check_captures(&key, credential, raw.path.as_ref(), problems);
            }
            found.push(credential.clone());
        } else {
            let message = match did_you_mean(name, credentials.keys().map(String::as_str)) {
                Some(nearest) => {
                    format!("no credential is named {name:?}; did you mean {nearest:?}?")
                }
                None => format!(
                    "no credential is named {name:?}; write a section [{}]",
                    join("credential", name)
                ),
            };
            problems.add(key, message);
            found.push(None);
        }
    }
    found.into_iter().collect()
}

/// Notes a path without a capture that a claim is compared with.
fn check_captures(
    key: &str,
    credential: &Credential,
    path: Option<&RoutePath>,
    problems: &mut Collector<'_>,
) {
    let Some(path) = path else { return };
    for rule in &credential.claims {
        let Wanted::Capture(wanted) = &rule.wanted else { continue };
        if !path.captures().any(|name| name == wanted) {
            let message = format!(
                "{path} has no capture {wanted:?}, with which credential {:?} compares the claim {:?}",
                credential.name, rule.claim
            );
            problems.add(key, message);
        }
    }
}

/// Notes each credential that nobody could show, since no listener asks for certificates. Without `listeners`
/// something is wrong with one of them, and nothing can be said.
pub(super) fn check_listeners(
    credentials: &Credentials,
    listeners: Option<&[Listener]>,
    problems: &mut Collector<'_>,
) {
    let Some(listeners) = listeners else { return };
    if listeners.iter().any(|listener| listener.client_certificates.is_some()) {
        return;
    }
    for credential in credentials.values().flatten() {
        if let CredentialKind::Certificates(_) = credential.kind {
            let key = join(&join("credential", &credential.name), "certificates");
            let message = "no listener asks for certificates; write client_certificates = { roots = \
                           \"FILE\" } there";
            problems.add(key, message);
        }
    }
}
