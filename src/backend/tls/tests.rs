//! TLS to servers whose every move is the test's.

use std::{future::poll_fn, net::SocketAddr, time::Duration};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    backend::{
        Backend, BackendConnection, DialError,
        client_info::tests::client,
        tests::{NOBODY, no_resolver, settings},
    },
    config::{self, BackendTls},
    edge::{SelfSigned, self_signed},
    metrics::Metrics,
    transport::memory::soon,
};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;

fn chain(made: &SelfSigned) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()]
}

fn key(made: &SelfSigned) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap()
}

fn roots(made: &SelfSigned) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(chain(made).remove(0)).unwrap();
    roots
}

/// A server that speaks TLS.
pub(crate) struct TlsServer {
    listener: TcpListener,
    made: SelfSigned,
    config: ServerConfig,
}

impl TlsServer {
    /// For 127.0.0.1.
    pub(crate) async fn new() -> Self {
        Self::named("127.0.0.1", None).await
    }

    async fn named(name: &str, clients: Option<&SelfSigned>) -> Self {
        let made = self_signed(&[name.to_owned()]).unwrap();
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(known) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(known)), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let config = builder.with_single_cert(chain(&made), key(&made)).unwrap();
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), made, config }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// What a client needs that believes this server alone.
    pub(crate) fn trust(&self) -> BackendTls {
        BackendTls::for_tests(Some(roots(&self.made)), None, &[])
    }

    /// A backend's settings to it.
    pub(crate) fn settings(&self) -> config::Backend {
        self.settings_with(self.trust())
    }

    fn settings_with(&self, tls: BackendTls) -> config::Backend {
        config::Backend { tls: Some(Arc::new(tls)), ..settings(&[self.address()]) }
    }

    /// The next connection, with its handshake done.
    pub(crate) async fn accept(&self) -> TlsPeer {
        self.try_accept().await.unwrap()
    }

    async fn try_accept(&self) -> Result<TlsPeer, RustlsError> {
        self.handshake(soon(self.listener.accept()).await.unwrap().0).await
    }

    /// Serves a handshake, which the client must not like.
    pub(crate) async fn refuses(&self) {
        assert!(self.try_accept().await.is_err());
    }

    async fn handshake(&self, socket: TcpStream) -> Result<TlsPeer, RustlsError> {
        let tls = ServerConnection::new(Arc::new(self.config.clone())).unwrap();
        let mut peer = TlsPeer { socket, tls };
        while peer.tls.is_handshaking() {
            peer.flush().await;
            peer.take_in().await?;
        }
        peer.flush().await;
        Ok(peer)
    }
}

/// The server's end of a connection.
pub(crate) struct TlsPeer {
    socket: TcpStream,
    tls: ServerConnection,
}

impl TlsPeer {
    async fn flush(&mut self) {
        while self.tls.wants_write() {
            let mut records = Vec::new();
            self.tls.write_tls(&mut records).unwrap();
            // Where the other side is gone already, the test sees it elsewhere.
            _ = soon(self.socket.write_all(&records)).await;
        }
    }

    /// Waits for records or for the end of them.
    async fn take_in(&mut self) -> Result<(), RustlsError> {
        let mut bytes = vec![0; 16 * 1024];
        let read = soon(self.socket.read(&mut bytes)).await;
        let read = read.map_err(|error| RustlsError::General(error.to_string()))?;
        let mut records = &bytes[..read];
        loop {
            self.tls.read_tls(&mut records).unwrap();
            let understood = self.tls.process_new_packets();
            if understood.is_err() {
                self.flush().await;
            }
            understood?;
            if records.is_empty() {
                return Ok(());
            }
        }
    }

    /// All bytes up to the end, and whether that is a clean one.
    pub(crate) async fn read_to_end(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut all = Vec::new();
        loop {
            match self.read_some(&mut all).await {
                Ok(0) => return (all, Ok(())),
                Ok(_) => {}
                Err(error) => return (all, Err(error)),
            }
        }
    }

    pub(crate) async fn read_exact(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            assert_ne!(self.read_some(&mut all).await.unwrap(), 0, "the end after {all:?}");
        }
        all
    }

    async fn read_some(&mut self, all: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.tls.reader().read(&mut buffer) {
                Ok(read) => {
                    all.extend_from_slice(&buffer[..read]);
                    return Ok(read);
                }
                Err(wait) if wait.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.take_in().await.map_err(io::Error::other)?;
        }
    }

    pub(crate) async fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self.tls.writer().write(bytes).unwrap();
            bytes = &bytes[written..];
            self.flush().await;
        }
    }

    /// `close_notify`; the TCP connection stays open in both directions.
    pub(crate) async fn finish(&mut self) {
        self.tls.send_close_notify();
        self.flush().await;
    }

    /// FIN without `close_notify`: what a server looks like that was killed.
    pub(crate) async fn cut(&mut self) {
        soon(self.socket.shutdown()).await.unwrap();
    }

    /// RST.
    pub(crate) fn reset(self) {
        self.socket.set_zero_linger().unwrap();
    }
}

