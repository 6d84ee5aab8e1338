//! One session's life: refuse or accept, limits, deadlines, why it ended.
//!
//! [`run`] takes a request and returns when the session is over. It hides permits, the choice of an
//! endpoint, and what starts bridges (`events`). In goes a [`SessionRequest`] of any transport and what
//! all sessions share, a [`SessionContext`].
//!
//! What always holds: each request is counted once, under a [`Refusal`] or under an [`Ending`], and the
//! word that is counted is the word that is logged and told; when a session ends its bridges end with
//! it; and a panic in a session's work ends that session and nothing else.

mod deadline;
mod events;
mod explain;
mod limit;
pub mod registry;
mod shape;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info};

pub use self::explain::{Admitted, Decision};
use self::{
    deadline::{Deadlines, Due},
    events::Events,
    limit::{Permit, SessionLimits},
    registry::{Entered, LiveSession, Registry},
    shape::Unprepared,
};
use crate::{
    backend::{Backends, ClientInfo, Pin, RequestFacts},
    bridge::{self, datagram::DatagramBridge},
    config::Limit,
    credential::Identity,
    lifecycle::Lifecycle,
    limit::{Clients, Memory, Place},
    metrics::{GaugeGuard, Metrics},
    reason::{Ending, Refusal, Refused},
    route::{Match, Route, RouteTable},
    transport::{ClientEnd, RequestHead, Session, SessionRequest},
};

/// How long the bridges of an ended session may take to be gone. They end at their next turn.
const BRIDGES_PATIENCE: Duration = Duration::from_secs(1);

/// What all sessions of the process share.
#[derive(Debug)]
pub struct SessionContext {
    tables: ArcSwap<Tables>,
    limits: SessionLimits,
    sessions: Registry,
    clients: Arc<Clients>,
    memory: Arc<Memory>,
    lifecycle: Lifecycle,
    metrics: Metrics,
    cut: AtomicU64,
}

/// Where sessions may go. Swapped whole, so that a route never meets the backends of another file.
#[derive(Debug)]
pub struct Tables {
    /// Paths to routes.
    pub routes: RouteTable,
    /// Names to backends; every backend that a route names is there.
    pub backends: Arc<Backends>,
    /// Whether sessions of a route that is not there any more are ended.
    pub end_removed: bool,
}

impl SessionContext {
    /// No session yet; at most `sessions` at once, and of each address what `clients` allows, while there is
    /// `memory`.
    pub fn new(
        tables: Tables,
        sessions: Limit,
        clients: Arc<Clients>,
        memory: Arc<Memory>,
        lifecycle: Lifecycle,
        metrics: Metrics,
    ) -> Self {
        Self {
            tables: ArcSwap::from_pointee(tables),
            limits: SessionLimits::new(sessions),
            sessions: Registry::default(),
            clients,
            memory,
            lifecycle,
            metrics,
            cut: AtomicU64::new(0),
        }
    }

    /// Those that live.
    pub fn sessions(&self) -> &Registry {
        &self.sessions
    }

    /// Where new sessions go now.
    pub fn backends(&self) -> Arc<Backends> {
        Arc::clone(&self.tables.load().backends)
    }

    /// Where new sessions go now, and by which routes.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Sends new sessions elsewhere, at most `sessions` at once. Those that live keep what they have, unless
    /// the tables say that they end with their route. How many ended.
    pub fn replace_tables(&self, tables: Tables, sessions: Limit) -> u64 {
        self.limits.change(sessions);
        let tables = Arc::new(tables);
        self.tables.store(Arc::clone(&tables));
        // What is drained and retired from here on may be what a request sees that still goes by the old ones.
        fence(Ordering::Release);
        self.limits.forget(|name| tables.routes.has(name));
        if !tables.end_removed {
            return 0;
        }
        let is_removed = |session: &LiveSession| !tables.routes.has(session.route());
        self.sessions.end(is_removed, Ending::RouteRemoved, None)
    }

    /// Whether a session of this route is to end because the route has gone.
    fn is_removed(&self, route: &Route) -> bool {
        let tables = self.tables.load();
        tables.end_removed && !tables.routes.has(&route.settings.name)
    }

