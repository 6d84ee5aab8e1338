//! What `tidegate explain` says of a request, and what a running gateway answers to it.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tidegate::{
    backend::Resolve,
    gateway::explain,
    webtransport::{OfflineRequest, offer},
};

use crate::{
    harness::{Setup, echo_tcp},
    raw::{Raw, finish, headers, session_fields},
};

/// Every combination of these, each asked twice: offline and over the wire.
#[tokio::test]
async fn an_explanation_is_what_the_gateway_answers() {
    let echo = echo_tcp().await;
    let setup = Setup::new().tables(&tables(echo));
    let config = setup.read().unwrap();
    let gateway = setup.start_with(Arc::new(NobodyKnown)).await;
    let raw = Raw::with_settings(&gateway).await;
    // The gateway closes a connection some time after its last session.
    let mut anchor = raw.bidi(&headers(&session_fields("/files/anchor"))).await;
    assert_eq!(anchor.response().await.status, 200);
    let chat = offer(&["chat".to_owned()]);
    let mut seen = BTreeSet::new();
    for authority in ["play.test", "EU.test:4433", "other.org", "a..test"] {
        for path in PATHS {
            for origin in [None, Some("https://play.example.com"), Some("https://evilexample.com")]
            {
                for protocol in [None, Some(chat.as_str())] {
                    let mut fields = session_fields(path);
                    fields[3].1 = authority;
                    fields.extend(origin.map(|origin| ("origin", origin)));
                    fields.extend(protocol.map(|protocol| ("wt-available-protocols", protocol)));
                    let mut live = raw.bidi(&headers(&fields)).await;
                    let response = live.response().await;

                    let own = fields[5..].iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
                    let request = OfflineRequest {
                        authority: authority.to_owned(),
                        path: path.to_owned(),
                        headers: own.collect(),
                        client: "127.0.0.1:5".parse().unwrap(),
                        local: None,
                    };
                    let said = explain(&config, &request, Arc::new(NobodyKnown)).await;
                    let told = |name: &str| response.field(name).map(str::to_owned);
                    match &said.refusal {
                        None => {
                            let session = said.session.as_ref().unwrap();
                            assert_eq!(response.status, 200, "{fields:?}: {said:?}");
                            let answer = session.protocol.as_ref().map(|p| format!("\"{p}\""));
                            assert_eq!(told("wt-protocol"), answer, "{fields:?}");
                            seen.insert(session.route.clone());
                        }
                        Some(refusal) => {
                            assert_eq!(Some(response.status), refusal.status, "{fields:?}");
                            assert_eq!(response.reason(), refusal.reason, "{fields:?}");
                            let seconds = refusal.retry_after_seconds.map(|s| s.to_string());
                            assert_eq!(told("retry-after"), seconds, "{fields:?}");
                            seen.insert(refusal.reason.to_owned());
                        }
                    }
                    if response.status == 200 {
                        finish(&mut live.send);
                    }
                }
            }
        }
    }
    let all = [
        "backend_not_listed",
        "backend_unavailable",
        "bad_request",
        "every",
        "lobby",
        "no_common_protocol",
        "no_route",
        "not_webtransport",
        "origin_missing",
        "origin_not_allowed",
        "room",
        "wild",
        "wrong_host",
    ];
    assert_eq!(seen.iter().collect::<Vec<_>>(), all, "each answer is among them");
    finish(&mut anchor.send);
    raw.leave();
    gateway.shut_down().await;
}

/// A resolver without an answer.
#[derive(Debug)]
struct NobodyKnown;

impl Resolve for NobodyKnown {
    fn look_up<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SocketAddr>, String>> {
        Box::pin(async { Err("nobody is known".to_owned()) })
    }
}

const PATHS: [&str; 10] = [
    "/",
    "/game/lobby",
    "/game/%6cobby?token=1",
    "/game/arena",
    "/game/other",
    "/wild",
    "/gone",
    "/files/a/b/",
    "/nowhere",
    "/a//b",
];

fn tables(echo: SocketAddr) -> String {
    format!(
        r#"
[limits.per_client]
session_rate = "unlimited"
[[route]]
name = "every"
path = "/files/{{all...}}"
origins = "any"
datagrams = "drop"
backend = "a"
[[route]]
name = "room"
path = "/game/{{room}}"
origins = ["https://*.example.com"]
backend_from = "room"
backends = {{ arena = "a" }}
datagrams = "drop"
[[route]]
name = "lobby"
path = "/game/lobby"
hosts = ["play.test"]
origins = ["https://play.example.com"]
allow_missing_origin = true
protocols = ["chat"]
require_protocol = true
datagrams = "drop"
backend = "a"
[[route]]
name = "wild"
path = "/wild"
hosts = ["*.test"]
origins = "any"
protocols = ["chat"]
datagrams = "drop"
backend = "a"
[[route]]
name = "gone"
path = "/gone"
origins = "any"
datagrams = "drop"
backend = "gone"
[backend.a]
endpoints = [{{ tcp = "{echo}" }}]
[backend.gone]
endpoints = [{{ tcp = "tidegate-nobody.invalid:1" }}]
"#
    )
}
