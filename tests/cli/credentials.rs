//! Tokens: made by the program, and never seen again.

use super::*;

/// What a process says on its error output at the highest level, all of it.
async fn all_that_is_logged(mut program: Program) -> String {
    program.signal("TERM").await;
    let mut all = String::new();
    while let Some(line) = soon(program.log.next_line()).await.unwrap() {
        all = all + &line + "\n";
    }
    all
}

/// The program's answer to this on its input.
async fn tidegate_reading(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    soon(child.wait_with_output()).await.unwrap()
}

#[tokio::test]
async fn a_token_that_cannot_be_one_exits_with_2_and_is_not_shown() {
    let answer = tidegate_reading(&["token", "hash"], "s3cret\n").await;
    let stderr = text(answer.stderr);
    assert_eq!((answer.status.code(), text(answer.stdout).as_str()), (Some(2), ""));
    assert!(stderr.contains("can be guessed") && !stderr.contains("s3cret"), "{stderr}");
}

/// A token and a wrong one, by header and by query, while everything is logged that can be: neither is in the
/// log, in the metrics, or in any answer.
#[tokio::test]
async fn a_token_lets_in_and_is_nowhere_to_be_found() {
    let dir = Dir::new("token");
    let token = text(tidegate(&["token", "new"]).await.stdout);
    let line = tidegate_reading(&["token", "hash", "--name", "alice"], &token).await;
    assert_eq!((line.status.code(), text(line.stderr).as_str()), (Some(0), ""));
    dir.write("robots.tokens", &text(line.stdout));
    let token = token.trim_end();

    let setup = Setup { tcp: echo_tcp().await, ..Setup::default() };
    let toml = setup.toml().replace("[[route]]", "[[route]]\ncredentials = [\"robots\"]")
        + "[credential.robots]\ntokens = \"robots.tokens\"\nquery = \"token\"\n";
    let file = dir.write("tidegate.toml", &toml);
    let arguments =
        ["run", "-c", &file, "--print", "json", "--log", "trace", "--log-format", "json"];
    let program = Program::start(&arguments).await;

    let connection = program.connect().await;
    let wrong = "wrong-token-that-nobody-may-see";
    let mut answers = String::new();
    for (query, header, is_let_in) in [
        (format!("?token={token}&x=1"), None, true),
        (String::new(), Some(token), true),
        (format!("?token={wrong}"), None, false),
        (String::new(), Some(wrong), false),
        (format!("?token={token}"), Some(token), false),
        // The query of a path that no route has.
        (format!("/nowhere?token={token}"), None, false),
    ] {
        let mut options = RequestOptions::default();
        if let Some(token) = header {
            let value = format!("Bearer {token}").parse().unwrap();
            options.headers.insert(http::header::AUTHORIZATION, value);
        }
        let url = format!("https://{}/game{query}", program.quic());
        match soon(connection.open_session(&url, &options)).await {
            Ok(session) => {
                assert!(is_let_in, "{query}");
                echoes_stream(&session, b"hello").await;
                session.close(0, "").await;
            }
            Err(client::Refused::Status { headers, .. }) => {
                assert!(!is_let_in, "{query}");
                answers += &format!("{headers:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    let metrics = program.get("/metrics").await.1;
    let check = tidegate(&["check", "-c", &file]).await;
    let log = all_that_is_logged(program).await;

    assert!(answers.contains("invalid_token") && log.contains("Session refused."), "{answers}");
    assert!(log.contains("\"subject\":\"alice\"") && log.contains("\"level\":\"TRACE\""));
    for secret in [token, wrong] {
        for (what, text) in [
            ("log", &log),
            ("metrics", &metrics),
            ("answers", &answers),
            ("check", &text(check.stdout.clone())),
        ] {
            assert!(!text.contains(secret), "the {what} shows a token:\n{text}");
        }
    }
}
