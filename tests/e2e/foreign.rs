//! A client that is not ours: wtransport 0.7.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use wtransport::{ClientConfig, Endpoint, tls::Sha256Digest};

use crate::harness::{Setup, TcpBackend, TestGateway, expect_text, pattern, soon};

async fn connect(gateway: &TestGateway, path: &str) -> Result<wtransport::Connection, String> {
    let config = ClientConfig::builder()
        .with_bind_default()
        .with_server_certificate_hashes([Sha256Digest::new(gateway.hash())])
        .build();
    let endpoint = Endpoint::client(config).unwrap();
    soon(endpoint.connect(gateway.url(path))).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn wtransport_echoes_streams_and_datagrams() {
    let gateway = TestGateway::echo().await;
    let connection = Arc::new(connect(&gateway, "/echo").await.unwrap());

    let sent = pattern(300_000, 4);
    let (mut send, mut recv) = connection.open_bi().await.unwrap().await.unwrap();
    let writer = tokio::spawn({
        let sent = sent.clone();
        async move {
            send.write_all(&sent).await.unwrap();
            send.finish().await.unwrap();
        }
    });
    let mut back = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Some(n) = soon(recv.read(&mut buffer)).await.unwrap() {
        back.extend_from_slice(&buffer[..n]);
    }
    soon(writer).await.unwrap();
    assert!(back == sent);

    connection.send_datagram(b"from afar").unwrap();
    let datagram = soon(connection.receive_datagram()).await.unwrap();
    assert_eq!(&datagram.payload()[..], b"from afar");
    drop(connection);
    gateway.is_empty().await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn wtransport_takes_the_streams_that_the_gateway_opens() {
    let feed = TcpBackend::bind().await;
    let setup =
        Setup::new().route_with("/feed", Some(feed.address()), None, "push = \"uni\"").route_with(
            "/shell",
            Some(feed.address()),
            None,
            "streams = \"per-session\"\nopens = \"gateway\"",
        );
    let gateway = setup.start().await;
    let news = pattern(200_000, 8);
    let connection = connect(&gateway, "/feed").await.unwrap();
    let mut backend = feed.accept().await;
    let mut recv = soon(connection.accept_uni()).await.unwrap();
    let (written, read) = soon(async {
        let write = async {
            backend.write_all(&news).await?;
            backend.shutdown().await
        };
        let mut all = Vec::new();
        tokio::join!(write, async {
            let mut buffer = vec![0; 65_536];
            while let Some(n) = recv.read(&mut buffer).await.unwrap() {
                all.extend_from_slice(&buffer[..n]);
            }
            all
        })
    })
    .await;
    written.unwrap();
    assert!(read == news, "what came differs");
    drop(connection);

    let connection = connect(&gateway, "/shell").await.unwrap();
    let mut backend = feed.accept().await;
    backend.write_all(b"login: ").await.unwrap();
    let (mut send, mut recv) = soon(connection.accept_bi()).await.unwrap();
    let mut prompt = [0; 7];
    soon(recv.read_exact(&mut prompt)).await.unwrap();
    assert_eq!(&prompt, b"login: ");
    send.write_all(b"root\n").await.unwrap();
    expect_text(&mut backend, b"root\n").await;
    drop(connection);
    gateway.is_empty().await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn wtransport_is_refused_on_an_unknown_path() {
    let gateway = TestGateway::echo().await;
    assert!(connect(&gateway, "/nowhere").await.is_err());
    gateway.shut_down().await;
}
