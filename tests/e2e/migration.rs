//! Clients whose address changes: a phone that leaves the house, a NAT that forgets.

use std::{net::UdpSocket, time::Duration};

use tidegate::client::{Options, RequestOptions, StreamError, Trust};

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, pattern, soon};

/// Enough clients that, by the kernel's hash alone, some would come out at another worker.
const CLIENTS: u64 = 16;

async fn gateway(workers: u32, server: &str) -> TestGateway {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    Setup::new().workers(workers).server(server).route("/echo", Some(tcp), Some(udp)).start().await
}

/// Sends half, changes the address, sends the rest; what comes back, if it does.
async fn echo_with_a_move(gateway: &TestGateway, seed: u64) -> Result<(), StreamError> {
    // Short, so that a client that was lost knows soon.
    let trust = Trust::Hashes(vec![gateway.hash()]);
    let options = Options { idle_timeout: Duration::from_secs(2), ..Options::new(trust) };
    let endpoint = gateway.endpoint_with(&options);
    let connection = endpoint.connect(gateway.address(), "localhost").await.unwrap();
    let asked = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/echo"), &asked).await.unwrap();

    let sent = pattern(200_000, seed);
    let (mut send, mut recv) = session.open_bidi().await?;
    send.write(&sent[..100_000]).await?;
    let first = recv.read().await?.expect("an echo does not end by itself");
    let before = endpoint.local_addr().unwrap();
    endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    assert_ne!(endpoint.local_addr().unwrap(), before);

    let (written, rest) = tokio::join!(
        async {
            send.write(&sent[100_000..]).await?;
            send.finish();
            Ok(())
        },
        recv.read_to_end(usize::MAX)
    );
    written?;
    assert!([&first[..], &rest?].concat() == sent, "bytes were lost or changed");

    session.send_datagram(b"from the new address").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"from the new address"[..]);
    Ok(())
}

async fn echoes_with_moves(gateway: &TestGateway) -> Vec<Result<(), StreamError>> {
    let clients = (0..CLIENTS).map(|seed| echo_with_a_move(gateway, seed));
    soon(futures_util::future::join_all(clients)).await
}

#[tokio::test]
async fn a_client_that_changes_its_address_loses_nothing_with_one_worker() {
    let gateway = gateway(1, "").await;
    for echoed in echoes_with_moves(&gateway).await {
        echoed.unwrap();
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_changes_its_address_loses_nothing_with_four_workers() {
    let gateway = gateway(4, "").await;
    for echoed in echoes_with_moves(&gateway).await {
        echoed.unwrap();
    }
    gateway.shut_down().await;
}

/// The proof that the test above proves something.
#[tokio::test]
async fn without_steering_clients_that_move_are_lost() {
    let gateway = gateway(4, "steering = \"off\"").await;
    let echoed = echoes_with_moves(&gateway).await;
    assert!(echoed.contains(&Err(StreamError::Lost)), "nobody was lost: {echoed:?}");
}

/// What the AWS network load balancer wants to see: 16 bytes, the first of them 0x0f, the server id in
/// plain behind it.
#[tokio::test]
async fn a_server_id_is_in_the_connection_ids_and_clients_still_move() {
    let gateway = gateway(4, "server_id = \"0102030405060708\"").await;
    for echoed in echoes_with_moves(&gateway).await {
        echoed.unwrap();
    }
    gateway.shut_down().await;
}
