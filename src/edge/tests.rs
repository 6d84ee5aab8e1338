//! The edge from outside: raw QUIC clients on loopback.
#![allow(clippy::disallowed_methods, reason = "clients are not the gateway's tasks")]

mod admission;
mod certificates;
mod moves;
mod secrets;

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
