//! Each cell of the table of endings, and what else becomes of streams.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::{
    backend::tests::dead_address,
    config::{ByteSize, Limit, ProxyProtocol, StreamsMode, UniMode},
    reason::{Ending, StreamEnd},
    transport::{
        ClientEnd,
        memory::{CREDIT, SeenEnd, soon},
    },
};

#[tokio::test]
async fn a_client_fin_arrives_after_the_last_byte_and_the_reply_flows_on() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();

    send.write("question").await;
    send.finish();
    let mut connection = server.accept().await;
    let (bytes, end) = connection.read_to_end().await;
    assert_eq!(bytes, b"question");
    end.unwrap();

    connection.write(b"answer").await;
    connection.finish().await;
    assert_eq!(recv.read_to_end().await, (b"answer".to_vec(), SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_backend_fin_arrives_after_the_last_byte_and_the_client_may_go_on() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;

    connection.write(b"all there is").await;
    connection.finish().await;
    assert_eq!(recv.read_to_end().await, (b"all there is".to_vec(), SeenEnd::Finished));

    send.write("and you").await;
    assert_eq!(connection.read_exact(7).await, b"and you");
    send.finish();
    let (rest, end) = connection.read_to_end().await;
    assert!(rest.is_empty() && end.is_ok());
    gateway.first_stream_ends(StreamEnd::Finished).await;
    assert_eq!(connection.error().map(|e| e.kind()), None, "a clean end must not reset");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (_send, recv) = gateway.session().await.open_bidi();

    server.accept().await.write(b"SSH-2.0-test\r\n").await;
    assert_eq!(recv.read_exact(14).await, b"SSH-2.0-test\r\n");
}

#[tokio::test]
async fn megabytes_pass_whole_in_both_directions_at_once() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    let (question, answer) = (pattern(5_000_001), pattern(7_000_003));

    let up = async {
        // Pieces of all sizes, so that batches begin and end anywhere.
        let mut rest = &question[..];
        let mut size = 1;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(size));
            send.write(piece.to_vec()).await;
            (rest, size) = (after, size * 3 % 100_003);
        }
        send.finish();
    };
    let talk = async {
        let (mut reader, mut writer) = connection.split();
        let reply = async {
            soon(writer.write_all(&answer)).await.unwrap();
            soon(writer.shutdown()).await.unwrap();
        };
        let mut seen = Vec::new();
        let ((), read) = tokio::join!(reply, soon(reader.read_to_end(&mut seen)));
        read.unwrap();
        seen
    };
    let ((), seen_by_server, (seen_by_client, end)) = tokio::join!(up, talk, recv.read_to_end());

    assert!(seen_by_server == question, "what the client sent arrived changed");
    assert!(seen_by_client == answer, "what the backend sent arrived changed");
    assert_eq!(end, SeenEnd::Finished);
    assert_eq!(gateway.route.up.stream_bytes.get(), question.len() as u64);
    assert_eq!(gateway.route.down.stream_bytes.get(), answer.len() as u64);
}

#[tokio::test]
async fn a_client_reset_resets_the_backend_and_the_way_back() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    send.write("half a").await;
    assert_eq!(connection.read_exact(6).await, b"half a");

    send.reset(99);
    let (_, end) = connection.read_to_end().await;
    assert_reset(end);
    assert_eq!(recv.reset().await, Some(0));
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
}

/// The gateway waits for the backend's kernel then, not for the client.
#[tokio::test]
async fn a_client_reset_is_seen_while_the_backend_takes_nothing() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, _recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    connection.shrink();
    fill(&send).await;

    send.reset(99);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
    let (_, end) = connection.read_to_end().await;
    assert_reset(end);
}

#[tokio::test]
async fn a_client_that_resets_while_the_backend_is_dialled_is_let_go() {
    let (listener, _queued) = swallowing().await;
    let gateway = Gateway::new(route(&[listener.local_addr().unwrap()]));
    let (send, recv) = gateway.session().await.open_bidi();

    send.reset(99);
    assert_eq!(recv.reset().await, Some(0));
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_may_go_on_sending() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;

    recv.stop(42);
    assert_eq!(recv.reset().await, Some(42), "who is asked to stop resets with the same code");
    send.write("still here").await;
    send.finish();
    let (bytes, end) = connection.read_to_end().await;
    assert_eq!(bytes, b"still here");
    end.unwrap();
    gateway.first_stream_ends(StreamEnd::ClientStopped).await;
    assert_eq!(connection.error().map(|e| e.kind()), None, "nothing was lost, so nothing resets");
}

