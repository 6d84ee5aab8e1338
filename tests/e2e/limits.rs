//! Limits: at each of them the next one is refused with its reason, and nothing else suffers.

use tidegate::client::RequestOptions;

use crate::harness::{Setup, echo_udp, soon};

#[tokio::test]
async fn a_full_route_refuses_with_503_and_recovers() {
    let keys = "limits = { sessions = 2 }";
    let setup = Setup::new().route_with("/x", None, Some(echo_udp().await), keys);
    let gateway = setup.start().await;
    let first = gateway.session("/x").await;
    let second = gateway.session("/x").await;
    let refusal = gateway.refusal("/x", &RequestOptions::default()).await;
    assert_eq!(refusal, (503, "route_full".to_owned()));

    first.close(0, "").await;
    gateway.metric_reaches("tidegate_sessions", &[], 1.0).await;
    let third = gateway.session("/x").await;
    for session in [second, third] {
        session.send_datagram(b"in").unwrap();
        assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"in"[..]);
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_full_gateway_refuses_on_every_route() {
    let setup = Setup::new()
        .route("/a", None, Some(echo_udp().await))
        .route("/b", None, Some(echo_udp().await))
        .tables("[limits]\nsessions = 1");
    let gateway = setup.start().await;
    let _session = gateway.session("/a").await;
    let refusal = gateway.refusal("/b", &RequestOptions::default()).await;
    assert_eq!(refusal, (503, "too_many_sessions".to_owned()));
    gateway.shut_down().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_refused_by_quic() {
    let setup =
        Setup::new().route("/a", None, Some(echo_udp().await)).tables("[limits]\nconnections = 1");
    let gateway = setup.start().await;
    let session = gateway.session("/a").await;
    let endpoint = gateway.endpoint();
    let refused = soon(endpoint.connect(gateway.address(), "localhost")).await.unwrap_err();
    let tidegate::client::ConnectError::Connection(quinn::ConnectionError::ConnectionClosed(close)) =
        refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(close.error_code.to_string(), "the server refused to accept a new connection");
    let labels = [("reason", "too_many_connections")];
    gateway.metric_reaches("tidegate_quic_incoming_refused_total", &labels, 1.0).await;
    session.send_datagram(b"unharmed").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"unharmed"[..]);
    gateway.shut_down().await;
}

/// A route's own limit is what bounds a session's streams, above the credit given at first.
#[tokio::test]
async fn stream_credit_grows_as_a_session_uses_it() {
    let tcp = crate::harness::echo_tcp().await;
    let setup = Setup::new()
        .route_with("/x", Some(tcp), None, "limits = { streams_per_session = 200 }")
        .listener("[listener.transport]\ninitial_bidi_streams = 20");
    let gateway = setup.start().await;
    let session = gateway.session("/x").await;
    let mut open = Vec::new();
    for i in 0..200_u8 {
        let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
        send.write(&[i]).await.unwrap();
        assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &[i][..]);
        open.push((send, recv));
    }
    gateway.metric_reaches("tidegate_streams", &[], 200.0).await;
    gateway.shut_down().await;
}
