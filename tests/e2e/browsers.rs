//! Real browsers: headless Chromium and Firefox open a page that runs the cases of
//! `tests/browser/page.html`.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use base64::Engine;
use serde_json::{Value, json};

use crate::{
    browser::{Browser, PageServer, Report, Window},
    harness::{
        Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, expect_reset, expect_text, read_to_end,
        soon,
    },
};

/// What the page fetches: where the gateway is, and what to do.
fn config(gateway: &TestGateway, cases: &Value) -> Value {
    let hash = base64::engine::general_purpose::STANDARD.encode(gateway.hash());
    json!({ "url": gateway.url(""), "hash": hash, "cases": cases })
}

/// Shows the page; `None` where there is no browser and that is allowed.
async fn show(
    browser: Browser,
    gateway: &TestGateway,
    cases: Value,
) -> Option<(PageServer, Window)> {
    let program: PathBuf = browser.or_skip()?;
    let page = PageServer::start(&config(gateway, &cases)).await;
    let window = Window::show(browser, &program, &page.url());
    Some((page, window))
}

/// What the bridges log, down to each stream.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn keep_log() {
    // An error says that it is kept already.
    _ = tracing_subscriber::fmt()
        .with_env_filter("tidegate::bridge=trace")
        .with_ansi(false)
        .with_writer(|| Log)
        .try_init();
}

fn log() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

#[tokio::test]
async fn chromium_echoes_streams_and_datagrams_and_leaves_nothing_behind() {
    echoes_streams_and_datagrams_and_leaves_nothing_behind(Browser::Chromium).await;
}

#[tokio::test]
async fn firefox_echoes_streams_and_datagrams_and_leaves_nothing_behind() {
    echoes_streams_and_datagrams_and_leaves_nothing_behind(Browser::Firefox).await;
}

