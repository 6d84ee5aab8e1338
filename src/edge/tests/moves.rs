//! Clients whose port changes, and the steering that finds their worker.

use super::*;

/// A socket that shares its address with nobody takes no program, as under a kernel without them.
#[test]
fn where_the_kernel_cannot_steer_there_is_one_worker() {
    let mut config = config(1);
    config.listeners[0].quic.push("[::1]:0".parse().unwrap());
    let mut edge = Edge::bind(&config, &Metrics::new()).unwrap();
    for (_, group) in &mut edge.groups {
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        group.sockets.push(stranger);
    }

    assert_eq!(steer(&mut edge.groups, 2, &config.server), 1);
    assert!(edge.groups.iter().all(|(_, group)| group.sockets.len() == 1));
}

const CLIENTS: usize = 24;

/// What the clients of one run saw.
struct Moved {
    /// For each client, how its transfer across the change of port ended.
    ends: Vec<Result<(), ConnectionError>>,
    /// Workers that served, one entry per connection.
    workers: Vec<u8>,
}

/// Many clients change their port in mid-transfer. Every byte that arrives is checked.
async fn change_ports(config: &Config, client_idle: Duration) -> Moved {
    let mut edge = TestEdge::start(config);
    let clients = (0..CLIENTS).map(|seed| {
        let (address, sha256) = (edge.address(), edge.certificates[0].sha256);
        let client = client_with(address, sha256, b"h3", client_idle);
        async move { echo_across_a_port_change(client, address, seed).await }
    });
    let ends = join_all(clients).await;

    let mut workers = Vec::new();
    while let Ok((worker, thread)) = edge.served.try_recv() {
        assert_eq!(thread, format!("tidegate-w{worker}"));
        workers.push(worker);
    }
    edge.stop().await;
    Moved { ends, workers }
}

async fn echo_across_a_port_change(
    client: Endpoint,
    server: SocketAddr,
    seed: usize,
) -> Result<(), ConnectionError> {
    let sent: Vec<u8> =
        (0..200_000).map(|i: usize| (i * 31 + i / 256 + seed).to_le_bytes()[0]).collect();
    let (before, after) = sent.split_at(100_000);
    let connection = connect(&client, server, "localhost").await?;
    let (mut tx, mut rx) = connection.open_bi().await?;
    tx.write_all(before).await.unwrap();
    // Half of it is back, the other half still on its way.
    let mut received = vec![0; 50_000];
    rx.read_exact(&mut received).await.unwrap();

    client.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();

    let send = async {
        if tx.write_all(after).await.is_ok() {
            _ = tx.finish();
        }
    };
    let (rest, ()) = tokio::join!(rx.read_to_end(sent.len()), send);
    match rest {
        Ok(rest) => received.extend(rest),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(lost))) => {
            return Err(lost);
        }
        Err(other) => panic!("{other}"),
    }
    assert!(received == sent, "client {seed} got other bytes than it sent");
    Ok(())
}

#[tokio::test]
async fn a_change_of_port_in_mid_transfer_loses_nothing_with_1_worker() {
    let moved = change_ports(&config(1), DEADLINE).await;
    assert!(moved.ends.iter().all(Result::is_ok), "{:?}", moved.ends);
    assert_eq!(moved.workers, [0; CLIENTS]);
}

#[tokio::test]
async fn a_change_of_port_in_mid_transfer_loses_nothing_with_4_workers() {
    for server_id in [&b""[..], b"server-1"] {
        let mut config = config(4);
        config.server.server_id = server_id.to_vec();
        let moved = change_ports(&config, DEADLINE).await;
        assert!(moved.ends.iter().all(Result::is_ok), "{:?}", moved.ends);
        assert_eq!(moved.workers.len(), CLIENTS, "no connection was made twice");
        let used: HashSet<_> = moved.workers.iter().collect();
        assert!(used.len() > 1, "the kernel spreads new connections: {used:?}");
    }
}

/// Why the steering is there; and what comes to a stranger is dropped, not reset.
#[tokio::test]
async fn without_steering_a_change_of_port_loses_connections() {
    let mut config = config(4);
    config.server.steering = false;
    let moved = change_ports(&config, Duration::from_secs(2)).await;
    let lost: Vec<_> = moved.ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|end| matches!(end, ConnectionError::TimedOut)), "{lost:?}");
}
