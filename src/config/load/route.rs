//! The routes, and whether each fits its backend.

use std::{collections::HashSet, sync::Arc};

use super::{
    all,
    backend::Backends,
    check_names,
    credential::{self, Credentials},
    datagram, destination,
};
use crate::config::{
    Backend, DatagramsMode, Destination, Endpoint, HashOn, HostPattern, Opens, Origins, PushMode,
    Route, RoutePath, StreamsMode, UniMode,
    problems::Collector,
    raw::{self, Section},
};

pub(super) fn routes(
    raws: Vec<raw::Route>,
    backends: &Backends,
    credentials: &Credentials,
    problems: &mut Collector<'_>,
) -> Option<Vec<Route>> {
    note_equal_paths(&raws, problems);
    let names = names(&raws, problems);
    let named = raws.into_iter().zip(names);
    all(named.map(|(raw, name)| route(name, raw, backends, credentials, problems)))
}

/// Notes each path that takes exactly what an earlier one takes on the same host: nothing says which
/// of them wins.
fn note_equal_paths(raws: &[raw::Route], problems: &mut Collector<'_>) {
    let paths: Vec<(&raw::Route, &RoutePath)> =
        raws.iter().filter_map(|raw| Some((raw, raw.path.as_ref()?))).collect();
    for (at, (raw, path)) in paths.iter().enumerate() {
        let earlier = paths.iter().take(at).find_map(|(first, other)| {
            let host = path.equals_but_for_names(other).then(|| shared_host(raw, first))?;
            Some((first, other, host?))
        });
        if let Some((first, other, host)) = earlier {
            let on = host.map(|host| format!(" on {host}")).unwrap_or_default();
            let message = format!("{path} takes the same paths as {other} in `{}`{on}", first.at);
            problems.add(raw.key("path"), message);
        }
    }
}

/// Whether two routes are equally precise about some host: both name it, or neither names any, which is
/// the inner `None`. A host that is named wins over a wildcard, so those two are never equal.
fn shared_host<'r>(one: &'r raw::Route, other: &raw::Route) -> Option<Option<&'r HostPattern>> {
    match (one.hosts.as_deref(), other.hosts.as_deref()) {
        (None, None) => Some(None),
        (Some(one), Some(other)) => one.iter().find(|host| other.contains(host)).map(Some),
        (None, Some(_)) | (Some(_), None) => None,
    }
}

/// Notes each host that a route lists twice.
fn check_hosts(raw: &raw::Route, problems: &mut Collector<'_>) {
    let hosts = raw.hosts.as_deref().unwrap_or_default();
    for (at, host) in hosts.iter().enumerate() {
        if hosts.iter().take(at).any(|earlier| earlier == host) {
            problems.add(raw.key("hosts"), format!("{host} stands here twice"));
        }
    }
}

/// The routes' names. A route without a usable name or path has none; its problem is noted already.
fn names(raws: &[raw::Route], problems: &mut Collector<'_>) -> Vec<Option<String>> {
    let name = |raw: &raw::Route| {
        raw.name.clone().or_else(|| {
            let path = raw.path.as_ref()?;
            let host = raw.hosts.as_ref().and_then(|hosts| hosts.first());
            Some(host.map_or_else(|| path.to_string(), |host| format!("{host}{path}")))
        })
    };
    let names: Vec<_> = raws.iter().map(name).collect();
    // Names that two routes have from one path are the path's problem, which is noted already.
    let mut from_paths = HashSet::new();
    let named = raws.iter().zip(&names).filter_map(|(raw, name)| {
        let name = name.as_deref()?;
        (raw.name.is_some() || from_paths.insert(name)).then(|| (name, raw.key("name")))
    });
    check_names(named, problems);
    names
}

