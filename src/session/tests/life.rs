//! From the request to the log line: refusals, limits, drain, kill, panics.

use serde_json::Value;

use super::support::*;
use crate::{
    backend::tests::{dead_address, endpoint, settings},
    config::{ByteSize, HostPort, Limit, MemoryLimit},
    reason::{Ending, Refusal, StreamEnd},
    transport::{ClientEnd, memory::SeenEnd},
};

fn reject_line(gateway: &Gateway, route: &str, why: Refusal) -> bool {
    let line = format!("tidegate_session_rejects_total{{reason=\"{why}\",route=\"{route}\"}} 1");
    gateway.metrics.render().contains(&line)
}

#[tokio::test]
async fn an_unknown_path_is_refused_and_counted() {
    let gateway = Gateway::new(route(&[dead_address()]));
    assert_eq!(gateway.ask("/nowhere").refused().await, Refusal::NoRoute);
    assert!(reject_line(&gateway, "_none", Refusal::NoRoute));
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_full_route_refuses_until_a_session_ends() {
    let mut route = route(&[dead_address()]);
    route.max_sessions = Limit::AtMost(1);
    let gateway = Gateway::new(route);
    let first = gateway.session().await;
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::RouteFull);
    assert!(reject_line(&gateway, "game", Refusal::RouteFull));

    first.close(0, "");
    until(|| gateway.route.ends.get(Ending::ClientClosed) == 1).await;
    until(|| gateway.lifecycle.running_tasks() == 0).await;
    gateway.session().await;
}

#[tokio::test]
async fn a_full_gateway_refuses() {
    let gateway = Gateway::with_limit(route(&[dead_address()]), Limit::AtMost(1));
    let _first = gateway.session().await;
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::TooManySessions);
}

#[tokio::test]
async fn a_gateway_short_of_memory_refuses_and_what_lives_goes_on() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    gateway.memory.set_limit(MemoryLimit::AtMost(ByteSize(1_000)));
    let client = gateway.session().await;
    gateway.memory.look(&mut Holding(1_000), &mut None);
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::MemoryShed);
    assert!(reject_line(&gateway, "game", Refusal::MemoryShed));

    let (send, _recv) = client.open_bidi();
    send.write("on it goes").await;
    assert_eq!(server.accept().await.read_exact(10).await, b"on it goes");
    gateway.memory.look(&mut Holding(900), &mut None);
    gateway.session().await;
}

#[tokio::test]
async fn a_backend_without_an_address_refuses() {
    let mut backend = settings(&[]);
    let nowhere = HostPort::Name("nowhere.invalid".into(), 1);
    backend.endpoints.push(endpoint("a", Some(nowhere), None));
    let gateway = Gateway::new(route_to(backend));
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::BackendUnavailable);
}

#[tokio::test]
async fn a_drain_refuses_new_sessions_and_asks_the_old_ones_to_end() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let client = gateway.session().await;
    gateway.lifecycle.begin_drain();

    client.asked_to_end().await;
    assert_eq!(gateway.ask(PATH).refused().await, Refusal::Draining);
    assert!(reject_line(&gateway, "game", Refusal::Draining));
    assert!(!client.was_told(), "the session goes on");

    client.close(7, "fine");
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.context.cut_sessions(), 0);
}

#[tokio::test]
async fn what_is_left_after_the_grace_is_cut_and_told_why() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let (client, other) = (gateway.session().await, gateway.session().await);
    gateway.lifecycle.begin_drain();
    client.asked_to_end().await;
    gateway.lifecycle.begin_kill();

    let told = (Ending::DrainDeadline.code(), "drain_deadline".to_owned());
    assert_eq!((client.closed().await, other.closed().await), (told.clone(), told));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.route.ends.get(Ending::DrainDeadline), 2);
    assert_eq!(gateway.context.cut_sessions(), 2);
}

#[tokio::test]
async fn an_operator_in_a_hurry_is_named() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let client = gateway.session().await;
    gateway.lifecycle.hurry();

    assert_eq!(client.closed().await, (Ending::Killed.code(), "killed".into()));
    gateway.leaves_nothing_behind().await;
    assert_eq!(gateway.context.cut_sessions(), 1);
}

