//! What a bridge costs that has no HTTP/3: bare QUIC streams and datagrams to TCP and UDP.
//!
//! It does what the gateway's bridges do at the least: chunks as they lie in QUIC go to TCP in one system
//! call, what TCP brings is read into a buffer of the thread and copied once to its exact size, and a
//! connection's datagrams have one UDP socket.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, pin::Pin, sync::Arc, thread};

use bytes::Bytes;
use quinn::{Endpoint, ServerConfig, TransportConfig, crypto::rustls::QuicServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpStream, UdpSocket},
};

use super::backends::{Backends, Target};

/// The name of the thread that all of it runs on.
pub(crate) const THREAD: &str = "bare-bridge";

/// The application protocol.
pub(crate) const ALPN: &[u8] = b"bare";

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// Starts one bridge to each backend, all on one thread. Their addresses, in the order of
/// [`Target::ALL`].
pub(crate) fn start(backends: Backends) -> Vec<SocketAddr> {
    let (ready, started) = std::sync::mpsc::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let config = config();
            let mut addresses = Vec::new();
            for target in Target::ALL {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = Endpoint::server(config.clone(), any).expect("a socket");
                addresses.push(endpoint.local_addr().expect("an address"));
                tokio::spawn(accept(endpoint, backends.tcp(target), backends.udp));
            }
            ready.send(addresses).expect("the main thread waits");
            std::future::pending::<()>().await;
        });
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(run).expect("a thread");
    started.recv().expect("the bridges start")
}

fn config() -> ServerConfig {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let certified = certified.expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(super::client::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::from(key))
        .expect("the key is the certificate's");
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicServerConfig::try_from(tls).expect("a suite for Initial packets");
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = TransportConfig::default();
    // As the gateway has them.
    transport.max_concurrent_bidi_streams(128_u32.into()).max_concurrent_uni_streams(19_u32.into());
    config.transport_config(Arc::new(transport));
    config
}

async fn accept(endpoint: Endpoint, tcp: SocketAddr, udp: SocketAddr) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(quic) = incoming.await else { return };
            tokio::join!(streams(&quic, tcp), datagrams(&quic, udp));
        });
    }
}

async fn streams(quic: &quinn::Connection, tcp: SocketAddr) {
    while let Ok((mut send, mut recv)) = quic.accept_bi().await {
        tokio::spawn(async move {
            let mut tcp = TcpStream::connect(tcp).await?;
            tcp.set_nodelay(true)?;
            let (read, write) = tcp.split();
            tokio::try_join!(up(&mut recv, write), down(read, &mut send))?;
            io::Result::Ok(())
        });
    }
}

async fn up(recv: &mut quinn::RecvStream, write: tokio::net::tcp::WriteHalf<'_>) -> io::Result<()> {
    let mut chunks: [Bytes; 32] = Default::default();
    while let Some(filled) = recv.read_chunks(&mut chunks).await? {
        let mut unsent = &mut chunks[..filled];
        while !unsent.is_empty() {
            let slices: [io::IoSlice<'_>; 32] =
                std::array::from_fn(|i| io::IoSlice::new(unsent.get(i).map_or(&[], |c| &c[..])));
            match write.try_write_vectored(&slices[..unsent.len()]) {
                Ok(mut written) => {
                    while let Some(first) = unsent.first_mut() {
                        let taken = written.min(first.len());
                        drop(first.split_to(taken));
                        written -= taken;
                        if !first.is_empty() {
                            break;
                        }
                        unsent = &mut unsent[1..];
                    }
                }
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => write.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
    socket2::SockRef::from(write.as_ref()).shutdown(std::net::Shutdown::Write)
}

async fn down(
    mut read: tokio::net::tcp::ReadHalf<'_>,
    send: &mut quinn::SendStream,
) -> io::Result<()> {
    loop {
        let chunk = poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|buffer| {
                let mut space = ReadBuf::new(buffer);
                let polled = Pin::new(&mut read).poll_read(cx, &mut space);
                polled.map_ok(|()| Bytes::copy_from_slice(space.filled()))
            })
        });
        let chunk = chunk.await?;
        if chunk.is_empty() {
            _ = send.finish();
            return Ok(());
        }
        send.write_chunk(chunk).await?;
    }
}

/// Both ways, from the first datagram on.
async fn datagrams(quic: &quinn::Connection, udp: SocketAddr) {
    let Ok(first) = quic.read_datagram().await else { return };
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await else { return };
    if socket.connect(udp).await.is_err() {
        return;
    }
    _ = socket.send(&first).await;
    let up = async {
        while let Ok(datagram) = quic.read_datagram().await {
            // One that is refused is lost.
            _ = socket.send(&datagram).await;
        }
    };
    let down = async {
        while socket.readable().await.is_ok() {
            loop {
                let read = SCRATCH.with_borrow_mut(|buffer| {
                    socket.try_recv(buffer).map(|read| Bytes::copy_from_slice(&buffer[..read]))
                });
                let Ok(datagram) = read else { break };
                _ = quic.send_datagram(datagram);
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