fn route(
    name: Option<String>,
    raw: raw::Route,
    backends: &Backends,
    credentials: &Credentials,
    problems: &mut Collector<'_>,
) -> Option<Route> {
    let hint = "write one such as \"/game\" or \"/game/{room}\"";
    let path = problems.required(&raw.key("path"), raw.path.clone(), hint);
    let hint =
        "list who may use this route, such as [\"https://play.example.com\"], or write \"any\"";
    let origins = problems.required(&raw.key("origins"), raw.origins.clone(), hint);
    check_hosts(&raw, problems);
    let credentials = credential::of_route(&raw, credentials, problems);
    check_protocols(&raw, problems);
    let destination = destination::destination(&raw, backends, problems);
    check_hash(path.as_ref(), destination.as_ref(), &raw, problems);
    let modes = destination.as_ref().map(|to| Modes::choose(&raw, to, problems));
    let datagrams = datagram::rules(&raw, problems);
    let limits = raw.limits.unwrap_or_default();
    let (origins, modes) = (origins?, modes?);
    Some(Route {
        name: name?,
        hosts: raw.hosts.unwrap_or_default(),
        path: path?,
        allow_missing_origin: raw.allow_missing_origin.unwrap_or(origins == Origins::Any),
        origins,
        credentials: credentials?,
        protocols: raw.protocols.unwrap_or_default(),
        require_protocol: raw.require_protocol.unwrap_or_default(),
        destination: destination?,
        streams: modes.streams,
        uni: modes.uni,
        datagrams: modes.datagrams,
        udp_open: raw.udp_open.unwrap_or_default(),
        max_sessions: limits.sessions.unwrap_or(Route::MAX_SESSIONS),
        max_streams_per_session: limits
            .streams_per_session
            .unwrap_or(Route::MAX_STREAMS_PER_SESSION),
        stream_rate: limits.stream_rate.unwrap_or(Route::STREAM_RATE),
        byte_rate_up: limits.byte_rate_up.unwrap_or(Route::BYTE_RATE),
        byte_rate_down: limits.byte_rate_down.unwrap_or(Route::BYTE_RATE),
        datagram_rate_up: limits.datagram_rate_up.unwrap_or(Route::DATAGRAM_RATE),
        datagram_rate_down: limits.datagram_rate_down.unwrap_or(Route::DATAGRAM_RATE),
        session_lifetime: limits.session_lifetime.map_or(Route::SESSION_LIFETIME, |time| time.0),
        session_idle: limits.session_idle.map_or(Route::SESSION_IDLE, |time| time.0),
        half_close_timeout: raw
            .half_close_timeout
            .map_or(Route::HALF_CLOSE_TIMEOUT, |patience| patience.0),
        datagram_queue: datagrams.queue,
        datagram_ttl: datagrams.ttl,
        datagram_key: datagrams.key,
        oversize: datagrams.oversize,
        oversize_queue: datagrams.oversize_queue,
        oversize_streams: datagrams.oversize_streams,
        opens: modes.opens,
        push: modes.push,
    })
}

/// Notes protocols that no header can carry, and a demand that nobody could meet.
fn check_protocols(raw: &raw::Route, problems: &mut Collector<'_>) {
    let protocols = raw.protocols.as_deref().unwrap_or_default();
    for (at, protocol) in protocols.iter().enumerate() {
        let is_sound = !protocol.is_empty() && protocol.bytes().all(|b| (b' '..=b'~').contains(&b));
        if !is_sound {
            let key = format!("{}[{at}]", raw.key("protocols"));
            problems.add(key, format!("{protocol:?} is not a text of printable ASCII characters"));
        }
    }
    if raw.require_protocol == Some(true) && protocols.is_empty() {
        let message = "nobody could use this route; list what it speaks under `protocols`";
        problems.add(raw.key("require_protocol"), message);
    }
}

/// Notes a route without the capture, or without any claims, that the backend tells sessions apart by.
fn check_hash(
    path: Option<&RoutePath>,
    destination: Option<&Destination>,
    raw: &raw::Route,
    problems: &mut Collector<'_>,
) {
    let (Some(path), Some(destination)) = (path, destination) else { return };
    for backend in different(destination) {
        if let HashOn::Claim(wanted) = &backend.hash_on
            && !problems.has(&raw.key("credentials"))
        {
            let message = format!(
                "asks for no credentials, but backend {:?} hashes the claim {wanted:?} (hash_on)",
                backend.name
            );
            problems.add(&raw.at, message);
        }
        let HashOn::Capture(wanted) = &backend.hash_on else { continue };
        if !path.captures().any(|name| name == wanted) {
            let message = format!(
                "{path} has no capture {wanted:?}, but backend {:?} hashes it (hash_on)",
                backend.name
            );
            problems.add(raw.key("path"), message);
        }
    }
}

