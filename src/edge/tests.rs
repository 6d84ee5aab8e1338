//! The edge from outside: raw QUIC clients on loopback.
#![allow(clippy::disallowed_methods, reason = "clients are not the gateway's tasks")]

use std::{
    collections::{BTreeMap, HashSet},
    net::{SocketAddr, UdpSocket},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, TransportConfig,
    TransportErrorCode, VarInt, crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::config::{
    ByteSize, CertificateFiles, CertificateSource, Congestion, Drain, Limit, Limits, Log,
    LogFormat, MemoryLimit, RetryPolicy, Server, Timeouts, Transport,
};

/// No wait in these tests is longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A configuration with one listener on a free port of loopback.
pub(super) fn config(workers: u32) -> Config {
    Config {
        server: Server {
            workers: NonZeroU32::new(workers).unwrap(),
            steering: true,
            server_id: Vec::new(),
            config_id: 0,
            secret: None,
            previous_secret: None,
        },
        log: Log { format: LogFormat::Auto, filter: "info".into() },
        listeners: vec![config::Listener {
            name: "edge".into(),
            quic: vec!["127.0.0.1:0".parse().unwrap()],
            certificate: CertificateSource::SelfSigned(vec!["localhost".into()]),
            client_certificates: None,
            retry: RetryPolicy::Auto,
            transport: transport(),
        }],
        admin: None,
        limits: Limits {
            memory: MemoryLimit::Unlimited,
            connections: Limit::AtMost(1000),
            handshakes: Limit::AtMost(1000),
            retry_above_handshakes: Limit::AtMost(500),
            sessions: Limit::Unlimited,
            header_bytes: ByteSize(16 * 1024),
            early_streams: 64,
            early_datagrams: 64,
            per_client: config::PerClientLimits::default(),
            per_connection: config::PerConnectionLimits::default(),
        },
        timeouts: Timeouts {
            handshake: DEADLINE,
            request: DEADLINE,
            idle_connection: DEADLINE,
            early: DEADLINE,
            linger: Duration::ZERO,
        },
        drain: Drain { delay: Duration::ZERO, grace: Duration::ZERO },
        reload: config::Reload::default(),
        routes: Vec::new(),
        credentials: BTreeMap::new(),
        backends: BTreeMap::new(),
    }
}

fn transport() -> Transport {
    Transport {
        idle_timeout: DEADLINE,
        ping_interval: Duration::from_secs(15),
        stream_window: ByteSize(1 << 20),
        connection_window: ByteSize(1 << 24),
        send_window: ByteSize(1 << 23),
        initial_bidi_streams: 128,
        initial_uni_streams: 16,
        datagram_send_buffer: ByteSize(1 << 16),
        datagram_receive_buffer: ByteSize(1 << 18),
        initial_mtu: 1200,
        max_mtu: 1452,
        congestion: Congestion::Cubic,
        initial_window: ByteSize(12_000),
        initial_rtt: Duration::from_millis(333),
        packet_threshold: 3,
        webtransport_profile: config::WebTransportProfile::Full,
        receive_buffer: ByteSize(1 << 20),
        send_buffer: ByteSize(1 << 20),
    }
}

/// An edge that serves echo.
struct TestEdge {
    addresses: Vec<BoundAddress>,
    certificates: Vec<CertificateInfo>,
    metrics: Metrics,
    lifecycle: Lifecycle,
    workers: Workers,
    listeners: Listeners,
    /// Worker and thread of each connection, as it begins to be served.
    served: mpsc::Receiver<(u8, String)>,
}

impl TestEdge {
    fn start(config: &Config) -> Self {
        let (metrics, lifecycle) = (Metrics::new(), Lifecycle::new());
        let edge = Edge::bind(config, &metrics).unwrap();
        let (addresses, certificates) =
            (edge.addresses().to_vec(), edge.listeners().certificates());
        let listeners = edge.listeners().clone();
        let (serving, served) = mpsc::channel(100);
        let killed = lifecycle.clone();
        let clients = Clients::new(config.limits.per_client.clone(), metrics.clients());
        let memory = Memory::new(config.limits.memory, metrics.memory());
        let workers = edge
            .start(&lifecycle, &Arc::new(clients), &Arc::new(memory), move |accepted: Accepted| {
                let (serving, killed) = (serving.clone(), killed.clone());
                async move {
                    let thread = thread::current().name().unwrap_or_default().to_owned();
                    serving.send((accepted.worker, thread)).await.unwrap();
                    tokio::select! {
                        () = echo(&accepted.connection) => {}
                        () = killed.killed() => {}
                    }
                }
            })
            .unwrap();
        Self { addresses, certificates, metrics, lifecycle, workers, listeners, served }
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0].address
    }

    fn numbers(&self) -> ListenerMetrics {
        self.metrics.listener("edge")
    }

    /// Takes another configuration. The certificates that are new.
    fn reload(&self, config: &Config) -> Vec<CertificateInfo> {
        let prepared = self.listeners.prepare(config).unwrap();
        self.listeners.take(prepared, &self.metrics)
    }

    fn client(&self) -> Endpoint {
        client(self.address(), self.certificates[0].sha256)
    }

    async fn connect(&self) -> Result<Connection, ConnectionError> {
        connect(&self.client(), self.address(), "localhost").await
    }

    async fn stop(self) {
        self.lifecycle.begin_kill();
        timeout(DEADLINE, self.lifecycle.all_tasks_ended()).await.unwrap();
        timeout(DEADLINE, self.workers.stop()).await.unwrap();
    }
}

