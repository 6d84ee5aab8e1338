//! A gateway without an edge: routes, backends and sessions of clients in memory.

use std::{
    cell::RefCell,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Once},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        TcpListener, TcpSocket, TcpStream, UdpSocket,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::{
    backend::{
        Backends,
        tests::{endpoint, no_resolver, settings},
    },
    config::{
        self, ByteRate, ByteSize, DatagramsMode, Destination, HostPort, Limit, MemoryLimit, Opens,
        Origins, Oversize, PerClientLimits, PushMode, Rate, RoutePath, Segment, StreamsMode,
        UdpOpen, UniMode,
    },
    lifecycle::Lifecycle,
    limit::{Clients, Memory, System},
    metrics::{Metrics, RouteMetrics},
    reason::{Loss, StreamEnd},
    route::RouteTable,
    session::{SessionContext, Tables, run},
    transport::memory::{CREDIT, ClientSend, MemoryClient, soon},
};

/// The one route of these tests.
pub(super) const PATH: &str = "/game";

/// A route to these TCP endpoints.
pub(super) fn route(tcp: &[SocketAddr]) -> config::Route {
    route_to(settings(tcp))
}

/// A route to one endpoint that speaks UDP alone.
pub(super) fn udp_route(udp: SocketAddr) -> config::Route {
    let mut backend = settings(&[]);
    backend.endpoints.push(endpoint("0", None, Some(HostPort::Address(udp))));
    route_to(backend)
}

/// A route to this backend.
pub(super) fn route_to(backend: config::Backend) -> config::Route {
    config::Route {
        name: "game".into(),
        hosts: Vec::new(),
        path: RoutePath { segments: vec![Segment::Literal("game".into())] },
        origins: Origins::Any,
        allow_missing_origin: true,
        credentials: Vec::new(),
        protocols: Vec::new(),
        require_protocol: false,
        destination: Destination::Always(Arc::new(backend)),
        streams: StreamsMode::PerStream,
        uni: UniMode::Backend,
        datagrams: DatagramsMode::Udp,
        udp_open: UdpOpen::Datagram,
        max_sessions: Limit::AtMost(100),
        max_streams_per_session: Limit::AtMost(256),
        stream_rate: Rate::Unlimited,
        byte_rate_up: ByteRate::Unlimited,
        byte_rate_down: ByteRate::Unlimited,
        datagram_rate_up: Rate::Unlimited,
        datagram_rate_down: Rate::Unlimited,
        session_lifetime: None,
        session_idle: None,
        half_close_timeout: None,
        datagram_queue: ByteSize(64 * 1024),
        // Long, so that nothing expires on a slow machine but where a test wants it.
        datagram_ttl: Duration::from_secs(600),
        opens: Opens::Client,
        push: PushMode::Off,
        datagram_key: None,
        oversize: Oversize::Drop,
        oversize_queue: ByteSize(256 * 1024),
        oversize_streams: 16,
    }
}

/// Changes the backend of a route.
pub(super) fn with_backend(
    mut route: config::Route,
    change: impl FnOnce(&mut config::Backend),
) -> config::Route {
    change(only_backend(&mut route));
    route
}

/// The one backend of a route that nobody else has yet.
pub(super) fn only_backend(route: &mut config::Route) -> &mut config::Backend {
    match &mut route.destination {
        Destination::Always(backend) => Arc::get_mut(backend).unwrap(),
        Destination::Listed(_) => panic!("there are several"),
    }
}

pub(super) struct Gateway {
    pub(super) metrics: Metrics,
    pub(super) route: RouteMetrics,
    pub(super) lifecycle: Lifecycle,
    pub(super) context: Arc<SessionContext>,
    pub(super) memory: Arc<Memory>,
}

impl Gateway {
    pub(super) fn new(route: config::Route) -> Self {
        Self::with_limit(route, Limit::AtMost(100))
    }

