//! What is no WebTransport server is driven as one is, with `tidegate-load serve` behind it; what breaks on the way is
//! found.

use std::{net::SocketAddr, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{bare, run_scenario};

/// `tidegate-load serve` with all that it has.
struct Backends {
    child: Child,
    echo: SocketAddr,
    udp_echo: SocketAddr,
    source: SocketAddr,
    sink: SocketAddr,
}

async fn backends() -> Backends {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.arg("serve").stdout(Stdio::piped()).kill_on_drop(true);
    for name in ["--echo", "--udp-echo", "--source", "--sink"] {
        command.args([name, "127.0.0.1:0"]);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut at = std::collections::BTreeMap::new();
    while at.len() < 4 {
        let line = lines.next_line().await.unwrap().unwrap();
        let (name, address) = line.split_once(" listening on ").unwrap();
        at.insert(name.to_owned(), address.parse().unwrap());
    }
    Backends {
        child,
        echo: at["echo"],
        udp_echo: at["udp-echo"],
        source: at["source"],
        sink: at["sink"],
    }
}

/// What a relay does with the bytes that pass, in the direction of the load.
#[derive(Clone, Copy)]
enum Harm {
    /// Changes byte 40,000.
    Change,
    /// Leaves byte 40,000 out.
    Lose,
    /// Ends as if whole before byte 40,000.
    Cut,
}

/// A TCP relay that does harm to what goes up, or down.
async fn relay(to: SocketAddr, goes_up: bool, harm: Harm) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move {
                let (mut client, mut server) = (client.into_split(), server.into_split());
                // Errors say that the load has given up what is wrong.
                let (good, bad) = if goes_up {
                    let back = tokio::io::copy(&mut server.0, &mut client.1);
                    tokio::join!(back, pass(&mut client.0, &mut server.1, harm))
                } else {
                    let up = tokio::io::copy(&mut client.0, &mut server.1);
                    tokio::join!(up, pass(&mut server.0, &mut client.1, harm))
                };
                _ = (good, bad);
            });
        }
    });
    address
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    harm: Harm,
) -> std::io::Result<()> {
    let mut first = vec![0; 40_001];
    from.read_exact(&mut first).await?;
    let kept = match harm {
        Harm::Change => {
            first[40_000] ^= 1;
            &first[..]
        }
        Harm::Lose | Harm::Cut => &first[..40_000],
    };
    to.write_all(kept).await?;
    if matches!(harm, Harm::Cut) {
        to.shutdown().await?;
        // Unread, it would be a reset.
        return tokio::io::copy(from, &mut tokio::io::sink()).await.map(drop);
    }
    tokio::io::copy(from, to).await?;
    to.shutdown().await
}

/// Runs a scenario directly: its exit code and its JSON.
async fn direct(scenario: &str, url: &str, line: &str) -> (Option<i32>, Value) {
    let target = ["--direct", url].map(str::to_owned);
    let output = run_scenario(scenario, &target, &format!("{line} --json")).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_str(&stdout);
    let json = json.unwrap_or_else(|e| panic!("{e}: stdout {stdout:?}, stderr {stderr:?}"));
    (output.status.code(), json)
}

fn assert_right(what: &str, (code, report): &(Option<i32>, Value), operations: u64) {
    assert_eq!((*code, &report["errors"]), (Some(0), &serde_json::json!([])), "{what}: {report}");
    assert_eq!(report["operations"]["completed"], operations, "{what}: {report}");
}