async fn echoes_streams_and_datagrams_and_leaves_nothing_behind(kind: Browser) {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let gateway = Setup::new()
        .route("/echo", Some(tcp), Some(udp))
        .listener("[listener.transport]\nidle_timeout = \"3s\"\nping_interval = \"1s\"")
        .start()
        .await;
    let cases = json!([
        { "case": "ready", "path": "/echo" },
        { "case": "bidi-echo", "path": "/echo", "bytes": 1 },
        { "case": "bidi-echo", "path": "/echo", "bytes": 65_536 },
        { "case": "bidi-echo", "path": "/echo", "bytes": 4_194_304 },
        { "case": "many-streams", "path": "/echo", "streams": 100, "bytes": 1000 },
        { "case": "datagram-echo", "path": "/echo", "count": 20, "wanted": 20, "bytes": 1000 },
        { "case": "several-sessions", "path": "/echo", "sessions": 4, "bytes": 10_000 },
        { "case": "close-by-page", "path": "/echo", "code": 7, "reason": "bye" },
        { "case": "refused", "path": "/nowhere" },
        { "case": "leave", "path": "/echo", "after": 1_000_000 },
    ]);
    let Some((mut page, browser)) = show(kind, &gateway, cases).await else { return };

    for case in ["ready", "bidi-echo", "bidi-echo", "bidi-echo", "many-streams", "datagram-echo"] {
        page.passed(&browser, case).await;
    }
    page.passed(&browser, "several-sessions").await;
    page.passed(&browser, "close-by-page").await;
    // One session for each case so far, and four for one of them; all closed by the page.
    gateway.session_ends("client_closed", 11.0).await;
    page.passed(&browser, "refused").await;
    let labels = [("reason", "no_route")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;

    page.event(&browser, "leave", "leaving").await;
    assert_eq!(page.next(&browser).await, Report::Left);
    // The browser goes too, without a word: what it held must come down without it.
    drop(browser);
    gateway.session_ends("connection_lost", 1.0).await;
    gateway.is_empty().await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn what_chromium_says_reaches_the_backend_as_it_was_said() {
    what_it_says_reaches_the_backend_as_it_was_said(Browser::Chromium).await;
}

#[tokio::test]
async fn what_firefox_says_reaches_the_backend_as_it_was_said() {
    what_it_says_reaches_the_backend_as_it_was_said(Browser::Firefox).await;
}

async fn what_it_says_reaches_the_backend_as_it_was_said(kind: Browser) {
    keep_log();
    let (one_way, both_ways) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let dead = TcpBackend::bind().await.address();
    let gateway = Setup::new()
        .route("/in", Some(one_way.address()), None)
        .route("/reset", Some(both_ways.address()), None)
        .route("/dead", Some(dead), None)
        .start()
        .await;
    let mut cases = vec![
        json!({ "case": "uni-stream", "path": "/in", "text": "one way" }),
        json!({ "case": "stream-reset", "path": "/reset", "code": 99, "text": "and then no more" }),
    ];
    // Firefox 153 shows a TypeError without a code when a reset is quicker than its own opening of the
    // stream, and from a dead backend it is.
    let shows_quick_resets = matches!(kind, Browser::Chromium);
    if shows_quick_resets {
        cases.push(json!({ "case": "reset-by-gateway", "path": "/dead", "code": 1 }));
    }
    let Some((mut page, browser)) = show(kind, &gateway, cases.into()).await else { return };

    page.event(&browser, "uni-stream", "written").await;
    let (read, ended) = read_to_end(&mut one_way.accept().await).await;
    assert_eq!((&read[..], ended.is_ok()), (&b"one way"[..], true));
    page.go_on("uni-stream").await;
    page.passed(&browser, "uni-stream").await;

    let mut backend = both_ways.accept().await;
    expect_text(&mut backend, b"and then no more").await;
    soon(tokio::io::AsyncWriteExt::write_all(&mut backend, b"and then no more")).await.unwrap();
    page.event(&browser, "stream-reset", "aborted").await;
    expect_reset(&mut backend).await;
    gateway.stream_ends("client_reset", 1.0).await;
    assert!(log().contains("client_code=99"), "{}", log());
    page.go_on("stream-reset").await;
    page.passed(&browser, "stream-reset").await;

    if shows_quick_resets {
        page.passed(&browser, "reset-by-gateway").await;
    }
    drop(browser);
    gateway.shut_down().await;
}

#[tokio::test]
async fn chromium_takes_the_streams_that_the_gateway_opens() {
    takes_the_streams_that_the_gateway_opens(Browser::Chromium).await;
}

#[tokio::test]
async fn firefox_takes_the_streams_that_the_gateway_opens() {
    takes_the_streams_that_the_gateway_opens(Browser::Firefox).await;
}

async fn takes_the_streams_that_the_gateway_opens(kind: Browser) {
    let backend = TcpBackend::bind().await;
    let shell = "streams = \"per-session\"\nopens = \"gateway\"";
    let gateway = Setup::new()
        .route_with("/feed", Some(backend.address()), None, "push = \"uni\"")
        .route_with("/shell", Some(backend.address()), None, shell)
        .start()
        .await;
    let case = json!([{
        "case": "incoming", "unidirectional": "/feed", "bidirectional": "/shell",
        "text": "hear, hear", "answer": "who is there?",
        "code": 10, "reason": "backend_finished",
    }]);
    let Some((mut page, browser)) = show(kind, &gateway, case).await else { return };
    // A browser may take longer to start than anything else may take.
    page.event(&browser, "incoming", "open").await;
    let mut feed = backend.accept().await;
    soon(tokio::io::AsyncWriteExt::write_all(&mut feed, b"hear, hear")).await.unwrap();
    drop(feed);
    let mut shell = backend.accept().await;
    let (answer, ended) = read_to_end(&mut shell).await;
    assert_eq!((&answer[..], ended.is_ok()), (&b"who is there?"[..], true));
    soon(tokio::io::AsyncWriteExt::write_all(&mut shell, b"hear, hear")).await.unwrap();
    drop(shell);
    // The page does not close this session: the end of its connection does.
    page.passed(&browser, "incoming").await;
    gateway.session_ends("backend_finished", 1.0).await;
    drop(browser);
    gateway.shut_down().await;
}

#[tokio::test]
async fn chromium_learns_code_and_reason_when_the_gateway_closes() {
    learns_code_and_reason_when_the_gateway_closes(Browser::Chromium).await;
}

#[tokio::test]
async fn firefox_learns_code_and_reason_when_the_gateway_closes() {
    learns_code_and_reason_when_the_gateway_closes(Browser::Firefox).await;
}

async fn learns_code_and_reason_when_the_gateway_closes(kind: Browser) {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let gateway = Setup::with_drain("delay = \"0s\"\ngrace = \"100ms\"")
        .route("/echo", Some(tcp), Some(udp))
        .start()
        .await;
    let case = json!([{
        "case": "close-by-gateway", "path": "/echo", "code": 1, "reason": "drain_deadline",
    }]);
    let Some((mut page, browser)) = show(kind, &gateway, case).await else { return };
    page.event(&browser, "close-by-gateway", "open").await;
    assert_eq!(gateway.shut_down().await.cut, 1);
    page.passed(&browser, "close-by-gateway").await;
}
