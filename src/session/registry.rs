//! The sessions that live, for whoever looks at them or ends them from outside.
//!
//! A session enters before its backend is dialled, so that it can be ended from then on, is shown once it
//! is accepted, and leaves by a guard on every way out.
//!
//! One ordered map under one lock: a session takes the lock twice in its life, for a few hundred
//! nanoseconds, and nothing that a stream or a datagram does comes near it. Whoever walks through all of
//! them takes the lock for a few hundred of them at a time, so that no worker waits for a long list. The order
//! is that of the ids, and so of the beginnings up to a millisecond.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use ulid::Ulid;

use crate::{
    backend::{ClientInfo, UdpState},
    bridge::{self, Farewell, QueueState, StreamState, Totals},
    reason::Ending,
    transport::{ClientLeg, LegState},
};

/// Every session of the process that has not ended.
#[derive(Debug, Default)]
pub struct Registry {
    live: Mutex<BTreeMap<Ulid, Arc<LiveSession>>>,
}

/// One session, as it is seen from outside. It may end at any time; what is read of it then is the last
/// there was.
#[derive(Debug)]
pub struct LiveSession {
    bridges: Arc<bridge::Context>,
    begun: OnceLock<Begun>,
}

/// When a session was accepted, and over what.
#[derive(Debug)]
struct Begun {
    at: Instant,
    date: SystemTime,
    leg: Arc<dyn ClientLeg>,
}

/// Which sessions are meant: those to which all of it applies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// Its id.
    pub id: Option<Ulid>,
    /// The name of its route.
    pub route: Option<String>,
    /// The name of its backend.
    pub backend: Option<String>,
    /// The name of its endpoint.
    pub endpoint: Option<String>,
    /// Whom its credential names.
    pub subject: Option<String>,
    /// The address of its client.
    pub client: Option<IpAddr>,
}

/// Some of the sessions that were asked for, oldest first.
#[derive(Debug)]
pub struct Page {
    /// These.
    pub sessions: Vec<Arc<LiveSession>>,
    /// Whether more come after them.
    pub has_more: bool,
}

/// How many sessions are looked at under one lock: some tens of microseconds.
const AT_ONCE: usize = 256;

impl Registry {
    /// How many there are, those included that are not accepted yet.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The accepted session with this id.
    pub fn get(&self, id: Ulid) -> Option<Arc<LiveSession>> {
        let session = self.lock().get(&id).map(Arc::clone);
        session.filter(|session| session.is_accepted())
    }

    /// At most `limit` accepted sessions of a selection, those that come after `after`.
    pub fn page(&self, selection: &Selection, after: Option<Ulid>, limit: usize) -> Page {
        let mut page = Page { sessions: Vec::new(), has_more: false };
        self.walk(after, |session| {
            if !session.is_accepted() || !selection.takes(session) {
                return ControlFlow::Continue(());
            }
            if page.sessions.len() == limit {
                page.has_more = true;
                return ControlFlow::Break(());
            }
            page.sessions.push(Arc::clone(session));
            ControlFlow::Continue(())
        });
        page
    }

    /// Ends the sessions that `select` takes, and tells how many had not ended before. Their clients are
    /// told the reason's code and word, unless there is a farewell of one's own.
    ///
    /// A session that begins meanwhile may be missed: whoever bars a way has to do so before.
    pub fn end(
        &self,
        select: impl Fn(&LiveSession) -> bool,
        why: Ending,
        farewell: Option<&Farewell>,
    ) -> u64 {
        let mut ended = 0;
        self.walk(None, |session| {
            if select(session) && session.end(why, farewell) {
                ended += 1;
            }
            ControlFlow::Continue(())
        });
        ended
    }

