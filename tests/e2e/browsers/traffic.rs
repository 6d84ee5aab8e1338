//! What passes between a page and its backends: bytes, datagrams of every size, many streams and sessions.

use std::{net::SocketAddr, sync::Arc};

use serde_json::json;
use tokio::{net::UdpSocket, sync::Mutex};

use super::show;
use crate::{
    browser::{Browser, Report},
    harness::{Setup, echo_tcp, echo_udp},
};

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
    let (counting, lengths) = counting_udp().await;
    let gateway = Setup::new()
        .route("/echo", Some(tcp), Some(udp))
        .route("/count", None, Some(counting))
        .route("/large", None, Some(counting))
        .listener("[listener.transport]\nidle_timeout = \"3s\"\nping_interval = \"1s\"")
        .start()
        .await;
    let cases = json!([
        { "case": "ready", "path": "/echo" },
        { "case": "bidi-echo", "path": "/echo", "bytes": 1 },
        { "case": "bidi-echo", "path": "/echo", "bytes": 65_536 },
        { "case": "bidi-echo", "path": "/echo", "bytes": 4_194_304 },
        { "case": "many-streams", "path": "/echo", "streams": 100, "bytes": 1000 },
        { "case": "idle-streams", "path": "/echo", "streams": 100, "bytes": 1000 },
        { "case": "datagram-echo", "path": "/echo", "count": 20, "wanted": 20, "bytes": 1000 },
        { "case": "datagram-sizes", "path": "/count" },
        { "case": "large-reply", "path": "/large", "question": LARGE, "answer": SMALL },
        { "case": "several-sessions", "path": "/echo", "sessions": 4, "bytes": 10_000 },
        { "case": "leave", "path": "/echo", "after": 1_000_000 },
    ]);
    let Some((mut page, browser)) = show(kind, &[("main", &gateway)], cases).await else { return };

    for case in ["ready", "bidi-echo", "bidi-echo", "bidi-echo", "many-streams"] {
        page.passed(&browser, case).await;
    }
    page.event(&browser, "idle-streams", "open").await;
    gateway.metric_reaches("tidegate_streams", &[], 100.0).await;
    page.go_on("idle-streams").await;
    page.passed(&browser, "idle-streams").await;
    page.passed(&browser, "datagram-echo").await;

    let sizes = page.passed(&browser, "datagram-sizes").await;
    let largest = lengths.lock().await.iter().copied().max().unwrap();
    assert_eq!(sizes.facts["largest"], largest, "what the page may send, and what came");

    page.passed(&browser, "large-reply").await;
    let asked = lengths.lock().await.iter().filter(|n| **n == LARGE.len()).count();
    let labels = [("route", "large"), ("direction", "backend_to_client"), ("reason", "oversize")];
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, asked as f64).await;
    page.passed(&browser, "several-sessions").await;
    // One session for each case so far, and four for one of them; all closed by the page.
    gateway.session_ends("client_closed", 13.0).await;

    page.event(&browser, "leave", "leaving").await;
    assert_eq!(page.next(&browser).await, Report::Left);
    // The browser goes too, without a word: what it held must come down without it.
    drop(browser);
    gateway.session_ends("connection_lost", 1.0).await;
    gateway.is_empty().await;
    gateway.shut_down().await;
}

/// A question that is answered twice, with more than any path of a page takes and with this.
const LARGE: &str = "give me a large one";
const SMALL: &str = "and a small one";

/// A UDP server that sends back what it gets, and notes how much that was.
async fn counting_udp() -> (SocketAddr, Arc<Mutex<Vec<usize>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let lengths = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&lengths);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            noted.lock().await.push(n);
            let answer = if &buffer[..n] == LARGE.as_bytes() {
                _ = socket.send_to(&[7; 20_000], from).await;
                SMALL.as_bytes()
            } else {
                &buffer[..n]
            };
            _ = socket.send_to(answer, from).await;
        }
    });
    (address, lengths)
}
