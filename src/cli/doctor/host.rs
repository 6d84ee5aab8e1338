//! The machine: kernel, sockets, offload, steering, descriptors, ports, clock.

use std::{fs, net::UdpSocket, path::Path};

use tidegate::{
    config::{Config, Limit, Transport},
    edge::{self, GrantedBuffers, Offload},
};

use super::{finding::Finding, unix_now};
use crate::cli::descriptors;

pub(super) fn findings(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![kernel(&read("/proc/sys/kernel/osrelease"))];
    findings.extend(buffers(config));
    findings.push(offload(edge::probe_offload()));
    findings.push(steering(edge::probe_steering()));
    findings.push(ipv6(config, UdpSocket::bind("[::1]:0").is_ok()));
    findings.extend(config.map(descriptors_of));
    findings.push(local_ports(&read("/proc/sys/net/ipv4/ip_local_port_range"), config));
    findings.push(clock(unix_now(), Path::new("/run/systemd/timesync/synchronized").exists()));
    findings
}

/// What a file of the kernel's says; nothing where there is none.
fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

/// Steering needs 4.5, segmentation offload 4.18, receive offload 5.0.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(_)) if major >= 5 => Finding::ok("kernel", format!("Linux {release}")),
        (Some(_), Some(_)) => Finding::warn(
            "kernel",
            format!("Linux {release} is older than 5.0"),
            "With a newer kernel several datagrams are received in one call, and all else is tested there.",
        ),
        _ => Finding::warn(
            "kernel",
            "this is no Linux that says its version",
            "The gateway runs, with one worker and without what only Linux has.",
        ),
    }
}

/// One for each listener, or one for the defaults.
fn buffers(config: Option<&Config>) -> Vec<Finding> {
    let default = Transport::default();
    let transports: Vec<_> = match config {
        Some(config) => config.listeners.iter().map(|listener| &listener.transport).collect(),
        None => vec![&default],
    };
    let of = |transport| match edge::probe_buffers(transport) {
        Ok(granted) => granted_buffers(&granted),
        Err(error) => vec![Finding::fail(
            "buffers",
            format!("no UDP socket can be made: {error}"),
            "Without sockets nothing works; see the other findings.",
        )],
    };
    let mut findings: Vec<_> = transports.into_iter().flat_map(of).collect();
    findings.dedup();
    findings
}

fn granted_buffers(granted: &GrantedBuffers) -> Vec<Finding> {
    let GrantedBuffers { receive, send } = *granted;
    let of = |(kind, (asked, granted), limit): (&str, (usize, usize), &str)| {
        if granted >= asked {
            Finding::ok("buffers", format!("UDP sockets get {granted} bytes to {kind}"))
        } else {
            Finding::warn(
                "buffers",
                format!(
                    "UDP sockets get {granted} bytes to {kind}, not {asked}: bursts may be lost"
                ),
                format!(
                    "sysctl -w net.core.{limit}={asked}\n\
                     echo net.core.{limit}={asked} > /etc/sysctl.d/90-tidegate-{limit}.conf    # also after a restart"
                ),
            )
        }
    };
    [("receive", receive, "rmem_max"), ("send", send, "wmem_max")].map(of).into()
}

fn offload(probed: std::io::Result<Offload>) -> Finding {
    const CHECK: &str = "offload";
    match probed {
        Ok(Offload { is_sound: false, .. }) => Finding::fail(
            CHECK,
            "datagrams that were sent together did not all arrive",
            "A driver or a filter spoils segmentation offload: ethtool -K DEVICE tx-udp-segmentation off",
        ),
        Ok(Offload { gso_segments, gro_segments, .. }) if gso_segments > 1 && gro_segments > 1 => {
            Finding::ok(
                CHECK,
                format!(
                    "one call sends up to {gso_segments} datagrams and receives up to {gro_segments}"
                ),
            )
        }
        Ok(Offload { gso_segments, gro_segments, .. }) => Finding::warn(
            CHECK,
            format!("one call sends {gso_segments} and receives {gro_segments} datagrams at most"),
            "Bulk costs 2.5 times as much; GSO wants Linux 4.18, GRO 5.0, and a sandbox that lets them through.",
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("no datagram can be sent on loopback: {error}"),
            "Let the gateway use UDP sockets: is the loopback device up, does a sandbox forbid it?",
        ),
    }
}

