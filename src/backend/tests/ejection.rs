//! Members that fail in use, on real sockets.

use bytes::Bytes;

use super::*;
use crate::config::Limit;

fn after(failures: u64, percent: u32, tcp: &[SocketAddr]) -> (Arc<Backend>, Metrics) {
    let mut settings = settings(tcp);
    settings.ejection.consecutive_failures = Limit::AtMost(failures);
    settings.ejection.max_ejected_percent = percent;
    backend(settings)
}

fn states(backend: &Backend) -> Vec<&'static str> {
    members(backend).iter().map(|member| member.state().word()).collect()
}

/// Dials from each endpoint's turn once.
async fn dial_all(backend: &Arc<Backend>) {
    for _ in 0..backend.endpoints.len() {
        _ = backend.pick(&NOBODY).unwrap().dial(&client()).await;
    }
}

#[tokio::test]
async fn failed_dials_in_a_row_leave_an_endpoint_out_until_its_time_is_over() {
    let (_listener, alive) = listening();
    let (backend, _metrics) = after(2, 50, &[dead_address(), alive]);
    dial_all(&backend).await;
    assert_eq!(states(&backend), ["live", "live"]);
    dial_all(&backend).await;
    assert_eq!(states(&backend), ["ejected", "live"]);
    let numbers = &backend.endpoints[0].pool;
    assert_eq!((numbers.ejections.get(), backend.endpoints[1].pool.ejections.get()), (1, 0));

    let mut pins = Vec::new();
    assert!((0..10).all(|_| picks(&backend, &mut pins) == "1"));
    assert_eq!(backend.endpoints[0].metrics.refused.get(), 2);

    let end = backend.readmit(Instant::now()).unwrap();
    backend.show();
    assert_eq!((numbers.up.get(), states(&backend)), (0, vec!["ejected", "live"]));
    assert_eq!(backend.readmit(end), None);
    backend.show();
    assert_eq!((numbers.up.get(), states(&backend)), (1, vec!["live", "live"]));
    // Judged anew: one failure is not enough.
    dial_all(&backend).await;
    assert_eq!(states(&backend), ["live", "live"]);
}

#[tokio::test]
async fn a_success_in_between_begins_the_count_anew() {
    let (_listener, alive) = listening();
    let (backend, _metrics) = after(2, 50, &[alive, alive]);
    let member = member(&backend, 0);
    for _ in 0..3 {
        backend.member_failed(&member);
        dial_all(&backend).await;
    }
    assert_eq!(states(&backend), ["live", "live"]);
}

/// Trying it is better than refusing everybody.
#[tokio::test]
async fn the_only_endpoint_is_never_left_out() {
    let (backend, _metrics) = after(1, 50, &[dead_address()]);
    dial_all(&backend).await;
    assert_eq!(states(&backend), ["live"]);
}

/// Datagrams that are refused end here, each on its worker: what the control side is doing must not
/// hold them up.
#[tokio::test]
async fn a_failure_that_can_leave_nobody_out_waits_for_nobody() {
    let (backend, _metrics) = after(1, 50, &[dead_address()]);
    let (member, other) = (member(&backend, 0), Arc::clone(&backend));
    let (done, is_done) = std::sync::mpsc::channel();
    let control = lock(&backend.known);
    std::thread::spawn(move || {
        other.member_failed(&member);
        _ = done.send(());
    });
    is_done.recv_timeout(Duration::from_secs(20)).expect("it waits for the control side");
    drop(control);
    assert_eq!(states(&backend), ["live"]);
}

#[tokio::test]
async fn no_more_than_the_share_is_left_out_whatever_the_others_are_out_for() {
    let (backend, _metrics) = after(1, 50, &[dead_address(); 4]);
    backend.set_draining_of("3", true);
    dial_all(&backend).await;
    assert_eq!(states(&backend), ["ejected", "live", "live", "draining"]);
}

#[tokio::test]
async fn with_all_of_them_left_out_nobody_is_picked() {
    let (backend, _metrics) = after(1, 100, &[dead_address(); 2]);
    _ = backend.pick(&NOBODY).unwrap().dial(&client()).await;
    assert_eq!(states(&backend), ["ejected", "ejected"]);
    assert!(backend.pick(&NOBODY).is_none());
}

#[tokio::test]
async fn ejection_can_be_switched_off() {
    let mut settings = settings(&[dead_address(); 2]);
    settings.ejection.consecutive_failures = Limit::Unlimited;
    let (backend, _metrics) = backend(settings);
    for _ in 0..10 {
        dial_all(&backend).await;
    }
    assert_eq!(states(&backend), ["live", "live"]);
}

/// What only the gateway lacks says nothing about an endpoint.
#[tokio::test]
async fn failures_of_the_gateways_own_eject_nobody() {
    let own = DialError::from(std::io::Error::from_raw_os_error(libc::EMFILE));
    assert!(!own.is_the_endpoints() && !DialError::Unresolved.is_the_endpoints());
    assert!(DialError::Refused.is_the_endpoints() && DialError::Timeout.is_the_endpoints());
}

/// Two UDP endpoints: where nobody listens any more, and where the second socket does.
fn udp_pair() -> (Arc<Backend>, std::net::UdpSocket) {
    let alive = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = std::net::UdpSocket::bind("127.0.0.9:0").unwrap().local_addr().unwrap();
    let mut settings = settings(&[]);
    for (name, address) in [("0", dead), ("1", alive.local_addr().unwrap())] {
        settings.endpoints.push(endpoint(name, None, Some(HostPort::Address(address))));
    }
    (backend(settings).0, alive)
}

#[tokio::test]
async fn refused_datagrams_leave_a_udp_endpoint_out() {
    let (backend, _alive) = udp_pair();
    let pin = backend.pick(&NOBODY).unwrap();
    let socket = pin.open_udp(&client()).unwrap();
    until(|| {
        _ = socket.send(&[Bytes::from_static(b"anybody?")]);
        backend.endpoints[0].pool.ejections.get() == 1
    })
    .await;
    assert_eq!(states(&backend), ["ejected", "live"]);
    assert_eq!(pin.endpoint().name(), "0", "the session stays");
}

#[tokio::test]
async fn an_answer_begins_the_count_of_a_udp_endpoint_anew() {
    let (backend, alive) = udp_pair();
    drop(backend.pick(&NOBODY));
    let pin = backend.pick(&NOBODY).unwrap();
    assert_eq!(pin.endpoint().name(), "1");
    let socket = pin.open_udp(&client()).unwrap();
    let member = member(&backend, 1);
    assert_eq!(member.failed(), 1);

    socket.send(&[Bytes::from_static(b"hello")]).unwrap();
    let (_, gateway) = alive.recv_from(&mut [0; 8]).unwrap();
    alive.send_to(b"hello", gateway).unwrap();
    socket.readable().await.unwrap();
    let mut received = Vec::new();
    socket.receive(|datagram| received.extend_from_slice(datagram)).unwrap();
    assert_eq!((&received[..], member.failed()), (&b"hello"[..], 1));
}
