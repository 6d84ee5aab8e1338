//! What the gateways of this process log, for tests that read it.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use tokio::time::{Instant, sleep};

use crate::harness::DEADLINE;

/// Every session's end, and of the bridges each stream.
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

/// Keeps what is logged from now on.
pub(crate) fn keep() {
    // An error says that it is kept already.
    _ = tracing_subscriber::fmt()
        .with_env_filter("tidegate::bridge=trace,tidegate::session=info")
        .with_ansi(false)
        .with_writer(|| Log)
        .try_init();
}

/// What was kept so far, of all tests.
pub(crate) fn text() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

/// Waits for a line with all of these texts.
pub(crate) async fn line_with(texts: &[&str]) -> String {
    waited_for(|| {
        let log = text();
        log.lines().find(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned)
    })
    .await
    .unwrap_or_else(|| panic!("nobody logged {texts:?}:\n{}", text()))
}

/// What `look` finds, as soon as it does. Nothing tells when a file or a log grows, so it is looked at
/// again and again.
pub(crate) async fn waited_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + DEADLINE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > until {
            return found;
        }
        sleep(std::time::Duration::from_millis(2)).await;
    }
}
