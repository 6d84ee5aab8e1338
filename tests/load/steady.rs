//! Scenarios of operations at a pace: each does what it says, finds what is wrong, and tells the truth about time.

use serde_json::{Value, json};

use crate::{
    run_scenario,
    server::{Fault, serve},
};

/// Runs a scenario: its exit code and its JSON.
async fn report(scenario: &str, fault: Fault, line: &str) -> (Option<i32>, Value) {
    let output = run_scenario(scenario, &serve(fault), &format!("{line} --json")).await;
    let (stdout, stderr) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let json = serde_json::from_slice(stdout);
    let json = json.unwrap_or_else(|e| {
        panic!("{e}: stdout {:?}, stderr {stderr:?}", String::from_utf8_lossy(stdout))
    });
    (output.status.code(), json)
}

/// The kinds of the errors.
fn kinds(report: &Value) -> Vec<&str> {
    let groups = report["errors"].as_array().unwrap().iter();
    groups.map(|e| e["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_scenario_does_as_many_operations_as_it_is_asked_for() {
    for (scenario, line) in [
        ("rr", "--count 300 --warmup 0s --sessions 3 --per-connection 1"),
        ("rr", "--count 200 --rate 1000/s --warmup 100ms --sessions 2 --size 3000 --threads 2"),
        ("streams", "--count 100 --warmup 0s --sessions 2 --depth 5 --bytes 5000"),
        ("streams", "--count 100 --rate 500/s --warmup 50ms --bytes 0"),
        ("handshake", "--count 10 --warmup 0s --sessions 3"),
        ("churn", "--count 6 --rate 20/s --warmup 0s --sessions 2 --hold 100ms"),
    ] {
        let (code, report) = report(scenario, Fault::Nothing, line).await;
        let count: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{scenario} {line}: {report}");
        assert_eq!(report["scenario"], scenario);
        let operations = &report["operations"];
        assert_eq!(operations["due"], count, "{scenario} {line}: {report}");
        assert_eq!(operations["completed"], count, "{scenario} {line}");
        assert_eq!(report["latency_us"]["operation"]["count"], count, "{scenario} {line}");
    }
}

#[tokio::test]
async fn datagrams_are_sent_at_their_rate_and_come_back() {
    let line = "--rate 500/s --count 200 --warmup 100ms --size 200 --datagram-timeout 30s";
    let (code, report) = report("datagram", Fault::Nothing, line).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["operations"]["completed"], 200);
    let datagrams = &report["datagrams"];
    assert_eq!(
        (&datagrams["sent"], &datagrams["lost"]),
        (&json!(250), &json!(0)),
        "with the warm-up"
    );
    // 200 in 0.4 s, and the last of them 2 ms before its end.
    assert!(report["measured_us"].as_u64() >= Some(398_000), "{report}");
}

#[tokio::test]
async fn idle_sessions_show_in_the_end_that_they_live() {
    let line = "--sessions 20 --per-connection 1 --duration 300ms";
    let (code, report) = report("idle", Fault::Nothing, line).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["operations"]["completed"], 20);
}

#[tokio::test]
async fn round_trips_go_on_while_the_clients_address_changes() {
    let line = "--rate 200/s --duration 1s --warmup 0s --every 200ms";
    let (code, report) = report("migrate", Fault::Nothing, line).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["operations"]["completed"], 200);
    assert!(report["moves"].as_u64() >= Some(3), "{report}");
}

#[tokio::test]
async fn every_fault_is_found_and_named() {
    for (scenario, fault, kind, line) in [
        ("rr", Fault::WrongByte, "stream-wrong", "--count 5 --size 50000"),
        ("rr", Fault::Silence, "unanswered", "--count 5 --timeout 1s"),
        ("rr", Fault::Silence, "unanswered", "--count 5 --rate 10/s --timeout 1s"),
        ("rr", Fault::Reset, "stream-reset-7", "--count 5"),
        ("rr", Fault::OneByteMore, "stream-long", "--count 5"),
        ("rr", Fault::NotFound, "session-refused-404", "--count 5"),
        ("streams", Fault::EarlyEnd, "stream-short", "--count 5 --bytes 50000"),
        ("streams", Fault::Silence, "stream-stalled", "--count 5 --timeout 1s"),
        ("datagram", Fault::WrongDatagram, "datagram-wrong", "--count 5 --datagram-timeout 300ms"),
        ("datagram", Fault::Gone, "session-cut", "--count 5 --rate 100/s"),
        ("datagram", Fault::Nothing, "datagram-unsent", "--count 5 --size 9000"),
        ("handshake", Fault::NotFound, "session-refused-404", "--count 5"),
        ("churn", Fault::WrongByte, "stream-wrong", "--count 2 --bytes 50000"),
        ("idle", Fault::Silence, "stream-stalled", "--duration 100ms --timeout 1s"),
    ] {
        let line = if scenario == "idle" { line.to_owned() } else { format!("{line} --warmup 0s") };
        let (code, report) = report(scenario, fault, &line).await;
        assert_eq!(code, Some(1), "{scenario} {fault:?}: {report}");
        assert_eq!(report["ok"], false, "{scenario} {fault:?}");
        assert!(kinds(&report).contains(&kind), "{scenario} {fault:?}: {report}");
        // What an operation says itself is not said of its lane as well.
        let is_of_lane = kinds(&report).contains(&"unanswered");
        assert_eq!(is_of_lane, kind == "unanswered", "{scenario} {fault:?}: {report}");
    }
}