/// Asking to end needs the client's credit, which it may withhold.
#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hold_up_the_kill() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let client = gateway.session().await;
    client.block_drain();
    gateway.lifecycle.begin_drain();
    client.asked_to_end().await;

    gateway.lifecycle.begin_kill();
    client.closed().await;
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn each_way_for_a_client_to_end_has_its_word() {
    for (end, why) in [
        (ClientEnd::Closed { code: 7, reason: "bye".into() }, Ending::ClientClosed),
        (ClientEnd::Reset, Ending::ClientReset),
        (ClientEnd::ConnectionClosed, Ending::ConnectionClosed),
        (ClientEnd::ConnectionLost, Ending::ConnectionLost),
        (ClientEnd::ProtocolError, Ending::ProtocolError),
    ] {
        let gateway = Gateway::new(route(&[dead_address()]));
        let client = gateway.session().await;
        client.end(end);
        gateway.leaves_nothing_behind().await;
        assert_eq!(gateway.route.ends.get(why), 1, "{why}");
        assert!(!client.was_told(), "the client knows");
    }
}

#[tokio::test]
async fn a_panic_in_a_session_ends_it_and_no_other() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let (client, other) = (gateway.session().await, gateway.session().await);

    client.poison();
    assert_eq!(client.closed().await, (Ending::Internal.code(), "internal".into()));
    until(|| gateway.route.ends.get(Ending::Internal) == 1).await;
    assert_eq!(gateway.route.open_sessions(), 1);
    other.close(0, "");
    gateway.leaves_nothing_behind().await;
}

/// The callback runs on the task of a connection that other sessions share.
#[tokio::test]
async fn a_panic_in_a_callback_ends_the_session_and_spares_the_caller() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let client = gateway.session().await;

    // On a thread without a runtime no task can be begun.
    let caller = client.clone();
    let called = std::thread::spawn(move || caller.open_bidi()).join();
    let (send, recv) = called.expect("the caller is spared");
    assert_eq!(client.closed().await, (Ending::Internal.code(), "internal".into()));
    assert_eq!(recv.read_to_end().await, (Vec::new(), SeenEnd::Reset(None)));
    assert!(send.is_stopped());
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn sessions_take_turns_at_the_endpoints_and_keep_theirs() {
    let servers = [Server::new().await, Server::new().await];
    let gateway = Gateway::new(route(&servers.each_ref().map(Server::address)));
    for server in [&servers[0], &servers[1], &servers[0]] {
        let client = gateway.session().await;
        for _ in 0..3 {
            let (send, _recv) = client.open_bidi();
            send.write("x").await;
            server.accept().await.read_exact(1).await;
        }
    }
    assert!(servers.iter().all(Server::is_idle));
}

/// The line is what an operator has of a session, so its numbers have to be those of the transfer.
#[tokio::test]
async fn one_line_at_the_end_says_everything() {
    let logs = Logs::collect();
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;

    let (send, recv) = client.open_bidi();
    send.write("question").await;
    send.finish();
    let mut connection = server.accept().await;
    connection.read_to_end().await.1.unwrap();
    connection.write(b"an answer").await;
    drop(connection);
    assert_eq!(recv.read_to_end().await, (b"an answer".to_vec(), SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;
    client.send_datagram(b"for nobody");
    client.close(7, "bye");
    gateway.leaves_nothing_behind().await;

    let line = logs.session_ended();
    let fields = &line["fields"];
    for (field, value) in [
        ("route", "game".into()),
        ("backend", "test".into()),
        ("endpoint", "0".into()),
        ("client", "192.0.2.1:50000".into()),
        ("path", PATH.into()),
        ("origin", "https://play.test".into()),
        ("dialect", "draft02".into()),
        ("side", "client".into()),
        ("reason", "client_closed".into()),
        ("client_code", 7.into()),
        ("client_text", "bye".into()),
        ("bytes_up", 8.into()),
        ("bytes_down", 9.into()),
        ("bytes_lost", 0.into()),
        ("streams", 1.into()),
        ("datagrams_up", 0.into()),
        ("datagrams_down", 0.into()),
        ("datagrams_lost", Value::from(1)),
    ] {
        assert_eq!(fields[field], value, "{field} in {line}");
    }
    assert_eq!(fields["session_id"].as_str().map(str::len), Some(26));
    assert!(fields["duration_ms"].is_u64());
    assert!(!logs.text().contains("secret"), "the query is never logged");
}
