//! Which route a session request belongs to, or why none takes it.
//!
//! In goes what the client asked for, out comes a route or a refusal. Nothing here waits, counts or
//! opens anything, and a table never changes: a new configuration makes a new table, and sessions keep
//! the route that they began with.
//!
//! The decisions come in this order: path and host, which name a route; origin; what the client shows of itself
//! ([`Gate`]); application protocol; backend. Whatever is decided after the route is counted under it. They come
//! in two halves, before a credential is looked at ([`RouteTable::approach`]) and from there on
//! ([`Approach::enter`]), since looking costs a signature check and is a guess for whoever has none: who asks too
//! often is to be turned away in between. Whoever wants to see each decision watches; there is no other way to
//! decide.
//!
//! Hosts are compared in one normal form without port ([`crate::config::request_host`]); an
//! authority that could be read in two ways is a bad request, also where no route names hosts. A route
//! that names the host wins over one with a wildcard for it, and that over one without hosts; the path
//! decides among the routes of one host. Paths are compared in one normal form ([`crate::config::path_segments`]); a path that could
//! be read in two ways is a bad request. Where several routes take a path, a literal segment wins
//! over a capture and a capture over a rest, from left to right; the order of the file says nothing.
//! Origins are compared by scheme, host and port (RFC 6454 section 5), never as text.

mod fit;
mod hosts;
mod step;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use self::hosts::{Hosts, NotFound};
pub use self::{fit::Fit, step::Step};
use crate::{
    config::{self, RoutePath, Segment, path_segments, request_host},
    credential::{Gate, Identity},
    metrics::{Metrics, RouteMetrics},
    reason::Refusal,
    transport::{PAGE_PATH, RequestHead},
};

/// Every route of a configuration.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    names: HashSet<String>,
    /// Indices of `routes`, by host and path.
    hosts: Hosts,
}

/// One route and its numbers.
#[derive(Clone, Debug)]
pub struct Route {
    /// What the configuration says.
    pub settings: config::Route,
    /// Who may use it.
    pub gate: Gate,
    /// What the route has done.
    pub metrics: RouteMetrics,
}

/// Shows the name, which is what a log line wants.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.name)
    }
}

/// A request that a route takes.
#[derive(Clone, Debug)]
pub struct Match {
    /// The route.
    pub route: Arc<Route>,
    /// Who the client is, if the route asks.
    pub identity: Option<Identity>,
    /// What followed the `?`, without tokens.
    pub query: Option<String>,
    /// The application protocol of the session, if client and route have one in common.
    pub protocol: Option<String>,
    /// Where the session goes.
    pub backend: Arc<config::Backend>,
    /// What the route's captures stand for in this request, in the order of the path. The values are
    /// the client's word, percent-encoded as sent but for characters that mean the same without it: `%61`
    /// is `a` (RFC 3986 section 6.2.2.2).
    pub captures: Vec<(String, String)>,
}

impl RouteTable {
    /// A table of all routes of a configuration. Each route's metrics are made here, at zero.
    pub fn new(settings: &[config::Route], metrics: &Metrics) -> Self {
        Self::after(None, settings, metrics)
    }

    /// The table that comes in the place of another one. Routes that are the same in both are the same
    /// [`Route`].
    pub fn after(previous: Option<&Self>, settings: &[config::Route], metrics: &Metrics) -> Self {
        let known = previous.map_or(&[][..], |previous| &previous.routes);
        let known: HashMap<_, _> = known.iter().map(|r| (r.settings.name.as_str(), r)).collect();
        let mut table = Self { routes: Vec::new(), names: HashSet::new(), hosts: Hosts::default() };
        for settings in settings {
            table.hosts.insert(settings, table.routes.len());
            let known = known.get(settings.name.as_str());
            let route = match known.filter(|route| route.settings == *settings) {
                Some(same) => Arc::clone(same),
                None => {
                    let gate = Gate::new(&settings.credentials);
                    let metrics = metrics.route(&settings.name);
                    Arc::new(Route { settings: settings.clone(), gate, metrics })
                }
            };
            table.names.insert(settings.name.clone());
            table.routes.push(route);
        }
        table
    }

    /// All routes, in the order of the configuration.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Whether there is a route of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The route that takes a request.
    ///
    /// # Errors
    /// Why none does, and the route that refuses it where the path led to one.
    pub fn lookup(&self, head: &RequestHead) -> Result<Match, (Option<Arc<Route>>, Refusal)> {
        let approach = self.approach(head, &mut |_step| {})?;
        approach.enter(head, &mut |_step| {}).map_err(|why| (Some(Arc::clone(approach.route)), why))
    }

