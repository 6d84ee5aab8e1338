//! Configuration text.

use std::path::Path;

use crate::config::{Config, Problems};

/// Text of a configuration file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        _ = outcome(text);
    }
}

pub(super) fn outcome(text: &str) -> Result<Config, Problems> {
    let read = parse(text);
    match &read {
        Ok(config) => check_effective(config),
        Err(problems) => check_problems(text, problems),
    }
    read
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "fuzz.toml", Path::new("/nowhere"))
}

/// What is printed means the same, and is printed the same once more.
fn check_effective(config: &Config) {
    let text = config.effective();
    // A secret is never shown, and so cannot be read again.
    if text.contains("\"***\"") {
        return;
    }
    let again = parse(&text).expect("what is in effect is valid");
    assert_eq!(again, *config, "{text}");
    assert_eq!(again.effective(), text);
}

/// Each problem has its line, its key and its words; nothing in the file can make it look like two, or reach
/// the terminal that it is printed on.
fn check_problems(text: &str, problems: &Problems) {
    let lines = text.lines().count().max(1) + 1;
    assert!(!problems.problems.is_empty());
    assert!(problems.problems.is_sorted_by_key(|problem| problem.line));
    for problem in &problems.problems {
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?}");
        assert!(!problem.message.trim().is_empty(), "{problem:?}");
    }
    let printed = problems.to_string();
    assert_eq!(printed.lines().count(), problems.problems.len(), "{printed:?}");
    assert!(!printed.chars().any(|c| c.is_control() && c != '\n'), "{printed:?}");
}
