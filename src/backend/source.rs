//! The local addresses from which backends are dialled.
//!
//! One address has some 28,000 ports towards one address of a backend. Several of them multiply that,
//! and a backend's firewall may want to know them. They take turns; one whose ports are all taken is
//! passed over.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;

/// The source addresses of one backend.
#[derive(Debug)]
pub(super) struct Sources {
    v4: Pool,
    v6: Pool,
    /// None were given: the system chooses.
    any: bool,
    #[cfg(test)]
    ports: Option<(u16, u16)>,
}

#[derive(Debug)]
struct Pool {
    addresses: Box<[IpAddr]>,
    next: AtomicUsize,
}

impl Pool {
    fn new(addresses: impl Iterator<Item = IpAddr>) -> Self {
        Self { addresses: addresses.collect(), next: AtomicUsize::new(0) }
    }

    /// All of them, beginning with the one whose turn it is.
    fn in_turn(&self) -> impl Iterator<Item = IpAddr> {
        let (first, count) = (self.next.fetch_add(1, Ordering::Relaxed), self.addresses.len());
        (0..count).map(move |step| self.addresses[first.wrapping_add(step) % count])
    }
}

impl Sources {
    pub(super) fn new(addresses: &[IpAddr]) -> Self {
        Self {
            v4: Pool::new(addresses.iter().copied().filter(IpAddr::is_ipv4)),
            v6: Pool::new(addresses.iter().copied().filter(IpAddr::is_ipv6)),
            any: addresses.is_empty(),
            #[cfg(test)]
            ports: None,
        }
    }

    /// What to try towards `target`, in this order; `None` leaves the choice to the system. Nothing at
    /// all: there are sources, but none of the target's family.
    pub(super) fn towards(&self, target: SocketAddr) -> impl Iterator<Item = Option<IpAddr>> {
        let pool = if target.is_ipv4() { &self.v4 } else { &self.v6 };
        self.any.then_some(None).into_iter().chain(pool.in_turn().map(Some))
    }

    /// Gives a TCP socket its source address. The port is chosen when it connects, and may then be one
    /// that other connections from this address to elsewhere have too.
    pub(super) fn bind(&self, socket: &impl AsFd, source: IpAddr) -> io::Result<()> {
        setsockopt(socket, IpBindAddressNoPort, &true)?;
        #[cfg(test)]
        if let Some(ports) = self.ports {
            tests::limit_ports(socket, ports)?;
        }
        SockRef::from(socket).bind(&SocketAddr::new(source, 0).into())
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "IP_LOCAL_PORT_RANGE has no safe wrapper")]
pub(super) mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    impl Sources {
        /// Sources that have only these ports.
        pub(in super::super) fn with_ports(addresses: &[IpAddr], ports: (u16, u16)) -> Self {
            Self { ports: Some(ports), ..Self::new(addresses) }
        }
    }

    /// Linux's number, which libc does not have yet.
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

    /// Takes from a socket the choice of its port (Linux 6.3 and newer).
    pub(in super::super) fn limit_ports(
        socket: &impl AsFd,
        (first, last): (u16, u16),
    ) -> io::Result<()> {
        let range = u32::from(last) << 16 | u32::from(first);
        let length = libc::socklen_t::try_from(size_of_val(&range)).unwrap();
        // SAFETY: `range` is live and of the size given; the kernel copies it before it returns.
        let result = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_IP,
                IP_LOCAL_PORT_RANGE,
                (&raw const range).cast(),
                length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn sources_take_turns_within_the_targets_family() {
        let sources = Sources::new(&ips("10.0.0.5 ::5 10.0.0.6"));
        let towards = |target: &str| -> Vec<String> {
            let sources = sources.towards(target.parse().unwrap());
            sources.map(|source| source.unwrap().to_string()).collect()
        };
        assert_eq!(towards("10.1.1.1:1"), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(towards("10.1.1.1:1"), ["10.0.0.6", "10.0.0.5"]);
        assert_eq!(towards("[::1]:1"), ["::5"]);
        assert_eq!(towards("10.1.1.1:1"), ["10.0.0.5", "10.0.0.6"]);
    }

    #[test]
    fn without_sources_the_system_chooses_and_without_one_of_the_family_nobody() {
        let target = "[::1]:1".parse().unwrap();
        assert_eq!(Sources::new(&[]).towards(target).collect::<Vec<_>>(), [None]);
        assert_eq!(Sources::new(&ips("10.0.0.5")).towards(target).count(), 0);
    }
}
