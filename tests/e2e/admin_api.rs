//! What an operator sees of sessions and does to them, through the admin listener of a whole gateway.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tidegate::client::{self, Closed, RequestOptions, Session, Trust};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, soon};

/// Status and body of one request to the admin listener. `head` may bring headers and, after an empty
/// line, a body.
async fn ask(gateway: &TestGateway, what: &str, head: &str) -> (u16, String) {
    let address = gateway.running().admin_address().unwrap();
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    let head = if head.contains("\r\n\r\n") { head.to_owned() } else { format!("{head}\r\n") };
    let request = format!("{what} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{head}");
    soon(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn get(gateway: &TestGateway, path: &str) -> Value {
    let (status, body) = ask(gateway, &format!("GET {path}"), "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

async fn post(gateway: &TestGateway, path: &str) -> Value {
    let (status, body) = ask(gateway, &format!("POST {path}"), "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The ids of the sessions that a query lists.
async fn ids(gateway: &TestGateway, query: &str) -> Vec<String> {
    let list = get(gateway, &format!("/api/sessions{query}")).await;
    let id = |session: &Value| session["id"].as_str().unwrap().to_owned();
    list["sessions"].as_array().unwrap().iter().map(id).collect()
}

async fn two_routes() -> TestGateway {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = Setup::new().route("/game", Some(tcp), Some(udp));
    setup.route("/chat", Some(tcp), None).start().await
}

async fn sessions(gateway: &TestGateway, path: &str, count: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(gateway.session(path).await);
    }
    sessions
}

async fn closed(session: &Session) -> (u32, String) {
    match soon(session.closed()).await {
        Closed::ByServer { code, reason } => (code, reason),
        other => panic!("not closed by the gateway: {other:?}"),
    }
}

#[tokio::test]
async fn a_session_is_listed_with_what_it_is_and_what_it_carried() {
    let gateway = two_routes().await;
    let session = gateway.session("/game?token=s3cret").await;
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"hello").await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"hello");
    gateway.stream_ends("finished", 1.0).await;
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"more").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().as_deref(), Some(&b"more"[..]));
    session.send_datagram(b"ping").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"ping"[..]);

    let (_, text) = ask(&gateway, "GET /api/sessions", "").await;
    assert!(!text.contains("s3cret"), "the query is never shown: {text}");
    let list: Value = serde_json::from_str(&text).unwrap();
    let shown = &list["sessions"][0];
    for (field, value) in [
        ("route", "game".into()),
        ("backend", "game".into()),
        ("endpoint", "0".into()),
        ("path", "/game".into()),
        ("subject", Value::Null),
        ("streams", 2.into()),
        ("streams_open", 1.into()),
        ("bytes_up", 9.into()),
        ("bytes_down", 9.into()),
        ("bytes_lost", 0.into()),
        ("datagrams_up", 1.into()),
        ("datagrams_down", Value::from(1)),
    ] {
        assert_eq!(shown[field], value, "{field} in {shown}");
    }
    assert!(shown["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
    assert_eq!(list["next"], Value::Null);

    let id = shown["id"].as_str().unwrap();
    let (status, text) = ask(&gateway, &format!("GET /api/sessions/{id}"), "").await;
    assert_eq!(status, 200, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let details: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&details["id"], &details["route"]), (&shown["id"], &shown["route"]));
    assert_eq!(details["up"]["stream_bytes"]["delivered"], 9);
    assert_eq!(details["down"]["datagram_bytes"]["delivered"], 4);
    assert_eq!(details["up"]["stream_bytes"]["lost_by_reason"], serde_json::json!({}));
    assert_eq!(details["datagram_queue"]["datagrams"], 0);
    assert_eq!(details["datagram_queue"]["first_waits_ms"], Value::Null);
    assert!(details["datagram_queue"]["capacity_bytes"].as_u64().unwrap() > 0, "{details}");
    assert_eq!(details["server_name"], "localhost");
    let (open, udp) = (&details["open_streams"], &details["backend_udp"]);
    let stream = &open["oldest"][0];
    assert_eq!((&open["count"], &stream["number"]), (&1.into(), &2.into()), "{open}");
    assert_eq!((&stream["bytes_up"], &stream["held_down"]), (&4.into(), &0.into()), "{open}");
    let (tcp, own) = (&stream["backend"]["tcp"], &stream["backend"]["local"]);
    assert!(own.as_str().unwrap().starts_with("127.0.0.1:"), "{open}");
    assert_eq!(tcp["state"], "established", "{open}");
    assert!(tcp["rtt_ms"].as_f64().unwrap() > 0.0, "{open}");
    assert_eq!((&udp["datagrams_sent"], &udp["datagrams_received"]), (&1.into(), &1.into()));
    assert!(udp["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{udp}");
    let leg = &details["client_leg"];
    assert_eq!(leg["client"], shown["client"]);
    for field in ["rtt_ms", "congestion_window", "packets_sent", "bytes_sent", "bytes_received"] {
        assert!(leg[field].as_f64().unwrap() > 0.0, "{field} in {leg}");
    }
    assert!(leg["mtu"].as_u64().unwrap() >= 1200, "{leg}");

    drop(session);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_list_is_filtered_and_comes_in_pages() {
    let gateway = two_routes().await;
    let game = sessions(&gateway, "/game", 5).await;
    let _chat = sessions(&gateway, "/chat", 2).await;
    gateway.metric_reaches("tidegate_sessions", &[], 7.0).await;

    for (query, count) in [
        ("", 7),
        ("?route=game", 5),
        ("?backend=chat&endpoint=0", 2),
        ("?route=game&backend=chat", 0),
        ("?client=127.0.0.1", 7),
        ("?client=127.0.0.2", 0),
        ("?subject=alice", 0),
    ] {
        assert_eq!(ids(&gateway, query).await.len(), count, "{query}");
    }
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let list = get(&gateway, &format!("/api/sessions?route=game&limit=2{next}")).await;
        let page = list["sessions"].as_array().unwrap();
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|session| session["id"].as_str().unwrap().to_owned()));
        let Some(last) = list["next"].as_str() else { break };
        next = format!("&after={last}");
    }
    assert_eq!(seen, ids(&gateway, "?route=game").await);
    assert_eq!(seen.len(), 5);
    drop(game);
}

