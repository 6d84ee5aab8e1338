//! Choosing and reaching endpoints, on real sockets.

mod checks;
mod ejection;
mod names;
mod takeover;

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener},
};

use futures_util::future::BoxFuture;

pub(crate) use super::client_info::tests::client;
use super::{client_info::tests::with_head, *};
use crate::{
    config::{
        Ejection, Field, HashOn, Health, HostPort, Keepalive, Piece, Preamble, ProxyProtocol,
        ProxyTlv,
    },
    reason::CheckResult,
};

/// Settings of a backend with these TCP endpoints, named "0", "1", ...
pub(crate) fn settings(tcp: &[SocketAddr]) -> config::Backend {
    let endpoint = |(i, address): (usize, &SocketAddr)| {
        endpoint(&i.to_string(), Some(HostPort::Address(*address)), None)
    };
    config::Backend {
        name: "test".into(),
        balance: Balance::RoundRobin,
        hash_on: HashOn::default(),
        health: Health::default(),
        ejection: Ejection::default(),
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

pub(crate) fn endpoint(
    name: &str,
    tcp: Option<HostPort>,
    udp: Option<HostPort>,
) -> config::Endpoint {
    config::Endpoint { name: name.into(), tcp, unix: None, udp, weight: 1, draining: false }
}

/// A resolver that knows nobody.
pub(crate) fn no_resolver() -> Arc<dyn Resolve> {
    Arc::new(Names::default())
}

/// A resolver that a test teaches: a name is unknown, or has addresses.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, Vec<IpAddr>>>);

impl Names {
    pub(super) fn set(&self, name: &str, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), ips);
    }

    pub(super) fn forget(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

impl Resolve for Names {
    fn look_up<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>> {
        let found = self.0.lock().unwrap().get(host).cloned();
        let addresses = found.map(|ips| ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect());
        Box::pin(std::future::ready(addresses.ok_or_else(|| "unknown".to_owned())))
    }
}

/// A request without anything to tell it apart by.
pub(crate) const NOBODY: RequestFacts<'_> = RequestFacts {
    client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    captures: &[],
    query: None,
    claims: None,
};

pub(super) fn backend(settings: config::Backend) -> (Arc<Backend>, Metrics) {
    let metrics = Metrics::new();
    (Arc::new(Backend::new(Arc::new(settings), &metrics, no_resolver(), None)), metrics)
}

/// A backend with so many endpoints, which nobody dials.
pub(super) fn backend_of(endpoints: usize) -> Arc<Backend> {
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    backend(settings(&vec![nowhere; endpoints])).0
}

/// The sessions of each member.
pub(super) fn sessions(backend: &Backend) -> Vec<u64> {
    backend.roster.load().0.iter().map(|seat| seat.member.sessions()).collect()
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

/// Resolves at once or not at all.
pub(super) fn now<T>(what: impl Future<Output = T>) -> Option<T> {
    futures_util::FutureExt::now_or_never(what)
}

/// Waits for a state that nothing announces.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let holds = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), holds).await.expect("it never came to hold");
}

/// The members of the roster.
pub(super) fn members(backend: &Backend) -> Vec<Arc<Member>> {
    backend.roster.load().0.iter().map(|seat| Arc::clone(&seat.member)).collect()
}

pub(super) fn member(backend: &Backend, seat: usize) -> Arc<Member> {
    members(backend).swap_remove(seat)
}

fn picks(backend: &Arc<Backend>, pins: &mut Vec<Pin>) -> String {
    pins.push(backend.pick(&NOBODY).unwrap());
    pins[pins.len() - 1].endpoint().name().to_owned()
}

/// Clients decide how often they dial: a line for each change would let them fill the log.
#[tokio::test(start_paused = true)]
async fn what_fails_and_works_by_turns_is_said_once() {
    let (trouble, second) = (Trouble::default(), Duration::from_secs(1));
    assert!(!trouble.ends(), "nothing has failed");
    assert!(trouble.begins());
    for _ in 0..100 {
        assert!(!trouble.ends());
        assert!(!trouble.begins());
        tokio::time::sleep(second).await;
    }
    tokio::time::sleep(9 * second).await;
    assert!(trouble.ends());
    assert!(!trouble.ends(), "said already");
    assert!(trouble.begins());
}

/// What an operator does for maintenance: a drain, then the server is stopped.
#[tokio::test]
async fn a_session_that_has_nothing_there_leaves_a_drained_endpoint_that_goes_down() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(&[]);
    for name in ["0", "1"] {
        let udp = HostPort::Address(socket.local_addr().unwrap());
        settings.endpoints.push(endpoint(name, None, Some(udp)));
    }
    let (backend, _metrics) = backend(settings);
    let [stays, leaves] = [backend.pick(&NOBODY).unwrap(), {
        drop(backend.pick(&NOBODY));
        backend.pick(&NOBODY).unwrap()
    }];
    backend.set_draining_of("0", true);
    let _socket = stays.open_udp(&client()).unwrap();
    assert_eq!(stays.endpoint().name(), "0", "it still serves those that were picked for it");

    let rules = Health { fall: 1, ..Health::default() };
    member(&backend, 0).checked(&rules, CheckResult::Refused, Instant::now());
    let _socket = leaves.open_udp(&client()).unwrap();
    assert_eq!((leaves.endpoint().name(), stays.endpoint().name()), ("1", "0"));
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
fn weights_are_obeyed() {
    let mut settings = settings(&[dead_address(); 2]);
    settings.endpoints[1].weight = 3;
    let (backend, _metrics) = backend(settings);
    let mut pins = Vec::new();
    let order: Vec<_> = (0..8).map(|_| picks(&backend, &mut pins)).collect();
    assert_eq!(order, ["1", "0", "1", "1", "1", "0", "1", "1"]);
}

#[test]
fn requests_with_one_hash_go_to_one_endpoint() {
    let mut settings = settings(&[dead_address(); 5]);
    settings.balance = Balance::Hash;
    settings.hash_on = HashOn::Capture("room".into());
    let (backend, _metrics) = backend(settings);
    let pick = |room: &str| {
        let captures = [("room".to_owned(), room.to_owned())];
        backend.pick(&RequestFacts { captures: &captures, ..NOBODY }).unwrap()
    };
    let rooms: Vec<_> = (0..50).map(|room: u8| room.to_string()).collect();
    let places = || rooms.iter().map(|room| pick(room).endpoint().name().to_owned());
    assert_eq!(places().collect::<Vec<_>>(), places().collect::<Vec<_>>());
    let all: std::collections::BTreeSet<_> = places().collect();
    assert_eq!(all.len(), 5, "each endpoint has some of the rooms");

    // A failed dial goes where the room would go without that endpoint.
    let pin = pick("7");
    let first = members(&backend).into_iter().find(|m| Arc::ptr_eq(m.endpoint(), &pin.endpoint()));
    let first = first.unwrap();
    assert!(pin.move_on(&[Arc::clone(&first)]));
    first.endpoint().set_draining(true);
    assert_eq!(pick("7").endpoint().name(), pin.endpoint().name());
}

#[test]
fn only_live_members_are_picked() {
    let (backend, _metrics) = backend(settings(&[dead_address(); 3]));
    let members = members(&backend);
    let mut pins = Vec::new();
    backend.set_draining_of("1", true);
    let order: Vec<_> = (0..4).map(|_| picks(&backend, &mut pins)).collect();
    assert_eq!(order, ["0", "2", "0", "2"]);

    members[0].eject(&Ejection::default(), Instant::now());
    assert_eq!(picks(&backend, &mut pins), "2");
    let once = Health { fall: 1, ..Health::default() };
    members[2].checked(&once, CheckResult::Refused, Instant::now());
    assert!(backend.pick(&NOBODY).is_none());

    backend.set_draining_of("1", false);
    assert_eq!(picks(&backend, &mut pins), "1");
}

/// What was picked before the operator drained it still goes there; what is dead is left.
#[tokio::test]
async fn a_session_that_has_not_begun_leaves_the_dead_but_not_the_drained() {
    let (listeners, addresses): (Vec<_>, Vec<_>) = (0..2).map(|_| listening()).unzip();
    let (backend, _metrics) = backend(settings(&addresses));
    let (drained, dead) = (backend.pick(&NOBODY).unwrap(), backend.pick(&NOBODY).unwrap());
    members(&backend)[1].eject(&Ejection::default(), Instant::now());
    dead.dial(&client()).await.unwrap();
    assert_eq!(dead.endpoint().name(), "0");

    backend.set_draining_of("0", true);
    drained.dial(&client()).await.unwrap();
    assert_eq!(drained.endpoint().name(), "0");
    drop(listeners);
}

#[tokio::test]
async fn sessions_of_a_drained_endpoint_are_told_and_no_others() {
    let (backend, _metrics) = backend(settings(&[dead_address(); 2]));
    let (one, other) = (backend.pick(&NOBODY).unwrap(), backend.pick(&NOBODY).unwrap());
    assert!(now(one.leaving()).is_none());

    backend.set_draining_of("0", true);
    assert!(now(one.leaving()).is_some());
    assert!(now(other.leaving()).is_none());

    backend.set_draining_of("0", false);
    assert!(now(backend.pick(&NOBODY).unwrap().leaving()).is_none());
}

/// A session is told about where it is, and not about where it was.
#[tokio::test]
async fn what_leaves_is_the_member_that_the_session_moved_to() {
    let (backend, _metrics) = backend(settings(&[dead_address(); 2]));
    let pin = backend.pick(&NOBODY).unwrap();
    let mut leaving = std::pin::pin!(pin.leaving());
    assert!(now(leaving.as_mut()).is_none());
    let first = member(&backend, 0);
    assert!(pin.move_on(&[first]));

    backend.set_draining_of("0", true);
    assert!(now(leaving.as_mut()).is_none());
    backend.set_draining_of("1", true);
    assert!(now(leaving).is_some());
}

#[test]
fn a_backend_without_any_address_is_not_picked() {
    let mut settings = settings(&[]);
    let nowhere = HostPort::Name("nowhere.invalid".into(), 1);
    settings.endpoints.push(endpoint("a", Some(nowhere), None));
    assert!(backend(settings).0.pick(&NOBODY).is_none());
}

#[tokio::test]
async fn a_connection_is_counted_while_it_lives() {
    let (_listener, address) = listening();
    let (backend, metrics) = backend(settings(&[address]));
    let tcp = backend.pick(&NOBODY).unwrap().dial(&client()).await.unwrap();

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
    let pin = backend.pick(&NOBODY).unwrap();

    pin.dial(&client()).await.unwrap();

    assert_eq!(pin.endpoint().name(), "1");
    assert_eq!(backend.endpoints[0].metrics.refused.get(), 1);
    assert_eq!(backend.endpoints[1].metrics.connected.get(), 1);
}

#[tokio::test]
async fn each_endpoint_is_tried_once_before_giving_up() {
    let (backend, _metrics) = backend(settings(&[dead_address(), dead_address()]));
    let error = backend.pick(&NOBODY).unwrap().dial(&client()).await.unwrap_err();

    assert!(matches!(error, DialError::Refused), "{error:?}");
    assert!(backend.endpoints.iter().all(|e| e.metrics.refused.get() == 1));
}

/// The endpoint may keep state for the session, so a later failure must not move it.
#[tokio::test]
async fn a_session_does_not_move_once_it_has_a_connection() {
    let (gone, first) = listening();
    let (_listener, second) = listening();
    let (backend, _metrics) = backend(settings(&[first, second]));
    let pin = backend.pick(&NOBODY).unwrap();
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
    let pin = backend.pick(&NOBODY).unwrap();

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
    let mut tcp = backend.pick(&NOBODY).unwrap().dial(&client()).await.unwrap();
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

    let tcp = backend.pick(&NOBODY).unwrap().dial(&long).await.unwrap();
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

    let error = backend.pick(&NOBODY).unwrap().dial(&client()).await.unwrap_err();
    assert!(matches!(error, DialError::Failed(_)), "{error:?}");
    let end = listener.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_connection_resets_and_a_closed_one_finishes() {
    let (listener, address) = listening();
    let (backend, _metrics) = backend(settings(&[address]));
    let pin = backend.pick(&NOBODY).unwrap();
    let mut end = [0];

    drop(pin.dial(&client()).await.unwrap());
    let error = listener.accept().unwrap().0.read(&mut end).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    pin.dial(&client()).await.unwrap().close();
    assert_eq!(listener.accept().unwrap().0.read(&mut end).unwrap(), 0);
}
