//! What the gateway is compared with, and by (`benches`). The bridges carry what they are given, and no cut transfer
//! looks whole: a baseline that loses something is cheap. The comparison's own tests lie beside its code.

#![allow(clippy::disallowed_methods, reason = "tests spawn servers of their own")]
#![allow(clippy::disallowed_types, reason = "tests speak QUIC past the client room")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]
#![allow(clippy::duplicate_mod, reason = "each bridge is a program with the same beginning")]
#![allow(dead_code, reason = "the programs' own `main` is not called")]

#[path = "../benches/bridges/bare_quinn.rs"]
mod bare_quinn;
#[path = "../benches/compare/main.rs"]
mod compare;
#[path = "e2e/harness/echo.rs"]
mod echo;
#[path = "../benches/bridges/h3_webtransport.rs"]
mod on_h3_webtransport;
#[path = "../benches/bridges/wtransport.rs"]
mod on_wtransport;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use echo::{echo_tcp, echo_udp};
use quinn::{ReadError, ReadToEndError};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tidegate::client::{self, Options, RequestOptions, Session, StreamError, Trust};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;

/// Everything ends by then, or hangs.
const DEADLINE: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Where a bridge listens that was started on this runtime with these servers behind it.
macro_rules! start {
    ($bridge:ident, $tcp:expr, $udp:expr) => {{
        let [cert, key] = certificate().clone();
        let listen = "127.0.0.1:0".parse().unwrap();
        let (tcp, udp) = ($tcp, Some($udp));
        let args = $bridge::Args { listen, tcp, udp, cert, key, max_bidi: 100, bench: false };
        let endpoint = $bridge::bind(&args).unwrap();
        let address: SocketAddr = endpoint.local_addr().unwrap();
        tokio::spawn(async move { $bridge::serve(&endpoint, &args).await });
        address
    }};
}

/// Files with a certificate for `localhost` and its key.
fn certificate() -> &'static [PathBuf; 2] {
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let files = ["bridges-cert.pem", "bridges-key.pem"].map(|name| folder.join(name));
        std::fs::write(&files[0], made.cert.pem()).unwrap();
        std::fs::write(&files[1], made.signing_key.serialize_pem()).unwrap();
        files
    })
}

/// A session of our client's.
async fn session(bridge: SocketAddr) -> Session {
    let local = "127.0.0.1:0".parse().unwrap();
    let endpoint = client::Endpoint::bind(local, &Options::new(Trust::DangerAcceptAny)).unwrap();
    let connection = within(endpoint.connect(bridge, "localhost")).await.unwrap();
    let options = RequestOptions::default();
    within(connection.open_session(&format!("https://{bridge}/"), &options)).await.unwrap()
}

/// A connection as the bridge on bare quinn wants it.
async fn connection(bridge: SocketAddr) -> quinn::Connection {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate()[0]).unwrap()).unwrap();
    let provider = Arc::new(default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"tidegate-bench".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    within(endpoint.connect_with(config, bridge, "localhost").unwrap()).await.unwrap()
}

/// Much more than any read takes, and no part like another.
fn text() -> Vec<u8> {
    (0..500_000_u32).flat_map(u32::to_be_bytes).collect()
}

/// What is sent comes back whole after the client's FIN, and a datagram as it was.
async fn webtransport_comes_back(bridge: SocketAddr) {
    let session = session(bridge).await;
    let (mut send, mut recv) = within(session.open_bidi()).await.unwrap();
    let sending = tokio::spawn(async move {
        send.write(&text()).await.unwrap();
        send.finish();
    });
    let back = within(recv.read_to_end(usize::MAX)).await.unwrap();
    assert!(back == text(), "{} bytes came back", back.len());
    sending.await.unwrap();

    for size in [0, 1, 1100] {
        let datagram = vec![7; size];
        session.send_datagram(&datagram).unwrap();
        assert_eq!(within(session.read_datagram()).await.unwrap(), datagram);
    }
}

#[tokio::test]
async fn the_bridge_on_wtransport_carries_both_ways() {
    let bridge = start!(on_wtransport, echo_tcp().await, echo_udp().await);
    webtransport_comes_back(bridge).await;
}

#[tokio::test]
async fn the_bridge_on_h3_webtransport_carries_both_ways() {
    let bridge = start!(on_h3_webtransport, echo_tcp().await, echo_udp().await);
    webtransport_comes_back(bridge).await;
}

#[tokio::test]
async fn the_bridge_on_bare_quinn_carries_both_ways() {
    let bridge = start!(bare_quinn, echo_tcp().await, echo_udp().await);
    let connection = connection(bridge).await;
    let (mut send, mut recv) = within(connection.open_bi()).await.unwrap();
    let sending = tokio::spawn(async move {
        send.write_all(&text()).await.unwrap();
        send.finish().unwrap();
    });
    let back = within(recv.read_to_end(usize::MAX)).await.unwrap();
    assert!(back == text(), "{} bytes came back", back.len());
    sending.await.unwrap();

    for size in [0, 1, 1100] {
        let datagram = vec![7; size];
        connection.send_datagram(datagram.clone().into()).unwrap();
        assert_eq!(within(connection.read_datagram()).await.unwrap(), datagram);
    }
}

/// A server that says a word to whoever comes, and then cuts the connection.
async fn cutting_tcp() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(b"half").await.unwrap();
            stream.set_zero_linger().unwrap();
        }
    });
    address
}

async fn webtransport_is_cut(bridge: SocketAddr) {
    let session = session(bridge).await;
    let (mut send, mut recv) = within(session.open_bidi()).await.unwrap();
    send.write(b"hello").await.unwrap();
    let end = within(recv.read_to_end(usize::MAX)).await.unwrap_err();
    assert!(!matches!(end, StreamError::Lost), "{end:?}");
}

#[tokio::test]
async fn a_cut_reply_looks_whole_on_no_bridge() {
    webtransport_is_cut(start!(on_wtransport, cutting_tcp().await, echo_udp().await)).await;
    webtransport_is_cut(start!(on_h3_webtransport, cutting_tcp().await, echo_udp().await)).await;

    let bridge = start!(bare_quinn, cutting_tcp().await, echo_udp().await);
    let connection = connection(bridge).await;
    let (mut send, mut recv) = within(connection.open_bi()).await.unwrap();
    send.write_all(b"hello").await.unwrap();
    let end = within(recv.read_to_end(usize::MAX)).await.unwrap_err();
    assert!(matches!(end, ReadToEndError::Read(ReadError::Reset(_))), "{end:?}");
}
