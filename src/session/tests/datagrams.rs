//! Datagrams both ways, and every way to lose one.

use std::{net::SocketAddr, time::Duration};

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{ByteSize, DatagramsMode, UdpOpen},
    reason::Loss,
    transport::memory::MemoryClient,
};

/// A session whose socket is open, and the socket's address.
async fn talking(gateway: &Gateway, server: &UdpServer) -> (MemoryClient, SocketAddr) {
    let client = gateway.session().await;
    client.send_datagram(b"hello");
    let (datagram, from) = server.receive().await;
    assert_eq!(datagram, b"hello");
    (client, from)
}

#[tokio::test]
async fn datagrams_pass_whole_both_ways_empty_ones_too() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;

    for datagram in [&b"ping"[..], b"", b"\0\xff"] {
        client.send_datagram(Box::leak(datagram.to_vec().into()));
        assert_eq!(server.receive().await, (datagram.to_vec(), from), "all from one socket");
        server.send(datagram, from).await;
        assert_eq!(client.datagram().await, datagram);
    }
    let (up, down) = (&gateway.route.up, &gateway.route.down);
    assert_eq!((up.datagrams.get(), up.datagram_bytes.get()), (4, 11));
    assert_eq!((down.datagrams.get(), down.datagram_bytes.get()), (3, 6));
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

/// Sessions must not get each other's datagrams.
#[tokio::test]
async fn each_session_has_a_socket_of_its_own() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (first, first_from) = talking(&gateway, &server).await;
    let (second, second_from) = talking(&gateway, &server).await;

    server.send(b"to the second", second_from).await;
    server.send(b"to the first", first_from).await;
    assert_eq!(&first.datagram().await[..], b"to the first");
    assert_eq!(&second.datagram().await[..], b"to the second");
}

#[tokio::test]
async fn the_largest_datagram_is_not_cut_short() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(1, Some(65_507));

    let largest = pattern(65_507);
    server.send(&largest, from).await;
    assert!(client.datagram().await == largest);
}

#[tokio::test]
async fn what_is_too_large_for_the_client_is_counted() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(64, Some(10));

    server.send(&[1; 11], from).await;
    server.send(&[2; 10], from).await;
    assert_eq!(&client.datagram().await[..], [2; 10]);
    gateway.loses_down(Loss::Oversize, 1).await;
}

#[tokio::test]
async fn a_full_queue_loses_the_oldest_and_delivers_the_rest_in_order() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    // Room for three: what a datagram takes is its bytes and what holds them.
    route.datagram_queue = ByteSize(3 * 600);
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(0, Some(1200));

    for number in 0..10 {
        server.send(&[number; 500], from).await;
    }
    gateway.loses_down(Loss::QueueFull, 7).await;

    client.take_datagrams(64, Some(1200));
    for number in 7..10 {
        assert_eq!(&client.datagram().await[..], [number; 500]);
    }
    assert_eq!(gateway.route.down.datagrams.get(), 3);
}

#[tokio::test]
async fn empty_datagrams_fill_the_queue_as_well() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.datagram_queue = ByteSize(1000);
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(0, Some(1200));

    for _ in 0..100 {
        server.send(b"", from).await;
    }
    until(|| gateway.route.down.lost.get(Loss::QueueFull) >= 75).await;
}

#[tokio::test]
async fn a_datagram_that_is_too_old_is_lost() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.datagram_ttl = Duration::from_millis(5);
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(0, Some(1200));

    for _ in 0..3 {
        server.send(b"old news", from).await;
    }
    gateway.loses_down(Loss::Expired, 3).await;
}

#[tokio::test]
async fn what_waits_at_the_sessions_end_is_counted() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.datagram_queue = ByteSize(3 * 600);
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(0, Some(1200));
    for _ in 0..5 {
        server.send(&[0; 500], from).await;
    }
    // Two are lost when all five have been read, so the other three wait.
    gateway.loses_down(Loss::QueueFull, 2).await;

    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.down.lost.get(Loss::SessionEnded), 3);
    client.send_datagram(b"too late");
    assert_eq!(gateway.route.up.lost.get(Loss::SessionEnded), 1);
}

/// A backend that comes back is reached again, and the refusal of an old datagram costs no new one.
#[tokio::test]
async fn a_backend_that_restarts_is_reached_again_by_the_same_socket() {
    // At an address of its own, so that no other test gets the port meanwhile.
    let server = UdpServer::at("127.0.0.9:0".parse().unwrap()).await;
    let address = server.address();
    let gateway = Gateway::new(udp_route(address));
    let (client, from) = talking(&gateway, &server).await;
    drop(server);
    for _ in 0..5 {
        client.send_datagram(b"into the void");
    }

    let server = UdpServer::at(address).await;
    client.send_datagram(b"welcome back");
    assert_eq!(server.receive().await, (b"welcome back".to_vec(), from));
    server.send(b"thanks", from).await;
    assert_eq!(&client.datagram().await[..], b"thanks");

    let lost: u64 = Loss::ALL.iter().map(|why| gateway.route.up.lost.get(*why)).sum();
    assert_eq!(gateway.route.up.datagrams.get() + lost, 7, "each is counted once");
}

#[tokio::test]
async fn a_route_without_udp_counts_what_it_drops() {
    let mut dropping = route(&[dead_address()]);
    dropping.datagrams = DatagramsMode::Drop;
    // And one that wants UDP, but whose endpoint has no address for it.
    for route in [dropping, route(&[dead_address()])] {
        let gateway = Gateway::new(route);
        gateway.session().await.send_datagram(b"hello");
        assert_eq!(gateway.route.up.lost.get(Loss::NoBackend), 1);
        assert_eq!(gateway.route.up.datagrams.get(), 0);
    }
}

#[tokio::test]
async fn the_socket_is_opened_with_the_session_where_the_route_says_so() {
    let server = UdpServer::new().await;
    for (udp_open, tasks) in [(UdpOpen::Datagram, 1), (UdpOpen::Session, 2)] {
        let mut route = udp_route(server.address());
        route.udp_open = udp_open;
        let gateway = Gateway::new(route);
        let client = gateway.session().await;
        assert_eq!(gateway.lifecycle.running_tasks(), tasks, "{udp_open:?}");
        client.close(0, "");
        gateway.leaves_nothing_behind().await;
    }
}
