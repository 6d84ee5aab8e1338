//! Sessions with one connection: made before the session is, and its end with it.

use std::{net::SocketAddr, time::Duration};

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{self, Limit, Opens, StreamsMode, UniMode},
    reason::{Ending, Refusal, StreamEnd},
    transport::{
        ClientEnd,
        memory::{ClientRecv, ClientSend, MemoryClient, SeenEnd},
    },
};

/// A route with one connection for each session.
fn one_connection(mut route: config::Route, opens: Opens) -> config::Route {
    route.streams = StreamsMode::PerSession;
    route.uni = UniMode::Refuse;
    route.opens = opens;
    route
}

fn gateway_to(server: &Server, opens: Opens) -> Gateway {
    Gateway::new(one_connection(route(&[server.address()]), opens))
}

/// A session, its one stream and its one connection.
async fn pair(
    server: &Server,
    gateway: &Gateway,
) -> (MemoryClient, ClientSend, ClientRecv, Connection) {
    let client = gateway.session().await;
    let connection = server.accept().await;
    let (send, recv) = client.open_bidi();
    (client, send, recv, connection)
}

/// What a client is told at the end.
fn told(why: Ending) -> (u32, String) {
    (why.code(), why.word().to_owned())
}

#[tokio::test]
async fn a_dead_backend_is_a_refusal_and_no_session() {
    let gateway = Gateway::new(one_connection(route(&[dead_address()]), Opens::Client));
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::BackendUnreachable);
    assert_eq!(gateway.route.rejects.get(Refusal::BackendUnreachable), 1);
    gateway.leaves_nothing_behind().await;
}

/// It has no session: a client that does not read its refusal must not keep others out.
#[tokio::test]
async fn a_request_that_is_being_refused_takes_no_room() {
    let mut route = one_connection(route(&[dead_address()]), Opens::Client);
    route.max_sessions = Limit::AtMost(1);
    let gateway = Gateway::new(route);
    let first = gateway.ask(PATH);
    first.block_refusal();
    assert_eq!(first.refused().await, Refusal::BackendUnreachable);
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::BackendUnreachable);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_a_refusal_of_its_own() {
    let (listener, _queued) = swallowing().await;
    let route = with_backend(route(&[listener.local_addr().unwrap()]), |backend| {
        backend.connect_timeout = Duration::from_millis(50);
    });
    let gateway = Gateway::new(one_connection(route, Opens::Client));
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::BackendTimeout);
    assert_eq!(gateway.route.rejects.get(Refusal::BackendTimeout), 1);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn the_next_endpoint_is_tried_before_a_session_is_refused() {
    let server = Server::new().await;
    let route = route(&[dead_address(), server.address()]);
    let gateway = Gateway::new(one_connection(route, Opens::Client));
    gateway.session().await;
    server.accept().await;
}

/// A client whose session waits for a backend that does not answer, and has the route's only place.
async fn dialling(silent: SocketAddr) -> (Gateway, MemoryClient) {
    let mut route = with_backend(route(&[silent]), |backend| {
        backend.connect_timeout = Duration::from_secs(600);
    });
    route.max_sessions = Limit::AtMost(1);
    let gateway = Gateway::new(one_connection(route, Opens::Client));
    let client = gateway.ask(PATH);
    // Tasks run in turn: when the second is refused, the first is being dialled for.
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::RouteFull);
    (gateway, client)
}

#[tokio::test]
async fn a_drain_during_the_dial_refuses() {
    let (listener, _queued) = swallowing().await;
    let (gateway, client) = dialling(listener.local_addr().unwrap()).await;
    gateway.lifecycle.begin_drain();
    assert_eq!(client.refused().await, Refusal::Draining);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_the_backend_is_dialled_is_let_go() {
    let (listener, _queued) = swallowing().await;
    let (gateway, client) = dialling(listener.local_addr().unwrap()).await;
    client.end(ClientEnd::Reset);
    gateway.leaves_nothing_behind().await;
    let refused: u64 = Refusal::ALL.iter().map(|why| gateway.route.rejects.get(*why)).sum();
    assert_eq!(refused, 1, "the other client");
    assert_eq!(gateway.route.ends.get(Ending::ClientReset), 0, "it never was a session");
}

#[tokio::test]
async fn what_a_backend_says_before_the_stream_comes_is_kept() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let client = gateway.session().await;
    let mut connection = server.accept().await;
    let greeting = pattern(30_000);
    connection.write(&greeting).await;
    connection.finish().await;

    let (send, recv) = client.open_bidi();
    assert_eq!(recv.read_to_end().await, (greeting, SeenEnd::Finished));
    send.write("and you").await;
    send.finish();
    assert_eq!(connection.read_to_end().await.0, b"and you");
}

