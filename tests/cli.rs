//! The program as an operator meets it: arguments, files, output, signals and exit codes of the real
//! `tidegate`, each started as a process of its own.
//!
//! Ports are the system's choice, and the program says which it got. Nothing sleeps: tests wait for a
//! line that the program writes, or for what they expect to see, with a deadline. A program that a test
//! leaves behind is killed.

#![allow(clippy::disallowed_methods, reason = "tests spawn backends of their own")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "e2e/harness/echo.rs"]
mod echo;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tidegate::{
    client::{self, Closed, RequestOptions, Session, StreamError, Trust},
    reason::StreamEnd,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, ChildStdout, Command},
    time::{sleep, timeout},
};

use self::echo::{echo_tcp, echo_udp};

#[path = "cli/credentials.rs"]
mod credentials;
#[path = "cli/ctl.rs"]
mod ctl;
#[path = "cli/log.rs"]
mod log;

/// How long anything that is expected may take, on a machine with other things to do.
const DEADLINE: Duration = Duration::from_secs(20);

mod what_it_says {
    use super::*;

    #[tokio::test]
    async fn version_help_and_completions_go_to_stdout() {
        for (arguments, wanted) in [
            (&["--version"][..], concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n")),
            (&["--help"], "78   bad configuration or certificate"),
            (&["run", "--help"], "--config <FILE>"),
            (&["completions", "bash"], "complete -F _tidegate"),
        ] {
            let Output { status, stdout, stderr } = tidegate(arguments).await;
            let stdout = text(stdout);
            assert!(stdout.contains(wanted), "{arguments:?} says\n{stdout}");
            assert_eq!((status.code(), text(stderr).as_str()), (Some(0), ""), "{arguments:?}");
        }
    }

    #[tokio::test]
    async fn a_bad_command_line_exits_with_2_and_shows_what_is_wrong() {
        for (arguments, wanted) in [
            (&[][..], "Usage: tidegate"),
            (&["--colour"], "'--colour'"),
            (&["run"], "--config <FILE>"),
            (&["dev", "--listen", "nowhere"], "'--listen <ADDR>'"),
            (&["dev", "--log", "a=loud"], "--log: bad log filter \"a=loud\""),
            (&["cert", "new", "--out", "x", "--name", "a b"], "'--name <NAME>...'"),
        ] {
            let Output { status, stdout, stderr } = tidegate(arguments).await;
            let stderr = text(stderr);
            assert!(stderr.contains(wanted), "{arguments:?} says\n{stderr}");
            assert_eq!((status.code(), text(stdout).as_str()), (Some(2), ""), "{arguments:?}");
        }
    }
}

mod check {
    use super::*;

    #[tokio::test]
    async fn a_good_file_is_shown_as_it_is_understood_and_that_is_a_good_file_again() {
        let dir = Dir::new("check-good");
        let file = dir.write("good.toml", &Setup::default().toml());

        let first = tidegate(&["check", "-c", &file]).await;
        assert_eq!((first.status.code(), text(first.stderr).as_str()), (Some(0), ""));
        let shown = text(first.stdout);
        assert!(shown.contains("idle_timeout = \"45s\""), "no defaults are shown in\n{shown}");

        let again = dir.write("again.toml", &shown);
        let second = tidegate(&["check", "-c", &again]).await;
        assert_eq!((second.status.code(), text(second.stdout)), (Some(0), shown));
    }

    #[tokio::test]
    async fn every_problem_of_a_bad_file_is_named_with_its_place() {
        let dir = Dir::new("check-bad");
        let bad = r#"version = 1
[[listener]]
qic = ["127.0.0.1:4433"]
self_signed = ["localhost"]
[[route]]
path = "game"
origins = "any"
backend = "game"
datagram_ttl = "100"
[backend.gane]
endpoints = [{ tcp = "127.0.0.1:0" }]
"#;
        let file = dir.write("bad.toml", bad);

        let Output { status, stdout, stderr } = tidegate(&["check", "-c", &file]).await;

        assert_eq!((status.code(), text(stdout).as_str()), (Some(78), ""));
        let stderr = text(stderr);
        let said: Vec<&str> = stderr.lines().collect();
        let wanted = [
            "2: listener[0].quic: is missing",
            "3: listener[0].qic: unknown key; did you mean `quic`?",
            "6: route[0].path: ",
            "8: route[0].backend: no backend is named \"game\"; did you mean \"gane\"?",
            "9: route[0].datagram_ttl: \"100\" is no duration",
            "11: backend.gane.endpoints[0].tcp: \"127.0.0.1:0\" has port 0",
        ];
        for (said, wanted) in said.iter().zip(wanted) {
            let wanted = format!("{file}:{wanted}");
            assert!(said.starts_with(&wanted), "{wanted:?} is not said in\n{stderr}");
        }
        assert_eq!(said.len(), wanted.len(), "{stderr}");
    }

