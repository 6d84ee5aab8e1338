//! UDP sockets: one per worker for each address, all sharing it.
//!
//! The order of binding is the index by which the kernel knows a socket, so a group is bound by one
//! thread, and none of its sockets is closed alone.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Kernel buffers of a socket, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Buffers {
    pub(super) receive: usize,
    pub(super) send: usize,
}

/// The sockets of one address, by worker.
#[derive(Debug)]
pub(super) struct Group {
    /// With the real port.
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<UdpSocket>,
    /// What the kernel granted each socket: less than asked for where its limits are lower.
    pub(super) granted: Buffers,
}

impl Group {
    /// Binds `count` sockets to `address`. Port 0 takes a free one for all.
    ///
    /// The first socket binds alone and shares the address only afterwards. So an address that another
    /// process uses is an error, even when that process shares it: the kernel lets every process of the
    /// same user into a group, and a second gateway would take connections away from the first.
    pub(super) fn bind(address: SocketAddr, count: u8, asked: Buffers) -> io::Result<Self> {
        let first = open(address, asked)?;
        first.bind(&address.into())?;
        let granted = granted(&first)?;

        let first = UdpSocket::from(first);
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..count {
            socket2::SockRef::from(&sockets[0]).set_reuse_port(true)?;
            let next = open(address, asked)?;
            next.set_reuse_port(true)?;
            next.bind(&address.into())?;
            sockets.push(next.into());
        }
        Ok(Self { address, sockets, granted })
    }
}

fn open(address: SocketAddr, buffers: Buffers) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` on the same port, whatever the system's default.
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(buffers.receive)?;
    socket.set_send_buffer_size(buffers.send)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn granted(socket: &Socket) -> io::Result<Buffers> {
    // Linux doubles what it grants, for its own bookkeeping, and tells the doubled number (socket(7)).
    let divisor = if cfg!(target_os = "linux") { 2 } else { 1 };
    Ok(Buffers {
        receive: socket.recv_buffer_size()? / divisor,
        send: socket.send_buffer_size()? / divisor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Buffers = Buffers { receive: 65_536, send: 32_768 };

    fn bind(address: &str, count: u8) -> io::Result<Group> {
        Group::bind(address.parse().unwrap(), count, SMALL)
    }

    #[test]
    fn a_group_shares_the_free_port_that_its_first_socket_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let group = bind(address, 4).unwrap();
            assert_ne!(group.address.port(), 0);
            assert_eq!(group.sockets.len(), 4);
            for socket in &group.sockets {
                assert_eq!(socket.local_addr().unwrap(), group.address);
            }
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_even_when_its_owner_shares_it() {
        for count in [1, 4] {
            let owner = bind("127.0.0.1:0", count).unwrap();
            let second = bind(&owner.address.to_string(), count).unwrap_err();
            assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn both_families_can_have_one_port() {
        // Another process may hold the one port that was found on IPv4, but hardly ten.
        let shared = (0..10).any(|_| {
            let v4 = bind("0.0.0.0:0", 1).unwrap();
            bind(&format!("[::]:{}", v4.address.port()), 1).is_ok()
        });
        assert!(shared);
    }

    #[test]
    fn buffers_are_told_as_they_were_granted() {
        assert_eq!(bind("127.0.0.1:0", 1).unwrap().granted, SMALL);
        let greedy = Buffers { receive: 1 << 30, send: 1 << 30 };
        let group = Group::bind("127.0.0.1:0".parse().unwrap(), 1, greedy).unwrap();
        assert!(group.granted.receive < greedy.receive);
    }
}