#[tokio::test]
async fn what_a_client_did_not_want_to_read_ends_in_a_reset() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    recv.stop(42);
    recv.reset().await;

    connection.write(b"nobody reads this").await;
    send.finish();
    gateway.first_stream_ends(StreamEnd::ClientStopped).await;
    connection.is_reset().await;
}

/// A backend that dies in mid-reply must not look like a reply that ended.
#[tokio::test]
async fn a_cut_reply_reaches_the_client_as_a_reset() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    connection.write(b"0123456789").await;
    assert_eq!(recv.read_exact(10).await, b"0123456789");

    connection.reset();
    let code = Some(StreamEnd::BackendReset.code());
    assert_eq!(recv.reset().await, code);
    assert_eq!(send.stopped().await, code);
    assert!(!recv.is_finished());
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
}

/// The write that fails takes the socket's error, and the read after it sees an end without a FIN.
#[tokio::test]
async fn a_reply_cut_while_the_client_sends_is_no_clean_end() {
    for _ in 0..20 {
        let server = Server::new().await;
        let gateway = Gateway::new(route(&[server.address()]));
        let (send, recv) = gateway.session().await.open_bidi();
        let mut connection = server.accept().await;
        connection.shrink();
        fill(&send).await;

        connection.write(b"half of the re").await;
        connection.reset();
        let (_, end) = recv.read_to_end().await;
        assert_eq!(end, SeenEnd::Reset(Some(StreamEnd::BackendReset.code())));
        assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
        gateway.first_stream_ends(StreamEnd::BackendReset).await;
    }
}

/// A server may answer before it has read everything, and close: the kernel sends FIN, then RST.
#[tokio::test]
async fn a_whole_reply_is_delivered_though_the_backend_took_not_everything() {
    for _ in 0..20 {
        let server = Server::new().await;
        let gateway = Gateway::new(route(&[server.address()]));
        let (send, recv) = gateway.session().await.open_bidi();
        let mut connection = server.accept().await;
        connection.shrink();
        fill(&send).await;

        connection.write(b"413 too large").await;
        connection.finish().await;
        drop(connection);
        let seen = recv.read_to_end().await;
        assert_eq!(seen, (b"413 too large".to_vec(), SeenEnd::Finished));
        assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
        gateway.first_stream_ends(StreamEnd::BackendReset).await;
    }
}

/// Nobody writes then, so only the kernel's word can tell.
#[tokio::test]
async fn a_reset_after_the_backends_fin_stops_an_idle_client() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    connection.finish().await;
    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Finished));

    connection.reset();
    assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_has_a_code_of_its_own() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let (send, recv) = gateway.session().await.open_bidi();

    let code = Some(StreamEnd::BackendUnreachable.code());
    assert_eq!(recv.reset().await, code);
    assert_eq!(send.stopped().await, code);
    gateway.first_stream_ends(StreamEnd::BackendUnreachable).await;
}

#[tokio::test]
async fn the_next_endpoint_is_tried_before_giving_up() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[dead_address(), server.address()]));
    let client = gateway.session().await;
    let streams: Vec<_> = (0..8).map(|_| client.open_bidi()).collect();

    for (send, _) in &streams {
        send.write("x").await;
        server.accept().await.read_exact(1).await;
    }
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::BackendUnreachable), 0);
}

#[tokio::test]
async fn a_stream_open_at_the_sessions_end_is_cut() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write("half a").await;
    connection.read_exact(6).await;

    client.close(0, "bye");
    let (_, end) = connection.read_to_end().await;
    assert_reset(end);
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert!(send.is_abandoned() && recv.is_abandoned());
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_question_that_is_fully_asked_is_not_cut_by_the_sessions_end() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    send.write("log this").await;
    send.finish();
    let mut connection = server.accept().await;
    let (bytes, end) = connection.read_to_end().await;
    assert_eq!(bytes, b"log this");
    end.unwrap();

    client.close(0, "bye");
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    assert!(recv.is_abandoned());
    gateway.leaves_nothing_behind().await;
    assert_eq!(connection.error().map(|e| e.kind()), None);
}