/// Sends every stream back, one after the other, until the connection ends.
async fn echo(connection: &Connection) {
    while let Ok((mut tx, mut rx)) = connection.accept_bi().await {
        while let Ok(Some(chunk)) = rx.read_chunk(usize::MAX, true).await {
            if tx.write_chunk(chunk.bytes).await.is_err() {
                break;
            }
        }
        _ = tx.finish();
    }
}

/// A client of its own port that trusts one certificate, by its hash.
fn client(server: SocketAddr, sha256: [u8; 32]) -> Endpoint {
    client_with(server, sha256, b"h3", DEADLINE)
}

fn client_with(server: SocketAddr, sha256: [u8; 32], alpn: &[u8], idle: Duration) -> Endpoint {
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByHash { sha256, tls: crypto::provider() }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(idle).unwrap()));
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));

    let any: SocketAddr = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let mut endpoint = Endpoint::client(any).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

async fn connect(
    client: &Endpoint,
    server: SocketAddr,
    name: &str,
) -> Result<Connection, ConnectionError> {
    timeout(DEADLINE, client.connect(server, name).unwrap()).await.unwrap()
}

/// Sends `data` on a stream of its own and returns what came back.
async fn round_trip(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut tx, mut rx) = connection.open_bi().await.unwrap();
    tx.write_all(data).await.unwrap();
    tx.finish().unwrap();
    timeout(DEADLINE, rx.read_to_end(data.len())).await.unwrap().unwrap()
}

fn was_refused(result: Result<Connection, ConnectionError>) -> bool {
    matches!(result, Err(ConnectionError::ConnectionClosed(close))
        if close.error_code == TransportErrorCode::CONNECTION_REFUSED)
}

