//! Many endpoints that come and go: who gets new sessions, and what becomes of the old ones.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tidegate::{
    backend::Resolve,
    client::{Refused, RequestOptions, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{
    credentials::{Dir, bearer, line},
    harness::{Setup, TestGateway, pattern, soon},
};

/// A server that says its name of one byte and then sends back what it gets. Dropping it kills it with
/// all of its connections.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(name: u8) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), name).await
    }

    async fn start_at(address: SocketAddr, name: u8) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    stream.write_all(&[name]).await?;
                    let (mut rx, mut tx) = stream.split();
                    tokio::io::copy(&mut rx, &mut tx).await?;
                    tx.shutdown().await
                });
            }
        });
        Self { address, task }
    }

    /// Kills it and waits until its port is free.
    async fn kill(self) -> SocketAddr {
        let address = self.address;
        self.task.abort();
        soon(async {
            while !self.task.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await;
        address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A gateway with one route to the endpoints "a" and "b", and further keys of the backend.
async fn gateway(a: SocketAddr, b: SocketAddr, keys: &str) -> TestGateway {
    setup(&format!(
        "endpoints = [{{ name = \"a\", tcp = \"{a}\" }}, {{ name = \"b\", tcp = \"{b}\" }}]\n{keys}"
    ))
    .start()
    .await
}

fn setup(backend: &str) -> Setup {
    Setup::new().tables(&format!(
        "[[route]]\nname = \"game\"\npath = \"/game/{{room}}\"\norigins = \"any\"\n\
         backend = \"game\"\ndatagrams = \"drop\"\n[backend.game]\n{backend}\n"
    ))
}

const CHECKED: &str = "health = { check = \"tcp\", interval = \"20ms\" }";

async fn is_up(gateway: &TestGateway, endpoint: &str, up: bool) {
    let labels = [("endpoint", endpoint)];
    gateway.metric_reaches("tidegate_backend_up", &labels, f64::from(u8::from(up))).await;
}

/// Opens a stream and sends `bytes` through it. Who answered, having sent back just that.
async fn echo(session: &Session, bytes: &[u8]) -> u8 {
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    soon(send.write(bytes)).await.unwrap();
    send.finish();
    let answer = soon(recv.read_to_end(1 << 20)).await.unwrap();
    assert_eq!(&answer[1..], bytes);
    answer[0]
}

/// Who serves each of so many new sessions.
async fn who_serves(gateway: &TestGateway, sessions: usize) -> BTreeSet<u8> {
    let mut servers = BTreeSet::new();
    for _ in 0..sessions {
        servers.insert(echo(&gateway.session("/game/1").await, b"who?").await);
    }
    servers
}

/// Status and body of a request to the admin listener.
async fn admin(gateway: &TestGateway, request: &str) -> (String, String) {
    let address = gateway.running().admin_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn while_an_endpoint_is_dead_the_other_serves_and_loses_nothing() {
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let gateway = gateway(a.address, b.address, CHECKED).await;
    let sessions = [gateway.session("/game/1").await, gateway.session("/game/2").await];
    assert_eq!(echo(&sessions[0], b"first").await, b'a');
    let (mut send, mut recv) = soon(sessions[1].open_bidi()).await.unwrap();
    let bytes = pattern(300_000, 1);
    soon(send.write(&bytes[..1000])).await.unwrap();
    let mut answer = soon(recv.read()).await.unwrap().unwrap().to_vec();

    let port = a.kill().await;
    is_up(&gateway, "a", false).await;
    assert_eq!(who_serves(&gateway, 6).await, BTreeSet::from([b'b']));
    // The stream that was open on the other goes on where it was.
    let sending = async {
        send.write(&bytes[1000..]).await.unwrap();
        send.finish();
    };
    let reading = recv.read_to_end(1 << 20);
    let (_, rest) = soon(async { tokio::join!(sending, reading) }).await;
    answer.extend(rest.unwrap());
    assert_eq!((answer[0], answer.len()), (b'b', bytes.len() + 1));
    assert!(answer[1..] == bytes, "other bytes came back");

    let _again = Server::start_at(port, b'a').await;
    is_up(&gateway, "a", true).await;
    assert_eq!(who_serves(&gateway, 6).await, BTreeSet::from(*b"ab"));
    gateway.shut_down().await;
}

#[tokio::test]
async fn with_every_endpoint_dead_sessions_are_refused_with_503_and_when_to_come_back() {
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let gateway = gateway(a.address, b.address, CHECKED).await;
    let port = a.kill().await;
    b.kill().await;
    is_up(&gateway, "a", false).await;
    is_up(&gateway, "b", false).await;

    let refused = gateway.try_session("/game/1", &RequestOptions::default()).await.unwrap_err();
    let Refused::Status { status, reason, headers } = refused else { panic!("{refused}") };
    assert_eq!((status.as_u16(), reason.as_deref()), (503, Some("backend_unavailable")));
    assert_eq!(headers["retry-after"], "5");
    let labels = [("reason", "backend_unavailable"), ("route", "game")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;

    let _again = Server::start_at(port, b'a').await;
    is_up(&gateway, "a", true).await;
    assert_eq!(who_serves(&gateway, 2).await, BTreeSet::from([b'a']));
    gateway.shut_down().await;
}

/// Without any checks: each session finds the other endpoint, and after a few the dead one is not even
/// tried.
#[tokio::test]
async fn an_endpoint_that_fails_in_use_is_left_out() {
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let gateway =
        gateway(a.address, b.address, "ejection = { base_time = \"1h\", max_time = \"1h\" }").await;
    a.kill().await;
    assert_eq!(who_serves(&gateway, 12).await, BTreeSet::from([b'b']));
    let of_a = |name, result| gateway.metric(name, &[("endpoint", "a"), ("result", result)]);
    assert!((of_a("tidegate_backend_connects_total", "refused") - 5.0).abs() < 0.5);
    let labels = [("endpoint", "a"), ("backend", "game")];
    gateway.metric_reaches("tidegate_backend_ejections_total", &labels, 1.0).await;
    is_up(&gateway, "a", false).await;

    let (_, body) = admin(&gateway, "GET /api/backends").await;
    assert!(body.contains("\"state\":\"ejected\""), "{body}");
    gateway.shut_down().await;
}

/// G3: the client is told once that its endpoint goes away, and may go on.
#[tokio::test]
async fn draining_an_endpoint_tells_its_sessions_and_moves_none() {
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let gateway = gateway(a.address, b.address, "").await;
    let [on_a, on_b] = [gateway.session("/game/1").await, gateway.session("/game/2").await];
    assert_eq!([echo(&on_a, b"1").await, echo(&on_b, b"2").await], *b"ab");
    let (mut send, mut recv) = soon(on_a.open_bidi()).await.unwrap();
    soon(send.write(b"before")).await.unwrap();

    let answer = admin(&gateway, "POST /api/backends/game/endpoints/a/drain").await;
    assert_eq!(answer, ("200".to_owned(), "draining\n".to_owned()));
    assert!(soon(on_a.draining()).await, "the client was not told");
    is_up(&gateway, "a", false).await;

    // What is open goes on, what the session opens goes where it was, and new sessions do not.
    soon(send.write(b" and after")).await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"abefore and after");
    assert_eq!(echo(&on_a, b"still here").await, b'a');
    assert_eq!(who_serves(&gateway, 4).await, BTreeSet::from([b'b']));
    let (_, body) = admin(&gateway, "GET /api/backends").await;
    assert!(
        body.contains("\"name\":\"a\",\"state\":\"draining\",\"weight\":1,\"sessions\":1"),
        "{body}"
    );
    tokio::select! {
        biased;
        _ = on_b.draining() => panic!("told a session of the other endpoint"),
        () = std::future::ready(()) => {}
    }

    admin(&gateway, "POST /api/backends/game/endpoints/a/resume").await;
    assert_eq!(who_serves(&gateway, 4).await, BTreeSet::from(*b"ab"));
    gateway.shut_down().await;
}

/// G3. What is checked is another port, so that the endpoint itself still serves.
#[tokio::test]
async fn an_endpoint_that_goes_down_tells_its_sessions_and_they_go_on() {
    let (a, b, health) = (
        Server::start(b'a').await,
        Server::start_at("127.0.0.2:0".parse().unwrap(), b'b').await,
        Server::start(b'+').await,
    );
    let port = health.address.port();
    let _health_of_b = Server::start_at(SocketAddr::new(b.address.ip(), port), b'+').await;
    let keys = format!(
        "health = {{ check = \"tcp\", interval = \"20ms\", port = {port}, expect = \"+\" }}"
    );
    let gateway = gateway(a.address, b.address, &keys).await;
    let session = gateway.session("/game/1").await;
    assert_eq!(echo(&session, b"before").await, b'a');
    let idle = gateway.session("/game/1").await;
    assert_eq!(echo(&idle, b"other").await, b'b');

    health.kill().await;
    assert!(soon(session.draining()).await, "the client was not told");
    assert_eq!(echo(&session, &pattern(100_000, 2)).await, b'a');
    assert_eq!(who_serves(&gateway, 4).await, BTreeSet::from([b'b']));
    gateway.shut_down().await;
}

/// Two gateways that know nothing of each other send a room to the same server.
#[tokio::test]
async fn a_room_goes_to_one_endpoint_on_every_gateway() {
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let keys = "balance = \"hash\"\nhash_on = \"capture:room\"";
    let mut seen = Vec::new();
    for _ in 0..2 {
        let gateway = gateway(a.address, b.address, keys).await;
        let mut servers = Vec::new();
        for room in 0..12 {
            let path = format!("/game/{room}");
            let one = echo(&gateway.session(&path).await, b"1").await;
            assert_eq!(echo(&gateway.session(&path).await, b"2").await, one, "{path}");
            servers.push(one);
        }
        gateway.shut_down().await;
        seen.push(servers);
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].contains(&b'a') && seen[0].contains(&b'b'), "{:?}", seen[0]);
}

/// Whatever path a client asks for, and from whichever connection: who it is says where it goes.
#[tokio::test]
async fn a_client_goes_by_its_claim_to_one_endpoint() {
    let (a, b, dir) = (Server::start(b'a').await, Server::start(b'b').await, Dir::new("hashed"));
    let tokens: Vec<_> = (0..12).map(|n| format!("token-of-robot-{n}")).collect();
    let named = tokens.iter().enumerate().map(|(n, token)| line(&format!("robot-{n}"), token));
    let file = dir.write("robots.tokens", named.collect::<String>());
    let setup = Setup::new().tables(&format!(
        "[[route]]\nname = \"game\"\npath = \"/game/{{room}}\"\norigins = \"any\"\nbackend = \"game\"\n\
         datagrams = \"drop\"\ncredentials = [\"robots\"]\n[credential.robots]\ntokens = {file:?}\n\
         [backend.game]\nbalance = \"hash\"\nhash_on = \"claim:sub\"\n\
         endpoints = [{{ name = \"a\", tcp = \"{}\" }}, {{ name = \"b\", tcp = \"{}\" }}]\n",
        a.address, b.address
    ));
    let gateway = setup.start().await;
    let mut servers = BTreeSet::new();
    for token in &tokens {
        let mut of_one = BTreeSet::new();
        for path in ["/game/1", "/game/2", "/game/3"] {
            let session = gateway.try_session(path, &bearer(token)).await.unwrap();
            of_one.insert(echo(&session, b"who?").await);
        }
        assert_eq!(of_one.len(), 1, "{token}");
        servers.extend(of_one);
    }
    assert_eq!(servers, BTreeSet::from([b'a', b'b']));
    gateway.shut_down().await;
}

/// Knows one name, until it does not; and how often it was asked since.
#[derive(Debug, Default)]
struct Forgetful {
    has_forgotten: AtomicBool,
    asked_in_vain: AtomicUsize,
}

impl Resolve for Forgetful {
    fn look_up<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>> {
        assert_eq!(host, "game.internal");
        let answer = if self.has_forgotten.load(Ordering::Relaxed) {
            self.asked_in_vain.fetch_add(1, Ordering::Relaxed);
            Err("gone".to_owned())
        } else {
            Ok(vec!["127.0.0.1:0".parse().unwrap()])
        };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn a_name_that_stops_resolving_keeps_its_address() {
    let a = Server::start(b'a').await;
    let resolver = Arc::new(Forgetful::default());
    let setup = setup(&format!(
        "resolve_interval = \"1s\"\nendpoints = [{{ tcp = \"game.internal:{}\" }}]",
        a.address.port()
    ));
    let gateway = setup.start_with(Arc::clone(&resolver) as _).await;
    let before = gateway.session("/game/1").await;
    assert_eq!(echo(&before, b"known").await, b'a');

    resolver.has_forgotten.store(true, Ordering::Relaxed);
    soon(async {
        // Once a second; nothing announces it.
        while resolver.asked_in_vain.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(echo(&gateway.session("/game/1").await, b"still").await, b'a');
    is_up(&gateway, "0", true).await;
    gateway.shut_down().await;
}
