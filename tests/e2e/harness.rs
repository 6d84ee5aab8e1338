//! The words the tests are written in.

mod echo;
pub(crate) mod relay;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate::{
    backend::{Resolve, SystemResolver},
    client::{self, RequestOptions, Trust},
    config::{Config, Problems},
    gateway::{Drained, Gateway, Reload, Running},
    metrics::Metrics,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

pub(crate) use self::echo::{echo_tcp, echo_udp};

/// How long anything that is expected may take, on a machine with other things to do.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for what is expected.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("what was expected did not come in time")
}

/// Describes a gateway under test: routes and whatever else, as TOML.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Worker threads.
    pub(crate) workers: u32,
    top: String,
    certificate: String,
    listener: String,
    admin: String,
    tables: String,
}

impl Setup {
    /// A gateway with a listener, an admin, and nothing behind it yet.
    pub(crate) fn new() -> Self {
        Self::with_drain("delay = \"0s\"\ngrace = \"50ms\"")
    }

    /// The same with these keys of the `[drain]` table.
    pub(crate) fn with_drain(keys: &str) -> Self {
        let tables = format!("[drain]\n{keys}\n");
        let certificate = "self_signed = [\"localhost\", \"127.0.0.1\"]".to_owned();
        let (top, listener, admin) = (String::new(), String::new(), String::new());
        Self { workers: 1, top, certificate, listener, admin, tables }
    }

    /// A route at `path` to these endpoints.
    pub(crate) fn route(
        self,
        path: &str,
        tcp: Option<SocketAddr>,
        udp: Option<SocketAddr>,
    ) -> Self {
        self.route_with(path, tcp, udp, "")
    }

    /// A route with further keys.
    pub(crate) fn route_with(
        self,
        path: &str,
        tcp: Option<SocketAddr>,
        udp: Option<SocketAddr>,
        keys: &str,
    ) -> Self {
        let tcp_key = tcp.map(|a| format!("tcp = \"{a}\",")).unwrap_or_default();
        let udp_key = udp.map(|a| format!("udp = \"{a}\",")).unwrap_or_default();
        let streams = if tcp.is_some() { "" } else { "streams = \"refuse\"\nuni = \"refuse\"\n" };
        let datagrams = if udp.is_some() { "" } else { "datagrams = \"drop\"\n" };
        let name = name_of(path);
        let origins = if keys.contains("origins") { "" } else { "origins = \"any\"\n" };
        self.tables(&format!(
            "[[route]]\nname = \"{name}\"\npath = \"{path}\"\nbackend = \"{name}\"\n{origins}\
             {streams}{datagrams}{keys}\n\
             [backend.{name}]\nendpoints = [{{ {tcp_key} {udp_key} }}]\n"
        ))
    }

    /// Any further tables.
    pub(crate) fn tables(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self.tables.push('\n');
        self
    }

    /// Further keys of the listener.
    pub(crate) fn listener(mut self, toml: &str) -> Self {
        self.listener.push_str(toml);
        self.listener.push('\n');
        self
    }

    /// Further keys of the `[admin]` table.
    pub(crate) fn admin(mut self, toml: &str) -> Self {
        self.admin.push_str(toml);
        self
    }

    /// What the listener says about its certificate.
    pub(crate) fn certificate(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.certificate);
        self
    }

    /// Keys of the `[server]` table.
    pub(crate) fn server(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Worker threads.
    pub(crate) fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    fn toml(&self) -> String {
        let Self { workers, top, certificate, listener, admin, tables } = self;
        format!(
            "version = 1\n[server]\nworkers = {workers}\n{top}\n\
             [[listener]]\nname = \"edge\"\nquic = [\"127.0.0.1:0\"]\n\
             {certificate}\n{listener}\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n{admin}\n{tables}\n"
        )
    }

    /// What a gateway makes of it.
    pub(crate) fn read(&self) -> Result<Config, Problems> {
        Config::parse(&self.toml(), "test.toml", Path::new("."))
    }

    /// Starts it.
    pub(crate) async fn start(self) -> TestGateway {
        self.start_with(Arc::new(SystemResolver)).await
    }

    /// Starts it with another source of addresses for names.
    pub(crate) async fn start_with(self, resolver: Arc<dyn Resolve>) -> TestGateway {
        self.start_changed(resolver, |gateway| gateway).await
    }

    /// Starts it with what an operator has read the configuration again.
    pub(crate) async fn start_reloading(self, reload: Arc<dyn Reload>) -> TestGateway {
        self.start_changed(Arc::new(SystemResolver), |gateway| gateway.with_reload(reload)).await
    }

    async fn start_changed(
        self,
        resolver: Arc<dyn Resolve>,
        change: impl FnOnce(Gateway) -> Gateway,
    ) -> TestGateway {
        let config = self.read().unwrap_or_else(|problems| panic!("{problems}\n{}", self.toml()));
        let bound = Gateway::bind_with(config, resolver).await.unwrap();
        let running = change(bound).start().unwrap();
        soon(running.lifecycle().started()).await;
        let books = Books(running.metrics().clone());
        TestGateway { running, endpoints: Mutex::default(), books }
    }
}

