//! Datagrams both ways, and every way to lose one.

use std::{net::SocketAddr, time::Duration};

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{self, ByteSize, DatagramKey, DatagramsMode, Oversize, UdpOpen, UdpProxy},
    reason::{Loss, StreamEnd},
    transport::memory::{MemoryClient, SeenEnd},
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
async fn a_backend_to_which_no_socket_can_be_opened_costs_each_datagram_alone() {
    // A broadcast address, which only sockets that ask for it may have.
    let gateway = Gateway::new(udp_route("255.255.255.255:9".parse().unwrap()));
    let client = gateway.session().await;
    client.send_datagram(b"hello");
    client.send_datagram(b"anybody");
    assert_eq!(gateway.route.up.lost.get(Loss::NoBackend), 2);
}

#[tokio::test]
async fn without_a_source_address_each_datagram_is_lost_for_that() {
    let server = UdpServer::new().await;
    // One of another family, and one that nobody has (RFC 5737).
    for source in ["::1", "192.0.2.1"] {
        let mut route = udp_route(server.address());
        only_backend(&mut route).source = vec![source.parse().unwrap()];
        let gateway = Gateway::new(route);
        let client = gateway.session().await;
        client.send_datagram(b"hello");
        client.send_datagram(b"anybody");
        assert_eq!(gateway.route.up.lost.get(Loss::OutOfResources), 2, "{source}");
    }
}

#[tokio::test]
async fn what_is_too_large_once_it_can_be_sent_is_counted() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(0, Some(1200));
    // When the last has come, which is too large at once, the others wait.
    for datagram in [&[1; 11][..], &[2; 10], &[3; 1201]] {
        server.send(datagram, from).await;
    }
    gateway.loses_down(Loss::Oversize, 1).await;

    client.take_datagrams(64, Some(10));
    assert_eq!(&client.datagram().await[..], [2; 10]);
    gateway.loses_down(Loss::Oversize, 2).await;
    assert_eq!(gateway.route.down.datagrams.get(), 1);
}

/// Game state: only the last word about each thing is worth sending.
#[tokio::test]
async fn of_waiting_datagrams_with_one_key_only_the_newest_is_sent() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.datagram_key = Some(DatagramKey { offset: 2, bytes: 1 });
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(1, Some(1200));

    // The first goes straight through, and so has nothing to do with what waits.
    for datagram in ["1_a", "2_a", "3_b", "4_", "5_a!", "6_", "7_c"] {
        server.send(datagram.as_bytes(), from).await;
    }
    gateway.loses_down(Loss::Superseded, 1).await;
    for datagram in ["1_a", "5_a!", "3_b", "4_", "6_", "7_c"] {
        assert_eq!(&client.datagram().await[..], datagram.as_bytes());
    }
    assert_eq!(gateway.route.down.datagrams.get(), 6);
    let waited = "tidegate_datagram_queue_seconds_count{route=\"game\"} 6";
    assert!(gateway.metrics.render().contains(waited), "only what waited is timed");
}

/// More than one system call brings.
#[tokio::test]
async fn a_burst_arrives_whole_and_in_order() {
    const BURST: u32 = 100;
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    client.take_datagrams(BURST as usize, Some(1200));

    for number in 0..BURST {
        server.send(&number.to_be_bytes(), from).await;
    }
    for number in 0..BURST {
        assert_eq!(&client.datagram().await[..], number.to_be_bytes());
    }
    assert_eq!(gateway.route.down.datagrams.get(), u64::from(BURST));
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

    // The kernel took all of them: each refusal was told to the datagram after it, which was sent again.
    let lost: u64 = Loss::ALL.iter().map(|why| gateway.route.up.lost.get(*why)).sum();
    assert_eq!((gateway.route.up.datagrams.get(), lost), (7, 0));
}