    /// The system's roots, as `SSL_CERT_FILE` names them.
    #[tokio::test]
    async fn tls_to_a_backend_needs_the_systems_roots_unless_it_has_others() {
        let dir = Dir::new("check-roots");
        let made = tidegate::edge::self_signed(&["localhost".to_owned()]).unwrap();
        let sound = dir.write("roots.pem", &made.certificate_pem);
        let tls = "[backend.game.tls]\nserver_name = \"game.internal\"\n";
        let file = dir.write("tls.toml", &(Setup::default().toml() + tls));

        for (roots, code, said) in [
            (sound, 0, "roots = \"system\""),
            (dir.path("missing.pem"), 78, "backend.game.tls.roots: the system has no root"),
            (dir.write("empty.pem", ""), 78, "backend.game.tls.roots: the system has no root"),
        ] {
            let mut command = command(&["check", "-c", &file]);
            command.env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
            let Output { status, stdout, stderr } = soon(command.output()).await.unwrap();
            let all = text(stdout) + &text(stderr);
            assert!(status.code() == Some(code) && all.contains(said), "{roots}: {all}");
        }
    }
}

mod doctor {
    use super::*;

    #[tokio::test]
    async fn a_host_without_a_file_is_looked_at_by_itself() {
        let Output { stdout, stderr, .. } = tidegate(&["doctor"]).await;
        let stdout = text(stdout);
        assert_eq!(text(stderr), "");
        for check in ["kernel", "buffers", "offload", "steering", "ipv6", "local ports", "clock"] {
            assert!(
                stdout
                    .lines()
                    .any(|line| line.get(5..).is_some_and(|says| says.starts_with(check))),
                "{check} not in\n{stdout}"
            );
        }
        assert!(!stdout.contains("certificate"), "{stdout}");
    }

    /// The findings of a file, as JSON, and the exit code.
    async fn findings(file: &str) -> (Option<i32>, Vec<Value>) {
        let Output { status, stdout, .. } = tidegate(&["doctor", "-c", file, "--json"]).await;
        let report: Value = serde_json::from_str(&text(stdout)).unwrap();
        (status.code(), report["findings"].as_array().unwrap().clone())
    }

    fn has(findings: &[Value], check: &str, state: &str, says: &str) -> bool {
        findings.iter().any(|finding| {
            finding["check"] == check
                && finding["state"] == state
                && finding["says"].as_str().unwrap().contains(says)
        })
    }

    #[tokio::test]
    async fn a_sound_configuration_exits_with_0_and_says_what_answers() {
        let dir = Dir::new("doctor-sound");
        let (tcp, udp) = (echo_tcp().await, echo_udp().await);
        let file = dir.write("good.toml", &Setup { tcp, udp, ..Setup::default() }.toml());
        let (code, found) = findings(&file).await;
        assert_eq!(code, Some(0), "{found:#?}");
        assert!(has(&found, "backend", "ok", &format!("TCP {tcp} answers")), "{found:#?}");
        assert!(has(&found, "address", "ok", "of listener edge is free"), "{found:#?}");
        assert!(has(&found, "certificate", "ok", "the gateway makes one"), "{found:#?}");
    }

    #[tokio::test]
    async fn what_keeps_the_gateway_from_working_is_named_with_its_mend_and_exits_with_1() {
        let dir = Dir::new("doctor-bad");
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let quic = taken.local_addr().unwrap();
        let made = tidegate(&["cert", "new", "--name", "a.test", "--out", &dir.path("one")]).await;
        assert_eq!(made.status.code(), Some(0));
        let other = tidegate(&["cert", "new", "--name", "a.test", "--out", &dir.path("two")]).await;
        assert_eq!(other.status.code(), Some(0));
        let certificate =
            "certificates = [{ chain = \"one/fullchain.pem\", key = \"two/privkey.pem\" }]"
                .to_owned();
        let text = Setup { quic, certificate, ..Setup::default() }.toml();
        let text = text.replace("[backend.game]", "[backend.game]\nsource = [\"192.0.2.1\"]");
        let (code, found) = findings(&dir.write("bad.toml", &text)).await;
        assert_eq!(code, Some(1), "{found:#?}");
        assert!(
            has(&found, "address", "fail", &format!("UDP {quic} of listener edge is taken")),
            "{found:#?}"
        );
        assert!(
            has(&found, "certificate", "fail", "is not that of the first certificate"),
            "{found:#?}"
        );
        assert!(has(&found, "source", "fail", "192.0.2.1 of backend"), "{found:#?}");
        assert!(
            found.iter().all(|finding| (finding["state"] == "ok") == finding["mend"].is_null())
        );
    }