/// A route's or backend's name made of a path.
fn name_of(path: &str) -> String {
    let name: String = path.chars().filter(char::is_ascii_alphanumeric).collect();
    if name.is_empty() { "root".to_owned() } else { name }
}

/// A gateway that serves.
pub(crate) struct TestGateway {
    running: Running,
    /// Kept, so that connections live as long as the gateway.
    endpoints: Mutex<Vec<client::Endpoint>>,
    /// Last, so that it is dropped last.
    books: Books,
}

/// Checks at the end of each gateway that all bytes and datagrams are accounted for.
struct Books(Metrics);

impl Drop for Books {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let text = self.0.render();
        for metric in ["tidegate_ledger_imbalance_bytes", "tidegate_ledger_imbalance_datagrams"] {
            assert!(text.contains(metric), "nobody counts {metric}");
            assert!(metric_in(&text, metric, &[]).abs() < 0.5, "the books do not balance:\n{text}");
        }
    }
}

impl TestGateway {
    /// A gateway with one route for streams and datagrams to echo servers.
    pub(crate) async fn echo() -> Self {
        let (tcp, udp) = (echo_tcp().await, echo_udp().await);
        Setup::new().route("/echo", Some(tcp), Some(udp)).start().await
    }

    /// A gateway with one route for streams.
    pub(crate) async fn with_tcp(path: &str, backend: &TcpBackend) -> Self {
        Setup::new().route(path, Some(backend.address()), None).start().await
    }

    /// A gateway with one route for datagrams.
    pub(crate) async fn with_udp(path: &str, backend: SocketAddr) -> Self {
        Setup::new().route(path, None, Some(backend)).start().await
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// The UDP address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.quic_addresses()[0].address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.address().port())
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        self.running.certificates()[0].sha256
    }

    /// A client's socket.
    pub(crate) fn endpoint(&self) -> client::Endpoint {
        let options = client::Options::new(Trust::Hashes(vec![self.hash()]));
        self.endpoint_with(&options)
    }

    pub(crate) fn endpoint_with(&self, options: &client::Options) -> client::Endpoint {
        self.keep(client::Endpoint::bind("127.0.0.1:0".parse().unwrap(), options).unwrap())
    }

    /// The socket of a client at this address: all of 127.0.0.0/8 is this machine's.
    pub(crate) fn endpoint_at(&self, ip: &str) -> client::Endpoint {
        let options = client::Options::new(Trust::Hashes(vec![self.hash()]));
        let local = SocketAddr::new(ip.parse().unwrap(), 0);
        self.keep(client::Endpoint::bind(local, &options).unwrap())
    }

    fn keep(&self, endpoint: client::Endpoint) -> client::Endpoint {
        self.endpoints.lock().unwrap().push(endpoint.clone());
        endpoint
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> client::Connection {
        self.endpoint().connect(self.address(), "localhost").await.unwrap()
    }

    /// A session on a connection of its own.
    pub(crate) async fn session(&self, path: &str) -> client::Session {
        self.try_session(path, &RequestOptions::default()).await.unwrap()
    }

    pub(crate) async fn try_session(
        &self,
        path: &str,
        options: &RequestOptions,
    ) -> Result<client::Session, client::Refused> {
        let connection = self.connect().await;
        soon(connection.open_session(&self.url(path), options)).await
    }

    /// The status and the reason with which a session is refused.
    pub(crate) async fn refusal(&self, path: &str, options: &RequestOptions) -> (u16, String) {
        match self.try_session(path, options).await.unwrap_err() {
            client::Refused::Status { status, reason, .. } => {
                (status.as_u16(), reason.unwrap_or_default())
            }
            other => panic!("no refusal: {other}"),
        }
    }

    /// The sum of a metric's series whose labels include these.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric_in(&self.running.metrics().render(), name, labels)
    }