fn steering(probed: std::io::Result<()>) -> Finding {
    match probed {
        Ok(()) => {
            Finding::ok("steering", "packets reach the worker that their connection id names")
        }
        Err(error) => Finding::warn(
            "steering",
            format!("the kernel does not steer packets to workers: {error}"),
            "The gateway goes on with one worker. It wants Linux 4.5, and SO_ATTACH_REUSEPORT_CBPF let through.",
        ),
    }
}

fn ipv6(config: Option<&Config>, is_there: bool) -> Finding {
    let mut addresses =
        config.into_iter().flat_map(|config| &config.listeners).flat_map(|listener| &listener.quic);
    let wanted = addresses.any(std::net::SocketAddr::is_ipv6);
    let mend = "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or leave IPv6 addresses out of `listener.quic`";
    match (is_there, wanted) {
        (true, _) => Finding::ok("ipv6", "there is IPv6"),
        (false, true) => Finding::fail("ipv6", "a listener wants IPv6, and there is none", mend),
        (false, false) => {
            Finding::warn("ipv6", "there is no IPv6: clients that have nothing else are out", mend)
        }
    }
}

fn descriptors_of(config: &Config) -> Finding {
    match rlimit::Resource::NOFILE.get_hard() {
        Ok(hard) => enough_descriptors(hard, descriptors::worst_case(config)),
        Err(error) => Finding::warn(
            "descriptors",
            format!("the limit of open files is not known: {error}"),
            "ulimit -Hn",
        ),
    }
}

fn enough_descriptors(hard: u64, needed: u64) -> Finding {
    let number = |n| if n == u64::MAX { Limit::Unlimited } else { Limit::AtMost(n) };
    let (has, wants) = (number(hard), number(needed));
    if hard >= needed {
        return Finding::ok(
            "descriptors",
            format!("{has} open files, and at most {wants} are needed"),
        );
    }
    Finding::warn(
        "descriptors",
        format!("{has} open files at most, while the limits of the configuration allow {wants}"),
        "Beyond it streams are reset with out_of_descriptors. Raise it (systemd: LimitNOFILE=; shell: ulimit -Hn),\n\
         or lower limits.sessions, or a route's sessions or streams_per_session.",
    )
}

/// How many connections one address can have towards one address of a backend.
fn local_ports(range: &str, config: Option<&Config>) -> Finding {
    const CHECK: &str = "local ports";
    let mut ends = range.split_whitespace().map_while(|end| end.parse::<u16>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        return Finding::warn(
            CHECK,
            "the range of local ports is not known",
            "cat /proc/sys/net/ipv4/ip_local_port_range",
        );
    };
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let says = format!("{ports} from each source address to each address of a backend");
    let crowded: Vec<_> = config.into_iter().flat_map(|config| crowded(config, ports)).collect();
    let mend = "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", or more addresses in the backend's `source`,\n\
                or more endpoints";
    if !crowded.is_empty() {
        let names = crowded.join(", ");
        Finding::warn(CHECK, format!("{says}: fewer than sessions may want to {names}"), mend)
    } else if ports < FEW_PORTS {
        Finding::warn(CHECK, format!("only {says}"), mend)
    } else {
        Finding::ok(CHECK, says)
    }
}

/// A third of Linux's default.
const FEW_PORTS: u64 = 10_000;

/// Backends that may have more sessions than there are ports, with one connection for each session.
fn crowded(config: &Config, ports: u64) -> Vec<String> {
    let sessions = |name: &str| -> u64 {
        let routes = config.routes.iter();
        let ours = routes.filter(|route| route.destination.backends().any(|b| b.name == name));
        let sum = ours.map(|route| number(route.max_sessions)).fold(0, u64::saturating_add);
        sum.min(number(config.limits.sessions))
    };
    let is_crowded = |(name, backend): &(&String, &std::sync::Arc<tidegate::config::Backend>)| {
        let over_ip = backend.endpoints.iter().filter(|endpoint| endpoint.unix.is_none()).count();
        let places = over_ip.saturating_mul(backend.source.len().max(1));
        over_ip > 0 && sessions(name) > ports.saturating_mul(places as u64)
    };
    config.backends.iter().filter(is_crowded).map(|(name, _)| format!("{name:?}")).collect()
}

const fn number(limit: Limit) -> u64 {
    match limit {
        Limit::AtMost(most) => most,
        Limit::Unlimited => u64::MAX,
    }
}