    #[tokio::test]
    async fn a_certificate_that_browsers_take_by_its_hash_is_known_for_it() {
        let dir = Dir::new("doctor-pinned");
        let made = tidegate(&["cert", "new", "--name", "a.test", "--out", &dir.path("")]).await;
        assert_eq!(made.status.code(), Some(0));
        let certificate =
            "certificates = [{ chain = \"fullchain.pem\", key = \"privkey.pem\" }]".to_owned();
        let file = dir.write("pinned.toml", &Setup { certificate, ..Setup::default() }.toml());
        let (_, found) = findings(&file).await;
        assert!(has(&found, "certificate", "ok", "browsers take it by its hash"), "{found:#?}");
    }

    #[tokio::test]
    async fn a_bad_file_is_told_as_by_check() {
        let dir = Dir::new("doctor-file");
        let file = dir.write("bad.toml", "version = 2\n");
        let Output { status, stderr, .. } = tidegate(&["doctor", "-c", &file]).await;
        assert_eq!(status.code(), Some(78));
        assert!(text(stderr).contains("version 2 is not known"));
    }
}

mod explain {
    use super::*;

    /// A file with one route for the pages of one site.
    fn game(dir: &Dir) -> String {
        let setup = Setup { quic: "127.0.0.1:4433".parse().unwrap(), ..Setup::default() };
        let text = setup.toml();
        let origins = "origins = [\"https://*.example.com\"]\nlimits = { sessions = 7 }";
        let text = text.replace("origins = \"any\"", origins);
        dir.write(
            "game.toml",
            &text.replace("[backend.game]", "[backend.game]\nproxy_protocol = \"v1\""),
        )
    }

    #[tokio::test]
    async fn an_accepted_request_is_shown_step_by_step_and_exits_with_0() {
        let dir = Dir::new("explain");
        let (file, url) = (game(&dir), "https://localhost:4433/game?token=sesame");
        let known = ["explain", "-c", &file, "--url", url, "--origin", "https://a.example.com"];
        let Output { status, stdout, stderr } = tidegate(&known).await;
        let stdout = text(stdout);
        assert_eq!((status.code(), text(stderr).as_str()), (Some(0), ""), "{stdout}");
        for wanted in [
            "ok   route      game\n",
            "ok   origin     https://a.example.com may use the route\n",
            "accepted   by route game, to endpoint 0\n",
            "limit      route.limits.sessions = 7\n",
            // PROXY TCP4 127.0.0.1 127.0.0.1 50000 4433
            "PROXY      50524f58592054435034203132372e302e302e31203132372e302e302e312035303030302034343333",
        ] {
            assert!(stdout.contains(wanted), "{wanted:?} is not in\n{stdout}");
        }
        assert!(!stdout.contains("sesame"), "{stdout}");
    }

    #[tokio::test]
    async fn a_refused_request_exits_with_1_and_says_what_the_client_hears() {
        let dir = Dir::new("explain-refused");
        let (file, url) = (game(&dir), "https://localhost:4433/game");
        let stranger =
            ["explain", "-c", &file, "--url", url, "--header", "Origin: https://evilexample.com"];
        let Output { status, stdout, .. } = tidegate(&stranger).await;
        let said = text(stdout);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("NO   origin     the route does not list this origin"), "{said}");
        assert!(said.contains("refused    403 origin_not_allowed (side: client)\n"), "{said}");

        let Output { status, stdout, .. } = tidegate(&[&stranger[..], &["--json"]].concat()).await;
        let said: Value = serde_json::from_str(&text(stdout)).unwrap();
        assert_eq!(status.code(), Some(1));
        assert_eq!(said["refusal"]["status"], 403);
        assert_eq!(said["refusal"]["reason"], "origin_not_allowed");
        assert_eq!(said["session"], Value::Null);
        assert_eq!(said["steps"][3]["step"], "origin");
    }

    #[tokio::test]
    async fn what_is_no_request_is_a_bad_command_line() {
        let dir = Dir::new("explain-bad");
        let file = game(&dir);
        for (arguments, wanted) in [
            (&["--url", "http://localhost/game"][..], "a WebTransport URL begins with https://"),
            (&["--url", "https://a", "--client", "nobody"], "write an IP address"),
            (&["--url", "https://a", "--header", "x"], "NAME: VALUE"),
        ] {
            let arguments = [&["explain", "-c", &file], arguments].concat();
            let Output { status, stderr, .. } = tidegate(&arguments).await;
            let stderr = text(stderr);
            assert_eq!(status.code(), Some(2), "{arguments:?}");
            assert!(stderr.contains(wanted), "{arguments:?} says\n{stderr}");
        }
    }
}

mod run {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_exits_with_71_and_is_named() {
        let dir = Dir::new("run-taken");
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap();
        let file = dir.write("taken.toml", &Setup { quic: taken, ..Setup::default() }.toml());

        let Output { status, stdout, stderr } = tidegate(&["run", "-c", &file]).await;