#[tokio::test]
async fn a_reply_that_is_held_at_the_sessions_end_is_a_reset_for_the_backend() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    send.finish();
    let mut connection = server.accept().await;
    let reply = pattern(CREDIT + 1);
    connection.write(&reply).await;
    recv.blocked().await;

    client.close(0, "bye");
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    connection.is_reset().await;
}

#[tokio::test]
async fn a_lost_connection_resets_the_backend_even_if_nothing_is_pending() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, _recv) = client.open_bidi();
    send.finish();
    let mut connection = server.accept().await;
    let (_, end) = connection.read_to_end().await;
    end.unwrap();

    client.lose_connection();
    gateway.first_stream_ends(StreamEnd::ConnectionLost).await;
    connection.is_reset().await;
    gateway.leaves_nothing_behind().await;
}

/// The streams themselves are never told in this case: the session alone knows.
#[tokio::test]
async fn a_connection_that_the_client_closed_is_a_lost_one_for_its_streams() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, _recv) = client.open_bidi();
    send.finish();
    let mut connection = server.accept().await;
    let (_, end) = connection.read_to_end().await;
    end.unwrap();

    client.end(ClientEnd::ConnectionClosed);
    gateway.first_stream_ends(StreamEnd::ConnectionLost).await;
    connection.is_reset().await;
}

/// A reset would take back what the client's transport has not delivered yet.
#[tokio::test]
async fn a_client_reset_leaves_a_finished_reply_alone() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut connection = server.accept().await;
    connection.write(b"all there is").await;
    connection.finish().await;
    until(|| recv.is_finished()).await;

    send.reset(99);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
    assert_eq!(recv.read_to_end().await, (b"all there is".to_vec(), SeenEnd::Finished));
    connection.is_reset().await;
}

#[tokio::test]
async fn a_half_closed_stream_that_stands_still_is_cut() {
    let server = Server::new().await;
    let mut route = route(&[server.address()]);
    route.half_close_timeout = Some(Duration::from_millis(50));
    let gateway = Gateway::new(route);
    let (send, recv) = gateway.session().await.open_bidi();
    let connection = server.accept().await;

    send.finish();
    assert_eq!(recv.reset().await, Some(StreamEnd::HalfCloseTimeout.code()));
    connection.is_reset().await;
    gateway.first_stream_ends(StreamEnd::HalfCloseTimeout).await;
}

#[tokio::test]
async fn a_unidirectional_stream_is_written_and_its_answer_discarded_and_counted() {
    let server = Server::new().await;
    // A server may acknowledge each message for as long as the client sends.
    let gateway =
        Gateway::new(with_backend(route(&[server.address()]), |b| b.uni_discard = ByteSize(4)));
    let client = gateway.session().await;
    let send = client.open_uni();
    let mut connection = server.accept().await;
    for _ in 0..5 {
        send.write("sample").await;
        assert_eq!(connection.read_exact(6).await, b"sample");
        connection.write(b"OK\n").await;
    }
    until(|| gateway.route.discarded_bytes.get() == 15).await;

    send.finish();
    let (rest, end) = connection.read_to_end().await;
    assert!(rest.is_empty() && end.is_ok());
    connection.write(b"bye\n").await;
    drop(connection);
    gateway.first_stream_ends(StreamEnd::Finished).await;
    assert_eq!(gateway.route.discarded_bytes.get(), 19);
    assert_eq!(gateway.route.down.stream_bytes.get(), 0);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_backend_that_talks_on_after_a_unidirectional_stream_is_cut() {
    let server = Server::new().await;
    let gateway =
        Gateway::new(with_backend(route(&[server.address()]), |b| b.uni_discard = ByteSize(4)));
    let send = gateway.session().await.open_uni();
    let mut connection = server.accept().await;
    send.finish();
    connection.read_to_end().await.1.unwrap();

    connection.write(b"12345").await;
    gateway.first_stream_ends(StreamEnd::UnwantedReply).await;
    connection.is_reset().await;
}

#[tokio::test]
async fn a_unidirectional_stream_is_stopped_when_its_backend_breaks() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let send = gateway.session().await.open_uni();
    let mut connection = server.accept().await;
    send.write("sample").await;
    connection.read_exact(6).await;

    connection.reset();
    assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
}

