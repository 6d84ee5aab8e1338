//! What a backend learns of the client, as readers that are not ours understand it.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader, Tlv};
use tidegate::client::{self, RequestOptions, Session};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
};

use crate::{
    harness::{Setup, TcpBackend, TestGateway, expect_text, from_origin, pattern, soon},
    log,
    receivers::Receiver,
};

/// A session and the address that its client sends from.
async fn session(
    gateway: &TestGateway,
    path: &str,
    options: &RequestOptions,
) -> (Session, SocketAddr) {
    let endpoint = gateway.endpoint();
    let connection = soon(endpoint.connect(gateway.address(), "localhost")).await.unwrap();
    let session = soon(connection.open_session(&gateway.url(path), options)).await.unwrap();
    // It is bound to 127.0.0.1, so its own address is the one that the gateway sees.
    (session, endpoint.local_addr().unwrap())
}

/// The session's id, as the operator reads it.
async fn logged_id(client: SocketAddr) -> String {
    let line = log::line_with(&["Session ended.", &format!("client={client} ")]).await;
    let (_, after) = line.split_once("session_id=").unwrap();
    after.split(' ').next().unwrap().to_owned()
}

/// What a server answers on a stream of its own.
async fn answer(session: &Session, request: &[u8]) -> String {
    let (mut send, mut recv): (client::SendStream, _) = soon(session.open_bidi()).await.unwrap();
    send.write(request).await.unwrap();
    let answer = soon(recv.read_to_end(4096)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn haproxy_reads_and_logs_who_the_client_is_in_version_1() {
    let Some(receiver) = Receiver::haproxy("haproxy-v1") else { return };
    log::keep();
    let gateway = Setup::new()
        .route("/x", Some(receiver.address()), None)
        .tables("proxy_protocol = \"v1\"")
        .start()
        .await;
    let (session, client) = session(&gateway, "/x", &RequestOptions::default()).await;

    let answer = answer(&session, b"GET / HTTP/1.0\r\n\r\n").await;
    let (ip, port, gateway_port) = (client.ip(), client.port(), gateway.address().port());
    assert!(answer.ends_with(&format!("\r\n\r\n{ip} {port} {ip} {gateway_port}  ")), "{answer}");
    receiver.logs(&format!("logged {ip} {port}")).await;
    session.close(0, "").await;
    gateway.shut_down().await;
}

/// HAProxy checks the checksum too, and closes what does not fit.
#[tokio::test]
async fn haproxy_reads_and_logs_who_the_client_is_in_version_2() {
    let Some(receiver) = Receiver::haproxy("haproxy-v2") else { return };
    log::keep();
    let gateway = Setup::new()
        .route("/x", Some(receiver.address()), None)
        .tables(
            "proxy_protocol = \"v2\"\nproxy_tlvs = [\"alpn\", \"authority\", \"unique-id\", \"ssl\", \
             \"crc32c\", \"route\", \"path\", \"origin\", \"protocol\", \"subject\", \"dialect\"]",
        )
        .start()
        .await;
    let (session, client) = session(&gateway, "/x", &RequestOptions::default()).await;

    let answer = answer(&session, b"GET / HTTP/1.0\r\n\r\n").await;
    let (ip, port, gateway_port) = (client.ip(), client.port(), gateway.address().port());
    receiver.logs(&format!("logged {ip} {port}")).await;
    session.close(0, "").await;
    let id = logged_id(client).await;
    let believed = format!("{ip} {port} {ip} {gateway_port} {id} localhost");
    assert!(answer.ends_with(&format!("\r\n\r\n{believed}")), "{answer}");
    gateway.shut_down().await;
}

#[tokio::test]
async fn nginx_reads_and_logs_who_the_client_is_in_both_versions() {
    for version in ["v1", "v2"] {
        let Some(receiver) = Receiver::nginx(&format!("nginx-{version}")) else { return };
        log::keep();
        let tlvs = match version {
            "v2" => "\nproxy_tlvs = [\"unique-id\", \"route\", \"path\"]",
            _ => "",
        };
        let gateway = Setup::new()
            .route("/x", Some(receiver.address()), None)
            .tables(&format!("proxy_protocol = \"{version}\"{tlvs}"))
            .start()
            .await;
        let (session, client) = session(&gateway, "/x", &RequestOptions::default()).await;

        let answer = answer(&session, b"").await;
        let (ip, port, gateway_port) = (client.ip(), client.port(), gateway.address().port());
        receiver.logs(&format!("logged {ip} {port}")).await;
        session.close(0, "").await;
        let more = match (receiver.reads_tlvs, version) {
            (false, _) => String::new(),
            (true, "v2") => format!(" {} x /x", logged_id(client).await),
            (true, _) => "   ".to_owned(),
        };
        assert_eq!(answer, format!("{ip} {port} {ip} {gateway_port}{more}"), "{version}");
        gateway.shut_down().await;
    }
}

/// A version 2 header as a parser that is not ours reads it, and the bytes that it takes.
fn parsed(bytes: &[u8]) -> (ProxyHeader<'static>, usize) {
    let (header, length) = ProxyHeader::parse(bytes, ParseConfig::default()).unwrap();
    (header.into_owned(), length)
}

/// The text of one of the gateway's own fields.
fn custom(header: &ProxyHeader<'_>, kind: u8) -> Option<String> {
    header.tlvs().find_map(|tlv| match tlv.unwrap() {
        Tlv::Custom(found, value) if found == kind => {
            Some(String::from_utf8(value.into_owned()).unwrap())
        }
        _ => None,
    })
}

/// Reads a version 2 header off a connection.
async fn read_header(stream: &mut TcpStream) -> ProxyHeader<'static> {
    let mut bytes = vec![0; 16];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    bytes.resize(16 + rest, 0);
    soon(stream.read_exact(&mut bytes[16..])).await.unwrap();
    parsed(&bytes).0
}

#[tokio::test]
async fn a_version_2_header_carries_what_the_client_asked_for() {
    log::keep();
    let backend = TcpBackend::bind().await;
    let gateway = Setup::new()
        .route_with("/game/{room}", Some(backend.address()), None, "protocols = [\"chat-v2\"]")
        .tables(
            "proxy_protocol = \"v2\"\nproxy_tlvs = [\"alpn\", \"authority\", \"unique-id\", \"ssl\", \
             \"crc32c\", \"route\", \"path\", \"origin\", \"protocol\", \"subject\", \"dialect\"]\n\
             preamble = \"HELLO {session_id} {capture.room} {query}\\r\\n\"",
        )
        .start()
        .await;
    let mut options = from_origin("https://play.example.com");
    let offered = http::HeaderValue::from_static("\"chat-v3\", \"chat-v2\"");
    options.headers.insert("wt-available-protocols", offered);
    let (session, client) = session(&gateway, "/game/a%20b?token=1", &options).await;
    let (mut send, _recv) = session.open_bidi().await.unwrap();
    send.write(b"hello").await.unwrap();

    let mut stream = backend.accept().await;
    let header = read_header(&mut stream).await;
    let address = header.proxied_address().unwrap();
    assert_eq!((address.protocol, address.source), (Protocol::Stream, client));
    assert_eq!(address.destination, gateway.address());
    assert_eq!(header.alpn(), Some(&b"h3"[..]));
    assert_eq!(header.authority(), Some("localhost"));
    assert_eq!(header.ssl().unwrap().version(), Some("TLSv1.3"));
    for (kind, wanted) in [
        (0xe0, Some("gameroom")),
        (0xe1, Some("/game/a%20b")),
        (0xe2, Some("https://play.example.com")),
        (0xe3, Some("chat-v2")),
        (0xe4, None),
        (0xef, None),
    ] {
        assert_eq!(custom(&header, kind).as_deref(), wanted, "{kind:x}");
    }
    let dialect = custom(&header, 0xe5).unwrap();
    session.close(0, "").await;
    let id = logged_id(client).await;
    assert_eq!(header.unique_id(), Some(id.as_bytes()));
    // The preamble comes between the header and what the client sent.
    expect_text(&mut stream, format!("HELLO {id} a%20b token=1\r\nhello").as_bytes()).await;
    let labels = [("dialect", dialect.as_str())];
    gateway.metric_reaches("tidegate_sessions_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

/// What a client makes too long is neither cut nor missing without a word, and the rest is there.
#[tokio::test]
async fn a_path_that_is_too_long_for_a_header_or_a_preamble_is_said_to_be() {
    let backend = TcpBackend::bind().await;
    let gateway = Setup::new()
        .route("/{all...}", Some(backend.address()), None)
        .tables(
            "proxy_protocol = \"v2\"\nproxy_tlvs = [\"path\", \"route\"]\n\
             preamble = \"{route} {path}\\n\"",
        )
        .start()
        .await;
    let path = format!("/{}", "x".repeat(5000));
    let (session, _) = session(&gateway, &path, &RequestOptions::default()).await;
    let (mut send, _recv) = session.open_bidi().await.unwrap();
    send.write(b"hello").await.unwrap();

    let mut stream = backend.accept().await;
    let header = read_header(&mut stream).await;
    assert_eq!((custom(&header, 0xe0).as_deref(), custom(&header, 0xe1)), (Some("all"), None));
    let left_out = header.tlvs().find_map(|tlv| match tlv.unwrap() {
        Tlv::Custom(0xef, types) => Some(types.into_owned()),
        _ => None,
    });
    assert_eq!(left_out.as_deref(), Some(&[0xe1][..]));
    expect_text(&mut stream, b"all *\nhello").await;
    session.close(0, "").await;
    gateway.shut_down().await;
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (bytes, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
    buffer.truncate(bytes);
    (buffer, from)
}

#[tokio::test]
async fn on_udp_a_version_2_header_precedes_the_first_datagram_or_each() {
    for (mode, later) in [("v2-first", false), ("v2-every", true)] {
        let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gateway = Setup::new()
            .route("/x", None, Some(backend.local_addr().unwrap()))
            .tables(&format!("udp_proxy = \"{mode}\"\nproxy_tlvs = [\"route\", \"crc32c\"]"))
            .start()
            .await;
        let (session, client) = session(&gateway, "/x", &RequestOptions::default()).await;
        for (datagram, has_header) in [(&b"one"[..], true), (b"two", later), (b"", later)] {
            session.send_datagram(datagram).unwrap();
            let (received, from) = receive(&backend).await;
            let mut payload = 0;
            if has_header {
                let (header, length) = parsed(&received);
                let address = header.proxied_address().unwrap();
                assert_eq!((address.protocol, address.source), (Protocol::Datagram, client));
                assert_eq!(address.destination, gateway.address());
                assert_eq!(custom(&header, 0xe0).as_deref(), Some("x"));
                payload = length;
            }
            assert_eq!(&received[payload..], datagram, "{mode}");
            // Replies have no header of their own.
            backend.send_to(datagram, from).await.unwrap();
            assert_eq!(soon(session.read_datagram()).await.unwrap(), datagram);
        }
        session.close(0, "").await;
        gateway.shut_down().await;
    }
}

#[tokio::test]
async fn the_simple_proxy_protocol_is_spoken_both_ways() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateway = Setup::new()
        .route("/x", None, Some(backend.local_addr().unwrap()))
        .tables("udp_proxy = \"spp\"")
        .start()
        .await;
    let (session, client) = session(&gateway, "/x", &RequestOptions::default()).await;
    let mapped = |a: SocketAddr| match a.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(ip) => ip.octets(),
    };
    let header = [
        &0x56ec_u16.to_be_bytes()[..],
        &mapped(client),
        &mapped(gateway.address()),
        &client.port().to_be_bytes(),
        &gateway.address().port().to_be_bytes(),
    ]
    .concat();
    for datagram in [&b"one"[..], b"", &pattern(1000, 7)] {
        session.send_datagram(datagram).unwrap();
        let (received, from) = receive(&backend).await;
        assert_eq!(received, [&header, datagram].concat());
        backend.send_to(b"no header", from).await.unwrap();
        backend.send_to(&received, from).await.unwrap();
        assert_eq!(soon(session.read_datagram()).await.unwrap(), datagram);
    }
    let labels = [("direction", "backend_to_client"), ("reason", "wrong_header")];
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 3.0).await;
    session.close(0, "").await;
    gateway.shut_down().await;
}