        let stderr = text(stderr);
        let wanted = format!("tidegate: cannot start: cannot bind listener edge {taken}: Address");
        assert!(stderr.contains(&wanted), "{stderr}");
        assert_eq!((status.code(), text(stdout).as_str()), (Some(71), ""));
    }

    #[tokio::test]
    async fn a_certificate_that_cannot_be_used_exits_with_78_and_is_named() {
        let dir = Dir::new("run-certificate");
        dir.write("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
        let certificate = r#"certificates = [{ chain = "cut.pem", key = "cut.pem" }]"#;
        let setup = Setup { certificate: certificate.to_owned(), ..Setup::default() };
        let file = dir.write("cut.toml", &setup.toml());

        let Output { status, stdout, stderr } = tidegate(&["run", "-c", &file]).await;

        let stderr = text(stderr);
        assert!(stderr.contains("listener edge: cannot read"), "{stderr}");
        assert!(stderr.contains("cut.pem"), "{stderr}");
        assert_eq!((status.code(), text(stdout).as_str()), (Some(78), ""));
    }

    /// The line an operator looks for when somebody asks what became of a session.
    #[tokio::test]
    async fn a_drain_that_cuts_sessions_exits_with_4_and_logs_each_with_its_numbers() {
        let (_dir, mut gateway) = running("run-cut", "delay = \"0s\"\ngrace = \"200ms\"").await;
        let session = gateway.session("/game").await;
        echoes_stream(&session, b"four score").await;
        echoes_datagram(&session, b"seven").await;

        gateway.signal("TERM").await;

        let closed = soon(session.closed()).await;
        assert_eq!(closed, Closed::ByServer { code: 1, reason: "drain_deadline".to_owned() });
        let ended = gateway.logged("Session ended.").await;
        for (field, wanted) in [
            ("route", Value::from("game")),
            ("side", "operator".into()),
            ("reason", "drain_deadline".into()),
            ("bytes_up", 10.into()),
            ("bytes_down", 10.into()),
            ("datagrams_up", 1.into()),
            ("datagrams_down", 1.into()),
            ("datagrams_lost", 0.into()),
        ] {
            assert_eq!(ended[field], wanted, "{field} in {ended}");
        }
        assert!(ended["session_id"].as_str().is_some_and(|id| !id.is_empty()), "{ended}");
        assert!(ended["duration_ms"].as_u64().is_some_and(|ms| ms >= 200), "{ended}");
        let stopped = gateway.logged("Stopped. Sessions that had not ended were cut.").await;
        assert_eq!(stopped["cut"], 1, "{stopped}");
        assert_eq!(gateway.exit_code().await, 4);
    }

    /// A shortage that whoever knows the URL can bring about, so it must not cost more than their streams.
    #[tokio::test]
    async fn without_file_descriptors_streams_are_reset_and_all_else_goes_on() {
        let dir = Dir::new("run-descriptors");
        let setup = Setup { tcp: echo_tcp().await, udp: echo_udp().await, ..Setup::default() };
        let file = dir.write("tidegate.toml", &setup.toml());
        let log = "info,tidegate::bridge=debug";
        let run = ["run", "-c", &file, "--print", "json", "--log", log];
        let mut gateway = Program::start_with(command_under("ulimit -n 64", &run)).await;
        let session = gateway.session("/game").await;

        let (mut held, mut reset) = (Vec::new(), 0);
        for _ in 0..80 {
            let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
            _ = send.write(b"x").await;
            match soon(recv.read()).await {
                Ok(Some(echo)) => {
                    assert_eq!(echo, &b"x"[..]);
                    held.push((send, recv));
                }
                ended => {
                    let code = StreamEnd::OutOfDescriptors.code();
                    assert_eq!(ended, Err(StreamError::Ended(code)));
                    reset += 1;
                }
            }
        }
        assert!(reset > 0 && held.len() > 20, "{reset} were reset, {} not", held.len());
        session.send_datagram(b"lost").unwrap();
        let lost = gateway.logged("No UDP socket for a session.").await;
        assert_eq!(lost["reason"], "out_of_descriptors", "{lost}");

        // Those that are there go on, and what they leave is taken again.
        for (mut send, mut recv) in held {
            send.write(b"yz").await.unwrap();
            send.finish();
            assert_eq!(soon(recv.read_to_end(10)).await.unwrap(), b"yz");
        }
        let other = gateway.session("/game").await;
        echoes_datagram(&other, b"still here").await;
        gateway.shows(r#"tidegate_streams{route="game"} 0"#).await;
        echoes_stream(&session, b"again").await;
        let ends = r#"tidegate_stream_ends_total{reason="out_of_descriptors",route="game"}"#;
        gateway.shows(&format!("{ends} {reset}")).await;
        let loss = r#"direction="client_to_backend",reason="out_of_descriptors",route="game""#;
        gateway.shows(&format!("tidegate_datagram_drops_total{{{loss}}} 1")).await;
        let connects = r#"tidegate_backend_connects_total{backend="game",endpoint="0",result="out_of_descriptors"}"#;
        gateway.shows(&format!("{connects} {reset}")).await;

        session.close(0, "").await;
        other.close(0, "").await;
        gateway.shows(r#"tidegate_sessions{route="game"} 0"#).await;
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit_code().await, 0);
    }

    #[tokio::test]
    async fn a_second_signal_stops_at_once() {
        let (_dir, mut gateway) = running("run-hurry", "delay = \"0s\"\ngrace = \"1h\"").await;
        let session = gateway.session("/game").await;

        gateway.signal("TERM").await;
        assert!(soon(session.draining()).await, "the client was told");
        gateway.signal("TERM").await;

        let closed = soon(session.closed()).await;
        assert_eq!(closed, Closed::ByServer { code: 2, reason: "killed".to_owned() });
        assert_eq!(gateway.logged("Session ended.").await["reason"], "killed");
        assert_eq!(gateway.exit_code().await, 4);
    }

    #[tokio::test]
    async fn sighup_reads_the_file_again_and_sessions_go_on() {
        let dir = Dir::new("run-reload");
        let certificate = "certificates = [{ chain = \"fullchain.pem\", key = \"privkey.pem\" }]";
        let (tcp, udp) = (echo_tcp().await, echo_udp().await);
        let setup = Setup { certificate: certificate.into(), tcp, udp, ..Setup::default() };
        let file = dir.write("tidegate.toml", &setup.toml());
        new_certificate(&dir).await;
        let mut gateway = Program::start(&["run", "-c", &file, "--print", "json"]).await;
        let session = gateway.session("/game").await;

        let new = new_certificate(&dir).await;
        gateway.signal("HUP").await;
        let seen = gateway.logged("New clients see this certificate.").await;
        assert_eq!((&seen["listener"], &seen["sha256_hex"]), (&"edge".into(), &new.clone().into()));
        gateway.logged("Reloaded.").await;
        gateway.facts["cert_hash_hex"] = new.into();
        gateway.connect().await;
        echoes_stream(&session, b"four score").await;

        // A bad pair and a bad file change nothing, and are told.
        dir.write("fullchain.pem", "nonsense");
        gateway.signal("HUP").await;
        let told = gateway.logged("Cannot reload.").await;
        let problem = told["problem"].as_str().unwrap();
        assert!(problem.contains("fullchain.pem holds no certificate"), "{problem}");
        gateway.logged("Nothing was reloaded. What was in use stays in use.").await;
        dir.write("tidegate.toml", &setup.toml().replace("version = 1", "version = 2"));
        gateway.signal("HUP").await;
        let told = gateway.logged("Cannot reload.").await;
        let problem = told["problem"].as_str().unwrap();
        assert!(problem.contains("tidegate.toml:1: version: version 2 is not known"), "{problem}");
        gateway.connect().await;
        gateway.shows(r#"tidegate_config_reloads_total{result="reloaded"} 1"#).await;
        gateway.shows(r#"tidegate_config_reloads_total{result="failed"} 2"#).await;

        // What a reload takes is named, and what it does not take.
        new_certificate(&dir).await;
        let changed = "[server]\nconfig_id = 3\n[limits]\nsessions = 7\n";
        dir.write("tidegate.toml", &format!("{}{changed}", setup.toml()));
        gateway.signal("HUP").await;
        let taken = gateway.logged("The configuration has changed.").await;
        assert_eq!(taken["change"], "limits.sessions: 100000 -> 7");
        let waits = gateway.logged("This has changed in the file and waits for a restart.").await;
        assert_eq!(waits["change"], "server.config_id: 0 -> 3");
        echoes_stream(&session, b"and seven").await;
        session.close(0, "").await;
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit_code().await, 0);
    }

    /// No process is smaller than a mebibyte. What it holds is known before the first client comes.
    #[tokio::test]
    async fn a_process_that_holds_more_memory_than_it_may_lets_nobody_in_until_it_may_hold_more() {
        let dir = Dir::new("run-memory");
        let setup = Setup { tcp: echo_tcp().await, udp: echo_udp().await, ..Setup::default() };
        let little = format!("{}[limits]\nmemory = \"1MiB\"\n", setup.toml());
        let file = dir.write("tidegate.toml", &little);
        let mut gateway = Program::start(&["run", "-c", &file, "--print", "json"]).await;
        let options =
            client::Options::new(Trust::Hashes(vec![unhex(gateway.fact("cert_hash_hex"))]));
        let endpoint = client::Endpoint::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        assert!(soon(endpoint.connect(gateway.quic(), "localhost")).await.is_err());
        gateway.shows("tidegate_memory_limit_bytes 1048576").await;
        gateway.shows("tidegate_memory_short 1").await;
        assert_eq!(gateway.get("/readyz").await.0, 200);

        dir.write("tidegate.toml", &setup.toml());
        gateway.signal("HUP").await;
        gateway.logged("There is memory again.").await;
        let session = gateway.session("/game").await;
        echoes_stream(&session, b"let in").await;
        session.close(0, "").await;
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit_code().await, 0);
    }

    #[tokio::test]
    async fn a_file_that_is_watched_is_read_again_when_it_or_what_it_names_changes() {
        let dir = Dir::new("run-watch");
        let certificate = "certificates = [{ chain = \"fullchain.pem\", key = \"privkey.pem\" }]";
        let (tcp, udp) = (echo_tcp().await, echo_udp().await);
        let setup = Setup { certificate: certificate.into(), tcp, udp, ..Setup::default() };
        let watched = format!("{}[reload]\nwatch = true\ninterval = \"20ms\"\n", setup.toml());
        let file = dir.write("tidegate.toml", &watched);
        new_certificate(&dir).await;
        let mut gateway = Program::start(&["run", "-c", &file, "--print", "json"]).await;

        dir.write("tidegate.toml", &format!("{watched}[limits]\nsessions = 7\n"));
        let taken = gateway.logged("The configuration has changed.").await;
        assert_eq!(taken["change"], "limits.sessions: 100000 -> 7");
        dir.write("tidegate.toml", &format!("{watched}[limits]\nsessions = 0\n"));
        gateway.logged("Nothing was reloaded. What was in use stays in use.").await;
        dir.write("tidegate.toml", &watched);
        gateway.logged("Reloaded.").await;
        // Told once, though it was looked at many times.
        gateway.shows(r#"tidegate_config_reloads_total{result="failed"} 1"#).await;
        dir.write("privkey.pem", "nonsense");
        gateway.logged("Cannot reload.").await;
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit_code().await, 0);
    }

    /// Makes a certificate in the place of what is there, and tells its hash in hexadecimal.
    async fn new_certificate(dir: &Dir) -> String {
        for file in ["fullchain.pem", "privkey.pem"] {
            // The first time there is none.
            _ = fs::remove_file(dir.path(file));
        }
        let arguments = ["cert", "new", "--name", "localhost", "--out", &dir.path(".")];
        let made = text(tidegate(&arguments).await.stdout);
        made.lines().next().unwrap().trim_start_matches("hex").trim().to_owned()
    }

    #[tokio::test]
    async fn a_drain_is_not_ready_first_and_still_accepts_for_its_delay() {
        let (_dir, mut gateway) = running("run-delay", "delay = \"1h\"\ngrace = \"1h\"").await;
        assert_eq!(gateway.get("/readyz").await, (200, "ok\n".to_owned()));

        gateway.signal("TERM").await;
        gateway.logged("Not ready any more; new clients are still accepted.").await;

        assert_eq!(gateway.get("/readyz").await, (503, "draining\n".to_owned()));
        assert_eq!(gateway.get("/livez").await.0, 200);
        let session = gateway.session("/game").await;
        echoes_stream(&session, b"still welcome").await;

        session.close(0, "").await;
        gateway.logged("Session ended.").await;
        gateway.signal("TERM").await;
        assert_eq!(gateway.exit_code().await, 0);
    }
}

mod dev {
    use super::*;

    const ANYWHERE: [&str; 9] = [
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--playground",
        "127.0.0.1:0",
        "--print",
        "json",
    ];

    #[tokio::test]
    async fn one_line_tells_where_everything_is_and_sessions_reach_both_backends() {
        let mut dev = Program::start(&ANYWHERE).await;
        assert_eq!(dev.facts.as_object().unwrap().len(), 6, "{}", dev.facts);
        assert_eq!(dev.facts["pid"], dev.child.id().unwrap());
        assert_eq!(dev.facts["url"], format!("https://{}/echo", dev.quic()));
        let page = get(&dev.fact("playground").replace("localhost", "127.0.0.1"), "/").await;
        assert!(page.1.contains("new WebTransport("), "{page:?}");

        let both = dev.session("/echo").await;
        echoes_stream(&both, b"0123456789").await;
        echoes_datagram(&both, b"0123").await;
        let streams = dev.session("/tcp").await;
        echoes_stream(&streams, b"tcp").await;
        let datagrams = dev.session("/udp").await;
        echoes_datagram(&datagrams, b"udp").await;
        let (_send, mut recv) = soon(datagrams.open_bidi()).await.unwrap();
        let refused = soon(recv.read()).await;
        assert_eq!(refused, Err(StreamError::Ended(StreamEnd::Refused.code())));

        for series in [
            r#"tidegate_sessions{route="echo"} 1"#,
            r#"tidegate_sessions{route="tcp"} 1"#,
            r#"tidegate_sessions{route="udp"} 1"#,
            r#"tidegate_streams_total{kind="bidi",route="echo"} 1"#,
            r#"tidegate_stream_ends_total{reason="refused",route="udp"} 1"#,
            r#"tidegate_stream_bytes_total{direction="client_to_backend",route="echo"} 10"#,
            r#"tidegate_stream_bytes_total{direction="backend_to_client",route="echo"} 10"#,
            r#"tidegate_datagrams_total{direction="client_to_backend",route="udp"} 1"#,
            r#"tidegate_datagram_bytes_total{direction="backend_to_client",route="echo"} 4"#,
        ] {
            dev.shows(series).await;
        }

        for session in [both, streams, datagrams] {
            session.close(0, "").await;
        }
        dev.shows(r#"tidegate_sessions{route="echo"} 0"#).await;
        dev.signal("TERM").await;
        assert_eq!(soon(dev.stdout.next_line()).await.unwrap(), None, "stdout has one line");
        assert_eq!(dev.exit_code().await, 0);
    }

    #[tokio::test]
    async fn a_taken_address_exits_with_71_and_names_the_flag_to_change() {
        let first = Program::start(&ANYWHERE).await;
        let quic = first.quic().to_string();
        let tcp =
            |fact| first.fact(fact).rsplit_once(':').map(|(_, port)| format!("127.0.0.1:{port}"));
        for (flag, taken) in [
            ("--listen", quic),
            ("--admin", tcp("admin").unwrap()),
            ("--playground", tcp("playground").unwrap()),
        ] {
            let mut arguments = ANYWHERE;
            let at = arguments.iter().position(|argument| *argument == flag).unwrap();
            arguments[at + 1] = &taken;

            let Output { status, stdout, stderr } = tidegate(&arguments).await;

            let stderr = text(stderr);
            let wanted = format!("cannot bind {taken}; choose another address with {flag},");
            assert!(stderr.contains(&wanted), "{stderr}");
            assert_eq!((status.code(), text(stdout).as_str()), (Some(71), ""));
        }
    }
}

mod cert {
    use super::*;

    #[tokio::test]
    async fn a_new_certificate_is_served_and_known_by_the_hash_that_was_printed() {
        let dir = Dir::new("cert-served");
        let out = dir.path("made/here");
        let names = ["--name", "localhost", "--name", "127.0.0.1"];
        let made = tidegate(&[&["cert", "new", "--out", &out][..], &names].concat()).await;
        assert_eq!((made.status.code(), text(made.stderr).as_str()), (Some(0), ""));
        let made = text(made.stdout);
        let chain = dir.path("made/here/fullchain.pem");
        let mode = |file: &str| fs::metadata(dir.path(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("made/here/privkey.pem"), 0o600, "others can read the key");

        let hashed = text(tidegate(&["cert", "hash", &chain]).await.stdout);
        let (same, not_after) = made.split_at(hashed.len());
        assert_eq!(same, hashed);
        assert!(not_after.starts_with("not_after  20") && not_after.ends_with("Z\n"), "{made}");

        let certificate = r#"certificates = [{ chain = "made/here/fullchain.pem", key = "made/here/privkey.pem" }]"#;
        let setup = Setup { certificate: certificate.to_owned(), ..Setup::default() };
        let file = dir.write("made.toml", &setup.toml());
        let gateway = Program::start(&["run", "-c", &file, "--print", "json"]).await;
        let (hex, base64) = (gateway.fact("cert_hash_hex"), gateway.fact("cert_hash_base64"));
        assert_eq!(hashed, format!("hex        {hex}\nbase64     {base64}\n"));
        // The client believes this hash alone.
        gateway.connect().await;
    }

    #[tokio::test]
    async fn a_file_that_exists_is_never_overwritten() {
        for existing in ["privkey.pem", "fullchain.pem"] {
            let dir = Dir::new(&format!("cert-kept-{existing}"));
            let kept = dir.write(existing, "precious");

            let arguments = ["cert", "new", "--name", "localhost", "--out", &dir.path(".")];
            let Output { status, stdout, stderr } = tidegate(&arguments).await;

            let stderr = text(stderr);
            assert!(stderr.contains(existing) && stderr.contains("File exists"), "{stderr}");
            assert_eq!((status.code(), text(stdout).as_str()), (Some(1), ""));
            assert_eq!(fs::read_to_string(&kept).unwrap(), "precious");
            assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "half of a pair was left");
        }
    }
}

/// Waits for what is expected.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("what was expected did not come in time")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    // What whoever runs the tests has set must not show in them.
    command.args(arguments).env_remove("TIDEGATE_LOG").kill_on_drop(true);
    command
}

/// The program in a shell that has done something before.
fn command_under(first: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_tidegate")).args(arguments);
    command.env_remove("TIDEGATE_LOG").kill_on_drop(true);
    command
}

/// Runs the program to its end.
async fn tidegate(arguments: &[&str]) -> Output {
    soon(command(arguments).output()).await.unwrap()
}

/// A gateway that serves, as a process.
struct Program {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
    /// What it has printed about itself.
    facts: Value,
}

impl Program {
    /// Starts it and waits for the line that says where it is.
    async fn start(arguments: &[&str]) -> Self {
        Self::start_with(command(arguments)).await
    }

    async fn start_with(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = soon(stdout.next_line()).await.unwrap();
        let facts = serde_json::from_str(&line.expect("it ended before it served")).unwrap();
        Self { child, stdout, log, facts }
    }

    fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    fn quic(&self) -> SocketAddr {
        let (address, _path) =
            self.fact("url").strip_prefix("https://").unwrap().split_once('/').unwrap();
        address.parse().unwrap()
    }

    /// A connection with a client that believes the announced hash and nothing else.
    async fn connect(&self) -> client::Connection {
        let options = client::Options::new(Trust::Hashes(vec![unhex(self.fact("cert_hash_hex"))]));
        let endpoint = client::Endpoint::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        soon(endpoint.connect(self.quic(), "localhost")).await.unwrap()
    }

    /// A session on a connection of its own.
    async fn session(&self, path: &str) -> Session {
        let (connection, url) = (self.connect().await, format!("https://{}{path}", self.quic()));
        soon(connection.open_session(&url, &RequestOptions::default())).await.unwrap()
    }

    /// What its admin listener answers.
    async fn get(&self, path: &str) -> (u16, String) {
        get(self.fact("admin"), path).await
    }

    /// Waits until `/metrics` has a line.
    async fn shows(&self, series: &str) {
        let until_shown = async {
            while !self.get("/metrics").await.1.lines().any(|line| line == series) {
                // Nothing tells when a metric changes, so it is looked at again and again.
                sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(DEADLINE, until_shown).await.is_err() {
            panic!("no {series} in\n{}", self.get("/metrics").await.1);
        }
    }

    /// Waits for a line of the log with this message.
    async fn logged(&mut self, message: &str) -> Value {
        let mut seen = String::new();
        while let Some(line) = soon(self.log.next_line()).await.unwrap() {
            let entry: Value = serde_json::from_str(&line).unwrap();
            if entry["message"] == message {
                return entry;
            }
            seen = seen + &line + "\n";
        }
        panic!("{message:?} is not logged in\n{seen}");
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
        assert!(sent.unwrap().success());
    }

    async fn exit_code(mut self) -> i32 {
        soon(self.child.wait()).await.unwrap().code().expect("it ended by itself")
    }
}

/// The status and the body of an answer to plain HTTP.
async fn get(url: &str, path: &str) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap();
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = soon(exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn unhex(text: &str) -> [u8; 32] {
    assert_eq!(text.len(), 64, "{text}");
    std::array::from_fn(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2).unwrap(), 16).unwrap())
}

async fn echoes_stream(session: &Session, words: &[u8]) {
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(words).await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(1 << 20)).await.unwrap(), words);
}

async fn echoes_datagram(session: &Session, words: &[u8]) {
    session.send_datagram(words).unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), words);
}