async fn dial(settings: config::Backend) -> Result<BackendConnection, DialError> {
    let backend = Backend::new(Arc::new(settings), &Metrics::new(), no_resolver(), None);
    let backend = Arc::new(backend);
    let pin = backend.pick(&NOBODY).unwrap();
    let dialled = soon(pin.dial(&client())).await;
    let failed = backend.endpoints[0].metrics.dial.tls_failed.get();
    let tls_failed = matches!(dialled, Err(DialError::Tls(_)));
    assert_eq!(failed, u64::from(tls_failed), "counted under another result");
    dialled
}

/// Why a dial of this server fails; its side of the handshake is served meanwhile.
async fn refusal(server: &TlsServer, settings: config::Backend) -> DialError {
    let (dialled, _served) = tokio::join!(dial(settings), server.try_accept());
    dialled.unwrap_err()
}

async fn read(connection: &mut BackendConnection, most: usize) -> io::Result<Vec<u8>> {
    let (mut reader, _writer) = connection.split();
    let mut buffer = vec![0; most];
    let read = soon(poll_fn(|cx| reader.poll_read(cx, &mut buffer))).await?;
    buffer.truncate(read);
    Ok(buffer)
}

#[tokio::test]
async fn bytes_pass_and_each_half_ends_by_itself() {
    let server = TlsServer::new().await;
    exchange(&server).await;
}

#[tokio::test]
async fn a_backend_of_tls_1_2_is_spoken_to_as_well() {
    let mut server = TlsServer::new().await;
    let provider = Arc::new(default_provider());
    server.config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&server.made), key(&server.made))
        .unwrap();
    exchange(&server).await;
}

async fn exchange(server: &TlsServer) {
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();

    let (_reader, writer) = connection.split();
    assert_eq!(writer.try_write(&[IoSlice::new(b"hel"), IoSlice::new(b"lo")]).unwrap(), 5);
    soon(writer.finish()).await.unwrap();
    let (bytes, end) = peer.read_to_end().await;
    assert_eq!((bytes, end.is_ok()), (b"hello".to_vec(), true));

    peer.write(b"late reply").await;
    assert_eq!(read(&mut connection, 100).await.unwrap(), b"late reply");
    peer.finish().await;
    assert_eq!(read(&mut connection, 100).await.unwrap(), b"");
}

