//! Balancing, health checks and ejection of a backend.

use super::{HOUR, MILLISECOND, MINUTE};
use crate::config::{
    Balance, Check, Ejection, Endpoint, HashOn, Health, Payload,
    problems::Collector,
    raw::{self, CheckKind, Section},
};

pub(super) fn hash_on(raw: &raw::Backend, problems: &mut Collector<'_>) -> HashOn {
    let hash_on = raw.hash_on.clone().unwrap_or_default();
    let hashes = raw.balance == Some(Balance::Hash) || problems.is_wrong(&raw.key("balance"));
    if hash_on != HashOn::ClientAddress && !hashes {
        problems.add(raw.key("hash_on"), "is obeyed by balance = \"hash\" alone");
    }
    hash_on
}

pub(super) fn health(
    raw: raw::Health,
    endpoints: &[Endpoint],
    speaks_tls: bool,
    problems: &mut Collector<'_>,
) -> Health {
    let default = Health::default();
    let interval = problems.period(
        &raw.key("interval"),
        raw.interval,
        default.interval,
        10 * MILLISECOND..=HOUR,
    );
    let timeout =
        problems.period(&raw.key("timeout"), raw.timeout, default.timeout, MILLISECOND..=MINUTE);
    let rise = problems.within(&raw.key("rise"), raw.rise, default.rise, 1..=MOST_IN_A_ROW);
    let fall = problems.within(&raw.key("fall"), raw.fall, default.fall, 1..=MOST_IN_A_ROW);
    if raw.port == Some(0) {
        problems.add(raw.key("port"), "is a port to which nobody can connect");
    }
    check_addresses(&raw, endpoints, problems);
    let (key, port) = (raw.key("check"), raw.port);
    let check = check(raw, problems);
    let talks = match &check {
        Check::Tcp { send, expect } => *send != Payload::default() || *expect != Payload::default(),
        Check::Http { .. } => true,
        Check::Off | Check::Udp { .. } => false,
    };
    if speaks_tls && talks && port.is_none() {
        let message = "checks speak no TLS, and this backend does; write a port that speaks plainly, or \
                       check = \"tcp\" without send and expect";
        problems.add(key, message);
    }
    Health { check, interval, timeout, rise, fall, port }
}

/// Nobody waits for so many checks.
const MOST_IN_A_ROW: u32 = 1_000;

/// The check, with all that belongs to its kind; what belongs to another kind is a mistake.
fn check(raw: raw::Health, problems: &mut Collector<'_>) -> Check {
    let kind = raw.check.unwrap_or_default();
    note_strangers(&raw, kind, problems);
    let send_key = raw.key("send");
    let (send, expect) = (raw.send.unwrap_or_default(), raw.expect.unwrap_or_default());
    match kind {
        CheckKind::Off => Check::Off,
        CheckKind::Tcp => Check::Tcp { send, expect },
        CheckKind::Udp => {
            if send == Payload::default() && !problems.has(&send_key) {
                problems.add(send_key, "is missing; write what a backend answers to");
            }
            Check::Udp { send, expect }
        }
        CheckKind::Http => {
            let path = raw.path.unwrap_or_else(|| "/".to_owned());
            let is_path = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
            if !is_path {
                let message = format!("{path:?} is no path; write one such as \"/healthz\"");
                problems.add(format!("{}.path", raw.at), message);
            }
            let host = raw.host.filter(|host| {
                let is_host = host.parse::<http::uri::Authority>().is_ok();
                if !is_host {
                    let message = format!("{host:?} is no host; write one such as \"game.test\"");
                    problems.add(format!("{}.host", raw.at), message);
                }
                is_host
            });
            Check::Http { path, host, status: raw.status.unwrap_or_default() }
        }
    }
}

/// Notes keys that the check does not obey.
fn note_strangers(raw: &raw::Health, kind: CheckKind, problems: &mut Collector<'_>) {
    // What is wrong with it is said already.
    if problems.is_wrong(&raw.key("check")) {
        return;
    }
    let talks = matches!(kind, CheckKind::Tcp | CheckKind::Udp);
    let is_http = kind == CheckKind::Http;
    for (name, is_there, is_obeyed, by) in [
        ("send", raw.send.is_some(), talks, "\"tcp\" and \"udp\""),
        ("expect", raw.expect.is_some(), talks, "\"tcp\" and \"udp\""),
        ("path", raw.path.is_some(), is_http, "\"http\""),
        ("host", raw.host.is_some(), is_http, "\"http\""),
        ("status", raw.status.is_some(), is_http, "\"http\""),
        ("port", raw.port.is_some(), kind != CheckKind::Off, "\"tcp\", \"udp\" and \"http\""),
    ] {
        if is_there && !is_obeyed {
            problems.add(raw.key(name), format!("is obeyed by check = {by} alone"));
        }
    }
}

/// Each endpoint must have the address that the check asks, or any where the port is another.
fn check_addresses(raw: &raw::Health, endpoints: &[Endpoint], problems: &mut Collector<'_>) {
    let kind = raw.check.unwrap_or_default();
    let has_address = |endpoint: &&Endpoint| match kind {
        CheckKind::Off => true,
        _ if raw.port.is_some() => endpoint.tcp.is_some() || endpoint.udp.is_some(),
        CheckKind::Tcp | CheckKind::Http => endpoint.takes_streams(),
        CheckKind::Udp => endpoint.udp.is_some(),
    };
    let lacking: Vec<_> = endpoints.iter().filter(|e| !has_address(e)).collect();
    if !lacking.is_empty() {
        let what = match kind {
            _ if raw.port.is_some() => "tcp or udp",
            CheckKind::Udp => "udp",
            _ => "tcp or unix",
        };
        let names: Vec<_> = lacking.iter().map(|e| format!("{:?}", e.name)).collect();
        let message = format!(
            "needs a {what} address on every endpoint, but there is none on {}; add it{}",
            names.join(", "),
            if raw.port.is_some() { "" } else { ", or write the port to ask" }
        );
        problems.add(raw.key("check"), message);
    }
}

pub(super) fn ejection(raw: &raw::Ejection, problems: &mut Collector<'_>) -> Ejection {
    let default = Ejection::default();
    let base_key = raw.key("base_time");
    let base_time =
        problems.period(&base_key, raw.base_time, default.base_time, 10 * MILLISECOND..=HOUR);
    let max_key = raw.key("max_time");
    let max_time =
        problems.period(&max_key, raw.max_time, default.max_time, 10 * MILLISECOND..=24 * HOUR);
    if base_time > max_time && !problems.is_wrong(&base_key) && !problems.is_wrong(&max_key) {
        problems.add(base_key, "is longer than max_time, the longest ejection");
    }
    Ejection {
        consecutive_failures: raw.consecutive_failures.unwrap_or(default.consecutive_failures),
        base_time,
        max_time,
        max_ejected_percent: problems.within(
            &raw.key("max_ejected_percent"),
            raw.max_ejected_percent,
            default.max_ejected_percent,
            1..=100,
        ),
    }
}
