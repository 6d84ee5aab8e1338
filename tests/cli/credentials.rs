//! Tokens: made by the program, and never seen again.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::hmac;

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

/// A HEADERS frame (RFC 9114 section 7.2.2) of literal field lines with literal names (RFC 9204 section 4.5.6).
fn headers_frame(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        for (flags, most, text) in [(0x20, 7, name), (0, 127, value)] {
            if text.len() < most {
                section.push(flags | byte(text.len()));
            } else {
                section.push(flags | byte(most));
                let mut left = text.len() - most;
                while left > 127 {
                    section.push(0x80 | byte(left % 128));
                    left /= 128;
                }
                section.push(byte(left));
            }
            section.extend(text.bytes());
        }
    }
    frame(&section)
}

fn frame(section: &[u8]) -> Vec<u8> {
    let length = u32::try_from(section.len()).unwrap() | 0x8000_0000;
    [&[1], &length.to_be_bytes()[..], section].concat()
}

fn byte(number: usize) -> u8 {
    number.try_into().unwrap()
}

/// A request for a session at this path, with further headers.
fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "webtransport"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ];
    headers_frame(&[&fields, more].concat())
}

/// A signed token in each place where a request can have one, in requests that are let in, refused, given up, and
/// no requests at all: no part of it is logged, though everything is that can be.
#[tokio::test]
async fn a_signed_token_is_nowhere_to_be_found_whatever_becomes_of_its_request() {
    const SECRET: &str = "a-secret-that-is-shared-with-the-issuer";
    let dir = Dir::new("signed-token");
    let secret = dir.write("secret", SECRET);
    let setup = Setup { tcp: echo_tcp().await, ..Setup::default() };
    let toml = setup.toml().replace("[[route]]", "[[route]]\ncredentials = [\"players\"]")
        + &format!(
            "[credential.players]\nquery = \"token\"\n[credential.players.jwt]\n\
             keys = [{{ secret = {{ file = {secret:?} }} }}]\n"
        );
    let file = dir.write("tidegate.toml", &toml);
    let arguments =
        ["run", "-c", &file, "--print", "json", "--log", "trace", "--log-format", "json"];
    // It says more than a pipe holds that nobody reads.
    let log = dir.path("log");
    let program = command_under(&format!("exec 2> '{log}'"), &arguments);
    let program = Program::start_with(program).await;

    let message = [r#"{"alg":"HS256"}"#, r#"{"sub":"alice","exp":9007199254740991}"#];
    let message = message.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    let token = format!("{message}.{signature}");
    let (bearer, query) = (format!("Bearer {token}"), format!("/game?token={token}"));

    let connection = program.connect().await;
    let url = format!("https://{}{query}", program.quic());
    let session = soon(connection.open_session(&url, &RequestOptions::default())).await.unwrap();
    echoes_stream(&session, b"hello").await;

    let in_header: &[(&str, &str)] = &[("authorization", &bearer)];
    let long = "x".repeat(20_000);
    let twice = [in_header, in_header].concat();
    let upper = [("Authorization", &*bearer)];
    let page = headers_frame(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", &query),
        ("authorization", &bearer),
    ]);
    let other = |scheme: &str| format!("{scheme} {token}");
    let (basic, glued, listed) = (other("Basic"), other("Bearer,"), format!("Bearer {token}, x"));
    let forged = format!("Bearer {token}x");
    for (what, frame) in [
        ("two at once", request(&query, in_header)),
        ("two headers", request("/game", &twice)),
        ("no lower case", request("/game", &upper)),
        ("another scheme", request("/game", &[("authorization", &basic)])),
        ("no scheme", request("/game", &[("authorization", &token)])),
        ("a comma", request("/game", &[("authorization", &glued)])),
        ("a list", request("/game", &[("authorization", &listed)])),
        ("a forged one", request("/game", &[("authorization", &forged)])),
        ("no text", request("/game", &[("authorization", &format!("{bearer}\u{e9}"))])),
        ("a control character", request("/game", &[("authorization", &format!("{bearer}\u{1}"))])),
        ("a wrong path", request(&format!("//{query}"), &[])),
        ("a blank in the query", request(&format!("{query} x"), &[])),
        ("a fragment", request(&format!("{query}#x"), &[])),
        ("too many headers", request(&query, &[("authorization", &bearer), ("x", &long)])),
        ("an ordinary request", page.clone()),
    ] {
        let (mut send, mut recv) = soon(connection.quic().open_bi()).await.unwrap();
        // What is refused early is not read to its end.
        _ = send.write_all(&frame).await;
        _ = send.finish();
        if let Ok(answer) = soon(recv.read_to_end(65_536)).await {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.contains(&signature), "{what}");
        }
    }
    // Given up before it is whole.
    let (mut send, mut recv) = soon(connection.quic().open_bi()).await.unwrap();
    send.write_all(&page[..page.len() - 5]).await.unwrap();
    send.reset(7_u32.into()).unwrap();
    _ = soon(recv.read_to_end(65_536)).await;
    // None of these cost the others their connection.
    echoes_stream(&session, b"hello").await;
    session.close(0, "").await;
    // What does: a frame that is cut (RFC 9114 section 7.1), and an entry of no table (RFC 9204 section 2.2).
    let no_entry = [&request(&query, in_header)[5..], &[0xff, 0xff, 0x7f]].concat();
    for breaking in [page[..page.len() - 5].to_vec(), frame(&no_entry)] {
        let connection = program.connect().await;
        let (mut send, _recv) = soon(connection.quic().open_bi()).await.unwrap();
        send.write_all(&breaking).await.unwrap();
        send.finish().unwrap();
        soon(connection.quic().closed()).await;
    }

    let metrics = program.get("/metrics").await.1;
    program.signal("TERM").await;
    assert_eq!(program.exit_code().await, 0);
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("\"subject\":\"alice\"") && log.contains("\"level\":\"TRACE\""));
    let parts = token.split('.').skip(1).chain([SECRET]);
    for part in parts {
        assert!(!log.contains(part), "the log shows {part}:\n{log}");
        assert!(!metrics.contains(part), "the metrics show {part}:\n{metrics}");
    }
}
