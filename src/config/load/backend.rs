//! The backends and their endpoints.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    DAY, HOUR, MILLISECOND, MINUTE, SECOND, check_name, check_names, introduction::introduction,
};
use crate::config::{
    Backend, ByteSize, Endpoint, Keepalive,
    problems::Collector,
    raw::{self, Section},
    units::Period,
};

/// Every backend of the file by name, with `None` for those that are not usable.
pub(super) type Backends = BTreeMap<String, Option<Arc<Backend>>>;

pub(super) fn backends(
    raws: BTreeMap<String, raw::Backend>,
    problems: &mut Collector<'_>,
) -> Backends {
    let mut backends = Backends::new();
    for (name, raw) in raws {
        check_name(&raw.at, &name, problems);
        backends.insert(name.clone(), backend(name, raw, problems).map(Arc::new));
    }
    backends
}

fn backend(name: String, raw: raw::Backend, problems: &mut Collector<'_>) -> Option<Backend> {
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
    let keepalive_key = raw.key("keepalive");
    let endpoints = endpoints(raw.key("endpoints"), raw.endpoints, problems);
    let keepalive = raw.keepalive.unwrap_or_else(|| raw::Keepalive::absent(keepalive_key));
    let keepalive = keepalive_settings(&keepalive, problems);
    Some(Backend {
        name,
        balance: raw.balance.unwrap_or_default(),
        proxy_protocol: raw.proxy_protocol.unwrap_or_default(),
        introduction,
        endpoints: endpoints?,
        connect_timeout,
        keepalive,
        user_timeout,
        nodelay: raw.nodelay.unwrap_or(Backend::NODELAY),
        uni_discard,
        resolve_interval,
    })
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
    key: String,
    raws: Option<Vec<raw::Endpoint>>,
    problems: &mut Collector<'_>,
) -> Option<Vec<Endpoint>> {
    let hint = "write where it listens: endpoints = [{ tcp = \"127.0.0.1:7777\" }]";
    let raws = problems.required(&key, raws, hint)?;
    let keys: Vec<_> = raws.iter().map(|raw| raw.key("name")).collect();
    let endpoints: Vec<_> =
        raws.into_iter().enumerate().map(|(i, raw)| endpoint(i, raw, problems)).collect();
    let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
    check_names(names.zip(keys), problems);
    (!problems.is_wrong(&key)).then_some(endpoints)
}

fn endpoint(index: usize, raw: raw::Endpoint, problems: &mut Collector<'_>) -> Endpoint {
    if raw.tcp.is_none() && raw.udp.is_none() && !problems.is_wrong(&raw.at) {
        problems.add(&raw.at, "has neither tcp nor udp, so nothing can be sent to it");
    }
    let name = raw.name.unwrap_or_else(|| index.to_string());
    Endpoint { name, tcp: raw.tcp, udp: raw.udp }
}
