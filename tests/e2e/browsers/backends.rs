//! What a page says reaches the backend as it was said, and what the backend does reaches the page.

use std::{io::ErrorKind, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::Instant,
};

use super::show;
use crate::{
    browser::{Browser, PageServer, Window},
    harness::{
        Setup, TcpBackend, TestGateway, expect_reset, expect_text, pattern, read_to_end, soon,
    },
    log,
};

#[tokio::test]
async fn what_chromium_says_reaches_the_backend_as_it_was_said() {
    what_it_says_reaches_the_backend_as_it_was_said(Browser::Chromium).await;
}

#[tokio::test]
async fn what_firefox_says_reaches_the_backend_as_it_was_said() {
    what_it_says_reaches_the_backend_as_it_was_said(Browser::Firefox).await;
}

async fn what_it_says_reaches_the_backend_as_it_was_said(kind: Browser) {
    log::keep();
    let (one_way, both_ways) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let dead = TcpBackend::bind().await.address();
    let gateway = Setup::new()
        .route("/in", Some(one_way.address()), None)
        .route("/both", Some(both_ways.address()), None)
        .route("/dead", Some(dead), None)
        .route_with("/feed", Some(one_way.address()), None, "push = \"uni\"")
        .route_with("/shell", Some(both_ways.address()), None, SHELL)
        .tables(&format!("[timeouts]\nlinger = \"{}ms\"", LINGER.as_millis()))
        .start()
        .await;
    let is_chromium = matches!(kind, Browser::Chromium);
    // Codes of each browser's own, since the log is everybody's.
    let (reset_code, close_code) = match kind {
        Browser::Chromium => (99, 103),
        Browser::Firefox => (98, u32::MAX),
    };
    // 1 byte and 255 times 4 make 1,021: one more would be too long for the protocol.
    let (long, kept) = (format!("x{}", "😀".repeat(600)), format!("x{}", "😀".repeat(255)));
    let goodbye = format!("bye from {kind:?} äöü");
    let mut cases = vec![
        json!({ "case": "uni-stream", "path": "/in", "text": "one way" }),
        json!({ "case": "stream-reset", "path": "/both", "code": reset_code, "text": "and no more" }),
        json!({ "case": "reset-by-backend", "path": "/both", "code": 2, "text": "and back" }),
        json!({
            "case": "incoming", "unidirectional": "/feed", "bidirectional": "/shell",
            "text": "hear, hear", "answer": "who is there?",
            "code": 10, "reason": "backend_finished",
        }),
        json!({ "case": "close-by-page", "path": "/both", "code": close_code, "reason": goodbye }),
        json!({ "case": "close-by-page", "path": "/both", "code": close_code, "reason": long }),
    ];
    if is_chromium {
        cases.extend([
            // Firefox 153 shows a TypeError without a code when a reset is quicker than its own opening of
            // the stream, and from a dead backend it is.
            json!({ "case": "reset-by-gateway", "path": "/dead", "code": 1 }),
            // Firefox 153 sends no STOP_SENDING when a page cancels a stream.
            json!({ "case": "stream-cancel", "path": "/both", "code": STOP_CODE, "text": "still here" }),
        ]);
    }
    let gateways = [("main", &gateway)];
    let Some((mut page, browser)) = show(kind, &gateways, cases.into()).await else { return };

    page.event(&browser, "uni-stream", "written").await;
    let (read, ended) = read_to_end(&mut one_way.accept().await).await;
    assert_eq!((&read[..], ended.is_ok()), (&b"one way"[..], true));
    page.go_on("uni-stream").await;
    page.passed(&browser, "uni-stream").await;

    let mut backend = greeted(&both_ways, b"and no more").await;
    page.event(&browser, "stream-reset", "aborted").await;
    expect_reset(&mut backend).await;
    gateway.stream_ends("client_reset", 1.0).await;
    log::line_with(&["reset its half", &format!("client_code={reset_code}")]).await;
    page.go_on("stream-reset").await;
    page.passed(&browser, "stream-reset").await;

    let backend = greeted(&both_ways, b"and back").await;
    page.event(&browser, "reset-by-backend", "open").await;
    backend.set_zero_linger().unwrap();
    drop(backend);
    gateway.stream_ends("backend_reset", 1.0).await;
    page.event(&browser, "reset-by-backend", "seen").await;
    // The session works on.
    echo(both_ways.accept().await).await;
    page.passed(&browser, "reset-by-backend").await;

    the_gateways_streams_are_taken(&one_way, &both_ways).await;
    // The page does not close the second session: the end of its connection does.
    page.passed(&browser, "incoming").await;
    gateway.session_ends("backend_finished", 1.0).await;

    for said in [&goodbye, &kept] {
        page.passed(&browser, "close-by-page").await;
        let code = format!("client_code={close_code} ");
        log::line_with(&["client_closed", &code, &format!("client_text=\"{said}\"")]).await;
    }
    if is_chromium {
        page.passed(&browser, "reset-by-gateway").await;
        a_cancelled_stream_is_stopped(&mut page, &browser, &gateway, &both_ways).await;
        // Chromium never says that a connection is over, and keeps it for 30 seconds.
        let over = Instant::now();
        gateway.metric_reaches("tidegate_quic_connections", &[], 0.0).await;
        assert!(over.elapsed() < LINGER + SLACK, "{:?}", over.elapsed());
    }
    drop(browser);
    gateway.shut_down().await;
}

