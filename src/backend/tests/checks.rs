//! Active checks against real servers: that refuse, hang, answer wrong, slowly or right.

#![allow(clippy::disallowed_methods, reason = "tests play the servers")]

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net,
};

use super::{super::member::Addresses, *};
use crate::lifecycle::Lifecycle;
use crate::{
    config::{Check, Payload, Statuses},
    reason::CheckResult,
};

fn payload(text: &str) -> Payload {
    Payload(text.as_bytes().to_vec())
}

fn tcp(send: &str, expect: &str) -> Check {
    Check::Tcp { send: payload(send), expect: payload(expect) }
}

fn udp(send: &str, expect: &str) -> Check {
    Check::Udp { send: payload(send), expect: payload(expect) }
}

fn http(path: &str, host: Option<&str>) -> Check {
    Check::Http { path: path.into(), host: host.map(str::to_owned), status: Statuses::default() }
}

/// What a check of this address finds, with so much time.
async fn ask_within(time: u64, check: Check, at: SocketAddr) -> CheckResult {
    let health = Health { check, timeout: Duration::from_millis(time), ..Health::default() };
    let addresses = Addresses { unix: None, tcp: vec![at], udp: vec![at] };
    check::run(&health, &addresses).await
}

/// The same with more time than it can take.
async fn ask(check: Check, at: SocketAddr) -> CheckResult {
    ask_within(20_000, check, at).await
}

