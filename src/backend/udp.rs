//! A UDP socket to a backend.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::ReadBuf, net::UdpSocket};

/// A UDP socket that is connected to one address of a backend.
#[derive(Debug)]
pub struct UdpConnection(UdpSocket);

impl UdpConnection {
    /// Opens a socket to the first address that the system has a way to. Nothing is sent.
    pub(super) fn open(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address known");
        for address in addresses {
            match open(*address) {
                Ok(socket) => return Ok(Self(socket)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends at once or not at all.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel's buffer is full; `ConnectionRefused` when an *earlier* datagram was
    /// refused, and this one was not sent.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // Past tokio, which says `WouldBlock` for a new socket until its event loop has turned once.
        SockRef::from(&self.0).send(datagram).map(drop)
    }

    /// Receives one datagram into `buffer`.
    pub fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.0.poll_recv(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