    /// Sessions that the gateway ended because it was stopping.
    pub fn cut_sessions(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Decides on one request. Nothing but permits is touched, and refusing gives them back.
    fn admit(
        &self,
        head: &RequestHead,
        watch: &mut dyn FnMut(Decision<'_>),
    ) -> Result<Admission, (Option<Arc<Route>>, Refused)> {
        let mut rate = None;
        loop {
            let tables = self.tables.load();
            let decided = self.admit_by(&tables, &mut rate, head, watch);
            let is_unavailable = |why: &Refused| why.why == Refusal::BackendUnavailable;
            if !decided.as_ref().is_err_and(|(_route, why)| is_unavailable(why)) {
                return decided;
            }
            // If a reload has come between, what it has taken away is not for this one to find missing.
            fence(Ordering::Acquire);
            if Arc::ptr_eq(&tables, &self.tables.load()) {
                return decided;
            }
        }
    }

    /// The same by these tables. `rate` is what the client's rate said, which is asked once.
    fn admit_by(
        &self,
        tables: &Tables,
        rate: &mut Option<Result<(), Refused>>,
        head: &RequestHead,
        watch: &mut dyn FnMut(Decision<'_>),
    ) -> Result<Admission, (Option<Arc<Route>>, Refused)> {
        let found = tables.routes.approach(head, &mut |step| watch(Decision::Route(step)));
        if self.lifecycle.is_draining() {
            let route =
                found.map_or_else(|(route, _)| route, |found| Some(Arc::clone(found.route)));
            return Err((route, Refusal::Draining.into()));
        }
        let found = found.map_err(|(route, why)| (route, why.into()))?;
        let refused = |why: Refused| (Some(Arc::clone(found.route)), why);

        // Before the credential: guesses count, and nobody has more signatures checked than this.
        let rate = *rate.get_or_insert_with(|| {
            let wait = self.clients.request(head.client.ip(), Instant::now());
            wait.map_err(|wait| Refused::for_time(Refusal::ClientSessionRate, wait))
        });
        watch(Decision::Rate(rate));
        rate.map_err(refused)?;

        let entered = found.enter(head, &mut |step| watch(Decision::Route(step)));
        let Match { route, identity, query, protocol, backend, captures } =
            entered.map_err(|why| refused(why.into()))?;
        let room = self.reserve(&route, head.client.ip());
        watch(Decision::Room(room.as_ref().map(|_permits| ()).map_err(|refused| *refused)));
        let permits = room.map_err(refused)?;

        let facts = RequestFacts {
            client: head.client.ip(),
            captures: &captures,
            query: query.as_deref(),
            claims: identity.as_ref().map(|identity| &identity.claims),
        };
        let backend = tables.backends.get(&backend.name).ok_or(Refusal::Internal);
        let pin = backend.and_then(|b| b.pick(&facts).ok_or(Refusal::BackendUnavailable));
        watch(Decision::Endpoint(pin.as_ref().map_err(|why| *why)));
        let pin = pin.map_err(|why| refused(why.into()))?;
        Ok(Admission { route, identity, query, protocol, captures, pin, permits })
    }

    /// The client's own limits come first: a client that fills the gateway is to hear that it is its
    /// doing.
    fn reserve(&self, route: &Route, client: IpAddr) -> Result<Permits, Refused> {
        let settings = &route.settings;
        let client = self.clients.session(client, Instant::now()).ok_or(Refusal::ClientSessions)?;
        if self.memory.is_short() {
            return Err(Refusal::MemoryShed.into());
        }
        let process = self.limits.process().ok_or(Refusal::TooManySessions)?;
        let route = self.limits.route(&settings.name, settings.max_sessions);
        let route = route.ok_or(Refusal::RouteFull)?;
        Ok(Permits { _client: client, _process: process, _route: route })
    }

    fn count_refusal(&self, route: Option<&Route>, why: Refusal, head: &RequestHead) {
        match route {
            Some(route) => route.metrics.rejects.inc(why),
            None => self.metrics.refused_without_route(why),
        }
        debug!(
            route = route.map(|route| route.settings.name.as_str()),
            reason = why.word(),
            side = why.side().word(),
            client = %head.client,
            authority = head.authority,
            path = head.path,
            origin = head.origin,
            "Session refused."
        );
    }
}

/// A request that may become a session.
#[derive(Debug)]
struct Admission {
    route: Arc<Route>,
    identity: Option<Identity>,
    query: Option<String>,
    protocol: Option<String>,
    captures: Vec<(String, String)>,
    pin: Pin,
    permits: Permits,
}

/// Held for as long as the session lives.
#[derive(Debug)]
struct Permits {
    _client: Place,
    _process: Permit,
    _route: Permit,
}

/// Serves one request for a session until it is refused or the session has ended.
pub async fn run<R: SessionRequest>(request: R, context: Arc<SessionContext>) {
    // Boxed: beginning and ending take several times the memory that living does, and only for a moment.
    let Some(mut begun) = Box::pin(begin(request, &context)).await else { return };
    let end = begun.until_end(&context.lifecycle).await;
    Box::pin(begun.end(end, &context)).await;
}

/// Decides on a request and accepts it. `None`: it was refused, or its client is gone.
async fn begin<R: SessionRequest>(
    request: R,
    context: &SessionContext,
) -> Option<Begun<'_, R::Session>> {
    let asked = Instant::now();
    let decision = context.admit(request.head(), &mut |_decision| {});
    match decision {
        Ok(mut admission) => {
            let head = Arc::new(request.head().to_keep(admission.query.take()));
            match accept(request, head, admission, asked, context).await {
                Ok(begun) => return begun,
                // What it had reserved is free again before the client takes its refusal, or does not.
                Err((request, why)) => request.refuse(why).await,
            }
        }
        Err((route, refused)) => {
            context.count_refusal(route.as_deref(), refused.why, request.head());
            request.refuse(refused).await;
        }
    }
    None
}

/// The request comes back if it is to be refused, counted already. `None`: its client is gone.
async fn accept<R: SessionRequest>(
    mut request: R,
    head: Arc<RequestHead>,
    Admission { route, identity, protocol, captures, pin, permits, .. }: Admission,
    asked: Instant,
    context: &SessionContext,
) -> Result<Option<Begun<'_, R::Session>>, (R, Refusal)> {
    let (subject, credential_ends) =
        identity.map_or((None, None), |identity| (identity.subject, identity.ends));
    let client = ClientInfo {
        subject,
        ..ClientInfo::new(Arc::clone(&head), &route.settings.name, captures, protocol.clone())
    };
    let lifecycle = context.lifecycle.clone();
    let bridges = Arc::new(bridge::Context::new(Arc::clone(&route), pin, client, lifecycle));
    // Should this task be dropped, the bridges are not to live on.
    let ends = EndGuard(Arc::clone(&bridges));
    let entered = context.sessions.enter(Arc::clone(&bridges));
    if context.is_removed(&route) {
        // It went while this request was decided on; who ended its sessions may not have seen this one.
        bridges.end(Ending::RouteRemoved);
    }
    let prepared = match shape::prepare(&mut request, &bridges, &context.lifecycle).await {
        Ok(prepared) => prepared,
        Err(Unprepared::Refused(why)) => {
            context.count_refusal(Some(&route), why, &head);
            return Err((request, why));
        }
        Err(Unprepared::Gone(end)) => {
            went_away(&head, &end);
            return Ok(None);
        }
    };
    let opener = Arc::new(OnceLock::new());
    let datagrams =
        DatagramBridge::new(Arc::clone(&bridges), request.datagrams(), Arc::clone(&opener));
    let lifecycle = context.lifecycle.clone();
    let (events, first) = Events::new(Arc::clone(&bridges), datagrams, lifecycle);
    events.begin();

    let session = match request.accept(protocol.as_deref(), Arc::new(events)).await {
        Ok(session) => session,
        Err(end) => {
            went_away(&head, &end);
            return Ok(None);
        }
    };
    // Nobody else sets it.
    _ = opener.set(session.opener());
    prepared.begin(&bridges, &session, first);
    entered.accepted(session.leg());
    let open = route.metrics.session_opened(head.dialect);
    route.metrics.session_setup_took(asked.elapsed());
    let began = Instant::now();

    let mut deadlines = Deadlines::new(&route.settings, began);
    if let Some(ends) = credential_ends.and_then(moment) {
        deadlines.end_at(ends, Ending::CredentialExpired);
    }
    Ok(Some(Begun { session, deadlines, began, open, entered, ends, permits }))
}

/// A session that was accepted: what it needs for as long as it lives.
struct Begun<'a, S> {
    session: S,
    deadlines: Deadlines,
    began: Instant,
    open: GaugeGuard,
    entered: Entered<'a>,
    ends: EndGuard,
    permits: Permits,
}