/// Also when the gateway does not know yet that the backend has accepted.
#[tokio::test]
async fn a_reset_unidirectional_stream_is_a_reset_for_the_backend() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let send = gateway.session().await.open_uni();
    let mut connection = server.accept().await;

    send.reset(1);
    let (_, end) = connection.read_to_end().await;
    assert_reset(end);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
}

#[tokio::test]
async fn one_stalled_stream_does_not_hold_up_the_others() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (stalled, _recv) = client.open_bidi();
    let connection = server.accept().await;
    connection.shrink();
    fill(&stalled).await;

    for round in 0..20_u8 {
        let (send, recv) = client.open_bidi();
        let mut connection = server.accept().await;
        send.write(vec![round; 100]).await;
        let seen = connection.read_exact(100).await;
        connection.write(&seen).await;
        assert_eq!(recv.read_exact(100).await, vec![round; 100]);
    }
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_until_there_is_room() {
    let server = Server::new().await;
    let mut route = route(&[server.address()]);
    route.max_streams_per_session = Limit::AtMost(2);
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    let (first, _recv) = client.open_bidi();
    let _second = client.open_bidi();
    assert_eq!(client.open_bidi_streams(), 2);

    let (send, recv) = client.open_bidi();
    let code = Some(StreamEnd::TooManyStreams.code());
    assert_eq!((send.stopped().await, recv.reset().await), (code, code));
    assert!(!client.open_uni().is_stopped(), "the kinds do not share their room");

    first.reset(0);
    until(|| client.open_bidi_streams() == 1).await;
    let (send, _recv) = client.open_bidi();
    assert!(!send.is_stopped());
}

#[tokio::test]
async fn a_route_may_refuse_streams_of_either_kind() {
    let mut route = route(&[dead_address()]);
    (route.streams, route.uni) = (StreamsMode::Refuse, UniMode::Refuse);
    let gateway = Gateway::new(route);
    let client = gateway.session().await;

    let code = Some(StreamEnd::Refused.code());
    let (send, recv) = client.open_bidi();
    assert_eq!((send.stopped().await, recv.reset().await), (code, code));
    assert_eq!(client.open_uni().stopped().await, code);
    assert_eq!(gateway.route.stream_ends.get(StreamEnd::Refused), 2);
    assert_eq!(gateway.route.bidi_streams.get(), 0, "a refused stream is not bridged");
}

#[tokio::test]
async fn a_panic_in_a_bridge_ends_its_session_and_no_other() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (client, other) = (gateway.session().await, gateway.session().await);
    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    let (other_send, _recv) = other.open_bidi();
    let mut other_connection = server.accept().await;

    send.poison();
    assert_eq!(client.closed().await, (Ending::Internal.code(), "internal".into()));
    let (_, end) = connection.read_to_end().await;
    assert_reset(end);
    assert_eq!(recv.reset().await, None);
    gateway.first_stream_ends(StreamEnd::Internal).await;

    other_send.write("alive").await;
    assert_eq!(other_connection.read_exact(5).await, b"alive");
    assert!(!other.was_told());
}

#[tokio::test]
async fn the_backend_is_told_who_the_client_is() {
    let server = Server::new().await;
    let gateway = Gateway::new(with_backend(route(&[server.address()]), |b| {
        b.proxy_protocol = ProxyProtocol::V1;
    }));
    let (send, _recv) = gateway.session().await.open_bidi();
    send.write("hello").await;
    send.finish();

    let (bytes, _) = server.accept().await.read_to_end().await;
    let expected = "PROXY TCP4 192.0.2.1 203.0.113.9 50000 443\r\nhello";
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    assert_eq!(gateway.route.up.stream_bytes.get(), 5, "the header is not the client's");
}
