//! Backends: a name becomes a member of an endpoint, a member becomes a connection.
//!
//! It decides where a session goes ([`Backend::pick`]), keeps host names resolved and members checked,
//! leaves out those that fail, dials connections over TCP, TLS or to Unix sockets with the settings of the
//! configuration, and opens UDP sockets. It hides addresses, socket options, TLS and how a backend is told
//! of the client. In goes a [`Pin`], out come a [`BackendConnection`] or a [`UdpConnection`], or a [`DialError`]
//! that says whose fault it is.
//!
//! Three words: a backend has *endpoints*, which the configuration lists and which share a name, a
//! weight and metrics; an endpoint has *members*, the places where it can be reached: one for an
//! address, one or several for a host name. A member takes new sessions while it is *live*: given by
//! configuration and names, up, not ejected, not drained.
//!
//! What always holds: all connections of a session go to one member; a [`BackendConnection`] that is
//! dropped without [`BackendConnection::close`] resets, so that nothing that was cut looks whole (but at a
//! Unix socket, which has no reset); every finished attempt is counted under its result; and no change here touches a session that lives, but
//! to tell it ([`Pin::leaving`]).

mod balance;
mod check;
mod client_info;
mod connection;
mod dial;
mod eject;
mod health;
mod keeper;
mod member;
mod overview;
mod pin;
mod preamble;
mod proxy_protocol;
mod queue;
mod race;
mod resolve;
mod roster;
mod segments;
mod sight;
mod source;
mod spp;
mod takeover;
mod tend;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
mod udp;
mod udp_header;
mod unix;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::warn;

#[cfg(test)]
pub(crate) use self::tls::tests::TlsServer;
pub use self::{
    balance::RequestFacts,
    client_info::ClientInfo,
    connection::{BackendConnection, BackendReader, BackendWriter},
    dial::DialError,
    keeper::Keeper,
    member::Endpoint,
    overview::{BackendOverview, EndpointOverview, MemberOverview},
    pin::{Pin, Told},
    resolve::{Resolve, SystemResolver},
    sight::{ConnectionState, Sight, TcpState},
    tls::TlsError,
    udp::{UdpConnection, UdpState},
};
use self::{
    balance::{Candidate, Turns, better_of_two, fewest_sessions, highest_score, mix},
    dial::Dialler,
    member::Member,
    roster::Roster,
    source::Sources,
    tend::{Known, Signals},
};
use crate::{
    config::{self, Balance},
    metrics::Metrics,
};

/// All backends of a configuration, by name.
#[derive(Debug)]
pub struct Backends(BTreeMap<String, Arc<Backend>>);

impl Backends {
    /// The backends as configured. Endpoints given by host name have no members until
    /// [`Self::resolve`].
    ///
    /// A backend that `previous` has too, with the same settings, is the same one. Endpoints and members
    /// that `previous` has too are taken over with all that is known of them: sessions, health,
    /// ejections, drains. Nothing changes for those that serve until [`Self::open`].
    pub fn new(
        settings: &BTreeMap<String, Arc<config::Backend>>,
        metrics: &Metrics,
        resolver: &Arc<dyn Resolve>,
        previous: Option<&Self>,
    ) -> Self {
        let backend = |(name, settings): (&String, &Arc<config::Backend>)| {
            let previous = previous.and_then(|all| all.get(name));
            if let Some(same) = previous.filter(|p| p.settings == *settings) {
                return (name.clone(), Arc::clone(same));
            }
            let previous = previous.map(Arc::as_ref);
            let (settings, resolver) = (Arc::clone(settings), Arc::clone(resolver));
            (name.clone(), Arc::new(Backend::new(settings, metrics, resolver, previous)))
        };
        Self(settings.iter().map(backend).collect())
    }

    /// The backend of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Backend>> {
        self.0.get(name)
    }

    /// Resolves every host name once. To be awaited before serving.
    pub async fn resolve(&self) {
        join_all(self.0.values().map(|backend| backend.resolve())).await;
    }
}