#[tokio::test]
async fn every_scheme_does_what_it_has() {
    let backends = backends().await;
    let tcp = format!("tcp://{}", backends.echo);
    let udp = format!("udp://{}", backends.udp_echo);
    let tls = format!("tls://{}", bare::tls_echo());
    let quic = format!("quic://{}", bare::quic(backends.echo));
    for (url, more) in [(&tcp, ""), (&tls, " --insecure"), (&quic, " --insecure")] {
        for (scenario, line, operations) in [
            ("rr", "--count 200 --warmup 0s --sessions 3 --size 3000", 200),
            ("streams", "--count 50 --warmup 0s --sessions 2 --depth 3 --bytes 50000", 50),
            ("handshake", "--count 20 --warmup 0s --sessions 2", 20),
            ("churn", "--count 10 --warmup 0s --sessions 2 --hold 10ms", 10),
            ("idle", "--sessions 5 --duration 100ms", 5),
        ] {
            let done = direct(scenario, url, &format!("{line}{more}")).await;
            assert_right(&format!("{scenario} {url}"), &done, operations);
        }
        let line = format!("--sessions 3 --streams 4 --bytes 100KiB{more}");
        let (code, report) = direct("echo", url, &line).await;
        assert_eq!((code, &report["streams"]["completed"]), (Some(0), &12.into()), "{report}");
    }
    for (url, more) in [(&udp, ""), (&quic, " --insecure")] {
        let line = format!("--count 300 --warmup 0s --sessions 3 --datagram-timeout 30s{more}");
        assert_right(url, &direct("datagram", url, &line).await, 300);
        let line = format!("--streams 0 --datagrams 50 --datagram-timeout 30s{more}");
        let (code, report) = direct("echo", url, &line).await;
        assert_eq!((code, &report["datagrams"]["returned"]), (Some(0), &50.into()), "{report}");
    }
    let line = "--rate 200/s --duration 500ms --warmup 0s --every 100ms --insecure";
    assert_right("migrate", &direct("migrate", &quic, line).await, 100);
}

#[tokio::test]
async fn bulk_goes_both_ways_and_every_byte_counts() {
    let mut backends = backends().await;
    let pid = backends.child.id().unwrap();
    for (scenario, backend) in [("bulk-down", backends.source), ("bulk-up", backends.sink)] {
        let quic = format!("quic://{}", bare::quic(backend));
        for (url, more) in [(format!("tcp://{backend}"), ""), (quic, "--insecure")] {
            // More than the block, and no multiple of it.
            let line = format!("--bytes 300001 --count 6 --streams 2 --warmup 0s {more}");
            let done = direct(scenario, &url, &line).await;
            assert_right(&format!("{scenario} {url}"), &done, 6);
            let bytes = done.1["bytes"].as_u64().unwrap();
            let most = (6 + 2) * 300_001;
            assert!((1..=most).contains(&bytes), "two are under way when it begins: {}", done.1);

            let line = format!("--duration 500ms --warmup 100ms --streams 3 --pid {pid} {more}");
            let done = direct(scenario, &url, &line).await;
            assert_right(&format!("{scenario} {url} without an end"), &done, 3);
            let report = &done.1;
            assert!(report["bytes"].as_u64() > Some(0), "{report}");
            if url.starts_with("tcp") {
                // Through a bridge in this process it may get nothing to do in the time.
                let server = &report["server"];
                assert!(server["processor_seconds"].as_f64() > Some(0.0), "{report}");
                assert!(server["processor_seconds_per_gib"].as_f64() > Some(0.0), "{report}");
            }
            assert_eq!(done.1["latency_us"]["operation"]["count"], 0, "they have no length");
        }
    }
    let line = format!("tcp://{}", backends.source);
    let (_, report) = direct("bulk-down", &line, "--bytes 1000 --count 5").await;
    assert!(report["latency_us"]["first_byte"]["count"].as_u64() >= Some(5), "{report}");
    backends.child.kill().await.unwrap();
}

