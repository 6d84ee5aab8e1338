//! What goes wrong at a backend costs the stream that it happens to, and nothing else.

use tidegate::client::{RecvStream, SendStream, Session, StreamError};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
};

use crate::harness::{
    Setup, TcpBackend, TestGateway, expect_reset, expect_text, pattern, read_to_end, soon,
};

/// The gateway's codes, as the README lists them.
const BACKEND_UNREACHABLE: u32 = 1;
const BACKEND_RESET: u32 = 2;

/// A stream with its backend's end.
struct Pair {
    send: SendStream,
    recv: RecvStream,
    backend: TcpStream,
}

impl Pair {
    async fn open(session: &Session, backend: &TcpBackend) -> Self {
        let (mut send, recv) = soon(session.open_bidi()).await.unwrap();
        soon(send.write(b"hello")).await.unwrap();
        let mut backend = backend.accept().await;
        expect_text(&mut backend, b"hello").await;
        Self { send, recv, backend }
    }

    /// Carries so much that no buffer holds it, both ways.
    async fn flows(&mut self, seed: u64) {
        let Self { send, recv, backend } = self;
        let bytes = pattern(300_000, seed);
        let up =
            async { tokio::join!(send.write(&bytes), expect_text(backend, &bytes)).0.unwrap() };
        soon(up).await;
        let mut came = Vec::new();
        let reading = async {
            while came.len() < bytes.len() {
                came.extend_from_slice(&recv.read().await.unwrap().expect("no end"));
            }
        };
        let (written, ()) = soon(async { tokio::join!(backend.write_all(&bytes), reading) }).await;
        written.unwrap();
        assert!(came == bytes, "other bytes came");
    }

    async fn ends_cleanly(mut self) {
        self.send.finish();
        assert_eq!(read_to_end(&mut self.backend).await.0, b"");
        self.backend.shutdown().await.unwrap();
        assert_eq!(soon(self.recv.read_to_end(1)).await.unwrap(), b"");
    }
}

/// Streams that are open all the time: one of the session that has the trouble, and one of another.
struct Witnesses {
    pairs: [Pair; 2],
    rounds: u64,
}

impl Witnesses {
    async fn are_unharmed(&mut self) {
        self.rounds += 1;
        for (pair, seed) in self.pairs.iter_mut().zip(2 * self.rounds..) {
            pair.flows(seed).await;
        }
    }
}

async fn ends(gateway: &TestGateway, reason: &str, recv: &mut RecvStream, code: u32) {
    let ended = loop {
        match soon(recv.read()).await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert_eq!(ended, Err(StreamError::Ended(code)));
    gateway.stream_ends(reason, 1.0).await;
}

#[tokio::test]
async fn a_fault_of_a_backend_costs_its_stream_alone() {
    let (backend, udp) = (TcpBackend::bind().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addresses = (Some(backend.address()), Some(udp.local_addr().unwrap()));
    let gateway = Setup::new().route("/game", addresses.0, addresses.1).start().await;
    let [session, other] = [gateway.session("/game").await, gateway.session("/game").await];
    let pairs = [Pair::open(&session, &backend).await, Pair::open(&other, &backend).await];
    let mut witnesses = Witnesses { pairs, rounds: 0 };
    witnesses.are_unharmed().await;

    // It accepts and hangs: nothing comes until the client gives up, and that reaches the backend.
    let mut hung = Pair::open(&session, &backend).await;
    witnesses.are_unharmed().await;
    hung.send.reset(0);
    expect_reset(&mut hung.backend).await;
    gateway.stream_ends("client_reset", 1.0).await;

    // It resets in mid-reply.
    let mut cut = Pair::open(&session, &backend).await;
    cut.backend.write_all(b"half a rep").await.unwrap();
    assert_eq!(soon(cut.recv.read()).await.unwrap().unwrap(), &b"half a rep"[..]);
    cut.backend.set_zero_linger().unwrap();
    drop(cut.backend);
    ends(&gateway, "backend_reset", &mut cut.recv, BACKEND_RESET).await;
    witnesses.are_unharmed().await;

    // It closes its half and goes on taking what comes.
    let mut half = Pair::open(&session, &backend).await;
    half.backend.shutdown().await.unwrap();
    assert_eq!(soon(half.recv.read_to_end(1)).await.unwrap(), b"");
    witnesses.are_unharmed().await;
    let late = pattern(300_000, 1);
    let sending = async {
        half.send.write(&late).await.unwrap();
        half.send.finish();
    };
    let ((), (read, ended)) =
        soon(async { tokio::join!(sending, read_to_end(&mut half.backend)) }).await;
    assert!(read == late && ended.is_ok(), "{} bytes, {ended:?}", read.len());
    gateway.stream_ends("finished", 1.0).await;

    // It answers before it is asked, and leaves.
    let (_send, mut recv) = soon(session.open_bidi()).await.unwrap();
    let mut hasty = backend.accept().await;
    hasty.write_all(b"no vacancy").await.unwrap();
    hasty.set_zero_linger().unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"no vacancy"[..]);
    drop(hasty);
    assert_eq!(soon(recv.read()).await, Err(StreamError::Ended(BACKEND_RESET)));
    gateway.stream_ends("backend_reset", 2.0).await;
    witnesses.are_unharmed().await;

    // Nobody listens, on UDP and on TCP.
    drop((backend, udp));
    for _ in 0..20 {
        session.send_datagram(b"into the void").unwrap();
    }
    let (_send, mut recv) = soon(session.open_bidi()).await.unwrap();
    ends(&gateway, "backend_unreachable", &mut recv, BACKEND_UNREACHABLE).await;
    witnesses.are_unharmed().await;
    let up = |name| gateway.metric(name, &[("direction", "client_to_backend")]);
    soon(async {
        // Each was handed to the system or is counted as lost.
        while up("tidegate_datagrams_total") + up("tidegate_datagram_drops_total") < 19.5 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    for pair in witnesses.pairs {
        pair.ends_cleanly().await;
    }
    gateway.stream_ends("finished", 3.0).await;
    session.close(0, "").await;
    other.close(0, "").await;
    gateway.session_ends("client_closed", 2.0).await;
    gateway.shut_down().await;
}
