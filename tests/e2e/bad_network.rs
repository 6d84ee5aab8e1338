//! A network that loses, delays, repeats and turns round what it carries: nothing of it reaches streams, and
//! datagrams are lost at most.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use tidegate::client::{Options, RequestOptions, Session, StreamError, Trust};

use crate::harness::{
    Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, pattern,
    relay::{Conditions, Relay},
    soon,
};

/// Each way. A round trip is 10 to 22 ms, and one packet in seven has something happen to it.
const BAD: Conditions = Conditions {
    delay: Duration::from_millis(5),
    jitter: Duration::from_millis(3),
    loss: 0.05,
    burst: 2.0,
    reorder: 0.05,
    hold: Duration::from_millis(6),
    duplicate: 0.05,
    rate: Some(100_000_000),
    queue: 500,
    seed: 20,
};

/// The gateway's code, as the README lists it.
const BACKEND_RESET: u32 = 2;

const STREAMS: u64 = 8;
const HALF: usize = 60_000;
const DATAGRAMS: u64 = 200;

/// A session over a bad network.
async fn session(gateway: &TestGateway, path: &str) -> (Session, Relay) {
    let any = "127.0.0.1:0".parse().unwrap();
    let relay = Relay::start(any, gateway.address(), BAD, BAD.reseeded(7)).await.unwrap();
    let endpoint = gateway.endpoint_with(&Options::new(Trust::Hashes(vec![gateway.hash()])));
    let connection = soon(endpoint.connect(relay.address(), "localhost")).await.unwrap();
    let url = format!("https://127.0.0.1:{}{path}", relay.address().port());
    let session = soon(connection.open_session(&url, &RequestOptions::default())).await.unwrap();
    (session, relay)
}

/// Half of it there and back, then a step that all streams take together, then the rest to a clean end.
async fn echo(session: &Session, seed: u64, step: &tokio::sync::Barrier) {
    let sent = pattern(2 * HALF, seed);
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    let mut came = Vec::new();
    let first = async {
        while came.len() < HALF {
            came.extend_from_slice(&recv.read().await.unwrap().expect("no end yet"));
        }
    };
    let (written, ()) = tokio::join!(send.write(&sent[..HALF]), first);
    written.unwrap();
    step.wait().await;
    let rest = async {
        send.write(&sent[HALF..]).await.unwrap();
        send.finish();
    };
    let ((), rest) = tokio::join!(rest, recv.read_to_end(usize::MAX));
    came.extend_from_slice(&rest.unwrap());
    assert!(came == sent, "stream {seed}: bytes were lost or changed");
}

/// Datagrams there and back: how many came. Each goes when one has come or did not in time, so that they
/// are spread over the whole run, with a NAT that goes on forgetting.
async fn datagrams(session: &Session, relay: &Relay) -> usize {
    let mut came = BTreeSet::new();
    for n in 0..DATAGRAMS {
        if n % 50 == 49 {
            relay.rebind();
        }
        session.send_datagram(&[&n.to_be_bytes()[..], &pattern(500, n)].concat()).unwrap();
        receive(session, Duration::from_millis(15), n, &mut came).await;
    }
    while receive(session, Duration::from_millis(200), DATAGRAMS, &mut came).await {}
    came.len()
}

/// One that comes is one that was sent, and has not come before.
async fn receive(session: &Session, within: Duration, sent: u64, came: &mut BTreeSet<u64>) -> bool {
    let Ok(datagram) = tokio::time::timeout(within, session.read_datagram()).await else {
        return false;
    };
    let datagram = datagram.unwrap();
    let number = u64::from_be_bytes(datagram[..8].try_into().unwrap());
    assert!(number <= sent && datagram[8..] == pattern(500, number)[..], "never sent");
    assert!(came.insert(number), "{number} came twice");
    true
}

/// With four workers, as only connection ids tell the gateway whose packets these are once the NAT has forgotten.
#[tokio::test]
async fn streams_are_whole_and_datagrams_come_at_most_once_while_a_nat_forgets() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = Setup::new().workers(4).route("/echo", Some(tcp), Some(udp));
    let gateway = setup.start().await;
    let (session, relay) = session(&gateway, "/echo").await;

    let step = tokio::sync::Barrier::new(1 + usize::try_from(STREAMS).unwrap());
    let streams = join_all((0..STREAMS).map(|seed| echo(&session, seed, &step)));
    let forget = async {
        step.wait().await;
        relay.rebind();
    };
    let (_, (), came) =
        soon(async { tokio::join!(streams, forget, datagrams(&session, &relay)) }).await;

    // A tenth is lost on the way there and back, and what is under way when the NAT forgets.
    assert!(came > 140, "{came} of {DATAGRAMS}");
    gateway.shut_down().await;
}

/// Loss must not make a cut transfer look whole, or hold back the news.
#[tokio::test]
async fn a_cut_reply_is_a_reset_over_a_bad_network_too() {
    let backend = TcpBackend::bind().await;
    let gateway = TestGateway::with_tcp("/game", &backend).await;
    let (session, _relay) = session(&gateway, "/game").await;
    let sent = pattern(HALF, 3);
    for _ in 0..5 {
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        soon(send.write(b"hello")).await.unwrap();
        let mut accepted = backend.accept().await;
        crate::harness::expect_text(&mut accepted, b"hello").await;
        tokio::io::AsyncWriteExt::write_all(&mut accepted, &sent).await.unwrap();
        let mut came = Vec::new();
        while came.len() < HALF / 2 {
            came.extend_from_slice(&soon(recv.read()).await.unwrap().expect("no end"));
        }
        accepted.set_zero_linger().unwrap();
        drop(accepted);
        let rest = soon(async {
            loop {
                match recv.read().await {
                    Ok(Some(bytes)) => came.extend_from_slice(&bytes),
                    Ok(None) => panic!("a clean end"),
                    Err(error) => break error,
                }
            }
        });
        assert_eq!(rest.await, StreamError::Ended(BACKEND_RESET));
        assert!(sent.starts_with(&came), "bytes were changed");
    }
    gateway.shut_down().await;
}