#[tokio::test]
async fn what_is_changed_lost_or_cut_in_bulk_is_found() {
    let backends = backends().await;
    for (scenario, harm, kind, words) in [
        ("bulk-down", Harm::Change, "stream-wrong", "byte 40000 is wrong"),
        ("bulk-down", Harm::Lose, "stream-wrong", "byte 40000 is wrong"),
        ("bulk-down", Harm::Cut, "stream-short", "after 40000 of 99999 bytes"),
        ("bulk-up", Harm::Change, "stream-wrong", "byte 40000 came wrong"),
        ("bulk-up", Harm::Lose, "stream-wrong", "byte 40000 came wrong"),
        ("bulk-up", Harm::Cut, "stream-short", "40000 of 99999 bytes came"),
    ] {
        let goes_up = scenario == "bulk-up";
        let backend = if goes_up { backends.sink } else { backends.source };
        let url = format!("tcp://{}", relay(backend, goes_up, harm).await);
        let (code, report) = direct(scenario, &url, "--bytes 99999 --count 1 --warmup 0s").await;
        assert_eq!(code, Some(1), "{scenario} {words}: {report}");
        let error = &report["errors"][0];
        assert_eq!(error["kind"], kind, "{report}");
        assert!(error["first"].as_str().unwrap().contains(words), "{words}: {report}");
    }
}

/// A backend that is no sink, and one that is no source.
#[tokio::test]
async fn an_answer_that_is_none_is_said_to_be() {
    let backends = backends().await;
    let echo = format!("tcp://{}", backends.echo);
    for (scenario, kind) in [("bulk-up", "stream-long"), ("bulk-down", "stream-wrong")] {
        let (code, report) = direct(scenario, &echo, "--bytes 5000 --count 1 --warmup 0s").await;
        assert_eq!((code, &report["errors"][0]["kind"]), (Some(1), &kind.into()), "{report}");
    }
}

#[tokio::test]
async fn what_a_scheme_does_not_have_is_refused_with_its_name() {
    for (scenario, url, words) in [
        ("datagram", "tcp://127.0.0.1:9", "`datagram` needs datagrams, and tcp:// has none"),
        ("datagram", "tls://127.0.0.1:9", "`datagram` needs datagrams, and tls:// has none"),
        ("rr", "udp://127.0.0.1:9", "`rr` needs streams, and udp:// has none"),
        ("bulk-up", "udp://127.0.0.1:9", "`bulk-up` needs streams"),
        ("handshake", "udp://127.0.0.1:9", "`handshake` needs connections"),
        ("migrate", "tcp://127.0.0.1:9", "`migrate` needs connections that outlive"),
        ("echo", "udp://127.0.0.1:9", "`echo` needs streams"),
        ("rr", "quic://127.0.0.1:9", "quic:// shows a certificate"),
        ("rr", "tls://127.0.0.1:9", "tls:// shows a certificate"),
        ("rr", "sctp://127.0.0.1:9", "tcp://, udp://, tls:// or quic://"),
    ] {
        let target = ["--direct", url].map(str::to_owned);
        let output = run_scenario(scenario, &target, "").await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{scenario} {url}: {stderr}");
        assert!(stderr.contains(words), "{scenario} {url}: {stderr}");
    }
    let target = ["--direct", "tcp://127.0.0.1:9"].map(str::to_owned);
    for (scenario, line) in [("rr", "--per-connection 2 --sessions 2"), ("mixed", "--plan x")] {
        let output = run_scenario(scenario, &target, line).await;
        assert_eq!(output.status.code(), Some(2), "{scenario}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_the_run() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (scenario, kind) in [("rr", "handshake-failed"), ("streams", "stream-lost")] {
        let url = format!("tcp://{nobody}");
        let (code, report) = direct(scenario, &url, "--count 1 --warmup 0s").await;
        assert_eq!((code, &report["errors"][0]["kind"]), (Some(1), &kind.into()), "{report}");
    }
    // Something that is there, but speaks no TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = mute.accept().await {
            tokio::spawn(async move {
                let mut other = tokio::io::empty();
                _ = copy_bidirectional(&mut stream, &mut other).await;
            });
        }
    });
    let url = format!("tls://{address}");
    let (code, report) = direct("rr", &url, "--count 1 --warmup 0s --insecure --timeout 2s").await;
    assert_eq!((code, &report["errors"][0]["kind"]), (Some(1), &"handshake-failed".into()));
}

