//! A stream with much to carry keeps its worker for a moment only.

use std::{future::poll_fn, mem, task::Poll};

use tokio::sync::oneshot;

use super::support::*;
use crate::{
    metrics::Counter,
    transport::memory::{CREDIT, soon},
};

/// A turn, and the read or the batch that goes beyond it.
const MOST: u64 = 2 * 64 * 1024;

/// The most bytes that went on while another task waited for its turn; of so many.
async fn longest_turn(gateway: &Gateway, carried: &Counter, all: u64) -> u64 {
    let (tell, longest) = oneshot::channel();
    let carried = carried.clone();
    gateway.lifecycle.spawn(async move {
        let (mut before, mut longest) = (carried.get(), 0);
        while before < all {
            others_turn().await;
            let now = carried.get();
            longest = longest.max(now - before);
            before = now;
        }
        // A test that has failed does not want to know.
        _ = tell.send(longest);
    });
    soon(longest).await.unwrap()
}

/// Goes behind every task that is ready now. tokio's `yield_now` goes behind those too that become ready meanwhile.
async fn others_turn() {
    let mut is_over = false;
    poll_fn(|cx| {
        if mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn a_backend_with_much_to_say_lets_others_have_their_turn() {
    let server = Server::new().await;
    let gateway = Gateway::new(route(&[server.address()]));
    let client = gateway.session().await;
    let (_send, recv) = client.open_bidi();
    let connection = server.accept().await;
    // The kernel has all of it before the gateway's bridge, which is another task, has its first turn with it.
    let said = vec![7; CREDIT];
    assert_eq!(connection.write_some(&said), CREDIT);
    let longest = longest_turn(&gateway, &gateway.route.down.stream_bytes, CREDIT as u64).await;
    assert!(longest <= MOST, "{longest} of {CREDIT} bytes in one turn");
    assert_eq!(recv.read_exact(CREDIT).await, said);
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
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
    let longest = longest_turn(&gateway, &gateway.route.up.stream_bytes, all).await;
    assert!(longest <= MOST, "{longest} of {all} bytes in one turn");
    let mut connection = server.accept().await;
    assert!(connection.read_exact(pieces * piece).await.iter().all(|byte| *byte == 7));
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}