/// One backend: equal endpoints of one service.
#[derive(Debug)]
pub struct Backend {
    settings: Arc<config::Backend>,
    /// In the order of the settings.
    endpoints: Box<[Arc<Endpoint>]>,
    /// One for each endpoint, in the same order.
    diallers: Box<[Dialler]>,
    roster: ArcSwap<Roster>,
    /// Locked once per session, never on the data path.
    turns: Mutex<Turns>,
    /// Counts picks: where the next search begins, and a source of random numbers with the seed.
    picks: AtomicUsize,
    seed: u64,
    /// What the control side knows; also locked by ejections.
    known: Mutex<Known>,
    resolver: Arc<dyn Resolve>,
    signals: Arc<Signals>,
}

impl Backend {
    fn new(
        settings: Arc<config::Backend>,
        metrics: &Metrics,
        resolver: Arc<dyn Resolve>,
        previous: Option<&Self>,
    ) -> Self {
        let endpoint = |settings_of: &config::Endpoint| {
            let name = &settings_of.name;
            let known = previous.and_then(|p| p.endpoints.iter().find(|e| e.name() == name));
            let new = || Arc::new(Endpoint::new(settings_of, &settings.name, metrics));
            known.map_or_else(new, Arc::clone)
        };
        let endpoints: Box<[_]> = settings.endpoints.iter().map(endpoint).collect();
        let sources = Arc::new(Sources::new(&settings.source));
        let dialler = |(endpoint_settings, endpoint): (_, &Arc<Endpoint>)| {
            let metrics = endpoint.metrics.clone();
            Dialler::new(&settings, endpoint_settings, Arc::clone(&sources), metrics)
        };
        let diallers = settings.endpoints.iter().zip(&endpoints).map(dialler).collect();
        let mut known = previous.map(Self::all_known).unwrap_or_default();
        let members = std::mem::take(&mut known.absent);
        let (seats, left) =
            Roster::arrange(&settings.endpoints, &endpoints, &known.answers, members);
        known.absent = left;
        let backend = Self {
            endpoints,
            diallers,
            roster: ArcSwap::from_pointee(Roster(seats.into_iter().map(|(s, _)| s).collect())),
            turns: Mutex::default(),
            picks: AtomicUsize::new(0),
            seed: RandomState::new().hash_one(()),
            known: Mutex::new(known),
            resolver,
            signals: previous.map(|p| Arc::clone(&p.signals)).unwrap_or_default(),
            settings,
        };
        if previous.is_none() {
            backend.show();
        }
        backend
    }

    /// The name, for logs.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What the configuration says.
    pub fn settings(&self) -> &config::Backend {
        &self.settings
    }

    /// Chooses where a session goes. `None`: no member is live.
    ///
    /// The pin counts as a session of its member for as long as it lives.
    pub fn pick(self: &Arc<Self>, facts: &RequestFacts<'_>) -> Option<Pin> {
        let request = match self.settings.balance {
            Balance::Hash => facts.hash(&self.settings.hash_on),
            _ => 0,
        };
        let member = self.choose(request, &[])?;
        Some(Pin::new(Arc::clone(self), member, request))
    }

    /// What dials this member. `None`: it is no member of this backend's.
    fn dialler(&self, member: &Member) -> Option<&Dialler> {
        let at = self.endpoints.iter().position(|e| Arc::ptr_eq(e, member.endpoint()))?;
        self.diallers.get(at)
    }

    /// Members of this endpoint that sessions may be given to.
    fn members_of(&self, endpoint: &Arc<Endpoint>) -> Vec<Arc<Member>> {
        let roster = self.roster.load();
        let members = roster.0.iter().map(|seat| &seat.member);
        members.filter(|member| Arc::ptr_eq(member.endpoint(), endpoint)).map(Arc::clone).collect()
    }

    /// The best live member by the policy, of those that were not tried.
    fn choose(&self, request: u64, tried: &[Arc<Member>]) -> Option<Arc<Member>> {
        loop {
            let roster = self.roster.load();
            let chosen = self.choose_from(&roster, request, tried);
            // Pairs with the fence of `settle`: whoever finds what the old roster has to be gone sees the new.
            fence(Ordering::Acquire);
            if chosen.is_some() || std::ptr::eq(&**roster, &**self.roster.load()) {
                return chosen;
            }
        }
    }

