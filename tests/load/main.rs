//! The program `tidegate-load` against a server that is not ours: wtransport's.
//!
//! Two errors of ours that cancel out would show here. The server echoes, or does one thing wrong that
//! the program must find.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "servers of the test's own, with tasks and endpoints of their own"
)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "what fails here fails a test")]

mod bare;
mod direct;
mod server;
mod steady;

use std::{process::Output, time::Duration};

use self::server::{Fault, TOKEN, serve};
use serde_json::{Value, json};
use tokio::process::Command;

/// Longer than any of these takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the program to its end.
async fn run(server: &[String], line: &str) -> Output {
    run_scenario("echo", server, line).await
}

async fn run_scenario(scenario: &str, server: &[String], line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
    command.arg(scenario).args(server).args(line.split_whitespace()).kill_on_drop(true);
    tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends in time").unwrap()
}

/// Runs the program: its exit code and its JSON.
async fn report(fault: Fault, line: &str) -> (Option<i32>, Value) {
    let output = run(&serve(fault), &format!("{line} --json")).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_str(&stdout);
    let json = json.unwrap_or_else(|e| panic!("{e}: stdout {stdout:?}, stderr {stderr:?}"));
    assert_eq!(stderr, "", "nothing but the report, when nobody looks on");
    (output.status.code(), json)
}

/// The kinds of the errors with their counts.
fn errors(report: &Value) -> Vec<(&str, u64)> {
    let groups = report["errors"].as_array().unwrap().iter();
    groups.map(|e| (e["kind"].as_str().unwrap(), e["count"].as_u64().unwrap())).collect()
}

/// A token and further headers get in where they are asked for, and nothing else does; and no message shows them.
#[tokio::test]
async fn sessions_show_a_token_and_further_headers() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("load-token-{}", std::process::id()));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.display();
    for (line, code) in [
        (format!("--token-file {file} --header X-Robot:r7"), 0),
        (format!("--token-file {file}"), 1),
        ("--header x-robot:r7".to_owned(), 1),
        ("--token-file /nowhere/at/all".to_owned(), 2),
    ] {
        let output = run(&serve(Fault::AsksWho), &line).await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(!said.contains(TOKEN), "{said}");
    }
    // Nobody needs it any more.
    _ = std::fs::remove_file(file.to_string());
}

