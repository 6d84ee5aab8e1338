//! Choosing and reaching endpoints, on real sockets.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

pub(crate) use super::client_info::tests::client;
use super::{client_info::tests::with_head, *};
use crate::config::{Field, HostPort, Keepalive, Piece, Preamble, ProxyProtocol, ProxyTlv};

/// Settings of a backend with these TCP endpoints, named "0", "1", ...
pub(crate) fn settings(tcp: &[SocketAddr]) -> config::Backend {
    let endpoint = |(i, address): (usize, &SocketAddr)| config::Endpoint {
        name: i.to_string(),
        tcp: Some(HostPort::Address(*address)),
        unix: None,
        udp: None,
    };
    config::Backend {
        name: "test".into(),
        balance: Balance::RoundRobin,
        endpoints: tcp.iter().enumerate().map(endpoint).collect(),
        connect_timeout: Duration::from_secs(3),
        keepalive: Keepalive {
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            probes: 3,
        },
        user_timeout: Duration::from_secs(20),
        nodelay: true,
        uni_discard: config::ByteSize(64 * 1024),
        resolve_interval: Duration::from_secs(30),
        proxy_protocol: ProxyProtocol::Off,
        introduction: config::Introduction::default(),
        source: Vec::new(),
        dial: config::Dial::default(),
        tls: None,
    }
}

fn backend(settings: config::Backend) -> (Arc<Backend>, Metrics) {
    let metrics = Metrics::new();
    (Arc::new(Backend::new(Arc::new(settings), &metrics)), metrics)
}

/// A backend with so many endpoints, which nobody dials.
pub(super) fn backend_of(endpoints: usize) -> Arc<Backend> {
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    backend(settings(&vec![nowhere; endpoints])).0
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens: the port was free a moment ago, and no test listens at this
/// address.
pub(crate) fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap()
}

fn picks(backend: &Arc<Backend>, pins: &mut Vec<Pin>) -> String {
    pins.push(backend.pick().unwrap());
    pins[pins.len() - 1].endpoint().name().to_owned()
}

#[test]
fn round_robin_takes_one_after_the_other() {
    let backend = backend_of(3);
    let mut pins = Vec::new();
    let order: Vec<_> = (0..6).map(|_| picks(&backend, &mut pins)).collect();
    assert_eq!(order, ["0", "1", "2", "0", "1", "2"]);
}

#[test]
fn least_sessions_takes_the_emptiest() {
    let mut settings = settings(&[dead_address(); 3]);
    settings.balance = Balance::LeastSessions;
    let (backend, _metrics) = backend(settings);
    let mut pins = Vec::new();
    let first: Vec<_> = (0..3).map(|_| picks(&backend, &mut pins)).collect();
    assert_eq!(first, ["0", "1", "2"], "among equals they take turns");

    pins.remove(1);
    assert_eq!(picks(&backend, &mut pins), "1");
}

#[test]
fn a_backend_without_any_address_is_not_picked() {
    let mut settings = settings(&[]);
    settings.endpoints.push(config::Endpoint {
        name: "a".into(),
        tcp: Some(HostPort::Name("nowhere.invalid".into(), 1)),
        unix: None,
        udp: None,
    });
    assert!(backend(settings).0.pick().is_none());
}

#[tokio::test]
async fn a_connection_is_counted_while_it_lives() {
    let (_listener, address) = listening();
    let (backend, metrics) = backend(settings(&[address]));
    let tcp = backend.pick().unwrap().dial(&client()).await.unwrap();

    let open = r#"tidegate_backend_connections{backend="test",endpoint="0"} "#;
    let text = metrics.render();
    assert!(text.contains(&format!("{open}1")), "{text}");
    assert!(text.contains(
        r#"tidegate_backend_connect_duration_seconds_count{backend="test",endpoint="0"} 1"#
    ));
    drop(tcp);
    assert!(metrics.render().contains(&format!("{open}0")));
}

#[tokio::test]
async fn a_dead_endpoint_is_skipped_and_counted() {
    let (_listener, alive) = listening();
    let (backend, _metrics) = backend(settings(&[dead_address(), alive]));
    let pin = backend.pick().unwrap();

    pin.dial(&client()).await.unwrap();

    assert_eq!(pin.endpoint().name(), "1");
    assert_eq!(backend.endpoints[0].metrics.refused.get(), 1);
    assert_eq!(backend.endpoints[1].metrics.connected.get(), 1);
}

#[tokio::test]
async fn each_endpoint_is_tried_once_before_giving_up() {
    let (backend, _metrics) = backend(settings(&[dead_address(), dead_address()]));
    let error = backend.pick().unwrap().dial(&client()).await.unwrap_err();

    assert!(matches!(error, DialError::Refused), "{error:?}");
    assert!(backend.endpoints.iter().all(|e| e.metrics.refused.get() == 1));
}

/// The endpoint may keep state for the session, so a later failure must not move it.
#[tokio::test]
async fn a_session_does_not_move_once_it_has_a_connection() {
    let (gone, first) = listening();
    let (_listener, second) = listening();
    let (backend, _metrics) = backend(settings(&[first, second]));
    let pin = backend.pick().unwrap();
    pin.dial(&client()).await.unwrap();
    drop(gone);

    assert!(matches!(pin.dial(&client()).await, Err(DialError::Refused)));
    assert_eq!(pin.endpoint().name(), "0");
    assert_eq!(backend.endpoints[1].metrics.connected.get(), 0);
}

