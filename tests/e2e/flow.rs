//! Session flow control through the whole gateway: it is there, and nobody notices.

use tidegate::client::{Options, SessionCredit, Trust};

use crate::harness::{Setup, TestGateway, echo_tcp, pattern, soon};

async fn gateway(transport: &str) -> TestGateway {
    let tcp = echo_tcp().await;
    let setup = Setup::new().route("/echo", Some(tcp), None);
    setup.listener(&format!("[listener.transport]\n{transport}")).start().await
}

async fn echoes(session: &tidegate::client::Session, sent: &[u8]) {
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    let write = async {
        send.write(sent).await.unwrap();
        send.finish();
    };
    let ((), read) = soon(async { tokio::join!(write, recv.read_to_end(sent.len() + 1)) }).await;
    assert!(read.unwrap() == sent, "what came back differs");
}

/// Credit up follows what the backend takes, credit down is the client's; both are far too small here.
#[tokio::test]
async fn transfers_are_longer_than_any_credit() {
    let gateway = gateway("stream_window = \"16KiB\"\nconnection_window = \"32KiB\"").await;
    let mut options = Options::new(Trust::Hashes(vec![gateway.hash()]));
    options.session_credit = SessionCredit { data: 20_000, bidi: 1, uni: 1 };
    let endpoint = gateway.endpoint_with(&options);
    let connection = endpoint.connect(gateway.address(), "localhost").await.unwrap();
    let url = gateway.url("/echo");
    let session = soon(connection.open_session(&url, &Default::default())).await.unwrap();
    for seed in 1..4 {
        echoes(&session, &pattern(500_000, seed)).await;
    }
    session.close(0, "").await;
    gateway.session_ends("client_closed", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn the_minimal_profile_serves_the_same() {
    let gateway = gateway("webtransport_profile = \"minimal\"").await;
    let session = gateway.session("/echo").await;
    echoes(&session, &pattern(500_000, 7)).await;
    gateway.shut_down().await;
}

/// A rule that was broken is the client's end of the session, under its own word.
#[tokio::test]
async fn broken_flow_control_is_counted_as_a_protocol_error() {
    let gateway = gateway("").await;
    let session = gateway.session("/echo").await;
    // WT_MAX_DATA of 0, after more was allowed.
    let capsule = [0x99, 0x0b, 0x4d, 0x3d, 1, 0];
    session.send_capsule_bytes(capsule.to_vec().into()).await.unwrap();
    let closed = soon(session.closed()).await;
    let reason = "protocol_error".to_owned();
    assert_eq!(closed, tidegate::client::Closed::ByServer { code: 0x045d_4487, reason });
    gateway.session_ends("protocol_error", 1.0).await;
    gateway.shut_down().await;
}