    /// A session that is about to be accepted. It is here for as long as the guard lives.
    pub(super) fn enter(&self, bridges: Arc<bridge::Context>) -> Entered<'_> {
        let session = Arc::new(LiveSession { bridges, begun: OnceLock::new() });
        self.lock().insert(session.id(), Arc::clone(&session));
        Entered { registry: self, session }
    }

    /// Visits the sessions after this one, oldest first, without holding the lock while it does.
    fn walk(
        &self,
        after: Option<Ulid>,
        mut visit: impl FnMut(&Arc<LiveSession>) -> ControlFlow<()>,
    ) {
        let mut start = after.map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let next = self.lock();
            let next = next.range((start, Bound::Unbounded)).take(AT_ONCE);
            let next: Vec<_> = next.map(|(_, session)| Arc::clone(session)).collect();
            let Some(last) = next.last() else { return };
            start = Bound::Excluded(last.id());
            if next.iter().try_for_each(&mut visit).is_break() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ulid, Arc<LiveSession>>> {
        // Nothing that could panic half-way happens under the lock.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveSession {
    /// Its id, as in the log.
    pub fn id(&self) -> Ulid {
        self.bridges.id()
    }

    /// Who its client is, and what it asked for.
    pub fn client(&self) -> &ClientInfo {
        self.bridges.client()
    }

    /// The name of its route. A route of this name may be another one by now.
    pub fn route(&self) -> &str {
        &self.bridges.route().settings.name
    }

    /// The name of its backend.
    pub fn backend(&self) -> &str {
        self.bridges.pin().backend().name()
    }

    /// The name of its endpoint.
    pub fn endpoint(&self) -> String {
        self.bridges.pin().endpoint().name().to_owned()
    }

    /// What it has carried so far.
    pub fn totals(&self) -> &Totals {
        self.bridges.totals()
    }

    /// How the queue of datagrams to its client stands.
    pub fn datagram_queue(&self) -> QueueState {
        self.bridges.datagram_queue()
    }

    /// How many streams are open, and how the oldest of them stand, `most` at most.
    pub fn open_streams(&self, most: usize) -> (usize, Vec<StreamState>) {
        self.bridges.open_streams(most)
    }

    /// How the socket to its backend stands that carries its datagrams, if there is one.
    pub fn udp(&self) -> Option<UdpState> {
        self.bridges.udp()
    }

    /// Client bidirectional streams that are bridged now.
    pub fn open_bidi_streams(&self) -> u64 {
        self.bridges.open_bidi_streams()
    }

    /// Client unidirectional streams that are bridged now.
    pub fn open_uni_streams(&self) -> u64 {
        self.bridges.open_uni_streams()
    }

    /// When it was accepted. `None`: it is not yet.
    pub fn began(&self) -> Option<SystemTime> {
        self.begun.get().map(|begun| begun.date)
    }

    /// For how long it has been accepted.
    pub fn age(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, |begun| begun.at.elapsed())
    }

    /// How the way to its client does.
    pub fn client_leg(&self) -> LegState {
        self.begun.get().map(|begun| begun.leg.state()).unwrap_or_default()
    }

    /// Why it ended, if it does so just now.
    pub fn ending(&self) -> Option<Ending> {
        self.bridges.ending()
    }

    /// Ends it, unless something else has.
    pub fn end(&self, why: Ending, farewell: Option<&Farewell>) -> bool {
        self.bridges.end_with(why, farewell.cloned())
    }

    fn is_accepted(&self) -> bool {
        self.begun.get().is_some()
    }
}

impl Selection {
    /// Whether it takes this session.
    pub fn takes(&self, session: &LiveSession) -> bool {
        fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let client = session.client();
        fits(self.id.as_ref(), &session.id())
            && fits(self.route.as_deref(), session.route())
            && fits(self.backend.as_deref(), session.backend())
            && fits(self.endpoint.as_ref(), &session.endpoint())
            && (self.subject.is_none() || self.subject == client.subject)
            // A socket for both families shows IPv4 clients in IPv6.
            && fits(self.client.map(|ip| ip.to_canonical()).as_ref(), &client.head.client.ip().to_canonical())
    }

    /// Whether it takes every session.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// Keeps a session in the registry.
pub(super) struct Entered<'a> {
    registry: &'a Registry,
    session: Arc<LiveSession>,
}

impl Entered<'_> {
    /// Notes that the session is accepted: from now on it is shown.
    pub(super) fn accepted(&self, leg: Arc<dyn ClientLeg>) {
        // It is accepted once.
        _ = self.session.begun.set(Begun { at: Instant::now(), date: SystemTime::now(), leg });
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entered").field(&self.session.id()).finish()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // What it held is let go of after the lock.
        let left = self.registry.lock().remove(&self.session.id());
        drop(left);
    }
}
