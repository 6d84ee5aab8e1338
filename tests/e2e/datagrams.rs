//! Datagrams: each is passed on or counted as lost, with a reason.

use std::time::Duration;

use tokio::{net::UdpSocket, time::timeout};

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, pattern, soon};

async fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (n, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
    buffer.truncate(n);
    (buffer, from)
}

#[tokio::test]
async fn a_session_has_one_socket_and_keeps_it() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = TestGateway::with_udp("/game", backend.local_addr().unwrap()).await;
    let (a, b) = (gateway.session("/game").await, gateway.session("/game").await);
    let mut sources = Vec::new();
    for session in [&a, &b, &a, &b] {
        session.send_datagram(b"where am I").unwrap();
        sources.push(receive(&backend).await.1);
    }
    assert_eq!((sources[0], sources[1]), (sources[2], sources[3]));
    assert_ne!(sources[0], sources[1]);

    // The backend can speak to each of them at any time.
    backend.send_to(b"to a", sources[0]).await.unwrap();
    backend.send_to(b"to b", sources[1]).await.unwrap();
    assert_eq!(soon(a.read_datagram()).await.unwrap(), &b"to a"[..]);
    assert_eq!(soon(b.read_datagram()).await.unwrap(), &b"to b"[..]);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_lost_and_counted_and_no_other() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = TestGateway::with_udp("/game", backend.local_addr().unwrap()).await;
    let session = gateway.session("/game").await;
    session.send_datagram(b"").unwrap();
    let (empty, client) = receive(&backend).await;
    assert!(empty.is_empty());
    backend.send_to(&pattern(20_000, 1), client).await.unwrap();
    backend.send_to(b"small", client).await.unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"small"[..]);
    let labels = [("direction", "backend_to_client"), ("reason", "oversize")];
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_comes_on_a_stream_where_the_route_says_so() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = backend.local_addr().unwrap();
    let keys = "oversize = \"stream\"";
    let gateway = Setup::new().route_with("/game", None, Some(address), keys).start().await;
    let session = gateway.session("/game").await;
    session.send_datagram(b"go").unwrap();
    let (_, client) = receive(&backend).await;
    let sizes = [1_500, 20_000, 65_507];
    for size in sizes {
        backend.send_to(&pattern(size, 3), client).await.unwrap();
    }
    backend.send_to(b"small", client).await.unwrap();

    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"small"[..]);
    let mut seen = Vec::new();
    for _ in sizes {
        let mut stream = soon(session.accept_uni()).await.unwrap();
        let bytes = soon(stream.read_to_end(100_000)).await.unwrap();
        assert!(bytes == pattern(bytes.len(), 3), "the contents differ");
        seen.push(bytes.len());
    }
    // Streams overtake each other.
    seen.sort_unstable();
    assert_eq!(seen, sizes);
    assert!(gateway.metric("tidegate_datagram_streams_total", &[]) > 2.5);
    gateway.shut_down().await;
}

