//! Streams that the gateway opens beside the client's, with connections of their own.

use std::time::Duration;

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{Limit, Opens, PushMode, StreamsMode},
    reason::{Ending, Refusal, StreamEnd},
    transport::memory::{CREDIT, SeenEnd},
};

fn gateway_to(server: &Server, push: PushMode) -> Gateway {
    let mut route = route(&[server.address()]);
    route.push = push;
    Gateway::new(route)
}

#[tokio::test]
async fn a_feed_reaches_the_client_whole_and_its_end_is_not_the_sessions() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Uni);
    let client = gateway.session().await;
    let mut feed = server.accept().await;
    let news = pattern(1_000_003);
    let recv = client.accept_uni().await;
    let write = async {
        feed.write(&news).await;
        feed.finish().await;
    };
    let ((), read) = tokio::join!(write, recv.read_to_end());
    assert!(read == (news, SeenEnd::Finished), "what came differs");
    let (bytes, end) = feed.read_to_end().await;
    assert!(bytes.is_empty() && end.is_ok(), "nothing is said to a feed");

    // The client's own streams are as ever.
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write("x").await;
    assert_eq!(connection.read_exact(1).await, b"x");
    connection.write(b"y").await;
    assert_eq!(recv.read_exact(1).await, b"y");
    assert_eq!(gateway.route.gateway_uni_streams.get(), 1);
    assert_eq!(gateway.route.bidi_streams.get(), 1);
    assert_eq!(gateway.route.down.stream_bytes.get(), 1_000_004);
}

#[tokio::test]
async fn a_pushed_stream_may_go_both_ways() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Bidi);
    let client = gateway.session().await;
    let mut connection = server.accept().await;
    let (send, recv) = client.accept_bidi().await;
    connection.write(b"subscribe?").await;
    assert_eq!(recv.read_exact(10).await, b"subscribe?");
    send.write("yes").await;
    send.finish();
    let (said, end) = connection.read_to_end().await;
    assert_eq!((said, end.is_ok()), (b"yes".to_vec(), true));
    connection.write(b"news").await;
    connection.finish().await;
    assert_eq!(recv.read_to_end().await, (b"news".to_vec(), SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;
    assert_eq!(gateway.route.gateway_bidi_streams.get(), 1);
    assert!(!client.was_told(), "the session goes on");
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn without_its_connection_there_is_no_session() {
    for push in [PushMode::Uni, PushMode::Bidi] {
        let mut route = route(&[dead_address()]);
        route.push = push;
        let gateway = Gateway::new(route);
        assert_eq!(gateway.ask(PATH).refused().await, Refusal::BackendUnreachable, "{push:?}");
        gateway.leaves_nothing_behind().await;
    }
}

#[tokio::test]
async fn a_feed_that_is_cut_is_a_reset_and_not_the_end_of_the_session() {
    for push in [PushMode::Uni, PushMode::Bidi] {
        let server = Server::new().await;
        let gateway = gateway_to(&server, push);
        let client = gateway.session().await;
        let mut feed = server.accept().await;
        let recv = match push {
            PushMode::Bidi => client.accept_bidi().await.1,
            _ => client.accept_uni().await,
        };
        feed.write(b"half a").await;
        assert_eq!(recv.read_exact(6).await, b"half a");
        feed.reset();
        assert_eq!(recv.reset().await, Some(StreamEnd::BackendReset.code()), "{push:?}");
        gateway.first_stream_ends(StreamEnd::BackendReset).await;
        assert!(!client.was_told(), "the session goes on");
    }
}

#[tokio::test]
async fn a_client_that_does_not_want_a_feed_ends_its_connection() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Uni);
    let client = gateway.session().await;
    let mut feed = server.accept().await;
    client.accept_uni().await.stop(3);
    assert!(feed.read_to_end().await.0.is_empty());
    gateway.first_stream_ends(StreamEnd::ClientStopped).await;
    assert!(!client.was_told(), "the session goes on");
}

