//! Path patterns as a tree of segments, so that a lookup costs by the length of the path and not by
//! the number of routes.

use std::collections::HashMap;

use crate::config::Segment;

/// What may follow the segments on the way from the root.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The route whose path ends here.
    here: Option<usize>,
    literals: HashMap<String, Self>,
    capture: Option<Box<Self>>,
    /// The route that takes all that follows.
    rest: Option<usize>,
}

impl Tree {
    /// Adds a route's path. The configuration has no two that take the same paths.
    pub(super) fn insert(&mut self, path: &[Segment], route: usize) {
        match path.split_first() {
            None => self.here = Some(route),
            Some((Segment::Literal(text), after)) => {
                self.literals.entry(text.clone()).or_default().insert(after, route);
            }
            Some((Segment::Capture(_), after)) => {
                self.capture.get_or_insert_default().insert(after, route);
            }
            Some((Segment::Rest(_), _)) => self.rest = Some(route),
        }
    }

    /// The route that takes a path.
    ///
    /// Each step tries the more precise way first and comes back where it leads nowhere, so the
    /// deepest recursion is the longest pattern, and no path visits a node twice.
    pub(super) fn find(&self, path: &[String]) -> Option<usize> {
        let Some((segment, after)) = path.split_first() else {
            return self.here;
        };
        let literal = || self.literals.get(segment)?.find(after);
        // An empty segment is a slash at the end, which is no name for anything.
        let capture = || self.capture.as_ref().filter(|_| !segment.is_empty())?.find(after);
        let rest = || self.rest.filter(|_| !segment.is_empty());
        literal().or_else(capture).or_else(rest)
    }
}
