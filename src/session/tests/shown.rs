//! What is shown of a session while it lives.

use std::sync::Arc;

use super::support::*;
use crate::{
    config::ByteSize,
    reason::{Loss, StreamEnd},
    session::registry::{LiveSession, Selection},
};

/// The one session there is, once it is shown.
async fn only_session(gateway: &Gateway) -> Arc<LiveSession> {
    let sessions = || gateway.context.sessions().page(&Selection::default(), None, 2).sessions;
    // A client knows of its session a moment before the registry does.
    until(|| !sessions().is_empty()).await;
    let [session] = &sessions()[..] else { panic!("there are several") };
    Arc::clone(session)
}

#[tokio::test]
async fn waiting_datagrams_and_lost_ones_are_shown_with_the_reason() {
    let server = UdpServer::new().await;
    let mut route = udp_route(server.address());
    route.datagram_queue = ByteSize(3 * 600);
    let gateway = Gateway::new(route);
    let client = gateway.session().await;
    client.take_datagrams(0, Some(1200));
    client.send_datagram(b"hello");
    let (_, from) = server.receive().await;
    let session = only_session(&gateway).await;
    assert_eq!(
        (session.datagram_queue().datagrams, session.datagram_queue().first_waits),
        (0, None)
    );

    for _ in 0..5 {
        server.send(&[0; 500], from).await;
    }
    gateway.loses_down(Loss::QueueFull, 2).await;
    let queue = session.datagram_queue();
    assert_eq!((queue.datagrams, queue.capacity), (3, ByteSize(1800)));
    assert!((1500..=1800).contains(&queue.bytes) && queue.first_waits.is_some(), "{queue:?}");
    server.send(&[0; 1300], from).await;
    gateway.loses_down(Loss::Oversize, 1).await;
    let mut losses: Vec<_> = session.totals().down.datagram_losses.iter().collect();
    losses.sort_unstable_by_key(|(why, _)| why.word());
    assert_eq!(losses, [(Loss::Oversize, 1), (Loss::QueueFull, 2)]);
    assert_eq!(session.totals().up.datagram_losses.iter().count(), 0);

    client.take_datagrams(64, Some(1200));
    for _ in 0..3 {
        client.datagram().await;
    }
    until(|| session.datagram_queue().datagrams == 0).await;
    assert_eq!((session.datagram_queue().bytes, session.datagram_queue().first_waits), (0, None));
}

#[tokio::test]
async fn lost_bytes_are_shown_with_the_reason_and_discarded_ones_apart() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let session = only_session(&gateway).await;
    let (send, _recv) = client.open_bidi();
    let connection = server.accept().await;
    connection.shrink();
    fill(&send).await;
    send.reset(7);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
    let totals = session.totals();
    let lost: Vec<_> = totals.up.stream_losses.iter().collect();
    assert_eq!(lost, [(StreamEnd::ClientReset, totals.up.stream_bytes.lost.get())]);

    let send = client.open_uni();
    let mut connection = server.accept().await;
    connection.write(b"OK\n").await;
    until(|| totals.discarded_bytes.get() == 3).await;
    assert_eq!(totals.down.stream_bytes.lost.get(), 3);
    assert_eq!(totals.down.stream_losses.iter().count(), 0, "no stream ended for it");
    send.finish();
}
