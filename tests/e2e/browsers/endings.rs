//! How the gateway refuses and ends sessions, and what a page sees of it.
//!
//! One page for several gateways: each can end but once.

use serde_json::json;
use tokio::sync::oneshot;

use super::show;
use crate::{
    browser::Browser,
    harness::{Setup, TestGateway, echo_tcp, echo_udp, soon},
    log,
};

#[tokio::test]
async fn chromium_learns_why_it_is_refused_or_closed() {
    learns_why_it_is_refused_or_closed(Browser::Chromium).await;
}

#[tokio::test]
async fn firefox_learns_why_it_is_refused_or_closed() {
    learns_why_it_is_refused_or_closed(Browser::Firefox).await;
}

async fn learns_why_it_is_refused_or_closed(kind: Browser) {
    log::keep();
    let short = gateway("delay = \"0s\"\ngrace = \"100ms\"").await;
    let hurried = gateway("delay = \"0s\"\ngrace = \"1h\"").await;
    let patient = gateway("delay = \"0s\"\ngrace = \"1h\"").await;
    let choosy = choosy_gateway().await;
    // Of each browser's own, since the log is everybody's.
    let goodbye = format!("told to go, said {kind:?}");
    let mut cases = vec![
        json!({
            "case": "close-by-gateway", "gateway": "short", "path": "/echo",
            "code": 1, "reason": "drain_deadline",
        }),
        json!({
            "case": "close-by-gateway", "gateway": "hurried", "path": "/echo",
            "code": 2, "reason": "killed",
        }),
        json!({ "case": "draining", "gateway": "patient", "path": "/echo", "reason": goodbye }),
        json!({ "case": "pooling-with-hash", "gateway": "choosy", "path": "/echo" }),
    ];
    // Firefox 153 does not have it: it came with 155.
    let has_protocols = matches!(kind, Browser::Chromium);
    if has_protocols {
        cases.extend(protocol_cases());
    }
    // Last, for Chromium makes a page wait that has been refused too often.
    cases.extend(["/nowhere", "/elsewhere", "/insists"].map(|path| {
        json!({
            "case": "refused", "gateway": "choosy", "path": path, "offered": ["other"],
            // In Firefox 153 who reads datagrams of a session that is refused waits for ever.
            "datagrams": matches!(kind, Browser::Chromium),
        })
    }));
    let gateways =
        [("short", &short), ("hurried", &hurried), ("patient", &patient), ("choosy", &choosy)];
    let Some((mut page, browser)) = show(kind, &gateways, cases.into()).await else { return };

    page.event(&browser, "close-by-gateway", "open").await;
    assert_eq!(short.shut_down().await.cut, 1);
    page.passed(&browser, "close-by-gateway").await;

    page.event(&browser, "close-by-gateway", "open").await;
    let (hurry, told) = oneshot::channel::<()>();
    drop(hurry);
    assert_eq!(hurried.shut_down_when(async move { drop(told.await) }).await.cut, 1);
    page.passed(&browser, "close-by-gateway").await;

    page.event(&browser, "draining", "open").await;
    let lifecycle = patient.running().lifecycle().clone();
    let stopping = tokio::spawn(patient.shut_down());
    soon(lifecycle.draining()).await;
    page.go_on("draining").await;
    page.passed(&browser, "draining").await;
    assert_eq!(soon(stopping).await.unwrap().cut, 0);
    log::line_with(&["client_closed", "client_code=3 ", &format!("client_text=\"{goodbye}\"")])
        .await;

    let refusal = page.passed(&browser, "pooling-with-hash").await.facts["refusal"].clone();
    if matches!(kind, Browser::Firefox) {
        assert_eq!(refusal, "NotSupportedError");
    }
    if has_protocols {
        for _ in protocol_cases() {
            page.passed(&browser, "protocols").await;
        }
    }
    for (route, reason) in [
        ("_none", "no_route"),
        ("elsewhere", "origin_not_allowed"),
        ("insists", "no_common_protocol"),
    ] {
        page.passed(&browser, "refused").await;
        let labels = [("route", route), ("reason", reason)];
        choosy.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    }
    drop(browser);
    choosy.shut_down().await;
}

async fn gateway(drain: &str) -> TestGateway {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    Setup::with_drain(drain).route("/echo", Some(tcp), Some(udp)).start().await
}

/// Its routes do not take everybody.
async fn choosy_gateway() -> TestGateway {
    let tcp = Some(echo_tcp().await);
    let chat = "protocols = [\"chat-v2\", \"chat-v1\"]";
    let insists = format!("{chat}\nrequire_protocol = true");
    Setup::new()
        .route("/echo", tcp, None)
        .route("/chat", tcp, None)
        .route_with("/elsewhere", tcp, None, "origins = [\"https://play.example.com\"]")
        .route_with("/chats", tcp, None, chat)
        .route_with("/insists", tcp, None, &insists)
        .start()
        .await
}

/// The page's first that the route has; none where it has none of them, or lists none.
fn protocol_cases() -> [serde_json::Value; 5] {
    [
        ("/chats", json!(["chat-v1", "chat-v2"]), "chat-v1"),
        ("/chats", json!(["chat-v3", "chat-v2"]), "chat-v2"),
        ("/chats", json!(["chat-v3"]), ""),
        ("/chat", json!(["chat-v1"]), ""),
        ("/insists", json!(["chat-v2"]), "chat-v2"),
    ]
    .map(|(path, offered, chosen)| {
        json!({
            "case": "protocols", "gateway": "choosy", "path": path,
            "offered": offered, "chosen": chosen,
        })
    })
}