/// A server that stops for 100 ms keeps 50 of 500 operations a second waiting, and all of them have to show it:
/// it is what a user would see. In a closed loop it would be one operation of many.
#[tokio::test]
async fn a_stall_of_the_server_shows_in_the_high_percentiles_of_an_open_loop() {
    let line = "--rate 500/s --duration 2s --warmup 200ms";
    let (code, report) = report("rr", Fault::Stall, line).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    let latency = &report["latency_us"]["operation"];
    let at = |quantile: &str| latency[quantile].as_u64().unwrap();
    assert!(at("p99_9") >= 90_000, "{report}");
    assert!(at("p99") >= 70_000, "one of a hundred waited for 80 ms and more: {report}");
    // Unless this machine stopped the program itself, which it says.
    if report["generator"]["limited"] == false {
        assert!(at("p50") < at("p99") / 2, "but not one of two: {report}");
    }
}

#[tokio::test]
async fn a_lost_datagram_fails_no_run_but_a_condition() {
    let line = "--count 50 --rate 200/s --warmup 0s --datagram-timeout 500ms";
    let (code, lossy) = report("datagram", Fault::LossAndCopies, line).await;
    assert_eq!((code, kinds(&lossy)), (Some(0), vec![]), "{lossy}");
    assert_eq!(lossy["datagrams"]["lost"], 1);
    assert_eq!(lossy["operations"]["completed"], 49);

    for (slo, expected, met) in [("loss<3%", 0, true), ("max<1h,loss<1%", 3, false)] {
        let (code, report) =
            report("datagram", Fault::LossAndCopies, &format!("{line} --slo {slo}")).await;
        assert_eq!(code, Some(expected), "{slo}: {report}");
        let verdict = report["slo"].as_array().unwrap().last().unwrap();
        assert_eq!(verdict["met"], met, "{slo}: {report}");
    }
}

#[tokio::test]
async fn the_figures_are_to_be_had_as_text_as_a_table_and_as_a_distribution() {
    let server = serve(Fault::Nothing);
    let line = "--count 100 --warmup 0s";
    let file = std::env::temp_dir().join(format!("tidegate-load-{}.hgrm", std::process::id()));
    let hdr = format!("{line} --hdr {}", file.display());

    let text = run_scenario("rr", &server, &hdr).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("operations  100 due, 100 completed, 0 not, "), "{text}");
    assert!(text.ends_with("all was right\n"), "{text}");
    let distribution = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(distribution.starts_with("Value\tPercentile\tTotalCount\t"), "{distribution}");
    assert!(distribution.contains("Total count    = 100]"), "{distribution}");

    let csv = run_scenario("rr", &server, &format!("{line} --csv")).await;
    let csv = String::from_utf8(csv.stdout).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let [names, figures] = &lines[..] else { panic!("two lines, not {csv}") };
    assert_eq!(names.len(), figures.len());
    let of = |name| figures[names.iter().position(|n| *n == name).unwrap()];
    assert_eq!((of("scenario"), of("ok"), of("completed")), ("rr", "true", "100"));
}

#[tokio::test]
async fn what_the_servers_process_costs_is_told() {
    // The server is in this process.
    let line = format!("--rate 200/s --duration 1s --warmup 0s --pid {}", std::process::id());
    let (code, report) = report("rr", Fault::Nothing, &line).await;
    assert_eq!((code, kinds(&report)), (Some(0), vec![]), "{report}");
    let server = &report["server"];
    assert!(server["resident_bytes"].as_u64() > Some(1 << 20), "{report}");
    assert!(server["processor_share"].as_f64() > Some(0.0), "{report}");
    assert!(server["descriptors"].as_u64() > Some(3), "{report}");

    let output = run_scenario("rr", &serve(Fault::Nothing), "--pid 4294967295").await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_plan_runs_several_loads_at_the_same_time() {
    let server = serve(Fault::Nothing);
    let file = std::env::temp_dir().join(format!("tidegate-load-{}.toml", std::process::id()));
    let plan = |slo: &str| {
        format!(
            "[[load]]\nname = \"talk\"\nrun = \"rr --count 50 --rate 100/s --warmup 0s\"\n\
             [[load]]\nname = \"moves\"\n\
             run = \"datagram --count 50 --rate 100/s --warmup 0s --datagram-timeout 30s {slo}\""
        )
    };
    for (slo, expected) in [("", 0), ("--slo rate>100000", 3)] {
        std::fs::write(&file, plan(slo)).unwrap();
        let line = format!("--plan {} --json", file.display());
        let output = run_scenario("mixed", &server, &line).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(expected), "{report}");
        assert_eq!(report["ok"], true, "{report}");
        for (load, name, scenario) in [(0, "talk", "rr"), (1, "moves", "datagram")] {
            let load = &report["loads"][load];
            assert_eq!((&load["name"], &load["scenario"]), (&json!(name), &json!(scenario)));
            assert_eq!(load["operations"]["completed"], 50, "{report}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let output = run_scenario("mixed", &server, "--plan /no/such/plan").await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2() {
    let server = serve(Fault::Nothing);
    for line in ["--rate 5", "--slo p99", "--count 5 --duration 5s", "--size 0"] {
        let output = run_scenario("rr", &server, line).await;
        assert_eq!(output.status.code(), Some(2), "{line}");
    }
    let output = run_scenario("rr", &server, "--hdr /no/such/directory/file").await;
    assert_eq!(output.status.code(), Some(1), "before anything was driven");
    assert!(output.stdout.is_empty());
}