#[tokio::test]
async fn one_session_is_ended_with_a_code_and_a_reason_and_the_others_go_on() {
    let gateway = two_routes().await;
    let one = gateway.session("/game").await;
    let id = ids(&gateway, "").await.remove(0);
    let others = sessions(&gateway, "/game", 2).await;

    let path = format!("/api/sessions/{id}/end");
    let body = r#"{"code": 4711, "reason": "cheating"}"#;
    let head = format!("content-length: {}\r\n\r\n{body}", body.len());
    let (status, answer) = ask(&gateway, &format!("POST {path}"), &head).await;

    assert_eq!((status, answer.as_str()), (200, "{\"ended\":1}\n"));
    assert_eq!(closed(&one).await, (4711, "cheating".into()));
    gateway.session_ends("ended_by_operator", 1.0).await;
    gateway.metric_reaches("tidegate_sessions", &[], 2.0).await;
    for session in &others {
        let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
        send.write(b"still here").await.unwrap();
        send.finish();
        assert_eq!(soon(recv.read_to_end(100)).await.unwrap(), b"still here");
    }
    let (status, _) = ask(&gateway, &format!("POST {path}"), "").await;
    assert_eq!(status, 404, "it is gone");
    assert_eq!(gateway.shut_down().await.cut, 2, "the one that was ended is not cut");
    drop((one, others));
}

#[tokio::test]
async fn all_sessions_of_a_route_are_ended() {
    let gateway = two_routes().await;
    let (game, chat) = (sessions(&gateway, "/game", 3).await, gateway.session("/chat").await);
    gateway.metric_reaches("tidegate_sessions", &[], 4.0).await;

    assert_eq!(post(&gateway, "/api/sessions/end?route=game").await["ended"], 3);
    for session in &game {
        assert_eq!(closed(session).await, (8, "ended_by_operator".into()));
    }
    gateway.session_ends("ended_by_operator", 3.0).await;
    let (status, said) = ask(&gateway, "POST /api/sessions/end", "").await;
    assert_eq!(status, 400, "not all by a slip of the hand: {said}");
    let ended =
        post(&gateway, "/api/sessions/end?client=127.0.0.1&reason=maintenance&code=0").await;
    assert_eq!(ended["ended"], 1);
    assert_eq!(closed(&chat).await, (0, "maintenance".into()));
}