impl<S: Session> Begun<'_, S> {
    /// Waits until anyone ends the session.
    async fn until_end(&mut self, lifecycle: &Lifecycle) -> End {
        let bridges = &self.ends.0;
        let until_end = until_end(&mut self.session, bridges, lifecycle, &mut self.deadlines);
        AssertUnwindSafe(until_end).catch_unwind().await.unwrap_or_else(|_panic| {
            error!(session_id = %bridges.id(), "A session panicked, so it ends.");
            Ending::Internal.into()
        })
    }

    /// Tells the bridges, and the client if it was not the client's doing, and counts the end.
    async fn end(self, end: End, context: &SessionContext) {
        let Self { session, began, open: _open, entered, ends, permits: _permits, .. } = self;
        let bridges = &ends.0;
        // The bridges end by themselves; the client need not wait for them.
        bridges.end(end.why);
        if end.why.is_told() {
            let (code, text) = bridges.farewell(end.why);
            session.close(code, text).await;
        } else {
            session.leave().await;
        }
        // What they held is lost only when they are gone, and the log line tells of it. Should one not end,
        // the session's end is still to be counted.
        _ = timeout(BRIDGES_PATIENCE, bridges.bridges_gone()).await;

        if matches!(end.why, Ending::DrainDeadline | Ending::Killed) {
            context.cut.fetch_add(1, Ordering::Relaxed);
        }
        let metrics = &bridges.route().metrics;
        metrics.ends.inc(end.why);
        metrics.session_lived(began.elapsed());
        log_end(bridges, &end, began);
        // Before the gauge, so that whoever sees it counted as gone does not find it any more.
        drop(entered);
    }
}

