//! Who belongs to a backend now: from endpoints and resolved names to members.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{
    balance,
    member::{Addresses, Endpoint, Member},
};
use crate::config::{self, HostPort};

/// What names stand for, as far as known: addresses with port 0, IPv6 first.
pub(super) type Answers = BTreeMap<String, Vec<SocketAddr>>;

/// The members that sessions may be given to. Swapped whole.
#[derive(Debug, Default)]
pub(super) struct Roster(pub(super) Vec<Seat>);

/// A member's place in the roster.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) member: Arc<Member>,
    pub(super) weight: u32,
    /// The hash of what names it on every instance: the endpoint's name, with the address where the
    /// endpoint has several members.
    pub(super) key: u64,
}

impl Roster {
    /// Seats for all that the endpoints and answers give. Of `known`, those that are still given keep
    /// their place in the world; the others come back as the second value.
    pub(super) fn arrange(
        settings: &[config::Endpoint],
        endpoints: &[Arc<Endpoint>],
        answers: &Answers,
        mut known: Vec<Arc<Member>>,
    ) -> (Vec<(Seat, Addresses)>, Vec<Arc<Member>>) {
        let mut seats = Vec::new();
        for (settings, endpoint) in settings.iter().zip(endpoints) {
            let given = members_of(settings, answers);
            let is_alone = given.len() == 1;
            for addresses in given {
                let key = key(&settings.name, &addresses, is_alone);
                let at = known.iter().position(|member| {
                    Arc::ptr_eq(member.endpoint(), endpoint)
                        && member.addresses().are_of_one_place(&addresses)
                });
                let member = match at {
                    Some(at) => known.swap_remove(at),
                    None => Arc::new(Member::new(Arc::clone(endpoint), addresses.clone())),
                };
                seats.push((Seat { member, weight: settings.weight, key }, addresses));
            }
        }
        (seats, known)
    }

    /// Whether it has this member.
    pub(super) fn has(&self, member: &Arc<Member>) -> bool {
        self.0.iter().any(|seat| Arc::ptr_eq(&seat.member, member))
    }
}

fn key(name: &str, addresses: &Addresses, is_alone: bool) -> u64 {
    match addresses.ips().next() {
        Some(ip) if !is_alone => balance::hash(format!("{name}/{ip}").as_bytes()),
        _ => balance::hash(name.as_bytes()),
    }
}

/// The members of one endpoint.
///
/// A name with several addresses of one family stands for several hosts, and each address is a member
/// of its own; with at most one of each family it is one host, and one member that can be reached
/// both ways. Members come from where streams go; where datagrams go to another host, all members
/// send them there. A Unix socket is one member.
fn members_of(endpoint: &config::Endpoint, answers: &Answers) -> Vec<Addresses> {
    let (tcp, udp) = (endpoint.tcp.as_ref(), endpoint.udp.as_ref());
    if let Some(path) = &endpoint.unix {
        let udp = udp.map_or_else(Vec::new, |udp| at_port(udp, answers));
        return vec![Addresses { unix: Some(path.as_path().into()), tcp: Vec::new(), udp }];
    }
    let Some(main) = tcp.or(udp) else { return Vec::new() };
    let elsewhere = udp.filter(|udp| !is_one_host(main, udp)).map(|udp| at_port(udp, answers));
    let member = |hosts: &[SocketAddr]| {
        let with_port = |port: Option<&HostPort>| {
            let port = port.map(HostPort::port);
            port.map_or_else(Vec::new, |port| hosts.iter().map(|a| on_port(*a, port)).collect())
        };
        let udp = elsewhere.clone().unwrap_or_else(|| with_port(udp));
        Addresses { unix: None, tcp: with_port(tcp), udp }
    };
    let hosts = at_port(main, answers);
    let most = |v4| hosts.iter().filter(|address| address.is_ipv4() == v4).count();
    if hosts.is_empty() {
        Vec::new()
    } else if most(true) > 1 || most(false) > 1 {
        hosts.chunks(1).map(member).collect()
    } else {
        vec![member(&hosts)]
    }
}

fn is_one_host(a: &HostPort, b: &HostPort) -> bool {
    match (a, b) {
        (HostPort::Address(a), HostPort::Address(b)) => a.ip() == b.ip(),
        (HostPort::Name(a, _), HostPort::Name(b, _)) => a == b,
        _ => false,
    }
}

fn at_port(host: &HostPort, answers: &Answers) -> Vec<SocketAddr> {
    match host {
        HostPort::Address(address) => vec![*address],
        HostPort::Name(name, port) => {
            let known = answers.get(name).map_or(&[][..], Vec::as_slice);
            known.iter().map(|address| on_port(*address, *port)).collect()
        }
    }
}

