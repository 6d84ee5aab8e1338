//! What a reload changes of the log.

use super::*;

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
