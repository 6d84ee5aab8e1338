//! `/api/backends`: what the backends do, and draining their endpoints.

use serde::Serialize;

use super::{
    http::{Answer, Change, Verb},
    query::decoded,
};
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
        return Some(Answer::json(&Overview { backends: backends.overview() }));
    }
    Action::of(path).map(|_action| Answer::method_not_allowed("POST"))
}

/// Answers a POST, if it is for this part.
pub(super) fn change(change: &Change<'_>, backends: &Backends) -> Option<Answer> {
    let Action { backend, endpoint, draining } = Action::of(change.path)?;
    if change.verb != Verb::Post {
        return Some(Answer::method_not_allowed("POST"));
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
