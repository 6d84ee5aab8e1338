//! A UDP socket to a backend.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::ReadBuf, net::UdpSocket};

use super::udp_header::UdpHeader;

/// A UDP socket that is connected to one address of a backend.
#[derive(Debug)]
pub struct UdpConnection {
    socket: UdpSocket,
    header: UdpHeader,
}

impl UdpConnection {
    /// Opens a socket to the first address that the system has a way to. Nothing is sent.
    pub(super) fn open(addresses: &[SocketAddr], header: UdpHeader) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address known");
        for address in addresses {
            match open(*address) {
                Ok(socket) => return Ok(Self { socket, header }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends at once or not at all, behind what the backend wants to be told of the client.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel's buffer is full; `ConnectionRefused` when an *earlier* datagram was
    /// refused, and this one was not sent; EMSGSIZE when it is too large with what stands before it.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // Past tokio, which says `WouldBlock` for a new socket until its event loop has turned once.
        let socket = SockRef::from(&self.socket);
        let sent = match self.header.next() {
            [] => socket.send(datagram),
            header => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(datagram)]),
        };
        match &sent {
            Ok(_) => self.header.sent(),
            Err(error) => self.note(error),
        }
        sent.map(drop)
    }

    /// Receives one datagram into `buffer`.
    pub fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.socket.poll_recv(cx, &mut buffer)).inspect_err(|error| self.note(error))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// How many bytes of what was received come before the payload. `None`: it is no reply to this
    /// session's client.
    pub fn header_of_reply(&self, received: &[u8]) -> Option<usize> {
        self.header.of_reply(received)
    }

    fn note(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.header.refused();
        }
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
