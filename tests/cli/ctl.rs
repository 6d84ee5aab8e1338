//! `tidegate ctl`, asking a gateway that runs as a process of its own.

use super::*;

/// Asks a gateway, and yields the exit code and both outputs.
async fn ctl(program: &Program, arguments: &[&str]) -> (i32, String, String) {
    let all = [&["ctl", "--admin", program.fact("admin")], arguments].concat();
    let Output { status, stdout, stderr } = tidegate(&all).await;
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The same where it has to succeed: what it prints.
async fn said(program: &Program, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = ctl(program, arguments).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    stdout
}

#[tokio::test]
async fn sessions_are_listed_shown_and_ended() {
    let (_dir, program) = running("ctl-sessions", "").await;
    assert_eq!(said(&program, &["sessions"]).await, "No sessions.\n");
    let session = program.session("/game").await;
    program.shows("tidegate_sessions{route=\"game\"} 1").await;

    let table = said(&program, &["sessions", "--route", "game"]).await;
    let [titles, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    assert!(titles.starts_with("ID ") && titles.ends_with(" PATH"), "{table}");
    assert!(row.contains(" game/0 ") && row.ends_with(" /game"), "{table}");
    let list: Value = serde_json::from_str(&said(&program, &["sessions", "--json"]).await).unwrap();
    let id = list["sessions"][0]["id"].as_str().unwrap();
    assert!(row.starts_with(id), "{table}");
    assert_eq!(said(&program, &["sessions", "--route", "other"]).await, "No sessions.\n");

    let shown = said(&program, &["session", id]).await;
    assert!(shown.contains(id) && shown.contains("stream_bytes"), "{shown}");
    let status = said(&program, &["status"]).await;
    assert!(status.contains("sessions        1\n"), "{status}");

    let end = ["end", id, "--code", "4000", "--reason", "the round is over"];
    assert_eq!(said(&program, &end).await, "1 session ended.\n");
    let closed = soon(session.closed()).await;
    let wanted = Closed::ByServer { code: 4000, reason: "the round is over".to_owned() };
    assert_eq!(closed, wanted);
    program.shows("tidegate_sessions{route=\"game\"} 0").await;
    let (code, stdout, stderr) = ctl(&program, &["session", id]).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("no session with this id is there"), "{stderr}");

    let other = program.session("/game").await;
    program.shows("tidegate_sessions{route=\"game\"} 1").await;
    assert_eq!(said(&program, &["end", "--route", "game"]).await, "1 session ended.\n");
    let closed = soon(other.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 8, reason: "ended_by_operator".to_owned() });
}

#[tokio::test]
async fn an_endpoint_is_drained_and_resumed() {
    let (_dir, program) = running("ctl-drain", "").await;
    assert_eq!(said(&program, &["drain", "game/0"]).await, "draining\n");
    let backends = said(&program, &["backends"]).await;
    assert!(backends.lines().nth(1).unwrap().starts_with("game/0    draining "), "{backends}");
    assert_eq!(said(&program, &["resume", "game/0"]).await, "live\n");
    let (code, _, stderr) = ctl(&program, &["drain", "game/nobody"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("404"), "{stderr}");
}

#[tokio::test]
async fn what_is_logged_is_changed_while_it_runs() {
    let (_dir, mut program) = running("ctl-log", "").await;
    assert_eq!(said(&program, &["log"]).await, "info\n");
    let (code, _, stderr) = ctl(&program, &["log", "a=loud"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("bad log filter \"a=loud\""), "{stderr}");

    assert_eq!(said(&program, &["log", "debug"]).await, "debug\n");
    program.logged("An operator changed what is logged.").await;
    // Who asks for a path that nobody has is the client's fault, and so only for those who want to know.
    let (connection, url) = (program.connect().await, format!("https://{}/none", program.quic()));
    soon(connection.open_session(&url, &RequestOptions::default())).await.unwrap_err();
    program.logged("Session refused.").await;
}

#[tokio::test]
async fn the_token_comes_from_a_file_or_with_the_configuration() {
    let dir = Dir::new("ctl-token");
    let secret = "0123456789abcdef0123456789abcdef";
    let token = dir.write("admin.token", &format!("{secret}\n"));
    let toml = Setup::default().toml().replace("[admin]", "[admin]\ntoken.file = \"admin.token\"");
    let file = dir.write("tidegate.toml", &toml);
    let program = Program::start(&["run", "-c", &file, "--print", "json"]).await;

    let end = ["end", "--route", "game"];
    let (code, stdout, stderr) = ctl(&program, &end).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("401"), "{stderr}");
    for more in [["--token-file", token.as_str()], ["-c", file.as_str()]] {
        let all = [end.as_slice(), &more].concat();
        assert_eq!(said(&program, &all).await, "0 sessions ended.\n");
    }
    let config = said(&program, &["config"]).await;
    assert!(config.contains("token = \"***\"") && !config.contains(secret), "{config}");
    let Output { status, stderr, .. } = tidegate(&["ctl", "-c", &file, "status"]).await;
    let stderr = text(stderr);
    assert!(status.code() == Some(1) && stderr.contains("port 0"), "{stderr}");
}

#[tokio::test]
async fn the_configuration_is_read_again_and_what_has_changed_is_told() {
    let (dir, program) = running("ctl-reload", "").await;
    let before = fs::read_to_string(dir.path("tidegate.toml")).unwrap();
    let none = said(&program, &["reload"]).await;
    assert_eq!(none, "Reloaded: 0 new certificates, 0 sessions ended.\n");

    dir.write("tidegate.toml", &before.replace("[drain]", "[limits]\nsessions = 7\n[drain]"));
    let told = said(&program, &["reload"]).await;
    assert!(told.starts_with("changed: limits.sessions"), "{told}");
    let config = said(&program, &["config"]).await;
    assert!(config.contains("sessions = 7\n"), "{config}");

    dir.write("tidegate.toml", &before.replace("[[route]]", "[[rout]]"));
    let (code, stdout, stderr) = ctl(&program, &["reload"]).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("rout: unknown key"), "{stderr}");
    assert!(said(&program, &["config"]).await.contains("sessions = 7\n"), "nothing has changed");
}

#[tokio::test]
async fn who_cannot_be_reached_and_what_cannot_be_meant_is_said() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Output { status, stdout, stderr } =
        tidegate(&["ctl", "--admin", &nobody.to_string(), "status"]).await;
    let stderr = text(stderr);
    assert_eq!((status.code(), text(stdout).as_str()), (Some(1), ""));
    assert!(stderr.contains("is the gateway running") && stderr.contains("--admin"), "{stderr}");
    assert!(stderr.contains(&nobody.to_string()), "{stderr}");

    for arguments in [
        &["ctl"][..],
        &["ctl", "end"],
        &["ctl", "end", "--reason", "bye"],
        &["ctl", "end", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "--route", "game"],
        &["ctl", "drain", "game"],
        &["ctl", "sessions", "--limit", "1001"],
        &["ctl", "--admin", "https://127.0.0.1:9090", "status"],
    ] {
        let Output { status, .. } = tidegate(arguments).await;
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
}