    pub(super) fn with_limit(route: config::Route, sessions: Limit) -> Self {
        let (metrics, lifecycle) = (Metrics::new(), Lifecycle::new());
        let backends = route.destination.backends();
        let backends = backends.map(|b| (b.name.clone(), Arc::clone(b))).collect();
        let tables = Tables {
            end_removed: false,
            routes: RouteTable::new(std::slice::from_ref(&route), &metrics),
            backends: Arc::new(Backends::new(&backends, &metrics, &no_resolver(), None)),
        };
        let unlimited = PerClientLimits {
            connections: Limit::Unlimited,
            sessions: Limit::Unlimited,
            session_rate: Rate::Unlimited,
        };
        let clients = Arc::new(Clients::new(unlimited, metrics.clients()));
        let memory = Arc::new(Memory::new(MemoryLimit::Unlimited, metrics.memory()));
        let context = SessionContext::new(
            tables,
            sessions,
            clients,
            Arc::clone(&memory),
            lifecycle.clone(),
            metrics.clone(),
        );
        let context = Arc::new(context);
        Self { route: metrics.route(&route.name), metrics, lifecycle, context, memory }
    }

    /// A client that asks for a session.
    pub(super) fn ask(&self, path: &str) -> MemoryClient {
        let (request, client) = MemoryClient::asking(path);
        self.lifecycle.spawn(run(request, Arc::clone(&self.context)));
        client
    }

    /// A client with a session.
    pub(super) async fn session(&self) -> MemoryClient {
        let client = self.ask(PATH);
        client.accepted().await;
        client
    }

    /// Waits until the first stream has ended, which has to be for this reason.
    pub(super) async fn first_stream_ends(&self, why: StreamEnd) {
        let ended = || StreamEnd::ALL.iter().find(|end| self.route.stream_ends.get(**end) > 0);
        until(|| ended().is_some()).await;
        assert_eq!(ended(), Some(&why));
    }

    /// Waits until so many datagrams were lost on the way down for this reason.
    pub(super) async fn loses_down(&self, why: Loss, count: u64) {
        until(|| self.route.down.lost.get(why) >= count).await;
        assert_eq!(self.route.down.lost.get(why), count);
    }

    /// Waits for every task, and checks that every gauge is back at zero.
    pub(super) async fn leaves_nothing_behind(&self) {
        soon(self.lifecycle.all_tasks_ended()).await;
        let text = self.metrics.render();
        for gauge in ["tidegate_sessions{", "tidegate_streams{", "tidegate_backend_connections{"] {
            let mut lines = text.lines().filter(|line| line.starts_with(gauge));
            assert!(lines.all(|line| line.ends_with(" 0")), "{gauge} is not 0 in\n{text}");
        }
    }
}

/// The sessions whose clients are dropped by now have closed their books.
impl Drop for Gateway {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let imbalance = [&self.route.imbalance_bytes, &self.route.imbalance_datagrams];
            assert_eq!(imbalance.map(|sum| sum.get()), [0, 0], "the books do not balance");
        }
    }
}

/// A system on which the process holds so much.
pub(super) struct Holding(pub(super) u64);

impl System for Holding {
    fn resident(&mut self) -> Option<u64> {
        Some(self.0)
    }

    fn give_back(&mut self) {}
}

/// Waits for a number or a state that nothing announces.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A TCP server whose every move is the test's.
pub(super) struct Server(TcpListener);

impl Server {
    pub(super) async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(super) async fn accept(&self) -> Connection {
        Connection(soon(self.0.accept()).await.unwrap().0)
    }

    /// Whether nobody is waiting to be accepted.
    pub(super) fn is_idle(&self) -> bool {
        use futures_util::FutureExt;
        self.0.accept().now_or_never().is_none()
    }
}

pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        soon(self.0.write_all(bytes)).await.unwrap();
    }

    /// Hands over what the kernel takes at once. Yields how much that was.
    pub(super) fn write_some(&self, bytes: &[u8]) -> usize {
        self.0.try_write(bytes).unwrap()
    }

    /// Both directions, to be used at once.
    pub(super) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        self.0.split()
    }

    pub(super) async fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        soon(self.0.read_exact(&mut all)).await.unwrap();
        all
    }

    /// All bytes up to the end, and the end.
    pub(super) async fn read_to_end(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut all = Vec::new();
        let end = soon(self.0.read_to_end(&mut all)).await.map(drop);
        (all, end)
    }

    /// FIN.
    pub(super) async fn finish(&mut self) {
        soon(self.0.shutdown()).await.unwrap();
    }

    /// RST.
    pub(super) fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }

    /// Waits for an RST, also behind a FIN.
    pub(super) async fn is_reset(&self) {
        soon(self.0.ready(Interest::ERROR)).await.unwrap();
        let kind = self.error().expect("the connection is broken").kind();
        assert!(matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
    }

    pub(super) fn error(&self) -> Option<io::Error> {
        self.0.take_error().unwrap()
    }

    /// Keeps this end from taking much.
    pub(super) fn shrink(&self) {
        socket2::SockRef::from(&self.0).set_recv_buffer_size(4096).unwrap();
    }
}

pub(super) fn assert_reset(end: io::Result<()>) {
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// A UDP server whose every move is the test's.
pub(super) struct UdpServer {
    socket: UdpSocket,
}

impl UdpServer {
    pub(super) async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(super) async fn at(address: SocketAddr) -> Self {
        Self { socket: UdpSocket::bind(address).await.unwrap() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The next datagram and who sent it.
    pub(super) async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (bytes, from) = soon(self.socket.recv_from(&mut buffer)).await.unwrap();
        buffer.truncate(bytes);
        (buffer, from)
    }

    pub(super) async fn send(&self, datagram: &[u8], to: SocketAddr) {
        soon(self.socket.send_to(datagram, to)).await.unwrap();
    }
}

/// Sends until neither the backend's kernel nor the gateway takes any more. Yields how much it was.
pub(super) async fn fill(send: &ClientSend) -> usize {
    let mut written = 0;
    loop {
        // What there is room for is taken, even if that is not all.
        written += send.write_some(vec![7; CREDIT]);
        // The gateway's task and the kernel get many turns to make room.
        for _ in 0..2_000 {
            if send.unread() < CREDIT {
                break;
            }
            tokio::task::yield_now().await;
        }
        if send.unread() == CREDIT {
            return written;
        }
    }
}

thread_local! {
    /// What was logged on this thread since a test began to listen.
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// What is logged on this thread as long as it lives, as JSON.
pub(super) struct Logs(());

/// Writes to where this thread's test listens, if it does.
struct ToThisThread;

impl Write for ToThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.as_mut().map(|logged| logged.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        LOGGED.take();
    }
}

impl Logs {
    /// One subscriber for the process: with one per thread, whether a line is wanted can be decided, and
    /// remembered, by a thread that has none.
    pub(super) fn collect() -> Self {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| {
            tracing_subscriber::fmt().json().with_writer(|| ToThisThread).init();
        });
        LOGGED.set(Some(Vec::new()));
        Self(())
    }

    pub(super) fn text(&self) -> String {
        let logged = LOGGED.with_borrow(Clone::clone).unwrap_or_default();
        String::from_utf8(logged).unwrap()
    }

    /// The one line at the end of the one session.
    pub(super) fn session_ended(&self) -> serde_json::Value {
        let text = self.text();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("Session ended.")).collect();
        let [line] = lines[..] else { panic!("one line per session, not {lines:?}") };
        serde_json::from_str(line).unwrap()
    }
}

/// Bytes that show where each belongs.
pub(super) fn pattern(bytes: usize) -> Vec<u8> {
    let words = (0_u64..).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(bytes).collect()
}

/// A listener that answers no more, because its queue is full.
pub(super) async fn swallowing() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let patience = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 16, "the queue is never full");
    }
    (listener, queued)
}
