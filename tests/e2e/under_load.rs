//! Endpoints that die and come back, and configurations that change, while the real `tidegate-load` drives sessions through the gateway.

use std::{net::SocketAddr, process::Output, sync::Arc, time::Duration};

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Notify, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    harness::{Setup, TestGateway, soon},
    reload::{Certificates, reload},
};

const SESSIONS: u32 = 120;
const STREAMS: u32 = SESSIONS * 6;

/// Bytes of each stream, and how many of them a server sends back before it waits for its leave to go on.
const BYTES: u64 = 40_000;
const FIRST_BYTES: usize = 1000;

/// As many whole streams as a server may give leave to when nothing is to wait.
const ALL: usize = STREAMS as usize;

/// What became of a server's connections. Those of the gateway's checks, which say nothing, are left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    /// Answered in part, and waiting for leave.
    waiting: u32,
    /// Echoed to the client's end, and ended cleanly.
    whole: u32,
    /// Ended in any other way.
    cut: u32,
}

/// An echo server that sends back the first bytes of each connection, and the rest with its leave.
struct Server {
    address: SocketAddr,
    leave: Arc<Semaphore>,
    counts: watch::Receiver<Counts>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    /// A server that lets so many connections come to their end.
    async fn start(address: SocketAddr, leave: usize) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leave, stop) = (Arc::new(Semaphore::new(leave)), Arc::<Notify>::default());
        let (sender, counts) = watch::channel(Counts::default());
        let task = {
            let (leave, stop) = (Arc::clone(&leave), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        () = stop.notified() => break,
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.unwrap();
                            connections.spawn(answer(stream, Arc::clone(&leave), sender.clone()));
                        }
                    }
                }
                drop(listener);
                connections.shutdown().await;
            })
        };
        Self { address, leave, counts, stop, task }
    }

    async fn reaches(&mut self, wanted: impl Fn(&Counts) -> bool) {
        _ = soon(self.counts.wait_for(|now| wanted(now))).await.unwrap();
    }

    /// Ends it: the port is closed, and connections that are open are reset.
    async fn kill(self) -> Counts {
        self.stop.notify_one();
        soon(self.task).await.unwrap();
        *self.counts.borrow()
    }
}

/// A connection on which something came: counted as cut, unless it has ended whole.
struct Seen {
    counts: watch::Sender<Counts>,
    is_whole: bool,
}

impl Drop for Seen {
    fn drop(&mut self) {
        let Self { counts, is_whole } = self;
        counts.send_modify(|counts| {
            *(if *is_whole { &mut counts.whole } else { &mut counts.cut }) += 1
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    leave: Arc<Semaphore>,
    counts: watch::Sender<Counts>,
) -> io::Result<()> {
    // Killed, it resets its connections.
    stream.set_zero_linger()?;
    let mut first = vec![0; FIRST_BYTES];
    if stream.read(&mut first[..1]).await? == 0 {
        // The gateway has only looked whether anybody is there.
        return Ok(());
    }
    let mut seen = Seen { counts: counts.clone(), is_whole: false };
    stream.read_exact(&mut first[1..]).await?;
    stream.write_all(&first).await?;
    counts.send_modify(|counts| counts.waiting += 1);
    leave.acquire().await.map_err(io::Error::other)?.forget();
    counts.send_modify(|counts| counts.waiting -= 1);
    let (mut rx, mut tx) = stream.split();
    io::copy(&mut rx, &mut tx).await?;
    tx.shutdown().await?;
    SockRef::from(&stream).set_linger(None)?;
    seen.is_whole = true;
    Ok(())
}

/// Runs the program against the gateway: its exit code and its report.
async fn load(url: String, hash: String) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.args(["echo", "--url", &url, "--cert-hash", &hash, "--json", "--threads", "1"]);
    command.args(["--sessions", &SESSIONS.to_string(), "--concurrency", "16", "--timeout", "60s"]);
    command.args(["--streams", "6", "--streams-at-once", "2", "--bytes", &BYTES.to_string()]);
    let Output { status, stdout, stderr } = command.kill_on_drop(true).output().await.unwrap();
    let report = serde_json::from_slice(&stdout);
    let report = report.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&stderr)));
    (status.code(), report)
}

/// A gateway with one backend of these endpoints, which it looks after often.
async fn gateway(a: SocketAddr, b: SocketAddr) -> TestGateway {
    let tables = format!(
        "[[route]]\npath = \"/echo\"\norigins = \"any\"\nbackend = \"game\"\ndatagrams = \"drop\"\n\
         [backend.game]\n\
         endpoints = [{{ name = \"a\", tcp = \"{a}\" }}, {{ name = \"b\", tcp = \"{b}\" }}]\n\
         health = {{ check = \"tcp\", interval = \"20ms\" }}\n\
         ejection = {{ base_time = \"50ms\", max_time = \"50ms\" }}\n\
         [limits.per_client]\nsession_rate = \"unlimited\"\n"
    );
    Setup::new().tables(&tables).start().await
}

