//! Logs: to stderr, as text with colour on a terminal, as JSON elsewhere; times in RFC 3339, UTC,
//! microseconds.
//!
//! What is said in more than one place: the command line stands above the environment, and that above
//! the configuration.

use std::{
    env, fmt as text,
    io::{self, IsTerminal},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tidegate::{
    admin::LogFilter,
    config::{Log, LogFormat},
};
use tracing_subscriber::{EnvFilter, fmt, reload};

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

/// Begins to log. What comes back changes the filter.
pub(crate) fn start(options: &LogOptions, configured: &Log) -> Result<Arc<dyn LogFilter>, Failure> {
    let filter = filter(options, configured)?;
    let format = options.log_format.map_or(configured.format, LogFormat::from);
    let terminal = io::stderr().is_terminal();

    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    Ok(if is_json(format, terminal) {
        let lines = lines.json().flatten_event(true).with_span_list(false);
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Arc::new(Reloadable(handle))
    } else {
        let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = lines.with_ansi(colour).with_target(false).with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Arc::new(Reloadable(handle))
    })
}

/// The filter of a subscriber, whatever its lines look like.
struct Reloadable<S>(reload::Handle<EnvFilter, S>);

impl<S> LogFilter for Reloadable<S> {
    fn get(&self) -> String {
        // The subscriber lives as long as the process.
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::builder().parse(filter).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

impl<S> text::Debug for Reloadable<S> {
    fn fmt(&self, f: &mut text::Formatter<'_>) -> text::Result {
        f.debug_tuple("Reloadable").field(&self.get()).finish()
    }
}

/// The filter that counts. Part of `tidegate check`, since a bad one keeps the gateway from starting.
pub(crate) fn filter(options: &LogOptions, configured: &Log) -> Result<EnvFilter, Failure> {
    let variable = env::var(FILTER_VARIABLE).ok().filter(|value| !value.is_empty());
    choose(options.log.as_deref(), variable.as_deref(), &configured.filter)
}

fn choose(
    flag: Option<&str>,
    variable: Option<&str>,
    configured: &str,
) -> Result<EnvFilter, Failure> {
    let parse = |filter: &str| EnvFilter::builder().parse(filter);
    let stated = flag.map(|flag| ("--log", flag));
    match stated.or_else(|| variable.map(|variable| (FILTER_VARIABLE, variable))) {
        Some((from, filter)) => parse(filter).map_err(|source| Failure::LogFilter {
            from,
            filter: filter.to_owned(),
            source,
        }),
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

    #[test]
    fn the_command_line_stands_above_the_environment_and_that_above_the_file() {
        for (flag, variable, chosen) in [
            (Some("debug"), Some("warn"), "debug"),
            (None, Some("warn"), "warn"),
            (None, None, "info"),
        ] {
            assert_eq!(choose(flag, variable, "info").unwrap().to_string(), chosen);
        }
    }

    #[test]
    fn a_bad_filter_is_blamed_on_whoever_wrote_it() {
        let bad = "a=loud";
        assert_eq!(choose(Some(bad), None, "info").unwrap_err().exit_code(), 2);
        assert_eq!(choose(None, Some(bad), "info").unwrap_err().exit_code(), 2);
        assert_eq!(choose(None, None, bad).unwrap_err().exit_code(), 78);
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
