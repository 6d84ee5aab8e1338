//! What a reload changes of the log.

use super::*;

/// A gateway with traces on, in front of echo servers. Nobody reads its log but who asks for lines.
async fn tracing(name: &str) -> (Dir, Program) {
    let dir = Dir::new(name);
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let file = dir.write("tidegate.toml", &Setup { tcp, udp, ..Setup::default() }.toml());
    let run = ["run", "-c", &file, "--print", "json", "--log", "trace"];
    (dir, Program::start(&run).await)
}

/// A session from its beginning to its end.
async fn serves(gateway: &Program, words: &[u8]) {
    let session = gateway.session("/game").await;
    echoes_stream(&session, words).await;
    echoes_datagram(&session, words).await;
    session.close(0, "").await;
}

/// Lets it serve for as long as it drops nothing. Each packet is some lines.
async fn fill(gateway: &Program) {
    let none = "tidegate_log_lines_dropped_total 0";
    let session = gateway.session("/game").await;
    while gateway.get("/metrics").await.1.lines().any(|line| line == none) {
        echoes_stream(&session, &[b'x'; 256 * 1024]).await;
    }
    session.close(0, "").await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nobody_and_tells_what_is_missing_once_it_is_read() {
    let (_dir, mut gateway) = tracing("log-unread").await;
    soon(Box::pin(fill(&gateway))).await;
    for _ in 0..20 {
        serves(&gateway, b"nobody reads of this").await;
    }

    let message = "Log lines were dropped here: who reads the log was too slow.";
    let told = gateway.logged(message).await;
    assert!(told["dropped"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["level"], "WARN");
    gateway.signal("TERM").await;
    gateway.logged("Stopped. Every session had ended.").await;
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn a_log_that_nobody_ever_reads_does_not_hold_up_the_end() {
    let (_dir, gateway) = tracing("log-never-read").await;
    soon(Box::pin(fill(&gateway))).await;
    gateway.signal("TERM").await;
    // Its log is open until then.
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn a_log_that_is_read_has_everything_in_its_order_to_the_end() {
    let (_dir, mut gateway) = tracing("log-read").await;
    for bytes in 1..=10 {
        serves(&gateway, &vec![b'x'; bytes]).await;
        let ended = gateway.logged("Session ended.").await;
        assert_eq!(ended["bytes_up"], bytes, "{ended}");
    }
    gateway.shows("tidegate_log_lines_dropped_total 0").await;
    gateway.signal("TERM").await;
    gateway.logged("Stopped. Every session had ended.").await;
    assert_eq!(gateway.exit_code().await, 0);
}

/// A file with this filter and whatever else.
fn with_filter(filter: &str, more: &str) -> String {
    format!("{}[log]\nfilter = \"{filter}\"\n{more}", Setup::default().toml())
}

async fn reload(dir: &Dir, gateway: &Program, text: &str) {
    dir.write("tidegate.toml", text);
    gateway.signal("HUP").await;
}

/// What is logged now.
async fn filter(gateway: &Program) -> String {
    let (status, body) = gateway.get("/api/log").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["filter"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_reload_takes_the_filter_and_a_bad_one_refuses_all_of_it() {
    let dir = Dir::new("log-reload");
    let file = dir.write("tidegate.toml", &with_filter("info", ""));
    let mut gateway = Program::start(&["run", "-c", &file, "--print", "json"]).await;

    reload(&dir, &gateway, &with_filter("info,b=debug", "")).await;
    let taken = gateway.logged("The configuration has changed.").await;
    assert_eq!(taken["change"], "log.filter: \"info\" -> \"info,b=debug\"");
    gateway.logged("Reloaded.").await;
    assert!(filter(&gateway).await.contains("b=debug"));

    let bad = with_filter("a=loud", "[limits]\nsessions = 7\n");
    reload(&dir, &gateway, &bad).await;
    let told = gateway.logged("Cannot reload.").await;
    let problem = told["problem"].as_str().unwrap();
    assert!(problem.starts_with("log.filter: bad log filter \"a=loud\": "), "{problem}");
    gateway.logged("Nothing was reloaded. What was in use stays in use.").await;
    assert!(filter(&gateway).await.contains("b=debug"));
    assert!(!gateway.get("/api/config").await.1.contains("sessions = 7"));
    gateway.shows("tidegate_config_last_reload_successful 0").await;

    // What an operator looks into goes on while the file says nothing new of it.
    let operator = ["ctl", "--admin", gateway.fact("admin"), "log", "info,c=debug"];
    assert!(tidegate(&operator).await.status.success());
    reload(&dir, &gateway, &with_filter("info,b=debug", "[limits]\nsessions = 7\n")).await;
    gateway.logged("Reloaded.").await;
    assert!(filter(&gateway).await.contains("c=debug"));
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn the_command_line_stands_above_a_file_that_is_read_again() {
    let dir = Dir::new("log-above");
    let file = dir.write("tidegate.toml", &with_filter("info", ""));
    let run = ["run", "-c", &file, "--print", "json", "--log", "info,a=debug"];
    let mut gateway = Program::start(&run).await;

    reload(&dir, &gateway, &with_filter("error", "")).await;
    let told = gateway.logged("The file has another log.filter, which does not count.").await;
    assert_eq!((&told["above"], &told["filter"]), (&"--log".into(), &"error".into()));
    gateway.logged("Reloaded.").await;
    assert!(filter(&gateway).await.contains("a=debug"));
    gateway.signal("TERM").await;
    assert_eq!(gateway.exit_code().await, 0);
}
