//! What the control side does for a backend while sessions come and go.
//!
//! Three loops: names are resolved again on a timer and soon after failures; each member is checked at
//! its own pace; and what was ejected is taken back. They share nothing but the backend.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Backend,
    balance::mix,
    check, lock,
    member::Member,
    resolve::look_up,
    roster::{Answers, Roster, Seat, in_order},
};
use crate::{
    config::{Check, HostPort},
    reason::CheckResult,
};

/// What the control side knows beside the roster.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What names stand for. An answer is kept until there is a better one.
    pub(super) answers: Answers,
    /// Members that are not given any more, the latest last: they may come back, and sessions of theirs
    /// may live.
    pub(super) absent: Vec<Arc<Member>>,
    /// Names that do not resolve now.
    unresolved: Vec<String>,
}

/// Says what has happened. Each has one loop that listens.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// A member failed: names had better be resolved.
    pub(super) resolve: Notify,
    /// The state of a member changed.
    pub(super) changed: Notify,
    /// The roster has other members.
    roster: Notify,
}

/// Time between two lookups at least, however often members fail.
const RESOLVE_GAP: Duration = Duration::from_secs(1);

/// Members that are remembered though no name gives them: for names that give a few of many at a time.
const MOST_ABSENT: usize = 64;

impl Backend {
    /// Runs all loops. Never ends. Cancelled, it leaves nothing half done: a lookup or a check that is
    /// given up changes nothing.
    pub(super) async fn tend(&self) {
        tokio::join!(self.resolve_loop(), self.check_loop(), self.readmit_loop());
    }

    async fn resolve_loop(&self) {
        if self.hosts().is_empty() {
            return;
        }
        let interval = self.settings.resolve_interval;
        loop {
            sleep(RESOLVE_GAP.min(interval)).await;
            tokio::select! {
                () = sleep(interval.saturating_sub(RESOLVE_GAP)) => {}
                () = self.signals.resolve.notified() => {}
            }
            self.resolve().await;
        }
    }

    /// Asks for the addresses of every name, and takes over what is new.
    pub(super) async fn resolve(&self) {
        let hosts = self.hosts();
        let lookups = hosts.iter().map(|host| look_up(&*self.resolver, host));
        for (host, found) in hosts.iter().zip(join_all(lookups).await) {
            self.note_answer(host, found.map(in_order));
        }
        self.settle(Instant::now());
    }

