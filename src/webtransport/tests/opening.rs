//! Streams that the gateway opens, as its own client sees them.

use super::*;
use crate::transport::{OpenError, SendError, StreamOpener as _, memory::soon};

/// A session, and what opens streams to its client.
async fn session_with(
    server: &mut Server,
    options: &client::Options,
) -> (client::Session, StreamOpener) {
    let connection = server.connect_as(options).await;
    let asked = RequestOptions::default();
    let session = connection.open_session(&server.url("/echo"), &asked).await.unwrap();
    (session, server.openers.recv().await.unwrap())
}

fn options(server: &Server) -> client::Options {
    client::Options::new(Trust::Hashes(vec![server.hash]))
}

#[tokio::test]
async fn streams_of_the_gateways_carry_bytes_and_codes_both_ways() {
    let mut server = server();
    let options = options(&server);
    let (session, opener) = session_with(&mut server, &options).await;

    let mut send = opener.open_uni().await.unwrap();
    send.write(&mut Bytes::from_static(b"news")).await.unwrap();
    send.finish();
    let mut recv = soon(session.accept_uni()).await.unwrap();
    assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"news");

    let (mut send, mut recv) = opener.open_bidi().await.unwrap();
    let (mut client_send, mut client_recv) = soon(session.accept_bidi()).await.unwrap();
    client_send.write(b"question").await.unwrap();
    let mut chunks = [Bytes::new()];
    assert_eq!(soon(recv.read_chunks(&mut chunks)).await.unwrap(), Some(1));
    assert_eq!(chunks[0], &b"question"[..]);
    send.write(&mut Bytes::from_static(b"answer")).await.unwrap();
    assert_eq!(soon(client_recv.read()).await.unwrap().unwrap(), &b"answer"[..]);

    client_send.reset(7);
    assert_eq!(soon(recv.read_chunks(&mut chunks)).await, Err(RecvError::Reset(Some(7))));
    client_recv.stop(9);
    assert_eq!(soon(send.stopped()).await, SendError::Stopped(Some(9)));
    let mut send = opener.open_uni().await.unwrap();
    send.write(&mut Bytes::from_static(b"cut")).await.unwrap();
    let mut recv = soon(session.accept_uni()).await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"cut"[..]);
    send.reset(5);
    assert_eq!(soon(recv.read()).await, Err(StreamError::Ended(5)));
}

#[tokio::test]
async fn a_stream_is_delivered_if_it_ends_cleanly_and_the_client_wants_it() {
    let mut server = server();
    let options = options(&server);
    let (session, opener) = session_with(&mut server, &options).await;
    let mut whole = opener.open_uni().await.unwrap();
    whole.write(&mut vec![1; 100_000].into()).await.unwrap();
    whole.finish();
    assert!(soon(whole.delivered()).await, "nobody has read it, but it is there");
    let mut recv = soon(session.accept_uni()).await.unwrap();
    assert_eq!(soon(recv.read_to_end(200_000)).await.unwrap().len(), 100_000);

    let mut reset = opener.open_uni().await.unwrap();
    reset.reset(1);
    assert!(!soon(reset.delivered()).await);
    let mut unwanted = opener.open_uni().await.unwrap();
    soon(session.accept_uni()).await.unwrap().stop(2);
    assert_eq!(soon(unwanted.stopped()).await, SendError::Stopped(Some(2)));
    unwanted.finish();
    assert!(!soon(unwanted.delivered()).await);
    let lost = opener.open_uni().await.unwrap();
    session.quic().close(super::super::no_error(), b"");
    assert!(!soon(lost.delivered()).await);
}

/// The client closes a session that opens more than it may, so reaching the end is the proof.
#[tokio::test]
async fn the_gateway_opens_no_more_streams_than_the_session_may() {
    let mut server = server();
    let credit = SessionCredit { data: 1 << 20, bidi: 2, uni: 2 };
    let options = client::Options { session_credit: credit, ..options(&server) };
    let (session, opener) = session_with(&mut server, &options).await;
    let open = async {
        for i in 0..50_u8 {
            let mut uni = opener.open_uni().await.unwrap();
            uni.write(&mut Bytes::copy_from_slice(&[i])).await.unwrap();
            uni.finish();
            let (mut send, _recv) = opener.open_bidi().await.unwrap();
            send.write(&mut Bytes::copy_from_slice(&[i])).await.unwrap();
            send.finish();
        }
    };
    let take = async {
        for i in 0..50_u8 {
            let mut uni = session.accept_uni().await.unwrap();
            assert_eq!(uni.read_to_end(2).await.unwrap(), [i]);
            let (_send, mut recv) = session.accept_bidi().await.unwrap();
            assert_eq!(recv.read_to_end(2).await.unwrap(), [i]);
        }
    };
    soon(async { tokio::join!(open, take) }).await;
}

/// A client of the older drafts has QUIC's limits alone.
#[tokio::test]
async fn a_stream_waits_for_the_connections_credit_and_holds_up_nothing() {
    let mut server = server();
    let options =
        client::Options { session_credit: NO_CREDIT, max_incoming_streams: 2, ..options(&server) };
    let (session, opener) = session_with(&mut server, &options).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push((opener.open_bidi().await.unwrap(), soon(session.accept_bidi()).await.unwrap()));
    }
    assert!(opener.open_bidi().now_or_never().is_none(), "there is no credit");
    let waits = opener.clone();
    let third = tokio::spawn(async move { waits.open_bidi().await.map(drop) });

    // The client's own streams, unidirectional ones and datagrams go on.
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"on").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"on"[..]);
    soon(opener.open_uni()).await.unwrap().finish();
    session.send_datagram(b"on").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"on"[..]);
    assert!(!third.is_finished());

    // One that both sides are done with makes room.
    let ((mut send, mut recv), (mut client_send, mut client_recv)) = open.pop().unwrap();
    send.finish();
    client_send.finish();
    assert_eq!(soon(recv.read_chunks(&mut [Bytes::new()])).await.unwrap(), None);
    assert_eq!(soon(client_recv.read()).await.unwrap(), None);
    soon(third).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_stream_is_opened_for_a_session_that_has_ended() {
    let mut server = server();
    // No bidirectional stream can be opened, so that the wait is what the end meets.
    let credit = SessionCredit { data: 1 << 20, bidi: 0, uni: 1 };
    let options = client::Options { session_credit: credit, ..options(&server) };
    let (session, opener) = session_with(&mut server, &options).await;
    let waits = opener.clone();
    let waiting = tokio::spawn(async move { waits.open_bidi().await.map(drop) });

    session.close(0, "").await;
    assert_eq!(soon(waiting).await.unwrap(), Err(OpenError::SessionEnded));
    assert_eq!(opener.open_uni().await.map(drop), Err(OpenError::SessionEnded));
}

#[tokio::test]
async fn who_waits_to_open_a_stream_learns_that_the_connection_is_gone() {
    let mut server = server();
    let options =
        client::Options { session_credit: NO_CREDIT, max_incoming_streams: 0, ..options(&server) };
    let (session, opener) = session_with(&mut server, &options).await;
    let waits = opener.clone();
    let waiting = tokio::spawn(async move { waits.open_bidi().await.map(drop) });
    session.quic().close(super::super::no_error(), b"");
    let told = soon(waiting).await.unwrap();
    assert!(matches!(told, Err(OpenError::Lost | OpenError::SessionEnded)), "{told:?}");
}
