//! What the gateway says first: its settings, with its part of the handshake.

use std::{net::SocketAddr, sync::Arc};

use quinn::TransportConfig;
use tidegate::client::RequestOptions;
use tokio::{net::UdpSocket, sync::Notify};

use crate::{
    harness::{Setup, echo_udp, soon},
    raw::{CONTROL, Raw, SETTINGS},
};

/// How a handshake is counted that came to its end.
const ESTABLISHED: [(&str, &str); 1] = [("result", "established")];

/// Relays between one client and the gateway. Of the client, it lets only the first packet through until it
/// is told to let go of the rest.
async fn holding_back(gateway: SocketAddr, go_on: Arc<Notify>) -> SocketAddr {
    let clients = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateways = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    gateways.connect(gateway).await.unwrap();
    let address = clients.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut held, mut is_holding) = (Vec::new(), true);
        let (mut from_client, mut from_gateway) = (vec![0; 65_536], vec![0; 65_536]);
        let (length, client) = clients.recv_from(&mut from_client).await.unwrap();
        gateways.send(&from_client[..length]).await.unwrap();
        loop {
            tokio::select! {
                received = clients.recv_from(&mut from_client) => {
                    let (length, _client) = received.unwrap();
                    let packet = &from_client[..length];
                    if is_holding {
                        held.push(packet.to_vec());
                    } else {
                        gateways.send(packet).await.unwrap();
                    }
                }
                received = gateways.recv(&mut from_gateway) => {
                    let packet = &from_gateway[..received.unwrap()];
                    clients.send_to(packet, client).await.unwrap();
                }
                () = go_on.notified() => {
                    is_holding = false;
                    for packet in held.drain(..) {
                        gateways.send(&packet).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

/// So the request for a session can go with the client's part of the handshake.
#[tokio::test]
async fn settings_come_with_the_gateways_part_of_the_handshake() {
    let gateway = Setup::new().route("/echo", None, Some(echo_udp().await)).start().await;
    let go_on = Arc::new(Notify::new());
    let relay = holding_back(gateway.address(), Arc::clone(&go_on)).await;

    let endpoint = gateway.endpoint();
    // Comes back when the settings are there.
    let connection = soon(endpoint.connect(relay, "localhost")).await.unwrap();
    let handshakes = || gateway.metric("tidegate_quic_connections_total", &ESTABLISHED);
    assert_eq!(handshakes(), 0.0, "the gateway has not seen the end of the handshake");
    assert_eq!(gateway.metric("tidegate_quic_connections", &[]), 1.0);

    go_on.notify_one();
    let url = format!("https://127.0.0.1:{}/echo", relay.port());
    let options = RequestOptions::default();
    let session = soon(connection.open_session(&url, &options)).await.unwrap();
    assert_eq!(handshakes(), 1.0);
    session.send_datagram(b"ping").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"ping"[..]);
    session.close(0, "").await;
    gateway.shut_down().await;
}

/// Even if both come to the gateway at once.
#[tokio::test]
async fn a_client_that_ends_its_connection_with_its_handshake_had_one() {
    let gateway = Setup::new().route("/echo", None, Some(echo_udp().await)).start().await;
    let go_on = Arc::new(Notify::new());
    let relay = holding_back(gateway.address(), Arc::clone(&go_on)).await;
    let endpoint = gateway.endpoint();
    let connection = soon(endpoint.connect(relay, "localhost")).await.unwrap();
    connection.quic().close(0x100_u32.into(), b"");
    go_on.notify_one();
    gateway.metric_reaches("tidegate_quic_connections_total", &ESTABLISHED, 1.0).await;
    gateway.metric_reaches("tidegate_quic_connections", &[], 0.0).await;
    gateway.shut_down().await;
}

/// What a client gives no credit for during the handshake is said once it does.
#[tokio::test]
async fn settings_come_whole_to_a_client_that_takes_them_late_or_in_pieces() {
    let gateway = Setup::new().route("/echo", None, Some(echo_udp().await)).start().await;
    let raw = Raw::connect(&gateway).await;
    let mut control = raw.accept_uni().await;
    let at_once = soon(control.read_chunk(usize::MAX, true)).await.unwrap().unwrap().bytes;
    assert_eq!(at_once[..2], [CONTROL, SETTINGS].map(|number| u8::try_from(number).unwrap()));
    for (streams, window) in [(16_u8, 1_u8), (16, 7), (0, 100)] {
        let mut limits = TransportConfig::default();
        limits.max_concurrent_uni_streams(streams.into()).stream_receive_window(window.into());
        let raw = Raw::connect_with(&gateway, limits).await;
        raw.quic().set_max_concurrent_uni_streams(16_u8.into());
        let mut said = vec![0; at_once.len()];
        soon(raw.accept_uni().await.read_exact(&mut said)).await.unwrap();
        assert_eq!(said, at_once);
    }
    gateway.shut_down().await;
}