/// How often the gateway counted this.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn counted(gateway: &TestGateway, name: &str, labels: &[(&str, &str)]) -> u64 {
    gateway.metric(name, labels) as u64
}

/// Both servers stop in mid-reply, so that each has streams that are open when one of
/// them is killed; while it is dead the other serves on, and stops again so that the run is not over before
/// the dead one is back.
#[tokio::test]
async fn an_endpoint_that_is_killed_and_restarted_costs_no_stream_of_the_other() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let (mut a, mut b) = (Server::start(anywhere, 20).await, Server::start(anywhere, 40).await);
    let (address, gateway) = (a.address, gateway(a.address, b.address).await);
    let hash: String = gateway.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    let running = tokio::spawn(load(gateway.url("/echo"), hash));

    a.reaches(|now| now.whole == 20 && now.waiting >= 4).await;
    b.reaches(|now| now.whole == 40 && now.waiting >= 4).await;
    let killed = a.kill().await;
    assert!(killed.cut >= 4, "{killed:?}");
    let up = [("endpoint", "a")];
    gateway.metric_reaches("tidegate_backend_up", &up, 0.0).await;
    b.leave.add_permits(100);
    b.reaches(|now| now.whole == 140 && now.waiting >= 4).await;

    let restarted = Server::start(address, ALL).await;
    gateway.metric_reaches("tidegate_backend_up", &up, 1.0).await;
    b.leave.add_permits(ALL);
    let (code, report) =
        tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap();
    gateway.is_empty().await;
    let (restarted, b) = (restarted.kill().await, b.kill().await);

    // Each session ended as it should, also those whose streams were lost.
    let all = json!({ "asked": SESSIONS, "completed": SESSIONS, "failed": 0 });
    assert_eq!((code, &report["sessions"]), (Some(1), &all), "{report}");
    let closed = counted(&gateway, "tidegate_session_ends_total", &[("reason", "client_closed")]);
    assert_eq!(closed, u64::from(SESSIONS));
    assert_eq!(counted(&gateway, "tidegate_session_ends_total", &[]), closed);

    // On the other endpoint and on the one that is back, each connection that the gateway made was whole.
    assert_eq!((b.cut, restarted.cut), (0, 0), "{b:?}, {restarted:?}");
    assert!(restarted.whole >= 60, "few sessions came back: {restarted:?}");
    let connected = |endpoint| {
        let labels = [("endpoint", endpoint), ("result", "connected")];
        counted(&gateway, "tidegate_backend_connects_total", &labels)
    };
    assert_eq!(connected("b"), u64::from(b.whole));
    assert_eq!(
        counted(&gateway, "tidegate_backend_connects_total", &[("endpoint", "b")]),
        connected("b")
    );

    // The report says of each stream what the gateway and the servers say of it.
    let whole = killed.whole + b.whole + restarted.whole;
    let lost = STREAMS - whole;
    let streams = json!({ "asked": STREAMS, "completed": whole, "failed": lost });
    assert_eq!(report["streams"], streams, "{killed:?}, {b:?}, {restarted:?}: {report}");
    let ends = |reason| counted(&gateway, "tidegate_stream_ends_total", &[("reason", reason)]);
    assert_eq!(ends("finished"), u64::from(whole));
    assert_eq!(ends("backend_reset") + ends("backend_unreachable"), u64::from(lost));
    assert_eq!(counted(&gateway, "tidegate_stream_ends_total", &[]), u64::from(STREAMS));
    let errors = report["errors"].as_array().unwrap().iter();
    let errors = errors.map(|e| (e["kind"].as_str().unwrap(), e["count"].as_u64().unwrap()));
    let told = [
        ("stream-reset-1", ends("backend_unreachable")),
        ("stream-reset-2", ends("backend_reset")),
    ];
    assert_eq!(errors.collect::<Vec<_>>(), told);
    assert!(ends("backend_unreachable") > 0 && ends("backend_reset") >= u64::from(killed.cut));
    // And at last the books: the harness looks at them.
    gateway.shut_down().await;
}

/// How many of all streams have come to their end.
async fn whole_streams_reach(a: &mut Server, b: &mut Server, wanted: u32) {
    let reached = async {
        while a.counts.borrow().whole + b.counts.borrow().whole < wanted {
            tokio::select! {
                changed = a.counts.changed() => changed.unwrap(),
                changed = b.counts.changed() => changed.unwrap(),
            }
        }
    };
    soon(reached).await;
}