fn on_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Addresses in the order that all instances agree on, IPv6 first (RFC 6724's usual preference), each
/// once and without a port.
pub(super) fn in_order(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.iter_mut().for_each(|address| address.set_port(0));
    addresses.sort_by_key(|address| (address.is_ipv4(), *address));
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::metrics::Metrics;

    fn endpoint(tcp: Option<&str>, udp: Option<&str>) -> config::Endpoint {
        let host = |text: &str| match text.parse() {
            Ok(address) => HostPort::Address(address),
            Err(_) => {
                let (name, port) = text.split_once(':').unwrap();
                HostPort::Name(name.to_owned(), port.parse().unwrap())
            }
        };
        config::Endpoint {
            name: "a".into(),
            tcp: tcp.map(host),
            unix: None,
            udp: udp.map(host),
            weight: 1,
            draining: false,
        }
    }

    fn of(name: &str) -> Endpoint {
        let settings = config::Endpoint { name: name.into(), ..endpoint(None, None) };
        Endpoint::new(&settings, "test", &Metrics::new())
    }

    fn answers(all: &[(&str, &[&str])]) -> Answers {
        let addresses = |texts: &[&str]| {
            in_order(texts.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 53)).collect())
        };
        all.iter().map(|(name, ips)| ((*name).to_owned(), addresses(ips))).collect()
    }

    #[test]
    fn an_answer_becomes_members() {
        let answers = answers(&[
            ("one", &["10.0.0.1"]),
            ("dual", &["10.0.0.1", "fd00::1"]),
            ("many", &["10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2"]),
            ("other", &["10.9.9.9", "fd00::9"]),
        ]);
        for (tcp, udp, members) in [
            (Some("10.0.0.7:1"), Some("10.0.0.7:2"), &["10.0.0.7:1|10.0.0.7:2"][..]),
            (Some("10.0.0.7:1"), Some("10.0.0.8:2"), &["10.0.0.7:1|10.0.0.8:2"]),
            (Some("one:1"), None, &["10.0.0.1:1|"]),
            (None, Some("one:2"), &["|10.0.0.1:2"]),
            (Some("dual:1"), Some("dual:2"), &["[fd00::1]:1 10.0.0.1:1|[fd00::1]:2 10.0.0.1:2"]),
            (
                Some("many:1"),
                Some("many:2"),
                &["[fd00::1]:1|[fd00::1]:2", "10.0.0.1:1|10.0.0.1:2", "10.0.0.2:1|10.0.0.2:2"],
            ),
            (
                Some("many:1"),
                Some("other:2"),
                &[
                    "[fd00::1]:1|[fd00::9]:2 10.9.9.9:2",
                    "10.0.0.1:1|[fd00::9]:2 10.9.9.9:2",
                    "10.0.0.2:1|[fd00::9]:2 10.9.9.9:2",
                ],
            ),
            (Some("one:1"), Some("unknown:2"), &["10.0.0.1:1|"]),
            (Some("unknown:1"), Some("one:2"), &[]),
            (Some("unknown:1"), None, &[]),
        ] {
            let text = |list: &[SocketAddr]| {
                list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let found: Vec<_> = members_of(&endpoint(tcp, udp), &answers)
                .iter()
                .map(|a| format!("{}|{}", text(&a.tcp), text(&a.udp)))
                .collect();
            assert_eq!(found, members, "{tcp:?} {udp:?}");
        }
    }

    /// A host whose second address comes or goes is still the same host, and so are those of many.
    #[test]
    fn a_unix_socket_is_one_member_whatever_takes_its_datagrams() {
        let answers = answers(&[("many", &["10.0.0.2", "10.0.0.1"])]);
        for (udp, sends_to) in [(None, 0), (Some("many:7"), 2)] {
            let endpoint =
                config::Endpoint { unix: Some("/run/game.sock".into()), ..endpoint(None, udp) };
            let members = members_of(&endpoint, &answers);
            assert_eq!(members.len(), 1);
            assert_eq!(members[0].unix.as_deref(), Some(Path::new("/run/game.sock")));
            assert!(members[0].tcp.is_empty() && members[0].udp.len() == sends_to);
            assert!(members[0].are_of_one_place(&members[0].clone()));
        }
    }

    #[test]
    fn members_that_are_given_again_are_the_same() {
        let settings = [endpoint(Some("name:1"), None)];
        let endpoints = [Arc::new(of("a"))];
        let arrange = |ips: &[&str], known: Vec<Arc<Member>>| {
            let (seats, left) =
                Roster::arrange(&settings, &endpoints, &answers(&[("name", ips)]), known);
            let members: Vec<_> = seats.into_iter().map(|(seat, _)| seat.member).collect();
            (members, left)
        };
        let (alone, _) = arrange(&["10.0.0.1"], Vec::new());
        let (dual, left) = arrange(&["10.0.0.1", "fd00::1"], alone.clone());
        assert!(left.is_empty() && Arc::ptr_eq(&dual[0], &alone[0]));

        let (many, left) = arrange(&["10.0.0.2", "10.0.0.1"], alone.clone());
        assert!(left.is_empty() && Arc::ptr_eq(&many[0], &alone[0]));
        assert_eq!(many.len(), 2);

        let (others, left) = arrange(&["10.0.0.3"], many.clone());
        assert_eq!((others.len(), left.len()), (1, 2));
        assert!(!many.iter().any(|member| Arc::ptr_eq(member, &others[0])));
    }

    /// Whose sessions would move if a host got another address, or another one were added.
    #[test]
    fn a_lone_member_is_hashed_by_name_and_others_by_address() {
        let endpoint = |tcp| config::Endpoint { name: "b".into(), ..endpoint(Some(tcp), None) };
        let endpoints = [Arc::new(of("b"))];
        let keys = |settings: config::Endpoint, answers: &Answers| -> Vec<u64> {
            let (seats, _) = Roster::arrange(&[settings], &endpoints, answers, Vec::new());
            seats.iter().map(|(seat, _)| seat.key).collect()
        };
        let none = Answers::new();
        assert_eq!(keys(endpoint("10.0.0.1:1"), &none), [balance::hash(b"b")]);
        assert_eq!(keys(endpoint("10.0.0.2:1"), &none), [balance::hash(b"b")]);
        let two = answers(&[("name", &["10.0.0.2", "10.0.0.1"])]);
        let wanted = ["b/10.0.0.1", "b/10.0.0.2"].map(|key| balance::hash(key.as_bytes()));
        assert_eq!(keys(endpoint("name:1"), &two), wanted);
    }
}
