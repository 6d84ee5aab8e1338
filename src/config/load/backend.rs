//! The backends and their endpoints.

use std::{
    collections::BTreeMap, net::IpAddr, os::unix::net::SocketAddr, sync::Arc, time::Duration,
};

use super::{
    DAY, Folder, HOUR, MILLISECOND, MINUTE, SECOND, check_name, check_names,
    introduction::introduction,
    pool,
    tls::{backend_tls, check_endpoints},
};
use crate::config::{
    Backend, ByteSize, Dial, Endpoint, HostPort, Keepalive,
    problems::Collector,
    raw::{self, Section},
    units::Period,
};

/// Every backend of the file by name, with `None` for those that are not usable.
pub(super) type Backends = BTreeMap<String, Option<Arc<Backend>>>;

pub(super) fn backends(
    raws: BTreeMap<String, raw::Backend>,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Backends {
    let mut backends = Backends::new();
    for (name, raw) in raws {
        check_name(&raw.at, &name, problems);
        backends.insert(name.clone(), backend(name, raw, folder, problems).map(Arc::new));
    }
    backends
}

fn backend(
    name: String,
    raw: raw::Backend,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Backend> {
    let connect_timeout = problems.period(
        &raw.key("connect_timeout"),
        raw.connect_timeout,
        Backend::CONNECT_TIMEOUT,
        MILLISECOND..=5 * MINUTE,
    );
    let user_timeout = problems.period(
        &raw.key("user_timeout"),
        raw.user_timeout,
        Backend::USER_TIMEOUT,
        100 * MILLISECOND..=HOUR,
    );
    let uni_discard = problems.within(
        &raw.key("uni_discard"),
        raw.uni_discard,
        Backend::UNI_DISCARD,
        ByteSize(0)..=ByteSize::mib(1024),
    );
    let resolve_interval = problems.period(
        &raw.key("resolve_interval"),
        raw.resolve_interval,
        Backend::RESOLVE_INTERVAL,
        SECOND..=DAY,
    );
    let introduction = introduction(&raw, problems);
    let source = raw.source.clone().unwrap_or_default();
    check_sources(&raw, &source, problems);
    let (health_key, ejection_key) = (raw.key("health"), raw.key("ejection"));
    let hash_on = pool::hash_on(&raw, problems);
    let (keepalive_key, dial_key) = (raw.key("keepalive"), raw.key("dial"));
    let endpoints_key = raw.key("endpoints");
    let endpoints = endpoints(&endpoints_key, raw.endpoints, folder, problems);
    let keepalive = raw.keepalive.unwrap_or_else(|| raw::Keepalive::absent(keepalive_key));
    let keepalive = keepalive_settings(&keepalive, problems);
    let dial = raw.dial.unwrap_or_else(|| raw::Dial::absent(dial_key));
    let dial = dial_settings(&dial, problems);
    let ejection = raw.ejection.unwrap_or_else(|| raw::Ejection::absent(ejection_key));
    let ejection = pool::ejection(&ejection, problems);
    let health = raw.health.unwrap_or_else(|| raw::Health::absent(health_key));
    let listed = endpoints.as_deref().unwrap_or_default();
    let health = pool::health(health, listed, raw.tls.is_some(), problems);
    // Without the table there is no TLS; with one that is wrong there is no backend.
    let tls = raw.tls.map(|tls| backend_tls(tls, folder, problems));
    if let (Some(Some(tls)), Some(endpoints)) = (&tls, &endpoints) {
        check_endpoints(tls, &endpoints_key, endpoints, problems);
    }
    let tls = match tls {
        Some(tls) => Some(Arc::new(tls?)),
        None => None,
    };
    Some(Backend {
        name,
        balance: raw.balance.unwrap_or_default(),
        hash_on,
        health,
        ejection,
        proxy_protocol: raw.proxy_protocol.unwrap_or_default(),
        introduction,
        endpoints: endpoints?,
        connect_timeout,
        keepalive,
        user_timeout,
        nodelay: raw.nodelay.unwrap_or(Backend::NODELAY),
        uni_discard,
        resolve_interval,
        source,
        dial,
        tls,
    })
}

fn dial_settings(raw: &raw::Dial, problems: &mut Collector<'_>) -> Dial {
    let default = Dial::default();
    let (concurrent, queue) = (raw.key("concurrent"), raw.key("queue"));
    Dial {
        concurrent: problems.within(
            &concurrent,
            raw.concurrent,
            default.concurrent,
            1..=MOST_DIALS,
        ),
        queue: problems.within(&queue, raw.queue, default.queue, 0..=MOST_DIALS),
        queue_timeout: problems.period(
            &raw.key("queue_timeout"),
            raw.queue_timeout,
            default.queue_timeout,
            MILLISECOND..=5 * MINUTE,
        ),
    }
}

/// More than one address of a backend has ports for.
const MOST_DIALS: u32 = 100_000;

/// Notes sources that stand twice or that no packet can come from, and addresses of endpoints towards
/// which there is none.
fn check_sources(raw: &raw::Backend, sources: &[IpAddr], problems: &mut Collector<'_>) {
    for (at, source) in sources.iter().enumerate() {
        let key = format!("{}[{at}]", raw.key("source"));
        if source.is_unspecified() || source.is_multicast() {
            problems.add(key, format!("{source} is not the address of a machine"));
        } else if sources[..at].contains(source) {
            problems.add(key, format!("{source} stands there twice"));
        }
    }
    let has_family = |ip: IpAddr| sources.iter().any(|source| source.is_ipv4() == ip.is_ipv4());
    for endpoint in raw.endpoints.iter().flatten().filter(|_| !sources.is_empty()) {
        for (name, address) in [("tcp", &endpoint.tcp), ("udp", &endpoint.udp)] {
            if let Some(HostPort::Address(address)) = address
                && !has_family(address.ip())
            {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                let message = format!("there is no {family} address in `{}`", raw.key("source"));
                problems.add(endpoint.key(name), message);
            }
        }
    }
}

fn keepalive_settings(raw: &raw::Keepalive, problems: &mut Collector<'_>) -> Keepalive {
    let default = Keepalive::default();
    let mut period = |name, value, default| {
        let key = raw.key(name);
        let period = problems.period(&key, value, default, SECOND..=MOST_KEEPALIVE);
        if period.subsec_nanos() != 0 {
            // The socket option counts in seconds, and cuts off what is below.
            problems.add(key, format!("{} are not whole seconds", Period(period)));
        }
        period
    };
    Keepalive {
        idle: period("idle", raw.idle, default.idle),
        interval: period("interval", raw.interval, default.interval),
        probes: problems.within(&raw.key("probes"), raw.probes, default.probes, 1..=127),
    }
}

/// Linux's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL.
const MOST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// All endpoints, or none where one has a problem: what a route needs cannot be compared with a part
/// of them.
fn endpoints(
    key: &str,
    raws: Option<Vec<raw::Endpoint>>,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Option<Vec<Endpoint>> {
    let hint = "write where it listens: endpoints = [{ tcp = \"127.0.0.1:7777\" }]";
    let raws = problems.required(key, raws, hint)?;
    let keys: Vec<_> = raws.iter().map(|raw| raw.key("name")).collect();
    let endpoints: Vec<_> =
        raws.into_iter().enumerate().map(|(i, raw)| endpoint(i, raw, folder, problems)).collect();
    let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
    check_names(names.zip(keys), problems);
    (!problems.is_wrong(key)).then_some(endpoints)
}

fn endpoint(
    index: usize,
    raw: raw::Endpoint,
    folder: &Folder,
    problems: &mut Collector<'_>,
) -> Endpoint {
    let addresses = [raw.tcp.is_some(), raw.unix.is_some(), raw.udp.is_some()];
    if addresses == [false; 3] && !problems.is_wrong(&raw.at) {
        problems.add(&raw.at, "has neither tcp nor unix nor udp, so nothing can be sent to it");
    }
    if raw.tcp.is_some() && raw.unix.is_some() {
        problems.add(raw.key("unix"), "streams go to one place; leave out tcp or unix");
    }
    let unix = raw.unix.as_ref().map(|path| folder.path.join(path));
    if let Some(path) = &unix
        && let Err(error) = SocketAddr::from_pathname(path)
    {
        let message = format!("{} is no path of a Unix socket: {error}", path.display());
        problems.add(raw.key("unix"), message);
    }
    let weight = problems.within(&raw.key("weight"), raw.weight, Endpoint::WEIGHT, 1..=MOST_WEIGHT);
    let name = raw.name.unwrap_or_else(|| index.to_string());
    let draining = raw.draining.unwrap_or_default();
    Endpoint { name, tcp: raw.tcp, unix, udp: raw.udp, weight, draining }
}

/// Fine enough for one session in a thousand.
const MOST_WEIGHT: u32 = 1_000;
