//! Dialling, on real sockets.

use std::{
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use socket2::{Domain, Type};
use tokio::io::AsyncReadExt;

use super::{
    super::{source::tests::limit_ports, tests::*},
    *,
};
use crate::{config::HostPort, metrics::Metrics};

/// A dialler with these settings, and its numbers.
fn dialler(settings: &config::Backend) -> (Dialler, EndpointMetrics) {
    dialler_from(settings, Sources::new(&settings.source))
}

fn dialler_from(settings: &config::Backend, sources: Sources) -> (Dialler, EndpointMetrics) {
    let metrics = Metrics::new().endpoint("test", "0");
    let endpoint = endpoint("0", None, None);
    (Dialler::new(settings, &endpoint, Arc::new(sources), metrics.clone()), metrics)
}

/// A member that is reached by TCP.
fn tcp(addresses: &[SocketAddr]) -> Addresses {
    Addresses { tcp: addresses.to_vec(), ..Addresses::default() }
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A listener that answers nothing more: the queue of its connections is full.
pub(crate) struct Hanging {
    listener: socket2::Socket,
    _queued: Vec<std::net::TcpStream>,
}

impl Hanging {
    pub(crate) fn new() -> Self {
        let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        let soon = Duration::from_millis(100);
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, soon) {
            queued.push(stream);
            assert!(queued.len() < 16, "the queue is never full");
        }
        Self { listener, _queued: queued }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

/// Waits for an attempt that an endpoint has no limit to but its own.
async fn ends<T>(attempt: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), attempt).await.expect("it hangs")
}

#[tokio::test]
async fn an_address_that_refuses_costs_no_time() {
    let (listener, alive) = listening();
    let settings = settings(&[]);
    let (dialler, _metrics) = dialler(&settings);

    let _connection = dialler.dial(&tcp(&[dead_address(), alive]), &settings, b"").await.unwrap();
    listener.accept().unwrap();
}

#[tokio::test]
async fn an_address_that_hangs_is_overtaken_by_the_next() {
    let (hanging, (listener, alive)) = (Hanging::new(), listening());
    let mut settings = settings(&[]);
    settings.connect_timeout = Duration::from_secs(60);
    let (dialler, _metrics) = dialler(&settings);

    let addresses = [hanging.address(), alive];
    let _connection = ends(dialler.dial(&tcp(&addresses), &settings, b"")).await.unwrap();
    listener.accept().unwrap();
}

#[tokio::test]
async fn all_addresses_together_have_the_connect_timeout() {
    let (one, other) = (Hanging::new(), Hanging::new());
    let mut settings = settings(&[]);
    settings.connect_timeout = Duration::from_millis(600);
    let (dialler, _metrics) = dialler(&settings);

    let began = Instant::now();
    let addresses = [one.address(), dead_address(), other.address()];
    let error = ends(dialler.dial(&tcp(&addresses), &settings, b"")).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout), "{error:?}");
    assert!(began.elapsed() >= settings.connect_timeout);
}

#[tokio::test]
async fn a_connection_has_the_options_of_the_configuration() {
    let (_listener, address) = listening();
    let mut settings = settings(&[]);
    for nodelay in [true, false] {
        settings.nodelay = nodelay;
        settings.keepalive = config::Keepalive {
            idle: Duration::from_secs(41),
            interval: Duration::from_secs(7),
            probes: 5,
        };
        settings.user_timeout = Duration::from_millis(12_345);
        let stream = open(address, &settings, &Sources::new(&[])).await.unwrap();

        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_nodelay().unwrap(), nodelay);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), settings.keepalive.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), settings.keepalive.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), settings.keepalive.probes);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(settings.user_timeout));
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO), "dropping it would send FIN");
    }
}

#[tokio::test]
async fn a_full_queue_and_a_turn_that_does_not_come_are_told_apart() {
    let hanging = Hanging::new();
    let mut settings = settings(&[]);
    settings.connect_timeout = Duration::from_secs(60);
    settings.dial =
        config::Dial { concurrent: 1, queue: 1, queue_timeout: Duration::from_millis(300) };
    let (dialler, _metrics) = dialler(&settings);
    let addresses = tcp(&[hanging.address()]);
    let dial = || dialler.dial(&addresses, &settings, b"");

    // One is being made for ever, one waits.
    let (mut first, mut second) = (Box::pin(dial()), Box::pin(dial()));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    let full = dial().now_or_never().unwrap().unwrap_err();
    assert!(matches!(full, DialError::QueueFull), "{full:?}");
    let late = ends(second).await.unwrap_err();
    assert!(matches!(late, DialError::QueueTimeout), "{late:?}");
}