/// What comes together is sent together, which must not show.
#[tokio::test]
async fn datagrams_that_come_together_arrive_one_by_one_and_in_order() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    let sizes = [30, 30, 30, 7, 0, 0, 9, 9, 1200, 1200, 1, 2, 3];
    let together: Vec<&'static [u8]> =
        (0_u8..).zip(sizes).map(|(n, size)| &*vec![n; size].leak()).collect();

    client.send_datagrams(&together);
    for datagram in &together {
        assert_eq!(server.receive().await, (datagram.to_vec(), from));
    }
    let up = &gateway.route.up;
    assert_eq!(up.datagrams.get(), 1 + 13);
    assert_eq!(up.datagram_bytes.get(), 5 + sizes.iter().sum::<usize>() as u64);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn one_that_is_too_large_amid_others_is_lost_alone() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(udp_route(server.address()));
    let (client, from) = talking(&gateway, &server).await;
    let too_large: &'static [u8] = vec![0; 65_508].leak();

    client.send_datagrams(&[b"one", b"two", too_large, b"four", too_large, too_large, b"seven"]);
    for datagram in [&b"one"[..], b"two", b"four", b"seven"] {
        assert_eq!(server.receive().await, (datagram.to_vec(), from));
    }
    assert_eq!(gateway.route.up.lost.get(Loss::Oversize), 3);
    assert_eq!(gateway.route.up.datagrams.get(), 1 + 4);
}

/// A refusal is of an earlier datagram, so that those which hear of it have to be sent again, all of them.
#[tokio::test]
async fn the_refusal_of_an_old_datagram_costs_none_of_those_that_come_together() {
    let server = UdpServer::at("127.0.0.10:0".parse().unwrap()).await;
    let address = server.address();
    let gateway = Gateway::new(udp_route(address));
    let (client, from) = talking(&gateway, &server).await;
    drop(server);
    // The first goes into the void, and those after it hear of that.
    client.send_datagrams(&[b"void", b"long void", b"void", b"void", b"the very longest void"]);

    let server = UdpServer::at(address).await;
    client.send_datagrams(&[b"again", b"again", b"end"]);
    for datagram in [&b"again"[..], b"again", b"end"] {
        assert_eq!(server.receive().await, (datagram.to_vec(), from));
    }
    let lost: u64 = Loss::ALL.iter().map(|why| gateway.route.up.lost.get(*why)).sum();
    assert_eq!((gateway.route.up.datagrams.get(), lost), (1 + 5 + 3, 0));
}

#[tokio::test]
async fn datagrams_that_come_together_have_their_headers() {
    let server = UdpServer::new().await;
    for (how, lengths) in [
        (UdpProxy::V2First, [28, 0, 0, 0]),
        (UdpProxy::V2Every, [28, 28, 28, 28]),
        (UdpProxy::Spp, [38, 38, 38, 38]),
    ] {
        let gateway = Gateway::new(introducing(server.address(), how));
        let client = gateway.session().await;
        let together = [&b"one"[..], b"two", b"", b"three"];
        client.send_datagrams(&together);
        let mut header = Vec::new();
        for (payload, length) in together.iter().zip(lengths) {
            let (datagram, _) = server.receive().await;
            let (before, after) = datagram.split_at(length);
            assert_eq!(after, *payload, "{how:?}");
            if header.is_empty() {
                header = before.to_vec();
            }
            assert!(before.is_empty() || before == header, "{how:?}: the same each time");
        }
    }
}

