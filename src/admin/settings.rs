//! `/api/config`, `/api/log` and `/api/reload`: what the gateway was told, and what it logs.

use std::fmt;

use serde::Serialize;
use tracing::info;

use super::http::{Answer, Change, Verb};

/// What is logged, as the program tells and changes it. The library itself only emits.
pub trait LogFilter: fmt::Debug + Send + Sync {
    /// The filter that counts now.
    fn get(&self) -> String;

    /// Changes it.
    ///
    /// # Errors
    /// What is wrong with the new one. Then nothing has changed.
    fn set(&self, filter: &str) -> Result<(), String>;

    /// Takes what the configuration says from now on. Where something stands above the configuration, such as
    /// the command line, nothing changes, and the log says so.
    ///
    /// # Errors
    /// What is wrong with it. Then nothing has changed.
    fn configure(&self, filter: &str) -> Result<(), String>;
}

const CONFIG: &str = "/api/config";
const LOG: &str = "/api/log";
const RELOAD: &str = "/api/reload";

/// What a configuration that was read again has changed: the answer to `POST /api/reload`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ReloadReport {
    /// What is different from now on.
    pub changed: Vec<String>,
    /// What the file says and only a start takes.
    pub waiting: Vec<String>,
    /// Certificates that clients have not seen before.
    pub certificates: u64,
    /// Sessions that were ended because their route has gone.
    pub ended: u64,
}

/// Answers a GET, if it is for this part. `config` is only made if it is asked for.
pub(super) fn get(
    path: &str,
    config: impl FnOnce() -> String,
    log: Option<&dyn LogFilter>,
) -> Option<Answer> {
    match path {
        CONFIG => Some(Answer::ok("application/toml", config())),
        RELOAD => Some(Answer::method_not_allowed("POST")),
        LOG => {
            Some(log.map_or_else(nobody_logs, |log| Answer::json(&Filter { filter: log.get() })))
        }
        _ => None,
    }
}

/// Answers a PUT, if it is for this part.
pub(super) fn change(change: &Change<'_>, log: Option<&dyn LogFilter>) -> Option<Answer> {
    match (change.verb, change.path) {
        (Verb::Put, LOG) => Some(log.map_or_else(nobody_logs, |log| set_filter(change.body, log))),
        (Verb::Post, LOG) => Some(Answer::method_not_allowed("GET, HEAD, PUT")),
        _ => None,
    }
}

/// Answers a request to read the configuration again, if it is one. `reload` yields nothing where the program
/// has no file to read, and every problem where it changes nothing.
pub(super) async fn reload(
    change: &Change<'_>,
    reload: impl Future<Output = Option<Result<ReloadReport, Vec<String>>>>,
) -> Option<Answer> {
    if change.path != RELOAD {
        return None;
    }
    if change.verb != Verb::Post {
        return Some(Answer::method_not_allowed("POST"));
    }
    Some(match reload.await {
        Some(Ok(report)) => Answer::json(&report),
        Some(Err(problems)) => Answer::bad_request(problems.join("\n") + "\n"),
        None => Answer::not_found_because("this program has no configuration file to read again\n"),
    })
}

fn nobody_logs() -> Answer {
    Answer::not_found_because("this program does not let its log be changed\n")
}

fn set_filter(body: &[u8], log: &dyn LogFilter) -> Answer {
    let before = log.get();
    let filter = match str::from_utf8(body).map(str::trim) {
        Ok("") => {
            return Answer::bad_request(
                "nothing would be logged; write \"off\" if that is meant\n",
            );
        }
        Ok(filter) => filter,
        Err(_) => return Answer::bad_request("the filter is no text\n"),
    };
    if let Err(why) = log.set(filter) {
        return Answer::bad_request(format!("bad log filter {filter:?}: {why}\n"));
    }
    let filter = log.get();
    info!(before, filter, "An operator changed what is logged.");
    Answer::json(&Filter { filter })
}

/// The body of `GET /api/log`.
#[derive(Serialize)]
struct Filter {
    filter: String,
}