/// A gateway on a file with one route, `/game`, to echo servers. The folder holds the file.
async fn running(name: &str, drain: &str) -> (Dir, Program) {
    let dir = Dir::new(name);
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = Setup { tcp, udp, drain: drain.to_owned(), ..Setup::default() };
    let file = dir.write("tidegate.toml", &setup.toml());
    let program = Program::start(&["run", "-c", &file, "--print", "json"]).await;
    (dir, program)
}

/// What a test's configuration file says.
struct Setup {
    quic: SocketAddr,
    certificate: String,
    drain: String,
    tcp: SocketAddr,
    udp: SocketAddr,
}

impl Default for Setup {
    /// Nothing stands behind it.
    fn default() -> Self {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        Self {
            quic: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate: r#"self_signed = ["localhost"]"#.to_owned(),
            drain: String::new(),
            tcp: nobody,
            udp: nobody,
        }
    }
}

impl Setup {
    fn toml(&self) -> String {
        let Self { quic, certificate, drain, tcp, udp } = self;
        format!(
            r#"version = 1
[[listener]]
name = "edge"
quic = ["{quic}"]
{certificate}
[admin]
listen = "127.0.0.1:0"
[drain]
{drain}
[[route]]
name = "game"
path = "/game"
origins = "any"
backend = "game"
[backend.game]
endpoints = [{{ tcp = "{tcp}", udp = "{udp}" }}]
"#
        )
    }
}

/// A folder that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    /// `name` must be this test's own.
    fn new(name: &str) -> Self {
        let unique = format!("cli-{name}-{}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, text: &str) -> String {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What is left lies in the build's folder and harms nobody.
        _ = fs::remove_dir_all(&self.0);
    }
}