/// Nobody listens, then somebody does: the session goes on, and no datagram is lost to an old error.
#[tokio::test]
async fn a_backend_that_comes_back_is_reached_again() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = backend.local_addr().unwrap();
    let gateway = TestGateway::with_udp("/game", address).await;
    let session = gateway.session("/game").await;
    session.send_datagram(b"first").unwrap();
    assert_eq!(receive(&backend).await.0, b"first");
    drop(backend);
    for _ in 0..20 {
        session.send_datagram(b"into the void").unwrap();
    }
    let up = [("direction", "client_to_backend")];
    // Each of them was sent or lost, and is counted as one of both.
    let sum = || {
        gateway.metric("tidegate_datagrams_total", &up)
            + gateway.metric("tidegate_datagram_drops_total", &up)
    };
    soon(async {
        while sum() < 20.5 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let backend = UdpSocket::bind(address).await.unwrap();
    session.send_datagram(b"back").unwrap();
    assert_eq!(receive(&backend).await.0, b"back");
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_route_without_udp_counts_datagrams_as_lost() {
    let gateway = Setup::new().route("/tcp", Some(echo_tcp().await), None).start().await;
    let session = gateway.session("/tcp").await;
    session.send_datagram(b"anybody?").unwrap();
    let labels = [("route", "tcp"), ("reason", "no_backend")];
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn datagrams_for_sessions_that_never_come_are_counted() {
    let gateway = TestGateway::echo().await;
    let connection = gateway.connect().await;
    connection.quic().send_datagram([&[0x05_u8][..], b"lost"].concat().into()).unwrap();
    let labels = [("reason", "early")];
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

/// A backend that floods must cost what does not fit, and nothing else: the oldest go first.
#[tokio::test]
async fn a_flood_from_the_backend_is_passed_on_or_counted() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = TestGateway::with_udp("/game", backend.local_addr().unwrap()).await;
    let session = gateway.session("/game").await;
    session.send_datagram(b"go").unwrap();
    let (_, client) = receive(&backend).await;
    let payload = pattern(1000, 2);
    for _ in 0..2000 {
        backend.send_to(&payload, client).await.unwrap();
    }
    // What the client gets is whole; how much it is depends on the machine.
    let mut got = 0;
    while let Ok(Some(datagram)) =
        timeout(Duration::from_millis(500), session.read_datagram()).await
    {
        assert_eq!(datagram, payload);
        got += 1;
    }
    assert!(got > 0);
    let down = [("direction", "backend_to_client")];
    let passed = gateway.metric("tidegate_datagrams_total", &down);
    assert!(passed >= f64::from(got), "{passed} passed, {got} received");
    gateway.shut_down().await;
}

/// What has come together goes on together, which neither side may notice: not by its contents, not by its order,
/// and not in the counts.
#[tokio::test]
async fn bursts_of_all_sizes_arrive_whole_and_in_order() {
    const SENT: usize = 600;
    // At a time, so that no buffer on the way is full.
    const BURST: usize = 30;
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = TestGateway::with_udp("/game", backend.local_addr().unwrap()).await;
    let session = gateway.session("/game").await;
    // Runs of one size, lone ones, and empty ones.
    let datagram = |n: usize| match n % 10 {
        0..5 => pattern(900, n as u64),
        5 => pattern(n, n as u64),
        6 => Vec::new(),
        _ => pattern(40, n as u64),
    };
    for first in (0..SENT).step_by(BURST) {
        for n in first..first + BURST {
            session.send_datagram(&datagram(n)).unwrap();
        }
        for n in first..first + BURST {
            assert!(receive(&backend).await.0 == datagram(n), "number {n} is another");
        }
    }
    let up = [("direction", "client_to_backend")];
    gateway.metric_reaches("tidegate_datagrams_total", &up, SENT as f64).await;
    gateway.shut_down().await;
}

/// What comes faster than the gateway takes it is lost in QUIC's own buffer, and still counted.
#[tokio::test]
async fn a_flood_from_the_client_is_passed_on_or_counted() {
    const SENT: u32 = 3000;
    let gateway = Setup::new()
        .route("/game", None, Some(echo_udp().await))
        .listener("[listener.transport]\ndatagram_receive_buffer = \"2KiB\"")
        .start()
        .await;
    let session = gateway.session("/game").await;
    for _ in 0..SENT {
        session.send_datagram_wait(&[7; 1000]).await.unwrap();
    }
    let stats = session.quic().clone();
    session.close(0, "").await;
    gateway.metric_reaches("tidegate_quic_connections", &[], 0.0).await;
    let up = [("direction", "client_to_backend")];
    let counted = gateway.metric("tidegate_datagrams_total", &up)
        + gateway.metric("tidegate_datagram_drops_total", &up);
    // QUIC may lose packets on the way, and nobody sends a datagram again. On a busy machine the client may
    // also have closed before it had sent all.
    let sent = stats.stats().frame_tx.datagram as f64;
    assert!((1.0..=f64::from(SENT)).contains(&sent));
    let lost_packets = stats.stats().path.lost_packets as f64;
    assert!(counted <= sent && counted + 2.0 * lost_packets >= sent, "{counted} of {sent}");
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_backend_may_speak_before_the_client_does() {
    let echo = echo_udp().await;
    let keys = "udp_open = \"session\"";
    let gateway = Setup::new().route_with("/game", None, Some(echo), keys).start().await;
    let session = gateway.session("/game").await;
    session.send_datagram(b"ping").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"ping"[..]);
    gateway.shut_down().await;
}