/// A date on this process's clock, which goes on evenly though somebody sets the system's. What lies beyond its
/// end never comes.
fn moment(date: SystemTime) -> Option<Instant> {
    let left = date.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now().checked_add(left)
}

/// Notes a client that was gone before its session began: it is counted neither as a session nor as an
/// ending.
fn went_away(head: &RequestHead, end: &ClientEnd) {
    debug!(client = %head.client, ?end, "Client went away while its session was accepted.");
}

/// How a session ended.
#[derive(Clone, Debug, Eq, PartialEq)]
struct End {
    why: Ending,
    /// What the client said when it closed.
    code: Option<u32>,
    text: Option<String>,
}

impl From<Ending> for End {
    fn from(why: Ending) -> Self {
        Self { why, code: None, text: None }
    }
}

impl From<ClientEnd> for End {
    fn from(end: ClientEnd) -> Self {
        match end {
            ClientEnd::Closed { code, reason } => {
                Self { why: Ending::ClientClosed, code: Some(code), text: Some(reason) }
            }
            ClientEnd::Reset => Ending::ClientReset.into(),
            ClientEnd::ConnectionClosed => Ending::ConnectionClosed.into(),
            ClientEnd::ConnectionLost => Ending::ConnectionLost.into(),
            ClientEnd::ProtocolError => Ending::ProtocolError.into(),
        }
    }
}

/// Waits until anyone ends the session.
async fn until_end<S: Session>(
    session: &mut S,
    bridges: &bridge::Context,
    lifecycle: &Lifecycle,
    deadlines: &mut Deadlines,
) -> End {
    let carried = || bridges.totals().carried();
    tokio::select! {
        biased;
        end = session.ended() => return end.into(),
        () = bridges.ended() => return bridges_end(bridges),
        () = lifecycle.killed() => return kill_reason(lifecycle).into(),
        due = deadlines.due(carried) => match due {
            Due::End(why) => return why.into(),
            Due::Notice => {}
        },
        () = lifecycle.draining() => {}
        // The client is told once, whether its time is nearly over or its endpoint or the whole gateway goes
        // away.
        () = bridges.pin().leaving() => {}
    }
    tokio::select! {
        biased;
        () = session.drain() => {}
        // A client that takes nothing must not hold up the kill or a fault's end. It will be closed, so a
        // request to end that is half said does no harm.
        () = lifecycle.killed() => {}
        () = bridges.ended() => {}
        why = deadlines.end(carried) => return why.into(),
    }
    tokio::select! {
        biased;
        end = session.ended() => end.into(),
        () = bridges.ended() => bridges_end(bridges),
        () = lifecycle.killed() => kill_reason(lifecycle).into(),
        why = deadlines.end(carried) => why.into(),
    }
}

/// A fault ends the bridges before their session, and so does the end of a session's one connection.
fn bridges_end(bridges: &bridge::Context) -> End {
    bridges.ending().unwrap_or(Ending::Internal).into()
}

fn kill_reason(lifecycle: &Lifecycle) -> Ending {
    if lifecycle.is_hurried() { Ending::Killed } else { Ending::DrainDeadline }
}

fn log_end(bridges: &bridge::Context, end: &End, began: Instant) {
    let (totals, client) = (bridges.totals(), bridges.client());
    let head = &client.head;
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(
        session_id = %bridges.id(),
        route = bridges.route().settings.name,
        backend = bridges.pin().backend().name(),
        endpoint = bridges.pin().endpoint().name(),
        client = %head.client,
        path = head.path,
        origin = head.origin,
        dialect = head.dialect,
        protocol = client.protocol,
        subject = client.subject,
        side = end.why.side().word(),
        reason = end.why.word(),
        client_code = end.code,
        client_text = end.text,
        duration_ms,
        bytes_up = totals.up.stream_bytes.delivered.get(),
        bytes_down = totals.down.stream_bytes.delivered.get(),
        bytes_lost = totals.lost_stream_bytes(),
        streams = totals.streams.get(),
        datagrams_up = totals.up.datagrams.delivered.get(),
        datagrams_down = totals.down.datagrams.delivered.get(),
        datagrams_lost = totals.lost_datagrams(),
        "Session ended."
    );
}

/// Ends a session's bridges on every way out.
struct EndGuard(Arc<bridge::Context>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        // After the ordinary end this changes nothing: the first reason stays.
        self.0.end(Ending::Internal);
    }
}
