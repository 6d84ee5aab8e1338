//! Real browsers: headless Chromium and Firefox open a page that runs the cases of `tests/browser/cases`.
//!
//! A start of a browser takes seconds, so each test is one, with as many cases as its gateways allow.

mod backends;
mod endings;
mod pooling;
mod traffic;

use std::path::PathBuf;

use base64::Engine;
use serde_json::{Value, json};

use crate::{
    browser::{Browser, PageServer, Window},
    harness::TestGateway,
};

/// Shows the page; `None` where there is no browser and that is allowed. A case goes to the gateway that
/// it names, or to that with the name `main`.
async fn show(
    browser: Browser,
    gateways: &[(&str, &TestGateway)],
    cases: Value,
) -> Option<(PageServer, Window)> {
    let program: PathBuf = browser.or_skip()?;
    let gateways: serde_json::Map<_, _> = gateways
        .iter()
        .map(|(name, gateway)| {
            let hash = base64::engine::general_purpose::STANDARD.encode(gateway.hash());
            ((*name).to_owned(), json!({ "url": gateway.url(""), "hash": hash }))
        })
        .collect();
    let page = PageServer::start(&json!({ "gateways": gateways, "cases": cases })).await;
    let window = Window::show(browser, &program, &[], &page.url());
    Some((page, window))
}
