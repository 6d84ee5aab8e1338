//! A stream with much to carry keeps its worker for a moment only.

use tokio::task::yield_now;

use super::support::*;
use crate::transport::memory::{CREDIT, soon};

/// A turn, and the read or the batch that goes beyond it.
const MOST: u64 = 2 * 64 * 1024;

/// The most bytes that went on while another task, this one, waited for its turn; of so many.
async fn longest_turn(carried: impl Fn() -> u64, all: u64) -> u64 {
    let (mut before, mut longest) = (carried(), 0);
    soon(async {
        while before < all {
            yield_now().await;
            let now = carried();
            longest = longest.max(now - before);
            before = now;
        }
    })
    .await;
    longest
}

#[tokio::test]
async fn a_client_with_much_to_say_lets_others_have_their_turn() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (send, _recv) = client.open_bidi();
    // In the pieces that packets bring, and all there before the first is carried.
    let (piece, pieces) = (1400, CREDIT / 1400);
    for _ in 0..pieces {
        assert_eq!(send.write_some(vec![7; piece]), piece);
    }
    let all = (pieces * piece) as u64;
    let longest = longest_turn(|| gateway.route.up.stream_bytes.get(), all).await;
    assert!(longest <= MOST, "{longest} of {all} bytes in one turn");
    let mut connection = server.accept().await;
    assert!(connection.read_exact(pieces * piece).await.iter().all(|byte| *byte == 7));
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}
