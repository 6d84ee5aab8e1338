//! What a backend is told of the client, and whether it can be.

use std::collections::BTreeSet;

use super::backend::Backends;
use crate::config::{
    Introduction, Preamble, ProxyProtocol, ProxyTlv, Route,
    problems::{Collector, did_you_mean, join},
    raw::{self, Section},
};

pub(super) fn introduction(raw: &raw::Backend, problems: &mut Collector<'_>) -> Introduction {
    let udp = raw.udp_proxy.unwrap_or_default();
    let tlvs = tlvs(raw, problems);
    let tcp = raw.proxy_protocol.unwrap_or_default();
    // A version that is not usable is noted already.
    let is_known = !problems.is_wrong(&raw.key("proxy_protocol"));
    if !tlvs.is_empty() && is_known {
        let key = raw.key("proxy_tlvs");
        if tcp == ProxyProtocol::V1 {
            problems.add(key, "version 1 has no room for them; write proxy_protocol = \"v2\"");
        } else if tcp == ProxyProtocol::Off && !udp.is_v2() {
            let message = "without proxy_protocol = \"v2\" or a udp_proxy of version 2 nothing \
                           carries them";
            problems.add(key, message);
        }
    }
    Introduction { tlvs, udp, preamble: raw.preamble.clone() }
}

/// In the order in which they are sent, each once.
fn tlvs(raw: &raw::Backend, problems: &mut Collector<'_>) -> Vec<ProxyTlv> {
    let key = raw.key("proxy_tlvs");
    // What is left of a list with mistakes has other places.
    let is_whole = !problems.is_wrong(&key);
    let mut seen = BTreeSet::new();
    for (at, tlv) in raw.proxy_tlvs.iter().flatten().enumerate() {
        if !seen.insert(*tlv) && is_whole {
            problems.add(format!("{key}[{at}]"), "stands in the list already");
        }
    }
    seen.into_iter().collect()
}

/// Notes each capture of a preamble that no route to its backend has: it would be absent for ever.
/// Without `routes` something is wrong with one of them, and nothing can be said.
pub(super) fn check_captures(
    backends: &Backends,
    routes: Option<&[Route]>,
    problems: &mut Collector<'_>,
) {
    let Some(routes) = routes else { return };
    for (name, backend) in backends {
        let Some(backend) = backend else { continue };
        let Some(preamble) = &backend.introduction.preamble else { continue };
        let routes =
            routes.iter().filter(|route| route.destination.backends().any(|b| b.name == *name));
        let known: BTreeSet<_> = routes.flat_map(|route| route.path.captures()).collect();
        let key = join(&join("backend", name), "preamble");
        note_unknown(&key, preamble, &known, problems);
    }
}

fn note_unknown(
    key: &str,
    preamble: &Preamble,
    known: &BTreeSet<&str>,
    problems: &mut Collector<'_>,
) {
    for capture in preamble.captures().filter(|capture| !known.contains(capture)) {
        let hint = match did_you_mean(capture, known.iter().copied()) {
            Some(nearest) => format!("; did you mean {nearest:?}?"),
            None => String::new(),
        };
        problems.add(key, format!("no route to this backend captures {capture:?}{hint}"));
    }
}
