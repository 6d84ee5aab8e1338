//! How much a session may carry in a time.

use std::time::Duration;

use super::support::*;
use crate::{
    config::{self, Rate},
    reason::Loss,
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