#[tokio::test]
async fn every_stream_but_the_first_is_refused() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    for _ in 0..2 {
        let (second_send, second_recv) = client.open_bidi();
        assert_eq!(second_recv.reset().await, Some(StreamEnd::SecondStream.code()));
        assert_eq!(second_send.stopped().await, Some(StreamEnd::SecondStream.code()));
    }
    assert_eq!(client.open_uni().stopped().await, Some(StreamEnd::Refused.code()));
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::SecondStream), 2);

    send.write("on").await;
    assert_eq!(connection.read_exact(2).await, b"on");
    connection.write(b"and on").await;
    assert_eq!(recv.read_exact(6).await, b"and on");
    assert!(server.is_idle(), "there is one connection");
}

#[tokio::test]
async fn the_clean_end_of_the_connection_is_the_sessions_once_all_is_delivered() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    connection.write(b"all there is").await;
    connection.finish().await;
    send.finish();
    connection.read_to_end().await.1.unwrap();
    until(|| recv.is_finished()).await;
    assert!(!client.was_told(), "the client has not got everything");

    assert_eq!(recv.read_to_end().await, (b"all there is".to_vec(), SeenEnd::Finished));
    assert_eq!(client.closed().await, told(Ending::BackendFinished));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(Ending::BackendFinished), 1);
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::Finished), 1);
}

#[tokio::test]
async fn a_client_that_closes_after_the_last_word_has_closed_the_session() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    connection.finish().await;
    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Finished));
    send.finish();
    connection.read_to_end().await.1.unwrap();
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert!(!client.was_told());
    assert_eq!(gateway.route.ends.get(Ending::ClientClosed), 1);
}

#[tokio::test]
async fn a_cut_connection_is_a_reset_and_the_end_of_the_session() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    connection.write(b"half a").await;
    assert_eq!(recv.read_exact(6).await, b"half a");
    connection.reset();

    assert_eq!(recv.reset().await, Some(StreamEnd::BackendReset.code()));
    assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
    assert_eq!(client.closed().await, told(Ending::BackendReset));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(Ending::BackendReset), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_stream_comes_ends_the_session() {
    for opens in [Opens::Client, Opens::Gateway] {
        let server = Server::new().await;
        let gateway = gateway_to(&server, opens);
        let client = gateway.ask(PATH);
        client.give_stream_credit(false);
        client.accepted().await;
        server.accept().await.reset();
        assert_eq!(client.closed().await, told(Ending::BackendReset), "{opens:?}");
        gateway.leaves_nothing_behind().await;
    }
}

#[tokio::test]
async fn a_reply_that_is_whole_is_delivered_though_the_connection_breaks_after_it() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, _send, recv, mut connection) = pair(&server, &gateway).await;
    connection.write(b"the whole reply").await;
    connection.finish().await;
    until(|| recv.is_finished()).await;
    connection.reset();

    assert_eq!(recv.read_to_end().await, (b"the whole reply".to_vec(), SeenEnd::Finished));
    assert_eq!(client.closed().await, told(Ending::BackendReset));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_resets_the_backend_and_ends_the_session() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    send.write("x").await;
    connection.read_exact(1).await;
    send.reset(99);
    assert_reset(connection.read_to_end().await.1);
    assert_eq!(recv.reset().await, Some(StreamEnd::ClientReset.code()));
    assert_eq!(client.closed().await, told(Ending::StreamCut));
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_may_finish_and_then_the_session_ends() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    recv.stop(5);
    send.write("last words").await;
    assert_eq!(connection.read_exact(10).await, b"last words");
    assert!(!client.was_told(), "it may go on");
    send.finish();
    connection.read_to_end().await.1.unwrap();
    assert_eq!(client.closed().await, told(Ending::StreamCut));
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_half_closed_connection_that_stands_still_ends_the_session() {
    let server = Server::new().await;
    let mut route = one_connection(route(&[server.address()]), Opens::Client);
    route.half_close_timeout = Some(Duration::from_millis(50));
    let gateway = Gateway::new(route);
    let (client, send, recv, connection) = pair(&server, &gateway).await;
    send.finish();
    assert_eq!(recv.reset().await, Some(StreamEnd::HalfCloseTimeout.code()));
    connection.is_reset().await;
    assert_eq!(client.closed().await, told(Ending::HalfCloseTimeout));
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_ends_the_connection_plainly() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let client = gateway.session().await;
    let mut connection = server.accept().await;
    client.close(0, "");
    let (bytes, end) = connection.read_to_end().await;
    assert!(bytes.is_empty() && end.is_ok(), "nothing was cut");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_client_that_is_lost_without_a_word_resets_the_connection() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let client = gateway.session().await;
    let mut connection = server.accept().await;
    client.lose_connection();
    assert_reset(connection.read_to_end().await.1);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_session_that_the_client_closes_cuts_its_stream() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, recv, mut connection) = pair(&server, &gateway).await;
    send.write("half a").await;
    connection.read_exact(6).await;
    client.close(0, "");
    assert_reset(connection.read_to_end().await.1);
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert!(send.is_abandoned() && recv.is_abandoned());
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(Ending::ClientClosed), 1);
}

