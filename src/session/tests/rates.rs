//! How much a session may carry in a time.

use std::{
    cell::{Cell, OnceCell},
    net::SocketAddr,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::support::*;
use crate::{
    config::{self, ByteRate, ByteSize, Rate},
    reason::{Loss, StreamEnd},
    transport::memory::{ClientRecv, ClientSend, MemoryClient, SeenEnd, soon},
};

const HOUR: Duration = Duration::from_secs(3600);

/// So many, and none after them as long as a test lasts.
const fn of_an_hour(events: u32) -> Rate {
    Rate::AtMost { events, per: HOUR }
}

/// The books are checked when the gateway is dropped.
#[tokio::test]
async fn datagrams_above_the_rate_are_lost_alone() {
    let server = UdpServer::new().await;
    let route = config::Route {
        datagram_rate_up: of_an_hour(3),
        datagram_rate_down: of_an_hour(2),
        ..udp_route(server.address())
    };
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let sent: [&[u8]; 5] = [b"a", b"", b"c", b"d", b""];
    for datagram in sent {
        client.send_datagram(datagram);
    }
    let mut from = None;
    for expected in &sent[..3] {
        let (datagram, address) = server.receive().await;
        assert_eq!(datagram, *expected);
        from = Some(address);
    }
    let (up, down) = (&gateway.route.up, &gateway.route.down);
    assert_eq!((up.datagrams.get(), up.lost.get(Loss::RateLimited)), (3, 2));

    for datagram in sent {
        server.send(datagram, from.unwrap()).await;
    }
    for expected in &sent[..2] {
        assert_eq!(client.datagram().await, *expected);
    }
    gateway.loses_down(Loss::RateLimited, 3).await;
    assert_eq!(down.datagrams.get(), 2);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn sessions_do_not_share_their_rates() {
    let server = UdpServer::new().await;
    let route = config::Route { datagram_rate_up: of_an_hour(1), ..udp_route(server.address()) };
    let gateway = Gateway::new(route);
    for datagram in [&b"one"[..], b"two", b"three"] {
        let client = gateway.session().await;
        client.send_datagram(datagram);
        assert_eq!(server.receive().await.0, datagram);
    }
    assert_eq!(gateway.route.up.lost.get(Loss::RateLimited), 0);
}

/// A hundred kilobytes at once, and a megabyte a second.
fn a_megabyte() -> ByteRate {
    ByteRate::AtMost { bytes: ByteSize(100_000), per: Duration::from_millis(100) }
}

/// As much at once, and nothing after it as long as a test lasts.
fn at_once(bytes: u64) -> ByteRate {
    ByteRate::AtMost { bytes: ByteSize(bytes), per: 1_000 * HOUR }
}

fn both_ways(tcp: SocketAddr, rate: ByteRate) -> config::Route {
    config::Route { byte_rate_up: rate, byte_rate_down: rate, ..route(&[tcp]) }
}

#[tokio::test]
async fn what_is_above_the_rate_comes_late_and_whole() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), a_megabyte()));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    let all = pattern(300_000);
    let begun = Instant::now();
    let question = async {
        send.write(all.clone()).await;
        send.finish();
    };
    let talk = async {
        let (mut reader, mut writer) = connection.split();
        let reply = async {
            writer.write_all(&all).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut seen = Vec::new();
        let ((), read) = tokio::join!(reply, reader.read_to_end(&mut seen));
        read.unwrap();
        seen
    };
    let ((), up, down) = soon(async { tokio::join!(question, talk, recv.read_to_end()) }).await;
    assert!(up == all && down == (all, SeenEnd::Finished), "it arrived changed");
    // The first hundred kilobytes go at once.
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    for direction in [&gateway.route.up, &gateway.route.down] {
        let slowed = direction.slowed_bytes.get();
        assert!((1..=200_000).contains(&slowed), "{slowed}");
        assert_eq!(direction.stream_bytes.get(), 300_000);
    }
    gateway.first_stream_ends(StreamEnd::Finished).await;
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

/// A session whose one stream has used up its rate both ways, and has more to say.
async fn held_up(
    server: &Server,
    gateway: &Gateway,
) -> (MemoryClient, ClientSend, ClientRecv, Connection) {
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write(pattern(1_500)).await;
    connection.write(&pattern(1_500)).await;
    assert_eq!(connection.read_exact(1_000).await, pattern(1_000));
    assert_eq!(recv.read_exact(1_000).await, pattern(1_000));
    let [up, down] = [&gateway.route.up, &gateway.route.down];
    until(|| up.slowed_bytes.get() > 0 && down.slowed_bytes.get() > 0).await;
    (client, send, recv, connection)
}

#[tokio::test]
async fn a_stream_that_is_held_up_sees_its_clients_reset_at_once() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), at_once(1_000)));
    let (_client, send, _recv, mut connection) = held_up(&server, &gateway).await;
    send.reset(7);
    assert_reset(connection.read_to_end().await.1);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
    assert_eq!(gateway.route.up.lost_bytes.get(StreamEnd::ClientReset), 500);
    let down = gateway.route.down.lost_bytes.get(StreamEnd::ClientReset);
    assert_eq!(down, 1, "no more is read than goes in one turn");
}