/// A route whose session is one connection, on a stream that the gateway opens.
const SHELL: &str = "streams = \"per-session\"\nopens = \"gateway\"";

/// The backends of both kinds of stream that the gateway opens.
async fn the_gateways_streams_are_taken(feed: &TcpBackend, shell: &TcpBackend) {
    let mut feed = feed.accept().await;
    soon(feed.write_all(b"hear, hear")).await.unwrap();
    drop(feed);
    let mut shell = shell.accept().await;
    let (answer, ended) = read_to_end(&mut shell).await;
    assert_eq!((&answer[..], ended.is_ok()), (&b"who is there?"[..], true));
    soon(shell.write_all(b"hear, hear")).await.unwrap();
}

/// The page cancels what it reads of a stream, and goes on writing.
async fn a_cancelled_stream_is_stopped(
    page: &mut PageServer,
    browser: &Window,
    gateway: &TestGateway,
    backend: &TcpBackend,
) {
    let mut backend = backend.accept().await;
    expect_text(&mut backend, b"talk").await;
    let (mut from_page, to_page) = backend.into_split();
    let talking = tokio::spawn(talk_until_cut(to_page));
    page.event(browser, "stream-cancel", "cancelled").await;
    log::line_with(&["stopped reading", &format!("client_code={STOP_CODE}")]).await;
    page.go_on("stream-cancel").await;

    page.event(browser, "stream-cancel", "written").await;
    let mut heard = [0; 10];
    soon(from_page.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"still here");
    page.go_on("stream-cancel").await;

    // The backend had more to say than the page wanted to hear, and is told so at the stream's end.
    let cut = soon(talking).await.unwrap();
    assert!(matches!(cut, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{cut}");
    gateway.stream_ends("client_stopped", 1.0).await;
    page.go_on("stream-cancel").await;
    page.passed(browser, "stream-cancel").await;
}

/// With what the page cancels a stream.
const STOP_CODE: u32 = 101;

/// How long the gateway keeps a connection after its last session: on a busy machine the page has to hear first how
/// that ended. And how long this machine may take.
const LINGER: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(10);

/// The page's next stream, whose first words were sent back.
async fn greeted(backend: &TcpBackend, text: &[u8]) -> TcpStream {
    let mut stream = backend.accept().await;
    expect_text(&mut stream, text).await;
    soon(stream.write_all(text)).await.unwrap();
    stream
}

/// Writes until the connection breaks.
async fn talk_until_cut(mut to: OwnedWriteHalf) -> ErrorKind {
    let block = pattern(64 * 1024, 1);
    loop {
        if let Err(error) = to.write_all(&block).await {
            return error.kind();
        }
    }
}

/// Sends back what comes, to its end.
async fn echo(mut stream: TcpStream) {
    let (mut rx, mut tx) = stream.split();
    soon(copy(&mut rx, &mut tx)).await.unwrap();
    soon(tx.shutdown()).await.unwrap();
}
