//! Does one thing so many times, for `benches/instructions/run` to count the instructions of.
//!
//! The gateway's own code from a session's request to a backend's socket, with a client in memory in place of
//! QUIC and without cryptography, on one thread. The backend is in this very program and costs a few hundred
//! instructions for each thing; what the kernel does is not counted. Twice as many times less once gives what
//! a time costs, without the start and the end.
#![allow(clippy::print_stderr, reason = "a program that says how it is used")]

mod client;

use std::{
    fmt::Write as _,
    hint::black_box,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use tidegate::{
    backend::{Backends, Resolve, SystemResolver},
    config::Config,
    lifecycle::Lifecycle,
    limit::{Clients, Memory},
    metrics::Metrics,
    route::RouteTable,
    session::{self, SessionContext, Tables},
    transport::{Authorization, RequestHead},
    webtransport::OfflineRequest,
};
use tokio::task::yield_now;

use self::client::{Asked, Client, Down, Up};

/// A chunk as it comes in a packet, and a datagram.
const CHUNK: &[u8] = &[7; 1200];
/// What a server writes at once.
const REPLY: &[u8] = &[7; 16 * 1024];
const DATAGRAM: &[u8] = &[7; 64];
/// Routes that a lookup chooses from. More would only make the start dearer, and with it what is to be told apart
/// from it: each has its own series of metrics.
const ROUTES: usize = 20;

/// What can be done: the word for it, and how.
const UNITS: [&str; 11] = [
    "chunk-up",
    "chunk-up-32",
    "chunk-down-16k",
    "datagram-up",
    "datagram-up-16",
    "datagram-down",
    "stream",
    "session",
    "refusal",
    "route",
    "head",
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [unit, times] = &arguments[..] else {
        eprintln!("benches/instructions/run counts; this does one of {UNITS:?} so many times.");
        return ExitCode::SUCCESS;
    };
    let times = times.parse().expect("a number of times");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(Stage::new().run(unit, times));
    ExitCode::SUCCESS
}

/// A gateway without its edge, and what is behind it.
struct Stage {
    context: Arc<SessionContext>,
    lifecycle: Lifecycle,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Stage {
    fn new() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        tcp.set_nonblocking(true).expect("a socket can");
        udp.set_nonblocking(true).expect("a socket can");
        let mut text = format!(
            "version = 1\n[limits.per_client]\nsession_rate = \"unlimited\"\n\
             [[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"a.test\"]\n\
             [backend.b]\nendpoints = [{{ tcp = \"{}\", udp = \"{}\" }}]\n",
            tcp.local_addr().expect("an address"),
            udp.local_addr().expect("an address")
        );
        for number in 0..ROUTES {
            writeln!(
                text,
                "[[route]]\npath = \"/game{number}/{{room}}\"\nbackend = \"b\"\n\
                 origins = [\"https://play.example.com\"]\nlimits = {{ stream_rate = \"unlimited\" }}"
            )
            .expect("strings take everything");
        }
        let config = Config::parse(&text, "bench", Path::new(".")).expect("a good configuration");
        let metrics = Metrics::new();
        let resolver: Arc<dyn Resolve> = Arc::new(SystemResolver);
        let tables = Tables {
            routes: RouteTable::new(&config.routes, &metrics),
            backends: Arc::new(Backends::new(&config.backends, &metrics, &resolver, None)),
            end_removed: false,
        };
        let lifecycle = Lifecycle::new();
        let context = SessionContext::new(
            tables,
            config.limits.sessions,
            Arc::new(Clients::new(config.limits.per_client.clone(), metrics.clients())),
            Arc::new(Memory::new(config.limits.memory, metrics.memory())),
            lifecycle.clone(),
            metrics,
        );
        Self { context: Arc::new(context), lifecycle, tcp, udp }
    }

    async fn run(self, unit: &str, times: usize) {
        match unit {
            "chunk-up" => self.chunks_up(times, 1).await,
            "chunk-up-32" => self.chunks_up(times, 32).await,
            "chunk-down-16k" => self.chunks_down(times).await,
            "datagram-up" => self.datagrams_up(times, 1).await,
            "datagram-up-16" => self.datagrams_up(times, 16).await,
            "datagram-down" => self.datagrams_down(times).await,
            "stream" => self.streams(times).await,
            "session" => {
                for _ in 0..times {
                    self.session("/game7/lobby").await.close();
                    until(|| self.context.sessions().is_empty()).await;
                }
            }
            "refusal" => {
                for _ in 0..times {
                    let client = self.ask("/nowhere");
                    until(|| client.is_refused()).await;
                }
            }
            "route" => {
                let (tables, head) = (self.context.tables(), head("/game7/lobby"));
                for _ in 0..times {
                    assert!(tables.routes.lookup(black_box(&head)).is_ok());
                }
            }
            "head" => {
                let request = offline();
                for _ in 0..times {
                    assert!(black_box(&request).read(16 * 1024).is_ok());
                }
            }
            other => eprintln!("{other} is none of {UNITS:?}"),
        }
    }

    fn ask(&self, path: &str) -> Arc<Client> {
        let client = Arc::new(Client::default());
        let request = Asked(head(path), Arc::clone(&client));
        self.lifecycle.spawn(session::run(request, Arc::clone(&self.context)));
        client
    }

    async fn session(&self, path: &str) -> Arc<Client> {
        let client = self.ask(path);
        until(|| client.events().is_some()).await;
        client
    }

    /// A stream with its backend's end.
    async fn stream(&self, client: &Client) -> (Up, Down, TcpStream) {
        let (up, down) = (Up::default(), Down::default());
        client.events().expect("it is accepted").bidi(down.clone(), up.clone());
        let backend = some(|| self.tcp.accept()).await.0;
        backend.set_nonblocking(true).expect("a socket can");
        backend.set_nodelay(true).expect("a socket can");
        (up, down, backend)
    }

    async fn chunks_up(&self, times: usize, at_once: usize) {
        let client = self.session("/game7/lobby").await;
        let (up, _down, mut backend) = self.stream(&client).await;
        let chunk = Bytes::from_static(CHUNK);
        for _ in 0..times / at_once {
            up.say(&chunk, at_once);
            read(&mut backend, CHUNK.len() * at_once).await;
        }
    }

    async fn chunks_down(&self, times: usize) {
        let client = self.session("/game7/lobby").await;
        let (_up, down, mut backend) = self.stream(&client).await;
        for number in 1..=times {
            backend.write_all(REPLY).expect("there is room");
            until(|| down.bytes() == number * REPLY.len()).await;
        }
    }

    async fn datagrams_up(&self, times: usize, at_once: usize) {
        let client = self.session("/game7/lobby").await;
        let events = client.events().expect("it is accepted");
        let payloads = vec![Bytes::from_static(DATAGRAM); at_once];
        let mut buffer = [0; 2048];
        for _ in 0..times / at_once {
            events.datagrams(&payloads);
            for _ in 0..at_once {
                some(|| self.udp.recv(&mut buffer)).await;
            }
        }
    }

    async fn datagrams_down(&self, times: usize) {
        let client = self.session("/game7/lobby").await;
        client.events().expect("it is accepted").datagrams(&[Bytes::from_static(DATAGRAM)]);
        let (_, gateway) = some(|| self.udp.recv_from(&mut [0; 2048])).await;
        for number in 1..=times {
            self.udp.send_to(DATAGRAM, gateway).expect("there is room");
            until(|| client.datagrams() == number).await;
        }
    }

    /// As most short ones go: a request, its end, a reply, its end.
    async fn streams(&self, times: usize) {
        let client = self.session("/game7/lobby").await;
        let request = Bytes::from_static(&CHUNK[..100]);
        for _ in 0..times {
            let (up, down, mut backend) = self.stream(&client).await;
            up.say(&request, 1);
            up.finish();
            read(&mut backend, request.len()).await;
            some(|| backend.read(&mut [0])).await;
            backend.write_all(&request).expect("there is room");
            backend.shutdown(Shutdown::Write).expect("it is open");
            until(|| down.is_finished()).await;
        }
    }
}

fn head(path: &str) -> RequestHead {
    RequestHead {
        authority: "gateway.example.com".to_owned(),
        path: path.to_owned(),
        query: None,
        authorization: Authorization::default(),
        origin: Some("https://play.example.com".to_owned()),
        client: "127.0.0.1:1".parse().expect("an address"),
        local: None,
        dialect: "draft02",
        tls: None,
        protocols: Vec::new(),
    }
}

fn offline() -> OfflineRequest {
    let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    OfflineRequest {
        authority: "gateway.example.com".to_owned(),
        path: "/game7/lobby?token=abc".to_owned(),
        headers: [
            ("origin", "https://play.example.com"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
            ("sec-webtransport-http3-draft02", "1"),
        ]
        .map(header)
        .to_vec(),
        client: "127.0.0.1:1".parse().expect("an address"),
        local: None,
    }
}

/// Lets the gateway work until this is so.
async fn until(is_done: impl Fn() -> bool) {
    while !is_done() {
        turn().await;
    }
}

/// One turn of the runtime, which looks at its sockets before it comes back.
///
/// How many it makes is in the count, so the kernel gets the time to bring what is on its way: on a machine
/// with other work, that is not always done when a call returns.
async fn turn() {
    thread::sleep(Duration::from_micros(200));
    yield_now().await;
}

/// Lets the gateway work until a socket has something.
async fn some<T>(mut ask: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        turn().await;
        match ask() {
            Err(nothing) if nothing.kind() == ErrorKind::WouldBlock => {}
            found => return found.expect("the backend's socket is good"),
        }
    }
}

async fn read(backend: &mut TcpStream, bytes: usize) {
    let mut buffer = vec![0; bytes];
    let mut left = bytes;
    while left > 0 {
        left -= some(|| backend.read(&mut buffer[..left])).await;
    }
}
