//! The sections `server` and `log`.

use std::{env, num::NonZeroU32};

use super::Folder;
use crate::config::{
    Log, MOST_WORKERS, Secret, Server,
    problems::Collector,
    raw::{self, Section, Steering},
    read::Workers,
    read_file,
};

pub(super) fn server(raw: raw::Server, folder: &Folder, problems: &mut Collector<'_>) -> Server {
    let default = Server::default();
    let most = NonZeroU32::new(MOST_WORKERS).unwrap_or(NonZeroU32::MAX);
    let count = match raw.workers {
        Some(Workers::Count(count)) => Some(count),
        Some(Workers::Auto) | None => None,
    };
    let server_id = raw.server_id.as_ref().map(|id| id.0.clone()).unwrap_or_default();
    if server_id.len() > MOST_SERVER_ID_BYTES {
        let message = format!(
            "{} bytes are too long for a connection id; write at most {MOST_SERVER_ID_BYTES}",
            server_id.len()
        );
        problems.add(raw.key("server_id"), message);
    }
    let (workers, config_id) = (raw.key("workers"), raw.key("config_id"));
    let (secret, previous_secret) = secrets(&raw, folder, problems);
    Server {
        workers: problems.within(&workers, count, default.workers, NonZeroU32::MIN..=most),
        steering: match raw.steering {
            Some(Steering::Auto) => true,
            Some(Steering::Off) => false,
            None => default.steering,
        },
        server_id,
        config_id: problems.within(
            &config_id,
            raw.config_id,
            default.config_id,
            0..=MOST_CONFIG_ID,
        ),
        secret,
        previous_secret,
    }
}

/// The secret and the one before it.
fn secrets(
    raw: &raw::Server,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> (Option<Secret>, Option<Secret>) {
    let mut read = |raw: &Option<raw::Hidden>| secret(&raw.as_ref()?.0, folder, problems);
    let (current, previous) = (read(&raw.secret), read(&raw.previous_secret));
    let key = raw.key("previous_secret");
    if previous.is_some() && !problems.has(&raw.key("secret")) {
        problems.add(key, "stands without `server.secret`, which it came before");
    } else if previous.is_some() && previous == current {
        problems.add(key, "is the same as `server.secret`; leave it out");
    }
    (current, previous)
}

/// draft-ietf-quic-load-balancers section 5.1.
const MOST_SERVER_ID_BYTES: usize = 15;

/// Three bits, of which the value 7 means "not routable" (draft-ietf-quic-load-balancers section 3).
const MOST_CONFIG_ID: u8 = 6;

/// Reads a secret from where the file says it is.
pub(super) fn secret(
    raw: &raw::Secret,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Secret> {
    let bytes = match (&raw.file, &raw.env) {
        (Some(file), None) => {
            let key = raw.key("file");
            let path = folder.readable(&key, file, problems)?;
            read_file(&path)
                .map_err(|error| {
                    problems.add(&key, format!("cannot read {}: {error}", path.display()));
                })
                .ok()?
        }
        (None, Some(name)) => {
            let Some(value) = env::var_os(name) else {
                let message = format!("the environment has no variable {name}");
                problems.add(raw.key("env"), message);
                return None;
            };
            value.into_encoded_bytes()
        }
        _ => {
            if !problems.is_wrong(&raw.at) {
                problems.add(&raw.at, "write either file or env");
            }
            return None;
        }
    };
    let bytes = without_line_end(bytes);
    if bytes.len() < Secret::LEAST_BYTES {
        let (length, least) = (bytes.len(), Secret::LEAST_BYTES);
        problems.add(
            &raw.at,
            format!(
                "{length} bytes are too short; at least {least} are needed, such as \
                 from `openssl rand -hex 32`"
            ),
        );
        return None;
    }
    Some(Secret(bytes))
}

/// A file that a command wrote ends with a line break, which a variable would not have. Instances
/// that get the secret in different ways must get the same one.
fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    bytes
}

pub(super) fn log(raw: raw::Log, problems: &mut Collector<'_>) -> Log {
    let default = Log::default();
    if raw.filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
        problems.add(raw.key("filter"), "nothing would be logged; write \"off\" if that is meant");
    }
    Log {
        format: raw.format.unwrap_or(default.format),
        filter: raw.filter.unwrap_or(default.filter),
    }
}
