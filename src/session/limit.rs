//! How many sessions there may be, exactly: permits that are taken before a session is accepted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::config::Limit;

/// The limits of the process and of each route.
#[derive(Debug)]
pub(super) struct SessionLimits {
    most: ArcSwap<Limit>,
    process: Gate,
    /// By name, so that a route which is configured anew still knows its living sessions. Locked once
    /// per session, never on the data path.
    routes: Mutex<HashMap<String, Gate>>,
}

impl SessionLimits {
    pub(super) fn new(most: Limit) -> Self {
        let most = ArcSwap::from_pointee(most);
        Self { most, process: Gate::default(), routes: Mutex::default() }
    }

    /// From now on so many. Those that are there stay.
    pub(super) fn change(&self, most: Limit) {
        self.most.store(Arc::new(most));
    }

    /// Forgets routes that are not there any more once their last session has gone.
    pub(super) fn forget(&self, is_there: impl Fn(&str) -> bool) {
        let is_used = |gate: &Gate| gate.0.load(Ordering::Acquire) != 0;
        self.lock().retain(|name, gate| is_there(name) || is_used(gate));
    }

    /// One session more in the process, if there is room.
    pub(super) fn process(&self) -> Option<Permit> {
        self.process.enter(**self.most.load())
    }

    /// One session more on a route, if there is room.
    pub(super) fn route(&self, name: &str, most: Limit) -> Option<Permit> {
        let mut routes = self.lock();
        match routes.get(name) {
            Some(gate) => gate.enter(most),
            None => routes.entry(name.to_owned()).or_default().enter(most),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Gate>> {
        // Nothing that could panic happens under the lock.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_lower_limit_counts_who_is_there() {
        let limits = SessionLimits::new(Limit::AtMost(3));
        let (first, _second) = (limits.process().unwrap(), limits.process().unwrap());
        limits.change(Limit::AtMost(2));
        assert!(limits.process().is_none());
        drop(first);
        assert!(limits.process().is_some());
    }

    #[test]
    fn a_route_that_is_gone_is_forgotten_with_its_last_session() {
        let limits = SessionLimits::new(Limit::Unlimited);
        let (gone, stays) =
            (limits.route("gone", Limit::Unlimited), limits.route("stays", Limit::Unlimited));
        let names = |limits: &SessionLimits| {
            let mut names: Vec<_> = limits.lock().keys().cloned().collect();
            names.sort();
            names
        };
        limits.forget(|name| name == "stays");
        assert_eq!(names(&limits), ["gone", "stays"]);
        drop((gone, stays));
        limits.forget(|name| name == "stays");
        assert_eq!(names(&limits), ["stays"]);
    }
}