/// The configuration of one turn, which differs from that of the turn before in its endpoints, their weights
/// and drains, in its routes and its limits.
fn of_turn(turn: u32, a: SocketAddr, b: SocketAddr, certificates: &str) -> Setup {
    let endpoint = |name: &str, address, keys: String| {
        format!("{{ name = \"{name}\", tcp = \"{address}\", {keys} }}")
    };
    let weight = format!("weight = {}", 1 + turn % 5);
    let drained = format!("draining = {}", turn.is_multiple_of(3));
    let endpoints = match turn % 4 {
        0 => vec![endpoint("a", a, drained), endpoint("b", b, weight)],
        1 => vec![endpoint("a", a, weight), endpoint("b", b, drained)],
        2 => vec![endpoint("b", b, weight)],
        // They change places.
        _ => vec![endpoint("b", a, weight), endpoint("a", b, drained)],
    };
    let extra = turn % 7;
    Setup::new().certificate(certificates).tables(&format!(
        "[[route]]\npath = \"/echo\"\norigins = \"any\"\nbackend = \"game\"\ndatagrams = \"drop\"\n\
         limits = {{ sessions = {sessions} }}\n\
         [[route]]\npath = \"/extra/{extra}\"\norigins = \"any\"\nbackend = \"extra{extra}\"\ndatagrams = \"drop\"\n\
         [backend.game]\nendpoints = [{endpoints}]\n\
         [backend.extra{extra}]\nendpoints = [{{ tcp = \"{a}\" }}]\n\
         [limits]\nsessions = {sessions}\n\
         [limits.per_client]\nsession_rate = \"unlimited\"\n",
        sessions = 1000 + turn,
        endpoints = endpoints.join(", "),
    ))
}

/// Streams come to their end between any two reloads, so that all of the run is under reloads. Every tenth
/// file is bad: by turns a key, and a certificate.
#[tokio::test]
async fn two_hundred_reloads_cost_no_session_and_no_byte() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let (mut a, mut b) = (Server::start(anywhere, 0).await, Server::start(anywhere, 0).await);
    let files = Certificates::new("reloads");
    files.make("fixed");
    files.make("other");
    let certificates = files.toml(&["fixed", "other"]);
    let (at_a, at_b) = (a.address, b.address);
    let setup = move |turn| of_turn(turn, at_a, at_b, &certificates);
    let gateway = setup(0).start().await;
    let hash: String = gateway.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    let running = tokio::spawn(load(gateway.url("/echo"), hash));

    let live = gateway.running().live();
    let mut used = vec![Arc::downgrade(&live.backends())];
    for turn in 1..=200_u32 {
        files.make("other");
        let is_bad = turn.is_multiple_of(10);
        let mut file = setup(turn);
        if turn.is_multiple_of(20) {
            std::fs::copy(files.path("fixed.key"), files.path("other.key")).unwrap();
        } else if is_bad {
            file = file.tables("[drain]\ncolour = 1");
        }
        let done = reload(&gateway, &file).await;
        assert_eq!(done.is_err(), is_bad, "{turn}: {done:?}");
        if let Ok(reloaded) = done {
            assert_eq!(reloaded.certificates.len(), 1, "{turn}: {reloaded:?}");
            assert!(!reloaded.changed.is_empty() && reloaded.waiting.is_empty(), "{reloaded:?}");
            used.push(Arc::downgrade(&live.backends()));
        }
        a.leave.add_permits(1);
        b.leave.add_permits(1);
        whole_streams_reach(&mut a, &mut b, turn).await;
    }
    assert!(!running.is_finished(), "the run was over before the reloads were");
    a.leave.add_permits(ALL);
    b.leave.add_permits(ALL);
    let (code, report) =
        tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap();
    gateway.is_empty().await;
    let (a, b) = (a.kill().await, b.kill().await);

    let sessions = json!({ "asked": SESSIONS, "completed": SESSIONS, "failed": 0 });
    let streams = json!({ "asked": STREAMS, "completed": STREAMS, "failed": 0 });
    assert_eq!((&report["sessions"], &report["streams"]), (&sessions, &streams), "{report}");
    assert_eq!((code, &report["errors"]), (Some(0), &json!([])), "{report}");
    assert_eq!((a.cut + b.cut, a.whole + b.whole), (0, STREAMS), "{a:?}, {b:?}");
    let closed = counted(&gateway, "tidegate_session_ends_total", &[("reason", "client_closed")]);
    assert_eq!(closed, u64::from(SESSIONS));
    assert_eq!(counted(&gateway, "tidegate_session_ends_total", &[]), closed);
    let finished = counted(&gateway, "tidegate_stream_ends_total", &[("reason", "finished")]);
    assert_eq!(finished, u64::from(STREAMS));

    // Nothing is left of the tables that were in use for a while.
    let left = used.iter().filter(|backends| backends.strong_count() > 0).count();
    assert_eq!(left, 1, "of {} tables", used.len());
    for (result, times) in [("reloaded", 180), ("failed", 20)] {
        let counted = counted(&gateway, "tidegate_config_reloads_total", &[("result", result)]);
        assert_eq!(counted, times, "{result}");
    }
    // And at last the books: the harness looks at them.
    gateway.shut_down().await;
}
