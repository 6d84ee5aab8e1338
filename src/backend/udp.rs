//! A UDP socket to a backend.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::{
    Backend, DialError, member::Member, segments::Segments, source::Sources, udp_header::UdpHeader,
};

/// Datagrams that one system call may bring: 32 on Linux, 1 where the system brings no more. So many of
/// the largest that fit a client's path are less than the default of `datagram_send_buffer`, so that a
/// batch finds room there.
const BATCH: usize = quinn_udp::BATCH_SIZE;

/// No datagram is larger.
const MAX_BYTES: usize = 65_535;

/// A UDP socket that is connected to one address of a backend.
#[derive(Debug)]
pub struct UdpConnection {
    socket: UdpSocket,
    header: UdpHeader,
    batches: &'static UdpSocketState,
    segments: Segments,
    witness: Witness,
    refused: AtomicU64,
}

/// What is known of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UdpState {
    /// Its address on this machine.
    pub local: Option<SocketAddr>,
    /// The backend's.
    pub peer: Option<SocketAddr>,
    /// How often the backend's host said that nobody listens there.
    pub refused: u64,
}

impl UdpConnection {
    /// Opens a socket to the first address that the system has a way to. Nothing is sent.
    pub(super) fn open(
        addresses: &[SocketAddr],
        sources: &Sources,
        header: UdpHeader,
        witness: Witness,
    ) -> Result<Self, DialError> {
        let mut last = DialError::Unresolved;
        for address in addresses {
            last = DialError::NoSource(io::ErrorKind::AddrNotAvailable.into());
            for source in sources.towards(*address) {
                match open(*address, source) {
                    Ok(socket) => {
                        let batches = batches().map_err(DialError::of_udp_bind)?;
                        let segments = Segments::default();
                        let refused = AtomicU64::new(0);
                        return Ok(Self { socket, header, batches, segments, witness, refused });
                    }
                    // The next source may have a port left.
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// Sends the first of these datagrams and as many behind it as one system call takes, at once or not at
    /// all, each behind what the backend wants to be told of the client. Yields how many.
    ///
    /// # Errors
    /// None was sent. `WouldBlock` when the kernel's buffer is full; `ConnectionRefused` when an *earlier*
    /// datagram was refused; EMSGSIZE when the first is too large with what stands before it.
    pub fn send(&self, datagrams: &[Bytes]) -> io::Result<usize> {
        let Some(first) = datagrams.first() else { return Ok(0) };
        let header = self.header.next();
        // Past tokio, which says `WouldBlock` for a new socket until its event loop has turned once.
        let socket = SockRef::from(&self.socket);
        let few = datagrams.get(..self.header.serves()).unwrap_or(datagrams);
        let sent = match self.segments.send(&self.socket, header, few) {
            Some(sent) => sent,
            None => match header {
                [] => socket.send(first),
                header => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(first)]),
            }
            .map(|_bytes| 1),
        };
        match &sent {
            Ok(_) => self.header.sent(),
            Err(error) => self.note(error),
        }
        sent
    }

    /// How many bytes of what was received come before the payload. `None`: it is no reply to this
    /// session's client.
    pub fn header_of_reply(&self, received: &[u8]) -> Option<usize> {
        self.header.of_reply(received)
    }

    /// How it stands, for whoever looks on.
    pub fn state(&self) -> UdpState {
        let (local, peer) = (self.socket.local_addr().ok(), self.socket.peer_addr().ok());
        UdpState { local, peer, refused: self.refused.load(Relaxed) }
    }

    fn note(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.header.refused();
            self.refused.fetch_add(1, Relaxed);
        }
        self.witness.saw(error);
    }

    /// Waits until there is something to receive. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime stops.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.socket.poll_recv_ready(cx)).await
    }

    /// Receives what has come, each datagram whole, with one system call. Yields whether there may be
    /// more: less than a batch counts as all there was, and [`Self::readable`] waits for the kernel's
    /// word instead of asking.
    ///
    /// # Errors
    /// What the kernel says of *earlier* datagrams, once. What has come stays.
    pub fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut buffers = buffers.chunks_exact_mut(MAX_BYTES);
            let mut buffers: [_; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
            let mut about = [RecvMeta::default(); BATCH];
            let mut received = 0;
            let result = self.socket.try_io(Interest::READABLE, || {
                received = self.batches.recv((&self.socket).into(), &mut buffers, &mut about)?;
                // Said within, it makes tokio forget that the socket was ready, unless it became so anew.
                if received < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if received > 0 {
                self.witness.member.worked();
            }
            for (buffer, about) in buffers.iter().zip(&about).take(received) {
                each(&buffer[..about.len]);
            }
            match result {
                Ok(()) => Ok(true),
                Err(drained) if drained.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => {
                    self.note(&error);
                    Err(error)
                }
            }
        })
    }
}

thread_local! {
    /// Lent for one receive. The system gives memory to what is touched of it: all of it only after a batch
    /// of the largest datagrams.
    static BUFFERS: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; BATCH * MAX_BYTES].into_boxed_slice());
}

/// What receives in batches, on any socket: on Linux it keeps nothing that a receive looks at.
///
/// It is made of a spare socket, since making it sets options: that sent datagrams are never fragmented,
/// for one, which is QUIC's wish and not that of a backend behind a tunnel.
fn batches() -> io::Result<&'static UdpSocketState> {
    static BATCHES: OnceLock<UdpSocketState> = OnceLock::new();
    if let Some(batches) = BATCHES.get() {
        return Ok(batches);
    }
    let spare = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .or_else(|_no_ipv4| std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    let made = UdpSocketState::new((&spare).into())?;
    Ok(BATCHES.get_or_init(|| made))
}

