//! What a check has found, for people and for machines.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// The gateway runs, but slower, shorter or with less room than it could.
    Warn,
    /// The gateway does not start, or clients do not get in.
    Fail,
}

/// What one check has found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at: a word of a closed list.
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) says: String,
    /// What to do about it: commands, or a sentence.
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, state: State::Ok, says: says.into(), mend: None }
    }

    pub(super) fn warn(
        check: &'static str,
        says: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { check, state: State::Warn, says: says.into(), mend: Some(mend.into()) }
    }

    pub(super) fn fail(
        check: &'static str,
        says: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { check, state: State::Fail, says: says.into(), mend: Some(mend.into()) }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    /// The worst of them.
    state: State,
    findings: &'a [Finding],
}

pub(super) fn json(findings: &[Finding]) -> String {
    let is = |state| findings.iter().any(|finding| finding.state == state);
    let state = match (is(State::Fail), is(State::Warn)) {
        (true, _) => State::Fail,
        (false, true) => State::Warn,
        (false, false) => State::Ok,
    };
    let report = Report { state, findings };
    serde_json::to_string(&report).expect("all of it has a JSON form") + "\n"
}

pub(super) fn in_words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, state, says, mend } in findings {
        let mark = match state {
            State::Ok => "ok  ",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        };
        // Strings take everything.
        _ = writeln!(text, "{mark} {check:<13} {says}");
        for line in mend.iter().flat_map(|mend| mend.lines()) {
            _ = writeln!(text, "                   -> {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_with_their_mend() {
        let findings = [
            Finding::ok("kernel", "Linux 6.1"),
            Finding::warn("buffers", "small", "sysctl -w a=1\nsysctl -w b=2"),
        ];
        assert_eq!(
            in_words(&findings),
            "ok   kernel        Linux 6.1\n\
             WARN buffers       small\n\
             \x20                  -> sysctl -w a=1\n\
             \x20                  -> sysctl -w b=2\n"
        );
        let told: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(
            (&told["state"], &told["findings"][1]["check"]),
            (&"warn".into(), &"buffers".into())
        );
        assert_eq!(json(&[]), "{\"state\":\"ok\",\"findings\":[]}\n");
    }
}
