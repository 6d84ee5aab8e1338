//! How many sessions there may be, exactly: permits that are taken before a session is accepted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::config::Limit;

/// The limits of the process and of each route.
#[derive(Debug)]
pub(super) struct SessionLimits {
    most: Limit,
    process: Gate,
    /// By name, so that a route which is configured anew still knows its living sessions. Locked once
    /// per session, never on the data path.
    routes: Mutex<HashMap<String, Gate>>,
}

impl SessionLimits {
    pub(super) fn new(most: Limit) -> Self {
        Self { most, process: Gate::default(), routes: Mutex::default() }
    }

    /// One session more in the process, if there is room.
    pub(super) fn process(&self) -> Option<Permit> {
        self.process.enter(self.most)
    }

    /// One session more on a route, if there is room.
    pub(super) fn route(&self, name: &str, most: Limit) -> Option<Permit> {
        // Nothing that could panic happens under the lock.
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        match routes.get(name) {
            Some(gate) => gate.enter(most),
            None => routes.entry(name.to_owned()).or_default().enter(most),
        }
    }
}

/// Counts who is in.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<AtomicU64>);

impl Gate {
    fn enter(&self, most: Limit) -> Option<Permit> {
        let one_more = |now| most.allows_one_more(now).then_some(now + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Permit(self.clone()))
    }
}

/// Room for one session, for as long as it lives.
#[derive(Debug)]
#[must_use = "the room is free again when this is dropped"]
pub(super) struct Permit(Gate);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_free_again_when_its_session_is_over() {
        let limits = SessionLimits::new(Limit::AtMost(1));
        let first = limits.process().unwrap();
        assert!(limits.process().is_none());
        drop(first);
        assert!(limits.process().is_some());
    }

    #[test]
    fn routes_do_not_share_their_room() {
        let limits = SessionLimits::new(Limit::Unlimited);
        let one = Limit::AtMost(1);
        let _a = limits.route("a", one).unwrap();
        assert!(limits.route("a", one).is_none());
        assert!(limits.route("b", one).is_some());
        assert!(limits.route("a", Limit::AtMost(2)).is_some(), "a new limit counts who is there");
    }
}