#[tokio::test]
async fn an_open_feed_ends_with_its_session() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Uni);
    let client = gateway.session().await;
    let mut feed = server.accept().await;
    let recv = client.accept_uni().await;
    client.close(0, "");
    let (bytes, end) = feed.read_to_end().await;
    assert!(bytes.is_empty() && end.is_ok(), "it owed nothing");
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert!(recv.is_abandoned());
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_feed_that_is_held_at_the_sessions_end_is_a_reset_for_the_backend() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Uni);
    let client = gateway.session().await;
    let mut feed = server.accept().await;
    let recv = client.accept_uni().await;
    // The kernel has nothing of it any more; the gateway holds the last byte.
    feed.write(&pattern(CREDIT + 1)).await;
    recv.blocked().await;
    client.close(0, "");
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert_reset(feed.read_to_end().await.1);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_feed_waits_for_credit_and_holds_up_nothing() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, PushMode::Uni);
    let client = gateway.ask(PATH);
    client.give_stream_credit(false);
    client.accepted().await;
    let mut feed = server.accept().await;
    feed.write(b"old news").await;
    feed.finish().await;

    let (send, _recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write("x").await;
    assert_eq!(connection.read_exact(1).await, b"x");

    client.give_stream_credit(true);
    let recv = client.accept_uni().await;
    assert_eq!(recv.read_to_end().await, (b"old news".to_vec(), SeenEnd::Finished));

    let other = gateway.ask(PATH);
    other.give_stream_credit(false);
    other.accepted().await;
    let mut feed = server.accept().await;
    other.lose_connection();
    assert_reset(feed.read_to_end().await.1);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

/// The client's half of a feed is over from the start, so a feed would be half-closed for ever.
#[tokio::test]
async fn a_silent_feed_is_not_taken_for_a_half_closed_stream() {
    let server = Server::new().await;
    let mut route = route(&[server.address()]);
    route.push = PushMode::Uni;
    route.half_close_timeout = Some(Duration::from_millis(50));
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let mut feed = server.accept().await;
    let news = client.accept_uni().await;

    // When this stream has stood still for too long, so has the feed.
    let (send, recv) = client.open_bidi();
    let _connection = server.accept().await;
    send.finish();
    assert_eq!(recv.reset().await, Some(StreamEnd::HalfCloseTimeout.code()));
    feed.write(b"news").await;
    assert_eq!(news.read_exact(4).await, b"news");
}

#[tokio::test]
async fn what_is_pushed_takes_no_room_from_the_clients_streams() {
    let server = Server::new().await;
    let mut route = route(&[server.address()]);
    route.push = PushMode::Bidi;
    route.max_streams_per_session = Limit::AtMost(1);
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let _feed = server.accept().await;
    client.accept_bidi().await;
    let (send, _recv) = client.open_bidi();
    send.write("x").await;
    assert_eq!(server.accept().await.read_exact(1).await, b"x");
}

#[tokio::test]
async fn a_feed_goes_with_one_connection_per_session_to_the_same_endpoint() {
    let servers = [Server::new().await, Server::new().await];
    let mut route = route(&servers.each_ref().map(Server::address));
    route.streams = StreamsMode::PerSession;
    route.opens = Opens::Gateway;
    route.push = PushMode::Uni;
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let (mut own, mut feed) = (servers[0].accept().await, servers[0].accept().await);
    let ((send, recv), news) = (client.accept_bidi().await, client.accept_uni().await);
    feed.write(b"news").await;
    own.write(b"hello").await;
    assert_eq!(news.read_exact(4).await, b"news");
    assert_eq!(recv.read_exact(5).await, b"hello");
    assert!(servers[1].is_idle());

    own.finish().await;
    send.finish();
    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Finished));
    client.closed().await;
    assert!(news.is_abandoned(), "the feed goes with the session");
    feed.read_to_end().await.1.unwrap();
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(Ending::BackendFinished), 1);
}
