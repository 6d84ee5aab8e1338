//! Endpoints and their members, with what is known of them.
//!
//! An [`Endpoint`] is what the configuration lists, a [`Member`] one place where it can be reached: an
//! address has one, a name may have several. Both outlive the configuration that made them: another
//! one that lists the same takes them over, with counts, health and all.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use super::{Trouble, eject::Ejections, health::Health};
use crate::{
    config,
    metrics::{EndpointMetrics, Metrics, PoolMetrics},
    reason::CheckResult,
};

/// One endpoint of a backend: what holds for all of its members.
#[derive(Debug)]
pub struct Endpoint {
    name: String,
    is_draining: AtomicBool,
    pub(super) metrics: EndpointMetrics,
    pub(super) pool: PoolMetrics,
}

impl Endpoint {
    pub(super) fn new(settings: &config::Endpoint, backend: &str, metrics: &Metrics) -> Self {
        let name = &settings.name;
        Self {
            name: name.clone(),
            is_draining: AtomicBool::new(settings.draining),
            metrics: metrics.endpoint(backend, name),
            pool: metrics.pool(backend, name),
        }
    }

    /// The name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Whether this changes anything.
    pub(super) fn set_draining(&self, draining: bool) -> bool {
        self.is_draining.swap(draining, Ordering::Relaxed) != draining
    }
}

/// Where one member is, in the order to try.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Addresses {
    /// For streams, in place of TCP.
    pub(super) unix: Option<Arc<Path>>,
    /// For streams.
    pub(super) tcp: Vec<SocketAddr>,
    /// For datagrams.
    pub(super) udp: Vec<SocketAddr>,
}

impl Addresses {
    /// Every IP address, for streams first.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.tcp.iter().chain(&self.udp).map(SocketAddr::ip)
    }

    /// Whether both mean the same place: the names of a host may give an address more or less each
    /// time. Where streams go says more than where datagrams go. Another port is another server.
    pub(super) fn are_of_one_place(&self, other: &Self) -> bool {
        let share = |a: &[SocketAddr], b: &[SocketAddr]| a.iter().any(|a| b.contains(a));
        let ports = |addresses: &Self| addresses.udp.first().map(SocketAddr::port);
        // All of a list have one port; who has no address for datagrams yet may get one.
        if ports(self).zip(ports(other)).is_some_and(|(a, b)| a != b) {
            return false;
        }
        if self.unix.is_some() || other.unix.is_some() {
            return self.unix == other.unix;
        }
        match self.tcp.is_empty() || other.tcp.is_empty() {
            true => share(&self.udp, &other.udp),
            false => share(&self.tcp, &other.tcp),
        }
    }
}

/// For log lines: `tcp [::1]:7777 127.0.0.1:7777 udp 127.0.0.1:7778`, `unix /run/game.sock`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.unix {
            write!(f, "unix {}", path.display())?;
            if !self.udp.is_empty() {
                f.write_str(" ")?;
            }
        }
        let lists = [("tcp", &self.tcp), ("udp", &self.udp)];
        let mut lists = lists.into_iter().filter(|(_, list)| !list.is_empty()).peekable();
        while let Some((kind, list)) = lists.next() {
            f.write_str(kind)?;
            list.iter().try_for_each(|address| write!(f, " {address}"))?;
            if lists.peek().is_some() {
                f.write_str(" ")?;
            }
        }
        Ok(())
    }
}

/// One place where an endpoint can be reached. Sessions are pinned to it.
#[derive(Debug)]
pub(super) struct Member {
    endpoint: Arc<Endpoint>,
    addresses: ArcSwap<Addresses>,
    sessions: AtomicU64,
    pub(super) connecting: Trouble,
    /// In a row, while in use.
    failures: AtomicU32,
    /// What decides; locked by changes alone. The flags below show it to those who pick.
    condition: Mutex<Condition>,
    is_down: AtomicBool,
    is_ejected: AtomicBool,
    is_absent: AtomicBool,
    /// It is absent, and for so long or for such a reason that its sessions were told.
    is_gone: AtomicBool,
    /// Whether its sessions had better go elsewhere.
    is_leaving: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Condition {
    health: Health,
    ejections: Ejections,
    /// Since when the names do not give it any more.
    absent_since: Option<Instant>,
    last_check: Option<(CheckResult, Instant)>,
}

/// What a member is, in one word: the first that holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// No name gives it any more.
    Absent,
    /// The operator drains its endpoint.
    Draining,
    /// Its checks fail.
    Down,
    /// It failed in use.
    Ejected,
    /// It takes sessions.
    Live,
}

impl State {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Live => "live",
        }
    }
}

impl Member {
    pub(super) fn new(endpoint: Arc<Endpoint>, addresses: Addresses) -> Self {
        Self {
            endpoint,
            addresses: ArcSwap::from_pointee(addresses),
            sessions: AtomicU64::new(0),
            connecting: Trouble::default(),
            failures: AtomicU32::new(0),
            condition: Mutex::default(),
            is_down: AtomicBool::new(false),
            is_ejected: AtomicBool::new(false),
            is_absent: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            is_leaving: watch::Sender::new(false),
        }
    }