    fn choose_from(
        &self,
        roster: &Roster,
        request: u64,
        tried: &[Arc<Member>],
    ) -> Option<Arc<Member>> {
        let seats = roster.0.iter().enumerate();
        let is_open = |member: &Arc<Member>| {
            member.is_live() && !tried.iter().any(|tried| Arc::ptr_eq(tried, member))
        };
        let open: Vec<_> = seats
            .filter(|(_, seat)| is_open(&seat.member))
            .map(|(at, seat)| Candidate {
                seat: at,
                weight: seat.weight,
                sessions: seat.member.sessions(),
                key: seat.key,
            })
            .collect();
        let count = self.picks.fetch_add(1, Ordering::Relaxed);
        let seat = match self.settings.balance {
            Balance::RoundRobin => lock(&self.turns).next(&open),
            Balance::LeastSessions => fewest_sessions(&open, count),
            Balance::RandomTwo => better_of_two(&open, mix(self.seed ^ count as u64)),
            Balance::Hash => highest_score(&open, request),
        };
        seat.map(|seat| Arc::clone(&roster.0[seat].member))
    }

    /// Notes that a member failed in use: its names may stand for something else by now, and it may
    /// have failed often enough to be left out.
    fn member_failed(&self, member: &Arc<Member>) {
        self.signals.resolve.notify_one();
        let failures = member.failed();
        if eject::is_due(&self.settings.ejection, failures) {
            self.eject(member, failures);
        }
    }

    /// Whether it may be left out, as things stand.
    fn may_eject(&self, member: &Arc<Member>) -> bool {
        let roster = self.roster.load();
        let out = roster.0.iter().filter(|seat| !seat.member.is_live()).count();
        member.is_live()
            && roster.has(member)
            && eject::is_allowed(&self.settings.ejection, out, roster.0.len())
    }

    fn eject(&self, member: &Arc<Member>, failures: u32) {
        // Looked at first without the lock: while it may not be left out, each refused datagram comes here.
        if !self.may_eject(member) {
            return;
        }
        // One at a time: each counts who is out.
        let _known = lock(&self.known);
        if !self.may_eject(member) {
            return;
        }
        let now = Instant::now();
        let time = member.eject(&self.settings.ejection, now) - now;
        member.endpoint().pool.ejections.inc();
        self.signals.changed.notify_one();
        let (backend, endpoint) = (self.name(), member.endpoint().name());
        let addresses = member.addresses();
        warn!(
            backend,
            endpoint,
            %addresses,
            failures,
            ?time,
            "An endpoint is left out for a while."
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic happens under the locks of this room.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something fails now, so that a log line is written when that changes and not each time.
///
/// What works and fails by turns is in trouble all the while: a full queue does, and clients decide how
/// often it is asked.
#[derive(Debug)]
struct Trouble {
    began: Instant,
    /// Milliseconds from `began` to the last failure, and one more; 0 while there is no trouble.
    failed: AtomicU64,
}

/// So long without a failure, and the next success ends the trouble.
const GOOD_TIME: Duration = Duration::from_secs(10);

impl Default for Trouble {
    fn default() -> Self {
        Self { began: Instant::now(), failed: AtomicU64::new(0) }
    }
}

impl Trouble {
    /// Notes a failure. Whether trouble begins with it.
    fn begins(&self) -> bool {
        self.failed.swap(self.now(), Ordering::Relaxed) == 0
    }

    /// Notes a success. Whether trouble ends with it.
    fn ends(&self) -> bool {
        // Read first: the usual case writes nothing that other workers would have to fetch again.
        let failed = self.failed.load(Ordering::Relaxed);
        let is_over = || u128::from(self.now().saturating_sub(failed)) >= GOOD_TIME.as_millis();
        let order = Ordering::Relaxed;
        failed != 0 && is_over() && self.failed.compare_exchange(failed, 0, order, order).is_ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).map_or(u64::MAX, |millis| millis + 1)
    }
}
