//! What becomes of bytes that were taken from one leg and could not be given to the other: each is
//! counted under the reason for which its stream ended, exactly.

use super::support::*;
use crate::{
    backend::tests::dead_address,
    reason::StreamEnd,
    transport::memory::{CREDIT, ClientRecv, ClientSend, MemoryClient},
};

/// What a backend says that has more to say than the client gives credit for.
const REPLY: usize = CREDIT + 10_000;

/// A session with a stream on which the gateway holds a part of the reply: 10,000 bytes of it, or as many
/// as one read brought.
struct HeldReply {
    send: ClientSend,
    recv: ClientRecv,
    _connection: Connection,
    client: MemoryClient,
    gateway: Gateway,
}

impl HeldReply {
    async fn new() -> Self {
        let server = Server::new().await;
        let gateway = Gateway::new(route(&[server.address()]));
        let client = gateway.session().await;
        let (send, recv) = client.open_bidi();
        let mut connection = server.accept().await;
        connection.write(&pattern(REPLY)).await;
        recv.blocked().await;
        Self { send, recv, _connection: connection, client, gateway }
    }

    /// Waits for the stream's end, and for as many bytes to be lost down for the reason as were held.
    async fn loses(self, end: StreamEnd, why: StreamEnd) {
        self.gateway.first_stream_ends(end).await;
        let down = &self.gateway.route.down;
        assert_eq!(
            down.stream_bytes.get(),
            CREDIT as u64,
            "what there was credit for is passed on"
        );
        let lost = down.lost_bytes.get(why);
        assert!((1..=10_000).contains(&lost), "{lost} bytes lost");
        assert_eq!(all_lost(&self.gateway), lost, "nothing is lost for another reason");
        // With the session its books are closed.
        self.client.close(0, "");
        self.gateway.leaves_nothing_behind().await;
    }
}

fn all_lost(gateway: &Gateway) -> u64 {
    let directions = [&gateway.route.up.lost_bytes, &gateway.route.down.lost_bytes];
    directions.iter().flat_map(|lost| StreamEnd::ALL.iter().map(|end| lost.get(*end))).sum()
}

#[tokio::test]
async fn a_reply_without_credit_is_lost_with_the_session() {
    let held = HeldReply::new().await;
    held.client.close(0, "");
    held.loses(StreamEnd::SessionEnded, StreamEnd::SessionEnded).await;
}

#[tokio::test]
async fn a_reply_without_credit_is_lost_with_the_connection() {
    let held = HeldReply::new().await;
    held.client.lose_connection();
    held.loses(StreamEnd::ConnectionLost, StreamEnd::ConnectionLost).await;
}

#[tokio::test]
async fn a_reply_without_credit_is_lost_with_the_clients_reset() {
    let held = HeldReply::new().await;
    held.send.reset(1);
    held.loses(StreamEnd::ClientReset, StreamEnd::ClientReset).await;
}

/// How the stream ends after that is another matter: the reply was lost because the client left it.
#[tokio::test]
async fn a_reply_that_the_client_stops_is_lost_for_that_reason() {
    let held = HeldReply::new().await;
    held.recv.stop(1);
    assert_eq!(held.recv.reset().await, Some(1));
    held.send.reset(2);
    held.loses(StreamEnd::ClientReset, StreamEnd::ClientStopped).await;
}

/// A session with a stream whose backend takes nothing more, so that the gateway holds what the client
/// said, and how much the gateway has taken of it.
async fn held_question() -> (Gateway, MemoryClient, ClientSend, Connection, u64) {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, _recv) = client.open_bidi();
    let connection = server.accept().await;
    connection.shrink();
    let written = fill(&send).await;
    let taken = (written - send.unread()) as u64;
    (gateway, client, send, connection, taken)
}

/// All that was taken is with the backend's kernel or lost for this reason.
async fn lost_up(gateway: &Gateway, client: &MemoryClient, why: StreamEnd, taken: u64) {
    let passed = gateway.route.up.stream_bytes.get();
    let lost = gateway.route.up.lost_bytes.get(why);
    assert!(lost > 0, "nothing was held");
    assert_eq!(passed + lost, taken, "{passed} passed on and {lost} lost");
    assert_eq!(all_lost(gateway), lost, "nothing is lost for another reason");
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_question_that_nobody_reads_is_lost_with_the_session() {
    let (gateway, client, _send, _connection, taken) = held_question().await;
    client.close(0, "");
    gateway.first_stream_ends(StreamEnd::SessionEnded).await;
    lost_up(&gateway, &client, StreamEnd::SessionEnded, taken).await;
}

#[tokio::test]
async fn a_question_that_nobody_reads_is_lost_with_the_clients_reset() {
    let (gateway, client, send, _connection, taken) = held_question().await;
    send.reset(1);
    gateway.first_stream_ends(StreamEnd::ClientReset).await;
    lost_up(&gateway, &client, StreamEnd::ClientReset, taken).await;
}

#[tokio::test]
async fn a_question_is_lost_with_its_backend() {
    let (gateway, client, _send, connection, taken) = held_question().await;
    connection.reset();
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
    lost_up(&gateway, &client, StreamEnd::BackendReset, taken).await;
}

/// What was read is dropped in the panic.
#[tokio::test]
async fn what_a_panicking_bridge_held_is_lost_as_internal() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (_send, recv) = client.open_bidi();
    recv.poison();
    server.accept().await.write(b"half a reply").await;
    gateway.first_stream_ends(StreamEnd::Internal).await;
    assert_eq!(gateway.route.down.lost_bytes.get(StreamEnd::Internal), 12);
    assert_eq!(all_lost(&gateway), 12);
}

#[tokio::test]
async fn bytes_that_were_never_read_are_not_lost_by_the_gateway() {
    let gateway = Gateway::new(route(&[dead_address()]));
    let (send, _recv) = gateway.session().await.open_bidi();
    send.write("to nobody").await;
    gateway.first_stream_ends(StreamEnd::BackendUnreachable).await;
    assert_eq!(all_lost(&gateway), 0);
}

/// The bridges end after the client was told, and before the line is written.
#[tokio::test]
async fn the_log_line_tells_what_was_lost() {
    let logs = Logs::collect();
    let held = HeldReply::new().await;
    held.client.close(0, "");
    held.gateway.leaves_nothing_behind().await;
    let lost = held.gateway.route.down.lost_bytes.get(StreamEnd::SessionEnded);
    assert!(lost > 0);
    let line = logs.session_ended();
    assert_eq!(line["fields"]["bytes_lost"], lost);
    assert_eq!(line["fields"]["bytes_down"], CREDIT);
}
