//! What a hostile client can make the gateway hold: S11 and S25, measured on a process of its own.
//!
//! Each test sends much more than the gateway may keep and asserts that the peak of its resident set has
//! grown by no more than QUIC's windows and the configured bounds allow.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    harness::{echo_tcp, echo_udp, soon},
    raw::*,
};

const MIB: u64 = 1024 * 1024;

/// What one connection may cost at most: a stream window here, datagrams there, and what the allocator
/// keeps of it. The tests send at least four times as much.
const ALLOWED: u64 = 16 * MIB;

/// A gateway in a process of its own. Dropping it kills it.
pub(crate) struct GatewayProcess {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) hash: [u8; 32],
    /// Where its configuration is: kept until it has been read.
    _folder: Folder,
}

/// A folder that goes with the test.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

impl GatewayProcess {
    async fn start(name: &str) -> Self {
        Self::start_before(name, echo_tcp().await).await
    }

    /// One with this TCP server at `/echo`.
    pub(crate) async fn start_before(name: &str, tcp: SocketAddr) -> Self {
        let udp = echo_udp().await;
        let folder =
            Folder(std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let file = folder.0.join("tidegate.toml");
        let text = format!(
            "version = 1\n[server]\nworkers = 1\n\
             [[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
             [timeouts]\nrequest = \"100ms\"\nearly = \"100ms\"\n\
             [[route]]\npath = \"/echo\"\norigins = \"any\"\nbackend = \"echo\"\n\
             [backend.echo]\nendpoints = [{{ tcp = \"{tcp}\", udp = \"{udp}\" }}]\n"
        );
        std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--print", "json", "-c"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let facts: Value = serde_json::from_str(&line).unwrap();
        let url = facts["url"].as_str().unwrap();
        let address = url.trim_start_matches("https://").split('/').next().unwrap();
        let hash = hex(facts["cert_hash_hex"].as_str().unwrap());
        Self { child, address: address.parse().unwrap(), hash, _folder: folder }
    }

    /// A connection with a session on it, used once so that what it costs is paid.
    async fn client(&self) -> (Raw, Stream) {
        let mut raw = Raw::connect_to(self.address, self.hash).await;
        raw.say_settings().await;
        let session = raw.session("/echo").await;
        raw.check(session.id()).await;
        (raw, session)
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// It is alive, and has not grown by more than it may.
    async fn has_kept_within_bounds(mut self, before: u64) {
        let grown = self.peak() - before;
        assert!(grown < ALLOWED, "grew by {grown} bytes");
        let (other, _session) = self.client().await;
        other.leave();
        assert_eq!(self.child.try_wait().unwrap(), None);
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        // Errors say that it is gone already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn hex(text: &str) -> [u8; 32] {
    let byte = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2).unwrap(), 16).unwrap();
    std::array::from_fn(byte)
}

/// Writes so many mebibytes, as fast as they are taken.
async fn pour(send: &mut quinn::SendStream, mebibytes: u64) {
    let block = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        soon(send.write_all(&block)).await.unwrap();
    }
}

#[tokio::test]
async fn an_endless_frame_on_a_control_stream_is_not_held() {
    let gateway = GatewayProcess::start("control").await;
    let raw = Raw::connect_to(gateway.address, gateway.hash).await;
    let endless = [varint(CONTROL), usual_settings(), head(0x21, TEBIBYTE)].concat();
    let mut control = raw.uni(&endless).await;
    let session = raw.session("/echo").await;
    raw.check(session.id()).await;
    let before = gateway.peak();
    pour(&mut control, 64).await;
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}

#[tokio::test]
async fn endless_capsules_are_not_held() {
    let gateway = GatewayProcess::start("capsules").await;
    let (raw, other) = gateway.client().await;
    let mut session = raw.session("/echo").await;
    let before = gateway.peak();
    // A DATA frame that never ends, with a capsule in it that never ends.
    session.write(&[head(DATA, TEBIBYTE), head(0x29 * 7 + 0x17, TEBIBYTE / 2)].concat()).await;
    pour(&mut session.send, 64).await;
    raw.check(session.id()).await;
    raw.check(other.id()).await;

    // And as many small ones as fit into as much.
    let mut session = raw.session("/echo").await;
    let small = data(&frame(0x17, b"").repeat(1000));
    for _ in 0..4000 {
        session.write(&small).await;
    }
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}

/// A request that declares a tebibyte is refused by its declared length alone, and one of unknown frames
/// is skipped as it comes for as long as a request may take.
#[tokio::test]
async fn endless_frames_on_request_streams_are_not_held() {
    let gateway = GatewayProcess::start("requests").await;
    let (raw, session) = gateway.client().await;
    let before = gateway.peak();
    for _ in 0..200 {
        let mut stream = raw.bidi(&head(HEADERS, TEBIBYTE)).await;
        write_anyway(&mut stream.send, &vec![0; 400_000]).await;
        assert_eq!(stream.response().await.status, 431);
        _ = stream.send.reset(0_u32.into());

        let mut stream = raw.bidi(&head(0x21, TEBIBYTE)).await;
        write_anyway(&mut stream.send, &vec![0; 400_000]).await;
        _ = stream.send.reset(0_u32.into());
    }
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}

#[tokio::test]
async fn endless_half_open_streams_are_not_held() {
    let gateway = GatewayProcess::start("half-open").await;
    let (raw, session) = gateway.client().await;
    let before = gateway.peak();
    let mut given_up = 0;
    for _ in 0..20 {
        let mut open = Vec::new();
        for half in [&[0x40][..], &[0x40, 0x41], &[0x01], &[0x01, 0x40]].iter().cycle().take(100) {
            open.push(raw.bidi(half).await);
        }
        for mut stream in open {
            stream.reset_code().await;
            _ = stream.send.reset(0_u32.into());
            given_up += 1;
        }
    }
    assert_eq!(given_up, 2000);
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}

/// S11. Streams and datagrams for sessions that never come.
#[tokio::test]
async fn what_comes_for_sessions_that_never_come_is_not_held() {
    let gateway = GatewayProcess::start("early").await;
    let (raw, session) = gateway.client().await;
    let before = gateway.peak();
    // Far beyond any stream that is opened here.
    let never = 1 << 30;
    for _ in 0..40 {
        let mut early = Vec::new();
        for _ in 0..100 {
            let mut stream = raw.stream_of(never, b"").await;
            write_anyway(&mut stream.send, &[7; 20_000]).await;
            early.push(stream);
        }
        for mut stream in early {
            assert_eq!(stream.reset_code().await, WT_BUFFERED_STREAM_REJECTED);
            _ = stream.send.reset(0_u32.into());
        }
    }
    let datagram = [&varint(never / 4)[..], &[7; 1000]].concat();
    for _ in 0..64_000 {
        soon(raw.quic().send_datagram_wait(datagram.clone().into())).await.unwrap();
    }
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}

/// S25. One application protocol is chosen; the others are of no use as long as the session lives.
#[tokio::test]
async fn what_sessions_offer_is_not_held() {
    let gateway = GatewayProcess::start("offers").await;
    let (raw, session) = gateway.client().await;
    let before = gateway.peak();
    let offer = vec!["\"a\""; 3500].join(",");
    let fields = [session_fields("/echo"), vec![("wt-available-protocols", &*offer)]].concat();
    let mut sessions = Vec::new();
    for _ in 0..110 {
        let mut session = raw.bidi(&headers(&fields)).await;
        assert_eq!(session.response().await.status, 200);
        sessions.push(session);
    }
    raw.check(session.id()).await;
    gateway.has_kept_within_bounds(before).await;
}
