//! The main job: sessions whose streams reach a TCP server and whose datagrams reach a UDP server.

use tidegate::client::{Closed, RequestOptions, StreamError};

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, pattern, soon};

#[tokio::test]
async fn a_stream_comes_back_byte_by_byte() {
    let gateway = TestGateway::echo().await;
    let session = gateway.session("/echo").await;
    for length in [0, 1, 65_536, 4 * 1024 * 1024] {
        let sent = pattern(length, 7);
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        let (_, back) = soon(async {
            tokio::join!(
                async {
                    send.write(&sent).await.unwrap();
                    send.finish();
                },
                recv.read_to_end(usize::MAX)
            )
        })
        .await;
        assert!(back.unwrap() == sent, "{length} bytes came back changed");
    }
    session.close(0, "").await;
    let length = 65_537.0 + 4_194_304.0;
    let bytes =
        |direction| gateway.metric("tidegate_stream_bytes_total", &[("direction", direction)]);
    gateway.is_empty().await;
    assert!((bytes("client_to_backend") - length).abs() < 0.5);
    assert!((bytes("backend_to_client") - length).abs() < 0.5);
    gateway.shut_down().await;
}

#[tokio::test]
async fn datagrams_come_back_whole_also_empty_ones() {
    let gateway = TestGateway::echo().await;
    let session = gateway.session("/echo").await;
    let largest = session.max_datagram_payload().unwrap();
    for length in [0, 1, 500, largest] {
        let sent = pattern(length, 3);
        session.send_datagram(&sent).unwrap();
        assert_eq!(soon(session.read_datagram()).await.unwrap(), sent);
    }
    let datagrams = [("direction", "backend_to_client")];
    gateway.metric_reaches("tidegate_datagrams_total", &datagrams, 4.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_hundred_streams_at_once_each_get_their_own_bytes() {
    let gateway = TestGateway::echo().await;
    let session = gateway.session("/echo").await;
    let streams = (0..100).map(async |seed| {
        let sent = pattern(10_000, seed);
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        send.write(&sent).await.unwrap();
        send.finish();
        assert!(recv.read_to_end(usize::MAX).await.unwrap() == sent, "stream {seed}");
    });
    soon(futures_util::future::join_all(streams)).await;
    gateway.stream_ends("finished", 100.0).await;
    gateway.shut_down().await;
}

/// Browsers open streams and send datagrams before they have the answer to their request.
#[tokio::test]
async fn what_comes_before_the_session_is_kept_for_it() {
    let gateway = TestGateway::echo().await;
    let connection = gateway.connect().await;
    // The session's id is known before it exists: that of the first request stream, which is 0.
    let (mut send, mut recv) = connection.quic().open_bi().await.unwrap();
    let (mut early, mut early_back) = connection.quic().open_bi().await.unwrap();
    early.write_all(&[0x40, 0x41, 0x00, b'h', b'i']).await.unwrap();
    early.finish().unwrap();
    connection.quic().send_datagram([&[0_u8][..], b"early"].concat().into()).unwrap();

    send.write_all(&connect_request(gateway.address().port(), "/echo")).await.unwrap();

    assert_eq!(soon(early_back.read_to_end(100)).await.unwrap(), b"hi");
    let datagram = soon(connection.quic().read_datagram());
    // The connection's own task may have taken the datagram; then the count tells.
    tokio::select! {
        _ = datagram => {}
        () = gateway.metric_reaches(
            "tidegate_datagrams_total", &[("direction", "backend_to_client")], 1.0) => {}
    }
    let mut head = [0; 2];
    soon(recv.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[0], 1, "a HEADERS frame");
    gateway.shut_down().await;
}

/// A CONNECT request with literal field lines only.
fn connect_request(port: u16, path: &str) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in [
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":authority", &format!("127.0.0.1:{port}")),
        (":path", path),
        (":protocol", "webtransport"),
    ] {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        // The name's length has three bits: 7 is followed by the rest.
        match u8::try_from(name.len()).unwrap() {
            short @ 0..7 => section.push(0x20 | short),
            long => section.extend([0x27, long - 7]),
        }
        section.extend(name);
        section.push(u8::try_from(value.len()).unwrap());
        section.extend(value);
    }
    let length = u16::try_from(section.len()).unwrap() | 0x4000;
    [&[1][..], &length.to_be_bytes(), &section].concat()
}

#[tokio::test]
async fn many_sessions_share_a_connection_and_end_one_by_one() {
    let gateway = TestGateway::echo().await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(connection.open_session(&gateway.url("/echo"), &options).await.unwrap());
    }
    assert!((gateway.metric("tidegate_sessions", &[("route", "echo")]) - 8.0).abs() < 0.5);

    let (_send, mut recv) = sessions[3].open_bidi().await.unwrap();
    let ended = sessions.remove(3);
    ended.close(1, "enough").await;
    assert_eq!(soon(recv.read()).await, Err(StreamError::SessionGone));
    for session in &sessions {
        session.send_datagram(b"still").unwrap();
        assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"still"[..]);
    }
    for session in sessions {
        let closed = session.close(0, "").await;
        assert_eq!(closed, Closed::ByServer { code: 0, reason: String::new() });
    }
    gateway.session_ends("client_closed", 8.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn listeners_serve_ipv4_and_ipv6() {
    let setup = Setup::new().route("/echo", Some(echo_tcp().await), Some(echo_udp().await)).tables(
        "[[listener]]\nname = \"six\"\nquic = [\"[::1]:0\"]\nself_signed = [\"localhost\"]\n",
    );
    let gateway = setup.start().await;
    let six = gateway.running().quic_addresses()[1].address;
    assert!(six.is_ipv6());
    let hash = gateway.running().certificates()[1].sha256;
    let options = tidegate::client::Options::new(tidegate::client::Trust::Hashes(vec![hash]));
    let endpoint = tidegate::client::Endpoint::bind("[::1]:0".parse().unwrap(), &options).unwrap();
    let connection = endpoint.connect(six, "localhost").await.unwrap();
    let url = format!("https://[::1]:{}/echo", six.port());
    let session = connection.open_session(&url, &RequestOptions::default()).await.unwrap();
    session.send_datagram(b"six").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"six"[..]);
    gateway.shut_down().await;
}