#[tokio::test]
async fn a_route_without_udp_counts_what_it_drops() {
    let mut dropping = route(&[dead_address()]);
    dropping.datagrams = DatagramsMode::Drop;
    // And one that wants UDP, but whose endpoint has no address for it.
    for route in [dropping, route(&[dead_address()])] {
        let gateway = Gateway::new(route);
        gateway.session().await.send_datagrams(&[b"hello", b"anybody"]);
        assert_eq!(gateway.route.up.lost.get(Loss::NoBackend), 2);
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

/// A route whose backend is told of the client in this way.
fn introducing(udp: SocketAddr, how: UdpProxy) -> config::Route {
    with_backend(udp_route(udp), |backend| backend.introduction.udp = how)
}

/// The version 2 header of [`MemoryClient`]'s client, who is at 192.0.2.1:50000 and sent to 203.0.113.9:443.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xcb\0\x71\x09\xc3\x50\x01\xbb";

/// The same client's header of the Simple Proxy Protocol.
const SPP: &[u8] = b"\x56\xec\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\
      \0\0\0\0\0\0\0\0\0\0\xff\xff\xcb\0\x71\x09\xc3\x50\x01\xbb";

#[tokio::test]
async fn a_header_precedes_the_first_datagram_or_each_as_the_backend_wants() {
    for (how, first, later) in [
        (UdpProxy::Off, &b""[..], &b""[..]),
        (UdpProxy::V2First, V2, b""),
        (UdpProxy::V2Every, V2, V2),
        (UdpProxy::Spp, SPP, SPP),
    ] {
        let server = UdpServer::new().await;
        let gateway = Gateway::new(introducing(server.address(), how));
        let client = gateway.session().await;
        for (header, datagram) in [(first, &b"one"[..]), (later, b""), (later, b"three")] {
            client.send_datagram(datagram);
            let (received, _) = server.receive().await;
            assert_eq!(received, [header, datagram].concat(), "{how:?}");
        }
        let up = &gateway.route.up;
        assert_eq!((up.datagrams.get(), up.datagram_bytes.get()), (3, 8), "headers do not count");
    }
}

/// Who listens after a restart has not seen the header.
#[tokio::test]
async fn the_header_of_the_first_datagram_comes_again_after_the_backend_was_gone() {
    let server = UdpServer::at("127.0.0.9:0".parse().unwrap()).await;
    let address = server.address();
    let gateway = Gateway::new(introducing(address, UdpProxy::V2First));
    let client = gateway.session().await;
    client.send_datagram(b"first");
    assert_eq!(server.receive().await.0, [V2, b"first"].concat());
    drop(server);
    // The refusal of one shows at the next.
    for _ in 0..5 {
        client.send_datagram(b"into the void");
    }

    let server = UdpServer::at(address).await;
    client.send_datagram(b"welcome back");
    assert_eq!(server.receive().await.0, [V2, b"welcome back"].concat());
    client.send_datagram(b"next");
    assert_eq!(server.receive().await.0, b"next");
}

#[tokio::test]
async fn replies_of_the_simple_proxy_protocol_lose_their_header() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(introducing(server.address(), UdpProxy::Spp));
    let client = gateway.session().await;
    client.take_datagrams(64, Some(65_469));
    client.send_datagram(b"hello");
    let (_, from) = server.receive().await;

    for reply in [&b"reply"[..], b"", &pattern(65_469)] {
        server.send(&[SPP, reply].concat(), from).await;
        assert!(client.datagram().await == reply);
    }
    assert_eq!(gateway.route.down.datagram_bytes.get(), 5 + 65_469);
}

#[tokio::test]
async fn replies_without_the_sessions_own_header_are_lost_and_counted() {
    let server = UdpServer::new().await;
    let gateway = Gateway::new(introducing(server.address(), UdpProxy::Spp));
    let client = gateway.session().await;
    client.send_datagram(b"hello");
    let (_, from) = server.receive().await;

    let mut of_another = [SPP, b"not yours"].concat();
    of_another[17] ^= 1;
    for wrong in [&b"no header"[..], b"", &SPP[..37], &of_another, V2] {
        server.send(wrong, from).await;
    }
    server.send(&[SPP, b"yours"].concat(), from).await;
    assert_eq!(&client.datagram().await[..], b"yours");
    gateway.loses_down(Loss::WrongHeader, 5).await;
}

#[tokio::test]
async fn what_is_too_large_for_a_packet_with_its_header_is_lost_and_counted() {
    for (how, header) in [(UdpProxy::Off, 0), (UdpProxy::V2Every, V2.len()), (UdpProxy::Spp, 38)] {
        let server = UdpServer::new().await;
        let gateway = Gateway::new(introducing(server.address(), how));
        let client = gateway.session().await;
        let largest = 65_507 - header;
        client.send_datagram(Box::leak(pattern(largest + 1).into()));
        client.send_datagram(Box::leak(pattern(largest).into()));
        assert_eq!(server.receive().await.0.len(), 65_507, "{how:?}");
        assert_eq!(gateway.route.up.lost.get(Loss::Oversize), 1, "{how:?}");
    }
}

/// A session whose datagrams of more than 1,200 bytes go on streams, changed like this.
async fn with_streams(
    change: impl FnOnce(&mut config::Route),
) -> (Gateway, MemoryClient, UdpServer, SocketAddr) {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.oversize = Oversize::Stream;
    change(&mut route);
    let gateway = Gateway::new(route);
    let (client, from) = talking(&gateway, &server).await;
    (gateway, client, server, from)
}

#[tokio::test]
async fn what_is_too_large_for_the_client_may_have_a_stream_of_its_own() {
    let (gateway, client, server, from) = with_streams(|_| {}).await;
    let (large, largest) = (pattern(1201), pattern(65_507));
    server.send(&large, from).await;
    server.send(&largest, from).await;
    server.send(&[2; 1200], from).await;

    assert_eq!(&client.datagram().await[..], [2; 1200]);
    for payload in [large, largest] {
        let (bytes, end) = client.accept_uni().await.read_to_end().await;
        assert!(bytes == payload && end == SeenEnd::Finished);
    }
    until(|| gateway.route.datagram_streams.get() == 2).await;
    assert_eq!(gateway.route.down.datagrams.get(), 3);
    assert_eq!(gateway.route.down.datagram_bytes.get(), 1201 + 65_507 + 1200);
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::Finished), 0, "no stream of the backend's");
}