/// Certificates and tokens are judged by it.
fn clock(now: i64, is_synchronized: bool) -> Finding {
    const CHECK: &str = "clock";
    let mend = "timedatectl set-ntp true, or start chronyd";
    if now < THIS_WAS_WRITTEN {
        return Finding::fail(
            CHECK,
            "it shows a time before this program was written: certificates and tokens look not yet valid",
            mend,
        );
    }
    if is_synchronized {
        Finding::ok(CHECK, "systemd-timesyncd has set it")
    } else {
        Finding::ok(CHECK, "plausible; nobody here says whether it is synchronized")
    }
}

/// 2026-01-01.
const THIS_WAS_WRITTEN: i64 = 1_767_225_600;

#[cfg(test)]
mod tests {
    use std::io;

    use super::{
        super::finding::State::{self, Fail, Ok as Fine, Warn},
        *,
    };

    fn config(text: &str) -> Config {
        let text = format!(
            "version = 1\n[[listener]]\nquic = [\"[::]:0\"]\nself_signed = [\"localhost\"]\n\
             [[route]]\npath = \"/a\"\norigins = \"any\"\nbackend = \"b\"\n{text}"
        );
        Config::parse(&text, "t.toml", Path::new("")).unwrap_or_else(|p| panic!("{p}"))
    }

    #[test]
    fn kernels_are_old_or_not() {
        for (release, state) in [
            ("6.1.0-18-amd64", Fine),
            ("5.15.0", Fine),
            ("4.19.0-27-cloud", Warn),
            ("", Warn),
            ("Darwin", Warn),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn smaller_buffers_come_with_the_line_that_mends_them() {
        let granted = GrantedBuffers { receive: (7_340_032, 212_992), send: (7, 7) };
        let [receive, send] = &granted_buffers(&granted)[..] else { panic!() };
        assert_eq!((receive.state, send.state), (Warn, Fine));
        let mend = receive.mend.as_deref().unwrap();
        assert!(mend.starts_with("sysctl -w net.core.rmem_max=7340032\n"), "{mend}");
    }

    #[test]
    fn probes_are_judged() {
        let of = |gso_segments, gro_segments, is_sound| {
            offload(Ok(Offload { gso_segments, gro_segments, is_sound })).state
        };
        assert_eq!((of(64, 64, true), of(1, 64, true), of(64, 64, false)), (Fine, Warn, Fail));
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(offload(Err(refused())).state, Fail);
        assert_eq!((steering(Ok(())).state, steering(Err(refused())).state), (Fine, Warn));
    }

    #[test]
    fn ipv6_matters_most_where_it_is_wanted() {
        let config = config("[backend.b]\nendpoints = [{ tcp = \"127.0.0.1:1\" }]\n");
        for (config, is_there, state) in
            [(Some(&config), true, Fine), (Some(&config), false, Fail), (None, false, Warn)]
        {
            assert_eq!(ipv6(config, is_there).state, state);
        }
    }

    #[test]
    fn descriptors_are_compared_with_the_worst_case() {
        let of = |hard, needed| enough_descriptors(hard, needed).state;
        assert_eq!(
            (of(10, 10), of(9, 10), of(9, u64::MAX), of(u64::MAX, 9)),
            (Fine, Warn, Warn, Fine)
        );
    }

    #[test]
    fn ports_are_counted_for_each_source_and_endpoint() {
        let of =
            |range: &str, keys: &str| -> State { local_ports(range, Some(&config(keys))).state };
        let one = "[backend.b]\nendpoints = [{ tcp = \"127.0.0.1:1\" }]\n";
        let two = format!("{one}source = [\"127.0.0.2\", \"127.0.0.3\"]\n");
        let sock = "[backend.b]\nendpoints = [{ unix = \"/run/b\" }]\n";
        for (range, keys, state) in [
            ("32768\t60999", one, Fine),
            ("32768 60999", &format!("limits = {{ sessions = 30000 }}\n{one}"), Warn),
            ("32768 60999", &format!("limits = {{ sessions = 30000 }}\n{two}"), Fine),
            ("32768 60999", &format!("limits = {{ sessions = \"unlimited\" }}\n{sock}"), Fine),
            ("50000 50999", sock, Warn),
            ("", one, Warn),
        ] {
            assert_eq!(of(range, keys), state, "{range} {keys}");
        }
    }

    #[test]
    fn a_clock_in_the_past_is_found() {
        assert_eq!(clock(0, true).state, Fail);
        assert_eq!(clock(THIS_WAS_WRITTEN, false).state, Fine);
    }
}