#[tokio::test]
async fn a_fin_without_close_notify_is_a_truncation() {
    let server = TlsServer::new().await;
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();

    peer.write(b"half a rep").await;
    peer.cut().await;
    assert_eq!(read(&mut connection, 100).await.unwrap(), b"half a rep");
    let error = read(&mut connection, 100).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn noise_between_records_is_an_error_and_no_end() {
    let server = TlsServer::new().await;
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();

    peer.socket.write_all(&[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    let error = read(&mut connection, 100).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_dropped_connection_resets_and_a_closed_one_does_not() {
    let server = TlsServer::new().await;
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    drop(dialled.unwrap());
    let end = peer.read_to_end().await.1.unwrap_err();
    assert!(end.to_string().contains("reset"), "{end}");

    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();
    soon(connection.split().1.finish()).await.unwrap();
    // A ticket of the handshake that nobody has read would be a reset too.
    peer.finish().await;
    assert_eq!(read(&mut connection, 100).await.unwrap(), b"");
    connection.close();
    peer.read_to_end().await.1.unwrap();
}

/// The backend said more than was read, and rustls has it; the kernel alone would send FIN.
#[tokio::test]
async fn closing_with_a_reply_half_read_resets() {
    let server = TlsServer::new().await;
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();
    peer.write(b"a long reply").await;
    assert_eq!(read(&mut connection, 1).await.unwrap(), b"a");

    connection.close();
    let end = peer.read_to_end().await.1.unwrap_err();
    assert!(end.to_string().contains("reset"), "{end}");
}

/// What counts as written is with the kernel, whole, however full it was in between.
#[tokio::test]
async fn a_full_kernel_is_waited_for_and_nothing_counts_before_its_time() {
    let server = TlsServer::new().await;
    let (dialled, mut peer) = tokio::join!(dial(server.settings()), server.accept());
    let mut connection = dialled.unwrap();
    let words = (0..1_000_000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let bytes: Vec<u8> = words.flatten().collect();

    let (_reader, writer) = connection.split();
    let mut blocked = 0;
    let send = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match writer.try_write(&[IoSlice::new(rest)]) {
                Ok(written) => {
                    assert_ne!(written, 0, "rustls holds what the kernel has not got");
                    rest = &rest[written..];
                }
                Err(full) => {
                    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
                    blocked += 1;
                    writer.writable().await.unwrap();
                }
            }
        }
        writer.finish().await.unwrap();
    };
    let ((), (seen, end)) = soon(async { tokio::join!(send, peer.read_to_end()) }).await;
    assert!(seen == bytes && end.is_ok());
    assert!(blocked > 0, "the kernel was never full");
}

#[tokio::test]
async fn a_certificate_that_leads_nowhere_is_not_trusted() {
    let (server, other) = (TlsServer::new().await, TlsServer::new().await);
    let error = refusal(&server, server.settings_with(other.trust())).await;
    assert!(matches!(error, DialError::Tls(TlsError::Untrusted(_))), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_told_from_one_that_is_not_trusted() {
    let server = TlsServer::named("elsewhere.example", None).await;
    let error = refusal(&server, server.settings()).await;
    assert!(matches!(error, DialError::Tls(TlsError::WrongName(_))), "{error:?}");

    // The configuration may say whom to expect.
    let mut trust = server.trust();
    trust.server_name = Some("elsewhere.example".into());
    let (dialled, peer) = tokio::join!(dial(server.settings_with(trust)), server.accept());
    assert_eq!(peer.tls.server_name(), Some("elsewhere.example"));
    dialled.unwrap();
}

#[tokio::test]
async fn any_certificate_is_believed_only_where_that_is_asked_for() {
    let server = TlsServer::named("elsewhere.example", None).await;
    let any = BackendTls::for_tests(None, None, &[]);
    let (dialled, _peer) = tokio::join!(dial(server.settings_with(any)), server.accept());
    dialled.unwrap();
}

#[tokio::test]
async fn a_protocol_is_agreed_on_and_none_in_common_is_a_refusal() {
    let mut server = TlsServer::new().await;
    server.config.alpn_protocols = vec![b"game/2".to_vec()];
    let offer = |protocols: &[&str]| {
        let protocols: Vec<_> = protocols.iter().map(ToString::to_string).collect();
        let tls = BackendTls::for_tests(Some(roots(&server.made)), None, &protocols);
        server.settings_with(tls)
    };
    let settings = offer(&["game/3", "game/2"]);
    let (dialled, peer) = tokio::join!(dial(settings), server.accept());
    assert_eq!(peer.tls.alpn_protocol(), Some(&b"game/2"[..]));
    dialled.unwrap();

    let error = refusal(&server, offer(&["game/1"])).await;
    assert!(matches!(error, DialError::Tls(TlsError::Refused(_))), "{error:?}");
}

#[tokio::test]
async fn a_backend_that_asks_sees_the_gateways_certificate() {
    let gateway = self_signed(&["gateway.example".to_owned()]).unwrap();
    let server = TlsServer::named("127.0.0.1", Some(&gateway)).await;
    let identity = Some((chain(&gateway), key(&gateway)));
    let tls = BackendTls::for_tests(Some(roots(&server.made)), identity, &[]);
    let (dialled, peer) = tokio::join!(dial(server.settings_with(tls)), server.accept());
    assert_eq!(peer.tls.peer_certificates(), Some(&chain(&gateway)[..]));
    dialled.unwrap();
}

#[tokio::test]
async fn what_is_no_tls_is_an_error_at_once() {
    let server = TlsServer::new().await;
    let talk = async {
        let mut socket = server.listener.accept().await.unwrap().0;
        socket.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        socket
    };
    let (dialled, _socket) = tokio::join!(dial(server.settings()), talk);
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Tls(TlsError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn a_backend_that_leaves_in_the_handshake_is_an_error_at_once() {
    let server = TlsServer::new().await;
    let leave = async {
        let mut socket = server.listener.accept().await.unwrap().0;
        socket.read_exact(&mut [0; 5]).await.unwrap();
    };
    let (dialled, ()) = tokio::join!(dial(server.settings()), leave);
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Tls(TlsError::Ended(_))), "{error:?}");
}

#[tokio::test]
async fn a_handshake_that_stands_still_ends_with_the_connect_timeout() {
    let server = TlsServer::new().await;
    let settings =
        config::Backend { connect_timeout: Duration::from_millis(300), ..server.settings() };
    // The kernel accepts; nobody answers.
    let error = dial(settings).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout), "{error:?}");
}

#[tokio::test]
async fn the_introduction_comes_before_the_handshake() {
    let server = TlsServer::new().await;
    let settings =
        config::Backend { proxy_protocol: config::ProxyProtocol::V1, ..server.settings() };
    let serve = async {
        let mut socket = server.listener.accept().await.unwrap().0;
        let wanted = b"PROXY TCP4 192.0.2.1 203.0.113.9 5 443\r\n";
        let mut header = [0; 40];
        soon(socket.read_exact(&mut header)).await.unwrap();
        assert_eq!(header, *wanted);
        server.handshake(socket).await.unwrap()
    };
    let (dialled, _peer) = tokio::join!(dial(settings), serve);
    dialled.unwrap();
}
