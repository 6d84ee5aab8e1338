//! Stopping: clients are told, may end by themselves, and are cut at last.

use std::time::Duration;

use tidegate::{
    client::{Closed, RequestOptions},
    gateway::Gateway,
};
use tokio::sync::oneshot;

use crate::harness::{DEADLINE, Setup, TestGateway, echo_tcp, echo_udp, soon};

async fn gateway(drain: &str) -> TestGateway {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    Setup::with_drain(drain).route("/echo", Some(tcp), Some(udp)).start().await
}

#[tokio::test]
async fn a_drain_tells_clients_refuses_new_ones_and_waits_for_the_rest() {
    let gateway = gateway("delay = \"0s\"\ngrace = \"1h\"").await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let url = gateway.url("/echo");
    let session = connection.open_session(&url, &options).await.unwrap();
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(b"before ").await.unwrap();
    let newcomer = gateway.endpoint();
    let address = gateway.address();

    let stopping = tokio::spawn(gateway.shut_down());
    assert!(soon(session.draining()).await, "the client was told");

    // What lives goes on.
    send.write(b"and after").await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"before and after");
    // What is new is refused: a session by its status, a connection by QUIC.
    let refused = soon(connection.open_session(&url, &options)).await.unwrap_err();
    let tidegate::client::Refused::Status { status, reason, headers } = refused else {
        panic!("{refused}")
    };
    assert_eq!((status.as_u16(), reason.as_deref()), (503, Some("draining")));
    assert!(headers.contains_key("retry-after"));
    assert!(soon(newcomer.connect(address, "localhost")).await.is_err());

    session.close(0, "").await;
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn what_is_left_after_the_grace_is_closed_with_a_reason_and_counted() {
    let gateway = gateway("delay = \"0s\"\ngrace = \"100ms\"").await;
    let sessions = [gateway.session("/echo").await, gateway.session("/echo").await];
    let stopping = tokio::spawn(gateway.shut_down());
    for session in &sessions {
        let closed = soon(session.closed()).await;
        assert_eq!(closed, Closed::ByServer { code: 1, reason: "drain_deadline".to_owned() });
    }
    assert_eq!(soon(stopping).await.unwrap().cut, 2);
}

#[tokio::test]
async fn an_operator_in_a_hurry_skips_the_waiting() {
    let gateway = gateway("delay = \"1h\"\ngrace = \"1h\"").await;
    let session = gateway.session("/echo").await;
    let (hurry, hurried) = oneshot::channel::<()>();
    let stopping = tokio::spawn(gateway.shut_down_when(async move { drop(hurried.await) }));
    drop(hurry);
    let closed = soon(session.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 2, reason: "killed".to_owned() });
    assert_eq!(soon(stopping).await.unwrap().cut, 1);
}

#[tokio::test]
async fn readiness_goes_first_and_clients_are_still_accepted() {
    let gateway = gateway("delay = \"1h\"\ngrace = \"1h\"").await;
    let lifecycle = gateway.running().lifecycle().clone();
    let (address, url) = (gateway.address(), gateway.url("/echo"));
    let endpoint = gateway.endpoint();
    let (hurry, hurried) = oneshot::channel::<()>();
    let stopping = tokio::spawn(gateway.shut_down_when(async move { drop(hurried.await) }));
    tokio::time::timeout(DEADLINE, async {
        while !lifecycle.is_stopping() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(!lifecycle.is_ready() && !lifecycle.is_draining());

    let connection = endpoint.connect(address, "localhost").await.unwrap();
    let session = connection.open_session(&url, &RequestOptions::default()).await.unwrap();
    session.send_datagram(b"still welcome").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"still welcome"[..]);
    drop(hurry);
    soon(stopping).await.unwrap();
}

/// A fault of the gateway's must not keep the process: whoever stops it wants it gone.
#[tokio::test]
async fn what_does_not_end_when_it_is_told_to_does_not_keep_the_gateway() {
    let config = Setup::new().route("/echo", Some(echo_tcp().await), None).read().unwrap();
    let running = Gateway::bind(config).await.unwrap().start().unwrap();
    running.lifecycle().spawn(std::future::pending::<()>());

    assert_eq!(soon(running.shut_down(std::future::ready(()))).await.cut, 0);
}