    /// The endpoint that it belongs to.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(super) fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    pub(super) fn state(&self) -> State {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is(&self.is_absent) {
            State::Absent
        } else if self.endpoint.is_draining() {
            State::Draining
        } else if is(&self.is_down) {
            State::Down
        } else if is(&self.is_ejected) {
            State::Ejected
        } else {
            State::Live
        }
    }

    /// Whether it takes new sessions.
    pub(super) fn is_live(&self) -> bool {
        self.state() == State::Live
    }

    /// Whether it does not work any more, as far as is known; drained or not.
    pub(super) fn has_stopped(&self) -> bool {
        let flags = [&self.is_absent, &self.is_down, &self.is_ejected];
        flags.iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Sessions that are pinned here now.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(super) fn session_came(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn session_went(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Resolves once its sessions had better go elsewhere. Cancel-safe.
    pub(super) async fn leaving(&self) {
        // The sender is `self`, so it cannot be gone.
        _ = self.is_leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    /// It did what was asked.
    pub(super) fn worked(&self) {
        // Read first: the usual case writes nothing that other workers would have to fetch again.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It did not. How often in a row now.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Leaves it out. Until when.
    pub(super) fn eject(&self, rules: &config::Ejection, now: Instant) -> Instant {
        let end = self.condition().ejections.begin(rules, now);
        self.is_ejected.store(true, Ordering::Relaxed);
        end
    }

    /// When its ejection ends, if it is out.
    pub(super) fn ejection_end(&self) -> Option<Instant> {
        let is_out = self.is_ejected.load(Ordering::Relaxed);
        is_out.then(|| self.condition().ejections.end()).flatten()
    }

    /// Takes it back in, to be judged anew.
    pub(super) fn readmit(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.is_ejected.store(false, Ordering::Relaxed);
    }

    /// Notes an active check. Whether it is up now, if that is new.
    pub(super) fn checked(
        &self,
        rules: &config::Health,
        result: CheckResult,
        now: Instant,
    ) -> Option<bool> {
        let mut condition = self.condition();
        condition.last_check = Some((result, now));
        // What failed on our side says nothing about the member.
        let says_something = result != CheckResult::OutOfResources;
        let passed = result == CheckResult::Passed;
        let changed = says_something && condition.health.note(rules, passed);
        self.is_down.store(condition.health.is_down(), Ordering::Relaxed);
        drop(condition);
        self.tell_sessions();
        changed.then_some(passed)
    }

    /// Nobody checks it any more, so nothing speaks against it.
    pub(super) fn is_unchecked(&self) {
        let mut condition = self.condition();
        condition.health = Health::default();
        condition.last_check = None;
        self.is_down.store(false, Ordering::Relaxed);
        drop(condition);
        self.tell_sessions();
    }

    /// The last active check, and when it ended.
    pub(super) fn last_check(&self) -> Option<(CheckResult, Instant)> {
        self.condition().last_check
    }

    /// The configuration or the names give it, at these addresses.
    pub(super) fn is_given(&self, addresses: &Addresses) {
        self.condition().absent_since = None;
        self.is_absent.store(false, Ordering::Relaxed);
        self.is_gone.store(false, Ordering::Relaxed);
        if **self.addresses.load() != *addresses {
            self.addresses.store(Arc::new(addresses.clone()));
        }
        self.tell_sessions();
    }

    /// Neither gives it any more. Since when.
    pub(super) fn is_missed(&self, now: Instant) -> Instant {
        self.is_absent.store(true, Ordering::Relaxed);
        *self.condition().absent_since.get_or_insert(now)
    }

    /// Its sessions had better go elsewhere, unless it comes back.
    pub(super) fn is_gone(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
        self.tell_sessions();
    }

    /// Tells its sessions whether they had better go elsewhere: it is down or gone, or its endpoint is
    /// drained.
    pub(super) fn tell_sessions(&self) {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let is_leaving = is(&self.is_gone) || self.endpoint.is_draining() || is(&self.is_down);
        self.is_leaving.send_if_modified(|told| std::mem::replace(told, is_leaving) != is_leaving);
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        // Nothing that could panic happens under the lock.
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_for_log_lines() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        for (tcp, udp, text) in [
            (
                &["[::1]:7", "127.0.0.1:7"][..],
                &["127.0.0.1:8"][..],
                "tcp [::1]:7 127.0.0.1:7 udp 127.0.0.1:8",
            ),
            (&[], &["127.0.0.1:8"], "udp 127.0.0.1:8"),
            (&["127.0.0.1:7"], &[], "tcp 127.0.0.1:7"),
        ] {
            assert_eq!(Addresses { unix: None, tcp: list(tcp), udp: list(udp) }.to_string(), text);
        }
        let unix = Some(Path::new("/run/game.sock").into());
        let local = Addresses { unix, tcp: Vec::new(), udp: list(&["127.0.0.1:8"]) };
        assert_eq!(local.to_string(), "unix /run/game.sock udp 127.0.0.1:8");
    }
}
