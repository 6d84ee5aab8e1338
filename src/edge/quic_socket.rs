//! The UDP socket under a worker's QUIC endpoint.
//!
//! What quinn's own socket does, with fewer system calls:
//!
//! - **Trains.** quinn hands over at most ten packets at a time. While a connection has more to send than that,
//!   they are gathered, and go to the kernel as one send of up to 64 segments (UDP GSO) when the train is full,
//!   when its last packet is a short one, or when every task that was ready has had its turn. A transmit of fewer
//!   than ten packets is the end of what there is, so it takes along what waits and goes at once: nothing is
//!   delayed that is alone.
//! - **No receive that finds nothing.** A batch that the kernel did not fill was all there was. The next receive
//!   waits for the kernel's word and does not ask.
//! - **No look whether there is room.** Who sends finds out; only after a refusal is the kernel's word waited for.

mod train;

use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::{io::Interest, net::UdpSocket, sync::Notify};

use self::train::Train;
use super::runtime::Unbudgeted;

/// A socket that belongs to one thread and its runtime.
#[derive(Debug)]
pub(super) struct QuicSocket {
    io: UdpSocket,
    state: UdpSocketState,
    /// Packets that wait for more of their kind. Never contended: a worker is one thread.
    train: Mutex<Train>,
    /// A train waits that did not before.
    boarding: Notify,
    /// Whether the kernel had no room for the last send.
    is_full: AtomicBool,
}

