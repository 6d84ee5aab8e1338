//! Addresses that the gateway binds: whether they are free, and whose they are where not.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use tidegate::{config::Config, edge};

use super::finding::Finding;

/// The addresses of listeners and of the admin listener.
pub(super) fn listeners(config: &Config) -> Vec<Finding> {
    let udp = config.listeners.iter().flat_map(|listener| {
        let bound = |address: &SocketAddr| {
            let what = format!("UDP {address} of listener {}", listener.name);
            judge(&what, &edge::probe_address(*address), || owner("udp", address.port()))
        };
        listener.quic.iter().map(bound).collect::<Vec<_>>()
    });
    let admin = config.admin.iter().map(|admin| {
        let what = format!("TCP {} of the admin listener", admin.listen);
        let bound = TcpListener::bind(admin.listen).map(drop);
        judge(&what, &bound, || owner("tcp", admin.listen.port()))
    });
    udp.chain(admin).collect()
}

/// The source addresses of backends.
pub(super) fn sources(config: &Config) -> Vec<Finding> {
    let sources = config.backends.values().flat_map(|backend| {
        backend.source.iter().map(move |source| (backend.name.as_str(), *source))
    });
    let judge = |(backend, source): (&str, std::net::IpAddr)| match UdpSocket::bind((source, 0)) {
        Ok(_) => Finding::ok("source", format!("{source} of backend {backend:?} can be used")),
        Err(error) => Finding::fail(
            "source",
            format!("{source} of backend {backend:?} cannot be used: {error}"),
            format!(
                "ip address add {source} dev DEVICE, or take it out of backend.{backend}.source"
            ),
        ),
    };
    sources.map(judge).collect()
}

fn judge(what: &str, bound: &io::Result<()>, owner: impl FnOnce() -> Option<String>) -> Finding {
    const CHECK: &str = "address";
    let Err(error) = bound else { return Finding::ok(CHECK, format!("{what} is free")) };
    match error.kind() {
        io::ErrorKind::AddrInUse => match owner() {
            Some(owner) if owner.starts_with(GATEWAY) => {
                Finding::ok(CHECK, format!("{what} is taken by a running gateway ({owner})"))
            }
            Some(owner) => Finding::fail(
                CHECK,
                format!("{what} is taken by {owner}"),
                "Stop it, or write another port.",
            ),
            None => Finding::fail(
                CHECK,
                format!("{what} is taken; its owner is not to be seen from here"),
                "ss -lunpt shows who has it, to the administrator",
            ),
        },
        io::ErrorKind::PermissionDenied => Finding::fail(
            CHECK,
            format!("{what} is not allowed: {error}"),
            "Ports below 1024 want a right: setcap cap_net_bind_service=+ep tidegate, or AmbientCapabilities= of systemd.",
        ),
        io::ErrorKind::AddrNotAvailable => Finding::fail(
            CHECK,
            format!("{what} is not an address of this machine"),
            "ip address shows those that are; 0.0.0.0 and [::] stand for all of them",
        ),
        _ => Finding::fail(
            CHECK,
            format!("{what} cannot be bound: {error}"),
            "See the other findings.",
        ),
    }
}

const GATEWAY: &str = "tidegate";

/// Name and id of a process that has this port, as far as the system tells.
fn owner(protocol: &str, port: u16) -> Option<String> {
    let tables = [protocol.to_owned(), format!("{protocol}6")];
    let inode = tables.iter().find_map(|table| {
        inode_of(&fs::read_to_string(format!("/proc/net/{table}")).ok()?, port)
    })?;
    let wanted = format!("socket:[{inode}]");
    let has_it = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| fs::read_link(file.path()).ok()).any(|to| to.as_os_str() == &*wanted)
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = processes.find(has_it)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{}, process {pid}", name.trim()))
}

/// The inode of a socket with this local port, in a table of /proc/net (proc(5)).
fn inode_of(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let (_, local) = columns.nth(1)?.rsplit_once(':')?;
        if u16::from_str_radix(local, 16) != Ok(port) {
            return None;
        }
        // Remote, state, queues, timer, retransmissions, user and timeout stand between.
        columns.nth(7)?.parse().ok().filter(|inode| *inode != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Fail, Ok as Fine},
        *,
    };

    #[test]
    fn the_owner_of_a_port_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = owner("udp", socket.local_addr().unwrap().port()).unwrap();
        assert!(found.ends_with(&format!("process {}", std::process::id())), "{found}");
    }

    #[test]
    fn who_has_an_address_decides() {
        let refused = |kind: io::ErrorKind| Err(io::Error::from(kind));
        let gateway = || Some("tidegate, process 7".to_owned());
        for (bound, owner, state, says) in [
            (Ok(()), None, Fine, "is free"),
            (
                refused(io::ErrorKind::AddrInUse),
                gateway(),
                Fine,
                "by a running gateway (tidegate, process 7)",
            ),
            (
                refused(io::ErrorKind::AddrInUse),
                Some("nginx, process 7".to_owned()),
                Fail,
                "by nginx",
            ),
            (refused(io::ErrorKind::AddrInUse), None, Fail, "is not to be seen"),
            (refused(io::ErrorKind::PermissionDenied), None, Fail, "not allowed"),
            (
                refused(io::ErrorKind::AddrNotAvailable),
                None,
                Fail,
                "not an address of this machine",
            ),
        ] {
            let found = judge("UDP x", &bound, || owner);
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.says.contains(says), "{found:?}");
        }
    }

    #[test]
    fn tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             12: 0100007F:1151 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n\
             13: broken\n";
        assert_eq!(inode_of(table, 0x1151), Some(4711));
        assert_eq!(inode_of(table, 80), None);
    }
}