#[tokio::test]
async fn a_drain_leaves_the_session_until_the_grace_is_over() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let (client, send, _recv, mut connection) = pair(&server, &gateway).await;
    gateway.lifecycle.begin_drain();
    client.asked_to_end().await;
    send.write("still").await;
    assert_eq!(connection.read_exact(5).await, b"still");
    gateway.lifecycle.begin_kill();
    assert_eq!(client.closed().await, told(Ending::DrainDeadline));
    assert_reset(connection.read_to_end().await.1);
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn the_gateway_opens_the_stream_where_the_route_says_so() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Gateway);
    let client = gateway.session().await;
    let mut connection = server.accept().await;
    connection.write(b"220 ready\r\n").await;
    let (send, recv) = client.accept_bidi().await;
    assert_eq!(recv.read_exact(11).await, b"220 ready\r\n");
    send.write("QUIT\r\n").await;
    assert_eq!(connection.read_exact(6).await, b"QUIT\r\n");

    let (own_send, own_recv) = client.open_bidi();
    assert_eq!(own_recv.reset().await, Some(StreamEnd::SecondStream.code()));
    assert_eq!(own_send.stopped().await, Some(StreamEnd::SecondStream.code()));
    assert_eq!(client.open_bidi_streams(), 0, "the gateway's is not the client's");

    connection.finish().await;
    send.finish();
    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Finished));
    assert_eq!(client.closed().await, told(Ending::BackendFinished));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.gateway_bidi_streams.get(), 1);
    assert_eq!(gateway.route.bidi_streams.get(), 0);
}

#[tokio::test]
async fn a_stream_of_the_gateways_waits_for_credit_as_long_as_the_session_lives() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Gateway);
    let client = gateway.ask(PATH);
    client.give_stream_credit(false);
    client.accepted().await;
    let mut connection = server.accept().await;
    connection.write(b"hello").await;
    client.send_datagram(b"is lost, as there is no socket");
    assert!(!client.has_streams());
    client.give_stream_credit(true);
    let (_send, recv) = client.accept_bidi().await;
    assert_eq!(recv.read_exact(5).await, b"hello");

    let other = gateway.ask(PATH);
    other.give_stream_credit(false);
    other.accepted().await;
    let mut connection = server.accept().await;
    other.close(0, "");
    assert!(connection.read_to_end().await.1.is_ok());
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_stream_that_comes_with_the_end_is_let_go() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let client = gateway.session().await;
    let _connection = server.accept().await;
    // The session's task hears of the end before the stream is looked at.
    client.close(0, "");
    let (send, recv) = client.open_bidi();
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert!(send.is_abandoned() && recv.is_abandoned());
    gateway.leaves_nothing_behind().await;
}

/// The stream is on its way to the connection's task when the session ends.
#[tokio::test]
async fn a_stream_that_comes_after_the_end_is_let_go() {
    let server = Server::new().await;
    let gateway = gateway_to(&server, Opens::Client);
    let client = gateway.session().await;
    let _connection = server.accept().await;
    client.close(0, "");
    until(|| gateway.route.ends.get(Ending::ClientClosed) == 1).await;
    until(|| gateway.lifecycle.running_tasks() == 0).await;
    let (send, recv) = client.open_bidi();
    assert!(send.is_abandoned() && recv.is_abandoned());
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::SessionEnded), 1);
}