#[tokio::test]
async fn backends_see_the_sources_in_turn() {
    let (listener, address) = listening();
    let mut settings = settings(&[]);
    settings.source = vec!["127.0.0.21".parse().unwrap(), "127.0.0.22".parse().unwrap()];
    let (dialler, _metrics) = dialler(&settings);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let _connection = dialler.dial(&tcp(&[address]), &settings, b"").await.unwrap();
        seen.push(listener.accept().unwrap().1.ip().to_string());
    }
    assert_eq!(seen, ["127.0.0.21", "127.0.0.22", "127.0.0.21", "127.0.0.22"]);
}

#[tokio::test]
async fn a_source_of_ipv6_is_for_backends_of_ipv6() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let mut settings = settings(&[]);
    settings.source = vec!["127.0.0.21".parse().unwrap(), "::1".parse().unwrap()];
    let (dialler, _metrics) = dialler(&settings);

    let address = listener.local_addr().unwrap();
    let _connection = dialler.dial(&tcp(&[address]), &settings, b"").await.unwrap();
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), "::1");
}

#[tokio::test]
async fn datagrams_come_from_the_sources_too() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(&[]);
    settings.source = ["127.0.0.21", "127.0.0.22"].map(|ip| ip.parse().unwrap()).into();
    let address = HostPort::Address(server.local_addr().unwrap());
    settings.endpoints.push(endpoint("0", None, Some(address)));
    let (backend, _metrics) = backend(settings);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let socket = backend.pick(&NOBODY).unwrap().open_udp(&client()).unwrap();
        socket.send(&[Bytes::from_static(b"x")]).unwrap();
        seen.push(server.recv_from(&mut [0]).unwrap().1.ip().to_string());
    }
    assert_eq!(seen, ["127.0.0.21", "127.0.0.22"]);
}

#[tokio::test]
async fn a_source_that_this_machine_does_not_have_is_passed_over() {
    let (listener, address) = listening();
    let mut settings = settings(&[]);
    // RFC 5737: nobody has this one.
    let nobodys = "192.0.2.1".parse().unwrap();
    settings.source = vec![nobodys, "127.0.0.21".parse().unwrap()];
    let (first, _metrics) = dialler(&settings);
    let _connection = first.dial(&tcp(&[address]), &settings, b"").await.unwrap();
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.21");

    settings.source = vec![nobodys];
    let (dialler, _metrics) = dialler(&settings);
    let error = dialler.dial(&tcp(&[address]), &settings, b"").await.unwrap_err();
    assert!(matches!(error, DialError::NoSource(_)), "{error:?}");
}

#[tokio::test]
async fn a_source_of_the_wrong_family_is_not_used() {
    let mut settings = settings(&[]);
    settings.source = vec!["::1".parse().unwrap()];
    let (dialler, _metrics) = dialler(&settings);
    let error = dialler.dial(&tcp(&[listening().1]), &settings, b"").await.unwrap_err();
    assert!(matches!(error, DialError::NoSource(_)), "{error:?}");
}

/// Two sources with one port each: the third connection has none, until one of the others ends.
#[tokio::test]
async fn ports_run_out_over_all_sources_and_come_back() {
    let (listener, address) = listening();
    let (free, other) = (listening().1.port(), listening());
    let sources = ["127.0.0.23", "127.0.0.24"].map(|ip| ip.parse().unwrap());
    let settings = settings(&[]);
    let (dialler, _metrics) = dialler_from(&settings, Sources::with_ports(&sources, (free, free)));
    let dial = async |address| dialler.dial(&tcp(&[address]), &settings, b"").await;

    let first = match dial(address).await {
        // Linux before 6.3 cannot make them so few.
        Err(DialError::NoSource(error)) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            return;
        }
        dialled => dialled.unwrap(),
    };
    let _second = dial(address).await.unwrap();
    let seen = [(); 2].map(|()| listener.accept().unwrap().1);
    assert_eq!(seen.map(|from| from.port()), [free; 2]);
    assert_ne!(seen[0].ip(), seen[1].ip());

    let error = dial(address).await.unwrap_err();
    assert!(matches!(error, DialError::OutOfPorts(_)), "{error:?}");
    // It is the other source's turn, which has none: the one that has is tried after it.
    drop(first);
    let _third = dial(address).await.unwrap();
    assert_eq!(listener.accept().unwrap().1, seen[0]);
    // The port is taken towards one address, not towards every one.
    let _elsewhere = dial(other.1).await.unwrap();
}

