//! Who is let in: limits of connections and handshakes, proof of addresses.

use super::*;

#[tokio::test]
async fn above_the_limit_of_connections_clients_are_refused_until_one_leaves() {
    let mut config = config(1);
    config.limits.connections = Limit::AtMost(1);
    let edge = TestEdge::start(&config);

    let first = edge.connect().await.unwrap();
    assert!(was_refused(edge.connect().await));
    assert_eq!(edge.numbers().refused_connections.get(), 1);
    assert_eq!(round_trip(&first, b"still here").await, b"still here");

    first.close(VarInt::from_u32(0), b"");
    let begun = Instant::now();
    while edge.connect().await.is_err() {
        assert!(begun.elapsed() < DEADLINE, "the place of a client that left is free");
    }
    edge.stop().await;
}

/// The places of an address are taken when it is proved: a forged packet must not use them up.
#[tokio::test]
async fn above_the_limit_of_its_address_a_client_is_refused_until_one_leaves() {
    for retry in [RetryPolicy::Never, RetryPolicy::Always] {
        let mut config = config(2);
        config.listeners[0].retry = retry;
        config.limits.per_client.connections = Limit::AtMost(1);
        let edge = TestEdge::start(&config);

        let first = edge.connect().await.unwrap();
        assert_eq!(round_trip(&first, b"it is served").await, b"it is served");
        assert!(was_refused(edge.connect().await), "{retry:?}");
        assert_eq!(edge.numbers().refused_client_connections.get(), 1);
        assert_eq!(round_trip(&first, b"still here").await, b"still here");

        first.close(VarInt::from_u32(0), b"");
        let begun = Instant::now();
        while edge.connect().await.is_err() {
            assert!(begun.elapsed() < DEADLINE, "the place of a client that left is free");
        }
        edge.stop().await;
    }
}

/// Attempts that pass the first look together are told apart when their address is proved.
#[tokio::test]
async fn a_burst_from_one_address_gets_no_more_connections_than_one_by_one() {
    for retry in [RetryPolicy::Never, RetryPolicy::Always] {
        let mut config = config(2);
        config.listeners[0].retry = retry;
        config.limits.per_client.connections = Limit::AtMost(3);
        let edge = TestEdge::start(&config);

        let served = join_all((0..20).map(|_| async {
            let connection = edge.connect().await.ok()?;
            // One that was refused late is closed now or soon.
            let (mut tx, mut rx) = connection.open_bi().await.ok()?;
            tx.write_all(b"in").await.ok()?;
            tx.finish().ok()?;
            let echoed = timeout(DEADLINE, rx.read_to_end(2)).await.unwrap().ok()?;
            assert_eq!(echoed, b"in");
            Some(connection)
        }))
        .await;
        assert_eq!(served.iter().flatten().count(), 3, "{retry:?}");
        assert_eq!(edge.numbers().refused_client_connections.get(), 17, "{retry:?}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn above_the_limit_of_handshakes_clients_are_refused() {
    let mut config = config(1);
    config.limits.handshakes = Limit::AtMost(0);
    let edge = TestEdge::start(&config);

    assert!(was_refused(edge.connect().await));
    assert_eq!(edge.numbers().refused_handshakes.get(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn retry_always_lets_clients_in_that_prove_their_address() {
    let mut config = config(4);
    config.listeners[0].retry = RetryPolicy::Always;
    let edge = TestEdge::start(&config);

    let connection = edge.connect().await.unwrap();
    assert_eq!(round_trip(&connection, b"proved").await, b"proved");
    assert_eq!(edge.numbers().retries.get(), 1);
    assert_eq!(edge.numbers().established.get(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn retry_auto_asks_for_proof_when_handshakes_pile_up() {
    let mut config = config(1);
    config.limits.retry_above_handshakes = Limit::AtMost(0);
    let edge = TestEdge::start(&config);

    edge.connect().await.unwrap();
    assert_eq!(edge.numbers().retries.get(), 1);
    edge.stop().await;
}