/// Answers the n-th request with a counter of n times n.
async fn metrics() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 1_u32.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            let asked = String::from_utf8_lossy(&head[..length]).into_owned();
            let answer = if asked.starts_with("GET /metrics HTTP/1.0\r\n") {
                let counted = n * n;
                format!(
                    "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n# TYPE n_total counter\n\
                     n_total{{route=\"a\"}} {counted}\n# TYPE same_total counter\nsame_total 5\n\
                     # TYPE now gauge\nnow {n}\n"
                )
            } else {
                "HTTP/1.0 404 Not Found\r\n\r\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn what_the_servers_counters_counted_meanwhile_is_told() {
    let backends = backends().await;
    let (tcp, metrics) = (format!("tcp://{}", backends.echo), metrics().await);
    // Once to see that they are there, once at the beginning, once at the end.
    let line = format!("--duration 100ms --warmup 0s --metrics http://{metrics}/metrics");
    let (code, report) = direct("rr", &tcp, &line).await;
    let expected = serde_json::json!({ "n_total{route=\"a\"}": 5.0 });
    assert_eq!((code, &report["metrics"]), (Some(0), &expected), "{report}");

    let target = ["--direct", &tcp].map(str::to_owned);
    let text = run_scenario("rr", &target, &line).await.stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\nmetrics     n_total{route=\"a\"} +11\n"), "{text}");

    let nowhere = format!("--metrics http://{metrics}/elsewhere");
    let output = run_scenario("rr", &target, &nowhere).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "before anything was driven: {stderr}");
    assert!(stderr.contains("it answered \"HTTP/1.0 404 Not Found\""), "{stderr}");
}

/// Half as many in the ramp as in as long a time after it.
#[tokio::test]
async fn a_ramp_comes_before_what_is_measured() {
    let backends = backends().await;
    let udp = format!("udp://{}", backends.udp_echo);
    let line = "--rate 400/s --ramp 500ms --warmup 100ms --duration 200ms --datagram-timeout 30s";
    let done = direct("datagram", &udp, line).await;
    assert_right("an open loop", &done, 80);
    assert_eq!(done.1["datagrams"]["sent"], 100 + 40 + 80, "{}", done.1);

    let line = "--sessions 4 --ramp 200ms --warmup 0s --count 100";
    let done = direct("rr", &format!("tcp://{}", backends.echo), line).await;
    assert_right("a closed loop", &done, 100);
}

#[tokio::test]
async fn sizes_are_drawn_from_a_range() {
    let backends = backends().await;
    let tcp = format!("tcp://{}", backends.echo);
    for (scenario, line, least, most) in [
        ("rr", "--size 1..100", 200, 20_000 - 1),
        ("streams", "--bytes 0..1KiB", 1, 200 * 1024 - 1),
        ("churn", "--bytes 10..20 --hold 0s", 2_001, 4_000 - 1),
    ] {
        let line = format!("--count 200 --warmup 0s {line}");
        let (first, again) =
            (direct(scenario, &tcp, &line).await, direct(scenario, &tcp, &line).await);
        assert_right(scenario, &first, 200);
        let bytes = first.1["bytes"].as_u64().unwrap();
        assert!((least..=most).contains(&bytes), "{scenario}: {}", first.1);
        assert_eq!(first.1["bytes"], again.1["bytes"], "{scenario}: the same each time");
        let other = direct(scenario, &tcp, &format!("{line} --seed 7")).await;
        assert_ne!(first.1["bytes"], other.1["bytes"], "{scenario}: but for another seed");
    }
    let udp = format!("udp://{}", backends.udp_echo);
    let line = "--count 200 --warmup 0s --size 32..1200 --datagram-timeout 30s";
    assert_right("datagram", &direct("datagram", &udp, line).await, 200);
}
