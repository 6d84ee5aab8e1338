//! Logs: to stderr, as text with colour on a terminal, as JSON elsewhere; times in RFC 3339, UTC,
//! microseconds. Who logs never waits for who reads the log.
//!
//! What is said in more than one place: the command line stands above the environment, and that above
//! the configuration.

mod panics;
mod queue;

use std::{
    env, fmt as text,
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tidegate::{
    admin::LogFilter,
    config::{Log, LogFormat},
    metrics::Metrics,
};
use tracing::warn;
use tracing_subscriber::{EnvFilter, fmt, reload};

use self::queue::Queue;
use super::Failure;

/// How to log, on every command's line.
#[derive(Args, Debug)]
pub(crate) struct LogOptions {
    /// Shape of log lines [default: the configuration's]
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Logs")]
    log_format: Option<Format>,
    /// What is logged: a level, or `target=level` pairs [default: the configuration's]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logs")]
    log: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text on a terminal, JSON otherwise
    Auto,
    /// For people
    Text,
    /// One object per line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Auto => Self::Auto,
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

const FILTER_VARIABLE: &str = "TIDEGATE_LOG";

/// How long the end of the program waits for who reads the log.
const PATIENCE: Duration = Duration::from_secs(1);

/// What logs. Dropped at the end of the program, it waits until all is written, or for a second.
#[derive(Debug)]
pub(crate) struct Logs {
    queue: Queue,
    filter: Arc<dyn LogFilter>,
}

impl Logs {
    /// What changes the filter.
    pub(crate) fn filter(&self) -> Arc<dyn LogFilter> {
        Arc::clone(&self.filter)
    }

    /// Shows what is dropped from now on, and what was.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        self.queue.count_with(metrics.log_lines_dropped());
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // What is not written by now nobody reads.
        self.queue.flush(PATIENCE);
    }
}

/// Begins to log, panics too.
pub(crate) fn start(options: &LogOptions, configured: &Log) -> Result<Logs, Failure> {
    let filter = filter(options, configured)?;
    let above = stated(options).map(|(above, _)| above);
    let format = options.log_format.map_or(configured.format, LogFormat::from);
    let terminal = io::stderr().is_terminal();

    let queue = Queue::start(io::stderr(), |_, dropped| {
        warn!(dropped, "Log lines were dropped here: who reads the log was too slow.");
    });
    let queue = queue.map_err(|source| Failure::System { what: "start the log", source })?;
    let lines = fmt().with_env_filter(filter).with_writer(queue.clone());
    let filter: Arc<dyn LogFilter> = if is_json(format, terminal) {
        let lines = lines.json().flatten_event(true).with_span_list(false);
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Arc::new(Reloadable { handle, above })
    } else {
        let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = lines.with_ansi(colour).with_target(false).with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Arc::new(Reloadable { handle, above })
    };
    panics::log(queue.clone());
    Ok(Logs { queue, filter })
}

/// The filter of a subscriber, whatever its lines look like.
struct Reloadable<S> {
    handle: reload::Handle<EnvFilter, S>,
    /// What stands above the configuration.
    above: Option<&'static str>,
}

impl<S> LogFilter for Reloadable<S> {
    fn get(&self) -> String {
        // The subscriber lives as long as the process.
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }

    fn configure(&self, filter: &str) -> Result<(), String> {
        if let Some(above) = self.above {
            warn!(above, filter, "The file has another log.filter, which does not count.");
            return Ok(());
        }
        self.set(filter)
    }
}

impl<S> text::Debug for Reloadable<S> {
    fn fmt(&self, f: &mut text::Formatter<'_>) -> text::Result {
        f.debug_tuple("Reloadable").field(&self.get()).finish()
    }
}

/// The filter that counts. Part of `tidegate check`, since a bad one keeps the gateway from starting.
pub(crate) fn filter(options: &LogOptions, configured: &Log) -> Result<EnvFilter, Failure> {
    choose(stated(options), &configured.filter)
}

/// The filter that stands above the configuration's, and where it is from.
fn stated(options: &LogOptions) -> Option<(&'static str, String)> {
    above(options.log.clone(), env::var(FILTER_VARIABLE).ok())
}

fn above(flag: Option<String>, variable: Option<String>) -> Option<(&'static str, String)> {
    let variable = variable.filter(|value| !value.is_empty());
    let flag = flag.map(|flag| ("--log", flag));
    flag.or_else(|| variable.map(|variable| (FILTER_VARIABLE, variable)))
}

fn choose(stated: Option<(&'static str, String)>, configured: &str) -> Result<EnvFilter, Failure> {
    let parse = |filter: &str| EnvFilter::builder().parse(filter);
    match stated {
        Some((from, filter)) => {
            parse(&filter).map_err(|source| Failure::LogFilter { from, filter, source })
        }
        None => parse(configured).map_err(|source| Failure::ConfiguredLogFilter {
            filter: configured.to_owned(),
            source,
        }),
    }
}

const fn is_json(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        flag: Option<&str>,
        variable: Option<&str>,
        file: &str,
    ) -> Result<EnvFilter, Failure> {
        choose(above(flag.map(str::to_owned), variable.map(str::to_owned)), file)
    }

    #[test]
    fn the_command_line_stands_above_the_environment_and_that_above_the_file() {
        for (flag, variable, wanted) in [
            (Some("debug"), Some("warn"), "debug"),
            (None, Some("warn"), "warn"),
            (None, Some(""), "info"),
            (None, None, "info"),
        ] {
            assert_eq!(chosen(flag, variable, "info").unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn a_bad_filter_is_blamed_on_whoever_wrote_it() {
        let bad = "a=loud";
        assert_eq!(chosen(Some(bad), None, "info").unwrap_err().exit_code(), 2);
        assert_eq!(chosen(None, Some(bad), "info").unwrap_err().exit_code(), 2);
        assert_eq!(chosen(None, None, bad).unwrap_err().exit_code(), 78);
    }

    #[test]
    fn people_get_text_and_machines_get_json() {
        for (format, terminal, json) in [
            (LogFormat::Auto, true, false),
            (LogFormat::Auto, false, true),
            (LogFormat::Text, false, false),
            (LogFormat::Json, true, true),
        ] {
            assert_eq!(is_json(format, terminal), json, "{format:?} on a terminal: {terminal}");
        }
    }
}
