//! Servers without HTTP/3: TLS over TCP, and bare QUIC.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;

fn tls(protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    #[cfg(feature = "aws-lc-rs")]
    let provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider: CryptoProvider = rustls::crypto::ring::default_provider();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// An echo over TLS, which answers `close_notify` with its own.
pub(crate) fn tls_echo() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls(&[]);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                // An error is the client's going without a word.
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..length]).unwrap();
                }
                stream.conn.send_close_notify();
                _ = stream.flush();
            });
        }
    });
    address
}

/// Bare QUIC: each stream is carried to a TCP connection, datagrams come back.
pub(crate) fn quic(backend: SocketAddr) -> SocketAddr {
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls(&[b"tidegate-bench"])).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            // An error is a client that goes in the handshake.
            let Ok(connection) = incoming.await else { continue };
            let datagrams = connection.clone();
            tokio::spawn(async move {
                while let Ok(datagram) = datagrams.read_datagram().await {
                    datagrams.send_datagram(datagram).unwrap();
                }
            });
            tokio::spawn(async move {
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(bridge(send, recv, backend));
                }
            });
        }
    });
    address
}

async fn bridge(mut send: quinn::SendStream, mut recv: quinn::RecvStream, backend: SocketAddr) {
    let mut backend = TcpStream::connect(backend).await.unwrap();
    let (mut read, mut write) = backend.split();
    let up = async {
        tokio::io::copy(&mut recv, &mut write).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut write).await
    };
    let down = async {
        tokio::io::copy(&mut read, &mut send).await?;
        _ = send.finish();
        Ok::<_, std::io::Error>(())
    };
    // An error is a stream that the client has given up.
    _ = tokio::try_join!(up, down);
}