    /// The route that a request may come near to: what costs little is decided. `watch` is told of each
    /// decision.
    ///
    /// # Errors
    /// As those of [`Self::lookup`].
    pub fn approach(
        &self,
        head: &RequestHead,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Approach<'_>, (Option<Arc<Route>>, Refusal)> {
        let (route, segments) = self.find(head, watch).map_err(|why| (None, why))?;
        let origin = check_origin(&route.settings, head.origin.as_deref());
        watch(Step::Origin(origin));
        origin.map_err(|why| (Some(Arc::clone(route)), why))?;
        let captures = captures(&route.settings.path, &segments);
        Ok(Approach { route, captures })
    }

    /// The route that host and path lead to, and the segments of the path.
    fn find(
        &self,
        head: &RequestHead,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<(&Arc<Route>, Vec<String>), Refusal> {
        let segments = path_segments(&head.path);
        watch(Step::Path(segments.as_deref().map_err(|unfit| *unfit)));
        let segments = segments.map_err(|_told| Refusal::BadRequest)?;

        let host = request_host(&head.authority).ok_or(Refusal::BadRequest);
        watch(Step::Host(host.as_deref().map_err(|why| *why)));

        let route = match self.hosts.find(&host?, &segments) {
            Ok(index) => Ok(&self.routes[index]),
            Err(NotFound::Host) => Err(Refusal::WrongHost),
            Err(NotFound::Path) if head.path == PAGE_PATH => Err(Refusal::NotWebTransport),
            Err(NotFound::Path) => Err(Refusal::NoRoute),
        };
        watch(Step::Route(route.map(Arc::as_ref)));
        Ok((route?, segments))
    }
}

/// A request that host, path and origin have brought to a route.
#[derive(Debug)]
pub struct Approach<'t> {
    /// The route.
    pub route: &'t Arc<Route>,
    captures: Vec<(String, String)>,
}

impl Approach<'_> {
    /// Decides the rest on the same request. `watch` is told of each decision.
    ///
    /// # Errors
    /// Why the route does not take it.
    pub fn enter(
        &self,
        head: &RequestHead,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Match, Refusal> {
        let Self { route, captures } = self;
        let identity = route.gate.check(head, captures, SystemTime::now());
        watch(Step::Credential(identity.as_ref().map(Option::as_ref).map_err(|why| *why)));
        let identity = identity?;

        let protocol = choose_protocol(&route.settings, &head.protocols);
        watch(Step::Protocol(protocol.as_ref().map(Option::as_deref).map_err(|why| *why)));
        let protocol = protocol?;

        let backend = route.settings.destination.of(captures).ok_or(Refusal::BackendNotListed);
        watch(Step::Backend(backend.map(Arc::as_ref)));
        let backend = Arc::clone(backend?);
        let query = head.query.as_deref().and_then(|query| route.gate.without_tokens(query));
        let (route, captures) = (Arc::clone(route), captures.clone());
        Ok(Match { route, identity, query, protocol, backend, captures })
    }
}

/// Whether a request with this `Origin` header may use the route.
fn check_origin(route: &config::Route, header: Option<&str>) -> Result<(), Refusal> {
    let Some(header) = header else {
        return if route.allow_missing_origin { Ok(()) } else { Err(Refusal::OriginMissing) };
    };
    if route.origins.allow(header) { Ok(()) } else { Err(Refusal::OriginNotAllowed) }
}

/// The first of the client's protocols that the route has: the client's order counts (draft section 3.3).
fn choose_protocol(route: &config::Route, offered: &[String]) -> Result<Option<String>, Refusal> {
    let chosen = offered.iter().find(|protocol| route.protocols.contains(protocol));
    if chosen.is_none() && route.require_protocol {
        return Err(Refusal::NoCommonProtocol);
    }
    Ok(chosen.cloned())
}

/// What the captures of a path stand for in a request that it takes.
fn captures(path: &RoutePath, request: &[String]) -> Vec<(String, String)> {
    let pairs = path.segments.iter().enumerate();
    pairs
        .filter_map(|(at, segment)| match segment {
            Segment::Literal(_) => None,
            Segment::Capture(name) => Some((name.clone(), request.get(at)?.clone())),
            Segment::Rest(name) => Some((name.clone(), request.get(at..)?.join("/"))),
        })
        .collect()
}
