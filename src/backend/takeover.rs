//! From one configuration's backends to another's, while sessions live.
//!
//! First the new ones are made and learn what they need ([`Backends::new`], [`Backends::learn`]): that may
//! take time, may be given up, and changes nothing for those that serve. What follows does not wait: what they have
//! shut is opened ([`Backends::open`]), new sessions are sent to them, and they take over
//! ([`Backends::take_over`]), which is when anything is shut.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{
    Backend, Backends, lock,
    resolve::look_up,
    roster::{Roster, in_order},
};
use crate::config::Check;

/// How long names that are new may take to resolve. Past it their endpoints have no address at first, and
/// are asked for again as at any other time.
const LEARN_TIME: Duration = Duration::from_secs(5);

impl Backends {
    /// Asks for the addresses of names that nothing is known of. Backends that `previous` has as well are left
    /// out.
    pub async fn learn(&self, previous: &Self) {
        let new = self.0.values().filter(|backend| !previous.has(backend));
        join_all(new.map(|backend| backend.learn())).await;
    }

    /// Opens what these use and `previous` does not: endpoints that are drained no longer and members that are
    /// back. To be called just before new sessions are sent here, so that none comes to closed doors.
    pub fn open(&self, previous: &Self) {
        for backend in self.0.values().filter(|backend| !previous.has(backend)) {
            backend.open(previous.get(backend.name()));
        }
    }

    /// Comes in the place of `previous`: drains endpoints as the configuration says, and tells
    /// sessions whose endpoint has gone. To be called after [`Self::open`], when new sessions go to these
    /// already, so that none finds the endpoints of neither.
    pub fn take_over(&self, previous: &Self) {
        let now = Instant::now();
        for backend in self.0.values().filter(|backend| !previous.has(backend)) {
            backend.take_over(previous.get(backend.name()), now);
        }
        for gone in previous.0.values().filter(|backend| self.get(backend.name()).is_none()) {
            gone.retire(now);
        }
    }

    /// Whether it has this very backend.
    fn has(&self, backend: &Arc<Backend>) -> bool {
        self.get(backend.name()).is_some_and(|mine| Arc::ptr_eq(mine, backend))
    }
}

impl Backend {
    async fn learn(&self) {
        let mut hosts = self.hosts();
        hosts.retain(|host| !lock(&self.known).answers.contains_key(*host));
        if hosts.is_empty() {
            return;
        }
        let lookups = hosts.iter().map(|host| look_up(&*self.resolver, host));
        let lookups = lookups.map(|lookup| timeout(LEARN_TIME, lookup));
        for (host, found) in hosts.iter().zip(join_all(lookups).await) {
            let found = found.unwrap_or_else(|_elapsed| Err("no answer in time".to_owned()));
            self.note_answer(host, found.map(in_order));
        }
        self.seat();
    }

    /// Makes the roster what is known now, without a word to anybody.
    fn seat(&self) {
        let mut known = lock(&self.known);
        let before = self.roster.load_full();
        let mut members: Vec<_> = before.0.iter().map(|seat| Arc::clone(&seat.member)).collect();
        members.append(&mut known.absent);
        let (settings, endpoints) = (&self.settings.endpoints, &self.endpoints);
        let (seats, left) = Roster::arrange(settings, endpoints, &known.answers, members);
        known.absent = left;
        self.roster.store(Arc::new(Roster(seats.into_iter().map(|(seat, _)| seat).collect())));
    }

    fn open(&self, previous: Option<&Arc<Self>>) {
        self.drain_as_configured(previous, false);
        if self.settings.health.check == Check::Off {
            self.members().iter().for_each(|member| member.is_unchecked());
        }
        for seat in &self.roster.load().0 {
            seat.member.is_given(&seat.member.addresses());
        }
    }

    /// Resumes or drains the endpoints of which the settings say so, and said another thing before. The last
    /// word counts: what an operator has said since stays until the file says another thing.
    fn drain_as_configured(&self, previous: Option<&Arc<Self>>, draining: bool) {
        let drained_before = |name: &str| {
            let endpoints = &previous?.settings.endpoints;
            endpoints.iter().find(|before| before.name == name).map(|before| before.draining)
        };
        for endpoint in self.settings.endpoints.iter().filter(|new| new.draining == draining) {
            if drained_before(&endpoint.name) == Some(!draining) {
                self.set_draining_of(&endpoint.name, draining);
            }
        }
    }

    fn take_over(&self, previous: Option<&Arc<Self>>, now: Instant) {
        self.drain_as_configured(previous, true);
        self.settle(now);
        if let Some(previous) = previous {
            self.tell_the_moved(previous);
        }
        let is_mine = |endpoint| self.endpoints.iter().any(|mine| Arc::ptr_eq(mine, endpoint));
        let before = previous.map_or(&[][..], |previous| &previous.endpoints[..]);
        before.iter().filter(|endpoint| !is_mine(endpoint)).for_each(|gone| gone.pool.retire());
        self.signals.changed.notify_one();
        self.signals.resolve.notify_one();
    }

    /// Tells the sessions of an endpoint at once that has another address now: unlike a name's answer, which
    /// may give a few of many addresses at a time, the file means what it says.
    fn tell_the_moved(&self, previous: &Self) {
        let place = |backend: &Self, name: &str| {
            let endpoint =
                backend.settings.endpoints.iter().find(|endpoint| endpoint.name == name)?;
            Some((endpoint.tcp.clone(), endpoint.unix.clone(), endpoint.udp.clone()))
        };
        let has_moved = |name: &str| place(self, name) != place(previous, name);
        let absent = lock(&self.known).absent.clone();
        absent
            .iter()
            .filter(|member| has_moved(member.endpoint().name()))
            .for_each(|m| m.is_gone());
    }

    /// It is configured no more.
    fn retire(&self, now: Instant) {
        for member in self.members() {
            member.is_missed(now);
            member.is_gone();
        }
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.retire());
    }
}
