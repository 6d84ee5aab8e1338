//! Who is let in: what clients show, what they are told where it does not do, and that none of it goes anywhere.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::hmac;
use tidegate::{
    client::{Closed, Refused, RequestOptions},
    credential::token_hash,
};

use crate::{
    harness::{Setup, TcpBackend, TestGateway, echo_tcp, expect_text, soon},
    log,
    reload::reload,
};

/// A folder for the files of one test, which is removed at the end.
pub(crate) struct Dir(PathBuf);

impl Dir {
    /// `name` must be this test's own.
    pub(crate) fn new(name: &str) -> Self {
        let unique = format!("credentials-{name}-{}", std::process::id());
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Writes a file, and gives its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A line of a file of tokens.
pub(crate) fn line(name: &str, token: &str) -> String {
    let hash: String = token_hash(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:sha256={hash}\n")
}

/// What a native client sends.
pub(crate) fn bearer(token: &str) -> RequestOptions {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    headers.insert(header::AUTHORIZATION, value);
    RequestOptions { headers, ..RequestOptions::default() }
}

/// The status, the reason and the challenge of a refusal.
async fn refusal(
    gateway: &TestGateway,
    path: &str,
    options: &RequestOptions,
) -> (u16, String, String) {
    let Err(Refused::Status { status, reason, headers }) = gateway.try_session(path, options).await
    else {
        panic!("{path} is not refused");
    };
    let challenge = headers.get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    (status.as_u16(), reason.unwrap_or_default(), challenge.unwrap_or_default())
}

const ALICE: &str = "alices-token-which-is-long-and-random";
const BOB: &str = "bobs-token-which-is-long-and-random";

#[tokio::test]
async fn a_static_token_lets_in_by_header_or_query_and_nothing_else_does() {
    let dir = Dir::new("static");
    let file = dir.write("robots.tokens", line("alice", ALICE) + &line("bob", BOB));
    let setup = Setup::new()
        .route_with("/robots/{robot}", Some(echo_tcp().await), None, "credentials = [\"robots\"]")
        .tables(&format!("[credential.robots]\ntokens = {file:?}\nquery = \"token\""));
    let gateway = setup.start().await;
    let nothing = RequestOptions::default();
    for (path, options) in [
        ("/robots/1", bearer(ALICE)),
        ("/robots/1", bearer(BOB)),
        (&format!("/robots/1?token={ALICE}"), nothing.clone()),
        (&format!("/robots/1?a=1&token={BOB}&b"), nothing.clone()),
    ] {
        let session = gateway.try_session(path, &options).await.unwrap();
        let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
        send.write(b"in").await.unwrap();
        send.finish();
        assert_eq!(soon(recv.read_to_end(10)).await.unwrap(), b"in");
    }
    let missing = (401, "credential_missing", "Bearer");
    let invalid = (401, "credential_invalid", "Bearer error=\"invalid_token\"");
    for (path, options, wanted) in [
        ("/robots/1", nothing.clone(), missing),
        (&format!("/robots/1?tokens={ALICE}"), nothing.clone(), missing),
        ("/robots/1", bearer("mallorys-token-which-is-as-long"), invalid),
        ("/robots/1?token=mallorys-token", nothing.clone(), invalid),
        (&format!("/robots/1?token={ALICE}&token={ALICE}"), nothing, invalid),
        (&format!("/robots/1?token={ALICE}"), bearer(ALICE), invalid),
    ] {
        let found = refusal(&gateway, path, &options).await;
        assert_eq!((found.0, &*found.1, &*found.2), wanted, "{path}");
    }
    let labels = |reason| [("route", "robotsrobot"), ("reason", reason)];
    let rejects = "tidegate_session_rejects_total";
    gateway.metric_reaches(rejects, &labels("credential_missing"), 2.0).await;
    gateway.metric_reaches(rejects, &labels("credential_invalid"), 4.0).await;
    gateway.shut_down().await;
}

/// The token's name is the session's subject, for the log and for the backend; and the query reaches the backend
/// without the token.
#[tokio::test]
async fn the_subject_is_told_and_the_token_is_not() {
    log::keep();
    let dir = Dir::new("subject");
    let file = dir.write("robots.tokens", line("alice", ALICE));
    let backend = TcpBackend::bind().await;
    let setup = Setup::new()
        .route_with("/own/{user}", Some(backend.address()), None, "credentials = [\"robots\"]")
        .tables("preamble = \"{subject} {query}\\n\"")
        .tables(&format!(
            "[credential.robots]\ntokens = {file:?}\nquery = \"token\"\nclaims = {{ sub = \"{{user}}\" }}"
        ));
    let gateway = setup.start().await;

    let path = format!("/own/alice?a=1&%74oken={ALICE}&b=2");
    let session = gateway.session(&path).await;
    let (mut send, _recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"hello").await.unwrap();
    expect_text(&mut backend.accept().await, b"alice a=1&b=2\nhello").await;
    session.close(0, "").await;
    log::line_with(&["Session ended.", "subject=\"alice\""]).await;

    let path = format!("/own/bob?token={ALICE}");
    let found = refusal(&gateway, &path, &RequestOptions::default()).await;
    let wanted = (403, "credential_forbidden", "Bearer error=\"insufficient_scope\"");
    assert_eq!((found.0, &*found.1, &*found.2), wanted);
    gateway.shut_down().await;
}

/// Guesses count for the rate of their client's address, so a right one that comes after too many is not even
/// looked at.
#[tokio::test]
async fn a_client_that_guesses_too_often_is_turned_away_before_its_token_is_looked_at() {
    let dir = Dir::new("guesses");
    let file = dir.write("robots.tokens", line("alice", ALICE));
    let setup = Setup::new()
        .route_with("/x", Some(echo_tcp().await), None, "credentials = [\"robots\"]")
        .tables(&format!("[credential.robots]\ntokens = {file:?}"))
        .tables("[limits.per_client]\nsession_rate = \"3/h\"");
    let gateway = setup.start().await;
    for guess in ["first", "second", "third"] {
        let refused = gateway.refusal("/x", &bearer(guess)).await;
        assert_eq!(refused, (401, "credential_invalid".to_owned()));
    }
    for token in ["fourth", ALICE] {
        let refused = gateway.refusal("/x", &bearer(token)).await;
        assert_eq!(refused, (429, "client_session_rate".to_owned()), "{token}");
    }
    let labels = [("route", "x"), ("reason", "client_session_rate")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 2.0).await;
    gateway.shut_down().await;
}

/// Who may not come from there learns nothing of what else is asked.
#[tokio::test]
async fn the_origin_is_decided_before_the_credential_and_the_protocol_after_it() {
    let dir = Dir::new("order");
    let file = dir.write("robots.tokens", line("alice", ALICE));
    let keys = "credentials = [\"robots\"]\norigins = [\"https://play.example.com\"]\n\
                allow_missing_origin = true\nprotocols = [\"chat\"]\nrequire_protocol = true";
    let setup = Setup::new()
        .route_with("/x", Some(echo_tcp().await), None, keys)
        .tables(&format!("[credential.robots]\ntokens = {file:?}"));
    let gateway = setup.start().await;
    let foreign = RequestOptions { origin: Some("https://evil.com".into()), ..bearer(ALICE) };
    for (options, wanted) in [
        (foreign, (403, "origin_not_allowed")),
        (RequestOptions::default(), (401, "credential_missing")),
        (bearer(ALICE), (400, "no_common_protocol")),
    ] {
        let found = gateway.refusal("/x", &options).await;
        assert_eq!((found.0, &*found.1), wanted);
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn two_authorizations_are_a_bad_request() {
    let dir = Dir::new("two");
    let file = dir.write("robots.tokens", line("alice", ALICE));
    let setup = Setup::new()
        .route_with("/x", Some(echo_tcp().await), None, "credentials = [\"robots\"]")
        .tables(&format!("[credential.robots]\ntokens = {file:?}"));
    let gateway = setup.start().await;
    let mut options = bearer(ALICE);
    let value = HeaderValue::from_str(&format!("Bearer {ALICE}")).unwrap();
    options.headers.append(header::AUTHORIZATION, value);
    assert_eq!(gateway.refusal("/x", &options).await, (400, "bad_request".to_owned()));
    gateway.shut_down().await;
}

/// A signed token with these claims, made with [`SECRET`].
fn signed(claims: &str) -> String {
    signed_with(SECRET, claims)
}

fn signed_with(secret: &str, claims: &str) -> String {
    let message = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

const SECRET: &str = "a-secret-that-is-shared-with-the-issuer";

/// A gateway with a route for players who have a token, which must be for their room.
async fn players(dir: &Dir, backend: SocketAddr) -> TestGateway {
    let secret = dir.write("secret", SECRET);
    Setup::new()
        .route_with("/game/{room}", Some(backend), None, "credentials = [\"players\"]")
        .tables(&format!(
            "[credential.players]\nquery = \"token\"\nclaims = {{ room = \"{{room}}\" }}\n\
             [credential.players.jwt]\nkeys = [{{ secret = {{ file = {secret:?} }} }}]\nleeway = \"0s\""
        ))
        .start()
        .await
}

/// Seconds since 1970, from now on.
fn after(time: Duration) -> f64 {
    (SystemTime::now() + time).duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn a_signed_token_lets_in_where_its_claims_say_until_it_is_over() {
    let dir = Dir::new("signed");
    let gateway = players(&dir, echo_tcp().await).await;
    let nothing = RequestOptions::default();
    let hour = after(Duration::from_secs(3600));
    let good = signed(&format!(r#"{{"sub":"alice","room":"lobby","exp":{hour}}}"#));
    for (path, options) in [
        (format!("/game/lobby?token={good}"), nothing.clone()),
        ("/game/lobby".to_owned(), bearer(&good)),
        ("/game/l%6fbby".to_owned(), bearer(&good)),
    ] {
        gateway.try_session(&path, &options).await.unwrap().close(0, "").await;
    }
    let forged = good.replace('.', ".e");
    let old = signed(r#"{"sub":"alice","room":"lobby","exp":1000000000}"#);
    for (path, options, wanted) in [
        ("/game/lobby", nothing, (401, "credential_missing", "Bearer")),
        (
            "/game/lobby",
            bearer(&forged),
            (401, "credential_invalid", "Bearer error=\"invalid_token\""),
        ),
        (
            "/game/lobby",
            bearer(&old),
            (401, "credential_expired", "Bearer error=\"invalid_token\""),
        ),
        (
            "/game/other",
            bearer(&good),
            (403, "credential_forbidden", "Bearer error=\"insufficient_scope\""),
        ),
    ] {
        let found = refusal(&gateway, path, &options).await;
        assert_eq!((found.0, &*found.1, &*found.2), wanted, "{path}");
    }
    gateway.shut_down().await;
}

/// The client is told with a code of its own, and its streams are cut.
#[tokio::test]
async fn a_session_ends_with_its_token() {
    let dir = Dir::new("ends");
    let backend = TcpBackend::bind().await;
    let gateway = players(&dir, backend.address()).await;
    let connection = gateway.connect().await;
    // On a busy machine a token may be over before it is looked at; then with a longer one.
    let mut life = Duration::from_millis(250);
    let session = loop {
        let token = signed(&format!(r#"{{"room":"lobby","exp":{}}}"#, after(life)));
        match soon(connection.open_session(&gateway.url("/game/lobby"), &bearer(&token))).await {
            Ok(session) => break session,
            Err(_over) => life *= 2,
        }
    };
    let closed = soon(session.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 4, reason: "credential_expired".into() });
    gateway.session_ends("credential_expired", 1.0).await;
    gateway.shut_down().await;
}

/// What is read again decides on who comes then, and whoever is in stays in. A file that is bad changes nothing.
#[tokio::test]
async fn a_reload_changes_tokens_and_keys_and_spares_who_is_in() {
    const NEW_SECRET: &str = "another-secret-that-is-shared-with-the-issuer";
    let dir = Dir::new("reload");
    let tokens = dir.write("robots.tokens", line("alice", ALICE));
    let secret = dir.write("secret", SECRET);
    let setup = Setup::new()
        .route_with("/robots", Some(echo_tcp().await), None, "credentials = [\"robots\"]")
        .route_with("/game", Some(echo_tcp().await), None, "credentials = [\"players\"]")
        .tables(&format!(
            "[credential.robots]\ntokens = {tokens:?}\n[credential.players.jwt]\n\
             keys = [{{ secret = {{ file = {secret:?} }} }}]"
        ));
    let gateway = setup.clone().start().await;
    let claims = format!(r#"{{"sub":"alice","exp":{}}}"#, after(Duration::from_secs(3600)));
    let [old, new] = [SECRET, NEW_SECRET].map(|secret| signed_with(secret, &claims));
    let lives = [
        gateway.try_session("/robots", &bearer(ALICE)).await.unwrap(),
        gateway.try_session("/game", &bearer(&old)).await.unwrap(),
    ];
    let invalid = (401, "credential_invalid".to_owned());
    let old_ones_count = async || {
        for (path, good, bad) in [("/robots", ALICE, BOB), ("/game", &*old, &*new)] {
            gateway.try_session(path, &bearer(good)).await.unwrap().close(0, "").await;
            assert_eq!(gateway.refusal(path, &bearer(bad)).await, invalid, "{path}");
        }
    };
    old_ones_count().await;

    dir.write("secret", NEW_SECRET);
    dir.write("robots.tokens", "alice:sha256=what is no hash\n");
    reload(&gateway, &setup).await.unwrap_err();
    old_ones_count().await;

    dir.write("robots.tokens", line("bob", BOB));
    let reloaded = reload(&gateway, &setup).await.unwrap();
    let said = format!("{reloaded:?}");
    for secret in [SECRET, NEW_SECRET, ALICE, BOB] {
        assert!(!said.contains(secret), "{said}");
    }
    for (path, good, bad) in [("/robots", BOB, ALICE), ("/game", &*new, &*old)] {
        gateway.try_session(path, &bearer(good)).await.unwrap().close(0, "").await;
        assert_eq!(gateway.refusal(path, &bearer(bad)).await, invalid, "{path}");
    }
    for session in &lives {
        let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
        send.write(b"still in").await.unwrap();
        send.finish();
        assert_eq!(soon(recv.read_to_end(10)).await.unwrap(), b"still in");
    }
    gateway.shut_down().await;
}
