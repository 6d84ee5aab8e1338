//! `/api/config` and `/api/log`: what the gateway was told, and what it logs.

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
}

const CONFIG: &str = "/api/config";
const LOG: &str = "/api/log";

/// Answers a GET, if it is for this part. `config` is only made if it is asked for.
pub(super) fn get(
    path: &str,
    config: impl FnOnce() -> String,
    log: Option<&dyn LogFilter>,
) -> Option<Answer> {
    match path {
        CONFIG => Some(Answer::ok("application/toml", config())),
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