#[test]
fn each_shortage_has_its_own_word() {
    for (errno, end, ours, everywhere) in [
        (libc::EMFILE, StreamEnd::OutOfDescriptors, true, true),
        (libc::ENFILE, StreamEnd::OutOfDescriptors, true, true),
        (libc::EADDRNOTAVAIL, StreamEnd::OutOfPorts, true, false),
        (libc::ENOBUFS, StreamEnd::OutOfResources, true, true),
        (libc::ENOMEM, StreamEnd::OutOfResources, true, true),
        (libc::ENOSPC, StreamEnd::OutOfResources, true, true),
        (libc::ECONNREFUSED, StreamEnd::BackendUnreachable, false, false),
        (libc::ETIMEDOUT, StreamEnd::BackendUnreachable, false, false),
        (libc::EHOSTUNREACH, StreamEnd::BackendUnreachable, false, false),
    ] {
        let error = DialError::from(io::Error::from_raw_os_error(errno));
        let told = (error.stream_end(), error.is_ours(), error.is_everywhere());
        assert_eq!(told, (end, ours, everywhere), "{error:?}");
    }
}

/// What a UDP socket says that is bound, and what a datagram is lost for.
#[test]
fn each_shortage_of_udp_has_its_loss() {
    for (errno, why) in [
        (libc::EADDRINUSE, Loss::OutOfPorts),
        (libc::EADDRNOTAVAIL, Loss::OutOfResources),
        (libc::EMFILE, Loss::OutOfDescriptors),
        (libc::ENFILE, Loss::OutOfDescriptors),
        (libc::ENOBUFS, Loss::OutOfResources),
        (libc::ENOMEM, Loss::OutOfResources),
        (libc::EACCES, Loss::NoBackend),
    ] {
        let error = DialError::of_udp_bind(io::Error::from_raw_os_error(errno));
        assert_eq!(error.loss(), why, "{error:?}");
        assert_eq!(error.is_ours(), why != Loss::NoBackend, "{error:?}");
    }
    assert_eq!(DialError::Unresolved.loss(), Loss::NoBackend);
}

/// The kernel's own word for it.
#[test]
fn a_udp_socket_without_a_port_is_out_of_ports() {
    let holder = UdpSocket::bind("127.0.0.25:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    if limit_ports(&socket, (taken.port(), taken.port())).is_err() {
        // Linux before 6.3 cannot make them so few.
        return;
    }
    let error = socket.bind(&SocketAddr::new(taken.ip(), 0).into()).unwrap_err();
    let error = DialError::of_udp_bind(error);
    assert!(matches!(error, DialError::OutOfPorts(_)), "{error:?}");
}

#[tokio::test]
async fn the_introduction_is_read_first() {
    let (listener, address) = listening();
    let settings = settings(&[]);
    let (dialler, _metrics) = dialler(&settings);

    let mut connection = dialler.dial(&tcp(&[address]), &settings, b"I am\r\n").await.unwrap();
    let (_reader, writer) = connection.split();
    writer.try_write(&[io::IoSlice::new(b"here")]).unwrap();

    let stream = listener.accept().unwrap().0;
    stream.set_nonblocking(true).unwrap();
    let mut seen = [0; 10];
    ends(TcpStream::from_std(stream).unwrap().read_exact(&mut seen)).await.unwrap();
    assert_eq!(seen, *b"I am\r\nhere");
}

#[test]
fn each_way_for_a_dial_to_fail_has_its_status() {
    let failed = |errno| DialError::from(io::Error::from_raw_os_error(errno));
    for (error, why, status) in [
        (failed(libc::ECONNREFUSED), Refusal::BackendUnreachable, 502),
        (failed(libc::EHOSTUNREACH), Refusal::BackendUnreachable, 502),
        (failed(libc::ECONNRESET), Refusal::BackendUnreachable, 502),
        (failed(libc::ETIMEDOUT), Refusal::BackendTimeout, 504),
        (DialError::Timeout, Refusal::BackendTimeout, 504),
        (DialError::Unresolved, Refusal::BackendUnavailable, 503),
        (DialError::QueueFull, Refusal::DialQueueFull, 503),
        (DialError::QueueTimeout, Refusal::DialQueueTimeout, 503),
        (failed(libc::EMFILE), Refusal::OutOfDescriptors, 503),
        (failed(libc::EADDRNOTAVAIL), Refusal::OutOfPorts, 503),
        (failed(libc::ENOBUFS), Refusal::OutOfResources, 503),
    ] {
        assert_eq!((error.refusal(), error.refusal().status()), (why, status), "{error}");
    }
}
