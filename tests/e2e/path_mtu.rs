//! How large the gateway's packets are: as large as the path carries, found with few probes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tidegate::client::{RequestOptions, Session};
use tokio::net::UdpSocket;

use crate::harness::{Setup, echo_tcp, pattern, soon};

/// What a path made of the gateway's packets, by their size.
#[derive(Debug, Default)]
struct Seen {
    carried: Vec<usize>,
    lost: Vec<usize>,
}

/// A path for one client that loses what is larger than `most` bytes of UDP payload.
async fn path(gateway: SocketAddr, most: usize) -> (SocketAddr, Arc<Mutex<Seen>>) {
    let clients = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gateways = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    gateways.connect(gateway).await.unwrap();
    let address = clients.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let sees = Arc::clone(&seen);
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                received = clients.recv_from(&mut up) => {
                    let (length, from) = received.unwrap();
                    client = Some(from);
                    if length <= most {
                        gateways.send(&up[..length]).await.unwrap();
                    }
                }
                received = gateways.recv(&mut down) => {
                    let length = received.unwrap();
                    if length > most {
                        sees.lock().unwrap().lost.push(length);
                        continue;
                    }
                    sees.lock().unwrap().carried.push(length);
                    clients.send_to(&down[..length], client.unwrap()).await.unwrap();
                }
            }
        }
    });
    (address, seen)
}

/// Sends bytes there and back until a packet of this size came.
async fn echo_until(session: &Session, seen: &Mutex<Seen>, size: usize) {
    while !seen.lock().unwrap().carried.contains(&size) {
        let sent = pattern(50_000, 1);
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        let write = async {
            send.write(&sent).await.unwrap();
            send.finish();
        };
        let ((), back) = tokio::join!(write, recv.read_to_end(usize::MAX));
        assert!(back.unwrap() == sent, "it came back changed");
    }
}

#[tokio::test]
async fn the_largest_packet_is_tried_first_and_then_smaller_ones() {
    for (most, found) in [(usize::MAX, 1452), (1_400, 1325), (1_250, 1200)] {
        let gateway = Setup::new().route("/echo", Some(echo_tcp().await), None).start().await;
        let (address, seen) = path(gateway.address(), most).await;
        let endpoint = gateway.endpoint();
        let connection = soon(endpoint.connect(address, "localhost")).await.unwrap();
        let url = format!("https://127.0.0.1:{}/echo", address.port());
        let options = RequestOptions::default();
        let session = soon(connection.open_session(&url, &options)).await.unwrap();
        soon(echo_until(&session, &seen, found)).await;

        let Seen { carried, lost } = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(carried.iter().max(), Some(&found), "{most}: {lost:?}");
        let probes: Vec<_> = carried.iter().chain(&lost).filter(|size| **size > 1200).collect();
        assert!(probes.iter().all(|size| [1325, 1452].contains(size)), "{most}: {probes:?}");
        drop(session);
        gateway.shut_down().await;
    }
}