#[tokio::test]
async fn an_endpoint_that_swallows_packets_times_out() {
    // A listener whose queue of connections is full answers nothing more.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut settings = settings(&[address]);
    settings.connect_timeout = Duration::from_millis(200);
    let (backend, _metrics) = backend(settings);
    let pin = backend.pick().unwrap();

    let mut queued = Vec::new();
    let error = loop {
        match pin.dial(&client()).await {
            Ok(tcp) => queued.push(tcp),
            Err(error) => break error,
        }
        assert!(queued.len() < 16, "the queue is never full");
    };
    assert!(matches!(error, DialError::Timeout), "{error:?}");
    assert_eq!(backend.endpoints[0].metrics.timeout.get(), 1);
}

#[tokio::test]
async fn the_header_comes_before_anything_else() {
    let (listener, address) = listening();
    let mut settings = settings(&[address]);
    settings.proxy_protocol = ProxyProtocol::V1;
    let (backend, _metrics) = backend(settings);
    let mut tcp = backend.pick().unwrap().dial(&client()).await.unwrap();
    let (_reader, writer) = tcp.split();
    assert_eq!(writer.try_write(&[std::io::IoSlice::new(b"hello")]).unwrap(), 5);
    writer.finish().await.unwrap();

    let mut seen = String::new();
    listener.accept().unwrap().0.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "PROXY TCP4 192.0.2.1 203.0.113.9 5 443\r\nhello");
}

/// It is written at once, and a new socket has to take all of it.
#[tokio::test]
async fn the_longest_introduction_fits_into_a_new_connection() {
    let longest = "x".repeat(Preamble::MOST_VALUE_BYTES);
    let long = with_head(|head| {
        head.path = format!("/{}", "x".repeat(2 * 1024 * 1024));
        head.origin = Some(longest.clone());
    });
    let (listener, address) = listening();
    let mut settings = settings(&[address]);
    settings.proxy_protocol = ProxyProtocol::V2;
    settings.introduction.tlvs = vec![ProxyTlv::Origin, ProxyTlv::Path];
    let field = |_| [Piece::Field(Field::Origin), Piece::Text("x".repeat(64))];
    let pieces = (0..16).flat_map(field).collect();
    settings.introduction.preamble = Some(Preamble { pieces });
    let (backend, _metrics) = backend(settings);

    let tcp = backend.pick().unwrap().dial(&long).await.unwrap();
    tcp.close();
    let mut seen = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut seen).unwrap();
    let header = 16 + 12 + 3 + longest.len() + 3 + 1;
    assert_eq!(seen.len(), header + 16 * (longest.len() + 64));
}

/// Half of it would look like another client's.
#[tokio::test]
async fn an_introduction_that_the_kernel_does_not_take_whole_fails_the_connection() {
    let (listener, address) = listening();
    let mut settings = settings(&[address]);
    let pieces = vec![Piece::Text("x".repeat(64 * 1024 * 1024))];
    settings.introduction.preamble = Some(Preamble { pieces });
    let (backend, _metrics) = backend(settings);

    let error = backend.pick().unwrap().dial(&client()).await.unwrap_err();
    assert!(matches!(error, DialError::Failed(_)), "{error:?}");
    let end = listener.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_connection_resets_and_a_closed_one_finishes() {
    let (listener, address) = listening();
    let (backend, _metrics) = backend(settings(&[address]));
    let pin = backend.pick().unwrap();
    let mut end = [0];

    drop(pin.dial(&client()).await.unwrap());
    let error = listener.accept().unwrap().0.read(&mut end).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    pin.dial(&client()).await.unwrap().close();
    assert_eq!(listener.accept().unwrap().0.read(&mut end).unwrap(), 0);
}

#[tokio::test]
async fn names_are_resolved_before_serving() {
    let (_listener, address) = listening();
    let mut settings = settings(&[]);
    settings.endpoints.push(config::Endpoint {
        name: "a".into(),
        tcp: Some(HostPort::Name("localhost".into(), address.port())),
        unix: None,
        udp: None,
    });
    let all = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    let backends = Backends::new(&all, &Metrics::new());
    assert!(backends.get("test").unwrap().pick().is_none());

    backends.resolve().await;
    let pin = backends.get("test").unwrap().pick().unwrap();
    // localhost may be ::1 first, where nobody listens: the next address is tried.
    pin.dial(&client()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_resolver_stops_with_the_drain() {
    let mut settings = settings(&[]);
    settings.endpoints.push(config::Endpoint {
        name: "a".into(),
        tcp: Some(HostPort::Name("localhost".into(), 7)),
        unix: None,
        udp: None,
    });
    let all = BTreeMap::from([("test".to_owned(), Arc::new(settings))]);
    let backends = Arc::new(Backends::new(&all, &Metrics::new()));
    let lifecycle = Lifecycle::new();
    lifecycle.spawn(Arc::clone(&backends).resolve_loop(lifecycle.clone()));
    let endpoint = &backends.get("test").unwrap().endpoints[0];
    while endpoint.tcp.known().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    lifecycle.begin_drain();
    lifecycle.all_tasks_ended().await;
}
