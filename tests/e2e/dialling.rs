//! How backends are reached: over TLS, at Unix sockets, from given addresses, and what bounds it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tidegate::{
    client::{Session, StreamError},
    edge,
    reason::StreamEnd,
};
use tokio::net::{UdpSocket, UnixListener};

use crate::harness::{Setup, TcpBackend, pattern, soon};

/// A folder that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let unique = format!("dialling-{name}-{}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a stream brings back what it is given, to its end.
async fn echoes(session: &Session, bytes: &[u8]) -> bool {
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    let up = async {
        send.write(bytes).await.unwrap();
        send.finish();
    };
    let ((), back) = soon(async { tokio::join!(up, recv.read_to_end(bytes.len() + 1)) }).await;
    back.unwrap() == bytes
}

/// A TLS server for 127.0.0.1 that sends one client's bytes back when they have ended.
fn tls_echo(made: &edge::SelfSigned) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let tls = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(tls, listener.accept().unwrap().0);
        let mut all = Vec::new();
        // A client may break off, and the test knows.
        if stream.read_to_end(&mut all).is_ok() {
            stream.write_all(&all).unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_backend_is_spoken_to_over_tls_with_the_roots_of_a_file() {
    let (dir, made) = (Dir::new("tls"), edge::self_signed(&["127.0.0.1".to_owned()]).unwrap());
    fs::write(dir.path("roots.pem"), &made.certificate_pem).unwrap();
    let roots = format!("[backend.x.tls]\nroots = {:?}", dir.path("roots.pem"));
    let setup = Setup::new().route("/x", Some(tls_echo(&made)), None).tables(&roots);
    let gateway = setup.start().await;

    assert!(echoes(&gateway.session("/x").await, &pattern(1_000_000, 3)).await);
    gateway.stream_ends("finished", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_an_unreachable_backend() {
    let (dir, made) = (Dir::new("untrusted"), edge::self_signed(&["127.0.0.1".into()]).unwrap());
    let other = edge::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.path("roots.pem"), &other.certificate_pem).unwrap();
    let roots = format!("[backend.x.tls]\nroots = {:?}", dir.path("roots.pem"));
    let gateway =
        Setup::new().route("/x", Some(tls_echo(&made)), None).tables(&roots).start().await;

    let session = gateway.session("/x").await;
    let (_send, mut recv) = session.open_bidi().await.unwrap();
    let unreachable = Err(StreamError::Ended(StreamEnd::BackendUnreachable.code()));
    assert_eq!(soon(recv.read()).await, unreachable);
    let connects = "tidegate_backend_connects_total";
    gateway.metric_reaches(connects, &[("result", "tls_failed")], 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn streams_go_to_a_unix_socket() {
    let dir = Dir::new("unix");
    let listener = UnixListener::bind(dir.path("echo.sock")).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut rx, mut tx) = stream.split();
        tokio::io::copy(&mut rx, &mut tx).await.unwrap();
    });
    let setup = Setup::new().tables(&format!(
        "[[route]]\npath = \"/x\"\norigins = \"any\"\nbackend = \"x\"\n\
         [backend.x]\nendpoints = [{{ unix = {:?} }}]",
        dir.path("echo.sock")
    ));
    let gateway = setup.start().await;
    assert!(echoes(&gateway.session("/x").await, &pattern(1_000_000, 4)).await);
    gateway.stream_ends("finished", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn backends_see_the_source_address() {
    let (tcp, udp) = (TcpBackend::bind().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let udp_address = udp.local_addr().unwrap();
    let gateway = Setup::new()
        .route("/x", Some(tcp.address()), Some(udp_address))
        .tables("source = [\"127.0.0.41\"]")
        .start()
        .await;
    let session = gateway.session("/x").await;
    let _stream = session.open_bidi().await.unwrap();
    session.send_datagram(b"x").unwrap();

    assert_eq!(tcp.accept().await.peer_addr().unwrap().ip().to_string(), "127.0.0.41");
    let (_, from) = soon(udp.recv_from(&mut [0; 10])).await.unwrap();
    assert_eq!(from.ip().to_string(), "127.0.0.41");
    gateway.shut_down().await;
}

/// A listener that answers nothing more: the queue of its connections is full.
struct Hanging {
    listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl Hanging {
    fn new() -> Self {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        let soon = Duration::from_millis(100);
        while let Ok(stream) = TcpStream::connect_timeout(&address, soon) {
            queued.push(stream);
            assert!(queued.len() < 16, "the queue is never full");
        }
        Self { listener, _queued: queued }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

/// With one connection that is being made for ever, the first to come waits and the next is refused.
#[tokio::test]
async fn an_endpoint_that_hangs_gathers_no_more_dials_than_allowed() {
    let (hanging, backend) = (Hanging::new(), TcpBackend::bind().await);
    let gateway = Setup::new()
        .route("/other", Some(backend.address()), None)
        .route("/x", Some(hanging.address()), None)
        .tables("connect_timeout = \"60s\"")
        .tables("dial = { concurrent = 1, queue = 1, queue_timeout = \"1s\" }")
        .start()
        .await;
    let session = gateway.session("/x").await;
    let endpoint = [("backend", "x")];
    let _made = session.open_bidi().await.unwrap();
    gateway.metric_reaches("tidegate_backend_dials", &endpoint, 1.0).await;
    let (_send, mut late) = session.open_bidi().await.unwrap();
    gateway.metric_reaches("tidegate_backend_dials_queued", &endpoint, 1.0).await;
    let (_send, mut refused) = session.open_bidi().await.unwrap();

    let ended = |why: StreamEnd| Err(StreamError::Ended(why.code()));
    assert_eq!(soon(refused.read()).await, ended(StreamEnd::DialQueueFull));
    assert_eq!(soon(late.read()).await, ended(StreamEnd::DialQueueTimeout));
    gateway.stream_ends("dial_queue_full", 1.0).await;
    gateway.stream_ends("dial_queue_timeout", 1.0).await;

    // Nobody else suffers, and what is given up is not counted any more.
    let other = gateway.session("/other").await;
    let _stream = other.open_bidi().await.unwrap();
    backend.accept().await;
    session.close(0, "").await;
    gateway.metric_reaches("tidegate_backend_dials", &endpoint, 0.0).await;
    gateway.shut_down().await;
}