/// Each backend that a route's sessions may go to, once.
fn different(destination: &Destination) -> Vec<&Backend> {
    let mut seen = HashSet::new();
    let backends = destination.backends().map(Arc::as_ref);
    backends.filter(|backend| seen.insert(backend.name.as_str())).collect()
}

/// What becomes of the three kinds of traffic, and what the gateway adds.
#[derive(Clone, Copy)]
struct Modes {
    streams: StreamsMode,
    uni: UniMode,
    datagrams: DatagramsMode,
    opens: Opens,
    push: PushMode,
}

impl Modes {
    /// As the file says, where the backend can do it. All of a session goes to one endpoint, so each
    /// endpoint must be able to take what the route carries.
    fn choose(raw: &raw::Route, to: &Destination, problems: &mut Collector<'_>) -> Self {
        let backends = different(to);
        let without_tcp = lacking(&backends, Endpoint::takes_streams);
        let without_udp = lacking(&backends, |endpoint| endpoint.udp.is_some());
        let datagrams_default =
            if without_udp.is_empty() { DatagramsMode::Udp } else { DatagramsMode::Drop };
        let streams = raw.streams.unwrap_or_default();
        // A backend that is to see one connection for each session sees no others, unless that is written.
        let uni_default =
            if streams == StreamsMode::PerSession { UniMode::Refuse } else { UniMode::default() };
        let modes = Self {
            streams,
            uni: raw.uni.unwrap_or(uni_default),
            datagrams: raw.datagrams.unwrap_or(datagrams_default),
            opens: raw.opens.unwrap_or_default(),
            push: raw.push.unwrap_or_default(),
        };
        let mut need = |name, needed, what: &str, missing: &[Lacking<'_>], instead: &str| {
            for Lacking { backend, endpoints } in missing.iter().filter(|_| needed) {
                let message = format!(
                    "needs a {what} address on every endpoint of backend {backend:?}, but there is \
                     none on {endpoints}; add it, or write {name} = {instead:?}"
                );
                problems.add(raw.key(name), message);
            }
        };
        let streamed = "tcp or unix";
        need("streams", modes.streams != StreamsMode::Refuse, streamed, &without_tcp, "refuse");
        need("uni", modes.uni == UniMode::Backend, streamed, &without_tcp, "refuse");
        need("datagrams", modes.datagrams == DatagramsMode::Udp, "udp", &without_udp, "drop");
        need("push", modes.push != PushMode::Off, streamed, &without_tcp, "off");
        if modes.opens == Opens::Gateway && streams != StreamsMode::PerSession {
            let message = "needs streams = \"per-session\": with other modes the gateway opens no stream \
                           of its own; for one beside the client's write push = \"bidi\"";
            problems.add(raw.key("opens"), message);
        }
        if modes.carry_nothing() {
            problems.add(
                &raw.at,
                "carries nothing: streams and uni are refused, datagrams are dropped, nothing is pushed",
            );
        }
        modes
    }

    fn carry_nothing(self) -> bool {
        self.streams == StreamsMode::Refuse
            && self.uni == UniMode::Refuse
            && self.datagrams == DatagramsMode::Drop
            && self.push == PushMode::Off
    }
}

/// A backend with endpoints that lack an address.
struct Lacking<'b> {
    backend: &'b str,
    /// Their names, in words.
    endpoints: String,
}

/// The backends with endpoints that lack an address.
fn lacking<'b>(backends: &[&'b Backend], has: impl Fn(&Endpoint) -> bool) -> Vec<Lacking<'b>> {
    let without = |backend: &&'b Backend| {
        let lacking = backend.endpoints.iter().filter(|endpoint| !has(endpoint));
        let names: Vec<_> = lacking.map(|endpoint| format!("{:?}", endpoint.name)).collect();
        (!names.is_empty()).then(|| Lacking { backend: &backend.name, endpoints: names.join(", ") })
    };
    backends.iter().filter_map(without).collect()
}