/// A server that reads so many bytes and answers in pieces; it never closes by itself if `stays`.
async fn server(reads: usize, answer: &'static [&'static [u8]], stays: bool) -> SocketAddr {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = vec![0; reads];
            _ = stream.read_exact(&mut read).await;
            for piece in answer {
                _ = stream.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            if stays {
                _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_tcp_check_passes_where_somebody_listens() {
    let (_listener, address) = listening();
    assert_eq!(ask(tcp("", ""), address).await, CheckResult::Passed);
    assert_eq!(ask(tcp("", ""), dead_address()).await, CheckResult::Refused);
}

#[tokio::test]
async fn a_tcp_check_passes_with_the_expected_answer_alone() {
    let right = server(4, &[b"PO", b"NG", b" and more"], true).await;
    assert_eq!(ask(tcp("PING", "PONG"), right).await, CheckResult::Passed);
    assert_eq!(ask(tcp("PING", "PANG"), right).await, CheckResult::WrongAnswer);
    let short = server(4, &[b"PO"], false).await;
    assert_eq!(ask(tcp("PING", "PONG"), short).await, CheckResult::WrongAnswer);
}

#[tokio::test]
async fn a_tcp_check_waits_no_longer_than_its_timeout() {
    let silent = server(4, &[], true).await;
    assert_eq!(ask_within(50, tcp("PING", "PONG"), silent).await, CheckResult::Timeout);
    let slow = server(4, &[b"PON"], true).await;
    assert_eq!(ask_within(50, tcp("PING", "PONG"), slow).await, CheckResult::Timeout);
}

/// A server whose answer to each datagram is this; to none if there is none.
async fn udp_server(answer: Option<&'static [u8]>) -> SocketAddr {
    let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            assert_eq!(&buffer[..length], b"PING");
            if let Some(answer) = answer {
                _ = socket.send_to(answer, from).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_udp_check_wants_an_answer_and_the_right_one_if_it_is_said() {
    let nobody = std::net::UdpSocket::bind("127.0.0.9:0").unwrap().local_addr().unwrap();
    for (answer, expect, result) in [
        (Some(&b"PONG 7"[..]), "PONG", CheckResult::Passed),
        (Some(b"PONG 7"), "", CheckResult::Passed),
        (Some(b""), "", CheckResult::Passed),
        (Some(b"PO"), "PONG", CheckResult::WrongAnswer),
        (Some(b"what?"), "PONG", CheckResult::WrongAnswer),
    ] {
        let found = ask(udp("PING", expect), udp_server(answer).await).await;
        assert_eq!(found, result, "{answer:?} {expect}");
    }
    let silent = udp_server(None).await;
    assert_eq!(ask_within(50, udp("PING", ""), silent).await, CheckResult::Timeout);
    assert_eq!(ask(udp("PING", ""), nobody).await, CheckResult::Refused);
}

#[tokio::test]
async fn an_http_check_goes_by_the_status() {
    for (answer, result) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"[..], CheckResult::Passed),
        (b"HTTP/1.0 302 Found\r\n\r\n", CheckResult::Passed),
        (b"HTTP/1.1 503 No\r\n\r\n", CheckResult::WrongAnswer),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n\r\n", CheckResult::WrongAnswer),
        (b"SSH-2.0-OpenSSH\r\n", CheckResult::WrongAnswer),
        (b"HTTP/1.1 20", CheckResult::Failed),
        (b"", CheckResult::Failed),
    ] {
        let server = server(20, Box::leak(Box::new([answer])), false).await;
        let found = ask(http("/", None), server).await;
        assert_eq!(found, result, "{}", String::from_utf8_lossy(answer));
    }
    assert_eq!(ask(http("/", None), dead_address()).await, CheckResult::Refused);
    let silent = server(20, &[], true).await;
    assert_eq!(ask_within(50, http("/", None), silent).await, CheckResult::Timeout);
}

/// A backend must not be able to fill the gateway's memory, nor to keep it busy.
#[tokio::test]
async fn an_endless_head_is_a_wrong_answer() {
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flood = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        let mut sent = 0;
        while let Ok(more) = stream.write(&[b'x'; 4096]).await {
            sent += more;
        }
        sent
    });
    assert_eq!(ask(http("/", None), address).await, CheckResult::WrongAnswer);
    // What the kernels hold beside the 16 KiB.
    assert!(flood.await.unwrap() < 16 << 20);
}

#[tokio::test]
async fn an_http_check_asks_for_the_configured_path_and_host() {
    for (check, head) in [
        (http("/", None), "GET / HTTP/1.1\r\nhost: ADDRESS\r\n"),
        (http("/up?x=1", Some("game.test")), "GET /up?x=1 HTTP/1.1\r\nhost: game.test\r\n"),
    ] {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(ask(check, address));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();

        let request = String::from_utf8_lossy(&request[..length]);
        let head = head.replace("ADDRESS", &address.to_string());
        assert!(request.starts_with(&head), "{request}");
        assert_eq!(asked.await.unwrap(), CheckResult::Passed);
    }
}

#[tokio::test]
async fn another_port_is_asked_at_the_same_host() {
    let (_listener, address) = listening();
    let at = SocketAddr::new(address.ip(), 1);
    let (tcp_alone, udp_alone) = (
        Addresses { tcp: vec![at], ..Addresses::default() },
        Addresses { udp: vec![at], ..Addresses::default() },
    );
    for addresses in [tcp_alone, udp_alone] {
        let port = Some(address.port());
        let health = Health { check: tcp("", ""), port, ..Health::default() };
        assert_eq!(check::run(&health, &addresses).await, CheckResult::Passed);
    }
}

/// The whole way: checked, down after so many, told, up again after so many.
#[tokio::test]
async fn an_endpoint_goes_down_and_comes_back_with_its_checks() {
    let (listener, address) = listening();
    let mut settings = settings(&[address, dead_address()]);
    settings.health.check = tcp("", "");
    settings.health.interval = Duration::from_millis(10);
    let (backend, _metrics) = backend(settings);
    let pins = [backend.pick(&NOBODY).unwrap(), backend.pick(&NOBODY).unwrap()];
    let up = |at: usize| backend.endpoints[at].pool.up.get();
    assert_eq!((up(0), up(1)), (1, 1), "everyone begins up");
    let lifecycle = Lifecycle::new();
    let all = Arc::new(Backends([("test".to_owned(), Arc::clone(&backend))].into()));
    let keeper = Keeper::new(lifecycle.clone());
    keeper.keep(&all);

    until(|| up(1) == 0).await;
    assert!(backend.endpoints[1].pool.checks.get(CheckResult::Refused) >= 3);
    until(|| now(pins[1].leaving()).is_some()).await;
    assert!(now(pins[0].leaving()).is_none());
    drop(listener);
    until(|| up(0) == 0).await;
    assert!(backend.pick(&NOBODY).is_none());

    let passed = backend.endpoints[0].pool.checks.get(CheckResult::Passed);
    let _again = TcpListener::bind(address).unwrap();
    until(|| up(0) == 1).await;
    assert!(backend.endpoints[0].pool.checks.get(CheckResult::Passed) >= passed + 2);
    assert_eq!(backend.pick(&NOBODY).unwrap().endpoint().name(), "0");
    lifecycle.begin_drain();
    lifecycle.all_tasks_ended().await;
}

/// Each check that failed because the gateway has no descriptors says nothing about the endpoint.
#[test]
fn what_the_gateway_lacks_takes_nobody_down() {
    let (backend, _metrics) = backend(settings(&[dead_address()]));
    let member = member(&backend, 0);
    let once = Health { fall: 1, ..Health::default() };
    assert_eq!(member.checked(&once, CheckResult::OutOfResources, Instant::now()), None);
    assert!(member.is_live());
    assert_eq!(member.checked(&once, CheckResult::Refused, Instant::now()), Some(false));
}

#[tokio::test]
async fn a_unix_socket_is_asked_like_an_address() {
    let folder = std::env::temp_dir().join(format!("tidegate-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("backend.sock");
    let listener = net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4];
            _ = stream.read_exact(&mut asked).await;
            let answer: &[u8] =
                if asked == *b"PING" { b"PONG" } else { b"HTTP/1.1 204 Ok\r\n\r\n" };
            _ = stream.write_all(answer).await;
            _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let addresses = Addresses { unix: Some(path.as_path().into()), ..Addresses::default() };
    for (check, found) in [
        (tcp("", ""), CheckResult::Passed),
        (tcp("PING", "PONG"), CheckResult::Passed),
        (tcp("PING", "PING"), CheckResult::WrongAnswer),
        (http("/", None), CheckResult::Passed),
    ] {
        let health = Health { check, timeout: Duration::from_secs(20), ..Health::default() };
        assert_eq!(check::run(&health, &addresses).await, found, "{:?}", health.check);
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let health = Health { check: tcp("", ""), ..Health::default() };
    assert_eq!(check::run(&health, &addresses).await, CheckResult::Failed);
}
