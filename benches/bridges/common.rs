//! What the bridges have in common: their command line, and TLS and QUIC set up as in the gateway.

use std::{
    error::Error,
    io::{self, Write},
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use quinn::{MtuDiscoveryConfig, TransportConfig, crypto::rustls::QuicServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as provider;

/// All that can go wrong ends the program with its text.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Carries QUIC streams to a TCP server and QUIC datagrams to a UDP server, until SIGTERM.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// UDP address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// TCP server that each stream gets a connection to
    #[arg(long, value_name = "ADDR")]
    pub(crate) tcp: SocketAddr,
    /// UDP server that datagrams go to; without it they are dropped
    #[arg(long, value_name = "ADDR")]
    pub(crate) udp: Option<SocketAddr>,
    /// PEM file with the certificate chain
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// PEM file with its key
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Bidirectional streams that a client may have open
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) max_bidi: u32,
    /// `cargo bench` says this to every program that it runs.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// Runs a bridge on one thread until it fails or SIGTERM comes.
pub(crate) fn run(bridge: impl AsyncFnOnce(Args) -> Result<(), Failure>) -> Result<(), Failure> {
    let args = Args::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = bridge(args) => ended,
            _ = terminated.recv() => Ok(()),
        }
    })
}

/// Says where the bridge listens, on a line of its own, so that whoever started it can begin.
pub(crate) fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// The UDP socket, with buffers as large as the gateway asks for.
pub(crate) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    const BUFFER_BYTES: usize = 7 * 1024 * 1024;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// TLS 1.3 with the cheapest of what all browsers speak, so that handshakes and encryption compare: X25519
/// and AES-128-GCM.
pub(crate) fn tls(args: &Args, protocol: &[u8]) -> Result<rustls::ServerConfig, Failure> {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    };
    let chain = CertificateDer::pem_file_iter(&args.cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&args.key)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// QUIC with the gateway's settings, but for larger stream windows, which only help here: a bridge need not
/// bound what its clients make it hold.
pub(crate) fn quic(args: &Args, tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, Failure> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(1452).minimum_change(127);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(Duration::from_secs(45).try_into()?))
        .keep_alive_interval(Some(Duration::from_secs(15)))
        .stream_receive_window((4_u32 << 20).into())
        .receive_window((16_u32 << 20).into())
        .send_window(8 << 20)
        .max_concurrent_bidi_streams(args.max_bidi.into())
        .max_concurrent_uni_streams(16_u32.into())
        .mtu_discovery_config(Some(discovery));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A connection to the TCP server, for one stream.
pub(crate) async fn connect(backend: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(backend).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// An unconnected port of the right family, connected to the UDP server.
pub(crate) async fn open_udp(backend: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let any: SocketAddr =
        if backend.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().map_err(io::Error::other)?;
    let socket = tokio::net::UdpSocket::bind(any).await?;
    socket.connect(backend).await?;
    Ok(socket)
}
