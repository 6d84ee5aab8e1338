//! Servers that send back what they get.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, UdpSocket},
};

/// A TCP server that sends back what it gets, and finishes when the other side has.
pub(crate) async fn echo_tcp() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut rx, mut tx) = stream.split();
                if tokio::io::copy(&mut rx, &mut tx).await.is_ok() {
                    _ = tx.shutdown().await;
                }
            });
        }
    });
    address
}

/// A UDP server that sends back what it gets.
pub(crate) async fn echo_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            _ = socket.send_to(&buffer[..n], from).await;
        }
    });
    address
}