#[tokio::test]
async fn what_becomes_too_large_while_it_waits_may_have_a_stream_too() {
    let (gateway, client, server, from) = with_streams(|_| {}).await;
    client.take_datagrams(0, Some(1200));
    server.send(&[1; 11], from).await;
    server.send(&[2; 10], from).await;
    server.send(&[3; 1201], from).await;
    // When the last is here, the others wait.
    assert_eq!(client.accept_uni().await.read_to_end().await, (vec![3; 1201], SeenEnd::Finished));

    client.take_datagrams(64, Some(10));
    assert_eq!(&client.datagram().await[..], [2; 10]);
    assert_eq!(client.accept_uni().await.read_to_end().await, (vec![1; 11], SeenEnd::Finished));
    until(|| gateway.route.datagram_streams.get() == 2).await;
}

#[tokio::test]
async fn streams_for_large_datagrams_are_bounded_in_number() {
    let (gateway, client, server, from) = with_streams(|route| route.oversize_streams = 2).await;
    client.give_stream_credit(false);
    for number in 0..5 {
        server.send(&[number; 1300], from).await;
    }
    gateway.loses_down(Loss::QueueFull, 3).await;

    client.give_stream_credit(true);
    for number in 0..2 {
        let seen = client.accept_uni().await.read_to_end().await;
        assert_eq!(seen, (vec![number; 1300], SeenEnd::Finished));
    }
    // There is room again.
    until(|| gateway.route.datagram_streams.get() == 2).await;
    server.send(&[9; 1300], from).await;
    assert_eq!(client.accept_uni().await.read_to_end().await, (vec![9; 1300], SeenEnd::Finished));
    assert_eq!(gateway.route.down.lost.get(Loss::QueueFull), 3);
}

#[tokio::test]
async fn streams_for_large_datagrams_are_bounded_in_bytes() {
    let (gateway, client, server, from) =
        with_streams(|route| route.oversize_queue = ByteSize(2600)).await;
    client.give_stream_credit(false);
    for number in 0..3 {
        server.send(&[number; 1300], from).await;
    }
    gateway.loses_down(Loss::QueueFull, 1).await;
    client.give_stream_credit(true);
    for number in 0..2 {
        let seen = client.accept_uni().await.read_to_end().await;
        assert_eq!(seen, (vec![number; 1300], SeenEnd::Finished));
    }
}

#[tokio::test]
async fn a_large_datagram_that_gets_no_stream_in_time_is_lost() {
    let (gateway, client, server, from) =
        with_streams(|route| route.datagram_ttl = Duration::from_millis(5)).await;
    client.give_stream_credit(false);
    server.send(&[1; 1300], from).await;
    gateway.loses_down(Loss::Expired, 1).await;
    client.give_stream_credit(true);
    assert!(!client.has_streams());
}

/// Half of it is with the client then, and must not look whole.
#[tokio::test]
async fn a_large_datagram_on_its_way_is_lost_with_the_session() {
    let (gateway, client, server, from) = with_streams(|_| {}).await;
    client.give_byte_credit(1000);
    server.send(&[1; 1300], from).await;
    let stream = client.accept_uni().await;
    stream.blocked().await;
    client.give_stream_credit(false);
    server.send(&[2; 1300], from).await;
    server.send(b"small", from).await;
    // When this is here, the second waits for its stream.
    assert_eq!(&client.datagram().await[..], b"small");

    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.down.lost.get(Loss::SessionEnded), 2);
    assert!(stream.is_abandoned());
    assert_eq!(gateway.route.down.datagrams.get(), 1);
}

#[tokio::test]
async fn a_large_datagram_that_the_client_stops_is_counted() {
    let (gateway, client, server, from) = with_streams(|_| {}).await;
    client.give_byte_credit(1000);
    server.send(&[1; 1300], from).await;
    let stream = client.accept_uni().await;
    stream.blocked().await;
    stream.stop(42);
    assert_eq!(stream.reset().await, Some(42));
    gateway.loses_down(Loss::ClientStopped, 1).await;
}
