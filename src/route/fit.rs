//! How each route fits a request, for explaining why it has it or not. The lookup decides by its own trees;
//! this says in words what they did, and a property test holds the two together.

use serde::Serialize;

use super::RouteTable;
use crate::config::{HostPattern, RoutePath, Segment};

/// How a route fits a host and a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// It has the request.
    Taken,
    /// It would take it, but another is more precise about the host.
    LessPreciseHost,
    /// It would take it, but another is more precise about the path.
    LessPrecisePath,
    /// The path is another one.
    OtherPath,
    /// It is for other hosts, and has the path.
    OtherHost,
    /// Neither host nor path are its own.
    Neither,
}

impl RouteTable {
    /// How each route fits, in the order of [`Self::routes`]. Host and path are in the forms in which they
    /// are compared; `taken` names the route that has the request.
    pub fn fits(&self, host: &str, path: &[String], taken: Option<&str>) -> Vec<Fit> {
        let rank = |at: usize| host_rank(&self.routes[at].settings.hosts, host);
        let winner = self.routes.iter().position(|r| Some(r.settings.name.as_str()) == taken);
        let best = winner.and_then(rank);
        let fit = |at: usize| {
            let has_path = takes(&self.routes[at].settings.path, path);
            match (rank(at), has_path) {
                (Some(_), true) if Some(at) == winner => Fit::Taken,
                (Some(rank), true) if best.is_some_and(|best| best < rank) => Fit::LessPreciseHost,
                (Some(_), true) => Fit::LessPrecisePath,
                (Some(_), false) => Fit::OtherPath,
                (None, true) => Fit::OtherHost,
                (None, false) => Fit::Neither,
            }
        };
        (0..self.routes.len()).map(fit).collect()
    }
}

/// Smaller is more precise. `None`: it is for other hosts.
fn host_rank(patterns: &[HostPattern], host: &str) -> Option<u8> {
    let rank = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(own) => (own == host).then_some(0),
        HostPattern::AnyLabelOf(parent) => {
            let above = host.split_once('.').map(|(_first, above)| above);
            (above == Some(parent.as_str())).then_some(1)
        }
    };
    if patterns.is_empty() { Some(2) } else { patterns.iter().filter_map(rank).min() }
}

fn takes(pattern: &RoutePath, path: &[String]) -> bool {
    let mut left = path;
    for segment in &pattern.segments {
        let Some((first, rest)) = left.split_first() else { return false };
        match segment {
            Segment::Literal(text) if text == first => left = rest,
            Segment::Capture(_) if !first.is_empty() => left = rest,
            Segment::Rest(_) => return !first.is_empty(),
            _ => return false,
        }
    }
    left.is_empty()
}