/// Whoever changes something has to show the token; nobody is shown it, nor any other secret.
#[tokio::test]
async fn the_token_is_asked_for_and_no_secret_is_shown() {
    const TOKEN: &str = "admin-token-0123456789abcdef0123456789";
    const SECRET: &str = "server-secret-0123456789abcdef01234567";
    let folder = std::env::temp_dir().join(format!("tidegate-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [token, secret] = [("token", TOKEN), ("secret", SECRET)].map(|(name, text)| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    });
    let setup = Setup::new()
        .server(&format!("secret.file = \"{secret}\""))
        .admin(&format!("token.file = \"{token}\""));
    let gateway = setup.route("/echo", Some(echo_tcp().await), None).start().await;
    std::fs::remove_dir_all(&folder).unwrap();
    let session = gateway.session("/echo").await;

    let path = "POST /api/sessions/end?route=echo";
    assert_eq!(ask(&gateway, path, "").await.0, 401);
    assert_eq!(ask(&gateway, path, "authorization: Bearer nonsense\r\n").await.0, 401);
    for path in ["/api/config", "/api/sessions", "/metrics", "/api/backends"] {
        let (status, text) = ask(&gateway, &format!("GET {path}"), "").await;
        assert_eq!(status, 200);
        assert!(!text.contains(TOKEN) && !text.contains(SECRET), "{path} shows a secret: {text}");
    }
    let (_, config) = ask(&gateway, "GET /api/config", "").await;
    assert!(config.contains("idle_timeout = \"45s\""), "every default is shown: {config}");
    assert!(config.contains("token = \"***\"") && config.contains("secret = \"***\""), "{config}");

    let right = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&gateway, path, &right).await, (200, "{\"ended\":1}\n".into()));
    assert_eq!(closed(&session).await.0, 8);
}

/// What a long list costs must not be paid by those who are on it.
#[tokio::test]
async fn a_long_list_is_bounded_and_holds_up_no_stream() {
    const SESSIONS: usize = 2_000;
    let setup = Setup::new().route("/game", Some(echo_tcp().await), None).tables(
        "[limits]\nper_client = { sessions = \"unlimited\", session_rate = \"unlimited\" }",
    );
    let gateway = setup.start().await;
    let (url, options) = (gateway.url("/game"), RequestOptions::default());
    let mut all = Vec::new();
    for _ in 0..SESSIONS / 100 {
        let connection = gateway.connect().await;
        for _ in 0..100 {
            all.push(soon(connection.open_session(&url, &options)).await.unwrap());
        }
    }
    gateway.metric_reaches("tidegate_sessions", &[], SESSIONS as f64).await;

    let listing = async {
        for _ in 0..20 {
            let list = get(&gateway, "/api/sessions?limit=1000").await;
            assert_eq!(list["sessions"].as_array().unwrap().len(), 1000);
        }
    };
    let (mut send, mut recv) = soon(all[0].open_bidi()).await.unwrap();
    let echoing = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let asked = tokio::time::Instant::now();
            send.write(b"x").await.unwrap();
            assert_eq!(soon(recv.read()).await.unwrap().as_deref(), Some(&b"x"[..]));
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let ((), slowest) = tokio::join!(listing, echoing);
    assert!(slowest < Duration::from_secs(5), "a stream waited {slowest:?}");
    assert_eq!(post(&gateway, "/api/sessions/end?route=game").await["ended"], SESSIONS as u64);
    gateway.session_ends("ended_by_operator", SESSIONS as f64).await;
}

/// A page that lists the hash in use and the next one gets in until it has long had time to ask again.
#[tokio::test]
async fn the_next_certificate_has_the_hash_that_was_told_before() {
    let gateway = two_routes().await;
    let told = async || {
        let all = get(&gateway, "/certificate-hashes").await;
        let [one] = &all["certificates"].as_array().unwrap()[..] else { panic!("{all}") };
        assert_eq!((&one["listener"], &one["self_signed"]), (&"edge".into(), &true.into()));
        one.clone()
    };
    let decoded = |hash: &Value| -> [u8; 32] {
        let bytes = STANDARD.decode(hash["base64"].as_str().unwrap()).unwrap();
        bytes.try_into().unwrap()
    };
    let before = told().await;
    let listed = [&before["current"], &before["next"]].map(decoded);
    assert_eq!(listed[0], gateway.hash());
    let options = client::Options::new(Trust::Hashes(listed.to_vec()));
    let page = gateway.endpoint_with(&options);
    soon(page.connect(gateway.address(), "localhost")).await.unwrap();

    let twelve_days = Duration::from_secs(12 * 24 * 60 * 60);
    gateway.running().live().renew_certificates(SystemTime::now() + twelve_days);

    let after = told().await;
    assert_eq!(after["current"], before["next"]);
    assert_ne!(after["next"], before["next"]);
    assert_eq!(listed[1], gateway.hash());
    soon(page.connect(gateway.address(), "localhost")).await.unwrap();
    gateway.shut_down().await;
}