/// Accepts the certificate with this SHA-256 and no other.
#[derive(Debug)]
struct ByHash {
    sha256: [u8; 32],
    tls: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if crypto::sha256(leaf) == self.sha256 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.tls.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.tls.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn clients_are_served_on_both_families() {
    let mut config = config(2);
    config.listeners[0].quic.push("[::1]:0".parse().unwrap());
    let edge = TestEdge::start(&config);

    for bound in edge.addresses.clone() {
        assert_eq!(bound.listener, "edge");
        let client = client(bound.address, edge.certificates[0].sha256);
        let connection = connect(&client, bound.address, "localhost").await.unwrap();
        assert_eq!(round_trip(&connection, b"hello").await, b"hello");
    }
    assert_eq!(edge.numbers().established.get(), 2);
    assert!(edge.lifecycle.is_ready(), "no worker holds readiness back any more");
    edge.stop().await;
}

#[tokio::test]
async fn an_address_belongs_to_one_gateway_until_it_stops() {
    let edge = TestEdge::start(&config(4));
    let taken = edge.address();
    let mut same = config(4);
    same.listeners[0].quic = vec![taken];

    match Edge::bind(&same, &Metrics::new()) {
        Err(EdgeError::Bind { listener, address, source }) => {
            assert_eq!((listener.as_str(), address), ("edge", taken));
            assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }

    let sampler = edge.workers.sampler();
    edge.stop().await;
    Edge::bind(&same, &Metrics::new()).expect("a stopped edge holds no socket");
    sampler.sample();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let mut config = config(1);
    let files = CertificateFiles { chain: "/nowhere/chain.pem".into(), key: "/nowhere/key".into() };
    config.listeners[0].certificate = CertificateSource::Files(vec![files]);

    let error = Edge::bind(&config, &Metrics::new()).unwrap_err();
    assert_eq!(error.to_string(), "listener edge");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "cannot read /nowhere/chain.pem");
}

/// A directory of certificate files that is removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tidegate-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Makes a certificate for `name`, in the place of an older one.
    fn make(&self, name: &str) -> CertificateFiles {
        let made = self_signed(&[name.to_owned()]).unwrap();
        let chain = self.0.join(format!("{name}.pem"));
        let key = self.0.join(format!("{name}.key"));
        std::fs::write(&chain, made.certificate_pem).unwrap();
        std::fs::write(&key, made.key_pem).unwrap();
        CertificateFiles { chain, key }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_server_name_chooses_among_certificate_files() {
    let files = Files::new("sni");
    let mut config = config(1);
    config.listeners[0].certificate =
        CertificateSource::Files(vec![files.make("one.example"), files.make("two.example")]);
    let edge = TestEdge::start(&config);

    let [one, two] = &edge.certificates[..] else { panic!("two certificates") };
    assert_eq!(
        (&*one.names, &*two.names),
        (&["one.example".to_owned()][..], &["two.example".to_owned()][..])
    );
    let table = [("one.example", one), ("two.example", two), ("unknown.example", one)];
    for (name, certificate) in table {
        let client = client(edge.address(), certificate.sha256);
        let connected = connect(&client, edge.address(), name).await;
        assert!(connected.is_ok(), "{name}: {connected:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_reload_changes_certificates_for_new_clients_only() {
    let files = Files::new("reload");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let edge = TestEdge::start(&config);
    let old = edge.connect().await.unwrap();

    files.make("one.example");
    let reloaded = edge.reload(&config);
    assert_ne!(reloaded[0].sha256, edge.certificates[0].sha256);
    let new = client(edge.address(), reloaded[0].sha256);
    connect(&new, edge.address(), "one.example").await.unwrap();
    edge.connect().await.expect_err("the old certificate is gone");
    assert_eq!(round_trip(&old, b"old").await, b"old");

    std::fs::write(files.0.join("one.example.pem"), "nonsense").unwrap();
    let two = files.make("two.example");
    std::fs::write(&two.key, "nonsense").unwrap();
    let CertificateSource::Files(listed) = &mut config.listeners[0].certificate else { panic!() };
    listed.push(two);
    let errors = edge.listeners.prepare(&config).unwrap_err();
    assert_eq!(errors.len(), 2, "each problem is told: {errors:?}");
    connect(&new, edge.address(), "one.example").await.expect("a bad file replaces nothing");
    edge.stop().await;
}

#[tokio::test]
async fn a_bad_certificate_of_one_listener_keeps_the_others_from_changing() {
    let files = Files::new("all-or-nothing");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let mut second = config.listeners[0].clone();
    second.name = "second".into();
    second.certificate = CertificateSource::Files(vec![files.make("two.example")]);
    config.listeners.push(second);
    let edge = TestEdge::start(&config);

    files.make("one.example");
    std::fs::write(files.0.join("two.example.pem"), "nonsense").unwrap();
    let errors = edge.listeners.prepare(&config).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    edge.connect().await.expect("the first listener keeps its certificate");
    edge.stop().await;
}

#[tokio::test]
async fn the_expiry_of_a_certificate_is_shown_as_long_as_it_is_in_use() {
    let files = Files::new("expiry");
    let mut config = config(1);
    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("one.example")]);
    let edge = TestEdge::start(&config);
    let shown = |name: &str| {
        let metrics = edge.metrics.render();
        let is_its = |line: &&str| line.contains("certificate_expiry") && line.contains(name);
        metrics.lines().find(is_its).map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
    };
    assert!(shown("one.example.pem").is_some());

    config.listeners[0].certificate = CertificateSource::Files(vec![files.make("two.example")]);
    let reloaded = edge.reload(&config);
    assert_eq!(shown("one.example.pem"), None);
    assert_eq!(shown("two.example.pem"), Some(reloaded[0].not_after.to_string()));
    edge.stop().await;
}

#[tokio::test]
async fn limits_and_transport_settings_are_those_of_the_last_configuration() {
    let mut config = config(1);
    let edge = TestEdge::start(&config);
    let old = edge.connect().await.unwrap();

    config.limits.connections = Limit::AtMost(1);
    config.listeners[0].transport.stream_window = ByteSize(4 * 1024);
    assert_eq!(edge.reload(&config), [], "the certificate stays");
    edge.connect().await.expect_err("the limit is reached");
    assert_eq!(edge.numbers().refused_connections.get(), 1);

    config.limits.connections = Limit::AtMost(2);
    edge.reload(&config);
    let new = edge.connect().await.unwrap();
    assert_eq!(round_trip(&old, b"old").await, b"old");
    // What a client may send before anybody has read it: the window that its handshake told.
    let (mut stream, _) = new.open_bi().await.unwrap();
    let sent = stream.write(&[0; 100_000]).await.unwrap();
    assert_eq!(sent, 4 * 1024);
    edge.stop().await;
}

#[tokio::test]
async fn a_certificate_that_was_made_stays_unless_it_is_wanted_for_other_names() {
    let mut config = config(1);
    let edge = TestEdge::start(&config);
    let before = edge.listeners.certificates();
    assert_eq!(edge.reload(&config), []);
    assert_eq!(edge.listeners.certificates(), before, "the next one stays too");

    config.listeners[0].certificate = CertificateSource::SelfSigned(vec!["other".into()]);
    let new = edge.reload(&config);
    assert_eq!(new[0].names, ["other"]);
    let client = client(edge.address(), new[0].sha256);
    connect(&client, edge.address(), "other").await.unwrap();
    edge.stop().await;
}

/// W3C WebTransport takes a certificate by its hash for 14 days at most, and only while it is valid.
#[tokio::test]
async fn a_certificate_that_was_made_is_followed_by_one_whose_hash_is_known() {
    let edge = TestEdge::start(&config(1));
    let (day, start) = (Duration::from_secs(24 * 60 * 60), SystemTime::now());
    let in_use = || edge.listeners.certificates().remove(0);
    let first = in_use();
    let known = first.next.unwrap();
    assert_ne!(known.sha256, first.sha256);

    let early = start + 11 * day - Duration::from_secs(60);
    assert_eq!(edge.listeners.renew(early, &edge.metrics).unwrap(), []);
    assert_eq!(in_use(), first);

    let time = start + 11 * day + Duration::from_secs(60);
    let renewed = edge.listeners.renew(time, &edge.metrics).unwrap();
    assert_eq!(renewed, [in_use()]);
    let second = in_use();
    let expected = (known.sha256, known.not_before, known.not_after);
    assert_eq!((second.sha256, second.not_before, second.not_after), expected);
    let unix = i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    let (unix, day_seconds) = (unix.unwrap(), 24 * 60 * 60);
    assert!(second.not_before < unix - 3_000, "clients' clocks may be behind");
    assert!(unix < second.not_after - 12 * day_seconds, "and it is good for 12 days more");
    assert_eq!(second.not_after - second.not_before, 13 * day_seconds);
    let client = client(edge.address(), second.sha256);
    connect(&client, edge.address(), "localhost").await.unwrap();
    edge.connect().await.expect_err("the first certificate is gone");
    let shown = format!("{{cert=\"edge (self-signed)\"}} {}", second.not_after);
    assert!(edge.metrics.render().contains(&shown));

    // A machine that slept for months: what was made ahead is of no use any more.
    let late = start + 100 * day;
    let third = edge.listeners.renew(late, &edge.metrics).unwrap().remove(0);
    assert_ne!(Some(third.sha256), second.next.map(|next| next.sha256));
    assert!(third.not_after > second.not_after + 80 * day_seconds);
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_speak_http3_is_no_client() {
    let edge = TestEdge::start(&config(1));
    let client = client_with(edge.address(), edge.certificates[0].sha256, b"hq", DEADLINE);
    connect(&client, edge.address(), "localhost").await.unwrap_err();

    // The client hears of it before it is counted.
    let numbers = edge.numbers();
    edge.stop().await;
    assert_eq!(numbers.handshake_failed.get(), 1);
    assert_eq!(numbers.established.get(), 0);
}

#[tokio::test]
async fn above_the_limit_of_connections_clients_are_refused_until_one_leaves() {
    let mut config = config(1);
    config.limits.connections = Limit::AtMost(1);
    let edge = TestEdge::start(&config);

    let first = edge.connect().await.unwrap();
    assert!(was_refused(edge.connect().await));
    assert_eq!(edge.numbers().refused_connections.get(), 1);
    assert_eq!(round_trip(&first, b"still here").await, b"still here");

    first.close(VarInt::from_u32(0), b"");
    let begun = Instant::now();
    while edge.connect().await.is_err() {
        assert!(begun.elapsed() < DEADLINE, "the place of a client that left is free");
    }
    edge.stop().await;
}

/// The places of an address are taken when it is proved: a forged packet must not use them up.
#[tokio::test]
async fn above_the_limit_of_its_address_a_client_is_refused_until_one_leaves() {
    for retry in [RetryPolicy::Never, RetryPolicy::Always] {
        let mut config = config(2);
        config.listeners[0].retry = retry;
        config.limits.per_client.connections = Limit::AtMost(1);
        let edge = TestEdge::start(&config);

        let first = edge.connect().await.unwrap();
        assert_eq!(round_trip(&first, b"it is served").await, b"it is served");
        assert!(was_refused(edge.connect().await), "{retry:?}");
        assert_eq!(edge.numbers().refused_client_connections.get(), 1);
        assert_eq!(round_trip(&first, b"still here").await, b"still here");

        first.close(VarInt::from_u32(0), b"");
        let begun = Instant::now();
        while edge.connect().await.is_err() {
            assert!(begun.elapsed() < DEADLINE, "the place of a client that left is free");
        }
        edge.stop().await;
    }
}

/// Attempts that pass the first look together are told apart when their address is proved.
#[tokio::test]
async fn a_burst_from_one_address_gets_no_more_connections_than_one_by_one() {
    for retry in [RetryPolicy::Never, RetryPolicy::Always] {
        let mut config = config(2);
        config.listeners[0].retry = retry;
        config.limits.per_client.connections = Limit::AtMost(3);
        let edge = TestEdge::start(&config);

        let served = join_all((0..20).map(|_| async {
            let connection = edge.connect().await.ok()?;
            // One that was refused late is closed now or soon.
            let (mut tx, mut rx) = connection.open_bi().await.ok()?;
            tx.write_all(b"in").await.ok()?;
            tx.finish().ok()?;
            let echoed = timeout(DEADLINE, rx.read_to_end(2)).await.unwrap().ok()?;
            assert_eq!(echoed, b"in");
            Some(connection)
        }))
        .await;
        assert_eq!(served.iter().flatten().count(), 3, "{retry:?}");
        assert_eq!(edge.numbers().refused_client_connections.get(), 17, "{retry:?}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn above_the_limit_of_handshakes_clients_are_refused() {
    let mut config = config(1);
    config.limits.handshakes = Limit::AtMost(0);
    let edge = TestEdge::start(&config);

    assert!(was_refused(edge.connect().await));
    assert_eq!(edge.numbers().refused_handshakes.get(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn retry_always_lets_clients_in_that_prove_their_address() {
    let mut config = config(4);
    config.listeners[0].retry = RetryPolicy::Always;
    let edge = TestEdge::start(&config);

    let connection = edge.connect().await.unwrap();
    assert_eq!(round_trip(&connection, b"proved").await, b"proved");
    assert_eq!(edge.numbers().retries.get(), 1);
    assert_eq!(edge.numbers().established.get(), 1);
    edge.stop().await;
}

const OLD_SECRET: &[u8] = &[1; 32];
const NEW_SECRET: &[u8] = &[2; 32];

/// A configuration with these secrets, read as they would be from files.
fn config_with_secrets(folder: &Files, secret: &[u8], previous: Option<&[u8]>) -> Config {
    let write = |name: &str, secret: &[u8]| {
        std::fs::write(folder.0.join(name), secret).unwrap();
        format!("{name} = {{ file = {name:?} }}\n")
    };
    let current = write("secret", secret);
    let previous = previous.map(|previous| write("previous_secret", previous)).unwrap_or_default();
    let text = format!(
        "version = 1\n[server]\nworkers = 1\n{current}{previous}\
         [[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
         [[route]]\npath = \"/\"\norigins = \"any\"\nbackend = \"b\"\n\
         [backend.b]\nendpoints = [{{ tcp = \"127.0.0.1:9\" }}]\n"
    );
    let read = Config::parse(&text, "test.toml", &folder.0).unwrap_or_else(|p| panic!("{p}"));
    Config { server: read.server, ..config(1) }
}

/// A ticket is what lets the client in: it believes the first gateway's certificate and no other.
#[tokio::test]
async fn a_ticket_made_with_the_previous_secret_is_good_at_a_gateway_with_a_new_one() {
    for (previous, is_good) in [(Some(OLD_SECRET), true), (None, false)] {
        let folder = Files::new(&format!("ticket-{is_good}"));
        let old = TestEdge::start(&config_with_secrets(&folder, OLD_SECRET, None));
        let new = TestEdge::start(&config_with_secrets(&folder, NEW_SECRET, previous));
        let client = old.client();
        let first = connect(&client, old.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&first, b"first").await, b"first");

        let second = connect(&client, new.address(), "localhost").await;
        assert_eq!(second.is_ok(), is_good, "{second:?}");
        if let Ok(second) = second {
            assert_eq!(round_trip(&second, b"second").await, b"second");
        }
        old.stop().await;
        new.stop().await;
    }
}

/// An address that was proved to the one need not be proved to the other.
#[tokio::test]
async fn a_token_made_with_the_previous_secret_is_good_at_a_gateway_with_a_new_one() {
    for (previous, retries) in [(Some(OLD_SECRET), 0), (None, 1)] {
        let folder = Files::new(&format!("token-{retries}"));
        let certificate = CertificateSource::Files(vec![folder.make("localhost")]);
        let start = |secret, previous, retry| {
            let mut config = config_with_secrets(&folder, secret, previous);
            config.listeners[0].certificate = certificate.clone();
            config.listeners[0].retry = retry;
            TestEdge::start(&config)
        };
        let old = start(OLD_SECRET, None, RetryPolicy::Never);
        let new = start(NEW_SECRET, previous, RetryPolicy::Always);
        let client = old.client();
        let first = connect(&client, old.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&first, b"first").await, b"first");

        let second = connect(&client, new.address(), "localhost").await.unwrap();
        assert_eq!(round_trip(&second, b"second").await, b"second");
        assert_eq!(new.numbers().retries.get(), retries);
        old.stop().await;
        new.stop().await;
    }
}

#[tokio::test]
async fn retry_auto_asks_for_proof_when_handshakes_pile_up() {
    let mut config = config(1);
    config.limits.retry_above_handshakes = Limit::AtMost(0);
    let edge = TestEdge::start(&config);

    edge.connect().await.unwrap();
    assert_eq!(edge.numbers().retries.get(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn a_drain_refuses_new_clients_and_keeps_old_ones() {
    let edge = TestEdge::start(&config(2));
    let old = edge.connect().await.unwrap();

    edge.lifecycle.begin_drain();
    assert!(was_refused(edge.connect().await));
    assert_eq!(edge.numbers().refused_draining.get(), 1);
    assert_eq!(round_trip(&old, b"old").await, b"old");
    edge.stop().await;
}

#[tokio::test]
async fn a_stop_tells_clients_that_are_still_there() {
    let edge = TestEdge::start(&config(2));
    let connection = edge.connect().await.unwrap();
    assert_eq!(round_trip(&connection, b"x").await, b"x");

    timeout(DEADLINE, edge.workers.stop()).await.unwrap();
    match timeout(DEADLINE, connection.closed()).await.unwrap() {
        ConnectionError::ApplicationClosed(end) => assert_eq!(end.error_code.into_inner(), 0x100),
        other => panic!("{other}"),
    }
    assert_eq!(edge.lifecycle.running_tasks(), 0);
    let open = r#"tidegate_quic_connections{listener="edge"} 0"#;
    assert!(edge.metrics.render().contains(open));
}

/// The client's first packet is caught by a socket that passes it on and says no more.
#[tokio::test]
async fn a_client_that_falls_silent_in_its_handshake_is_given_up() {
    let mut config = config(1);
    config.timeouts.handshake = Duration::from_millis(100);
    let edge = TestEdge::start(&config);

    let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = edge.client();
    let _attempt = client.connect(trap.local_addr().unwrap(), "localhost").unwrap();
    let mut packets = 0;
    let mut packet = [0; 2048];
    // A hybrid ClientHello is two packets; the edge answers when it has both.
    while packets < 2 {
        let (length, from) = timeout(DEADLINE, trap.recv_from(&mut packet)).await.unwrap().unwrap();
        if from == edge.address() {
            break;
        }
        trap.send_to(&packet[..length], edge.address()).await.unwrap();
        packets += 1;
    }
    let answer = async { while trap.recv_from(&mut packet).await.unwrap().1 != edge.address() {} };
    timeout(DEADLINE, answer).await.unwrap();

    timeout(DEADLINE, edge.lifecycle.all_tasks_ended()).await.unwrap();
    assert_eq!(edge.numbers().handshake_timeout.get(), 1);
    assert_eq!(edge.numbers().established.get(), 0);
    edge.stop().await;
}

#[tokio::test]
async fn metrics_tell_of_sockets_and_certificates() {
    let edge = TestEdge::start(&config(2));
    edge.workers.sampler().sample();

    let numbers = edge.numbers();
    assert!(numbers.gso_segments.get() >= 1);
    assert_eq!(numbers.socket_drops.get(), 0);
    assert_eq!(numbers.receive_buffer.get(), 1 << 20);
    assert_eq!(numbers.send_buffer.get(), 1 << 20);
    let expiry = format!(
        "tidegate_tls_certificate_expiry_timestamp_seconds{{cert=\"edge (self-signed)\"}} {}",
        edge.certificates[0].not_after
    );
    assert!(edge.metrics.render().contains(&expiry));
    edge.stop().await;
}

/// A socket that shares its address with nobody takes no program, as under a kernel without them.
#[test]
fn where_the_kernel_cannot_steer_there_is_one_worker() {
    let mut config = config(1);
    config.listeners[0].quic.push("[::1]:0".parse().unwrap());
    let mut edge = Edge::bind(&config, &Metrics::new()).unwrap();
    for (_, group) in &mut edge.groups {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        group.sockets.push(stranger);
    }

    assert_eq!(steer(&mut edge.groups, 2, &config.server), 1);
    assert!(edge.groups.iter().all(|(_, group)| group.sockets.len() == 1));
}

const CLIENTS: usize = 24;

/// What the clients of one run saw.
struct Moved {
    /// For each client, how its transfer across the change of port ended.
    ends: Vec<Result<(), ConnectionError>>,
    /// Workers that served, one entry per connection.
    workers: Vec<u8>,
}

/// Many clients change their port in mid-transfer. Every byte that arrives is checked.
async fn change_ports(config: &Config, client_idle: Duration) -> Moved {
    let mut edge = TestEdge::start(config);
    let clients = (0..CLIENTS).map(|seed| {
        let (address, sha256) = (edge.address(), edge.certificates[0].sha256);
        let client = client_with(address, sha256, b"h3", client_idle);
        async move { echo_across_a_port_change(client, address, seed).await }
    });
    let ends = join_all(clients).await;

    let mut workers = Vec::new();
    while let Ok((worker, thread)) = edge.served.try_recv() {
        assert_eq!(thread, format!("tidegate-w{worker}"));
        workers.push(worker);
    }
    edge.stop().await;
    Moved { ends, workers }
}

async fn echo_across_a_port_change(
    client: Endpoint,
    server: SocketAddr,
    seed: usize,
) -> Result<(), ConnectionError> {
    let sent: Vec<u8> =
        (0..200_000).map(|i: usize| (i * 31 + i / 256 + seed).to_le_bytes()[0]).collect();
    let (before, after) = sent.split_at(100_000);
    let connection = connect(&client, server, "localhost").await?;
    let (mut tx, mut rx) = connection.open_bi().await?;
    tx.write_all(before).await.unwrap();
    // Half of it is back, the other half still on its way.
    let mut received = vec![0; 50_000];
    rx.read_exact(&mut received).await.unwrap();

    client.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();

    let send = async {
        if tx.write_all(after).await.is_ok() {
            _ = tx.finish();
        }
    };
    let (rest, ()) = tokio::join!(rx.read_to_end(sent.len()), send);
    match rest {
        Ok(rest) => received.extend(rest),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(lost))) => {
            return Err(lost);
        }
        Err(other) => panic!("{other}"),
    }
    assert!(received == sent, "client {seed} got other bytes than it sent");
    Ok(())
}

#[tokio::test]
async fn a_change_of_port_in_mid_transfer_loses_nothing_with_1_worker() {
    let moved = change_ports(&config(1), DEADLINE).await;
    assert!(moved.ends.iter().all(Result::is_ok), "{:?}", moved.ends);
    assert_eq!(moved.workers, [0; CLIENTS]);
}

#[tokio::test]
async fn a_change_of_port_in_mid_transfer_loses_nothing_with_4_workers() {
    for server_id in [&b""[..], b"server-1"] {
        let mut config = config(4);
        config.server.server_id = server_id.to_vec();
        let moved = change_ports(&config, DEADLINE).await;
        assert!(moved.ends.iter().all(Result::is_ok), "{:?}", moved.ends);
        assert_eq!(moved.workers.len(), CLIENTS, "no connection was made twice");
        let used: HashSet<_> = moved.workers.iter().collect();
        assert!(used.len() > 1, "the kernel spreads new connections: {used:?}");
    }
}

/// Why the steering is there; and what comes to a stranger is dropped, not reset.
#[tokio::test]
async fn without_steering_a_change_of_port_loses_connections() {
    let mut config = config(4);
    config.server.steering = false;
    let moved = change_ports(&config, Duration::from_secs(2)).await;
    let lost: Vec<_> = moved.ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|end| matches!(end, ConnectionError::TimedOut)), "{lost:?}");
}
