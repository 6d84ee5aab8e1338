//! `/api/backends`: what the backends do, and draining their endpoints.

use serde::Serialize;

use super::http::Answer;
use crate::backend::{BackendOverview, Backends};

/// Below it stand the backends.
const ROOT: &str = "/api/backends";

/// The body of `GET /api/backends`.
#[derive(Serialize)]
struct Overview {
    backends: Vec<BackendOverview>,
}

/// Answers a GET, if it is for this part.
pub(super) fn get(path: &str, backends: &Backends) -> Option<Answer> {
    if path == ROOT {
        let overview = Overview { backends: backends.overview() };
        let mut text = serde_json::to_string(&overview).expect("words and numbers are JSON");
        text.push('\n');
        return Some(Answer::ok("application/json", text));
    }
    Action::of(path).map(|_action| Answer::method_not_allowed("POST"))
}

/// Answers a POST, if it is for this part. Without anybody asking who it is, only those on this machine may
/// change something.
pub(super) fn post(path: &str, backends: &Backends, is_loopback: bool) -> Option<Answer> {
    let Action { backend, endpoint, draining } = Action::of(path)?;
    if !is_loopback {
        return Some(Answer::forbidden(
            "the admin listener is not on loopback, and nobody is asked who they are: it changes \
             nothing\n",
        ));
    }
    Some(match backends.set_draining(&backend, &endpoint, draining) {
        Some(()) => Answer::text(if draining { "draining\n" } else { "live\n" }),
        None => Answer::not_found(),
    })
}

/// `{ROOT}/{backend}/endpoints/{endpoint}/{drain|resume}`, the names percent-encoded.
struct Action {
    backend: String,
    endpoint: String,
    draining: bool,
}

impl Action {
    fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(ROOT)?.strip_prefix('/')?;
        let segments: Vec<_> = rest.split('/').collect();
        let [backend, "endpoints", endpoint, word] = segments[..] else { return None };
        let draining = match word {
            "drain" => true,
            "resume" => false,
            _ => return None,
        };
        Some(Self { backend: decoded(backend)?, endpoint: decoded(endpoint)?, draining })
    }
}

/// A segment of a path without its percent-encoding (RFC 3986 section 2.1): names may have slashes.
fn decoded(segment: &str) -> Option<String> {
    let mut pieces = segment.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        // The parser alone would take a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok())??);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_name_backend_and_endpoint() {
        for (path, wanted) in [
            ("/api/backends/game/endpoints/a/drain", Some(("game", "a", true))),
            ("/api/backends/game/endpoints/a/resume", Some(("game", "a", false))),
            ("/api/backends/a%2Fb/endpoints/%25/drain", Some(("a/b", "%", true))),
            ("/api/backends/game/endpoints/a", None),
            ("/api/backends/game/endpoints/a/stop", None),
            ("/api/backends/game/endpoints/a/drain/", None),
            ("/api/backends/game/endpoints/%2/drain", None),
            ("/api/backends/game/endpoints/%+1/drain", None),
            ("/api/backends/game/endpoints/%ff/drain", None),
            ("/api/backendsgame/endpoints/a/drain", None),
        ] {
            let action = Action::of(path);
            let found =
                action.as_ref().map(|a| (a.backend.as_str(), a.endpoint.as_str(), a.draining));
            assert_eq!(found, wanted, "{path}");
        }
    }
}