#[tokio::test]
async fn an_echoing_server_is_all_right() {
    let line = "--sessions 20 --streams 5 --bytes 100KiB --datagrams 50 --datagram-bytes 500 \
                --datagram-timeout 30s";
    let (code, report) = report(Fault::Nothing, line).await;

    assert_eq!((code, errors(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["ok"], true);
    let all = |asked: u64| json!({ "asked": asked, "completed": asked, "failed": 0 });
    assert_eq!(report["connections"], all(20));
    assert_eq!(report["sessions"], all(20));
    assert_eq!(report["streams"], all(100));
    assert_eq!(report["stream_bytes"]["sent"], 100 * 100 * 1024);
    assert_eq!(report["stream_bytes"]["checked"], 100 * 100 * 1024);
    let datagrams = &report["datagrams"];
    assert_eq!((&datagrams["sent"], &datagrams["returned"]), (&json!(1000), &json!(1000)));
    assert_eq!((&datagrams["lost"], &datagrams["duplicated"]), (&json!(0), &json!(0)));
    let latency = &report["latency_us"];
    for (what, count) in [("handshake", 20), ("session", 20), ("stream", 100), ("datagram", 1000)] {
        let of = |figure: &str| latency[what][figure].as_u64().unwrap();
        assert_eq!(of("count"), count, "{what}");
        let rising = ["min", "p50", "p90", "p99", "p99_9", "max"].map(of);
        assert!(rising[0] > 0 && rising.is_sorted(), "{what}: {rising:?}");
        assert!(of("max") <= report["duration_us"].as_u64().unwrap(), "{what}");
    }
}

#[tokio::test]
async fn every_fault_on_streams_is_found_and_named() {
    for (fault, kind, words) in [
        (Fault::WrongByte, "stream-wrong", "byte 40000 of 65536 is wrong"),
        (Fault::EarlyEnd, "stream-short", "ended as if whole after"),
        (Fault::Reset, "stream-reset-7", "ended by the server with code 7"),
        (Fault::OneByteMore, "stream-long", "more came back than the 65536 bytes"),
        (Fault::Silence, "stream-stalled", "no byte moved for 3s"),
    ] {
        let line = "--sessions 2 --streams 3 --bytes 64KiB --timeout 3s";
        let (code, report) = report(fault, line).await;

        assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{fault:?}: {report}");
        assert_eq!(errors(&report), [(kind, 6)], "{fault:?}: {report}");
        let first = report["errors"][0]["first"].as_str().unwrap();
        assert!(first.contains(words) && first.contains("stream "), "{fault:?}: {first}");
        assert_eq!(report["streams"], json!({ "asked": 6, "completed": 0, "failed": 6 }));
        assert_eq!(
            report["sessions"]["completed"], 2,
            "{fault:?}: the sessions themselves went well"
        );
    }
}

#[tokio::test]
async fn a_lost_datagram_is_counted_and_not_waited_for_and_fails_nothing() {
    let line = "--datagrams 20 --datagram-timeout 300ms";
    let (code, report) = report(Fault::LossAndCopies, line).await;

    assert_eq!((code, errors(&report)), (Some(0), vec![]), "{report}");
    let datagrams = &report["datagrams"];
    assert_eq!((&datagrams["sent"], &datagrams["lost"]), (&json!(20), &json!(1)));
    assert!(datagrams["duplicated"].as_u64() >= Some(1), "{datagrams}");
}

#[tokio::test]
async fn a_changed_datagram_fails_the_run() {
    let (code, report) = report(Fault::WrongDatagram, "--datagrams 20").await;

    assert_eq!((code, errors(&report)), (Some(1), vec![("datagram-wrong", 20)]), "{report}");
    assert_eq!(report["datagrams"]["wrong"], 20);
    assert_eq!(report["datagrams"]["lost"], 20, "what came back wrong did not come back");
}

#[tokio::test]
async fn a_datagram_that_cannot_be_sent_is_said_to_be() {
    let (code, report) = report(Fault::Nothing, "--datagrams 20 --datagram-bytes 9000").await;

    assert_eq!((code, errors(&report)), (Some(1), vec![("datagram-unsent", 1)]), "{report}");
    let datagrams = &report["datagrams"];
    assert_eq!((&datagrams["sent"], &datagrams["unsent"]), (&json!(0), &json!(20)));
}

#[tokio::test]
async fn refused_and_cut_sessions_are_told_with_their_reason() {
    for (fault, kind, words, opened) in [
        (Fault::NotFound, "session-refused-404", "404 Not Found", 0),
        (Fault::Gone, "session-cut", "gone", 3),
    ] {
        let (code, report) = report(fault, "--sessions 3 --datagrams 5").await;

        assert_eq!(code, Some(1), "{fault:?}: {report}");
        let error = errors(&report).into_iter().find(|(k, _)| *k == kind);
        assert_eq!(error, Some((kind, 3)), "{fault:?}: {report}");
        let groups = report["errors"].as_array().unwrap();
        let group = groups.iter().find(|group| group["kind"] == kind).unwrap();
        assert!(group["first"].as_str().unwrap().contains(words), "{fault:?}: {group}");
        assert_eq!(report["sessions"], json!({ "asked": 3, "completed": 0, "failed": 3 }));
        assert_eq!(report["sessions_opened"], opened, "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_with_another_certificate_is_not_believed() {
    let mut server = serve(Fault::Nothing);
    server[3] = "00".repeat(32);
    let output = run(&server, "--sessions 2").await;

    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("2 x handshake-failed, first: connection "), "{text}");
    assert!(text.ends_with("NOT ALL WAS RIGHT\n"), "{text}");
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2() {
    for line in [
        "",
        "--url https://127.0.0.1:9/",
        "--url https://127.0.0.1:9/ --ca /no/such/file",
        "--url https://127.0.0.1:9/ --insecure --sessions two",
        "--url https://127.0.0.1:9/ --insecure --no-such-thing",
    ] {
        let output = run(&[], line).await;
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{line}");
    }
}
