//! A bad network between UDP clients and one server, without any privilege: a relay.
//!
//! Each client has its own path, with its own chances, and its own socket towards the server, as behind a
//! NAT. [`Relay::rebind`] is that NAT forgetting: the server sees clients come from elsewhere.
//! What is relayed is datagrams, so this is for QUIC; TCP needs its packets impaired, see `tun`.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use tokio::{
    net::UdpSocket,
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::link::{Conditions, Link};

/// Headers of IPv4 and UDP, which take their time at a rate as well.
const HEADER_BYTES: usize = 28;

/// The largest UDP payload.
const DATAGRAM_BYTES: usize = 65_535;

/// Datagrams of a client that its path has not looked at yet. Paths wait for nothing but their sockets;
/// what comes above this is lost.
const WAITING: usize = 1024;

/// Clients at once. Packets of further ones are dropped: a relay for a bench need not forget clients.
const CLIENTS: usize = 1024;

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    bindings: watch::Sender<u64>,
    _running: JoinSet<()>,
}

impl Relay {
    /// Relays what clients send to `listen`, on these conditions each way.
    pub(crate) async fn start(
        listen: SocketAddr,
        server: SocketAddr,
        up: Conditions,
        down: Conditions,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(listen).await?);
        let address = socket.local_addr()?;
        let (bindings, rebound) = watch::channel(0);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut paths = Paths { socket, server, up, down, rebound, clients: HashMap::new() };
            paths.serve().await;
        });
        Ok(Self { address, bindings, _running: running })
    }

    /// Where clients send to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on each client comes to the server from another port; what the server sends to the old
    /// one is lost.
    pub(crate) fn rebind(&self) {
        self.bindings.send_modify(|binding| *binding += 1);
    }
}

/// All clients.
struct Paths {
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    up: Conditions,
    down: Conditions,
    rebound: watch::Receiver<u64>,
    clients: HashMap<SocketAddr, mpsc::Sender<Box<[u8]>>>,
}

impl Paths {
    async fn serve(&mut self) {
        let mut paths = JoinSet::new();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            // An error is that of an earlier send to a client that has gone.
            let Ok((length, client)) = self.socket.recv_from(&mut buffer).await else { continue };
            let known = self.clients.len() as u64;
            if !self.clients.contains_key(&client) && self.clients.len() < CLIENTS {
                let Ok(out) = connected(self.server).await else { continue };
                let (sender, from_client) = mpsc::channel(WAITING);
                self.clients.insert(client, sender);
                let path = Path {
                    client,
                    inside: Arc::clone(&self.socket),
                    out,
                    server: self.server,
                    up: Link::new(self.up.reseeded(2 * known)),
                    down: Link::new(self.down.reseeded(2 * known + 1)),
                };
                paths.spawn(path.run(from_client, self.rebound.clone()));
            }
            if let Some(path) = self.clients.get(&client) {
                // Full: lost, as on any path.
                _ = path.try_send(buffer[..length].into());
            }
        }
    }
}

/// One client's way to the server and back.
struct Path {
    client: SocketAddr,
    inside: Arc<UdpSocket>,
    out: UdpSocket,
    server: SocketAddr,
    up: Link<Box<[u8]>>,
    down: Link<Box<[u8]>>,
}

impl Path {
    async fn run(
        mut self,
        mut from_client: mpsc::Receiver<Box<[u8]>>,
        mut rebound: watch::Receiver<u64>,
    ) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let due = [self.up.next_due(), self.down.next_due()].into_iter().flatten().min();
            // Cancelled branches lose nothing: each takes a whole datagram or none.
            select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.deliver().await,
                sent = from_client.recv() => {
                    let Some(packet) = sent else { return };
                    self.up.offer(Instant::now(), packet.len() + HEADER_BYTES, packet);
                }
                // An error is the server's ICMP refusal of an earlier one: it says nothing about the next.
                Ok(length) = self.out.recv(&mut buffer) => {
                    let packet = buffer[..length].into();
                    self.down.offer(Instant::now(), length + HEADER_BYTES, packet);
                }
                Ok(()) = rebound.changed() => {
                    if let Ok(out) = connected(self.server).await {
                        self.out = out;
                    }
                }
            }
        }
    }

    /// Sends what has arrived, both ways. What a socket does not take is lost.
    async fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(packet) = self.up.take(now) {
            _ = self.out.send(&packet).await;
        }
        while let Some(packet) = self.down.take(now) {
            _ = self.inside.send_to(&packet, self.client).await;
        }
    }
}

/// A socket of a port of its own.
async fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn server() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 2000];
        let received = timeout(Duration::from_secs(20), socket.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("nothing came").unwrap();
        (buffer[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn clients_are_kept_apart_and_a_rebinding_shows_to_the_server_alone() {
        let server = server().await;
        let clean = Conditions::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let relay = Relay::start(any, server.local_addr().unwrap(), clean, clean).await.unwrap();
        let clients = [UdpSocket::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap()];

        let mut seen = Vec::new();
        for (n, client) in (0..).zip(&clients) {
            client.send_to(&[n; 1200], relay.address()).await.unwrap();
            let (packet, from) = receive(&server).await;
            assert_eq!(packet, [n; 1200]);
            server.send_to(&[10 + n], from).await.unwrap();
            assert_eq!(receive(client).await, (vec![10 + n], relay.address()));
            seen.push(from);
        }
        relay.rebind();
        // The path notices when it is next awake; until then the server may see the old port.
        loop {
            clients[0].send_to(b"again", relay.address()).await.unwrap();
            let (_, from) = receive(&server).await;
            if from == seen[0] {
                continue;
            }
            assert!(!seen.contains(&from));
            server.send_to(b"answer", from).await.unwrap();
            assert_eq!(receive(&clients[0]).await.0, b"answer");
            break;
        }
    }

    #[tokio::test]
    async fn a_bad_path_loses_delays_and_repeats_real_datagrams() {
        let server = server().await;
        let up = Conditions {
            delay: Duration::from_millis(20),
            loss: 0.2,
            duplicate: 0.1,
            ..Conditions::default()
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let address = server.local_addr().unwrap();
        let relay = Relay::start(any, address, up, Conditions::default()).await.unwrap();
        let client = UdpSocket::bind(any).await.unwrap();
        let begin = Instant::now();
        // What the same link makes of the same packets.
        let mut expected = Link::new(up.reseeded(0));
        for n in 0..100_u8 {
            client.send_to(&[n], relay.address()).await.unwrap();
            expected.offer(begin, 29, n);
        }
        let mut order = Vec::new();
        while let Some(due) = expected.next_due() {
            order.extend(expected.take(due));
        }
        assert!(order.len() < 100 && order.windows(2).any(|pair| pair[0] == pair[1]));
        for n in order {
            assert_eq!(receive(&server).await.0, [n]);
        }
        assert!(begin.elapsed() >= up.delay);
    }
}