/// Tells the pool how a member does that cannot be seen to fail by a dial.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) backend: Arc<Backend>,
    pub(super) member: Arc<Member>,
}

impl Witness {
    fn saw(&self, error: &io::Error) {
        // ICMP: nobody listens there. All else is between the gateway and its own system.
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.backend.member_failed(&self.member);
        }
    }
}

fn open(address: SocketAddr, source: Option<IpAddr>) -> Result<UdpSocket, DialError> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind((source.unwrap_or(any), 0));
    let socket = socket.map_err(DialError::of_udp_bind)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(socket)?)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{self, NOBODY, client, endpoint, settings},
        *,
    };
    use crate::config::HostPort;

    /// A connection and its backend.
    fn pair() -> (UdpConnection, std::net::UdpSocket) {
        let backend = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = HostPort::Address(backend.local_addr().unwrap());
        let mut settings = settings(&[]);
        settings.endpoints.push(endpoint("0", None, Some(address)));
        let pin = tests::backend(settings).0.pick(&NOBODY).unwrap();
        let connection = pin.open_udp(&client()).unwrap();
        backend.connect(connection.socket.local_addr().unwrap()).unwrap();
        (connection, backend)
    }

    async fn receive(connection: &UdpConnection) -> (Vec<Vec<u8>>, bool) {
        connection.readable().await.unwrap();
        let mut received = Vec::new();
        let more = connection.receive(|datagram| received.push(datagram.to_vec())).unwrap();
        (received, more)
    }

    #[tokio::test]
    async fn one_call_brings_a_batch_and_the_next_the_rest() {
        let (connection, backend) = pair();
        let sent: Vec<Vec<u8>> =
            (0_u8..).map(|n| vec![n; usize::from(n) * 7]).take(BATCH + 3).collect();
        for datagram in &sent {
            backend.send(datagram).unwrap();
        }
        let (mut received, more) = receive(&connection).await;
        assert_eq!((received.len(), more), (BATCH, true));
        let (rest, more) = receive(&connection).await;
        assert_eq!((rest.len(), more), (3, false));
        received.extend(rest);
        assert!(received == sent, "whole and in order");
    }

    /// The first receive has asked the kernel only once, so it has to hear of what comes after it.
    #[tokio::test]
    async fn what_comes_after_a_short_batch_is_heard_of() {
        let (connection, backend) = pair();
        for round in 0..100_u8 {
            backend.send(&[round]).unwrap();
            assert_eq!(receive(&connection).await, (vec![vec![round]], false));
        }
    }

    #[tokio::test]
    async fn the_largest_and_the_empty_datagram_are_whole() {
        let (connection, backend) = pair();
        let sent = [vec![7; 65_507], Vec::new(), vec![8; 65_507]];
        for datagram in &sent {
            backend.send(datagram).unwrap();
        }
        assert!(receive(&connection).await.0 == sent);
    }

    /// Sends all, and yields how many each system call took.
    fn send(connection: &UdpConnection, mut datagrams: &[Bytes]) -> Vec<usize> {
        let mut calls = Vec::new();
        while !datagrams.is_empty() {
            let sent = connection.send(datagrams).unwrap();
            calls.push(sent);
            datagrams = &datagrams[sent..];
        }
        calls
    }

    fn of_sizes(sizes: &[usize]) -> Vec<Bytes> {
        (0_u8..).zip(sizes).map(|(n, size)| vec![n; *size].into()).collect()
    }

    #[tokio::test]
    async fn one_call_takes_what_is_of_one_size_and_each_arrives_whole_and_in_order() {
        let (connection, backend) = pair();
        for (sizes, calls) in [
            (&[1200; 40][..], &[40][..]),
            (&[64; 70], &[64, 6]),
            (&[10, 10, 4, 10, 11, 0, 0, 5], &[3, 1, 1, 1, 1, 1]),
            (&[7], &[1]),
        ] {
            let sent = of_sizes(sizes);
            assert_eq!(send(&connection, &sent), calls, "{sizes:?}");
            for datagram in sent {
                let mut buffer = [0; 2000];
                let bytes = backend.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..bytes], datagram, "{sizes:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_alone() {
        let (connection, backend) = pair();
        let datagrams = of_sizes(&[100, 65_508, 65_508, 100]);
        assert_eq!(connection.send(&datagrams).unwrap(), 1, "segments do not grow");
        for at in [1, 2] {
            let error = connection.send(&datagrams[at..]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        }
        assert_eq!(connection.send(&datagrams[3..]).unwrap(), 1);
        let mut buffer = [0; 200];
        for filled in [0, 3] {
            assert_eq!(backend.recv(&mut buffer).unwrap(), 100);
            assert_eq!(buffer[..100], [filled; 100]);
        }
    }

    /// ICMP's word about a datagram that was sent must not cost one that has come.
    #[tokio::test]
    async fn an_error_of_the_past_costs_no_datagram() {
        let (connection, backend) = pair();
        let address = backend.local_addr().unwrap();
        backend.send(b"before").unwrap();
        drop(backend);
        connection.send(&[Bytes::from_static(b"to nobody")]).unwrap();
        let refused =
            connection.readable().await.and_then(|()| connection.receive(|_| panic!("too early")));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(receive(&connection).await, (vec![b"before".to_vec()], false));

        let backend = std::net::UdpSocket::bind(address).unwrap();
        backend.connect(connection.socket.local_addr().unwrap()).unwrap();
        backend.send(b"after").unwrap();
        assert_eq!(receive(&connection).await.0, [b"after"]);
    }
}