impl QuicSocket {
    /// Takes over a socket, and spawns what sends trains on. Needs the worker's runtime around it.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        let socket = Arc::new(Self {
            state: UdpSocketState::new((&socket).into())?,
            io: UdpSocket::from_std(socket)?,
            train: Mutex::default(),
            boarding: Notify::new(),
            is_full: AtomicBool::new(false),
        });
        Unbudgeted.spawn(Box::pin(depart(Arc::clone(&socket))));
        Ok(socket)
    }

    fn train(&self) -> MutexGuard<'_, Train> {
        // A panic in between costs packets at most, which QUIC sends again.
        self.train.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over to the kernel. An error of the network is none: it is a loss, as quinn takes it.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent =
            self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit));
        self.is_full.store(sent.is_err(), Relaxed);
        sent
    }

    /// Sends the train, which is then empty, or whole as before.
    fn send_train(&self, train: &mut Train) -> io::Result<()> {
        match train.transmit() {
            Some(transmit) => self.send(&transmit)?,
            None => return Ok(()),
        }
        train.clear();
        Ok(())
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut train = self.train();
        let most = self.state.max_gso_segments();
        if train.takes(transmit, most) {
            train.add(transmit);
            if train.is_complete(most) {
                // It is ours already: should there be no room for it, it departs when there is.
                _ = self.send_train(&mut train);
            }
            return Ok(());
        }
        if train.goes_to(transmit) {
            // A connection's packets keep their order.
            self.send_train(&mut train)?;
        }
        if !Train::may_begin(transmit, most) {
            return self.send(transmit);
        }
        self.send_train(&mut train)?;
        train.add(transmit);
        self.boarding.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        about: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let mut received = 0;
            // Errors are of no packet: those that came before one are told by the next receive.
            _ = self.io.try_io(Interest::READABLE, || {
                received = self.state.recv((&self.io).into(), buffers, about)?;
                // Said within, it makes tokio forget that the socket was ready, unless it became so anew.
                if received < buffers.len() {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            });
            if received > 0 {
                return Poll::Ready(Ok(received));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Sends trains on to which nobody adds any more. Ends with the runtime.
async fn depart(socket: Arc<QuicSocket>) {
    loop {
        socket.boarding.notified().await;
        let mut seen = 0;
        loop {
            let waiting = socket.train().len();
            if waiting == seen {
                break;
            }
            seen = waiting;
            others_turn().await;
        }
        while socket.send_train(&mut socket.train()).is_err() {
            if socket.io.writable().await.is_err() {
                return;
            }
        }
    }
}

/// Lets every task have its turn that is ready now. tokio's own `yield_now` would ask the kernel for events too.
async fn others_turn() {
    let mut is_over = false;
    poll_fn(|cx| {
        if is_over {
            return Poll::Ready(());
        }
        is_over = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for room, for one connection.
struct Room {
    socket: Arc<QuicSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() && !self.socket.is_full.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let Self { socket, waiting } = &mut *self;
        let wait = waiting.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let room = ready!(wait.as_mut().poll(cx));
        socket.is_full.store(false, Relaxed);
        *waiting = None;
        Poll::Ready(room)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use quinn::udp::BATCH_SIZE;

    use super::*;

    const PACKET: usize = 1_200;
    const FULL: usize = 10 * PACKET;

    fn new_socket() -> Arc<QuicSocket> {
        QuicSocket::new(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap()
    }

    /// A socket of which the runtime knows that there is room.
    async fn socket() -> Arc<QuicSocket> {
        let socket = new_socket();
        socket.io.writable().await.unwrap();
        socket
    }

    /// Sends bytes that count upwards from `first`, in packets of [`PACKET`] bytes but for a shorter last one.
    fn send(from: &QuicSocket, to: &QuicSocket, first: usize, bytes: usize) -> io::Result<()> {
        from.try_send(&Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents: &counting(first, bytes),
            segment_size: (bytes > PACKET).then_some(PACKET),
            src_ip: None,
        })
    }

    fn counting(first: usize, bytes: usize) -> Vec<u8> {
        (0..=250).cycle().skip(first % 251).take(bytes).collect()
    }

    /// What one system call brings: each send with the size of its packets, as the loopback device keeps them.
    async fn receive(socket: &QuicSocket) -> Vec<(Vec<u8>, usize)> {
        let mut memory = vec![0; BATCH_SIZE * 65_536];
        let mut buffers: Vec<_> = memory.chunks_mut(65_536).map(IoSliceMut::new).collect();
        let mut about = [RecvMeta::default(); BATCH_SIZE];
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut about)).await.unwrap();
        let sends = about.iter().zip(&buffers).take(received);
        sends.map(|(about, buffer)| (buffer[..about.len].to_vec(), about.stride)).collect()
    }

    /// The bytes of each send that arrives, until there were so many in all.
    async fn sends(socket: &QuicSocket, bytes: usize) -> Vec<usize> {
        let (mut sends, mut all) = (Vec::new(), Vec::new());
        while all.len() < bytes {
            for (contents, stride) in receive(socket).await {
                assert_eq!(stride, PACKET.min(contents.len()));
                sends.push(contents.len());
                all.extend(contents);
            }
        }
        assert!(all == counting(0, bytes), "whole, once, and in order");
        sends
    }

    #[tokio::test]
    async fn what_a_connection_sends_in_its_turns_goes_as_one() {
        let (from, to) = (socket().await, socket().await);
        let connection = {
            let to = Arc::clone(&to);
            async move {
                for turn in 0..3 {
                    send(&from, &to, turn * FULL, FULL).unwrap();
                    others_turn().await;
                }
            }
        };
        Unbudgeted.spawn(Box::pin(connection));
        assert_eq!(sends(&to, 3 * FULL).await, [3 * FULL]);
    }

    #[tokio::test]
    async fn a_train_departs_when_it_is_full_and_with_its_last_packet() {
        let (from, to) = (socket().await, socket().await);
        let bytes = 7 * FULL + 2_000;
        for first in (0..bytes).step_by(FULL) {
            send(&from, &to, first, FULL.min(bytes - first)).unwrap();
            if first == 4 * FULL {
                assert_eq!(from.train().len(), 5 * FULL, "there is room for some packets more");
            }
        }
        assert_eq!(from.train().len(), 0, "the end takes all along");
        assert_eq!(sends(&to, bytes).await, [5 * FULL, 2 * FULL + 2_000]);
    }

    #[tokio::test]
    async fn what_is_alone_waits_for_nothing() {
        let (from, to, other) = (socket().await, socket().await, socket().await);
        for bytes in [1, PACKET, FULL - 1, FULL - PACKET] {
            send(&from, &to, 0, bytes).unwrap();
            assert_eq!(from.train().len(), 0);
            assert_eq!(sends(&to, bytes).await, [bytes]);
        }
        send(&from, &to, 0, FULL).unwrap();
        send(&from, &other, 0, 100).unwrap();
        assert_eq!(from.train().len(), FULL, "nor do others for it");
        assert_eq!(sends(&other, 100).await, [100]);
        assert_eq!(sends(&to, FULL).await, [FULL]);
    }

    #[tokio::test]
    async fn a_connections_packets_keep_their_order() {
        let (from, to) = (socket().await, socket().await);
        send(&from, &to, 0, FULL).unwrap();
        let larger = Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents: &counting(FULL, PACKET + 1),
            segment_size: None,
            src_ip: None,
        };
        from.try_send(&larger).unwrap();
        let mut received = Vec::new();
        while received.len() < 2 {
            received.extend(receive(&to).await);
        }
        let sizes: Vec<_> = received.iter().map(|(contents, _)| contents.len()).collect();
        assert_eq!(sizes, [FULL, PACKET + 1]);
    }

    #[tokio::test]
    async fn trains_to_several_clients_all_arrive() {
        let from = socket().await;
        let clients: [_; 5] = std::array::from_fn(|_| new_socket());
        for turn in 0..4 {
            for client in &clients {
                send(&from, client, turn * FULL, FULL).unwrap();
            }
        }
        for client in &clients {
            sends(client, 4 * FULL).await;
        }
    }

    /// The first receive has asked the kernel only once, so it has to hear of what comes after it.
    #[tokio::test]
    async fn what_comes_after_a_short_batch_is_heard_of() {
        let (from, to) = (socket().await, socket().await);
        for _ in 0..100 {
            send(&from, &to, 0, 50).unwrap();
            assert_eq!(sends(&to, 50).await, [50]);
        }
        for _ in 0..BATCH_SIZE + 3 {
            send(&from, &to, 0, 50).unwrap();
        }
        assert_eq!(receive(&to).await.len(), BATCH_SIZE);
        assert_eq!(receive(&to).await.len(), 3);
    }

    /// tokio does not know of a new socket that there is room until its event loop has turned once.
    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let (to, from) = (socket().await, new_socket());
        let mut room = Arc::clone(&from).create_io_poller();
        poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        assert_eq!(send(&from, &to, 0, 50).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        send(&from, &to, 0, 50).unwrap();
        assert_eq!(sends(&to, 50).await, [50]);
    }

    #[tokio::test]
    async fn a_train_that_finds_no_room_departs_when_there_is() {
        let (to, from) = (socket().await, new_socket());
        send(&from, &to, 0, FULL).unwrap();
        send(&from, &to, FULL, 100).unwrap();
        let after = send(&from, &to, FULL + 100, FULL).unwrap_err();
        assert_eq!(after.kind(), io::ErrorKind::WouldBlock, "no more is taken meanwhile");
        assert_eq!(sends(&to, FULL + 100).await, [FULL + 100]);
    }
}
