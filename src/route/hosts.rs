//! Routes by host, and by path within each host.
//!
//! | the request's host | which routes may take it, the first that has the path wins |
//! | --- | --- |
//! | is named by a route | that name's, then those of its wildcard, then those without hosts |
//! | fits a wildcard (`*.` and all but its first label) | that wildcard's, then those without hosts |
//! | any other | those without hosts |
//!
//! Where none has the path, the answer says why, for a client that came to the right gateway by a wrong
//! name can do something about it (RFC 9110 section 15.5.20):
//!
//! | | a route of another host has the path | none has |
//! | --- | --- | --- |
//! | some route is for this host | wrong host | no route |
//! | no route is for this host | wrong host | wrong host |

use std::collections::HashMap;

use super::tree::Tree;
use crate::config::{self, HostPattern};

/// The routes of a table, as indices.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: HashMap<String, Tree>,
    /// By what follows the star and its dot.
    wildcard: HashMap<String, Tree>,
    /// Those without hosts.
    every: Option<Tree>,
    /// All paths, whatever their hosts: to tell whether another host has one.
    paths: Tree,
}

/// Why no route takes a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotFound {
    /// The host is right, and has no such path.
    Path,
    /// Another host might do.
    Host,
}

impl Hosts {
    /// Adds a route. The configuration has no two that take the same paths on the same host.
    pub(super) fn insert(&mut self, settings: &config::Route, route: usize) {
        let path = &settings.path.segments;
        self.paths.insert(path, route);
        if settings.hosts.is_empty() {
            self.every.get_or_insert_default().insert(path, route);
        }
        for host in &settings.hosts {
            let tree = match host {
                HostPattern::Exact(host) => self.exact.entry(host.clone()),
                HostPattern::AnyLabelOf(parent) => self.wildcard.entry(parent.clone()),
            };
            tree.or_default().insert(path, route);
        }
    }

    /// The route that takes a path on a host, which is in the form in which hosts are compared.
    pub(super) fn find(&self, host: &str, path: &[String]) -> Result<usize, NotFound> {
        let exact = self.exact.get(host);
        // What follows the first dot of an address is no name, so no wildcard has it.
        let wildcard = host.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        let of_this_host = || [exact, wildcard, self.every.as_ref()].into_iter().flatten();
        if let Some(route) = of_this_host().find_map(|tree| tree.find(path)) {
            return Ok(route);
        }
        let is_ours = of_this_host().next().is_some();
        let is_elsewhere = self.paths.find(path).is_some();
        Err(if is_ours && !is_elsewhere { NotFound::Path } else { NotFound::Host })
    }
}
