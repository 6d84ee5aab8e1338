//! Real browsers: headless Chromium and Firefox open a page that runs the cases of `tests/browser/cases`.
//!
//! A start of a browser takes seconds, so each test is one, with as many cases as its gateways allow.

mod backends;
mod endings;
mod pooling;
mod traffic;

use std::{
    io::Write,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::Engine;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    browser::{Browser, PageServer, Window},
    harness::{DEADLINE, TestGateway},
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

/// What the bridges log, down to each stream, and how sessions end.
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

pub(crate) fn keep_log() {
    // An error says that it is kept already.
    _ = tracing_subscriber::fmt()
        .with_env_filter("tidegate::bridge=trace,tidegate::session=info")
        .with_ansi(false)
        .with_writer(|| Log)
        .try_init();
}

/// Waits for a line with all of this. Other tests write to the same log: what is looked for must be this
/// test's own.
pub(crate) async fn logged(parts: &[&str]) {
    let text = || {
        let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&log).into_owned()
    };
    let is_there = || text().lines().any(|line| parts.iter().all(|part| line.contains(part)));
    let there = async {
        while !is_there() {
            // Nothing tells when a line is written.
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(DEADLINE, there).await.is_ok(), "no line with {parts:?} in:\n{}", text());
}
