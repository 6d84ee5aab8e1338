//! A server that is not ours, wtransport's: it echoes, or does one thing wrong.

use std::time::Duration;

use wtransport::{
    Connection, Endpoint, Identity, RecvStream, SendStream, ServerConfig, VarInt,
    endpoint::{IncomingSession, endpoint_side::Server},
    tls::{Certificate, CertificateChain, PrivateKey},
};

/// On the wire: 0x52e4a40fa8db + n + n / 0x1e (draft-ietf-webtrans-http3, section on stream errors).
const APPLICATION_CODE_7: u64 = 0x52e4_a40f_a8db + 7;

/// What the server does instead of echoing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Nothing,
    /// Changes byte 40,000 of every stream.
    WrongByte,
    /// Ends every stream cleanly, but sends only its first bytes back.
    EarlyEnd,
    /// Resets every stream with application code 7 after the first bytes.
    Reset,
    /// Sends one byte more than came.
    OneByteMore,
    /// Never answers on streams.
    Silence,
    /// Returns each datagram twice but the first, which it loses.
    LossAndCopies,
    /// Changes the last byte of each datagram.
    WrongDatagram,
    /// Answers 404.
    NotFound,
    /// Answers 403 to whoever does not show [`TOKEN`] and the header `x-robot: r7`.
    AsksWho,
    /// Ends the connection at the first datagram.
    Gone,
    /// Stops for [`STALL`] once on every stream, after [`BEFORE_STALL`] bytes.
    Stall,
}

/// What [`Fault::AsksWho`] asks for.
pub(crate) const TOKEN: &str = "a-token-of-the-test";

/// How long [`Fault::Stall`] takes.
const STALL: Duration = Duration::from_millis(100);

/// Four hundred messages of the usual size of `rr`.
const BEFORE_STALL: usize = 400 * 64;

/// An echo server on loopback, and the command line that reaches it.
pub(crate) fn serve(fault: Fault) -> Vec<String> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = Certificate::from_der(made.cert.der().to_vec()).unwrap();
    let hash = certificate.hash().fmt(wtransport::tls::Sha256DigestFmt::DottedHex);
    let key = PrivateKey::from_der_pkcs8(made.signing_key.serialize_der());
    let identity = Identity::new(CertificateChain::new(vec![certificate]), key);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // What the kernel drops at a server that is busy echoing is no fault of the program's.
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    let config = ServerConfig::builder().with_bind_socket(socket).with_identity(identity).build();
    let server = Endpoint::server(config).unwrap();
    let url = format!("https://{}/echo?x=1", server.local_addr().unwrap());
    tokio::spawn(accept(server, fault));
    ["--url", &url, "--cert-hash", &hash].map(str::to_owned).to_vec()
}

async fn accept(server: Endpoint<Server>, fault: Fault) {
    loop {
        tokio::spawn(session(server.accept().await, fault));
    }
}

async fn session(incoming: IncomingSession, fault: Fault) {
    // A client that does not believe the server goes away in the handshake.
    let Ok(request) = incoming.await else { return };
    assert_eq!(request.path(), "/echo?x=1");
    if fault == Fault::NotFound {
        return request.not_found().await;
    }
    let shows = |name: &str, value: &str| request.headers().get(name).is_some_and(|v| v == value);
    let is_known = shows("authorization", &format!("Bearer {TOKEN}")) && shows("x-robot", "r7");
    if fault == Fault::AsksWho && !is_known {
        return request.forbidden().await;
    }
    let connection = request.accept().await.unwrap();
    if fault == Fault::Gone {
        connection.receive_datagram().await.unwrap();
        return connection.close(VarInt::from_u32(9), b"gone");
    }
    let streams = async {
        while let Ok((send, recv)) = connection.accept_bi().await {
            tokio::spawn(stream(send, recv, fault));
        }
    };
    tokio::join!(streams, datagrams(&connection, fault));
}

async fn stream(mut send: SendStream, mut recv: RecvStream, fault: Fault) {
    let mut buffer = vec![0; 64 * 1024];
    let mut came = 0;
    while let Ok(Some(length)) = recv.read(&mut buffer).await {
        let mut bytes = &mut buffer[..length];
        match fault {
            Fault::Silence => bytes = &mut [],
            Fault::EarlyEnd if came > 0 => bytes = &mut [],
            Fault::EarlyEnd => bytes = &mut bytes[..length / 2],
            // Once more than once is an error that changes nothing.
            Fault::Reset => _ = send.reset(VarInt::try_from(APPLICATION_CODE_7).unwrap()),
            Fault::Stall if (came..came + length).contains(&BEFORE_STALL) => {
                tokio::time::sleep(STALL).await;
            }
            Fault::WrongByte if (came..came + length).contains(&40_000) => {
                bytes[40_000 - came] ^= 1;
            }
            _ => {}
        }
        // An error is the client's refusal of what is wrong, or our own reset.
        _ = send.write_all(bytes).await;
        came += length;
    }
    match fault {
        Fault::Silence => std::future::pending().await,
        Fault::OneByteMore => _ = send.write_all(b"!").await,
        _ => {}
    }
    // As above.
    _ = send.finish().await;
}

async fn datagrams(connection: &Connection, fault: Fault) {
    let mut first = true;
    while let Ok(datagram) = connection.receive_datagram().await {
        let mut payload = datagram.to_vec();
        match fault {
            Fault::LossAndCopies if std::mem::take(&mut first) => continue,
            Fault::LossAndCopies => _ = connection.send_datagram(&payload),
            Fault::WrongDatagram => *payload.last_mut().unwrap() ^= 1,
            _ => {}
        }
        // An error says that the client has gone.
        _ = connection.send_datagram(payload);
    }
}