#[tokio::test]
async fn a_stream_that_is_held_up_sees_at_once_that_its_client_stops() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), at_once(1_000)));
    let (client, send, recv, _connection) = held_up(&server, &gateway).await;
    recv.stop(7);
    assert_eq!(recv.reset().await, Some(7));
    assert!(!send.is_stopped(), "the other half waits on");
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.down.lost_bytes.get(StreamEnd::ClientStopped), 1);
    assert_eq!(gateway.route.up.lost_bytes.get(StreamEnd::SessionEnded), 500);
}

#[tokio::test]
async fn a_stream_that_is_held_up_sees_its_backends_reset_at_once() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), at_once(1_000)));
    let (client, send, _recv, connection) = held_up(&server, &gateway).await;
    connection.reset();
    assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
    // What it had said before waits on.
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_stream_that_is_held_up_ends_with_its_session() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), at_once(1_000)));
    let (client, _send, recv, mut connection) = held_up(&server, &gateway).await;
    client.close(0, "");
    assert_reset(connection.read_to_end().await.1);
    gateway.leaves_nothing_behind().await;
    assert!(recv.is_abandoned());
    assert_eq!(gateway.route.up.lost_bytes.get(StreamEnd::SessionEnded), 500);
}

#[tokio::test]
async fn a_stream_that_is_held_up_ends_with_the_gateway() {
    let server = Server::new().await;
    let gateway = Gateway::new(both_ways(server.address(), at_once(1_000)));
    let (client, _send, _recv, mut connection) = held_up(&server, &gateway).await;
    gateway.lifecycle.hurry();
    assert_eq!(client.closed().await.1, "killed");
    assert_reset(connection.read_to_end().await.1);
    gateway.leaves_nothing_behind().await;
}

/// Many streams share what one alone would have, and each gets its part of it.
#[tokio::test]
async fn streams_of_a_session_share_its_rate_equally() {
    let server = Server::new().await;
    let gateway =
        Gateway::new(config::Route { byte_rate_up: a_megabyte(), ..route(&[server.address()]) });
    let client = gateway.session().await;
    // What may come at once is for whoever comes first.
    let (send, _recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write(pattern(100_000)).await;
    connection.read_exact(100_000).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (send, _recv) = client.open_bidi();
        streams.push((send, server.accept().await));
    }
    let begun = Instant::now();
    let (sends, connections): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
    let sending = join_all(sends.iter().map(|send| send.write(pattern(150_000))));
    let got = [const { Cell::new(0) }; 4];
    // What all had when the first had everything: clocks would tell of the machine's other work too.
    let when_first_was_done = OnceCell::new();
    let receiving =
        join_all(connections.into_iter().zip(&got).map(async |(mut connection, mine)| {
            let mut all = Vec::new();
            while all.len() < 150_000 {
                all.extend(connection.read_exact(1_000).await);
                mine.set(all.len());
            }
            assert_eq!(all, pattern(150_000));
            when_first_was_done.get_or_init(|| got.each_ref().map(Cell::get));
        }));
    soon(async { tokio::join!(sending, receiving) }).await;
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let shares = when_first_was_done.get().unwrap();
    // The first may have had once more what may come at once, 100,000, and a turn of 20,000.
    assert!(shares.iter().all(|share| *share >= 30_000), "{shares:?}");
}