    /// Every name of the configuration, once.
    pub(super) fn hosts(&self) -> Vec<&str> {
        let endpoints = self.settings.endpoints.iter();
        let hosts = endpoints.flat_map(|e| [&e.tcp, &e.udp]).filter_map(|host| match host {
            Some(HostPort::Name(name, _)) => Some(name.as_str()),
            Some(HostPort::Address(_)) | None => None,
        });
        let mut hosts: Vec<_> = hosts.collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// The old answer is kept when there is no new one. Says so when that begins and when it ends.
    pub(super) fn note_answer(&self, host: &str, found: Result<Vec<SocketAddr>, String>) {
        let mut known = lock(&self.known);
        let was_unresolved = known.unresolved.iter().any(|name| name == host);
        let backend = self.name();
        match found {
            Ok(addresses) => {
                if was_unresolved {
                    known.unresolved.retain(|name| name != host);
                    info!(backend, host, ?addresses, "A host name resolves again.");
                }
                known.answers.insert(host.to_owned(), addresses);
            }
            Err(error) if !was_unresolved => {
                known.unresolved.push(host.to_owned());
                let kept = known.answers.get(host);
                warn!(backend, host, error, ?kept, "A host name does not resolve.");
            }
            // Said already.
            Err(_) => {}
        }
    }

    /// Makes the roster what configuration and names say now.
    pub(super) fn settle(&self, now: Instant) {
        let mut known = lock(&self.known);
        let before = self.roster.load_full();
        let mut members: Vec<_> = before.0.iter().map(|seat| Arc::clone(&seat.member)).collect();
        members.append(&mut known.absent);
        let (settings, endpoints) = (&self.settings.endpoints, &self.endpoints);
        let (seats, left) = Roster::arrange(settings, endpoints, &known.answers, members);
        for (seat, addresses) in &seats {
            seat.member.is_given(addresses);
            if !before.has(&seat.member) {
                self.log_member(&seat.member, "An address of an endpoint takes sessions.");
            }
        }
        for member in left.iter().filter(|member| before.has(member)) {
            self.log_member(
                member,
                "An address of an endpoint is gone: no new session goes there.",
            );
        }
        let roster = Roster(seats.into_iter().map(|(seat, _)| seat).collect());
        let is_new = roster.0.len() != before.0.len()
            || roster.0.iter().any(|seat| !before.has(&seat.member));
        self.roster.store(Arc::new(roster));
        // Whoever finds none of the old ones live is to see the new ones.
        fence(Ordering::Release);
        known.absent = self.absent(left, now);
        drop(known);
        if is_new {
            lock(&self.turns).restart();
            self.signals.roster.notify_one();
        }
        self.show();
    }

    /// Those that may come back. The sessions of one that has been away for two intervals are told;
    /// those of one whose endpoint is no longer configured at once.
    fn absent(&self, left: Vec<Arc<Member>>, now: Instant) -> Vec<Arc<Member>> {
        let interval = self.settings.resolve_interval;
        let mut absent: Vec<_> = left.into_iter().map(|m| (m.is_missed(now), m)).collect();
        absent.sort_by_key(|(since, _)| *since);
        let too_many = absent.len().saturating_sub(MOST_ABSENT);
        let kept = absent.into_iter().enumerate().filter_map(|(at, (since, member))| {
            let is_configured = self.endpoints.iter().any(|e| Arc::ptr_eq(e, member.endpoint()));
            let is_forgotten = at < too_many || !is_configured || now >= since + interval * 10;
            if is_forgotten || now >= since + interval * 2 {
                member.is_gone();
            }
            (!is_forgotten).then_some(member)
        });
        kept.collect()
    }

    /// Runs one check after the other for each member of the roster.
    async fn check_loop(&self) {
        if self.settings.health.check == Check::Off {
            return;
        }
        let (mut checked, mut checks) = (Vec::<Arc<Member>>::new(), FuturesUnordered::new());
        loop {
            for seat in &self.roster.load_full().0 {
                if !checked.iter().any(|member| Arc::ptr_eq(member, &seat.member)) {
                    checked.push(Arc::clone(&seat.member));
                    checks.push(self.check_member(Arc::clone(&seat.member)));
                }
            }
            tokio::select! {
                Some(gone) = checks.next() => checked.retain(|member| !Arc::ptr_eq(member, &gone)),
                () = self.signals.roster.notified() => {}
            }
        }
    }

    /// Checks a member until the roster does not have it any more.
    async fn check_member(&self, member: Arc<Member>) -> Arc<Member> {
        let health = &self.settings.health;
        // Somewhere within the first interval, so that neither all members nor all gateways of a fleet
        // ask at once.
        sleep(self.part_of(health.interval)).await;
        while self.roster.load().has(&member) {
            let result = check::run(health, &member.addresses()).await;
            member.endpoint().pool.checks.inc(result);
            if let Some(up) = member.checked(health, result, Instant::now()) {
                self.signals.changed.notify_one();
                self.log_health(&member, up, result);
            }
            sleep(health.interval).await;
        }
        member
    }

    fn log_health(&self, member: &Member, up: bool, found: CheckResult) {
        if up {
            self.log_member(member, "An endpoint is up again.");
        } else {
            let (backend, endpoint) = (self.name(), member.endpoint().name());
            let (addresses, reason) = (member.addresses(), found.word());
            warn!(backend, endpoint, %addresses, reason, "An endpoint is down.");
        }
    }

    /// A random part of `whole`.
    fn part_of(&self, whole: Duration) -> Duration {
        let random = self.picks.fetch_add(1, Ordering::Relaxed) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "32 random bits are enough")]
        let random = mix(self.seed ^ random) as u32;
        whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Takes back what was ejected when its time has come, and shows every change.
    async fn readmit_loop(&self) {
        loop {
            let next = self.readmit(Instant::now());
            self.show();
            let next = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = self.signals.changed.notified() => {}
            }
        }
    }

    /// Takes back those whose time has come. When the next one's comes.
    pub(super) fn readmit(&self, now: Instant) -> Option<Instant> {
        let roster = self.roster.load_full();
        let absent = lock(&self.known).absent.clone();
        let members = roster.0.iter().map(|seat| &seat.member).chain(&absent);
        let mut next: Option<Instant> = None;
        for member in members {
            match member.ejection_end() {
                Some(end) if end <= now => {
                    member.readmit();
                    self.log_member(member, "An endpoint is tried again.");
                }
                Some(end) => next = Some(next.map_or(end, |next| next.min(end))),
                None => {}
            }
        }
        next
    }

    /// Brings the gauges up to date.
    pub(super) fn show(&self) {
        let roster = self.roster.load();
        for endpoint in &self.endpoints {
            let is_live = |seat: &&Seat| {
                Arc::ptr_eq(seat.member.endpoint(), endpoint) && seat.member.is_live()
            };
            let live = roster.0.iter().filter(is_live).count();
            endpoint.pool.up.set(i64::try_from(live).unwrap_or(i64::MAX));
        }
    }

    /// All that another configuration of the same backend begins with, the members among the absent.
    pub(super) fn all_known(&self) -> Known {
        let known = lock(&self.known);
        let mut members = known.absent.clone();
        members.extend(self.roster.load().0.iter().map(|seat| Arc::clone(&seat.member)));
        Known {
            answers: known.answers.clone(),
            absent: members,
            unresolved: known.unresolved.clone(),
        }
    }

    fn log_member(&self, member: &Member, what: &str) {
        let (backend, endpoint) = (self.name(), member.endpoint().name());
        let addresses = member.addresses();
        info!(backend, endpoint, %addresses, "{what}");
    }
}