    /// Waits until a metric has a value.
    pub(crate) async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let until = Instant::now() + DEADLINE;
        while (self.metric(name, labels) - value).abs() > 0.5 {
            if Instant::now() > until {
                let text = self.running.metrics().render();
                let near = text.lines().filter(|l| l.contains(name)).fold(
                    String::new(),
                    |mut all, line| {
                        _ = writeln!(all, "{line}");
                        all
                    },
                );
                panic!("{name}{labels:?} did not become {value}:\n{near}");
            }
            // Nothing tells when a metric changes, so it is looked at again and again.
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for a stream of the route to end for a reason.
    pub(crate) async fn stream_ends(&self, reason: &str, times: f64) {
        self.metric_reaches("tidegate_stream_ends_total", &[("reason", reason)], times).await;
    }

    /// Waits for a session to end for a reason.
    pub(crate) async fn session_ends(&self, reason: &str, times: f64) {
        self.metric_reaches("tidegate_session_ends_total", &[("reason", reason)], times).await;
    }

    /// Waits until no session, stream or backend connection is left.
    pub(crate) async fn is_empty(&self) {
        for gauge in ["tidegate_sessions", "tidegate_streams", "tidegate_backend_connections"] {
            self.metric_reaches(gauge, &[], 0.0).await;
        }
    }

    /// Stops the gateway and checks that nothing of it is left.
    pub(crate) async fn shut_down(self) -> Drained {
        self.shut_down_when(std::future::pending()).await
    }

    /// The same with an operator who may hurry.
    pub(crate) async fn shut_down_when(self, hurry: impl Future<Output = ()>) -> Drained {
        let Self { running, endpoints: _endpoints, books } = self;
        let lifecycle = running.lifecycle().clone();
        let drained = soon(running.shut_down(hurry)).await;
        assert_eq!(lifecycle.running_tasks(), 0, "tasks were left behind");
        let text = books.0.render();
        for gauge in [
            "tidegate_sessions",
            "tidegate_streams",
            "tidegate_backend_connections",
            "tidegate_quic_connections",
        ] {
            assert!(metric_in(&text, gauge, &[]).abs() < 0.5, "{gauge} is not back at 0:\n{text}");
        }
        drained
    }
}

/// The sum of a metric's series whose labels include `labels`, in Prometheus' text.
pub(crate) fn metric_in(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<_, _> = labels.iter().copied().collect();
    let series = text.lines().filter(|line| {
        let (series, _) = line.rsplit_once(' ').unwrap_or((line, ""));
        let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
        series_name == name
            && wanted.iter().all(|(k, v)| series_labels.contains(&format!("{k}=\"{v}\"")))
    });
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// A TCP server that a test plays itself.
pub(crate) struct TcpBackend {
    listener: TcpListener,
}

impl TcpBackend {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }
}

/// Reads exactly `text` from a connection.
pub(crate) async fn expect_text(stream: &mut TcpStream, text: &[u8]) {
    let mut read = vec![0; text.len()];
    soon(stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, text);
}

/// Reads to a connection's end: all bytes, and whether it was a clean one.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, std::io::Result<()>) {
    let mut all = Vec::new();
    let ended = soon(stream.read_to_end(&mut all)).await.map(drop);
    (all, ended)
}

/// Waits for a connection to be reset, whatever comes before.
pub(crate) async fn expect_reset(stream: &mut TcpStream) {
    let (_, ended) = read_to_end(stream).await;
    let error = ended.expect_err("a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

/// Bytes that differ everywhere, the same for the same seed.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// What a request says whose page is of this origin.
pub(crate) fn from_origin(origin: &str) -> RequestOptions {
    RequestOptions { origin: Some(origin.to_owned()), ..RequestOptions::default() }
}
