//! What is shown of a session while it lives.

use std::sync::Arc;

use tokio::time::Instant;

use super::support::*;
use crate::{
    backend::{Backends, UdpState, tests::no_resolver},
    bridge::{FlowState, tests::context},
    config::{self, ByteSize, Limit},
    metrics::Metrics,
    reason::{Ending, Loss, StreamEnd},
    route::RouteTable,
    session::{
        Tables, accept,
        registry::{LiveSession, Registry, Selection},
    },
    transport::{
        SessionRequest,
        memory::{CREDIT, MemoryClient, memory_leg, soon},
    },
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

#[tokio::test]
async fn open_streams_are_shown_with_their_bytes_and_their_connections() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let session = only_session(&gateway).await;
    assert_eq!(session.open_streams(2), (0, Vec::new()));

    let (send, recv) = client.open_bidi();
    let mut connection = server.accept().await;
    send.write("hello").await;
    assert_eq!(connection.read_exact(5).await, b"hello");
    let reply = CREDIT + 10_000;
    connection.write(&pattern(reply)).await;
    recv.blocked().await;
    let (count, streams) = session.open_streams(2);
    let [stream] = &streams[..] else { panic!("{streams:?}") };
    assert_eq!((count, stream.number, stream.kind, stream.opened_by), (1, 1, "bidi", "client"));
    assert_eq!(stream.up, FlowState { delivered: 5, held: 0, is_over: false });
    let FlowState { delivered, held, is_over } = stream.down;
    assert!(held > 0 && !is_over, "{:?}", stream.down);
    assert!(delivered <= CREDIT as u64 && delivered + held <= reply as u64, "{:?}", stream.down);
    let backend = stream.backend.as_ref().expect("it is connected");
    assert_eq!(backend.peer, Some(server.address().to_string()));
    #[cfg(target_os = "linux")]
    assert_eq!(backend.tcp.as_ref().map(|tcp| tcp.state), Some("established"));

    send.finish();
    until(|| session.open_streams(2).1[0].up.is_over).await;
    let (_second, _third) = (client.open_bidi(), client.open_uni());
    until(|| session.open_streams(2).0 == 3).await;
    let numbers: Vec<_> = session.open_streams(2).1.iter().map(|stream| stream.number).collect();
    assert_eq!(numbers, [1, 2], "the oldest, as many as are wanted");

    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    assert_eq!(session.open_streams(2), (0, Vec::new()));
}

#[tokio::test]
async fn the_socket_for_datagrams_is_shown_while_it_is_there() {
    let server = UdpServer::new().await;
    let address = server.address();
    let gateway = Gateway::new(udp_route(address));
    let client = gateway.session().await;
    let session = only_session(&gateway).await;
    assert_eq!(session.udp(), None, "nobody has sent anything");

    client.send_datagram(b"hello");
    let (_, from) = server.receive().await;
    let wanted = UdpState { local: Some(from), peer: Some(address), refused: 0 };
    assert_eq!(session.udp(), Some(wanted));
    drop(server);
    until(|| {
        client.send_datagram(b"anybody?");
        session.udp().is_some_and(|udp| udp.refused > 0)
    })
    .await;

    client.close(0, "");
    gateway.leaves_nothing_behind().await;
    drop(client);
    until(|| session.udp().is_none()).await;
}

/// Whose decision was made by the old table and who is not in the list yet when the sessions of the routes that
/// are gone are ended: it has to find out by itself.
#[tokio::test]
async fn a_request_that_is_between_its_decision_and_the_list_ends_with_its_route() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let (request, client) = MemoryClient::asking(PATH);
    let admission = gateway.context.admit(request.head(), &mut |_| {}).unwrap();

    let mut other = route(&[server.address()]);
    other.name = "other".into();
    assert_eq!(gateway.context.replace_tables(tables(&other, true), Limit::Unlimited), 0);
    let head = Arc::new(request.head().to_keep(None));
    let context = &gateway.context;
    let served = async {
        let begun = accept(request, head, admission, Instant::now(), context).await;
        let mut begun = begun.ok().flatten().expect("it is accepted");
        let end = begun.until_end(&context.lifecycle).await;
        begun.end(end, context).await;
    };
    soon(served).await;

    assert_eq!(client.closed().await, (7, "route_removed".into()));
    assert_eq!(gateway.route.ends.get(Ending::RouteRemoved), 1);
}

fn tables(route: &config::Route, end_removed: bool) -> Tables {
    let metrics = Metrics::new();
    let backends = route.destination.backends();
    let backends = backends.map(|b| (b.name.clone(), Arc::clone(b))).collect();
    Tables {
        end_removed,
        routes: RouteTable::new(std::slice::from_ref(route), &metrics),
        backends: Arc::new(Backends::new(&backends, &metrics, &no_resolver(), None)),
    }
}

/// A list of as many as a busy gateway has: bounded, in order, and whole.
#[test]
fn ten_thousand_sessions_are_listed_and_ended() {
    const SESSIONS: usize = 10_000;
    let (registry, metrics) = (Registry::default(), Metrics::new());
    let all: Vec<_> = (0..SESSIONS).map(|_| Arc::new(context(&metrics))).collect();
    let entered: Vec<_> = all.iter().map(|bridges| registry.enter(Arc::clone(bridges))).collect();
    entered.iter().for_each(|entered| entered.accepted(memory_leg()));
    let (mut seen, mut after) = (0, None);
    loop {
        let page = registry.page(&Selection::default(), after, 1000);
        assert!(page.sessions.len() <= 1000);
        seen += page.sessions.len();
        after = page.sessions.last().map(|session| session.id());
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen, SESSIONS);
    assert_eq!(registry.end(|_| true, Ending::EndedByOperator, None), SESSIONS as u64);
    drop(entered);
    assert!(registry.is_empty());
}
